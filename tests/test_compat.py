"""iblutil at the side: what it has, rigsync's coordinator has too, and its enums serve as rigsync's own."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from processes import calm, iblutil_net, run_strictly, until

from rigsync import Auxiliaries, Experiment, ExpMessage, ExpStatus, RemoteRig, Rig, RigServices
from rigsync.config.rigs import rigs_from

app, base = iblutil_net().app, iblutil_net().base

REFERENCE = "2026-03-01_2_mouse"
Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]

# ---------------------------------------------------------------------------------------------------- the members


def accepts(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    """Check that what may be called as `theirs` may be called as `ours`: same names, order and defaults."""
    mine = inspect.signature(ours).parameters
    for place, (name, parameter) in enumerate(inspect.signature(theirs).parameters.items()):
        if parameter.kind is parameter.VAR_KEYWORD:
            assert any(p.kind is p.VAR_KEYWORD for p in mine.values()), name
            continue
        assert name in mine, name
        assert list(mine).index(name) == place
        assert mine[name].kind is parameter.kind
        if parameter.default is not parameter.empty:
            assert mine[name].default == parameter.default


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_services_have_all_members_of_iblutil() -> None:
    # Slots that iblutil's own leaves empty.
    assert public(app.Services) - {"name", "server"} <= public(RigServices)
    assert RigServices.__version__ == app.Services.__version__


def test_remote_rigs_have_all_members_of_iblutil() -> None:
    (rig,) = RigServices(rigs_from({"cameras": "127.0.0.1:9"})).values()
    assert public(base.Communicator) | {"confirmed_send"} <= {name for name in dir(rig) if not name.startswith("_")}
    assert rig.__version__ == base.Communicator.__version__


LEFT_OUT = {
    *("client", "server", "Server"),  # which make one
    *("default_echo_timeout", "max_message_size"),  # rigs.yaml says it, and protocol and rig are told apart
    *("connection_made", "connection_lost", "data_received", "datagram_received", "eof_received", "error_received"),
}
"""Members of iblutil's own class that are between it and asyncio, or make one (docs/task.md)."""


def test_remote_rigs_have_what_programs_use_of_iblutil_s_own_class() -> None:
    assert public(app.EchoProtocol) - public(RemoteRig) - LEFT_OUT <= {"name", "server_uri", "logger"}
    assert public(app.EchoProtocol) >= LEFT_OUT
    accepts(RemoteRig.awaiting_response, app.EchoProtocol.awaiting_response)


def test_a_remote_rig_is_a_client_and_says_whether_a_confirmation_is_awaited() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = silent.getsockname()
        uri = f"udp://127.0.0.1:{address[1]}"

        async def compare(remote: Any) -> None:
            theirs = await app.EchoProtocol.client(uri)
            for each in (theirs, remote):
                assert each.role == "client"
                with pytest.raises(AttributeError):
                    each.role = "server"
                assert not each.awaiting_response()
                sending = asyncio.ensure_future(each.confirmed_send([base.ExpMessage.EXPINFO, 0], timeout=0.3))
                await asyncio.sleep(0)
                assert each.awaiting_response()
                assert each.awaiting_response(address)
                assert not each.awaiting_response(("127.0.0.1", 9))
                with pytest.raises(TimeoutError):
                    await sending
                assert not each.awaiting_response()

        with Auxiliaries({"cameras": uri}, connect_timeout=0) as aux:
            assert aux.services
            asyncio.run(compare(aux.services["cameras"]))


@pytest.mark.parametrize("name", ["is_connected", "hostname", "port", "protocol"])
def test_what_is_read_of_a_remote_rig_is_a_property_as_in_iblutil(name: str) -> None:
    assert isinstance(getattr(RemoteRig, name), property)
    assert isinstance(getattr(base.Communicator, name), property)


VERBS = ["init", "start", "stop", "status", "info", "cleanup", "alyx"]


