"""A failure is told once, in a line for all rigs with the same reason; a traceback ends with it."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, Outcome, environment
from live_helpers import Gate, Lab, run
from processes import LONG, ROOT, RigProgram, calm, until
from test_experiment import ctrl_c_at

from rigsync import Auxiliaries, Coordinator, ExperimentError, ExpStatus, PushError, Rig
from rigsync.coordinator.links import _Pending
from rigsync.coordinator.results import PushResult
from rigsync.core.enums import ExpMessage
from rigsync.errors import RigError

REFERENCE = "2026-03-01_2_mouse"

Connect = Callable[..., Auxiliaries]

HEAD = f"""
import asyncio, json, sys, time
from rigsync import Auxiliaries, Coordinator
rigs, REF = json.loads(sys.argv[1]), "{REFERENCE}"
"""
BEGUN = HEAD + 'aux = Auxiliaries(rigs)\naux.request("EXPINIT", {"exp_ref": REF})\naux.request("EXPSTART", REF)\n'
EXPERIMENT = HEAD + "with Auxiliaries(rigs) as aux, aux.experiment(REF) as session:\n    "
ASYNC = """
async def main():
    async with Coordinator(rigs) as lab, lab.experiment(REF) as session:
        await asyncio.sleep(0)
asyncio.run(main())
"""
UNTIL_FAILED = "while not session.failures: time.sleep(0.02)\n"


@pytest.fixture
def lab(serve: Callable[..., Rig]) -> Lab:
    return Lab(serve)


def failing(text: str) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise OSError(text)

    return fail


def start(program: str, uris: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), json.dumps(uris)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    """Return what a program that fails has written on stderr, without the places in a traceback."""
    with process:
        _, err = process.communicate(timeout=LONG)
    assert process.returncode == 1
    assert err.count("Traceback (most recent") <= 1  # no chain of them; that of a rig is without its error
    return [line for line in calm(err).splitlines() if not line.startswith(("  ", "Traceback"))]


# -------------------------------------------------------------------------------------------------- handlers that fail


@pytest.fixture
def three(lab: Lab) -> dict[str, str]:
    """Three rigs that fail at EXPEND: two for the same reason, one for another that takes several lines."""
    for name in ("left", "right"):
        lab.rig(name, {"EXPEND": failing("disk full")})
    lab.rig("top", {"EXPEND": failing("ffmpeg ended\n  frame= 1\nno camera")})
    return lab.uris


SAME, OTHER = "left, right: {}OSError: disk full{}", "top: {}no camera | OSError: ffmpeg ended | frame= 1{}"
OF_PUSH = [SAME.format("", ""), OTHER.format("", "")]
OF_EXPERIMENT = [text.format("EXPEND failed: ", "; then interrupted and cleaned up") for text in (SAME, OTHER)]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (BEGUN + 'aux.request("EXPEND")', OF_PUSH),
        (EXPERIMENT + "pass", OF_EXPERIMENT),
        (HEAD + ASYNC, OF_EXPERIMENT),
        (HEAD + ASYNC.replace("asyncio.sleep(0)", 'lab.push("EXPEND")'), OF_PUSH),
    ],
    ids=["request", "experiment", "asynchronous experiment", "asynchronous push in it"],
)
def test_what_is_raised_is_told_by_that_alone(three: dict[str, str], program: str, told: list[str]) -> None:
    lines = lines_of(start(program, three))
    assert lines[-2:] == told
    assert [line for line in lines if "disk full" in line or "no camera" in line] == told


def test_what_is_returned_is_told_by_the_log(three: dict[str, str]) -> None:
    lines = lines_of(start(BEGUN + 'aux.push("EXPEND", wait=True)\naux.close()\nsys.exit(1)', three))
    assert lines == [f"rigsync: ERROR: EXPEND: {line}" for line in OF_PUSH]


def test_what_nobody_awaits_is_told_by_the_log(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.rig("left", {"EXPINFO": failing("disk full")})

    async def main() -> None:
        async with Coordinator(lab.uris) as coordinator:
            push = coordinator.push("EXPINFO", "CONNECTED")
            async for _, outcome in push:
                assert isinstance(outcome, RigError)

    run(main)
    errors = [line.getMessage() for line in caplog.records if line.name == "rigsync.push" and line.levelno >= 40]
    assert errors == ["EXPINFO: left: OSError: disk full"]


def command(folder: Path, uris: dict[str, str], *arguments: str) -> Outcome:
    (folder / "rigs.yaml").write_text("".join(f"{name}: {uri}\n" for name, uri in uris.items()))
    with Command([*arguments], folder, environment(folder)) as process:
        return process.outcome()


def test_run_tells_it_once(three: dict[str, str], tmp_path: Path) -> None:
    outcome = command(tmp_path, three, "run", "--ref", REFERENCE, "--", sys.executable, "-c", "")
    assert outcome.status == 125
    assert outcome.err.splitlines() == [
        f"Error: experiment {REFERENCE} failed at EXPEND on 3 of 3 rigs:",
        *OF_EXPERIMENT,
    ]


def test_push_tells_it_once(three: dict[str, str], connect: Connect, tmp_path: Path) -> None:
    aux = connect(three, leave_running=True)
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.request("EXPSTART", REFERENCE)
    aux.close()
    outcome = command(tmp_path, three, "push", "EXPEND")
    assert (outcome.status, outcome.err) == (1, "")
    assert outcome.out.count("disk full") == 2  # a row for each rig
    assert outcome.out.count("no camera") == 1


def test_a_rig_that_cannot_start_is_told_once(lab: Lab) -> None:
    for name in ("left", "right", "top"):
        lab.rig(name, {"EXPSTART": failing("disk full")} if name == "right" else {})
    lines = lines_of(start(EXPERIMENT + "pass", lab.uris))
    assert lines[-1] == "right: EXPSTART failed: OSError: disk full; then interrupted and cleaned up"
    assert sum("disk full" in line for line in lines) == 1


def test_a_command_that_fails_is_told_once(lab: Lab) -> None:
    lab.rig("left").command("focus")(failing("the lens is stuck"))
    for program in (
        'Auxiliaries(rigs).call("left", "focus")',
        ASYNC.replace("asyncio.sleep(0)", "lab.call('left', 'focus')"),
    ):
        lines = lines_of(start(HEAD + program, lab.uris))
        assert lines[-1].endswith("left: OSError: the lens is stuck")
        assert sum("the lens is stuck" in line for line in lines) == 1


def test_the_reference_of_a_main_sync_breaks_no_line(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    information = {"main_sync": True, "exp_ref": "1\nERROR: all is lost\x1b"}
    lab.rig("left", {"EXPINFO": lambda *_: information, "EXPINIT": failing("disk full")})
    lab.rig("right")
    with Auxiliaries(lab.uris) as aux, pytest.raises(ExperimentError) as told:
        aux.begin(REFERENCE)
    shown = r"1\nERROR: all is lost\x1b"
    assert f"left is the main sync: its reference {shown} counts, not {REFERENCE}" in caplog.messages
    assert str(told.value).splitlines()[0] == f"experiment {shown} failed at EXPINIT on 1 of 2 rigs:"


# ------------------------------------------------------------------------------------------------ while rigs record


@pytest.mark.parametrize("check", ["session.check()", ""])
def test_a_rig_that_is_closed_is_told_as_news_and_by_the_error(lab: Lab, check: str) -> None:
    left, right = lab.rig("left"), lab.rig("right")
    process = start(f"{EXPERIMENT}{UNTIL_FAILED}    {check}", lab.uris)
    until(lambda: left.status is right.status is ExpStatus.RUNNING)
    right.close()
    lines = lines_of(process)
    why = "the rig's program is being closed"
    assert lines[0] == f"rigsync: WARNING: right does not record any more: {why}"
    assert lines[-1].startswith(f"right: it does not record {REFERENCE} any more: {why}")
    assert [line for line in lines if "right" in line] == [
        lines[0],
        *(["rigsync: WARNING: stopping left, right: EXPINTERRUPT"] if check else []),
        lines[-1],
    ]


@pytest.mark.parametrize("text", ["the camera died\nno frame", f"no frame{' x' * 750}"], ids=["two lines", "long"])
def test_what_a_rig_has_told_is_told_once_though_it_fails_to_end_for_that(lab: Lab, text: str) -> None:
    rig = lab.rig("left", {"EXPEND": failing(text)})
    with Auxiliaries(lab.uris) as aux:
        session = aux.begin(REFERENCE)
        rig.notify("failure", {"problem": text})
        until(lambda: session.failures)
        with pytest.raises(ExperimentError) as told:
            aux.end()
    assert str(told.value).count("no frame") == 1


def test_a_rig_that_is_lost_is_told_as_lost_and_as_what_may_go_on(lab: Lab) -> None:
    lab.rig("left")
    with RigProgram("right") as right:
        body = f'print("runs", flush=True)\n    {UNTIL_FAILED}    raise ValueError("the valve is stuck")'
        process = start(EXPERIMENT + body, {**lab.uris, "right": right.uri})
        assert process.stdout
        assert process.stdout.readline() == "runs\n"
        right.kill()
        lines = lines_of(process)
    assert lines[-1] == "ValueError: the valve is stuck"
    told = [line for line in lines if "right" in line and "stopping" not in line and "is suspect" not in line]
    assert [line.partition(":")[2].strip()[:40] for line in told] == [
        "WARNING: right is lost: its host says th"[:40],
        "ERROR: right may go on recording: EXPINT"[:40],
    ]


def test_ctrl_c_does_not_hide_a_failure_that_would_have_been_raised(
    lab: Lab, connect: Connect, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    aux = connect(lab.rig("cameras", {"EXPEND": failing("disk full"), "EXPCLEANUP": gate}))
    with ctrl_c_at(gate, lab), aux.experiment(REFERENCE):
        pass
    assert "cameras: EXPEND failed: OSError: disk full" in [line.getMessage() for line in caplog.records]


# ----------------------------------------------------------------------------------------------------- never begun

NEVER = f"nothing is recorded: the experiment {REFERENCE} on left was never begun; begin it by "


@pytest.mark.parametrize(
    ("program", "remedy"),
    [
        ("Auxiliaries(rigs).experiment(REF)", "`with aux.experiment"),
        ("aux = Auxiliaries(rigs)\nsession = aux.experiment(REF)", "`with aux.experiment"),
        (
            ASYNC.replace(", lab.experiment(REF) as session", "").replace("sleep(0)", "sleep(0, lab.experiment(REF))"),
            "`async",
        ),
    ],
    ids=["collected", "the program ends", "asynchronous"],
)
def test_an_experiment_that_is_never_begun_is_an_error_on_stderr(lab: Lab, program: str, remedy: str) -> None:
    lab.rig("left")
    lines = lines_of(start(f"{HEAD}{program}\nsys.exit(1)", lab.uris))
    assert len(lines) == 1
    assert lines[0].startswith(f"rigsync: ERROR: {NEVER}{remedy}")


def test_an_experiment_that_is_never_begun_is_told_once_when_its_coordinator_is_closed(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    aux = connect(lab.rig("left"))
    session = aux.experiment(REFERENCE)
    for use in ("check", "end", "interrupt", "failures"):
        with pytest.raises(RuntimeError, match="never begun, and nothing is recorded: begin it by `with"):
            getattr(session, use)()
    assert not [line for line in caplog.records if line.name == "rigsync.experiment"]
    aux.close()
    del session
    gc.collect()
    assert [line.getMessage()[: len(NEVER)] for line in caplog.records if line.levelno >= logging.ERROR] == [NEVER]


def test_of_one_that_has_begun_nothing_is_said(lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    aux = connect(lab.rig("left", {"EXPINIT": failing("disk full")}))
    with contextlib.suppress(ExperimentError):
        aux.begin(REFERENCE)
    aux.close()
    gc.collect()
    assert "never begun" not in caplog.text


# --------------------------------------------------------------------------------------------------------- the text


def test_the_text_of_an_error_escapes_what_a_terminal_would_obey() -> None:
    error = PushError("EXPEND", None, {"left": RigError("left", "disk \x1b[2J full\nwith lines")})
    assert str(error) == r"EXPEND failed on one rig: left: with lines | disk \x1b[2J full"


def test_what_fails_after_the_error_was_raised_is_not_taken_for_raised() -> None:
    """Whoever waits may not have gone on yet when another rig fails, too."""
    failed = {"left": RigError("left", "disk full")}
    pending = _Pending(ExpMessage.EXPSTART, lambda _: None, lambda: True, raises=True)
    assert pending.hand_over(PushResult("EXPSTART", 1.0, {}, failed).as_outcome()) == {"left"}
    failed["right"] = RigError("right", "disk full")
    assert pending.hand_over(PushResult("EXPSTART", 1.0, {}, failed).as_outcome()) == {"left"}
