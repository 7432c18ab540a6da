"""`rigsync watch` on a terminal and elsewhere, with rigs that come, act, fail and go."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cli_programs import Command, Outcome, environment, run_here
from platforms import needs_terminal, posix
from processes import LONG, IblutilServer, RigProgram, free_port, until
from rich.cells import cell_len

from rigsync import Progress, RemoteError
from rigsync._text import error_text, span_text
from rigsync.cli.history import History
from rigsync.cli.keys import _typed_on_windows, keys_of
from rigsync.cli.watching import HELP, Position, cells_of, cut_name, facts_of, in_charge, screen
from rigsync.coordinator.view import RigView, Told, clock_text
from rigsync.core.enums import ExpStatus
from rigsync.core.events import LinkState, Notice

REFERENCE = "2026-01-31_1_mouse"
ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
HOME = "\x1b[H"


class Terminal:
    """A pseudo-terminal on which `rigsync watch` runs, as the program that controls it.

    Parameters
    ----------
    folder : Path
        Where it runs.
    *arguments : str
        What follows ``watch``.
    size : (int, int)
        Columns and lines.
    """

    def __init__(self, folder: Path, *arguments: str, size: tuple[int, int] = (80, 24), **environ: str):
        import fcntl
        import pty
        import termios

        self.output = b""
        self._master, self._slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self._slave)
        slave = self._slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rigsync", "watch", *arguments],
            cwd=folder,
            env=environment(folder, **{"TERM": "xterm-256color", **environ}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
        )
        self._watchdog = threading.Timer(LONG, self.process.kill)
        self._watchdog.start()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        # EIO: Linux says so that nobody has the terminal any more.
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self.output += data

    @property
    def text(self) -> str:
        """All that was written."""
        return self.output.decode("utf-8", "ignore")

    @property
    def lines(self) -> list[str]:
        """What is to be seen: the last whole frame, without what colours it."""
        frames = self.text.split(HOME)
        return plain(frames[-2] if len(frames) > 2 else frames[-1])

    def row(self, rig: str) -> list[str]:
        """Return the cells of a rig."""
        found = [line for line in self.lines if line.startswith(f"{rig} ")]
        return found[0].split() if found else []

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def resize(self, columns: int, lines: int) -> None:
        """Change its size."""
        import fcntl
        import termios

        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def attributes(self) -> list[Any]:
        """Return the terminal's settings."""
        import termios

        return termios.tcgetattr(self._slave)

    def suspend_key(self) -> bytes:
        """Return the key that suspends programs, zero for none."""
        import termios

        return bytes(self.attributes()[6][termios.VSUSP])

    def end(self) -> int:
        """Wait for the end, and return the exit status."""
        return self.process.wait(LONG)

    def is_as_before(self) -> bool:
        """Tell whether screen, cursor and settings are as they were."""
        text = until(lambda: LEAVE_SCREEN in self.text and self.text, "the end of the output")
        return (
            text.count(ENTER_SCREEN) == text.count(LEAVE_SCREEN) == 1
            and text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
            and self.attributes() == self.before
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        self._reader.join(LONG)
        os.close(self._master)
        self._watchdog.cancel()
        self._watchdog.join()


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*\w", "", text).replace("\r\n", "\n").split("\n")]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Write rigs.yaml."""

    def write_rigs(timing: dict[str, Any] | None = None, **uris: Any) -> None:
        document = {"rigs": uris, **({"timing": timing} if timing else {})}
        (tmp_path / "rigs.yaml").write_text(json.dumps(document), encoding="utf-8")

    return write_rigs


def start(folder: Path, *arguments: str, **environ: str) -> Command:
    return Command(["watch", *arguments], folder, environment(folder, **environ))


def once(folder: Path, *arguments: str) -> Outcome:
    return run_here(["watch", "--once", *arguments], folder, environment(folder))


FAST = {"beat": 0.2}


# ----------------------------------------------------------------------------------------------------- on a terminal


@needs_terminal
@pytest.mark.parametrize("leave", [b"q", b"Q", b"\x03"])
def test_it_is_left_by_a_key_without_enter(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], leave: bytes
) -> None:
    write(cameras=serve("cameras").uri)
    with Terminal(tmp_path) as terminal:
        until(lambda: terminal.row("cameras")[1:2] == ["CONNECTED"])
        terminal.type(b"x\x1b[A\x1bOQ\x1a\x1b[6~")  # other keys, an arrow, F2, Ctrl-Z, page down: nothing
        assert terminal.suspend_key() == b"\x00"
        frames = terminal.text.count(HOME)
        until(lambda: terminal.text.count(HOME) > frames + 1, "another frame")
        terminal.type(leave)
        assert terminal.end() == 0
        assert terminal.is_as_before()
        until(lambda: "cameras" in terminal.text.rpartition(LEAVE_SCREEN)[2])  # the last table stays to be seen
        assert "Traceback" not in terminal.text


@needs_terminal
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_leaves_the_terminal_as_it_was(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], number: int, status: int
) -> None:
    write(cameras=serve("cameras").uri)
    with Terminal(tmp_path) as terminal:
        until(lambda: terminal.row("cameras")[1:2] == ["CONNECTED"])
        terminal.process.send_signal(number)
        assert terminal.end() == status
        assert terminal.is_as_before()
        assert "Traceback" not in terminal.text


