"""The synchronous facade, member by member, over real sockets and threads."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from live_helpers import SHORT, EchoServer, Gate, RawRig, ends_within, in_thread, silent_rig
from platforms import posix
from processes import LONG, calm, collected, free_port, run_strictly, until

import rigsync.coordinator.auxiliaries
import rigsync.coordinator.results
import rigsync.runtime.waiters
from rigsync.config.rigs import Rigs
from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.coordinator.results import PingReply, PushResult
from rigsync.coordinator.service_thread import ServiceThread
from rigsync.core import events, messages
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.timing import Timing
from rigsync.errors import (
    Aborted,
    ConfigError,
    Interrupted,
    LoopBlocked,
    LoopStuck,
    NotRunning,
    PayloadError,
    PayloadTooLarge,
    PushError,
    PushTimeout,
    RemoteError,
    RigError,
    RigLost,
    RigRefused,
    RigTimeout,
    UnknownRig,
)
from rigsync.rig.rig import Rig

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = "2026-03-01_2_mouse"
PROMPT = 5.0
"""Seconds that tell what happens at once from what waits for a time-out (10 s)."""
CLOSING = 2.0 + 1.5
"""Seconds in which `close` returns, as it promises, and what a busy computer adds."""
QUICK = Timing(beat=0.2, lost_grace=0.1, connect_timeout=0.3)
"""For tests in which a rig is not there: five times faster than life."""
LIVELY = replace(QUICK, connect_timeout=LONG)
"""For tests in which all rigs are there at first."""

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]


@pytest.fixture
def pair(serve: Serve, connect: Connect) -> Auxiliaries:
    """A coordinator of two rigs without handlers."""
    aux = connect(serve("cameras"), serve("ephys"), connect_timeout=LONG)
    assert aux.all_alive
    return aux


def on_loop(aux: Auxiliaries, function: Callable[[], Any]) -> Any:
    """Return what a function returns, or raise what it raises, on the service thread, where callbacks run."""

    async def run(_: None) -> Any:
        return function()

    return aux.thread.run_coroutine(run, None, LONG)


def answer_of(aux: Auxiliaries, request_time: float) -> Any:
    until(lambda: request_time in aux.log, "the result in the log")
    return aux.log[request_time]


def records(caplog: pytest.LogCaptureFixture, logger: str, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == logger and r.levelno >= level]


# ------------------------------------------------------------------------------------------- the contract in form


def test_members_of_iblrig_are_there() -> None:
    for name in ("push", "clear_message_queue", "close"):
        assert callable(getattr(Auxiliaries, name))
    for name in ("cleanup", "create", "listen"):
        assert inspect.iscoroutinefunction(getattr(Auxiliaries, name))
    for name in ("is_connected", "is_running", "all_alive"):
        assert isinstance(inspect.getattr_static(Auxiliaries, name), property)
    for name in ("connected", "response_received", "services", "stop_event"):
        assert getattr(Auxiliaries, name) is None
    assert Auxiliaries.refresh_rate == 0.2


def test_signatures_take_what_those_of_iblrig_take() -> None:
    assert next(iter(inspect.signature(Auxiliaries).parameters)) == "clients"
    push = inspect.signature(Auxiliaries.push).parameters
    assert list(push)[:3] == ["self", "message", "args"]
    assert push["wait"].default is False
    assert push["wait"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(Auxiliaries.cleanup).parameters["notify_services"].default is False


def test_every_public_member_is_documented() -> None:
    for name, member in vars(Auxiliaries).items():
        if not name.startswith("_") and not isinstance(member, (float, type(None))):
            assert inspect.getdoc(member), name


# ------------------------------------------------------------------------------------------------- construction


def test_constructor_returns_when_all_rigs_have_answered(serve: Serve, connect: Connect) -> None:
    cameras, ephys = serve("cameras"), serve("ephys")
    aux = connect({"cameras": cameras.uri, "ephys": ephys.uri}, connect_timeout=LONG)
    assert (aux.is_connected, aux.all_alive, aux.is_running, aux.connected.is_set()) == (True, True, True, True)
    assert not aux.stop_event.is_set()
    assert aux.services
    assert list(aux.services) == ["cameras", "ephys"]
    assert aux.services["ephys"].server_uri == ephys.uri
    assert "cameras" in repr(aux)
    assert "running" in repr(aux)


@pytest.mark.parametrize("clients", [{}, None, Rigs({})], ids=["empty", "None", "Rigs"])
def test_without_rigs(clients: Any) -> None:
    with Auxiliaries(clients) as aux:
        assert (aux.is_connected, aux.all_alive, aux.is_running, aux.services) == (False, False, True, None)
        assert not aux.connected.is_set()
        assert aux.push("EXPSTART", REFERENCE, wait=True) == {}
        request_time = aux.push("EXPEND")
        assert isinstance(request_time, float)
        assert aux.response_received.wait(LONG)
        assert aux.response(request_time) == {}
        assert aux.request("EXPINFO", "CONNECTED") == {}
        assert len(aux.log) == 3
        assert aux.clear_message_queue() == 0
        assert aux.ping() == {}
        with pytest.raises(UnknownRig, match="none"):
            aux.push("EXPEND", rigs="cameras")
        asyncio.run(aux.cleanup())
        asyncio.run(aux.cleanup(notify_services=True))
        assert "no rigs" in repr(aux)
    assert not aux.is_running
    with pytest.raises(NotRunning):
        aux.push("EXPEND", wait=True)


def test_without_rigs_many_threads_may_push() -> None:
    with Auxiliaries({}, log_limit=3) as aux:
        pushers = [in_thread(lambda: [aux.push("EXPEND", wait=i % 2 == 0) for i in range(200)]) for _ in range(8)]
        for pusher in pushers:
            assert len(pusher.result(LONG)) == 200
        assert len(aux.log) == 3


@pytest.mark.parametrize("uri", ["udp://", "ftp://1.2.3.4", "1.2.3.4:70000", "1.2.3", 5, None])
def test_malformed_address_is_refused_and_names_the_rig(uri: Any) -> None:
    with pytest.raises(ConfigError, match=r"rigs\.cameras\.uri"):
        Auxiliaries({"cameras": uri})


def test_name_that_does_not_resolve_is_refused_and_names_the_rig(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match="rig 'cameras' cannot be resolved"):
        ends_within(PROMPT, Auxiliaries, {"cameras": "no-such-host.invalid"})


def test_two_rigs_at_one_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="'left' and 'right' have the same address"):
        Auxiliaries({"left": "127.0.0.1:9", "right": {"uri": "udp://127.0.0.1:9"}})


def test_two_names_of_one_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="'left' and 'right' have the same address"):
        Auxiliaries({"left": "127.0.0.1:9", "right": {"uri": "localhost:9"}})


def test_two_names_of_one_tcp_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="'left' and 'right' have the same address"):
        Auxiliaries({"left": "tcp://127.0.0.1:9", "right": "tcp://localhost:9"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_two_names_of_one_address_in_the_map_that_iblrig_passes(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    calls: list[Any] = []
    rig = serve("both", {"EXPSTART": lambda *args: calls.append(args)})
    aux = connect({"left": rig.uri, "right": f"{host}:{rig.uri.rpartition(':')[2]}"}, connect_timeout=LONG)
    warning = "left and right have the same address: each message goes there for both"
    assert records(caplog, "rigsync.service") == [warning]
    assert aux.all_alive
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    answers = aux.request("EXPSTART", REFERENCE)
    assert answers["left"] == answers["right"]
    assert len(calls) == 1  # one rig, whose handler runs once


def test_clients_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="mapping"):
        Auxiliaries(["127.0.0.1"])  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, None])
def test_log_limit_is_checked(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit"):
        Auxiliaries({}, log_limit=limit)


def test_the_log_keeps_ten_thousand_results_by_default() -> None:
    assert inspect.signature(Auxiliaries).parameters["log_limit"].default == 10_000
    assert (
        inspect.signature(rigsync.coordinator.results.ResultLog).parameters["limit"].default == 10_000
    )  # a Coordinator's


def test_constructor_that_is_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_rig() as clients:
        with pytest.raises(TypeError):
            Auxiliaries(clients, connect_timeout="soon")  # type: ignore[arg-type]

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(rigsync.runtime.waiters.Waiters, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt) as interrupted:
            Auxiliaries(clients)
        assert interrupted.tb  # refers to the object, which has to close nevertheless
        until(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, ServiceThread)])


def test_constructor_gives_up_waiting_and_the_rig_connects_later(serve: Serve, connect: Connect) -> None:
    with silent_rig("cameras") as clients:
        aux = connect(clients, connect_timeout=SHORT)
        assert (aux.all_alive, aux.is_running, aux.is_connected, aux.connected.is_set()) == (False, True, True, True)
        waiter = in_thread(aux.wait_for, timeout=LONG)
    serve("cameras", port=int(clients["cameras"].rpartition(":")[2]))
    waiter.result(LONG)
    assert aux.all_alive
    assert aux.request("EXPSTATUS") == {"cameras": [0]}


def test_a_rig_that_is_not_there_is_named_by_the_constructor_once(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    down = {"down": f"udp://127.0.0.1:{free_port()}"}
    with silent_rig("silent") as silent:
        connect(
            {"cameras": serve("cameras").uri, **silent, **down}, connect_timeout=2.0
        )  # within which the one answers
        until(lambda: any("silent" in text for text in records(caplog, "rigsync.link")), "the warning")
        told = records(caplog, "rigsync.link")
    assert [text.partition(" ")[0] for text in sorted(told)] == ["down", "silent"]
    assert next(text for text in told if text.startswith("silent")).startswith("silent does not answer yet (")


def test_is_connected_says_that_the_services_are_open_whatever_becomes_of_a_rig(serve: Serve, connect: Connect) -> None:
    """Task code asks it before each message: one rig that is lost must not silence the others."""
    cameras = serve("cameras")
    aux = connect(cameras, serve("ephys"), timing=LIVELY)
    services = aux.services
    assert services is not None
    assert aux.all_alive
    cameras.close()
    until(lambda: not aux.all_alive, "the loss of a rig")
    assert (aux.is_connected, services.is_connected, aux.connected.is_set()) == (True, True, True)
    assert all(rig.is_connected for rig in services.values())
    assert [rig.is_alive for rig in services.values()] == [False, True]
    serve("cameras", port=int(cameras.uri.rpartition(":")[2]))
    aux.wait_for(timeout=LONG)
    assert aux.all_alive
    aux.close()
    assert (aux.is_connected, services.is_connected, aux.connected.is_set()) == (False, False, False)
    assert not any(rig.is_connected for rig in services.values())


def test_two_instances_share_nothing(serve: Serve, connect: Connect) -> None:
    rig, other = serve("cameras"), serve("ephys")
    one, two = connect(rig), connect(other)
    for name in ("connected", "response_received", "stop_event", "services", "log", "thread"):
        assert getattr(one, name) is not getattr(two, name)
    two.response_received.mark()
    request_time = one.push("EXPSTATUS", wait=True).request_time  # type: ignore[union-attr]
    assert request_time in one.log
    assert len(two.log) == 0
    assert not two.response_received.is_set()
    one.close()
    assert (one.is_running, two.is_running, two.all_alive) == (False, True, True)
    assert two.request("EXPSTATUS") == {"ephys": [0]}


def test_two_instances_may_command_one_rig(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    one, two = connect(rig), connect(rig)
    pushes = [in_thread(aux.request, "EXPSTATUS") for aux in (one, two) * 20]
    assert [push.result(LONG) for push in pushes] == [{"cameras": [0]}] * 40


def test_from_file(tmp_path: pathlib.Path, serve: Serve) -> None:
    rig = serve("cameras")
    file = tmp_path / "rigs.yaml"
    file.write_text(f"timing:\n  connect_timeout: 15\nrigs:\n  cameras:\n    uri: {rig.uri}\n    timeout: 3\n")
    with Auxiliaries.from_file(file, log_limit=1) as aux:
        assert aux.all_alive
        assert aux.services is not None
        assert aux.services["cameras"].config.timeout == 3
        assert aux.log.limit == 1
    file.write_text("cameras: 1.2.3\n")
    with pytest.raises(ConfigError, match=r"rigs\.yaml:1"):
        Auxiliaries.from_file(file)


# -------------------------------------------------------------------------------------------- push and what it gives

MESSAGES: list[tuple[Any, tuple[Any, ...], Callable[[list[Any]], bool]]] = [
    ("EXPSTATUS", ("CONNECTED",), lambda answer: answer == [0]),
    ("expinfo", (ExpStatus.CONNECTED, {"lab": "a"}), lambda answer: answer[0] == 0 and answer[1]["status"] == 0),
    (ExpMessage.EXPINIT, ({"exp_ref": REFERENCE},), lambda answer: answer[0]["exp_ref"] == REFERENCE),
    (2, ({"date": "2026-03-01", "sequence": 2, "subject": "mouse"},), lambda answer: answer[0] == REFERENCE),
    ("EXPEND", ({"frames": 5},), lambda answer: answer[0]["status"] == int(ExpStatus.STOPPED)),
    (" EXPCLEANUP ", (), lambda answer: answer[0]["status"] == 0),
    ("EXPINTERRUPT", ({"error": "none"},), lambda answer: answer[0]["exp_ref"] is None),
    ("ALYX", (), lambda answer: answer == [None, {}]),
]


@pytest.mark.parametrize("wait", [True, False])
def test_every_message_is_answered_by_every_rig(pair: Auxiliaries, wait: bool) -> None:
    for message, args, expected in MESSAGES:
        given = pair.push(message, *args, wait=wait)
        if not wait:
            assert type(given) is float
            assert abs(given - time.time()) < 60
            given = answer_of(pair, given)
        assert isinstance(given, PushResult)
        assert isinstance(given, dict)
        assert sorted(given) == ["cameras", "ephys"]
        for answer in given.values():
            assert isinstance(answer, list)
            assert expected(answer), (message, answer)
        assert given.failed == {}
        assert given.succeeded == given
        assert type(given.succeeded) is dict
        assert pair.log[given.request_time] is given
        assert pair.response(given.request_time) is given
        assert given.message == ExpMessage.validate(message).name
    assert len(pair.log) == len(MESSAGES)
    assert list(pair.log) == sorted(pair.log)


def test_arguments_reach_the_handler_as_plain_values(serve: Serve, connect: Connect, tmp_path: pathlib.Path) -> None:
    import datetime

    np = pytest.importorskip("numpy", reason="NumPy comes with iblutil, which is not installed here")

    seen: list[Any] = []
    aux = connect(serve("cameras", {"EXPINIT": seen.append}))
    data = {"exp_ref": REFERENCE, "day": datetime.date(2026, 3, 1), "path": tmp_path, "n": np.int64(3), "set": {2, 1}}
    aux.request("EXPINIT", data)
    assert seen == [{"exp_ref": REFERENCE, "day": "2026-03-01", "path": str(tmp_path), "n": 3, "set": [1, 2]}]


def test_what_handlers_return_is_in_the_answer(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras", {"EXPINIT": lambda data: {"folder": "D:/videos"}}))
    assert aux.request("EXPINIT")["cameras"][0]["folder"] == "D:/videos"


def test_failure_is_returned_not_raised(serve: Serve, connect: Connect) -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError("no disk D:")

    aux = connect(serve("cameras", {"EXPINIT": fail}), serve("ephys"))
    error = aux.push("EXPINIT", wait=True)
    assert isinstance(error, PushError)
    assert not isinstance(error, TimeoutError)
    assert "no disk D:" in str(error)
    assert list(error.failed) == list(error.result.failed) == ["cameras"]
    assert list(error.result) == list(error.result.succeeded) == ["ephys"]
    remote = error.failed["cameras"]
    assert isinstance(remote, RemoteError)
    assert (remote.rig, remote.error, remote.message) == ("cameras", "FileNotFoundError", "no disk D:")
    assert "raise FileNotFoundError" in remote.traceback
    assert aux.log[error.result.request_time] is error
    assert aux.response(error.result.request_time) is error
    with pytest.raises(PushError, match="no disk D:") as raised:
        aux.request("EXPINIT")
    assert list(raised.value.result) == ["ephys"]
    # Without waiting it is in the log alone.
    assert isinstance(answer_of(aux, aux.push("EXPINIT")), PushError)  # type: ignore[arg-type]


def test_refusal_by_the_life_cycle_is_a_failure(pair: Auxiliaries) -> None:
    error = pair.push("EXPSTART", REFERENCE, wait=True)
    assert isinstance(error, PushError)
    assert {type(failure) for failure in error.failed.values()} == {RemoteError}
    assert "CONNECTED" in str(error)


def test_time_out_is_a_timeout_error(serve: Serve, connect: Connect, gate: Gate) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}), serve("ephys"))
    error = aux.push("EXPINIT", wait=True, timeout=3.0)  # within which the one confirms and the other answers
    assert isinstance(error, PushTimeout)
    assert isinstance(error, TimeoutError)
    assert isinstance(error.failed["cameras"], RigTimeout)
    assert "still working" in str(error)
    assert list(error.result) == ["ephys"]


def test_timeout_of_the_configuration(serve: Serve, connect: Connect, gate: Gate) -> None:
    rig = serve("cameras", {"EXPINIT": gate})
    aux = connect({"cameras": {"uri": rig.uri, "timeout": 0.1}})
    assert isinstance(ends_within(PROMPT, aux.push, "EXPINIT", wait=True), PushTimeout)


def test_one_failure_that_is_no_time_out_makes_it_no_timeout_error(serve: Serve, connect: Connect, gate: Gate) -> None:
    slow = {"cameras": {"uri": serve("cameras", {"EXPINIT": gate}).uri, "timeout": 0.2}}
    aux = connect(slow, serve("ephys", {"EXPINIT": lambda data: 1 / 0}))
    error = aux.push("EXPINIT", wait=True)
    assert isinstance(error, PushError)
    assert not isinstance(error, TimeoutError)
    assert "2 rigs" in str(error)


def test_rigs_that_confirm_are_waited_for_beyond_the_timeout(serve: Serve, connect: Connect, gate: Gate) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}))
    request = in_thread(aux.request, "EXPINIT", timeout=2.0, patience=LONG)
    assert gate.reached.wait(LONG)
    time.sleep(2.5)  # beyond the timeout, and the facade's own grace
    gate.open.set()
    assert list(request.result(LONG)) == ["cameras"]


def test_longer_timeout_than_the_configured_one(serve: Serve, connect: Connect, gate: Gate) -> None:
    rig = serve("cameras", {"EXPINIT": gate})
    aux = connect({"cameras": {"uri": rig.uri, "timeout": 0.05}})
    push = in_thread(aux.request, "EXPINIT", timeout=math.inf)
    assert gate.reached.wait(LONG)
    time.sleep(0.4)  # beyond what is configured, and the facade's own grace
    gate.open.set()
    assert list(push.result(LONG)) == ["cameras"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("NOSUCH",), ValueError),
        ((0,), ValueError),
        ((3,), ValueError),
        ((ExpMessage.EXPINIT | ExpMessage.EXPEND,), ValueError),
        ((True,), TypeError),
        ((None,), TypeError),
        ((1.0,), TypeError),
        (("EXPSTATUS", "SLEEPING"), ValueError),
        (("EXPSTART", 5), ValueError),
        (("EXPINIT", {"camera": object()}), PayloadError),
        (("EXPINIT", b"bytes"), PayloadError),
        (("ALYX", "token"), TypeError),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_what_cannot_be_sent_fails_at_the_call(arguments: Any, error: type, wait: bool, connect: Connect) -> None:
    with RawRig("cameras") as raw:
        aux = connect(raw)
        with pytest.raises(error):
            aux.push(*arguments, wait=wait)
        assert len(aux.log) == 0
        aux.request("EXPSTATUS")
        # By number: what a busy computer answers late is asked again.
        assert list({request.n: request.event.name for request in raw.requests}.values()) == ["EXPSTATUS"]


def test_too_large_fails_at_the_call_and_says_how_large(connect: Connect) -> None:
    with RawRig("cameras") as raw:
        aux = connect(raw)
        with pytest.raises(PayloadTooLarge, match="65,507") as raised:
            aux.push("EXPINIT", {"frames": "x" * 65_507})
        assert raised.value.size > raised.value.limit == 65_507
        with pytest.raises(PayloadTooLarge):
            aux.request("EXPINIT", "x" * 100_000)
        largest = "x" * 65_000
        aux.request("EXPINIT", largest)
        assert list({request.n: request.args for request in raw.requests}.values()) == [[largest]]


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"rigs": 5}, TypeError),
        ({"rigs": [5]}, TypeError),
    ],
)
def test_keywords_are_checked(pair: Auxiliaries, keywords: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        pair.push("EXPSTATUS", **keywords)
    with pytest.raises(error):
        pair.request("EXPSTATUS", **keywords)
    assert len(pair.log) == 0


def test_what_push_does_not_know_is_left_out_with_one_warning(
    pair: Auxiliaries, caplog: pytest.LogCaptureFixture
) -> None:
    """iblrig's own takes any keyword, "currently unused", and more arguments than a message has."""
    for wait in (True, False, True):
        assert pair.push("EXPINIT", {"exp_ref": REFERENCE}, 5, None, tiemout=5, colour="red", wait=wait)
    assert records(caplog, "rigsync.auxiliaries") == [
        "push of EXPINIT ignores the keyword tiemout, did you mean 'timeout'?; the keyword colour; "
        "the last 2 of 3 arguments; EXPINIT takes data"
    ]
    with pytest.raises(TypeError):
        pair.request("EXPINIT", {"exp_ref": REFERENCE}, 5)
    with pytest.raises(TypeError):
        pair.request("EXPSTATUS", tiemout=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("rigs", "chosen"),
    [
        (None, ["cameras:left", "cameras:right", "ephys"]),
        ("ephys", ["ephys"]),
        ("cameras:*", ["cameras:left", "cameras:right"]),
        ("*:right", ["cameras:right"]),
        ("[ce]*", ["cameras:left", "cameras:right", "ephys"]),
        (["ephys", "cameras:left"], ["cameras:left", "ephys"]),
        (("cameras:*", "cameras:left"), ["cameras:left", "cameras:right"]),
        (iter(["ephys"]), ["ephys"]),
        ([], []),
    ],
)
def test_rigs_are_chosen_by_names_and_patterns(serve: Serve, connect: Connect, rigs: Any, chosen: list[str]) -> None:
    aux = connect(*[serve(name) for name in ("cameras:left", "cameras:right", "ephys")])
    assert sorted(aux.request("EXPSTATUS", rigs=rigs)) == chosen


