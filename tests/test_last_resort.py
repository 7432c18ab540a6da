"""Warnings on stderr, where the program that uses rigsync shows them nowhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import LONG, ROOT, free_port

WARNING = "rigsync: WARNING: down is lost: its host says that nothing listens at this port\n"
ERROR = "rigsync: ERROR: EXPEND: down: EXPEND was refused: the host of udp://127.0.0.1:{port} is up"
FAILING = """
import rigsync
aux = rigsync.Auxiliaries({{'down': '127.0.0.1:{port}'}}, connect_timeout=0.05)
aux.push('EXPEND', wait=True, timeout=0.05)
aux.close()
"""


def told(setup: str, code: str = FAILING) -> tuple[str, str]:
    """Return what a program writes on stderr after setting logging up, and the error that it may have told."""
    port = free_port()
    program = "import logging, logging.handlers, sys\n" + setup + "\n" + code.format(port=port)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stdout) == (0, "")
    return done.stderr, ERROR.format(port=port)


SHOWN_NOWHERE = {
    "nothing": "",
    "another library's logger": "logging.getLogger('iblrig').addHandler(logging.StreamHandler())",
    "no handler of the root": "logging.getLogger().addHandler(logging.NullHandler())",
    "a handler of critical errors": "h = logging.StreamHandler(); h.setLevel(50); logging.getLogger().addHandler(h)",
    "a handler of another library": "h = logging.StreamHandler(); h.addFilter(logging.Filter('iblrig')); "
    "logging.getLogger().addHandler(h)",
    "no propagation": "logging.basicConfig(); logging.getLogger('rigsync').propagate = False",
}


@pytest.mark.parametrize("setup", SHOWN_NOWHERE.values(), ids=SHOWN_NOWHERE)
def test_lost_rigs_and_failures_are_seen_where_no_handler_shows_them(setup: str) -> None:
    text, error = told(setup)
    assert text.startswith(WARNING)
    assert text.removeprefix(WARNING).startswith(error)
    assert text.count("\n") == 2


SHOWN = {
    "the root": "logging.basicConfig(format='ROOT %(message)s')",
    "the library": "h = logging.StreamHandler(); h.setFormatter(logging.Formatter('ROOT %(message)s')); "
    "logging.getLogger('rigsync').addHandler(h)",
}


@pytest.mark.parametrize("setup", SHOWN.values(), ids=SHOWN)
def test_they_are_seen_once_where_a_handler_shows_them(setup: str) -> None:
    text, error = told(setup)
    assert "rigsync: " not in text
    assert text.count("ROOT down is lost") == 1
    assert text.count("ROOT " + error.removeprefix("rigsync: ERROR: ")) == 1


def test_a_file_shows_them_too(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text, _ = told(f"logging.basicConfig(filename={str(tmp_path / 'log')!r})")
    assert text == ""
    assert "down is lost" in (tmp_path / "log").read_text()


def test_a_handler_of_errors_leaves_the_warnings() -> None:
    text, error = told("h = logging.StreamHandler(); h.setLevel(40); logging.getLogger().addHandler(h)")
    assert text.startswith(WARNING)
    assert text.count(error.removeprefix("rigsync: ERROR: ")) == 1
    assert "rigsync: ERROR" not in text


@pytest.mark.parametrize(
    "setup",
    [
        "logging.getLogger('rigsync').setLevel(logging.CRITICAL)",
        "import sys; sys.stderr = None",
    ],
)
def test_a_program_can_do_without(setup: str) -> None:
    assert told(setup)[0] == ""


def test_what_is_no_warning_is_not_seen() -> None:
    code = "import rigsync.runtime.last_resort; logging.getLogger('rigsync').setLevel(10)\n"
    assert told("", code + "logging.getLogger('rigsync.link').info('cameras is alive')")[0] == ""


def test_a_filter_of_the_program_that_remembers_sees_each_record_once() -> None:
    setup = """
class Once(logging.Filter):
    seen = set()
    def filter(self, record):
        new = record.getMessage() not in self.seen
        self.seen.add(record.getMessage())
        return new
handler = logging.StreamHandler()
handler.addFilter(Once())
logging.getLogger().addHandler(handler)
"""
    text, error = told(setup)
    assert text.count("down is lost") == 1
    assert text.count(error.removeprefix("rigsync: ERROR: ")) == 1


def test_a_stream_that_is_closed_keeps_nothing_from_being_done() -> None:
    code = """
import rigsync, time
sys.stderr.close()
aux = rigsync.Auxiliaries({{'down': '127.0.0.1:{port}'}}, connect_timeout=0.05)
seen = []
aux.on('LinkLost', seen.append)
aux.push('EXPEND', wait=True, timeout=0.5)
end = time.monotonic() + 20
while not seen and aux.services['down'].state.value != 'lost':
    assert time.monotonic() < end
assert 'down' in aux.services._ways._searches
aux.close()
"""
    assert told("", code)[0] == ""


def test_a_stderr_that_is_closed_harms_nobody() -> None:
    program = FAILING.format(port=free_port())
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.close(2)\n" + program + "\nprint('done')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