@needs_terminal
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1])
def test_a_signal_at_its_start_leaves_the_terminal_as_it_was(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], delay: float
) -> None:
    write(cameras=serve("cameras").uri)
    with Terminal(tmp_path) as terminal:
        until(lambda: terminal.attributes() != terminal.before or terminal.output, "its start")
        time.sleep(delay)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143, terminal.text
        assert terminal.attributes() == terminal.before
        assert terminal.text.count(ENTER_SCREEN) == terminal.text.count(LEAVE_SCREEN)
        assert terminal.text.rfind(SHOW_CURSOR) >= terminal.text.rfind(HIDE_CURSOR)


@needs_terminal
@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_rig_is_killed_and_comes_back(
    tmp_path: Path, write: Callable[..., None], connect: Callable[..., Any], scheme: str
) -> None:
    with RigProgram("cameras", f"{scheme}://127.0.0.1:0", handlers={}) as rig:
        write(FAST, cameras=rig.uri)
        with Terminal(tmp_path) as terminal:
            until(lambda: terminal.row("cameras")[1:2] == ["CONNECTED"])
            connect({"cameras": rig.uri}).request("EXPINIT", {"exp_ref": REFERENCE})
            until(lambda: "EXPINIT" in terminal.row("cameras"))
            rig.kill()
            until(lambda: terminal.row("cameras")[1:2] == ["lost"])
            until(lambda: [line for line in terminal.lines if re.match(r"\d\d:\d\d:\d\d cameras: lost: ", line)])
            assert "0 of 1 rigs alive" in terminal.lines[0]
            with RigProgram("cameras", rig.uri, handlers={}):
                until(lambda: terminal.row("cameras")[1:2] == ["CONNECTED"])
                back = r"\d\d:\d\d:\d\d cameras: is back, after \d+s: the rig's program was started anew"
                until(lambda: any(re.fullmatch(back, line) for line in terminal.lines))
                until(lambda: "EXPINIT" not in terminal.row("cameras"))  # which the new program has not had
                terminal.type(b"q")
                assert terminal.end() == 0


@posix
def test_a_rig_that_was_silent_is_back(tmp_path: Path, write: Callable[..., None]) -> None:
    with RigProgram("cameras", handlers={}) as rig:
        write(FAST, cameras=rig.uri)
        with start(tmp_path, "--json") as command:

            def until_told(link: str, error: str) -> None:
                while True:
                    found = json.loads(command.line())["rigs"]["cameras"]
                    if found["link"] == link and re.match(
                        error, str(found["last_error"] and found["last_error"]["error"])
                    ):
                        return

            until_told("alive", "")
            os.kill(rig.pid, signal.SIGSTOP)
            until_told("lost", "lost: silent for ")
            os.kill(rig.pid, signal.SIGCONT)
            until_told("alive", r"is back, after \d+s$")