def test_unknown_rig_lists_close_names_first(serve: Serve, connect: Connect) -> None:
    aux = connect(*[serve(name) for name in ("ephys", "mesoscope", "cameras")])
    for call in (aux.push, aux.request):
        with pytest.raises(UnknownRig, match="no rig matches 'camras'; the rigs are: cameras, ephys, mesoscope"):
            call("EXPEND", rigs=["ephys", "camras"])
    with pytest.raises(UnknownRig, match=r"'video:\*'"):
        aux.ping("video:*")
    assert len(aux.log) == 0


def test_a_name_with_pattern_characters_is_a_name_first(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cam[1]"), serve("cam1"))
    assert list(aux.request("EXPSTATUS", rigs="cam[1]")) == ["cam[1]"]


def test_one_rigs_messages_are_handled_in_the_order_pushed(serve: Serve, connect: Connect) -> None:
    seen: list[int] = []
    aux = connect(serve("cameras", {"EXPINFO": lambda status, data: seen.append(data)}))
    keys = [aux.push("EXPINFO", "CONNECTED", i) for i in range(50)]
    until(lambda: len(aux.log) == 50, "fifty results")
    assert seen == list(range(50))
    assert keys == sorted(set(keys))
    assert list(aux.log) == keys


def test_many_pushes_from_many_threads(serve: Serve, connect: Connect) -> None:
    aux = connect(*[serve(name) for name in ("cameras", "ephys", "imaging")])
    start = threading.Barrier(8)

    def work() -> list[float]:
        start.wait(LONG)
        keys = []
        for i in range(13):
            given = aux.push("EXPINFO", "CONNECTED", {"i": i}, wait=i % 2 == 0)
            assert isinstance(given, PushResult if i % 2 == 0 else float)
            keys.append(given.request_time if isinstance(given, PushResult) else given)
        return keys

    workers = [in_thread(work) for _ in range(8)]
    keys = [worker.result(LONG) for worker in workers]
    everything = {key for of_one in keys for key in of_one}
    assert len(everything) == 8 * 13  # unique
    assert all(of_one == sorted(of_one) for of_one in keys)  # increasing
    until(lambda: len(aux.log) == 8 * 13, "all results")
    assert set(aux.log) == everything
    assert all(sorted(result) == ["cameras", "ephys", "imaging"] for result in aux.log.values())


def test_interrupt_overtakes_a_slow_start(serve: Serve, connect: Connect, gate: Gate) -> None:
    interrupted = threading.Event()
    handlers = {"EXPSTART": gate, "EXPINTERRUPT": lambda data: interrupted.set()}
    aux = connect(serve("cameras", handlers), serve("ephys"))
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    answered: list[str] = []
    aux.on("MessageReceived", lambda event: answered.append(event.rig))
    started = aux.push("EXPSTART", REFERENCE)
    assert gate.reached.wait(LONG)
    until(lambda: answered == ["ephys"])
    queued = aux.push("EXPEND", rigs="cameras")
    result = ends_within(PROMPT, aux.request, "EXPINTERRUPT", {"error": "stop"})
    assert interrupted.is_set()
    assert {answer[0]["status"] for answer in result.values()} == {int(ExpStatus.STOPPED)}
    for key in (started, queued):
        outcome = answer_of(aux, key)  # type: ignore[arg-type]
        assert isinstance(outcome, PushError)
        assert isinstance(outcome.failed["cameras"], Interrupted)
    assert list(aux.log[started].result) == ["ephys"]


def test_the_service_thread_is_given_the_time_of_the_rigs(pair: Auxiliaries, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    wait = rigsync.runtime.waiters.Waiters.wait

    def note(waiters: Any, future: Any, limit: float) -> Any:
        limits.append(limit)
        return wait(waiters, future, limit)

    monkeypatch.setattr(rigsync.runtime.waiters.Waiters, "wait", note)
    assert isinstance(pair.push("EXPSTATUS", ExpStatus.CONNECTED, wait=True, timeout=LONG), PushResult)
    assert limits[-1] >= LONG


def test_ping(pair: Auxiliaries) -> None:
    replies = pair.ping()
    assert sorted(replies) == ["cameras", "ephys"]
    for name, reply in replies.items():
        assert isinstance(reply, PingReply)
        assert (reply.rig, reply.dialect, reply.status, reply.exp_ref) == (name, "rigsync", "CONNECTED", None)
        assert 0 <= reply.round_trip < PROMPT
        assert reply.version
        assert pair.services is not None
        assert reply.address == pair.services[name].server_uri.partition("://")[2]
    assert list(pair.ping("eph*")) == ["ephys"]


def test_ping_tells_refusal_from_silence(connect: Connect, serve: Serve) -> None:
    with silent_rig("silent") as silent:
        aux = connect(serve("cameras"), silent, {"down": f"127.0.0.1:{free_port()}"}, connect_timeout=SHORT)
        replies = aux.ping(timeout=3.0)  # within which the one that is there answers
    assert isinstance(replies["cameras"], PingReply)
    assert isinstance(replies["silent"], RigTimeout)
    assert isinstance(replies["down"], RigRefused)
    assert "start the rig's program" in str(replies["down"])


def test_the_time_of_a_ping_that_was_answered_ends_unheard(
    connect: Connect, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with silent_rig("silent") as silent:
        aux = connect(serve("cameras"), silent, connect_timeout=SHORT)
        aux.ping(timeout=0.5)  # ends with the time of the silent one, after that of the other
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_ping_checks_its_timeout(pair: Auxiliaries, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        pair.ping(timeout=timeout)


# --------------------------------------------------------------------------------------------------- looking back


def test_log_is_a_read_only_mapping(pair: Auxiliaries) -> None:
    result = pair.request("EXPSTATUS")
    log = pair.log
    assert isinstance(log, Mapping)
    assert dict(log) == {result.request_time: result}
    assert (list(log.items()), list(log.values())) == ([(result.request_time, result)], [result])
    assert log.get(1.0) is None
    with pytest.raises(KeyError):
        log[1.0]
    with pytest.raises(TypeError):
        log[1.0] = result  # type: ignore[index]
    with pytest.raises(TypeError):
        del log[result.request_time]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        pair.log = {}  # type: ignore[misc,assignment]
    assert "1" in repr(log)


def test_response_never_blocks(serve: Serve, connect: Connect, gate: Gate) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}))
    request_time = aux.push("EXPINIT")
    assert isinstance(request_time, float)
    assert gate.reached.wait(LONG)
    assert aux.response(request_time) is None
    assert aux.response(request_time, "waiting") == "waiting"
    assert aux.response(0.0, default=5) == 5
    gate.open.set()
    assert list(answer_of(aux, request_time)) == ["cameras"]


def test_log_keeps_the_newest(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"), log_limit=3)
    keys = [aux.request("EXPSTATUS").request_time for _ in range(5)]
    assert list(aux.log) == keys[2:]
    assert aux.response(keys[0]) is None


def test_log_keeps_fewer_large_answers(serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigsync.coordinator.results, "MOST_BYTES", 45_000)
    monkeypatch.setattr(rigsync.coordinator.results, "KEPT_ANYWAY", 1)
    rigs = [serve(name, {"EXPINFO": lambda *_: {"picture": "x" * 10_000}}) for name in ("cameras", "ephys")]
    aux = connect(*rigs)
    keys = [aux.request("EXPINFO").request_time for _ in range(5)]
    assert list(aux.log) == keys[3:]


def test_log_may_be_iterated_while_it_grows(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"), log_limit=5)

    def look(last: float) -> None:
        while last not in aux.log:
            for key in aux.log:
                aux.log.get(key)
            assert all(isinstance(result, PushResult) for result in aux.log.values())
            assert all(key == result.request_time for key, result in aux.log.items())

    for _ in range(200):
        aux.push("EXPSTATUS")
    look(aux.push("EXPSTATUS"))


# ------------------------------------------------------------------------------- the two conditions, both protocols


def test_connected_as_an_event(pair: Auxiliaries) -> None:
    assert pair.connected.is_set()
    assert pair.connected.wait()  # late, and with neither lock nor time limit
    assert pair.connected.wait(0)


def test_connected_as_a_condition(pair: Auxiliaries) -> None:
    with pair.connected:
        assert pair.connected.wait(timeout=0)
        assert pair.connected.wait_for(lambda: pair.all_alive, timeout=LONG)


def test_response_received_as_an_event(pair: Auxiliaries) -> None:
    for _ in range(20):
        request_time = pair.push("EXPSTATUS")
        assert pair.response_received.wait(LONG)  # whether it has come already or not
        assert request_time in pair.log
    assert not pair.response_received.is_set()
    assert not pair.response_received.wait(0)


def test_response_received_as_a_condition(pair: Auxiliaries) -> None:
    for _ in range(20):
        with pair.response_received:
            request_time = pair.push("EXPSTATUS")
            assert pair.response_received.wait(timeout=LONG)
        assert request_time in pair.log


def test_response_received_with_wait_for(pair: Auxiliaries) -> None:
    request_time = pair.push("EXPSTATUS")
    with pair.response_received:
        assert pair.response_received.wait_for(lambda: request_time in pair.log, timeout=LONG)
    request_time = pair.push("EXPSTATUS")
    assert pair.response_received.wait_for(lambda: request_time in pair.log, timeout=LONG)


def test_late_waiter_does_not_miss_the_response(pair: Auxiliaries) -> None:
    answer_of(pair, pair.push("EXPSTATUS"))  # type: ignore[arg-type]
    until(pair.response_received.is_set)  # which is announced once it is in the log
    assert pair.response_received.wait(0)
    answer_of(pair, pair.push("EXPSTATUS"))  # type: ignore[arg-type]
    until(pair.response_received.is_set)
    with pair.response_received:
        assert pair.response_received.wait(0)


def test_all_waiting_threads_hear_of_one_response(serve: Serve, connect: Connect, gate: Gate) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}))
    listening = threading.Barrier(5)

    def listen() -> bool:
        listening.wait(LONG)
        return aux.response_received.wait(LONG)

    waiters = [in_thread(listen) for _ in range(4)]
    aux.push("EXPINIT")
    listening.wait(LONG)
    gate.open.set()
    assert [waiter.result(LONG) for waiter in waiters] == [True] * 4


