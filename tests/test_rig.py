"""The rig side, over real sockets: handlers, answers, life cycle, starting and ending."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from live_helpers import Gate, in_thread
from platforms import posix
from processes import LONG, ROOT, TOKEN, FakeAlyx, RigProgram, free_port, has_ipv6, port_of, until

from rigsync import (
    Auxiliaries,
    BusyError,
    ConfigError,
    ExpMessage,
    ExpStatus,
    Interrupted,
    ListenError,
    LoopBlocked,
    NotRunning,
    PayloadError,
    PayloadTooLarge,
    PushError,
    PushResult,
    RemoteError,
    Rig,
    RigLost,
    RigRefused,
)
from rigsync.core.events import LinkChanged, LinkState, Notice
from rigsync.core.queries import QUERIES
from rigsync.runtime.workers import Workers

REFERENCE = "2026-03-01_2_mouse"
OTHER = "2026-03-01_3_mouse"
DESCRIPTION = {"devices": {"cameras": {"left": {"fps": 60}}}}

CLOSE_PROMISE = 2.0
"""Seconds within which `Rig.close` returns, as it says, ..."""
SLACK = 1.5
"""... and what a busy computer adds."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig("cameras", "udp://127.0.0.1:0", main_sync=False, experiment_description=DESCRIPTION)
    yield rig
    rig.close()


@pytest.fixture
def aux(rig: Rig) -> Iterator[Auxiliaries]:
    """A coordinator of `rig`, which serves; handlers may be added later."""
    rig.start()
    with Auxiliaries({"cameras": rig.uri}, connect_timeout=LONG) as aux:
        assert aux.all_alive
        yield aux


def ask(aux: Auxiliaries, message: str, *args: Any) -> list[Any]:
    """Return the rig's answer."""
    outcome = aux.push(message, *args, wait=True, timeout=LONG)
    assert isinstance(outcome, PushResult), outcome
    return outcome["cameras"]


def error_of(aux: Auxiliaries, message: str, *args: Any) -> RemoteError:
    """Return the rig's failure, which has to be an exception on the rig."""
    outcome = aux.push(message, *args, wait=True, timeout=LONG)
    assert isinstance(outcome, PushError), outcome
    error = outcome.failed["cameras"]
    assert isinstance(error, RemoteError), error
    return error


def info(status: ExpStatus, exp_ref: str | None, **more: Any) -> dict[str, Any]:
    """Return the rig's ExpInfo."""
    import rigsync

    return {
        "exp_ref": exp_ref,
        "main_sync": False,
        "experiment_description": DESCRIPTION,
        "master": False,
        "rig_version": rigsync.__version__,
        "spec_version": "1.0.0",
        "status": int(status),
        **more,
    }


# ------------------------------------------------------------------------------------------------------- answers


def test_answers_without_any_handler(aux: Auxiliaries) -> None:
    assert ask(aux, "EXPINFO", "CONNECTED") == [0, info(ExpStatus.CONNECTED, None)]
    assert ask(aux, "EXPSTATUS", "CONNECTED") == [0]
    assert ask(aux, "EXPINIT", {"exp_ref": REFERENCE}) == [info(ExpStatus.INITIALIZED, REFERENCE)]
    assert ask(aux, "EXPSTART", REFERENCE) == [REFERENCE, info(ExpStatus.RUNNING, REFERENCE)]
    assert ask(aux, "EXPSTATUS", "RUNNING") == [20]
    assert ask(aux, "EXPINFO", "RUNNING") == [20, info(ExpStatus.RUNNING, REFERENCE)]
    assert ask(aux, "EXPEND") == [info(ExpStatus.STOPPED, REFERENCE)]
    assert ask(aux, "EXPCLEANUP") == [info(ExpStatus.CONNECTED, None)]
    assert ask(aux, "EXPINTERRUPT") == [info(ExpStatus.CONNECTED, None)]
    assert ask(aux, "ALYX") == [None, {}]


def test_what_handlers_return_is_merged_into_the_info(rig: Rig, aux: Auxiliaries) -> None:
    @rig.on(*(message for message in ExpMessage.__members__ if message != "ALYX"))
    def handle() -> dict[str, Any]:
        return {"files": ["left.mp4"], "rig_version": "camera 7"}

    more = {"files": ["left.mp4"], "rig_version": "camera 7"}
    assert ask(aux, "EXPINFO", "CONNECTED") == [0, info(ExpStatus.CONNECTED, None, **more)]
    assert ask(aux, "EXPSTATUS", "CONNECTED") == [0]
    assert ask(aux, "EXPINIT", {"exp_ref": REFERENCE}) == [info(ExpStatus.INITIALIZED, REFERENCE, **more)]
    assert ask(aux, "EXPSTART", REFERENCE) == [REFERENCE, info(ExpStatus.RUNNING, REFERENCE, **more)]
    assert ask(aux, "EXPINTERRUPT") == [info(ExpStatus.STOPPED, REFERENCE, **more)]
    assert ask(aux, "EXPINIT") == [info(ExpStatus.INITIALIZED, None, **more)]
    assert ask(aux, "EXPEND") == [info(ExpStatus.STOPPED, None, **more)]
    assert ask(aux, "EXPCLEANUP") == [info(ExpStatus.CONNECTED, None, **more)]


def test_main_sync_rig_names_the_experiment(rig: Rig, aux: Auxiliaries) -> None:
    """iblrig takes the reference from whichever rig says `main_sync` in its answer to EXPINFO."""
    rig.on("EXPINFO")(lambda: {"main_sync": True, "exp_ref": OTHER})
    status, answer = ask(aux, "EXPINFO", "CONNECTED")
    assert status == ExpStatus.CONNECTED
    assert answer == info(ExpStatus.CONNECTED, OTHER, main_sync=True)
    assert rig.exp_ref is None  # it has only been told of it


def test_main_sync_and_description_as_given() -> None:
    with (
        Rig("cameras", "udp://127.0.0.1:0", main_sync=True, experiment_description=None) as rig,
        Auxiliaries({"cameras": rig.uri}) as aux,
    ):
        _, answer = ask(aux, "EXPINFO")
        assert answer["main_sync"] is True
        assert answer["experiment_description"] == {}


def test_handlers_get_what_follows_the_event(rig: Rig, aux: Auxiliaries) -> None:
    calls: list[tuple[Any, ...]] = []
    for message in ExpMessage.__members__:
        rig.on(message)(lambda *args, message=message: calls.append((message, *args)))
    ask(aux, "EXPINFO", "CONNECTED", {"task": "passive"})
    ask(aux, "EXPSTATUS", "CONNECTED")
    ask(aux, "EXPINIT", {"exp_ref": REFERENCE, "task": "passive"})
    ask(aux, "EXPSTART", {"date": "2026-03-01", "sequence": 2, "subject": "mouse"}, [1, None])
    ask(aux, "EXPEND", "done")
    ask(aux, "EXPCLEANUP")
    ask(aux, "ALYX", FakeAlyx())
    ask(aux, "ALYX")
    assert calls == [
        ("EXPINFO", 0, {"task": "passive"}),
        ("EXPSTATUS", 0),
        ("EXPINIT", {"exp_ref": REFERENCE, "task": "passive"}),
        ("EXPSTART", REFERENCE, [1, None]),
        ("EXPEND", "done"),
        ("EXPCLEANUP", None),
        ("ALYX", FakeAlyx.base_url, TOKEN),
        ("ALYX", None, {}),
    ]