def test_a_failure_that_a_rig_tells_is_its_last_error(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    write(cameras=rig.uri)
    with start(tmp_path, "--json") as command:
        while json.loads(command.line())["rigs"]["cameras"]["link"] != "alive":
            pass
        rig.notify("failure", {"problem": "left.mp4 has stopped growing"})
        found: Any = None
        while not found:
            found = json.loads(command.line())["rigs"]["cameras"]["last_error"]
        assert found["error"] == "left.mp4 has stopped growing"


@needs_terminal
def test_what_others_do_is_shown(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    def fail() -> None:
        raise OSError("no disk\x1b[2J [bold]left")

    rig = serve("cameras", {"EXPEND": fail})
    write(cameras=rig.uri)
    with Terminal(tmp_path) as terminal:
        until(lambda: terminal.row("cameras")[1:2] == ["CONNECTED"])
        task = connect(rig)
        task.request("EXPINIT", {"exp_ref": REFERENCE})
        until(lambda: terminal.row("cameras")[1:3] == ["INITIALIZED", REFERENCE])
        until(lambda: terminal.row("cameras")[-3:-2] == ["0%"])
        assert re.fullmatch(r"\d+\.\d", terminal.row("cameras")[3])  # round trip
        assert re.fullmatch(r"[+-]\d+\.\d", terminal.row("cameras")[4])  # offset ...
        assert terminal.row("cameras")[5] == "ms"
        task.request("EXPSTART", REFERENCE)
        until(lambda: terminal.row("cameras")[1:2] == ["RUNNING"])
        until(lambda: re.fullmatch(r">?\d+:\d\d", terminal.row("cameras")[2]))  # for how long
        until(lambda: "EXPSTART" in terminal.row("cameras"))
        assert terminal.row("cameras")[3] == REFERENCE
        task.push("EXPEND", wait=True)
        until(lambda: "EXPEND" in terminal.row("cameras"))
        (error,) = until(lambda: [line for line in terminal.lines if "no disk" in line])
        assert re.fullmatch(r"\d\d:\d\d:\d\d cameras: EXPEND: OSError: no disk\\x1b\[2J \[bold\]left", error)
        assert "\x1b[2J" not in terminal.text.partition(HOME)[2]
        terminal.type(b"q")
        assert terminal.end() == 0


@needs_terminal
@pytest.mark.parametrize("number", [1, 16])
def test_it_fits_in_80_columns_and_24_lines(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], connect: Callable[..., Any], number: int
) -> None:
    rigs = [serve(f"a:rather:long:name{i}") for i in range(number)]
    write(**{rig.name: rig.uri for rig in rigs})
    connect(*rigs).request("EXPINIT", {"exp_ref": "2026-01-31_1_a_mouse_with_a_long_name"})
    with Terminal(tmp_path) as terminal:
        until(lambda: len([line for line in terminal.lines if "INITIALIZED" in line]) == number)
        lines = terminal.lines
        assert max(map(len, lines)) <= 80
        assert len(lines) <= 24
        assert f"{number} of {number} rigs alive" in lines[0]
        assert lines[1].split() == ["rig", "state", "reference", "rtt", "ms", "loss", "last", "message"]
        wide = len(rigs[-1].name)
        for rig, line in zip(rigs, lines[2:], strict=False):  # the name whole, in place of the offset
            assert line.startswith(f"{rig.name:{wide}} INITIALIZED 2026-01-31_1_a_mo")
        terminal.type(b"q")
        assert terminal.end() == 0


@needs_terminal
def test_more_rigs_than_lines_and_a_terminal_that_changes_its_size(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]
) -> None:
    rigs = {f"rig{i}": serve(f"rig{i}").uri for i in range(8)}
    write(**rigs, gone=f"127.0.0.1:{free_port()}")
    with Terminal(tmp_path, size=(80, 8)) as terminal:
        until(lambda: terminal.row("gone")[1:2] == ["lost"], "the lost one in view")
        until(lambda: "8 of 9 rigs alive, 1 to 4 shown" in terminal.lines[0])
        assert len(terminal.lines) <= 8
        assert terminal.lines[2].startswith("gone lost ")  # on top
        until(lambda: any("gone: lost: " in line for line in terminal.lines))
        assert not terminal.row("rig7")
        for key, shown, rig in [
            (b"\x1b[B", "2 to 5", "rig3"),
            (b"\x1bOB", "3 to 6", "rig4"),
            (b"\x1b[A", "2 to 5", "rig0"),
            (b"\x1b[6~", "6 to 9", "rig7"),
            (b"\x1b[5~", "2 to 5", "rig3"),
            (b"\x1b[F", "6 to 9", "rig7"),
            (b"\x1b[H", "1 to 4", "gone"),
        ]:
            terminal.type(key)
            until(lambda shown=shown, rig=rig: f" {shown} shown" in terminal.lines[0] and terminal.row(rig), shown)
        terminal.resize(160, 20)
        until(lambda: "last error" in terminal.lines[1])
        until(lambda: "nothing listens at this port" in " ".join(terminal.row("gone")))
        assert "shown" not in terminal.lines[0]
        terminal.type(b"q")
        assert terminal.end() == 1  # one of them does not answer


@needs_terminal
def test_help_is_shown_until_another_key(tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]) -> None:
    write(cameras=serve("cameras").uri)
    with Terminal(tmp_path) as terminal:
        until(lambda: terminal.row("cameras"))
        assert "? for help" in terminal.lines[0]
        terminal.type(b"?")
        until(lambda: any(line.startswith("loss ") for line in terminal.lines) and not terminal.row("cameras"))
        terminal.type(b"x")
        until(lambda: terminal.row("cameras"))
        terminal.type(b"?q")
        assert terminal.end() == 0


@needs_terminal
def test_an_iblutil_rig(tmp_path: Path, write: Callable[..., None]) -> None:
    with IblutilServer("cameras") as rig:
        write(cameras=rig.uri)
        with Terminal(tmp_path) as terminal:
            until(lambda: terminal.row("cameras")[1:3] == ["alive", "-"])
            terminal.type(b"q")
            assert terminal.end() == 0


@needs_terminal
def test_a_dumb_terminal_gets_tables(tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]) -> None:
    write(cameras=serve("cameras").uri)
    with Terminal(tmp_path, TERM="dumb") as terminal:
        until(lambda: "CONNECTED" in terminal.text)
        terminal.type(b"\x03")
        assert terminal.end() == 0
        assert ENTER_SCREEN not in terminal.text


# -------------------------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_once_prints_a_table(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], scheme: str
) -> None:
    write(cameras=serve("cameras", scheme=scheme).uri, gone=f"{scheme}://127.0.0.1:{free_port(scheme=scheme)}")
    outcome = once(tmp_path)
    assert outcome.status == 1
    heading, cameras, gone = outcome.out.splitlines()
    headings = ["rig", "state", "reference", "in charge", "rtt ms", "offset", "loss", "progress", "last error"]
    assert re.split(" {2,}", heading) == headings
    assert re.match(r"cameras +CONNECTED +- +- +\d+\.\d +[+-]\d+\.\d ms +0% +- +-$", cameras)
    assert re.match(r"gone +lost +- +- +- +- +.+ +- +\d\d:\d\d:\d\d .*nothing listens at this port$", gone)
    assert once(tmp_path, "cameras").status == 0