def test_response_received_is_notified_of_failures_too(connect: Connect) -> None:
    aux = connect({"down": f"127.0.0.1:{free_port()}"}, timing=QUICK)
    request_time = aux.push("EXPSTATUS", timeout=0.2)
    assert aux.response_received.wait(LONG)
    assert isinstance(aux.log[request_time], PushError)  # type: ignore[index]


# ------------------------------------------------------------------------------------------------------ callbacks


def test_callbacks_of_services_are_called_with_each_answer(pair: Auxiliaries) -> None:
    assert pair.services is not None
    calls: list[Any] = []
    pair.services.assign_callback("EXPSTATUS", lambda data, addr: calls.append((data, addr)))
    pair.services.assign_callback("EXPSTATUS", lambda *args: calls.append(args[2].name), return_service=True)
    pair.request("EXPSTATUS")
    addresses = [(rig.hostname, rig.port) for rig in pair.services.values()]
    assert sorted(call for call in calls if isinstance(call, str)) == ["cameras", "ephys"]
    assert sorted(call for call in calls if not isinstance(call, str)) == sorted(([0], addr) for addr in addresses)
    calls.clear()
    assert set(pair.services.clear_callbacks("EXPSTATUS").values()) == {2}
    pair.request("EXPSTATUS")
    assert calls == []