@pytest.mark.parametrize("verb", [*VERBS, "_signal", "assign_callback", "clear_callbacks", "await_all", "close"])
def test_services_have_the_signatures_of_iblutil(verb: str) -> None:
    accepts(getattr(RigServices, verb), getattr(app.Services, verb))
    assert inspect.iscoroutinefunction(getattr(RigServices, verb)) == inspect.iscoroutinefunction(
        getattr(app.Services, verb)
    )


@pytest.mark.parametrize(
    "verb",
    [*VERBS, "send", "confirmed_send", "on_event", "assign_callback", "clear_callbacks", "close", "encode", "decode"],
)
def test_remote_rigs_have_the_signatures_of_iblutil(verb: str) -> None:
    accepts(getattr(RemoteRig, verb), getattr(app.EchoProtocol, verb))
    assert inspect.iscoroutinefunction(getattr(RemoteRig, verb)) == inspect.iscoroutinefunction(
        getattr(app.EchoProtocol, verb)
    )


@pytest.mark.parametrize("data", [b"bytes", "text", ["EXPEND", {"a": [1, None]}], 4])
def test_encoding_is_that_of_iblutil(data: Any) -> None:
    encoded = RemoteRig.encode(data)
    assert encoded == base.Communicator.encode(data)
    if isinstance(data, (bytes, str)):
        with pytest.warns(UserWarning, match="JSON"):
            assert RemoteRig.decode(encoded) == (data if isinstance(data, str) else data.decode())
    else:
        assert RemoteRig.decode(encoded) == base.Communicator.decode(encoded) == data


# ------------------------------------------------------------------------------------------------------ isinstance


def run_apart(program: str) -> Any:
    """Run a program in an interpreter of its own; return what it has written as JSON."""
    done = run_strictly(program)
    assert (done.returncode, calm(done.stderr)) == (0, "")
    return json.loads(done.stdout)


MADE = """
import json, sys
from rigsync.config.rigs import rigs_from
{first}
import rigsync
services = rigsync.RigServices(rigs_from({{"cameras": "127.0.0.1:9"}}))
rig = services["cameras"]
own = [isinstance(services, rigsync.RigServices), isinstance(rig, rigsync.RemoteRig), "iblutil" in sys.modules]
{then}
from iblutil.io.net import app, base
print(json.dumps([own, isinstance(services, app.Services), isinstance(services, base.Service),
    isinstance(rig, base.Communicator), isinstance(rig, base.Service), isinstance(rig, app.EchoProtocol),
    len(app.Services([rig])), issubclass(rigsync.RigServices, app.Services), type(rig) is rigsync.RemoteRig]))
"""


@pytest.mark.parametrize("first", ["import iblutil.io.net.base", ""], ids=["iblutil first", "rigsync first"])
def test_services_and_rigs_are_instances_of_iblutil_s_classes_whichever_is_imported_first(first: str) -> None:
    own, *taken_for = run_apart(MADE.format(first=first, then=""))
    assert own == [True, True, bool(first)]
    assert taken_for == [True, True, True, True, False, 1, True, True]


def test_they_are_though_somebody_asked_before_iblutil_was_there() -> None:
    asked = "from collections.abc import Mapping, Hashable; assert isinstance(services, Mapping) and rig.__class__"
    _, *taken_for = run_apart(MADE.format(first="", then=asked))
    assert taken_for == [True, True, True, True, False, 1, True, True]


def test_many_threads_may_be_the_first_to_ask() -> None:
    program = """
    import json, sys, threading
    import rigsync
    from rigsync.config.rigs import rigs_from
    sys.setswitchinterval(1e-6)
    services = rigsync.RigServices(rigs_from({"cameras": "127.0.0.1:9"}))
    ended, failed = threading.Event(), []

    def ask():
        try:
            while not ended.is_set():
                isinstance(services, dict)
        except BaseException as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    from iblutil.io.net import app
    found = isinstance(services, app.Services)
    ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps([found, failed]))
    """
    assert run_apart(program) == [True, []]