@needs_terminal
def test_once_fits_a_terminal_as_the_live_view_does(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("neuropixel")
    connect(rig).request("EXPINIT", {"exp_ref": REFERENCE})
    write(neuropixel=rig.uri, gone=f"127.0.0.1:{free_port()}")
    with Terminal(tmp_path, "--once") as terminal:
        assert terminal.end() == 1
        first, *lines = until(lambda: "gone: lost" in terminal.text and plain(terminal.text))
    assert first == "waiting for gone: its host says that nothing listens at this port"
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(rf"neuropixel +INITIALIZED {REFERENCE} +127\.0\.0\.1 +\d+\.\d +\S+ ms +0%", lines[1])
    assert re.fullmatch(r"gone +lost +-.*", lines[2])
    assert re.fullmatch(r"\d\d:\d\d:\d\d gone: lost: its host says that nothing listens at this port", lines[4])


def test_once_as_json(tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]) -> None:
    write(cameras=serve("cameras").uri)
    outcome = once(tmp_path, "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)["rigs"]["cameras"]
    assert (found["link"], found["status"], found["exp_ref"], found["owner"]) == ("alive", "CONNECTED", None, None)
    assert found["round_trip_ms"] > 0
    assert abs(found["clock"]["offset_ms"]) < 1000
    assert (found["last_message"], found["last_error"]) == (None, None)


@posix
def test_commands_are_shown_as_messages_are(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    rig.command("focus")(lambda: None)
    write(cameras=rig.uri)
    with start(tmp_path, "--json") as command:

        def until_told(what: str, text: str) -> None:
            while not str(json.loads(command.line())["rigs"]["cameras"][what]).count(text):
                pass

        until_told("status", "CONNECTED")
        aux = connect(rig)
        aux.call("cameras", "focus")
        until_told("last_message", "'message': 'focus'")
        with pytest.raises(RemoteError):
            aux.call("cameras", "fokus")
        until_told("last_error", "fokus: UnknownCommand: the rig has no command 'fokus'; it has: focus")
        command.interrupt()
        assert command.outcome().status == 0


@posix
def test_without_a_terminal_each_change_is_a_line_of_json(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    write(cameras=rig.uri)
    with start(tmp_path, "--json") as command:

        def until_told(**facts: Any) -> dict[str, Any]:
            while True:
                found = json.loads(command.line())["rigs"]["cameras"]
                if all(found[name] == fact for name, fact in facts.items()):
                    return dict(found)

        until_told(status="CONNECTED")
        connect(rig).request("EXPINIT", {"exp_ref": REFERENCE})
        found = until_told(status="INITIALIZED", exp_ref=REFERENCE)
        if found["last_message"] is None:
            found = json.loads(command.line())["rigs"]["cameras"]
        assert found["last_message"]["message"] == "EXPINIT"
        command.interrupt()
        outcome = command.outcome()
    assert (outcome.status, outcome.err) == (0, "")


@posix
def test_without_a_terminal_each_change_is_a_table(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    write(cameras=rig.uri)
    with start(tmp_path) as command:
        assert command.line("cameras ").split()[1] == "CONNECTED"
        rig.close()
        assert "said goodbye" in command.line("cameras")
        command.interrupt()
        outcome = command.outcome()
    assert outcome.status == 1
    assert "\x1b" not in outcome.out
    assert outcome.err == ""


def at_work(rig: Any) -> None:
    rig.progress("frames", 1200, 5000)
    rig.progress("left.mp4", 12_300_000, unit="B")
    rig.add_stream("left", state="recording", fps=30)


WORK = "frames 1200/5000, left.mp4 12.3 MB, left: recording"
WORK_DOCUMENT = {
    "progress": {
        "frames": {"value": 1200, "total": 5000, "unit": None},
        "left.mp4": {"value": 12_300_000, "total": None, "unit": "B"},
    },
    "streams": {"left": {"state": "recording", "fps": 30}},
}


def test_once_shows_what_the_rigs_are_at(tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]) -> None:
    rig = serve("cameras")
    at_work(rig)
    write(cameras=rig.uri)
    assert f"  {WORK}  " in once(tmp_path).out.splitlines()[1]
    found = json.loads(once(tmp_path, "--json").out)["rigs"]["cameras"]
    assert {name: found[name] for name in WORK_DOCUMENT} == WORK_DOCUMENT


@posix
def test_progress_is_a_line_of_json_and_no_table_of_its_own(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    write(cameras=rig.uri)
    with start(tmp_path, "--json") as lines, start(tmp_path) as tables:
        while json.loads(lines.line())["rigs"]["cameras"]["status"] != "CONNECTED":
            pass
        assert tables.line("cameras ").split()[1] == "CONNECTED"
        at_work(rig)
        while {
            name: found for name, found in json.loads(lines.line())["rigs"]["cameras"].items() if name in WORK_DOCUMENT
        } != (WORK_DOCUMENT):
            pass
        rig.close()
        assert WORK in tables.line("cameras ")
        for command in (lines, tables):
            command.interrupt()
            command.outcome()


@needs_terminal
def test_on_a_terminal_progress_is_shown_as_it_goes_on(
    tmp_path: Path, write: Callable[..., None], serve: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    write(cameras=rig.uri)
    with Terminal(tmp_path) as terminal:
        until(lambda: terminal.row("cameras")[1:2] == ["CONNECTED"])
        at_work(rig)
        until(lambda: f"cameras: {WORK}" in terminal.lines)
        rig.progress("frames", 1300, 5000)
        rig.remove_stream("left")
        until(lambda: "cameras: frames 1300/5000, left.mp4 12.3 MB" in terminal.lines)
        assert max(map(len, terminal.lines)) <= 80
        terminal.type(b"q")
        assert terminal.end() == 0


# ------------------------------------------------------------------------------------------------------ the picture


def drawn(
    rows: list[RigView],
    width: int,
    height: int,
    unicode: bool = True,
    history: History | None = None,
    position: Position | None = None,
) -> list[str]:
    from rich.console import Console

    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(screen(rows, width, height, unicode, history or History(), position))
    return capture.get().split("\n")


def view(rig: str, link: LinkState = LinkState.ALIVE, **more: Any) -> RigView:
    return RigView(rig, link, **more)


@pytest.mark.parametrize("width", [80, 140, 179, 180, 220])
def test_progress_has_a_column_where_there_is_room_and_else_a_line(width: int) -> None:
    progress = {"frames": Progress(1200, 5000), "left.mp4": Progress(12_300_000, None, "B")}
    rows = [view("cameras", progress=progress, streams={"left": {}}, last_failure=Told("lost", 0.0)), view("ephys")]
    lines = [line.rstrip() for line in drawn(rows, width, 24)]
    assert max(map(len, lines)) <= width
    assert ("progress" in lines[1]) == (width >= 180)
    if width >= 180:
        assert " frames 1200/5000, left.mp4 12.3 MB" in lines[2]
    else:
        assert "cameras: frames 1200/5000, left.mp4 12.3 MB, left" in lines[4:]
    assert all(len(drawn(rows, width, height)) <= height for height in range(5, 12))


@pytest.mark.parametrize("width", range(1, 9))
def test_a_terminal_without_room_ends_nothing(width: int) -> None:
    assert all(len(line) <= width for line in drawn([view("cameras", status=ExpStatus.RUNNING)], width, 6))


@pytest.mark.parametrize("width", [40, 79, 80, 99, 100, 139, 140, 180, 200])
def test_hostile_text_stays_in_its_cell(width: int) -> None:
    hostile = "\x1b]0;gotcha\x07\r\n\t[red]漢字\u202e\x9b" * 20
    lines = drawn(
        [
            view(
                "cameras",
                status=ExpStatus.RUNNING,
                exp_ref=hostile,
                owner=hostile,
                last_message=Told(hostile, 0.0),
                last_failure=Told(hostile, 0.0),
                progress={hostile: Progress(-1.7e308, 10**300, hostile), "": Progress(1e308, None, "B")},
                streams={hostile: {"state": hostile}, "b": {"state": [hostile]}},
            ),
            view("漢字" * 30, LinkState.LOST, last_failure=Told(hostile, 0.0)),
        ],
        width,
        24,
    )
    text = "\n".join(lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert len(lines) <= 24
    # How many letters fit at 40, rich decides: before 14.3 one less.
    assert len([line for line in lines if re.match("camer(as|…) ", line)]) == 1
    assert max(map(cell_len, lines)) <= width


ERROR = "EXPSTART: OSError: " + " ".join(f"word{i:03}" for i in range(40))


@pytest.mark.parametrize(
    ("height", "lines"),
    [(24, [5, 5]), (16, [5, 5]), (15, [5, 4]), (10, [3, 1]), (9, [2, 1]), (8, [1, 1]), (7, [1, 1]), (6, [1]), (5, [])],
)
def test_errors_are_whole_where_the_height_allows(height: int, lines: list[int]) -> None:
    text = drawn([view("new", last_failure=Told(ERROR, 2.0)), view("old", last_failure=Told(ERROR, 1.0))], 80, height)
    assert len(text) <= height
    below = [*text[3:-1], "end"]
    begins = [i for i, line in enumerate(below) if re.match(r"\d\d:\d\d:\d\d |end", line)]
    assert [after - before for before, after in itertools.pairwise(begins)] == lines
    for i, number in zip(begins, lines, strict=False):
        assert all(line.startswith("  word") for line in below[i + 1 : i + number])
        assert below[i + number - 1].rstrip().endswith("…" if number < 5 else "word039")
        shown = re.findall(r"word(\d{3}) ", " ".join(below[i : i + number]))
        assert shown == [f"{n:03}" for n in range(len(shown))]  # no word is lost between the lines


@pytest.mark.parametrize("width", [80, 100, 140])
def test_who_is_in_charge_is_shown(width: int) -> None:
    rows = [
        view("cameras", LinkState.LOST, owner="192.168.100.200", last_failure=Told("lost", 0.0)),
        view("ephys", owner="192.168.100.200"),
        view("mesoscope"),
    ]
    lines = drawn(rows, width, 24)
    if width < 100:
        assert "in charge: 192.168.100.200 (cameras, ephys)" in map(str.rstrip, lines)
        assert len(drawn(rows, width, 6)) <= 6
    else:
        assert lines[1].split()[3:5] == ["in", "charge"]
        assert [line.split()[3] for line in lines[2:5]] == ["192.168.100.200", "192.168.100.200", "-"]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("BusyError: EXPEND refused: the coordinator on pc is in charge", "refused"),
        ("StateError: EXPEND refused", "refused"),
        ("Cancelled: EXPEND was not run", "called off"),
        ("Interrupted: EXPINTERRUPT overtook EXPEND", "interrupted"),
        ("OSError: BusyError: no disk", "failed"),
        ("KeyError", "failed"),
    ],
)
def test_a_message_that_was_not_run_is_not_shown_as_if_it_were(
    serve: Callable[..., Any], connect: Callable[..., Any], error: str, outcome: str
) -> None:
    aux = connect(serve("cameras"))
    aux._lab.services._views._note_notice(
        Notice("cameras", "log", "message", {"message": "EXPEND", "error": error}, False)
    )
    shown = aux.view("cameras")
    assert shown.last_message
    assert shown.last_message.text == f"EXPEND {outcome}"
    assert shown.last_failure
    assert shown.last_failure.text.endswith(error)


def rigs_of(lines: list[str]) -> list[str]:
    """Return the first cells of a table."""
    return [line.split()[0] for line in lines[2 : lines.index("") if "" in lines else -1] if line.strip()]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 140, 180, 220])
def test_names_are_the_last_to_be_cut(width: int) -> None:
    more = {"progress": {"frames": Progress(1200, 5000)}, "last_message": Told("EXPINIT", 0.0)}
    names = ["neuropixel-probe-left", "neuropixel-probe-right"]
    rows = [view(name, exp_ref=REFERENCE * 2, status=ExpStatus.INITIALIZED, **more) for name in names]
    lines = drawn(rows, width, 24)
    assert rigs_of(lines)[:2] == names
    assert all("INITIALIZED" in line for line in lines[2:4])
    assert max(map(cell_len, lines)) <= width


def test_names_that_are_cut_differ_still() -> None:
    assert cut_name("neuropixel-left", 15) == "neuropixel-left"
    assert cut_name("neuropixel-left", 12) == "neurop…-left"
    assert cut_name("neuropixel-right", 12) == "neurop…right"
    assert cut_name("neuropixel-right", 12, unicode=False) == "neurop~right"
    assert [cut_name("neuropixel", width) for width in (3, 2, 1)] == ["n…l", "n…", "…"]
    for width in range(1, 40):
        assert cell_len(cut_name("漢字a" * 20, width)) == width


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no disk", "no disk"),
        ("", ""),
        (
            "EXPEND: Traceback:\n  File x\nOSError: no disk\n",
            "OSError: no disk | EXPEND: Traceback: | File x",
        ),
        ("one\r\n\r\ntwo", "two | one"),
    ],
)
def test_of_an_error_of_several_lines_the_last_one_is_first(text: str, line: str) -> None:
    assert error_text(text) == line
    shown = view("cameras", last_failure=Told(text, 0.0))
    assert any(drawn_line.rstrip().endswith(f" cameras: {line}".rstrip()) for drawn_line in drawn([shown], 120, 24))