def test_callback_that_raises_is_logged_by_name_and_harms_nobody(
    pair: Auxiliaries, caplog: pytest.LogCaptureFixture
) -> None:
    assert pair.services is not None
    calls: list[Any] = []

    def clumsy_callback(*_: Any) -> None:
        raise ValueError("clumsy")

    def clumsy_subscriber(_: Any) -> None:
        raise SystemExit(3)

    for callback in (clumsy_callback, lambda *_: calls.append("callback")):
        pair.services.assign_callback("EXPSTATUS", callback)
    for subscriber in (clumsy_subscriber, lambda _: calls.append("subscriber")):
        pair.on("PushCompleted", subscriber)
    for _ in range(2):
        assert sorted(pair.request("EXPSTATUS")) == ["cameras", "ephys"]
    until(lambda: calls.count("subscriber") == 2)
    assert calls.count("callback") == 4
    assert (pair.is_running, pair.all_alive) == (True, True)
    told = "\n".join(records(caplog, "rigsync.callbacks"))
    assert "clumsy_callback" in told
    assert "clumsy_subscriber" in told


def test_on_and_its_end(pair: Auxiliaries) -> None:
    seen: list[Any] = []
    by_name = pair.on("PushCompleted", seen.append)
    by_class = pair.on(events.PushCompleted, seen.append)
    result = pair.request("EXPSTATUS")
    until(lambda: len(seen) == 2, "two calls")
    assert isinstance(seen[0], events.PushCompleted)
    assert (seen[0].request_time, seen[0].event, seen[0].failures) == (result.request_time, ExpMessage.EXPSTATUS, {})
    by_name()
    pair.request("EXPSTATUS")
    until(lambda: len(seen) == 3, "one more call")
    by_class()
    by_class()  # twice does no harm
    pair.request("EXPSTATUS")
    on_loop(pair, lambda: None)
    assert len(seen) == 3