def test_alyx_token_is_handed_over_and_asked_for(rig: Rig, aux: Auxiliaries) -> None:
    held: list[Any] = []

    @rig.on("ALYX")
    async def keep(base_url: str, token: dict[str, str]) -> Any:
        if token:
            held[:] = [base_url, token]
            return None
        return held

    ask(aux, "ALYX", FakeAlyx())
    assert held == [FakeAlyx.base_url, TOKEN]
    assert ask(aux, "ALYX") == [FakeAlyx.base_url, TOKEN]


def test_alyx_client_as_a_result(rig: Rig, aux: Auxiliaries) -> None:
    rig.on("ALYX")(lambda: FakeAlyx())
    assert ask(aux, "ALYX") == [FakeAlyx.base_url, TOKEN]


# ------------------------------------------------------------------------------------------------------ handlers


def test_plain_handlers_run_in_worker_threads_and_coroutines_on_the_loop(rig: Rig, aux: Auxiliaries) -> None:
    threads: dict[str, threading.Thread] = {}

    @rig.on("EXPSTATUS")
    def plain() -> None:
        threads["plain"] = threading.current_thread()

    @rig.on("EXPINFO")
    async def coroutine() -> None:
        await asyncio.sleep(0)
        threads["coroutine"] = threading.current_thread()

    ask(aux, "EXPSTATUS")
    ask(aux, "EXPINFO")
    assert threads["plain"].name == "rigsync-cameras-handler-1"
    assert threads["coroutine"].name == "rigsync-rig-cameras"
    assert all(thread.daemon for thread in threads.values())


class Camera:
    """Handlers of every shape that takes part of ``exp_ref, data``; each notes what it got."""

    def __init__(self) -> None:
        self.got: tuple[Any, ...] | None = None

    def none(self) -> None:
        self.got = ()

    def one(self, exp_ref: Any) -> None:
        self.got = (exp_ref,)

    def both(self, exp_ref: Any, data: Any) -> None:
        self.got = (exp_ref, data)

    def more(self, exp_ref: Any, data: Any, rest: Any = "own", *, keyword: Any = "own") -> None:
        self.got = (exp_ref, data, rest, keyword)

    def any_number(self, *args: Any, **kwargs: Any) -> None:
        assert not kwargs
        self.got = args

    async def coroutine(self, exp_ref: Any) -> None:
        self.got = (exp_ref,)

    def __call__(self, exp_ref: Any) -> None:
        self.got = (exp_ref,)


class AsyncCamera(Camera):
    async def __call__(self, exp_ref: Any) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.got = (exp_ref,)


CAMERA = Camera()
ASYNC_CAMERA = AsyncCamera()