def test_a_long_traceback_keeps_its_end(serve: Callable[..., Any], connect: Callable[..., Any]) -> None:
    aux = connect(serve("cameras"))
    text = "Traceback\n" + "  File x\n" * 1000 + "OSError: no disk"
    aux._lab.services._views._note_notice(Notice("cameras", "failure", "x", {"problem": text}, False))
    told = aux.view("cameras").last_failure
    assert told
    assert told.text.startswith("Traceback\n")
    assert len(told.text) == 1000
    assert error_text(told.text).startswith("OSError: no disk | Traceback | ")


def test_of_each_thing_that_is_wrong_the_last_line_comes_first() -> None:
    told = Told("Traceback\nno camera", 0.0)
    ill = view("cameras", failures={"left": "Traceback\nno camera", "right": "no disk"}, last_failure=told)
    assert ill.trouble == "no camera | Traceback; no disk"
    assert cells_of(ill, ["last error"], 0.0) == [f"{clock_text(0.0)} no camera | Traceback; no disk"]


def test_rigs_in_trouble_come_first() -> None:
    failure = Told("EXPSTART: OSError: no disk", 1.0)
    rows = [
        view("fine"),
        view("failed", last_failure=failure),
        view("back", last_failure=Told("is back, after 7s", 2.0)),
        view("anew", last_failure=Told("is back, after 7s: the rig's program was started anew", 2.0)),
        view("unknown", LinkState.UNKNOWN),
        view("suspect", LinkState.SUSPECT),
        view("lost", LinkState.LOST),
        view("gone", LinkState.LOST),
    ]
    order = ["lost", "gone", "suspect", "failed", "anew", "unknown", "fine", "back"]
    assert rigs_of(drawn(rows, 80, 24))[: len(rows)] == order