def test_on_tells_of_answers_and_links(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    aux = connect(rig, timing=LIVELY)
    messages_seen: list[Any] = []
    links: list[Any] = []
    aux.on("MessageReceived", messages_seen.append)
    aux.on("LinkChanged", links.append)
    aux.request("EXPSTATUS")
    assert [(event.rig, event.event.name, event.args) for event in messages_seen] == [("cameras", "EXPSTATUS", [0])]
    rig.close()
    until(lambda: links and links[-1].after is events.LinkState.LOST)
    assert links[-1].rig == "cameras"


def test_subscriber_may_end_its_own_subscription(pair: Auxiliaries) -> None:
    seen: list[str] = []
    ends: list[Callable[[], None]] = []

    def once(_: Any) -> None:
        seen.append("once")
        ends[0]()

    ends.append(pair.on("PushCompleted", once))
    pair.on("PushCompleted", lambda _: seen.append("always"))
    for _ in range(2):
        pair.request("EXPSTATUS")
    until(lambda: len(seen) == 3)
    assert seen == ["once", "always", "always"]


@pytest.mark.parametrize("event", ["NoSuchEvent", int, "HandlerDue", events.HandlerDue, events.Event])
def test_on_refuses_what_is_no_event_of_a_coordinator(pair: Auxiliaries, event: Any) -> None:
    with pytest.raises(ValueError, match=r"choices: .*PushCompleted"):
        pair.on(event, print)


def test_unsolicited_message_reaches_callbacks(connect: Connect) -> None:
    with EchoServer("cameras") as rig:
        aux = connect(rig)
        assert aux.services is not None
        got: list[Any] = []
        aux.services.assign_callback("EXPEND", lambda data, addr: got.append(data))
        aux.request("EXPSTATUS")
        rig.send(ExpMessage.EXPEND, {"why": "disk full"}).result(LONG)
        until(lambda: got, "the callback")
    assert got == [[{"why": "disk full"}]]


# ------------------------------------------------------------------------------- calls on the service thread itself


def test_blocking_calls_in_a_callback_are_refused_at_once(pair: Auxiliaries) -> None:
    errors: list[Any] = []

    def callback(_: Any) -> None:
        for call in (
            lambda: pair.push("EXPSTATUS", wait=True),
            lambda: pair.request("EXPSTATUS"),
            pair.ping,
            pair.close,
        ):
            try:
                errors.append(call())
            except LoopBlocked as error:
                errors.append(error)

    end = pair.on("PushCompleted", callback)
    ends_within(PROMPT, pair.request, "EXPSTATUS")
    until(lambda: len(errors) == 4)
    assert all(isinstance(error, LoopBlocked) for error in errors), errors
    end()
    assert pair.is_running
    assert sorted(pair.request("EXPSTATUS")) == ["cameras", "ephys"]


def test_push_without_waiting_works_in_a_callback(pair: Auxiliaries) -> None:
    assert pair.services is not None
    keys: list[Any] = []

    def callback(*_: Any) -> None:
        if len(keys) < 2:
            keys.append(pair.push("EXPSTATUS", rigs="ephys"))

    pair.services["cameras"].assign_callback("EXPINFO", callback)
    pair.on("PushCompleted", callback)
    pair.request("EXPINFO", "CONNECTED")
    until(lambda: len(keys) == 2 and all(key in pair.log for key in keys))
    assert [pair.log[key] for key in keys] == [{"ephys": [0]}] * 2


def test_clear_message_queue_works_in_a_callback(pair: Auxiliaries) -> None:
    assert on_loop(pair, pair.clear_message_queue) == 0


def test_stop_event_may_be_set_in_a_callback(pair: Auxiliaries) -> None:
    pair.on("PushCompleted", lambda _: pair.stop_event.set())
    with contextlib.suppress(NotRunning):
        pair.push("EXPSTATUS")
    until(lambda: not pair.thread.is_alive(), "the end of the thread")
    assert not pair.is_running


def test_stuck_loop_is_told_from_a_silent_rig(pair: Auxiliaries, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigsync.runtime.waiters, "STUCK_AFTER", 0.2)
    assert pair.services is not None
    pair.services["cameras"].assign_callback("EXPINFO", gate)
    pair.push("EXPINFO", "CONNECTED")
    assert gate.reached.wait(LONG)
    with pytest.raises(LoopStuck, match="callback"):
        ends_within(PROMPT, pair.push, "EXPSTATUS", wait=True, timeout=0.1)
    for call in (lambda: pair.ping(timeout=0.1), pair.clear_message_queue):
        with pytest.raises(LoopStuck):
            ends_within(PROMPT, call)
    gate.open.set()
    assert sorted(pair.request("EXPSTATUS")) == ["cameras", "ephys"]


def test_slow_callback_is_not_a_stuck_loop(pair: Auxiliaries, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigsync.runtime.waiters, "STUCK_AFTER", LONG)
    assert pair.services is not None
    pair.services["cameras"].assign_callback("EXPINFO", gate)
    pair.push("EXPINFO", "CONNECTED")
    assert gate.reached.wait(LONG)
    push = in_thread(pair.push, "EXPSTATUS", wait=True, timeout=0.1)
    time.sleep(0.5)  # over the rigs' time and the grace
    gate.open.set()
    # The answers have lain in the socket all the time, or were never asked for: either is the rigs' own outcome.
    assert isinstance(push.result(LONG), (PushResult, PushTimeout))


# -------------------------------------------------------------------------------------------------- clearing, ending


def test_clear_message_queue_takes_back_what_was_not_sent(serve: Serve, connect: Connect, gate: Gate) -> None:
    seen: list[str] = []
    handlers = {"EXPINIT": gate, "EXPINFO": lambda *_: seen.append("info")}
    aux = connect(serve("cameras", handlers), serve("ephys"))
    answered: list[str] = []
    aux.on("MessageReceived", lambda event: answered.append(event.rig))
    first = aux.push("EXPINIT")
    assert gate.reached.wait(LONG)
    queued = [aux.push("EXPINFO", "CONNECTED") for _ in range(3)]
    until(lambda: answered == ["ephys"] * 4)
    waiting = in_thread(aux.push, "EXPSTATUS", wait=True, rigs="cameras")
    on_queue = aux.services["cameras"].peer.requests.errands._queue  # type: ignore[index,union-attr]
    until(lambda: len(on_queue) == 4)
    assert aux.clear_message_queue() == 4
    outcome = waiting.result(PROMPT)
    assert isinstance(outcome.failed["cameras"], Aborted)
    for key in queued:
        error = answer_of(aux, key)  # type: ignore[arg-type]
        assert isinstance(error.failed["cameras"], Aborted)
        assert list(error.result) == ["ephys"]
    assert aux.clear_message_queue() == 0
    gate.open.set()
    assert sorted(answer_of(aux, first)) == ["cameras", "ephys"]  # type: ignore[arg-type]
    assert sorted(aux.request("EXPSTATUS")) == ["cameras", "ephys"]
    assert seen == []


def test_clear_message_queue_takes_back_what_waits_for_a_rig_that_never_came(connect: Connect) -> None:
    with silent_rig() as clients:
        aux = connect(clients, connect_timeout=0)
        keys = [aux.push("EXPINIT"), aux.push("EXPEND")]
        until(lambda: aux.thread.is_running)
        assert aux.clear_message_queue() == 2
        assert all(isinstance(answer_of(aux, key).failed["silent"], Aborted) for key in keys)  # type: ignore[arg-type]


def test_close(pair: Auxiliaries) -> None:
    services = pair.services
    assert services is not None
    ends_within(CLOSING, pair.close)
    assert (pair.is_running, pair.is_connected, pair.all_alive, pair.connected.is_set()) == (False, False, False, False)
    assert pair.stop_event.is_set()
    assert not pair.thread.is_alive()
    assert not services.all_alive
    assert not any(rig.is_connected for rig in services.values())
    for _ in range(3):
        ends_within(PROMPT, pair.close)
    for call in (
        lambda: pair.push("EXPEND"),
        lambda: pair.push("EXPEND", wait=True),
        lambda: pair.request("EXPEND"),
        pair.ping,
    ):
        with pytest.raises(NotRunning, match="closed"):
            ends_within(PROMPT, call)
    assert pair.clear_message_queue() == 0
    assert "stopped" in repr(pair)


def test_services_may_be_closed_in_a_callback(connect: Connect) -> None:
    with RawRig("cameras") as raw:
        aux = connect(raw)
        assert aux.services is not None
        aux.on("PushCompleted", lambda _: aux.services.close())  # type: ignore[union-attr]
        assert aux.request("EXPSTATUS") == {"cameras": [{"by": "cameras"}]}
        assert not aux.services.is_open
        until(lambda: any(isinstance(messages.decode(data), messages.Bye) for data in raw.received), "the goodbye")
        ends_within(CLOSING, aux.close)


def test_closed_instance_is_forgotten(serve: Serve) -> None:
    aux = Auxiliaries({"cameras": serve("cameras").uri})
    aux.request("EXPSTATUS")
    aux.close()
    gone = weakref.ref(aux)
    del aux
    collected(gone)


def test_results_outlive_close(pair: Auxiliaries) -> None:
    result = pair.request("EXPSTATUS")
    pair.close()
    assert pair.log[result.request_time] == result


def test_context_manager_closes(serve: Serve) -> None:
    rig = serve("cameras")
    with Auxiliaries({"cameras": rig.uri}) as aux:
        assert aux.is_running
    assert not aux.is_running
    with pytest.raises(ZeroDivisionError), Auxiliaries({"cameras": rig.uri}) as aux:
        1 / 0  # noqa: B018
    assert not aux.is_running


def test_close_from_several_threads_at_once(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"))
    start = threading.Barrier(8)

    def close() -> bool:
        start.wait(LONG)
        aux.close()
        return aux.thread.is_alive()

    closers = [in_thread(close) for _ in range(8)]
    assert [closer.result(CLOSING) for closer in closers] == [False] * 8


def test_close_is_bounded_even_if_a_callback_blocks_the_loop(
    pair: Auxiliaries, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    assert pair.services is not None
    pair.services["cameras"].assign_callback("EXPINFO", gate)
    pair.push("EXPINFO", "CONNECTED")
    assert gate.reached.wait(LONG)
    begin = time.monotonic()
    closers = [in_thread(pair.close) for _ in range(3)]
    for closer in closers:
        closer.result(LONG)
    assert time.monotonic() - begin < CLOSING  # and not once more for each thread
    assert any("still running" in record for record in records(caplog, "rigsync.loop_thread"))
    gate.open.set()
    until(lambda: not pair.thread.is_alive())


def test_rigs_learn_that_the_coordinator_closes(connect: Connect) -> None:
    with RawRig("cameras") as raw:
        aux = connect(raw)
        aux.close()
        until(lambda: any(isinstance(messages.decode(data), messages.Bye) for data in raw.received), "the goodbye")


def test_a_program_that_ends_without_close_says_goodbye() -> None:
    with RawRig("cameras") as raw:
        program = "import sys, rigsync; aux = rigsync.Auxiliaries({'cameras': sys.argv[1]})"
        subprocess.run([sys.executable, "-c", program, raw.uri], cwd=ROOT, timeout=LONG, check=True)
        until(lambda: any(isinstance(messages.decode(data), messages.Bye) for data in raw.received), "the goodbye")


IMPATIENT = """
import sys, time
from rigsync import Auxiliaries

with Auxiliaries({"cameras": sys.argv[1]}) as aux:
    aux.request("EXPINIT", {"exp_ref": "2026-03-01_2_mouse"})
    aux.request("EXPSTART", "2026-03-01_2_mouse")
    print("running", flush=True)
    while True:
        time.sleep(0.1)
"""


@posix
def test_ctrl_c_again_while_it_closes_does_not_keep_it_from_saying_goodbye() -> None:
    with RawRig("cameras") as raw:
        command = [sys.executable, "-c", IMPATIENT, raw.uri]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
            answer = raw.on_request

            def answer_or_press_again(rig: RawRig, request: messages.Request, source: Any) -> None:
                if request.event is ExpMessage.EXPINTERRUPT:  # and nothing answers that
                    program.send_signal(signal.SIGINT)
                else:
                    answer(rig, request, source)

            raw.on_request = answer_or_press_again
            assert program.stdout
            assert program.stdout.readline() == b"running\n"
            program.send_signal(signal.SIGINT)
            _, shown = program.communicate(timeout=LONG)
        assert b"KeyboardInterrupt" in shown
        until(lambda: any(isinstance(messages.decode(data), messages.Bye) for data in raw.received), "the goodbye")


@pytest.mark.parametrize("waiters", [50])
def test_close_while_many_wait(serve: Serve, connect: Connect, gate: Gate, waiters: int) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}), serve("ephys"))
    assert aux.services is not None
    pushes = [in_thread(aux.push, "EXPINIT", i, wait=True) for i in range(waiters)]
    pushes.append(in_thread(asyncio.run, aux.services.init()))
    pushes.append(in_thread(asyncio.run, aux.services["cameras"].confirmed_send(["EXPINFO", 0])))
    until(lambda: on_loop(aux, lambda: len(aux.services._pending)) == waiters + 2)  # type: ignore[union-attr]
    assert ends_within(CLOSING, aux.close) is None
    *returned, init, confirmed = pushes
    outcomes = [push.result(LONG) for push in returned]
    with pytest.raises(PushError, match="closed") as raised:
        init.result(LONG)
    with pytest.raises(Aborted, match="closed"):
        confirmed.result(LONG)
    for outcome in [*outcomes, raised.value]:
        assert isinstance(outcome.failed["cameras"], Aborted)