@pytest.mark.parametrize(
    ("handler", "got"),
    [
        (CAMERA.none, ()),
        (CAMERA.one, (REFERENCE,)),
        (CAMERA.both, (REFERENCE, 5)),
        (CAMERA.more, (REFERENCE, 5, "own", "own")),
        (CAMERA.any_number, (REFERENCE, 5)),
        (CAMERA.coroutine, (REFERENCE,)),
        (CAMERA, (REFERENCE,)),
        (ASYNC_CAMERA, (REFERENCE,)),
        (functools.partial(CAMERA.both, data=7), (REFERENCE, 7)),
        (functools.partial(CAMERA.coroutine), (REFERENCE,)),
        (functools.partial(ASYNC_CAMERA), (REFERENCE,)),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_handlers_may_take_fewer_arguments(
    rig: Rig, aux: Auxiliaries, handler: Callable[..., Any], got: tuple[Any, ...]
) -> None:
    CAMERA.got = ASYNC_CAMERA.got = None
    rig.on("EXPSTART")(handler)
    ask(aux, "EXPINIT", REFERENCE)
    ask(aux, "EXPSTART", REFERENCE, 5)
    assert got in (CAMERA.got, ASYNC_CAMERA.got)


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["thread", "coroutine"])
def test_a_handler_of_a_later_instant_begins_no_sooner(rig: Rig, aux: Auxiliaries, is_coroutine: bool) -> None:
    entered = []
    ask(aux, "EXPINIT", REFERENCE)

    def begin() -> None:
        entered.append(time.monotonic())

    async def begin_on_the_loop() -> None:
        begin()

    rig.on("EXPSTART")(begin_on_the_loop if is_coroutine else begin)
    assert aux.services
    clock = aux.services["cameras"].clock
    assert clock
    pushed = time.monotonic()
    outcome = aux.push("EXPSTART", REFERENCE, delay=0.3, wait=True, timeout=LONG)
    assert isinstance(outcome, PushResult)
    assert entered[0] >= pushed + 0.3 - 2 * clock.bound - 1e-3


def test_on_returns_the_handler_and_takes_many_messages(rig: Rig, aux: Auxiliaries) -> None:
    calls: list[Any] = []

    @rig.on("expend", ExpMessage.EXPINTERRUPT, int(ExpMessage.EXPCLEANUP))
    def stop(data: Any) -> None:
        calls.append(data)

    stop("directly")
    for message in ("EXPEND", "EXPINTERRUPT"):
        ask(aux, "EXPINIT")
        ask(aux, message, message)
    ask(aux, "EXPCLEANUP", "EXPCLEANUP")
    assert calls == ["directly", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP"]


def test_the_topic_and_the_key_of_a_notice_are_text(rig: Rig) -> None:
    with pytest.raises(TypeError, match="the topic of a notice is text, not int"):
        rig.notify(5, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the key of a notice is text, not int"):
        rig.notify("log", 1, key=5)  # type: ignore[arg-type]


def test_on_refuses_what_cannot_be() -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    with pytest.raises(TypeError, match="EXPSTART"):
        rig.on()
    with pytest.raises(ValueError, match="EXPSTAR"):
        rig.on("EXPSTAR")
    with pytest.raises(ValueError, match="EXPINIT"):
        rig.on(ExpMessage.EXPINIT | ExpMessage.EXPEND)
    with pytest.raises(TypeError, match="EXPSTART"):
        rig.on(print)  # type: ignore[arg-type] # without parentheses, as a decorator
    with pytest.raises(TypeError, match="NoneType"):
        rig.on("EXPINIT")(None)  # type: ignore[type-var]


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "with a coroutine"])
def test_several_handlers_of_one_message(rig: Rig, aux: Auxiliaries, mixed: bool) -> None:
    order: list[str] = []

    @rig.on("EXPINIT")
    def left() -> dict[str, Any]:
        order.append("left")
        return {"left": 1, "last": "left"}

    @rig.on("EXPINIT")
    def middle() -> None:
        order.append("middle")

    if mixed:

        @rig.on("EXPINIT")
        async def right() -> dict[str, Any]:
            order.append("right")
            return {"right": 2, "last": "right"}

    else:

        @rig.on("EXPINIT")
        def right() -> dict[str, Any]:
            order.append("right")
            return {"right": 2, "last": "right"}

    [answer] = ask(aux, "EXPINIT", REFERENCE)
    assert order == ["left", "middle", "right"]
    assert answer == info(ExpStatus.INITIALIZED, REFERENCE, left=1, right=2, last="right")


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "with a coroutine"])
def test_others_run_though_one_handler_raises(
    rig: Rig, aux: Auxiliaries, mixed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    @rig.on("EXPINIT")
    def left_camera() -> None:
        raise FileNotFoundError("no such drive: D:")

    @rig.on("EXPINIT")
    def right_camera() -> None:
        raise KeyError("exposure")

    if mixed:

        @rig.on("EXPINIT")
        async def top_camera() -> None:
            ran.append("top")

    else:

        @rig.on("EXPINIT")
        def top_camera() -> None:
            ran.append("top")

    error = error_of(aux, "EXPINIT", REFERENCE)
    assert ran == ["top"]
    assert (error.error, error.message) == ("FileNotFoundError", "no such drive: D:")
    assert "in left_camera" in error.traceback
    assert rig.status is ExpStatus.CONNECTED
    failures = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [name for text in failures for name in ("left_camera", "right_camera", "top_camera") if name in text] == [
        "left_camera",
        "right_camera",
    ]


def test_several_handlers_whose_results_cannot_be_merged(rig: Rig, aux: Auxiliaries) -> None:
    rig.on("EXPINIT")(lambda: {"left": 1})
    rig.on("EXPINIT")(lambda: 5)
    assert error_of(aux, "EXPINIT", REFERENCE).error == "TypeError"
    assert rig.status is ExpStatus.CONNECTED


def raise_plainly() -> None:
    raise OSError("disk full: é 漢字 \N{SNOWMAN}")


async def raise_on_the_loop() -> None:
    await asyncio.sleep(0)
    raise_plainly()


@pytest.mark.parametrize("handler", [raise_plainly, raise_on_the_loop])
def test_exception_comes_back_with_type_text_and_traceback(
    rig: Rig, aux: Auxiliaries, handler: Callable[[], Any]
) -> None:
    rig.on("EXPINIT")(handler)
    error = error_of(aux, "EXPINIT", REFERENCE)
    assert (error.rig, error.error, error.message) == ("cameras", "OSError", "disk full: é 漢字 \N{SNOWMAN}")
    assert str(error) == "cameras: OSError: disk full: é 漢字 \N{SNOWMAN}"
    assert error.traceback.startswith("Traceback (most recent call last):")
    assert f"in {handler.__name__}" in error.traceback
    assert "raise OSError(" in error.traceback
    assert rig.status is ExpStatus.CONNECTED


@pytest.mark.parametrize("handler", [raise_plainly, raise_on_the_loop])
def test_what_a_handler_raises_is_logged_once_with_the_message(
    rig: Rig, aux: Auxiliaries, handler: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    rig.on("EXPINIT")(handler)
    error_of(aux, "EXPINIT", REFERENCE)
    ask(aux, "EXPSTATUS")  # by which time that was told
    (record,) = [r for r in caplog.records if r.name == "rigsync.rig" and "disk full" in r.getMessage()]
    assert re.fullmatch(r"cameras: EXPINIT from 127\.0\.0\.1:\d+: OSError: disk full: .*", record.getMessage())
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[0] is OSError


def test_what_further_handlers_raise_and_what_is_raised_too_late_is_logged_too(
    rig: Rig, aux: Auxiliaries, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_late() -> None:
        gate()
        raise_plainly()

    rig.on("EXPINFO")(raise_plainly)
    rig.on("EXPINFO")(lambda: 1 / 0)
    rig.on("EXPINIT")(fail_late)
    aux.push("EXPINIT", REFERENCE)
    assert gate.reached.wait(LONG)
    ask(aux, "EXPINTERRUPT")
    gate.open.set()
    until(lambda: "cameras: the handler of EXPINIT failed: OSError: disk full: " in caplog.text)
    error_of(aux, "EXPINFO")
    ask(aux, "EXPSTATUS")
    assert len(re.findall(r"cameras: handler \S+<lambda> of EXPINFO failed: ZeroDivisionError", caplog.text)) == 1
    assert len([r for r in caplog.records if r.name == "rigsync.rig" and "disk full" in r.getMessage()]) == 2


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this exception has no text")


class Empty(Exception):
    def __len__(self) -> int:
        return 0


EXCEPTIONS = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(),
    "StopAsyncIteration": StopAsyncIteration(),
    "CancelledError": asyncio.CancelledError(),
    "Unprintable": Unprintable(),
    "Empty": Empty("is false, and an error all the same"),
    "long": ValueError("x" * 200_000),
    "surrogates": ValueError("\udcff\ud800"),
}


@pytest.mark.parametrize("error", EXCEPTIONS.values(), ids=EXCEPTIONS)
@pytest.mark.parametrize("way", ["plain", "coroutine", "plain beside a coroutine"])
def test_rig_survives_whatever_a_handler_raises(rig: Rig, aux: Auxiliaries, way: str, error: BaseException) -> None:
    also: list[str] = []

    def fail() -> None:
        raise error

    async def fail_on_the_loop() -> None:
        raise error

    async def go_on() -> None:
        also.append("ran")

    rig.on("EXPINIT")(fail_on_the_loop if way == "coroutine" else fail)
    if way != "plain":
        rig.on("EXPINIT")(go_on)
    told = error_of(aux, "EXPINIT", REFERENCE)
    if way == "coroutine" and isinstance(error, StopIteration | StopAsyncIteration):
        assert told.error in ("RuntimeError", type(error).__name__)  # Python makes the one of the other
    else:
        assert told.error == type(error).__name__
    assert also == ["ran"] * (way != "plain")
    assert rig.is_running
    assert ask(aux, "EXPSTATUS") == [0]
    rig.on("EXPSTATUS")(lambda: None)  # a worker has to be there yet
    assert ask(aux, "EXPSTATUS") == [0]


class Treacherous(Mapping[str, Any]):
    """A result whose encoding raises."""

    def __init__(self, error: BaseException):
        self._error = error

    def __getitem__(self, key: str) -> Any:
        raise self._error

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


endless: dict[str, Any] = {}
endless["again"] = endless

JUNK = {
    "text": ("fine", "TypeError", "str"),
    "number": (5, "TypeError", "int"),
    "list": ([1, 2], "TypeError", "list"),
    "false": (False, "TypeError", "bool"),
    "generator": ((n for n in ()), "TypeError", "generator"),
    "object": ({"camera": object()}, "PayloadError", "camera"),
    "bytes": ({"frame": b"\x00"}, "PayloadError", "frame"),
    "refers to itself": (endless, "PayloadError", "nested"),
    "too large": ({"frames": "x" * 70_000}, "PayloadTooLarge", "65,507"),
    "raises": (Treacherous(OSError("gone")), "OSError", "gone"),
    "exits": (Treacherous(SystemExit("gone")), "SystemExit", "gone"),
    "raises within": ({"camera": Treacherous(LookupError("gone"))}, "LookupError", "gone"),
}


@pytest.mark.parametrize(("returned", "kind", "word"), JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("way", ["plain", "coroutine"])
def test_junk_results_are_the_handlers_failure(
    rig: Rig, aux: Auxiliaries, way: str, returned: Any, kind: str, word: str
) -> None:
    async def on_the_loop() -> Any:
        return returned

    rig.on("EXPINIT")(on_the_loop if way == "coroutine" else lambda: returned)
    error = error_of(aux, "EXPINIT", REFERENCE)
    assert error.error == kind
    assert word in error.message
    assert rig.status is ExpStatus.CONNECTED
    assert ask(aux, "EXPSTATUS") == [0]


@pytest.mark.parametrize("mapping", [{}, {1: 2}, Treacherous], ids=["empty", "keys that are no text", "class"])
def test_odd_results(rig: Rig, aux: Auxiliaries, mapping: Any) -> None:
    rig.on("EXPINIT")(lambda: mapping)
    if mapping is Treacherous:
        assert error_of(aux, "EXPINIT", REFERENCE).error == "TypeError"
    else:
        more = {str(key): value for key, value in mapping.items()}
        assert ask(aux, "EXPINIT", REFERENCE) == [info(ExpStatus.INITIALIZED, REFERENCE, **more)]


def test_as_large_an_answer_as_a_datagram_carries(rig: Rig, aux: Auxiliaries) -> None:
    frames = "x" * 65_000
    rig.on("EXPINFO")(lambda: {"frames": frames})
    assert ask(aux, "EXPINFO")[1]["frames"] == frames
    with Auxiliaries({"cameras": {"uri": rig.uri, "dialect": "iblutil"}}) as other:
        assert ask(other, "EXPINFO")[1]["frames"] == frames


def test_what_has_failed_can_be_tried_again(rig: Rig, aux: Auxiliaries) -> None:
    faults = [OSError("camera 1 is off"), OSError("camera 2 is off")]

    @rig.on("EXPINIT")
    def initialise() -> dict[str, Any]:
        if faults:
            raise faults.pop(0)
        return {"cameras": 2}

    assert error_of(aux, "EXPINIT", REFERENCE).message == "camera 1 is off"
    assert error_of(aux, "EXPINIT", REFERENCE).message == "camera 2 is off"
    assert ask(aux, "EXPINIT", REFERENCE) == [info(ExpStatus.INITIALIZED, REFERENCE, cameras=2)]


def test_a_failed_interrupt_ends_in_stopped_all_the_same(rig: Rig, aux: Auxiliaries) -> None:
    rig.on("EXPINTERRUPT")(raise_plainly)
    ask(aux, "EXPINIT", REFERENCE)
    ask(aux, "EXPSTART", REFERENCE)
    assert error_of(aux, "EXPINTERRUPT").error == "OSError"
    assert rig.status is ExpStatus.STOPPED


def test_log_says_what_happened_and_no_secrets(rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rigsync.rig")
    ask(aux, "EXPINIT", {"exp_ref": REFERENCE, "secret": "s3cr3t"})
    ask(aux, "ALYX", FakeAlyx())
    error_of(aux, "EXPSTART", OTHER)

    def text() -> str:
        return "\n".join(record.getMessage() for record in caplog.records if record.name == "rigsync.rig")

    until(lambda: "StateError: EXPSTART" in text())
    assert f"INITIALIZED, was CONNECTED ({REFERENCE})" in text()
    assert "s3cr3t" not in text()
    assert TOKEN["sync"] not in text()


# ---------------------------------------------------------------------------------------- slow handlers, EXPINTERRUPT


def test_slow_handler_does_not_stop_the_rig_from_answering(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    rig.on("EXPSTART")(gate)
    ask(aux, "EXPINIT", REFERENCE)
    asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
    assert gate.reached.wait(LONG)
    reply = aux.ping("cameras", timeout=LONG)["cameras"]
    assert not isinstance(reply, Exception)
    assert (reply.status, reply.exp_ref) == ("INITIALIZED", REFERENCE)
    with Auxiliaries({"cameras": rig.uri}) as second:  # another coordinator is not held up either
        assert ask(second, "EXPSTATUS") == [10]
        assert ask(second, "EXPINFO")[1]["exp_ref"] == REFERENCE
    assert aux.response(asked) is None
    gate.open.set()
    assert until(lambda: aux.response(asked))["cameras"][0] == REFERENCE
    assert rig.status is ExpStatus.RUNNING


def test_lifecycle_messages_wait_for_each_other(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    order: list[str] = []
    rig.on("EXPINIT")(gate)
    rig.on("EXPINIT")(lambda: order.append("EXPINIT"))
    rig.on("EXPSTART")(lambda: order.append("EXPSTART"))
    with Auxiliaries({"cameras": rig.uri}) as second:
        first = aux.push("EXPINIT", REFERENCE, timeout=LONG)
        assert gate.reached.wait(LONG)
        then = aux.push("EXPSTART", REFERENCE, timeout=LONG)
        # Another coordinator need not wait to hear that it is not in charge.
        assert isinstance(second.push("EXPSTART", wait=True, timeout=LONG).failed["cameras"], BusyError)
        gate.open.set()
        assert "cameras" in until(lambda: aux.response(first))
        assert "cameras" in until(lambda: aux.response(then))
    assert order == ["EXPINIT", "EXPSTART"]


def test_interrupt_runs_while_another_handler_is_stuck(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    interrupted: list[Any] = []
    rig.on("EXPSTART")(gate)
    rig.on("EXPINTERRUPT")(lambda data: interrupted.append(data))
    ask(aux, "EXPINIT", REFERENCE)
    asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
    assert gate.reached.wait(LONG)
    assert ask(aux, "EXPINTERRUPT", "smoke") == [info(ExpStatus.STOPPED, REFERENCE)]
    assert not gate.left.is_set()
    assert interrupted == ["smoke"]
    outcome = until(lambda: aux.response(asked))
    assert isinstance(outcome.failed["cameras"], Interrupted)
    gate.open.set()
    assert gate.left.wait(LONG)
    # What the overtaken handler returns in the end changes nothing, and the next experiment can begin.
    assert rig.status is ExpStatus.STOPPED
    assert ask(aux, "EXPINIT", OTHER) == [info(ExpStatus.INITIALIZED, OTHER)]
    assert ask(aux, "EXPSTART", OTHER) == [OTHER, info(ExpStatus.RUNNING, OTHER)]


def test_interrupt_from_another_coordinator(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    rig.on("EXPSTART")(gate)
    ask(aux, "EXPINIT", REFERENCE)
    asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
    assert gate.reached.wait(LONG)
    with Auxiliaries({"cameras": rig.uri}) as second:
        assert ask(second, "EXPINTERRUPT") == [info(ExpStatus.STOPPED, REFERENCE)]
    failure = until(lambda: aux.response(asked)).failed["cameras"]
    assert isinstance(failure, Interrupted)
    assert "EXPINTERRUPT overtook EXPSTART" in str(failure)


@pytest.mark.parametrize("name", ["Cancelled", "Interrupted", "RigRestarted"])
def test_what_a_handler_raises_is_not_taken_for_what_the_rig_says(rig: Rig, aux: Auxiliaries, name: str) -> None:
    @rig.on("EXPINIT")
    def fail(_: Any) -> None:
        raise type(name, (Exception,), {})("the filter wheel is stuck")

    with pytest.raises(PushError) as caught:
        aux.request("EXPINIT")
    failure = caught.value.failed["cameras"]
    assert isinstance(failure, RemoteError)
    assert (failure.error, failure.message) == (name, "the filter wheel is stuck")


def test_what_comes_during_an_interrupt_waits_for_it(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    interrupts: list[Any] = []
    rig.on("EXPINTERRUPT")(lambda data: interrupts.append(data) or gate())
    ask(aux, "EXPINIT", REFERENCE)
    ask(aux, "EXPSTART", REFERENCE)
    first = aux.push("EXPINTERRUPT", 1, timeout=LONG)
    assert gate.reached.wait(LONG)
    with Auxiliaries({"cameras": rig.uri}) as second, Auxiliaries({"cameras": rig.uri}) as third:
        again = second.push("EXPINTERRUPT", 2, timeout=LONG)
        assert ask(third, "EXPSTATUS") == [20]
        assert second.ping("cameras", timeout=LONG)
        init = third.push("EXPINIT", {"exp_ref": REFERENCE, "takeover": True}, timeout=LONG)
        assert third.ping("cameras", timeout=LONG)
        # A takeover runs nothing, and need not wait for what does.
        assert until(lambda: third.response(init))["cameras"] == [info(ExpStatus.RUNNING, REFERENCE)]
        gate.open.set()
        assert until(lambda: aux.response(first))["cameras"] == [info(ExpStatus.STOPPED, REFERENCE)]
        assert until(lambda: second.response(again))["cameras"] == [info(ExpStatus.STOPPED, REFERENCE)]
    assert interrupts == [1]  # the second found nothing to stop any more


@pytest.mark.parametrize("sulks", [False, True], ids=["ends", "will not end"])
def test_interrupt_cancels_a_coroutine_handler(rig: Rig, aux: Auxiliaries, gate: Gate, sulks: bool) -> None:
    seen: list[str] = []
    done = asyncio.Event()

    @rig.on("EXPSTART")
    async def record() -> dict[str, Any]:
        gate.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            if not sulks:
                raise
            await done.wait()
        return {"late": True}

    @rig.on("EXPINTERRUPT")
    async def stop() -> None:
        seen.append("interrupted")

    ask(aux, "EXPINIT", REFERENCE)
    asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
    assert gate.reached.wait(LONG)
    assert ask(aux, "EXPINTERRUPT") == [info(ExpStatus.STOPPED, REFERENCE)]
    assert sorted(seen) == ["cancelled", "interrupted"]
    assert isinstance(until(lambda: aux.response(asked)).failed["cameras"], Interrupted)

    @rig.on("EXPINIT")
    async def let_go() -> None:
        done.set()

    assert ask(aux, "EXPINIT", OTHER) == [info(ExpStatus.INITIALIZED, OTHER)]
    assert ask(aux, "EXPSTATUS") == [10]


@pytest.mark.parametrize("kind", ["plain", "coroutine", "plain and coroutine"])
def test_no_further_handler_of_a_message_begins_once_it_is_overtaken(
    rig: Rig, aux: Auxiliaries, gate: Gate, kind: str
) -> None:
    """Else it would start what EXPINTERRUPT has stopped."""
    ended, started = threading.Event(), threading.Event()

    async def slow() -> None:
        gate.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("could not tidy up") from None
        finally:
            ended.set()

    def start() -> None:
        started.set()

    async def start_on_the_loop() -> None:
        started.set()

    rig.on("EXPSTART")(slow if kind == "coroutine" else gate)
    rig.on("EXPSTART")(start_on_the_loop if kind.endswith("coroutine") else start)
    ask(aux, "EXPINIT", REFERENCE)
    aux.push("EXPSTART", REFERENCE)
    assert gate.reached.wait(LONG)
    assert ask(aux, "EXPINTERRUPT") == [info(ExpStatus.STOPPED, REFERENCE)]
    gate.open.set()
    assert (ended if kind == "coroutine" else gate.left).wait(LONG)
    rig.on("EXPSTATUS")(lambda: None)
    assert ask(aux, "EXPSTATUS") == [30]  # after which whatever was to follow would have begun
    assert not started.is_set()


@pytest.mark.parametrize("beside", [None, "coroutine"])
@pytest.mark.parametrize("event", ["EXPINIT", "EXPSTART"])
def test_what_a_handler_begins_after_it_was_overtaken_is_told_as_a_failure(
    rig: Rig, aux: Auxiliaries, gate: Gate, caplog: pytest.LogCaptureFixture, event: str, beside: str | None
) -> None:
    """It may have begun to record after the handler of EXPINTERRUPT had stopped all that ran by then."""
    told: list[Notice] = []
    aux.on("notice", lambda notice: told.append(notice) if notice.topic == "failure" else None)

    async def other() -> None:
        """Have the handlers run on the loop, from which the plain one is waited for."""

    rig.on(event)(gate)
    if beside:
        rig.on(event)(other)
    if event == "EXPSTART":
        ask(aux, "EXPINIT", REFERENCE)
    aux.push(event, REFERENCE)
    assert gate.reached.wait(LONG)
    ask(aux, "EXPINTERRUPT")
    assert not told
    gate.open.set()
    until(lambda: told)
    assert told[0].body["exp_ref"] == REFERENCE
    problem = f"the handler of {event} went on after EXPINTERRUPT had overtaken it, and has ended only now"
    assert problem in told[0].body["problem"]
    assert f"cameras: {problem}" in caplog.text
    assert rig.status is ExpStatus.STOPPED


@pytest.mark.parametrize("event", ["EXPEND", "EXPINFO"])
def test_of_other_handlers_that_were_overtaken_nothing_is_told(
    rig: Rig, aux: Auxiliaries, gate: Gate, event: str
) -> None:
    told: list[Notice] = []
    aux.on("notice", lambda notice: told.append(notice) if notice.topic == "failure" else None)
    rig.on(event)(gate)
    rig.on("EXPSTATUS")(lambda: None)
    ask(aux, "EXPINIT", REFERENCE)
    aux.push(event)
    assert gate.reached.wait(LONG)
    aux.push("EXPINTERRUPT")
    gate.open.set()
    assert gate.left.wait(LONG)
    assert ask(aux, "EXPSTATUS")
    rig.notify("failure", "the only one")
    until(lambda: told)
    assert [notice.body for notice in told] == ["the only one"]


def test_no_number_of_stuck_handlers_stops_an_interrupt(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    entered = threading.Semaphore(0)

    def stick() -> None:
        entered.release()
        gate()

    rig.on("EXPINFO", "EXPSTART")(stick)
    rig.on("EXPINTERRUPT")(lambda: {"thread": threading.current_thread().name})
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Auxiliaries({"cameras": rig.uri})) for _ in range(QUERIES + 3)]
        asked = [other.push("EXPINFO", timeout=LONG) for other in others]
        assert all(entered.acquire(timeout=LONG) for _ in range(QUERIES))  # once one is in charge, half of them run
        ask(aux, "EXPINIT", REFERENCE)
        aux.push("EXPSTART", REFERENCE)
        assert entered.acquire(timeout=LONG)
        [answer] = ask(aux, "EXPINTERRUPT")
        assert answer["thread"] == f"rigsync-cameras-handler-{QUERIES + 2}"
        gate.open.set()
        for other, when in zip(others, asked, strict=True):  # those beyond the limit had to wait, and that is all
            assert "cameras" in until(lambda other=other, when=when: other.response(when))


# ------------------------------------------------------------------------------------------------------ life cycle


def test_refusals_come_back_as_state_errors(rig: Rig, aux: Auxiliaries) -> None:
    ran: list[str] = []
    for message in ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP"):
        rig.on(message)(functools.partial(ran.append, message))

    def refused(*message: Any, allowed: str, status: str) -> None:
        before = rig.status, ran.copy()
        error = error_of(aux, *message)
        assert error.error == "StateError"
        assert message[0] in error.message
        assert status in error.message
        assert allowed in error.message
        assert error.traceback == ""
        assert (rig.status, ran) == before

    refused("EXPSTART", REFERENCE, status="CONNECTED", allowed="EXPINIT")
    ask(aux, "EXPINIT", {"exp_ref": REFERENCE})
    refused("EXPSTART", OTHER, status="INITIALIZED", allowed="EXPEND")
    ask(aux, "EXPSTART", REFERENCE)
    refused("EXPINIT", {"exp_ref": OTHER}, status="RUNNING", allowed="EXPEND")
    refused("EXPSTART", OTHER, status="RUNNING", allowed="EXPEND")
    refused("EXPCLEANUP", status="RUNNING", allowed="EXPINTERRUPT")
    ask(aux, "EXPEND")
    refused("EXPSTART", REFERENCE, status="STOPPED", allowed="EXPCLEANUP")
    assert ran == ["EXPINIT", "EXPSTART", "EXPEND"]


def test_repeats_answer_as_the_first_time_and_run_nothing(rig: Rig, aux: Auxiliaries) -> None:
    runs = iter(range(100))
    rig.on("EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP")(lambda: {"run": next(runs)})
    for message in (("EXPINIT", REFERENCE), ("EXPSTART", REFERENCE), ("EXPEND",)):
        first = ask(aux, *message)
        assert ask(aux, *message) == first
        assert ask(aux, *message) == first
    assert ask(aux, "EXPINTERRUPT") == [info(ExpStatus.STOPPED, REFERENCE)]
    assert next(runs) == 3


def test_status_and_reference_follow_the_experiment(rig: Rig, aux: Auxiliaries) -> None:
    assert (rig.status, rig.exp_ref) == (ExpStatus.CONNECTED, None)
    ask(aux, "EXPINIT", {"exp_ref": {"date": "2026-03-01", "sequence": "002", "subject": "mouse"}})
    assert (rig.status, rig.exp_ref) == (ExpStatus.INITIALIZED, REFERENCE)
    ask(aux, "EXPSTART", "2026-03-01_002_mouse")  # as ALF writes it
    assert (rig.status, rig.exp_ref) == (ExpStatus.RUNNING, REFERENCE)
    assert repr(rig) == f"<Rig cameras {rig.uri} RUNNING>"
    ask(aux, "EXPEND")
    assert (rig.status, rig.exp_ref) == (ExpStatus.STOPPED, REFERENCE)
    ask(aux, "EXPCLEANUP")
    assert (rig.status, rig.exp_ref) == (ExpStatus.CONNECTED, None)
    rig.close()
    assert repr(rig) == f"<Rig cameras {rig.uri} not running>"


# ------------------------------------------------------------------------------------------------------- listening


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_port_zero_tells_the_real_port(host: str) -> None:
    rig = Rig("cameras", f"{host}:0")
    assert rig.uri == f"udp://{host}:0"
    with rig:
        assert rig.uri.startswith("udp://127.0.0.1:")
        assert port_of(rig.uri) > 0
        with Auxiliaries({"cameras": rig.uri}) as aux:
            assert aux.all_alive


def test_default_port_and_any_interface() -> None:
    assert Rig("cameras").uri == "udp://0.0.0.0:11001"
    with (
        Rig("cameras", "udp://0.0.0.0:0") as rig,
        Auxiliaries({"cameras": f"127.0.0.1:{port_of(rig.uri)}"}) as aux,
    ):
        assert rig.uri.startswith("udp://0.0.0.0:")
        assert ask(aux, "EXPSTATUS") == [0]


@pytest.mark.skipif(not has_ipv6(), reason="this computer has no IPv6")
def test_ipv6() -> None:
    with Rig("cameras", "udp://[::1]:0") as rig, Auxiliaries({"cameras": rig.uri}) as aux:
        assert rig.uri.startswith("udp://[::1]:")
        assert port_of(rig.uri) > 0
        assert aux.all_alive
        assert ask(aux, "EXPINIT", REFERENCE) == [
            {**info(ExpStatus.INITIALIZED, REFERENCE), "experiment_description": {}}
        ]
        reply = aux.ping("cameras", timeout=LONG)["cameras"]
        assert not isinstance(reply, Exception)
        assert reply.address == rig.uri.removeprefix("udp://")


@pytest.mark.parametrize("way", ["start", "with", "async with", "run"])
def test_port_in_use(way: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        rig = Rig("cameras", f"udp://127.0.0.1:{port}")

        async def serve() -> None:
            async with rig:
                pass

        ways = {"start": rig.start, "with": rig.__enter__, "async with": lambda: asyncio.run(serve()), "run": rig.run}
        with pytest.raises(ListenError) as caught:
            ways[way]()
        assert str(port) in str(caught.value)
        assert "in use" in str(caught.value)
        if sys.platform == "linux":
            assert f"pid {os.getpid()}" in str(caught.value)
        assert caught.value.__suppress_context__  # the system's error, of whose traceback nobody learns more
        assert not rig.is_running
    with rig:  # once the port is free, the same rig can begin
        assert rig.is_running


def test_two_rigs_at_one_port(rig: Rig) -> None:
    rig.start()
    with pytest.raises(ListenError, match="in use"):
        Rig("ephys", rig.uri).start()


def test_address_of_another_machine() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1.*0\.0\.0\.0"):
        Rig("cameras", "udp://192.0.2.1:0").start()  # set aside for documentation (RFC 5737)


def test_host_that_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.invalid"):
        Rig("cameras", "udp://nowhere.invalid:0").start()  # is never a name (RFC 6761)


@pytest.mark.parametrize("uri", ["wss://127.0.0.1:11001", "udp://127.0.0.1:99999", "", "udp://a b"])
def test_malformed_uri(uri: str) -> None:
    with pytest.raises(ConfigError):
        Rig("cameras", uri)


def test_description_that_cannot_be_sent() -> None:
    with pytest.raises(PayloadError, match=r"experiment_description\['camera'\]"):
        Rig("cameras", experiment_description={"camera": object()})


# ------------------------------------------------------------------------------------------- starting and ending


def test_start_and_close(rig: Rig) -> None:
    assert not rig.is_running
    rig.close()  # nothing to do yet
    rig.start()
    assert rig.is_running
    with pytest.raises(RuntimeError, match="cameras serves already"):
        rig.start()
    with pytest.raises(RuntimeError, match="cameras serves already"), rig:
        pass
    assert rig.is_running
    rig.close()
    assert not rig.is_running
    assert rig.status is ExpStatus.CONNECTED
    rig.close()


def test_close_says_goodbye_and_a_restart_is_noticed() -> None:
    rig = Rig("cameras", f"udp://127.0.0.1:{free_port()}")
    changes: list[LinkChanged] = []
    restarts: list[Any] = []
    with rig, Auxiliaries({"cameras": rig.uri}) as aux:
        aux.on("LinkChanged", changes.append)
        aux.on("RestartSeen", restarts.append)
        ask(aux, "EXPINIT", REFERENCE)
        rig.close()
        farewell = until(lambda: changes)[0]
        assert (farewell.after, farewell.reason) == (LinkState.LOST, "it said goodbye: the rig is closing")
        assert not aux.all_alive
        rig.start()
        assert rig.status is ExpStatus.CONNECTED
        until(lambda: aux.all_alive)
        until(lambda: restarts)
        assert ask(aux, "EXPSTATUS") == [0]


def test_handlers_stay_over_a_restart(rig: Rig) -> None:
    rig.on("EXPINIT")(lambda: {"run": 1})
    for _ in range(3):
        with rig, Auxiliaries({"cameras": rig.uri}) as aux:
            assert ask(aux, "EXPINIT", REFERENCE)[0]["run"] == 1


def test_async_with(gate: Gate) -> None:
    ended: list[str] = []

    async def serve() -> None:
        rig = Rig("cameras", "udp://127.0.0.1:0", experiment_description=DESCRIPTION)
        loop = asyncio.get_running_loop()

        @rig.on("EXPINIT")
        async def on_the_loop() -> dict[str, Any]:
            assert asyncio.get_running_loop() is loop
            return {"loop": "mine"}

        @rig.on("EXPSTART")
        async def record() -> None:
            gate.reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("record")

        @rig.on("EXPSTATUS")
        def plain() -> None:
            assert threading.current_thread() is not threading.main_thread()

        async with rig:
            assert rig.is_running
            with pytest.raises(RuntimeError, match="serves already"):
                await rig.__aenter__()
            with pytest.raises(RuntimeError, match="serves already"):
                rig.start()
            await asyncio.to_thread(command, rig)
            assert ended == []
        assert ended == ["record"]
        assert not rig.is_running
        async with rig:  # and again
            assert rig.is_running

    def command(rig: Rig) -> None:
        with Auxiliaries({"cameras": rig.uri}, leave_running=True) as aux:
            assert ask(aux, "EXPINIT", REFERENCE) == [info(ExpStatus.INITIALIZED, REFERENCE, loop="mine")]
            assert ask(aux, "EXPSTATUS") == [10]
            aux.push("EXPSTART")
            assert gate.reached.wait(LONG)

    run_on_selector_loop(serve())


def run_on_selector_loop(coroutine: Any) -> None:
    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(coroutine)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


@pytest.mark.parametrize("stuck", ["coroutine", "worker"])
def test_leaving_async_with_is_bounded(gate: Gate, stuck: str, caplog: pytest.LogCaptureFixture) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def serve() -> None:
        rig = Rig("cameras", "udp://127.0.0.1:0")

        async def sulk() -> None:
            task = asyncio.current_task()
            assert task
            tasks.append(task)
            gate.reached.set()
            while not gate.open.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

        rig.on("EXPINIT")(sulk if stuck == "coroutine" else gate)
        async with rig:
            with await asyncio.to_thread(Auxiliaries, {"cameras": rig.uri}) as aux:
                aux.push("EXPINIT")
                await asyncio.to_thread(gate.reached.wait, LONG)
                await asyncio.to_thread(aux.close)
            before = time.monotonic()
        assert time.monotonic() - before < 2 * CLOSE_PROMISE + SLACK
        assert not rig.is_running
        gate.open.set()
        await asyncio.gather(*tasks)
        left = "cameras: rigsync EXPINIT handler does not end when cancelled; it is left to itself"
        assert (left in [record.getMessage() for record in caplog.records]) == (stuck == "coroutine")

    run_on_selector_loop(serve())


class Stuck:
    """Handlers that do not end by themselves."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def worker(self) -> None:
        self.gate()

    async def coroutine(self) -> None:
        self.gate.reached.set()
        while not self.gate.open.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def loop(self) -> None:
        self.gate()


@pytest.mark.parametrize("kind", ["worker", "coroutine", "loop"])
def test_close_is_bounded_whatever_a_handler_does(gate: Gate, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig("cameras", f"udp://127.0.0.1:{free_port()}")
    rig.on("EXPINIT")(getattr(Stuck(gate), kind))
    rig.start()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("rigsync-rig-cameras")]
    with Auxiliaries({"cameras": rig.uri}) as aux:
        aux.push("EXPINIT")
        assert gate.reached.wait(LONG)
    before = time.monotonic()
    rig.close()
    assert time.monotonic() - before < CLOSE_PROMISE + SLACK
    assert not rig.is_running
    rig.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    if kind == "worker":
        assert any("rigsync-cameras-handler-1" in text for text in warnings)
    # Once the handler ends, all of it is over, and the port is free for the next.
    gate.open.set()
    for thread in (*threads, *handler_threads()):
        thread.join(LONG)
        assert not thread.is_alive()
    gc.collect()
    assert "GeneratorExit" not in caplog.text  # that its event loop is gone is no failure of a handler
    with rig, Auxiliaries({"cameras": rig.uri}) as aux:
        assert ask(aux, "EXPSTATUS") == [0]


def handler_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rigsync-cameras-handler")]


def test_close_in_a_handler_of_its_own(rig: Rig) -> None:
    raised: list[BaseException] = []

    @rig.on("EXPSTATUS")
    async def close_on_the_loop() -> None:
        try:
            rig.close()
        except LoopBlocked as error:
            raised.append(error)
            raise

    @rig.on("EXPCLEANUP")
    def close() -> None:
        rig.close()

    rig.start()
    with Auxiliaries({"cameras": rig.uri}) as aux:
        assert error_of(aux, "EXPSTATUS").error == "LoopBlocked"
        assert raised
        assert rig.is_running
        ask(aux, "EXPINIT")
        ask(aux, "EXPEND")
        before = time.monotonic()
        outcome = aux.push("EXPCLEANUP", wait=True, timeout=LONG)
        assert isinstance(outcome, PushError)
        assert isinstance(outcome.failed["cameras"], RigLost | RigRefused)
        assert time.monotonic() - before < LONG
    until(lambda: not rig.is_running)
    until(lambda: not handler_threads())


def test_run_ends_when_the_rig_is_closed(rig: Rig) -> None:
    """By another thread, or by one of its own handlers."""
    running = threading.Thread(target=rig.run)
    running.start()
    until(lambda: rig.is_running)
    with Auxiliaries({"cameras": rig.uri}) as aux:
        assert ask(aux, "EXPSTATUS") == [0]
    rig.close()
    running.join(LONG)
    assert not running.is_alive()


@posix
def test_run_gives_the_signals_back(rig: Rig) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    killer = threading.Thread(target=lambda: (until(lambda: rig.is_running), os.kill(os.getpid(), signal.SIGTERM)))
    killer.start()
    rig.run()
    killer.join(LONG)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not rig.is_running


def test_a_rig_that_interrupts_tells_why_from_any_thread(rig: Rig) -> None:
    told: list[Any] = []
    reasons: list[Any] = []
    rig.on("EXPINTERRUPT")(reasons.append)
    with rig, Auxiliaries({"cameras": rig.uri}) as aux:
        aux.on("notice", lambda notice: told.append(notice.body) if notice.topic == "status" else None)
        aux.request("EXPINIT", {"exp_ref": REFERENCE})
        aux.request("EXPSTART", REFERENCE)
        telling = threading.Thread(target=rig.interrupt, args=["x" * 3000])
        telling.start()
        telling.join(LONG)
        until(lambda: rig.status is ExpStatus.STOPPED)
        cut = "x" * 2000 + "..."
        assert reasons == [{"reason": cut}]
        until(lambda: any(body["reason"] == cut for body in told))
        outcome = aux.push("EXPEND", wait=True)
        assert isinstance(outcome, PushError)
        assert outcome.failed["cameras"].problem == f"EndedBadly: {cut[:2000]}"
        for wrong, error in ((None, TypeError), ("", ValueError)):
            with pytest.raises(error):
                rig.interrupt(wrong)  # type: ignore[arg-type]
    with pytest.raises(NotRunning, match="does not serve"):
        rig.interrupt("late")


def test_dead_event_loop_is_loud(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    tasks: list[Any] = []
    changes: list[LinkChanged] = []
    outcome: list[BaseException] = []

    @rig.on("EXPINIT")
    async def begin() -> None:
        async def watch_the_disk() -> None:
            raise SystemExit("disk full")  # asyncio ends the loop for that

        tasks.append(asyncio.get_running_loop().create_task(watch_the_disk()))

    def run() -> None:
        try:
            rig.run()
        except NotRunning as error:
            outcome.append(error)

    running = threading.Thread(target=run)
    running.start()
    until(lambda: rig.is_running)
    with Auxiliaries({"cameras": rig.uri}) as aux:
        aux.on("LinkChanged", changes.append)
        aux.push("EXPINIT")
        assert until(lambda: changes)[0].reason.startswith("it said goodbye")
    running.join(LONG)
    assert "SystemExit" in str(outcome[0])
    assert not rig.is_running
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)
    tasks.clear()
    with rig:  # and it can begin again
        assert rig.is_running


# --------------------------------------------------------------------------------------------------- its own process


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_on_signals_with_status_0_and_says_goodbye(number: int) -> None:
    changes: list[LinkChanged] = []
    with RigProgram(handlers={"EXPINIT": "count"}) as program, Auxiliaries({"cameras": program.uri}) as aux:
        aux.on("LinkChanged", changes.append)
        ask(aux, "EXPINIT", REFERENCE)
        program.signal(number)
        farewell = until(lambda: changes)[0]
        assert farewell.after is LinkState.LOST
        assert farewell.reason.startswith("it said goodbye")  # not "silent for 5 s"
        assert program.exit_status() == 0
        program.wait_for("ended")


@posix
@pytest.mark.parametrize("action", ["hang", "spin", "sulk"])
def test_process_ends_though_a_handler_is_stuck(action: str) -> None:
    with RigProgram(handlers={"EXPINIT": action}) as program, Auxiliaries({"cameras": program.uri}) as aux:
        aux.push("EXPINIT")
        program.wait_for("ran", "EXPINIT")
        before = time.monotonic()
        program.signal(signal.SIGTERM)
        assert program.exit_status() == 0
        assert time.monotonic() - before < CLOSE_PROMISE + SLACK + 2  # and what it takes to end a process


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "sys.exit()"])
def test_rig_that_nobody_closes_does_not_keep_the_process_alive(ending: str) -> None:
    program = f"""
    import sys, threading
    from rigsync import Auxiliaries, Rig
    rig = Rig('cameras', 'udp://127.0.0.1:0')
    reached = threading.Event()
    @rig.on('EXPINIT')
    def stick():
        reached.set()
        threading.Event().wait()
    rig.start()
    aux = Auxiliaries({{'cameras': rig.uri}})
    aux.push('EXPINIT', {{'exp_ref': '2026-11-20_1_mouse'}})
    assert reached.wait(30)
    {ending}
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        timeout=LONG,
        capture_output=True,
        text=True,
        check=False,
    )
    given_up = "rigsync: ERROR: EXPINIT was given up: cameras had not answered when the program ended\n"
    assert ended.returncode == 0
    assert ended.stderr.startswith(given_up)
    assert "cameras: EXPINTERRUPT overtakes the handler of EXPINIT" in ended.stderr


def test_a_description_that_leaves_no_room_for_the_answer_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        Rig("cameras", experiment_description={"devices": "x" * 40_000})


def test_a_handler_for_which_there_is_no_thread_fails_and_the_next_message_is_handled(
    rig: Rig, aux: Auxiliaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.on("EXPINIT")(lambda data=None: None)
    with monkeypatch.context() as patch:
        patch.setattr(Workers, "submit", lambda *_: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        error = error_of(aux, "EXPINIT", REFERENCE)
    assert (error.error, error.message) == ("RuntimeError", "can't start new thread")
    assert ask(aux, "EXPINIT", REFERENCE) == [info(ExpStatus.INITIALIZED, REFERENCE)]


STORM = """
import os, signal, subprocess, sys
from rigsync import Rig

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
tell = '''
import os, time
rig = os.getppid()
while os.getppid() == rig:
    os.kill(rig, 2); os.kill(rig, 15)
    time.sleep(0.0002)
'''
with subprocess.Popen([sys.executable, "-c", tell]) as telling:
    for _ in range(2000):
        Rig("cameras", "udp://127.0.0.1:0").run()
    telling.kill()
"""


@posix
def test_run_ends_however_often_it_is_told_to() -> None:
    subprocess.run([sys.executable, "-c", STORM], cwd=ROOT, check=True, timeout=5 * LONG)


def test_ctrl_c_in_a_coroutine_handler_ends_the_program_and_fails_the_message() -> None:
    rig, opened = Rig("cameras", "udp://127.0.0.1:0"), threading.Event()

    @rig.on("EXPINIT")
    async def press_ctrl_c(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with rig:
            opened.set()
            await asyncio.sleep(LONG)

    def push() -> Any:
        assert opened.wait(LONG)
        with Auxiliaries({"cameras": rig.uri}) as aux:
            return aux.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True)

    pushed = in_thread(push)
    loop = asyncio.SelectorEventLoop()
    serving = loop.create_task(main())
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(serving)
        outcome = pushed.result(LONG)
    finally:
        serving.cancel()
        loop.run_until_complete(asyncio.wait({serving}))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert isinstance(outcome, PushError)
    assert "KeyboardInterrupt" in str(outcome)