def test_a_failure_is_no_trouble_in_the_next_experiment() -> None:
    failure, later = Told("EXPSTART: OSError: no disk", 1.0), Told("EXPSTART: OSError: no camera", 2.0)
    history = History()
    history.note([view("cameras", exp_ref=REFERENCE)], 1.0)
    failed = view("cameras", exp_ref=REFERENCE, last_failure=failure)
    history.note([failed], 2.0)
    assert history.has_failed(failed)
    following = view("cameras", exp_ref="2026-01-31_2_mouse", last_failure=failure)
    history.note([following], 3.0)
    assert not history.has_failed(following)
    at_once = view("cameras", exp_ref="2026-01-31_3_mouse", last_failure=later)
    history.note([at_once], 4.0)
    assert history.has_failed(at_once)


def many(number: int) -> list[RigView]:
    return [
        view(
            f"neuropixel-{i:02}",
            LinkState.LOST if i == 17 else LinkState.ALIVE,
            status=ExpStatus.RUNNING,
            exp_ref=REFERENCE,
            owner="192.168.1.5",
            last_message=Told("EXPSTART", 0.0),
            progress={"frames": Progress(100 + i)},
            last_failure=Told(f"lost rig {i}", 0.0) if i in (9, 17) else None,
        )
        for i in range(number)
    ]