def test_close_frees_who_handed_a_message_over_too_late(pair: Auxiliaries, monkeypatch: pytest.MonkeyPatch) -> None:
    # As it is for a moment while the loop ends: what is handed over then is never looked at.
    monkeypatch.setattr(pair.services, "push", lambda *_, **__: None)
    push = in_thread(pair.push, "EXPEND", wait=True)
    until(lambda: pair.thread.waiters._waiting)
    pair.response_received.clear()
    pair.close()
    assert pair.response_received.wait(LONG)
    outcome = push.result(LONG)
    assert [type(failure) for failure in outcome.failed.values()] == [Aborted, Aborted]
    assert pair.log[outcome.result.request_time] is outcome


def test_a_request_that_close_ends_raises_with_the_answers_that_there_are(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    aux = connect(serve("cameras", {"EXPINFO": gate}), serve("ephys", {"EXPINFO": lambda *_: {"probe": 2}}))
    heard: list[str] = []
    aux.on("MessageReceived", lambda event: heard.append(event.rig))
    asked = in_thread(aux.request, "EXPINFO")
    assert gate.reached.wait(LONG)
    until(lambda: "ephys" in heard)
    aux.close()
    with pytest.raises(PushError, match="cameras: this program closed before EXPINFO was answered") as raised:
        asked.result(LONG)
    assert raised.value.result["ephys"][-1]["probe"] == 2


def test_close_while_many_push_again_and_again(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    for _ in range(10):
        aux = connect(rig)
        begun = threading.Barrier(5)

        def push(aux: Auxiliaries = aux, begun: threading.Barrier = begun) -> float:
            begun.wait(LONG)
            try:
                while True:
                    last = time.monotonic()
                    aux.push("EXPSTATUS", wait=True)
            except NotRunning:
                return time.monotonic() - last

        pushers = [in_thread(push) for _ in range(4)]
        begun.wait(LONG)
        time.sleep(0.01)
        aux.close()
        assert max(pusher.result(LONG) for pusher in pushers) < CLOSING


def test_stop_event_stops_the_thread_and_closes(pair: Auxiliaries) -> None:
    services = pair.services
    assert services is not None
    pair.stop_event.set()
    assert not pair.is_running
    until(lambda: not pair.thread.is_alive(), "the end of the thread")
    assert not services.is_open
    assert not pair.is_connected
    with pytest.raises(NotRunning):
        pair.push("EXPEND")
    pair.close()


# ------------------------------------------------------------------------------------- the coroutines of the thread


@pytest.mark.parametrize("notify", [False, True])
def test_cleanup_on_the_users_event_loop(serve: Serve, connect: Connect, notify: bool) -> None:
    cleaned: list[Any] = []
    rig = serve("cameras", {"EXPCLEANUP": lambda data: cleaned.append(data)})
    aux = connect(rig)
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    assert aux.services is not None
    waiter = in_thread(asyncio.run, aux.services["cameras"].on_event("EXPEND"))
    until(lambda: aux.services["cameras"]._callbacks[ExpMessage.EXPEND])  # type: ignore[index]
    asyncio.run(aux.cleanup(notify_services=notify))
    assert cleaned == [None] * notify
    assert rig.status == (ExpStatus.CONNECTED if notify else ExpStatus.INITIALIZED)
    with pytest.raises(asyncio.CancelledError):
        waiter.result(PROMPT)
    assert not aux.is_connected
    assert not aux.services.is_open
    with pytest.raises(NotRunning):
        ends_within(PROMPT, aux.push, "EXPEND", wait=True)
    with pytest.raises(NotRunning):
        ends_within(PROMPT, aux.ping)
    asyncio.run(aux.cleanup(notify_services=True))  # again, which does nothing
    aux.close()
    asyncio.run(aux.cleanup())


def test_cleanup_tells_all_rigs_though_one_fails(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    cleaned: list[Any] = []
    handlers = [{"EXPCLEANUP": lambda data: 1 / 0}, {"EXPCLEANUP": cleaned.append}]
    aux = connect(*map(serve, ("cameras", "ephys"), handlers))
    aux.request("EXPINIT")
    asyncio.run(aux.cleanup(notify_services=True))
    assert cleaned == [None]
    assert any("ZeroDivisionError" in record for record in records(caplog, "rigsync.auxiliaries"))


def test_create_a_second_time_does_nothing(pair: Auxiliaries) -> None:
    services = pair.services

    async def create(_: None) -> None:
        await pair.create()

    pair.thread.run_coroutine(create, None)
    assert pair.services is services
    assert pair.all_alive


class Mortal(Auxiliaries):
    """Whose listening can be made to fail, at once or later."""

    def __init__(self, *args: Any, at_once: bool = False, **kwargs: Any):
        self.die = threading.Event()
        if at_once:
            self.die.set()
        super().__init__(*args, **kwargs)

    async def listen(self) -> None:
        listening = asyncio.ensure_future(super().listen()) if not self.die.is_set() else None
        while not self.die.is_set():
            await asyncio.sleep(0.001)
        del listening
        raise OSError("the network card is gone")


def test_dead_service_thread_is_loud(
    serve: Serve, connect: Connect, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}), kind=Mortal)
    assert isinstance(aux, Mortal)
    assert aux.all_alive
    pushes = [in_thread(aux.push, "EXPINIT", wait=True) for _ in range(5)]
    assert gate.reached.wait(LONG)
    until(lambda: on_loop(aux, lambda: len(aux.services._pending)) == 5)  # type: ignore[union-attr]
    aux.die.set()
    for push in pushes:
        with pytest.raises(NotRunning, match="network card"):
            push.result(PROMPT)
    until(lambda: not aux.thread.is_alive(), "the end of the thread")
    assert (aux.is_running, aux.is_connected, aux.all_alive, aux.connected.is_set()) == (False, False, False, False)
    for wait in (True, False):
        with pytest.raises(NotRunning, match="network card"):
            ends_within(PROMPT, aux.push, "EXPEND", wait=wait)
    with pytest.raises(NotRunning, match="network card"):
        ends_within(PROMPT, aux.ping)
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)
    ends_within(CLOSING, aux.close)


