"""Which events people are told of: those of an experiment that this program commands, and those of a rig of its own."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

import pytest

import rigsync.agent
from alerts.support import REFERENCE
from rigsync.alerts.watch import _OF_AGENTS, CoordinatorWatch, Happening, RigWatch
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import (
    Event,
    HandlerDue,
    LinkLost,
    LinkState,
    MessageHandled,
    Notice,
    PushBegun,
    PushCompleted,
    StatusChanged,
)
from rigsync.errors import BusyError, Interrupted, RemoteError, RigRefused, RigsyncError, RigTimeout

INIT, START, END = ExpMessage.EXPINIT, ExpMessage.EXPSTART, ExpMessage.EXPEND
INTERRUPT, CLEANUP = ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP


def begun(event: ExpMessage, *args: Any, rigs: Iterable[str] = ("left", "right")) -> PushBegun:
    return PushBegun(1.0, event, list(args), list(rigs), None)


def completed(event: ExpMessage, answers: Any = ("left", "right"), failures: Any = None) -> PushCompleted:
    told = answers if isinstance(answers, dict) else {rig: [{}] for rig in answers}
    return PushCompleted(1.0, event, told, failures or {})


def lost(rig: str = "left") -> LinkLost:
    return LinkLost(rig, LinkState.ALIVE, LinkState.LOST, "silent for 5.0 s")


def notice(topic: str, body: Any, key: str | None = None, rig: str = "left") -> Notice:
    return Notice(rig, topic, key, body, True)


BEGINNING = [begun(INIT, {"exp_ref": REFERENCE}), completed(INIT), begun(START, REFERENCE), completed(START)]


def told(*events: Event, watch: Any = None) -> list[tuple[str, tuple[str, ...], str]]:
    watch = watch or CoordinatorWatch()
    found: list[Happening] = []
    for second, event in enumerate(events):
        found += watch.take(event, float(second))
    return [(each.on, each.rigs, each.text) for each in found]


def test_what_was_wrong_before_the_experiment_is_no_news_and_what_was_missed_in_it_is() -> None:
    """A rig tells both, with their age, when it hears this program again."""

    def telling(age: float) -> list[Event]:
        full, reason = {"problem": "disk full", "age": age}, {"status": "STOPPED", "reason": "died", "age": age}
        return [notice("failure", full), notice("status", reason)]

    assert told(*BEGINNING, *telling(60)) == []
    assert told(*BEGINNING, *telling(3)) == [("failure", ("left",), "disk full"), ("interrupted", ("left",), "died")]
    old = notice("failure", {"problem": "disk full", "age": 60})
    assert told(old, watch=RigWatch("left", began=-1)) == []
    assert told(old, watch=RigWatch("left", began=-100)) == [("failure", ("left",), "disk full")]


def test_a_program_that_only_watches_tells_nothing() -> None:
    assert told(lost(), notice("failure", {"problem": "disk full"})) == []


def test_what_goes_wrong_while_it_is_in_charge() -> None:
    failing = notice("failure", {"problem": "the file does not grow"})
    low = notice("failure", {"problem": "nearly full"}, key="free_disk", rig="right")
    stopped = notice("status", {"status": "STOPPED", "reason": "ffmpeg ended by itself"})
    ordinary = notice("status", {"status": "STOPPED", "reason": None})
    after = [completed(CLEANUP), lost(), failing]
    assert told(*BEGINNING, failing, low, stopped, ordinary, lost("right"), lost("other"), *after) == [
        ("failure", ("left",), "the file does not grow"),
        ("disk low", ("right",), "nearly full"),
        ("interrupted", ("left",), "ffmpeg ended by itself"),
        ("lost", ("right",), "silent for 5.0 s"),
    ]


def test_a_session_that_ends_well() -> None:
    files = [{"path": "/a.mp4", "bytes": 1000}, {"path": "/b.mp4", "bytes": 2_000_000}]
    answers = {"left": [{"recorded": {"seconds": 2.0, "files": files}}], "right": [{"recorded": "junk"}]}
    end = [begun(END), completed(END, answers), begun(CLEANUP), completed(CLEANUP)]
    assert told(*BEGINNING, *end) == [
        ("session end", ("left", "right"), "the session has ended after 0:03, complete, 2 files, 2 MB"),
    ]


def test_a_session_whose_rigs_end_one_by_one_ends_with_the_last() -> None:
    events = [*BEGINNING, completed(END, ["left"]), completed(END, ["right"])]
    assert [on for on, *_ in told(*events[:-1])] == []
    assert [rigs for _, rigs, _ in told(*events)] == [("left", "right")]


def test_a_session_that_ends_badly() -> None:
    failures = {"left": RemoteError("left", "EndedBadly", "nothing was recorded", "")}
    assert told(*BEGINNING, completed(END, ["right"], failures)) == [
        ("failure", ("left",), "EXPEND: nothing was recorded"),
        ("session end", ("right", "left"), "the session has ended after 0:02, incomplete: left: nothing was recorded"),
    ]


def test_an_experiment_that_another_program_has_begun_has_its_reference() -> None:
    """As at `rigsync stop`, which has sent no EXPINIT."""
    watch = CoordinatorWatch(lambda _: REFERENCE)
    failed = completed(END, ["right"], {"left": RemoteError("left", "EndedBadly", "nothing was recorded", "")})
    found = [each for event in (begun(END), failed, begun(INTERRUPT)) for each in watch.take(event, 0.0)]
    assert [(each.on, each.exp_ref) for each in found] == [
        (on, REFERENCE) for on in ("failure", "session end", "interrupted")
    ]


def test_an_interrupt_has_its_reason() -> None:
    interrupt = begun(INTERRUPT, {"error": "KeyboardInterrupt", "message": "", "traceback": "..."})
    assert told(*BEGINNING, interrupt, completed(INTERRUPT)) == [
        ("interrupted", ("left", "right"), "EXPINTERRUPT: somebody pressed Ctrl-C at the task"),
        ("session end", ("left", "right"), "the session was interrupted after 0:03"),
    ]


@pytest.mark.parametrize(
    ("error", "message", "expected"),
    [
        (
            "PushError",
            "EXPSTART failed on one rig: left: OSError: no camera",
            "EXPSTART failed on one rig: left: no camera",
        ),
        (
            "PushError",
            "EXPSTART failed on one rig: left: KeyError: 'x'",
            "EXPSTART failed on one rig: left: KeyError: 'x'",
        ),
        ("SerialException", "port COM3: PermissionError: it is in use", "port COM3: it is in use (SerialException)"),
        ("DroppedFrames", "3 of 360", "3 of 360 (DroppedFrames)"),
        ("PushError", "left: lab.DoorOpen: door 2 now", "left: lab.DoorOpen: door 2 now"),
        ("PushError", "left: CameraError: left lens", "left: CameraError: left lens"),
        ("PushError", "left: EndedBadly: no frames", "left: no frames"),
        ("PushError", "left: rigsync.errors.RigTimeout: no answer", "left: no answer"),
        ("PushError", "left: lab.CameraError: left lens is too warm", "left: lab.CameraError: left lens is too warm"),
        ("CommandFailed", "'vlc' cannot be run here", "'vlc' cannot be run here"),
        ("KeyError", "'exposure time of the left'", "'exposure time of the left' (KeyError)"),
        ("PushError", "left: KeyError: 'time of the left'", "left: KeyError: 'time of the left'"),
        ("ZeroDivisionError", "no trials", "no trials"),
        ("KeyError", "'contrast'", "'contrast' (KeyError)"),
        ("AssertionError", "", "no reason was given (AssertionError)"),
        ("", "the animal sleeps", "the animal sleeps"),
    ],
)
def test_people_are_told_no_names_of_classes_where_the_text_says_it_without(
    error: str, message: str, expected: str
) -> None:
    interrupted = [*BEGINNING, begun(INTERRUPT, {"error": error, "message": message, "traceback": "..."})]
    assert told(*interrupted) == [("interrupted", ("left", "right"), f"EXPINTERRUPT: {expected}")]
    failed = completed(START, ["right"], {"left": RemoteError("left", error or "OSError", message, "")})
    assert told(*BEGINNING[:3], failed)[0][2] == f"EXPSTART: {expected}"
    if error:
        text = f"{error}: {message}" if message else error
        assert of_rig(handled(START, text)) == [("failure", ("left",), f"EXPSTART: {expected}")]


def test_the_reason_of_an_interrupt_stands_for_its_error() -> None:
    interrupt = begun(INTERRUPT, {"reason": "the light fell", "error": "RigTimeout"})
    assert told(*BEGINNING, interrupt)[0][2] == "EXPINTERRUPT: the light fell"


def test_a_rig_that_does_not_begin_is_told_and_what_follows_from_that_is_not() -> None:
    failures = {"left": RemoteError("left", "OSError", "no camera", ""), "right": Interrupted("right", "overtaken")}
    events = [BEGINNING[0], completed(INIT, [], failures), begun(INTERRUPT), completed(INTERRUPT), lost()]
    assert [(on, rigs) for on, rigs, _ in told(*events)] == [("failure", ("left",))]


def test_an_end_that_another_program_has_begun() -> None:
    answers = {"left": [{"exp_ref": REFERENCE}]}
    watch = CoordinatorWatch(lambda _: REFERENCE)
    found = [each for event in (begun(END), completed(END, answers)) for each in watch.take(event, 0.0)]
    assert [(each.on, each.text, each.exp_ref) for each in found] == [
        ("session end", "the session has ended, complete", REFERENCE)
    ]
    silent = completed(END, [], {"left": RigTimeout("left", "no answer")})
    assert told(begun(END), silent, watch=CoordinatorWatch(lambda _: REFERENCE)) == [
        ("failure", ("left",), "EXPEND: no answer")
    ]


def test_the_end_of_what_does_not_go_on_or_is_refused_is_nobody_s_affair() -> None:
    silent = {"left": RigTimeout("left", "no answer")}
    refused = {rig: BusyError(rig, "BusyError", "the coordinator on behaviour-pc is in charge", "") for rig in silent}
    ends = [each for message in (END, INTERRUPT, CLEANUP) for each in (begun(message), completed(message, [], silent))]
    assert told(*ends, begun(END), completed(END)) == []
    ends = [
        each for message in (END, CLEANUP) for each in (begun(message, rigs=["left"]), completed(message, [], refused))
    ]
    assert told(*ends, watch=CoordinatorWatch(lambda _: REFERENCE)) == []


def test_a_rig_that_has_stopped_by_itself_is_not_interrupted_again() -> None:
    stopped = [notice("status", {"status": "STOPPED", "reason": "ffmpeg died"}, rig=rig) for rig in ("left", "right")]
    found = told(*BEGINNING, stopped[0], begun(INTERRUPT), stopped[1], begun(INTERRUPT), completed(INTERRUPT))
    assert [(on, rigs) for on, rigs, _ in found] == [
        ("interrupted", ("left",)),
        ("interrupted", ("right",)),
        ("interrupted", ("right",)),
        ("session end", ("left", "right")),
    ]


def test_of_a_rig_that_is_lost_nothing_more_is_told_when_it_hears_no_end() -> None:
    gone = {"left": RigRefused("left", "nothing listens at that port")}
    ends = [each for message in (INTERRUPT, CLEANUP) for each in (begun(message), completed(message, ["right"], gone))]
    assert [(on, rigs) for on, rigs, _ in told(*BEGINNING, lost(), *ends)] == [
        ("lost", ("left",)),
        ("interrupted", ("left", "right")),
        ("session end", ("right", "left")),
    ]


def test_an_experiment_that_is_taken_over_is_told_of_to_its_end() -> None:
    running = {"left": [{"status": 20}], "right": [{"status": 20}]}
    events = [begun(INIT, {"exp_ref": REFERENCE, "takeover": True}), completed(INIT, running), completed(END)]
    assert [on for on, *_ in told(*events)] == ["session end"]


def test_a_rehearsal_is_nobody_s_affair() -> None:
    init = begun(INIT, {"exp_ref": REFERENCE, "rehearsal": True})
    failing = notice("failure", {"problem": "the file does not grow"})
    end = completed(END, ["right"], {"left": RemoteError("left", "EndedBadly", "nothing was recorded", "")})
    assert told(init, *BEGINNING[1:], failing, lost(), begun(INTERRUPT), completed(INTERRUPT), end) == []
    assert told(init, *BEGINNING[1:], completed(CLEANUP), *BEGINNING, failing) != []


@pytest.mark.parametrize("args", [[], [7], [{"rehearsal": "yes"}], [{"exp_ref": []}]])
def test_odd_data_are_no_obstacle(args: list[Any]) -> None:
    assert [on for on, *_ in told(begun(INIT, *args), completed(INIT), lost())] == ["lost"]
    assert told(*BEGINNING, begun(INTERRUPT, *args))[0][0] == "interrupted"
    assert told(HandlerDue(1, INIT, args), watch=RigWatch("left")) == []


# -------------------------------------------------------------------------------------------------------- of a rig


def status(before: ExpStatus, after: ExpStatus, reason: str | None = None) -> StatusChanged:
    return StatusChanged(before, after, REFERENCE, reason)


RUNNING = status(ExpStatus.INITIALIZED, ExpStatus.RUNNING)
STOPPED = status(ExpStatus.RUNNING, ExpStatus.STOPPED)


def handled(event: ExpMessage, error: str | None = None, is_told: bool = True) -> MessageHandled:
    return MessageHandled("127.0.0.1:5", event, error, is_told)


def of_rig(*events: Event) -> list[tuple[str, tuple[str, ...], str]]:
    return told(*events, watch=RigWatch("left"))


def test_a_rig_tells_of_its_own_failures_in_a_session_or_not() -> None:
    failing, low = notice("failure", {"problem": "no signal"}), notice("failure", {"problem": "full"}, key="free_disk")
    assert of_rig(failing, low, notice("log", {"error": "x"}), handled(START, "OSError: no camera")) == [
        ("failure", ("left",), "no signal"),
        ("disk low", ("left",), "full"),
        ("failure", ("left",), "EXPSTART: no camera"),
    ]


def test_what_a_rig_refuses_is_no_failure_of_it() -> None:
    refused = (
        handled(START, "StateError: not now"),
        handled(INIT, "BusyError: another"),
        handled(START, "OSError", False),
    )
    assert of_rig(*refused, handled(ExpMessage.EXPINFO, "OSError: x")) == []


def test_a_rig_tells_of_its_session_s_end() -> None:
    assert of_rig(RUNNING, STOPPED, handled(END), handled(CLEANUP)) == [
        ("session end", ("left",), "the recording has ended after 0:02")
    ]
    assert of_rig(RUNNING, STOPPED, handled(END, "EndedBadly: x.avi is empty")) == [
        ("failure", ("left",), "EXPEND: x.avi is empty"),
        ("session end", ("left",), "the recording has ended after 0:02, badly: x.avi is empty"),
    ]
    assert of_rig(RUNNING, handled(END, "RecordingGoesOn: x"))[1:] == []


def test_a_rig_tells_of_an_interrupt_while_it_records() -> None:
    interrupt = HandlerDue(1, INTERRUPT, [{"reason": "the coordinator is silent"}])
    assert of_rig(interrupt, handled(INTERRUPT)) == []
    assert of_rig(RUNNING, interrupt, STOPPED, handled(INTERRUPT)) == [
        ("interrupted", ("left",), "EXPINTERRUPT: the coordinator is silent"),
        ("session end", ("left",), "the recording was interrupted after 0:03"),
    ]


def test_a_rig_s_rehearsal_is_nobody_s_affair() -> None:
    init = HandlerDue(1, INIT, [{"exp_ref": REFERENCE, "rehearsal": True}])
    assert of_rig(init, RUNNING, notice("failure", {"problem": "x"}), STOPPED, handled(END)) == []


def test_the_errors_of_agents_are_known_by_name() -> None:
    """All that an agent may raise: a coordinator does not load what defines them."""
    for module in pkgutil.walk_packages(rigsync.agent.__path__, "rigsync.agent."):
        if module.name != "rigsync.agent.keeper":  # a program
            importlib.import_module(module.name)
    kinds, own = [RigsyncError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        own |= {kind.__name__} if kind.__module__.startswith(("rigsync.agent.", "rigsync.rig.")) else set()
    assert own == set(_OF_AGENTS)