def test_thirty_rigs_on_80_by_24() -> None:
    rows, position = many(30), Position()
    found: list[int] = []
    top = drawn(rows, 80, 24)
    assert "29 of 30 rigs alive, 1 to 19 shown" in top[0]
    assert rigs_of(top)[:2] == ["neuropixel-17", "neuropixel-09"]
    assert [line for line in top if "neuropixel-09: lost rig 9" in line or "neuropixel-17: lost rig 17" in line]
    for _ in range(3):
        lines = drawn(rows, 80, 24, position=position)
        assert len(lines) <= 24
        assert max(map(cell_len, lines)) <= 80
        for line in lines[2:]:
            if name := re.match(r"neuropixel-(\d\d) ", line):
                found.append(int(name[1]))
                assert f"frames {100 + found[-1]} " in line or found[-1] == 17  # the lost one's are cut
        position.press("page down", 19, 30)
    assert sorted(set(found)) == list(range(30))
    assert [line for line in drawn(rows, 80, 24, position=position) if "lost rig 17" in line]  # in view everywhere


def test_keys_scroll_no_further_than_there_are_rigs() -> None:
    position = Position()

    def at(key: str) -> int:
        assert not position.press(key, 10, 30)
        return position.top

    downwards = ["up", "down", "page down", "page down", "page down", "down"]
    assert [at(key) for key in downwards] == [0, 1, 11, 20, 20, 20]
    assert [at(key) for key in ("up", "page up", "home", "end", "x")] == [19, 9, 0, 20, 20]
    assert [position.press(key, 40, 30) for key in ("end", "q", "Q")] == [False, True, True]
    assert position.top == 0


def test_help_fits() -> None:
    lines = drawn(many(3), 80, 24, position=Position(is_help=True))
    assert [line.rstrip() for line in lines[:-1]] == list(HELP)
    assert len(lines) <= 24
    assert max(map(len, HELP)) <= 80
    assert len(drawn(many(3), 40, 8, position=Position(is_help=True))) <= 8


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q?", ["q", "?"]),
        (b"\x1b[A\x1bOBx\x1b[5~\x1b[6~", ["up", "down", "x", "page up", "page down"]),
        (b"\x1b[H\x1bOF\x1b[1~\x1b[4~", ["home", "end", "home", "end"]),
        (b"\x1bOQ\x1b[15~\x1b[1;5A\x1bq\x1b", []),  # F2, F5, Ctrl-up, Alt-q, Escape
        ("é".encode(), ["é"]),
    ],
)
def test_keys(data: bytes, keys: list[str]) -> None:
    assert keys_of(data) == keys