def test_cleanup_that_fails_leaves_no_socket(serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    class Careless(Auxiliaries):
        async def cleanup(self, notify_services: bool = False) -> None:
            raise OSError("the network card is gone")

    aux = connect(serve("cameras"), kind=Careless)
    ends_within(CLOSING, aux.close)
    assert aux.services is not None
    assert not aux.services.is_open
    assert any(record.levelno == logging.CRITICAL for record in caplog.records)


def test_a_thread_that_was_stopped_is_not_said_to_be_closed(pair: Auxiliaries) -> None:
    pair.thread.stop()
    pair.thread.join(LONG)
    with pytest.raises(NotRunning, match="the service thread has ended"):
        pair.push("EXPINFO")


def test_a_listen_that_ends_before_there_are_services_is_the_constructors_error() -> None:
    class Ends(Auxiliaries):
        async def listen(self) -> None:
            """Neither creates nor waits."""

    with pytest.raises(NotRunning, match="closed before every rig had answered"):
        in_thread(Ends, {}).result(LONG)


def test_thread_that_dies_before_it_has_begun_is_the_constructors_error() -> None:
    with pytest.raises(NotRunning, match="network card"):
        ends_within(PROMPT, Mortal, {"cameras": "127.0.0.1:9"}, at_once=True)


def test_create_that_fails_is_the_constructors_error() -> None:
    class Failing(Auxiliaries):
        async def create(self) -> None:
            raise KeyError("nothing works")

    with pytest.raises(KeyError, match="nothing works"):
        Failing({"cameras": "127.0.0.1:9"})


# ------------------------------------------------------------------------------------------- processes that forget


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    prelude = "import rigsync, sys, threading, time\nrig = rigsync.Rig('cameras', 'udp://127.0.0.1:0')\nrig.start()\n"
    return run_strictly(prelude + textwrap.dedent(code), "-W", "ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "del aux",
        "aux.push('EXPEND')",
        "threading.Thread(target=aux.push, args=('EXPINIT',), kwargs={'wait': True}, daemon=True).start()",
        "aux.close()",
        "sys.exit(0)",
    ],
)
def test_unclosed_instance_does_not_keep_the_process_alive(rest: str) -> None:
    done = run_python(f"aux = rigsync.Auxiliaries({{'cameras': rig.uri}})\nassert aux.all_alive\n{rest}")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_fork_leaves_the_parents_instance_alone() -> None:
    done = run_python(
        """
        import os
        aux = rigsync.Auxiliaries({"cameras": rig.uri})
        child = os.fork()
        if child == 0:
            assert not aux.is_running
            assert not aux.is_connected
            begin = time.monotonic()
            try:
                aux.push("EXPSTATUS", wait=True)
            except rigsync.NotRunning:
                aux.close()
                os._exit(7 if time.monotonic() - begin < 2 else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert aux.request("EXPSTATUS") == {"cameras": [0]}
        aux.close()
        rig.close()
        """
    )
    assert (done.returncode, calm(done.stderr)) == (0, "")


# ------------------------------------------------------------------------------------------------------------ Alyx

TOKEN = "0123456789abcdef-a-secret"


class Alyx:
    """As much of `one.webclient.AlyxClient` as is asked for."""

    base_url, user, _token, is_logged_in = "https://alyx.example.org", "anne", TOKEN, True


