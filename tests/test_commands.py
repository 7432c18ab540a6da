"""Commands, which rigs have beside the experiment's messages: real rigs, real sockets, on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from live_helpers import EchoServer, Gate, RawRig, ends_within, in_thread, silent_rig
from processes import LONG, PROBE_WARNING, RigProgram, port_of, until

from rigsync import (
    Aborted,
    Auxiliaries,
    BusyError,
    Interrupted,
    LoopBlocked,
    NotRunning,
    NotSupported,
    PayloadError,
    PayloadTooLarge,
    PushError,
    PushResult,
    RemoteError,
    Rig,
    RigLost,
    RigRefused,
    RigTimeout,
    Timing,
    UnknownRig,
)
from rigsync.core import messages
from rigsync.core.messages import Command, Message
from rigsync.net.relay import relay_before

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]


@pytest.fixture
def rig(serve: Serve) -> Rig:
    return serve("cameras")


@pytest.fixture
def aux(rig: Rig, connect: Connect) -> Auxiliaries:
    return connect(rig)


def failure(aux: Auxiliaries, *args: Any, **kwargs: Any) -> RemoteError:
    """Return the remote error in which a call ends."""
    with pytest.raises(RemoteError) as caught:
        aux.call(*args, **kwargs)
    return caught.value


# ----------------------------------------------------------------------------------------------- values and errors


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_call_gives_the_value_that_the_rig_returns(serve: Serve, connect: Connect, scheme: str) -> None:
    rig = serve("cameras", scheme=scheme)
    seen: list[Any] = []

    @rig.command("focus")
    def focus(lens: str, *, z: float, at: Any = None) -> dict[str, Any]:
        seen.append((lens, z, at, threading.current_thread()))
        return {"z": np.float64(z), "lens": lens}

    aux = connect(rig)
    assert aux.call("cameras", "focus", "left", z=3, at=[1, None]) == {"z": 3.0, "lens": "left"}
    ((*arguments, thread),) = seen
    assert arguments == ["left", 3, [1, None]]
    assert "handler" in thread.name
    assert focus("right", z=1) == {"z": 1.0, "lens": "right"}, "it is the function that it was"


@pytest.mark.parametrize("value", [None, False, 0, 2.5, "", "é\n🐭", [], {}, [[1, {"a": None}]], {"status": 7}])
def test_any_plain_value_comes_back(rig: Rig, aux: Auxiliaries, value: Any) -> None:
    rig.command("echo")(lambda got: got)
    assert aux.call("cameras", "echo", value) == value
    assert aux.call("cameras", "echo", got=value) == value


def test_a_coroutine_function_runs_on_the_event_loop(rig: Rig, aux: Auxiliaries) -> None:
    @rig.command("home")
    async def home(speed: float = 1.0) -> list[Any]:
        await asyncio.sleep(0)
        return [threading.current_thread().name, speed]

    assert aux.call("cameras", "home", speed=2.0) == ["rigsync-rig-cameras", 2.0]


def test_an_argument_may_have_any_name_but_that_of_the_time_out(rig: Rig, aux: Auxiliaries) -> None:
    @rig.command
    def told(**keywords: Any) -> dict[str, Any]:
        return keywords

    keywords = {"self": 1, "rig": 2, "command": 3, "args": 4, "name": 5}
    assert aux.call("cameras", "told", **keywords) == keywords


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_what_the_command_raises_is_raised_with_its_remote_traceback(rig: Rig, aux: Auxiliaries, kind: str) -> None:
    def focus() -> None:
        raise FileNotFoundError("no lens")

    async def focus_on_loop() -> None:
        focus()

    rig.command("focus")(focus if kind == "plain" else focus_on_loop)
    error = failure(aux, "cameras", "focus")
    assert (error.rig, error.error, error.message) == ("cameras", "FileNotFoundError", "no lens")
    assert 'raise FileNotFoundError("no lens")' in error.traceback
    (logged,) = aux.log.values()
    assert isinstance(logged, PushError)
    assert logged.failed["cameras"].__traceback__ is None, "else the log would keep all that the caller holds"


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "focus() missing 1 required positional argument: 'z'"),
        ((1, 2), {}, "focus() takes 1 positional argument but 2 were given"),
        ((1,), {"y": 1}, "focus() got an unexpected keyword argument 'y'"),
        ((1,), {"z": 1}, "focus() got multiple values for argument 'z'"),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_arguments_that_do_not_fit_are_told_as_python_does_and_nothing_is_run(
    rig: Rig, aux: Auxiliaries, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    runs: list[Any] = []

    if kind == "plain":

        @rig.command
        def focus(z: Any) -> None:
            runs.append(z)
    else:

        @rig.command("focus")
        async def focus(z: Any) -> None:
            runs.append(z)

    error = failure(aux, "cameras", "focus", *args, **kwargs)
    assert error.error == "TypeError"
    assert error.message.endswith(text)
    assert runs == []


def test_an_unknown_command_is_refused_with_those_there_are(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("shutter")(lambda: None)
    rig.command("focus")(lambda: None)
    error = failure(aux, "cameras", "fokus")
    assert (error.error, error.message) == ("UnknownCommand", "the rig has no command 'fokus'; it has: focus, shutter")
    rig.command("fokus")(lambda: "added while it serves")
    assert aux.call("cameras", "fokus") == "added while it serves"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [("x" * 70_000, "PayloadTooLarge", "70,"), ({"a": object()}, "PayloadError", "the result['a'] is of type object")],
)
def test_a_value_that_cannot_be_sent_is_the_call_s_failure(
    rig: Rig, aux: Auxiliaries, value: Any, error: str, text: str
) -> None:
    rig.command("picture")(lambda: value)
    caught = failure(aux, "cameras", "picture")
    assert caught.error == error
    assert text in caught.message


def test_a_value_over_tcp_may_be_large(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras", scheme="tcp")
    rig.command("picture")(lambda data: data * 2)
    assert connect(rig).call("cameras", "picture", "x" * 500_000) == "x" * 1_000_000


# ---------------------------------------------------------------------------------------------------- at the caller


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        (("cameras", "focus"), {"z": object()}, PayloadError, "z is of type object"),
        (("cameras", "focus", 1, {"a": {1, object()}}), {}, PayloadError, r"args\[1\]\['a'\]"),
        (("cameras", "focus", "x" * 70_000), {}, PayloadTooLarge, "tcp://"),
        (("cameras", "EXPINIT"), {}, ValueError, "push it"),
        (("cameras", "fo\ncus"), {}, ValueError, "printable"),
        (("cameras", 3), {}, TypeError, "the name of a command is text"),
        (("cameras", "focus"), {"timeout": 0}, ValueError, "positive number of seconds"),
        (("cameras", "focus"), {"timeout": "5"}, TypeError, "a number of seconds"),
        (("camras", "focus"), {}, UnknownRig, "the rigs are: cameras"),
        (("*", "focus"), {}, ValueError, r"'\*' matches cameras, ephys; name one"),
        ((["cameras"], "focus"), {}, TypeError, "not by list"),
    ],
)
@pytest.mark.parametrize("way", ["facade", "service"])
def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    serve: Serve,
    connect: Connect,
    way: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    rig = serve("cameras")
    runs: list[Any] = []
    rig.command("focus")(lambda *args, **kwargs: runs.append(args))
    aux = connect(rig, serve("ephys"))
    assert aux.services

    def call() -> Any:
        if way == "facade":
            return aux.call(*args, **kwargs)
        return asyncio.run(aux.services.call(*args, **kwargs))  # type: ignore[union-attr]

    with pytest.raises(error, match=text):
        call()
    assert (runs, len(aux.log)) == ([], 0)


def test_a_pattern_may_stand_for_one_rig(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("focus")(lambda: 1)
    assert aux.call("cam*", "focus") == 1


def test_a_call_is_filed_in_the_log_as_any_push(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("focus")(lambda: {"z": 3})
    completed: list[Any] = []
    aux.on("PushCompleted", completed.append)
    aux.call("cameras", "focus")
    (result,) = aux.log.values()
    assert isinstance(result, PushResult)
    assert (result.message, result) == ("focus", {"cameras": [{"z": 3}]})
    assert list(result.starts) == ["cameras"]
    assert completed[0].event == Command("focus")


def test_iblutil_s_callbacks_hear_nothing_of_commands(rig: Rig, aux: Auxiliaries) -> None:
    assert aux.services
    heard: list[Any] = []
    told: list[Any] = []
    aux.on("MessageReceived", lambda event: told.append((event.event.name, event.args)))
    aux.services.assign_callback("EXPINFO", lambda *args: heard.append("EXPINFO"))
    aux.services["cameras"].assign_callback(0, lambda *args: heard.append("error"))
    rig.command("focus")(lambda: {"z": 3})
    aux.call("cameras", "focus")
    failure(aux, "cameras", "unknown")
    aux.request("EXPINFO")
    assert heard == ["EXPINFO"]
    assert told[0] == ("focus", [{"z": 3}])
    assert [name for name, _ in told] == ["focus", "EXPINFO"]


def test_a_call_on_the_service_thread_is_refused(rig: Rig, aux: Auxiliaries) -> None:
    caught: list[BaseException] = []

    def call(_: object) -> None:
        try:
            aux.call("cameras", "focus")
        except LoopBlocked as error:
            caught.append(error)

    aux.on("PushCompleted", call)
    aux.request("EXPINFO")
    until(lambda: caught)
    assert "call()" in str(caught[0])


def test_after_close_a_call_says_so(rig: Rig, aux: Auxiliaries) -> None:
    aux.close()
    with pytest.raises(NotRunning, match="closed"):
        aux.call("cameras", "focus")


def test_who_waits_for_a_call_is_told_when_it_is_closed(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    rig.command("focus")(gate)
    waiting = in_thread(aux.call, "cameras", "focus")
    assert gate.reached.wait(LONG)
    aux.close()
    with pytest.raises(Aborted, match="this program closed before focus was answered"):
        waiting.result(LONG)


def test_a_call_may_be_awaited_on_any_event_loop(rig: Rig, aux: Auxiliaries) -> None:
    rig.command("focus")(lambda z: z + 1)
    services = aux.services
    assert services

    async def call() -> Any:
        return await asyncio.gather(*(services.call("cameras", "focus", z) for z in range(5)))

    async def fail() -> None:
        await services.call("cameras", "focus", "text", timeout=LONG)

    assert asyncio.run(call()) == [1, 2, 3, 4, 5]
    with pytest.raises(RemoteError, match="TypeError"):
        asyncio.run(fail())
    assert aux.thread.run_coroutine(lambda_of(call), None, LONG) == [1, 2, 3, 4, 5]


def lambda_of(function: Callable[[], Any]) -> Callable[[None], Any]:
    async def run(_: None) -> Any:
        return await function()

    return run


def test_many_threads_may_call_at_once(rig: Rig, aux: Auxiliaries) -> None:
    done: list[int] = []

    @rig.command
    def count(i: int) -> int:
        done.append(i)
        return -i

    def call(first: int) -> list[int]:
        return [aux.call("cameras", "count", i) for i in range(first, first + 20)]

    calls = [in_thread(call, first) for first in range(0, 160, 20)]
    assert [value for future in calls for value in future.result(LONG)] == [-i for i in range(160)]
    assert sorted(done) == list(range(160))


# ------------------------------------------------------------------------------------------------- the same guarantees


def test_over_a_bad_network_each_command_is_done_once(rig: Rig) -> None:
    done: list[int] = []
    rig.command("count")(lambda i: done.append(i) or i)
    target = {"cameras": ("127.0.0.1", port_of(rig.uri))}
    with contextlib.ExitStack() as stack:
        bad = stack.enter_context(relay_before(target, loss=0.2, duplication=0.2, seed=3))["cameras"]
        aux = stack.enter_context(Auxiliaries({"cameras": "udp://{}:{}".format(*bad.address)}))
        assert [aux.call("cameras", "count", i, timeout=LONG) for i in range(40)] == list(range(40))
    assert done == list(range(40))


def test_commands_and_messages_are_handled_in_the_order_in_which_they_were_asked(rig: Rig, aux: Auxiliaries) -> None:
    order: list[str] = []
    rig.command("focus")(lambda: order.append("focus"))
    rig.on("EXPINFO")(lambda: order.append("EXPINFO"))
    aux.push("EXPINFO")
    aux.call("cameras", "focus")
    aux.push("EXPINFO")
    aux.call("cameras", "focus")
    assert order == ["EXPINFO", "focus"] * 2


def test_an_interrupt_overtakes_a_call_and_lets_what_runs_go_on(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    rig.command("focus")(gate)
    aux.request("EXPINIT")
    waiting = in_thread(aux.call, "cameras", "focus")
    assert gate.reached.wait(LONG)
    aux.request("EXPINTERRUPT", timeout=LONG)
    with pytest.raises(Interrupted, match="focus was overtaken"):
        waiting.result(LONG)
    assert rig.status.name == "STOPPED"


def test_a_command_that_takes_too_long_is_a_time_out_that_says_so(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    rig.command("focus")(gate)
    with pytest.raises(RigTimeout, match="no answer to focus in time: the rig has it and is still working on it"):
        aux.call("cameras", "focus", timeout=1.0)  # within which the rig confirms it


def test_a_command_of_another_program_s_experiment_is_refused(rig: Rig, aux: Auxiliaries, connect: Connect) -> None:
    done: list[int] = []
    rig.command("focus")(lambda: done.append(1))
    aux.request("EXPINIT", "2026-11-20_1_mouse")
    other = connect(rig)
    with pytest.raises(BusyError, match=r"focus refused: .* 2026-11-20_1_mouse"):
        other.call("cameras", "focus")
    assert done == []
    aux.call("cameras", "focus")
    aux.request("EXPCLEANUP")
    other.call("cameras", "focus")
    assert len(done) == 2


def test_a_rig_that_is_not_there(connect: Connect) -> None:
    quick = Timing(beat=0.2, lost_grace=0.1, connect_timeout=0.3)
    with silent_rig() as clients:
        aux = connect(clients, timing=quick)
        with pytest.raises((RigLost, RigTimeout)):
            aux.call("silent", "focus", timeout=1)
    with RigProgram("cameras") as program:
        aux = connect({"cameras": program.uri}, timing=quick)
        program.kill()
        with pytest.raises((RigRefused, RigLost)):
            aux.call("cameras", "focus")


def test_a_rig_from_before_commands_has_to_be_updated(connect: Connect) -> None:
    # It took such a frame for a malformed one, and said nothing.
    with RawRig("cameras", RawRig.ignore) as raw:
        aux = connect({"cameras": raw.uri})
        with pytest.raises(RigTimeout, match=r"update rigsync there: .* the rig's is raw"):
            aux.call("cameras", "focus", timeout=0.5)


def test_a_rig_that_answers_with_more_than_a_value_is_told_once(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(raw: RawRig, request: messages.Request, source: Any) -> None:
        reply = messages.reply(raw.boot, request.n, Message.of(request.event, [1, 2]), 1, 2)
        raw.socket.sendto(reply, source)

    with RawRig("cameras", answer) as raw:
        aux = connect({"cameras": raw.uri})
        with pytest.raises(RigTimeout):
            aux.call("cameras", "focus", timeout=1.0)  # within which it is sent again
        until(lambda: len(raw.requests) > 1)
    assert sum("2 values in the answer to a command" in record.getMessage() for record in caplog.records) == 1


# -------------------------------------------------------------------------------------------------- iblutil's rigs


@pytest.mark.parametrize("dialect", ["known", "unknown"])
def test_an_iblutil_rig_is_refused_by_name_and_hears_nothing(serve: Serve, connect: Connect, dialect: str) -> None:
    camera = serve("cameras")
    camera.command("focus")(lambda: 1)
    with EchoServer("ephys") as ephys:
        aux = connect(camera, {"ephys": ephys.uri}, connect_timeout=None if dialect == "known" else 0)
        with pytest.raises(NotSupported) as caught:
            ends_within(5, aux.call, "ephys", "focus", timeout=LONG)
        assert str(caught.value).startswith("ephys: focus was not sent: the rig speaks the iblutil dialect")
        assert "rigsync serve" in str(caught.value)
        assert aux.call("cameras", "focus") == 1
        assert aux.request("EXPINFO", rigs="ephys") == {"ephys": [{"by": "ephys"}]}
        assert [event.name for event, _ in ephys.calls] == ["EXPINFO"]


# --------------------------------------------------------------------------------------------------- making commands


def test_a_command_without_a_name_has_that_of_the_function() -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")

    @rig.command
    def focus() -> int:
        return 5

    assert focus() == 5
    with pytest.raises(ValueError, match="rig cameras has a command 'focus' already"):
        rig.command("focus")(lambda: None)


@pytest.mark.parametrize("name", ["", "x" * 101, "EXPSTART", "alyx", "a\tb"])
def test_the_name_of_no_command(name: str) -> None:
    with pytest.raises(ValueError, match="command"):
        Rig("cameras", "udp://127.0.0.1:0").command(name)


@pytest.mark.parametrize("name", [None, 3, ["focus"]])
def test_the_name_of_a_command_is_text(name: Any) -> None:
    with pytest.raises(TypeError, match="the name of a command is text"):
        Rig("cameras", "udp://127.0.0.1:0").command(name)


def test_a_command_is_done_by_a_function() -> None:
    with pytest.raises(TypeError, match="not by int"):
        Rig("cameras", "udp://127.0.0.1:0").command("focus")(5)  # type: ignore[type-var]


def test_a_command_that_fails_is_logged_at_the_rig_by_name_and_without_arguments(
    rig: Rig, aux: Auxiliaries, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    @rig.command("log in")
    def log_in(token: str) -> None:
        raise PermissionError("wrong")

    failure(aux, "cameras", "log in", token="SECRET")

    def told(by: str = "rigsync") -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith(by)]

    until(lambda: any("log in from 127.0.0.1" in text for text in told()))
    (failed,) = [text for text in told("rigsync.rig") if "PermissionError: wrong" in text]
    assert failed.startswith("cameras: log in from 127.0.0.1:")
    assert not any("SECRET" in text for text in told())


def test_a_command_goes_on_while_its_rig_closes_and_does_not_hold_it_up(rig: Rig, aux: Auxiliaries, gate: Gate) -> None:
    rig.command("focus")(gate)
    waiting = in_thread(aux.call, "cameras", "focus", timeout=LONG)
    assert gate.reached.wait(LONG)
    ends_within(2 + 1.5, rig.close)
    gate.open.set()
    with pytest.raises((RigLost, RigRefused)):
        waiting.result(LONG)