def test_keys_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [*"q\xe0H\xe0P\x00I\xe0Q\xe0G\xe0O\xe0S?"]
    console = ModuleType("msvcrt")
    monkeypatch.setattr(console, "kbhit", lambda: bool(typed), raising=False)
    monkeypatch.setattr(console, "getwch", lambda: typed.pop(0), raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", console)
    found = [_typed_on_windows(0) for _ in range(10)]
    assert found == [["q"], ["up"], ["down"], ["page up"], ["page down"], ["home"], ["end"], [], ["?"], []]


def test_a_reference_is_cut_before_it_is_left_out() -> None:
    rows = [view("neuropixel-1", exp_ref=REFERENCE, status=ExpStatus.INITIALIZED)]
    assert [drawn(rows, width, 24)[2].rstrip() for width in (44, 40, 35, 34)] == [
        f"neuropixel-1 INITIALIZED {REFERENCE}",
        "neuropixel-1 INITIALIZED 2026-01-31_1_m…",
        "neuropixel-1 INITIALIZED 2026-01-3…",
        "neuropixel-1 INITIALIZED 2026-01-…",
    ]


def test_how_long_rigs_have_been_running() -> None:
    def running(rig: str, link: LinkState = LinkState.ALIVE, reference: str = REFERENCE) -> RigView:
        return view(rig, link, status=ExpStatus.RUNNING, exp_ref=reference)

    history = History()
    history.note([view("a", status=ExpStatus.INITIALIZED, exp_ref=REFERENCE), running("b")], 100.0)
    rows = [running("a"), running("b")]
    history.note(rows, 101.0)
    history.note(rows, 101.0 + 3723)
    assert (history.running_for("a"), history.running_for("b")) == ((3723.0, False), (3724.0, True))
    cells = {line.split()[0]: line.split()[1:4] for line in drawn(rows, 80, 24, history=history)[2:4]}
    assert cells == {"a": ["RUNNING", "1:02:03", REFERENCE], "b": ["RUNNING", ">1:02:04", REFERENCE]}
    history.note([running("a", LinkState.LOST), running("b", reference="2026-01-31_2_mouse")], 5000.0)
    history.note([running("a", LinkState.LOST), running("b", reference="2026-01-31_2_mouse")], 5010.0)
    assert (history.running_for("a"), history.running_for("b")) == (None, (10.0, False))
    history.note([running("a"), view("b", status=ExpStatus.STOPPED)], 5020.0)
    assert (history.running_for("a"), history.running_for("b")) == ((4919.0, False), None)
    assert history.running_for("c") is None


def test_what_grows_a_second() -> None:
    history = History()
    for second in range(14):
        size = 1_000_000 * max(0, second - 3)
        items = {"left.mp4": Progress(size, None, "B"), "frames": Progress(30 * second), "free": Progress(5, None, "B")}
        at_work = view("cameras", progress=items)
        history.note([at_work], 100.0 + second)
        if second == 1:
            assert history.rates("cameras") == {}  # too early
    assert history.rates("cameras") == {"left.mp4": pytest.approx(1e6), "frames": pytest.approx(30.0)}
    shown = "cameras: left.mp4 10 MB (+1 MB/s), frames 390 (+30/s), free 5 B"
    assert shown in map(str.rstrip, drawn([at_work], 80, 24, history=history))
    history.note([view("cameras", progress={"left.mp4": Progress(-(10**308)), "x": Progress(10**308)})], 114.0)
    history.note([view("cameras", progress={"left.mp4": Progress(10**308)})], 117.0)
    assert history.rates("cameras") == {"left.mp4": pytest.approx(1e307, rel=1)}
    history.note([view("cameras", LinkState.LOST, progress=items)], 118.0)
    assert history.rates("cameras") == {}


def test_progress_of_a_lost_rig_is_marked_as_last_heard() -> None:
    heard = time.time() - 60.0
    lost = view("cameras", LinkState.LOST, progress={"frames": Progress(1200)}, heard=heard)
    marked = f"last heard {time.strftime('%H:%M:%S', time.localtime(heard))}: frames 1200"
    assert f"cameras: {marked}" in map(str.rstrip, drawn([lost], 80, 24))
    assert [line for line in drawn([lost], 220, 24) if f" {marked} " in line]
    assert cells_of(lost, ["progress"], time.time()) == [marked]
    assert (lost.document()["heard"], lost.document()["link"]) == (heard, "lost")


NOW = 1_800_000_000.0


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the screen drawn at `NOW`."""
    monkeypatch.setattr("rigsync.cli.watching.time", SimpleNamespace(time=lambda: NOW))


def left(rig: str, silent: float | None = 170.5, interrupts: float | None = 130.5, **more: Any) -> RigView:
    """Return a rig whose owner is silent for so long, and which interrupts in so many seconds."""
    heard, at = silent and NOW - silent, interrupts and NOW + interrupts
    return view(rig, owner_heard=heard, interrupts_at=at, status=ExpStatus.RUNNING, **more)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("width", [80, 140, 200])
def test_a_silent_owner_and_the_end_of_the_lease_are_shown(width: int) -> None:
    rows = [
        left("cameras", owner="192.168.1.5"),
        left("ephys", owner="192.168.1.5"),
        view("third", owner="192.168.1.6"),
    ]
    lines = [line.rstrip() for line in drawn(rows, width, 24)]
    told = "in charge: 192.168.1.5, silent for 2 min 50 s, interrupts in 2 min 10 s (cameras, ephys)"
    assert " ".join(map(str.strip, lines[6:])).startswith(told)
    if width >= 100:
        assert [line.split()[3] for line in lines[2:5]] == ["192.168.1.5…", "192.168.1.5…", "192.168.1.6"]
    (cell,) = cells_of(rows[0], ["in charge"], NOW)
    assert f"in charge: {cell} (cameras, ephys)" == told


@pytest.mark.usefixtures("frozen")
def test_a_silent_owner_has_a_line_however_many_rigs_there_are() -> None:
    rows = [left(f"rig{i}", owner="10.0.0.5", last_failure=Told("stalled", 0.0)) for i in range(30)]
    assert [line for line in drawn(rows, 80, 24) if "silent for 2 min 50 s, interrupts in 2 min 10 s" in line]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (left("a", owner="10.0.0.5", interrupts=None), "10.0.0.5, silent for 2 min 50 s"),
        (left("a", silent=None), "nobody, interrupts in 2 min 10 s"),
        (left("a", owner="10.0.0.5", link=LinkState.SUSPECT), "10.0.0.5"),  # what it said may be no more so
        (view("a", owner="10.0.0.5"), "10.0.0.5"),  # and of a rig of the version before
        (view("a"), ""),
    ],
)
def test_only_what_is_so_is_said_of_who_is_in_charge(row: RigView, text: str) -> None:
    assert in_charge(row, NOW) == text


def test_that_an_owner_falls_silent_is_news_and_each_second_of_it_is_none() -> None:
    before = view("a", status=ExpStatus.RUNNING)
    assert facts_of(before) != facts_of(left("a")) == facts_of(left("a", 171.5, 129.5))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (130.9, "2 min 10 s"), (3600, "1 h"), (7559, "2 h 5 min")],
)
def test_spans_of_time(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_progress_has_all_free_rows() -> None:
    items = {f"camera-{i}.mp4": Progress(i, None, "B") for i in range(12)}
    text = " ".join(" ".join(drawn([view("cameras", progress=items)], 80, 24)).split())
    assert all(f"{item} {i} B" in text for i, item in enumerate(items))


def test_without_unicode_it_is_ascii() -> None:
    rows = [view("cameras" * 5, exp_ref="m" * 200, last_failure=Told("e" * 200, 0.0))]
    assert "\n".join(drawn(rows, 80, 24, unicode=False)).isascii()