def test_alyx_token_reaches_the_rig_and_no_log(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[Any] = []
    aux = connect(serve("cameras", {"ALYX": lambda base_url, token: seen.append((base_url, token))}), serve("ephys"))
    result = aux.request("ALYX", Alyx())
    assert sorted(result) == ["cameras", "ephys"]
    assert seen == [("https://alyx.example.org", {"anne": TOKEN})]
    aux.close()
    assert len(caplog.records) > 4
    for record in caplog.records:
        assert TOKEN not in record.getMessage()
        assert TOKEN not in repr(record.args)


def test_alyx_asks_for_a_token(serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    aux = connect(serve("cameras", {"ALYX": lambda base_url, token: Alyx()}), serve("ephys"))
    assert aux.request("ALYX") == {"cameras": ["https://alyx.example.org", {"anne": TOKEN}], "ephys": [None, {}]}
    assert aux.request("ALYX", None)["cameras"][1] == {"anne": TOKEN}
    aux.close()
    assert not any(TOKEN in record.getMessage() for record in caplog.records)


def test_alyx_that_is_not_logged_in_asks_for_a_token(serve: Serve, connect: Connect) -> None:
    seen: list[Any] = []
    aux = connect(serve("cameras", {"ALYX": lambda *args: seen.append(args)}))
    alyx = Alyx()
    alyx.is_logged_in = False
    aux.request("ALYX", alyx)
    assert seen == [("https://alyx.example.org", {})]


def test_failure_of_the_rig_with_a_token_in_it_stays_out_of_the_log(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def fail(base_url: str, token: Any) -> None:
        raise RuntimeError("no access")

    aux = connect(serve("cameras", {"ALYX": fail}))
    error = aux.push("ALYX", Alyx(), wait=True)
    assert isinstance(error, PushError)
    aux.close()
    assert not any(TOKEN in record.getMessage() + str(record.exc_text) for record in caplog.records)


# ------------------------------------------------------------------------------------------- one of three rigs down


class Trio:
    """Two rigs that keep what they were told, and a third that is in a bad way."""

    def __init__(self, serve: Serve, connect: Connect, third: dict[str, Any], timing: Timing = QUICK):
        self.told: dict[str, list[str]] = {"cameras": [], "ephys": []}
        rigs = [serve(name, self._handlers(name)) for name in self.told]
        self.aux = connect(rigs[0], third, rigs[1], timing=timing)
        (self.third,) = third

    def _handlers(self, name: str) -> dict[str, Callable[..., None]]:
        def handler(event: str) -> Callable[..., None]:
            return lambda *_: self.told[name].append(event)

        return {event: handler(event) for event in SESSION}

    def push(self, event: str, *args: Any, timeout: float | None = None) -> RigError:
        """Push to all; return the third's error."""
        begin = time.monotonic()
        outcome = self.aux.push(event, *args, wait=True, timeout=timeout)
        assert time.monotonic() - begin < PROMPT
        assert isinstance(outcome, PushError)
        assert list(outcome.failed) == [self.third]
        assert sorted(outcome.result) == ["cameras", "ephys"]
        error = outcome.failed[self.third]
        assert error.rig == self.third
        return error


SESSION = {"EXPINIT": {"exp_ref": REFERENCE}, "EXPSTART": REFERENCE, "EXPINTERRUPT": None, "EXPEND": None}


@pytest.mark.parametrize("last", ["EXPEND", "EXPINTERRUPT"])
def test_rig_whose_port_is_closed(serve: Serve, connect: Connect, last: str) -> None:
    trio = Trio(serve, connect, {"down": f"127.0.0.1:{free_port()}"})
    assert not trio.aux.all_alive
    for event in ("EXPINIT", "EXPSTART", last):
        error = trio.push(event, SESSION[event])
        assert isinstance(error, RigRefused)
        assert isinstance(error, ConnectionRefusedError)
        assert "start the rig's program" in str(error)
    assert trio.told == {"cameras": ["EXPINIT", "EXPSTART", last], "ephys": ["EXPINIT", "EXPSTART", last]}


@pytest.mark.parametrize("last", ["EXPEND", "EXPINTERRUPT"])
def test_rig_that_never_says_anything(serve: Serve, connect: Connect, last: str) -> None:
    with silent_rig("third") as third:
        trio = Trio(serve, connect, {"third": {"uri": third["third"], "timeout": 0.5}})  # the others have their time
        for event in ("EXPINIT", "EXPSTART", last):
            error = trio.push(event, SESSION[event])
            assert isinstance(error, (RigTimeout, RigLost))
            assert isinstance(error, TimeoutError)
    assert trio.told == {"cameras": ["EXPINIT", "EXPSTART", last], "ephys": ["EXPINIT", "EXPSTART", last]}


def test_silent_rig_becomes_lost_and_costs_little_then(serve: Serve, connect: Connect) -> None:
    with silent_rig() as third:
        trio = Trio(serve, connect, third)
        until(lambda: trio.aux.services["silent"].state is events.LinkState.LOST)  # type: ignore[index]
        error = trio.push("EXPINIT", timeout=LONG)  # not all of it, but lost_grace
        assert isinstance(error, RigLost)
        assert "cable" in str(error)


@pytest.mark.parametrize("last", ["EXPEND", "EXPINTERRUPT"])
def test_rig_killed_in_the_middle(serve: Serve, connect: Connect, last: str) -> None:
    working = threading.Event()

    def work(rig: RawRig, request: messages.Request, source: Any) -> None:
        if request.event is ExpMessage.EXPSTART:
            rig.acknowledge(request, source)
            working.set()
        else:
            rig.reply(request, source)

    with RawRig("third", work) as raw:
        trio = Trio(serve, connect, {"third": raw.uri}, timing=LIVELY)
        assert trio.aux.all_alive
        trio.aux.request("EXPINIT", SESSION["EXPINIT"])
        start = in_thread(trio.aux.push, "EXPSTART", REFERENCE, wait=True)
        assert working.wait(LONG)
        until(lambda: all("EXPSTART" in told for told in trio.told.values()))  # long before the third has ended
        raw.close()
        error = start.result(LONG)
        assert isinstance(error.failed["third"], RigRefused)
        assert sorted(error.result) == ["cameras", "ephys"]
        assert isinstance(trio.push(last), RigRefused)
    assert not trio.aux.all_alive
    assert trio.told == {"cameras": ["EXPINIT", "EXPSTART", last], "ephys": ["EXPINIT", "EXPSTART", last]}


def test_live_rigs_have_the_message_at_once_however_long_another_takes(
    serve: Serve, connect: Connect, gate: Gate
) -> None:
    told = threading.Semaphore(0)
    quick = {"EXPINIT": lambda data: told.release()}
    with silent_rig() as third:
        rigs = serve("slow", {"EXPINIT": gate}), *[serve(f"rig{i}", quick) for i in range(4)]
        aux = connect(third, *rigs, connect_timeout=SHORT)
        push = in_thread(aux.push, "EXPINIT", wait=True)
        for _ in range(4):
            assert told.acquire(timeout=PROMPT)
        assert not push.done()
        aux.close()
        assert isinstance(push.result(PROMPT).failed["slow"], Aborted)


@pytest.mark.parametrize(
    ("event", "reverse"),
    [("EXPINIT", False), ("EXPINFO", False), ("EXPEND", True), ("EXPINTERRUPT", True), ("EXPCLEANUP", True)],
)
def test_order_in_which_the_rigs_are_told(
    serve: Serve, connect: Connect, event: str, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rigsync.net.endpoint import Endpoint

    order: list[str] = []
    send = Endpoint._send

    def spy(self: Endpoint, destination: Any, data: bytes) -> None:
        if b'"kind":"request"' in data:
            order.append(destination[0])
        send(self, destination, data)

    names = ["cameras", "ephys", "imaging"]
    aux = connect(*map(serve, names))
    monkeypatch.setattr(Endpoint, "_send", spy)
    aux.push(event, wait=True)
    first = list(dict.fromkeys(order))  # a busy computer is slow to answer, and some are sent again
    assert first == (names[::-1] if reverse else names)


def test_mutual_failure_of_all(connect: Connect) -> None:
    aux = connect(
        {"left": f"127.0.0.1:{free_port()}", "right": f"127.0.0.1:{free_port()}"}, timing=QUICK, connect_timeout=0
    )
    outcome = aux.push("EXPSTART", REFERENCE, wait=True)
    assert isinstance(outcome, PushError)
    assert sorted(outcome.failed) == ["left", "right"]
    assert outcome.result == {}
    assert "2 rigs" in str(outcome)


def test_callbacks_for_errors_hear_of_the_failure_of_what_was_pushed(serve: Serve, connect: Connect) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    aux = connect(serve("cameras", {"EXPSTART": fail}))
    aux.request("EXPINIT", "2026-01-01_1_mouse")
    assert aux.services is not None
    heard: list[Any] = []
    aux.services.assign_callback(0, lambda data, addr: heard.append(data))
    assert isinstance(aux.push("EXPSTART", wait=True), PushError)
    assert heard == [["OSError: disk full", ExpMessage.EXPSTART]]


class ClosedWindow(logging.Handler):
    """A program's log window that is gone."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("wrapped C++ object was deleted")


def test_a_log_handler_that_raises_loses_no_outcome() -> None:
    logger = logging.getLogger("rigsync")
    handler = ClosedWindow()
    logger.addHandler(handler)
    try:
        with silent_rig("cameras") as clients, Auxiliaries(clients, connect_timeout=0) as aux:
            assert isinstance(aux.push("EXPSTART", wait=True, timeout=0.1), PushError)
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("seconds", [float("inf"), 1e12])
def test_connecting_may_be_given_any_time(serve: Serve, connect: Connect, seconds: float) -> None:
    assert connect(serve("cameras"), connect_timeout=seconds).all_alive