def test_a_connected_coordinator_has_them(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"))
    assert isinstance(aux.services, app.Services)
    assert all(isinstance(rig, base.Communicator) for rig in aux.services.values())


# ------------------------------------------------------------------------------------------------------- the enums


def test_iblutil_s_messages_and_statuses_serve_as_rigsync_s(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    told: list[Any] = []

    @rig.on(base.ExpMessage.EXPSTART, base.ExpMessage.EXPEND)
    def handle(*args: Any) -> dict[str, Any]:
        return {"mine": base.ExpStatus.RUNNING, "message": base.ExpMessage.EXPEND}

    aux = connect(rig)
    assert aux.services
    remote = aux.services["cameras"]
    several = base.ExpMessage.EXPSTART | base.ExpMessage.EXPEND
    remote.assign_callback(several, lambda data, addr, event: told.append(event))
    aux.services.assign_callback(base.ExpMessage.EXPINFO, lambda data, addr: told.append(base.ExpMessage.EXPINFO))
    assert aux.push(base.ExpMessage.EXPSTATUS, base.ExpStatus.RUNNING, wait=True) == {"cameras": [base.ExpStatus(0)]}
    aux.request(base.ExpMessage.EXPINFO, base.ExpStatus.CONNECTED)
    aux.request(base.ExpMessage.EXPINIT, {"status": base.ExpStatus.CONNECTED})
    started = aux.request(base.ExpMessage.EXPSTART, REFERENCE)
    assert started["cameras"][1]["status"] == base.ExpStatus.RUNNING
    until(lambda: remote.rig_status == base.ExpStatus.RUNNING)
    assert (started["cameras"][1]["mine"], started["cameras"][1]["message"]) == (20, base.ExpMessage.EXPEND)
    assert started.message == base.ExpMessage.EXPSTART.name

    async def stop() -> Any:
        waiting = asyncio.ensure_future(remote.on_event(several))
        await asyncio.sleep(0)
        await remote.stop()
        return await waiting

    data, _, event = asyncio.run(stop())
    assert event == base.ExpMessage.EXPEND
    assert base.ExpStatus(data[0]["status"]) is base.ExpStatus.STOPPED
    assert told == [base.ExpMessage.EXPINFO, base.ExpMessage.EXPSTART, base.ExpMessage.EXPEND]
    assert remote.clear_callbacks(several) == 2


def test_iblutil_s_enums_serve_in_the_verbs(serve: Serve, connect: Connect) -> None:
    aux = connect(serve("cameras"))
    services = aux.services
    assert services

    async def command() -> None:
        assert await services.status(base.ExpStatus.RUNNING) == {"cameras": [0]}
        waiting = asyncio.ensure_future(services.await_all(base.ExpMessage.EXPINFO))
        await asyncio.sleep(0)
        await services["cameras"].info(base.ExpStatus.CONNECTED)
        assert (await waiting)["cameras"][0] == base.ExpStatus.CONNECTED
        await services["cameras"].status(base.ExpStatus.CONNECTED)
        await services["cameras"].confirmed_send([base.ExpMessage.EXPSTATUS, base.ExpStatus.CONNECTED])
        assert (await services["cameras"].on_event(base.ExpMessage.EXPSTATUS))[0] == [base.ExpStatus.CONNECTED]

    asyncio.run(command())


def test_an_experiment_tells_iblutil_s_statuses(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    aux = connect(rig)
    with aux.experiment(REFERENCE) as experiment:
        assert isinstance(experiment, Experiment)
        assert rig.status == base.ExpStatus.RUNNING
        assert aux.ping("cameras")["cameras"].status == base.ExpStatus.RUNNING.name
    assert rig.status == base.ExpStatus.CONNECTED
    assert isinstance(rig.status, ExpStatus)
    assert ExpMessage.EXPEND in {base.ExpMessage.EXPEND}
