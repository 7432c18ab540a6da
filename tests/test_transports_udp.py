"""UDP sockets that listen: each answer leaves from the address that was asked."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from live_helpers import Wire, came_true, run
from networks import HERE, THERE, Lab, lab
from processes import LONG, has_ipv6

from rigsync.coordinator.auxiliaries import Auxiliaries
from rigsync.core import messages
from rigsync.core.arguments import compose
from rigsync.core.coordinators import Standing
from rigsync.net import udp
from rigsync.net.endpoint import Endpoint
from rigsync.net.lines import dual_stack, shown_host
from rigsync.rig.rig import Rig

__all__ = ["lab"]  # a fixture

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
needs_second_address = pytest.mark.skipif(
    sys.platform == "darwin", reason="macOS has 127.0.0.2 only where somebody has set it up"
)


@pytest.fixture(params=["told by the kernel", "a socket for each address"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a listener knows which address was asked; the second as on Windows, with two addresses to find."""
    way: str = request.param
    if way == "a socket for each address":
        monkeypatch.setattr(udp, "_TELLS_ADDRESS", False)
        monkeypatch.setattr(socket, "gethostname", lambda: "127.0.0.2")
    elif not udp._TELLS_ADDRESS:
        pytest.skip("this system does not tell")
    return way


@contextlib.contextmanager
def asking(host: str, port: int) -> Iterator[socket.socket]:
    """A connected socket, as a coordinator has it, which takes nothing from another address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((host, port))
        sock.settimeout(LONG)
        yield sock


@needs_second_address
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_rig_on_all_addresses_answers_from_the_one_that_was_asked(way: str, host: str) -> None:
    rig = Rig("cameras", "udp://0.0.0.0:0")
    go = threading.Event()
    rig.on("EXPSTART")(lambda *_: go.wait(LONG) and None)
    boot = "00000000000000aa"
    with rig, asking(host, int(rig.uri.rpartition(":")[2])) as sock:

        def received() -> Any:
            while isinstance(frame := messages.decode(sock.recv(65_535)), messages.Notice):
                pass
            return frame

        sock.send(messages.probe(boot, 1, 5))
        assert isinstance(received(), messages.Alive)
        for n, message in enumerate(["EXPINIT", "EXPSTART"], start=1):
            sock.send(messages.request(boot, n, compose(message)))
            if message == "EXPSTART":
                assert isinstance(received(), messages.Ack)
                go.set()  # its answer comes late, out of a worker thread
            assert isinstance(received(), messages.Reply)


@needs_second_address
def test_one_socket_that_asks_at_two_addresses_hears_from_both(way: str) -> None:
    with Rig("cameras", "udp://0.0.0.0:0") as rig, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(LONG)
        port = int(rig.uri.rpartition(":")[2])
        for host in ("127.0.0.2", "127.0.0.1", "127.0.0.2"):
            sock.sendto(messages.probe("00000000000000aa", 1, 5), (host, port))
            assert sock.recvfrom(65_535)[1] == (host, port)


@needs_second_address
def test_a_coordinator_of_a_rig_at_its_second_address() -> None:
    with Rig("cameras", "udp://0.0.0.0:0") as rig:
        port = rig.uri.rpartition(":")[2]
        with Auxiliaries({"cameras": f"udp://127.0.0.2:{port}"}) as aux:
            assert aux.all_alive
            assert aux.request("EXPINIT", timeout=LONG)["cameras"]


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_a_rig_with_two_addresses_and_two_interfaces_answers_from_the_one_that_was_asked(lab: Lab, host: str) -> None:
    lab.plug("other", "10.231.78.1", "10.231.78.2")
    lab.run(lab.rig, "ip", "address", "add", "10.231.77.3/24", "dev", "cable")  # the second one of that interface
    # The address of the other interface is asked by the cable, by which the system would answer with the cable's own.
    lab.run(lab.pc, "ip", "route", "add", "10.231.78.2/32", "via", THERE, "src", HERE)
    addresses = {"cameras": THERE, "cameras:second": "10.231.77.3", "cameras:other": "10.231.78.2"}
    if host == "[::]":
        for computer, number in ((lab.pc, "1"), (lab.rig, "2"), (lab.rig, "3")):
            lab.run(computer, "ip", "address", "add", f"fd00:77::{number}/64", "dev", "cable", "nodad")
        lab.run(lab.rig, "ip", "address", "add", "fd00:78::2/64", "dev", "other", "nodad")
        lab.run(lab.pc, "ip", "route", "add", "fd00:78::2/128", "via", "fd00:77::2")
        addresses |= {
            "cameras:first6": "[fd00:77::2]",
            "cameras:second6": "[fd00:77::3]",
            "cameras:other6": "[fd00:78::2]",
        }
    lab.serve(host=host)
    found = lab.doctor(**addresses)  # whose sockets take nothing from another address than was asked
    assert {name: found[name]["findings"] for name in addresses} == {name: [] for name in addresses}
    assert [rig["address"] for rig in found.values()] == [f"{address}:11001" for address in addresses.values()]


@needs_ipv6
@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_rig_on_all_ipv6_addresses_hears_ipv4_too(scheme: str) -> None:
    with Rig("cameras", f"{scheme}://[::]:0") as rig:
        assert rig.uri.startswith(f"{scheme}://[::]:")
        port = rig.uri.rpartition(":")[2]
        for host in ("[::1]", "127.0.0.1", "127.0.0.2" if sys.platform != "darwin" else "127.0.0.1"):
            with Auxiliaries({"cameras": f"{scheme}://{host}:{port}"}) as aux:
                assert aux.all_alive, host
                assert aux.request("EXPSTATUS", timeout=LONG)["cameras"] == [0]
                reply = aux.ping(timeout=LONG)["cameras"]
                assert getattr(reply, "address", None) == f"{host}:{port}"


@needs_ipv6
@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_rig_on_one_ipv6_address_hears_no_other(scheme: str) -> None:
    with (
        Rig("cameras", f"{scheme}://[::1]:0") as rig,
        Rig("ephys", rig.uri.replace("[::1]", "127.0.0.1")) as other,  # whose port is then free for IPv4
        Auxiliaries({"cameras": rig.uri, "ephys": other.uri}) as aux,
    ):
        assert aux.all_alive
        assert {name: rig.state.value for name, rig in aux.services.items()} == {"cameras": "alive", "ephys": "alive"}
        assert aux.request("EXPSTATUS", timeout=LONG) == {"cameras": [0], "ephys": [0]}


@needs_ipv6
def test_an_ipv4_coordinator_is_shown_as_such_by_an_ipv6_socket() -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            address = await endpoint.listen(socket.AF_INET6, ("::", 0))
            with asking("127.0.0.1", address[1]) as sock, asking("::1", address[1]) as other:
                sock.send(b"four")
                await came_true(lambda: wire.received)
                other.send(b"six")
                await came_true(lambda: len(wire.received) == 2)
                assert [source[:2] for _, source in wire.received] == [sock.getsockname(), other.getsockname()[:2]]
                for data, source in wire.received:
                    wire.outbox.append((source, data + b" back"))
                endpoint.pump()
                assert (sock.recv(100), other.recv(100)) == (b"four back", b"six back")
        finally:
            endpoint.close()

    run(main)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("::ffff:1", "::ffff:1")],
)
def test_the_disguise_of_ipv4_addresses_is_taken_off(host: str, shown: str) -> None:
    assert shown_host(host) == shown


def test_a_socket_that_is_choked_sends_the_rest_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        try:
            address = await endpoint.listen(socket.AF_INET, ("127.0.0.1", 0))
            listener: Any = endpoint._listener
            transmit, choked = listener._transmit, [True] * 5

            def choke(*args: Any) -> None:
                if choked:
                    choked.pop()
                    raise BlockingIOError
                transmit(*args)

            monkeypatch.setattr(listener, "_transmit", choke)
            with asking("127.0.0.1", address[1]) as sock:
                sent = [json.dumps([n]).encode() for n in range(2 * udp.MOST_UNSENT)]
                wire.outbox += [(sock.getsockname(), data) for data in sent]
                endpoint.pump()
                assert len(listener._unsent) == udp.MOST_UNSENT
                await came_true(lambda: not listener._unsent)
                assert [sock.recv(100) for _ in range(udp.MOST_UNSENT)] == sent[: udp.MOST_UNSENT]
                wire.outbox.append((sock.getsockname(), b"and on"))
                endpoint.pump()
                assert sock.recv(100) == b"and on"
        finally:
            endpoint.close()

    run(main)


def test_who_belongs_here_does_not_wait_behind_a_flood_of_strangers(way: str) -> None:
    async def main() -> None:
        wire = Wire()
        own = Standing.IN_CHARGE
        endpoint = Endpoint(wire, print, standing=lambda head, _: own if head == b"own" else Standing.STRANGER)
        try:
            address = await endpoint.listen(socket.AF_INET, ("0.0.0.0", 0))
            listener: Any = endpoint._listener
            if way == "a socket for each address":
                listener = listener._listeners[0]
            with asking("127.0.0.1", address[1]) as stranger, asking("127.0.0.1", address[1]) as owner:
                for n in range(200):  # before the loop reads any
                    stranger.send(b"%d" % n)
                owner.send(b"own")
                await came_true(lambda: len(wire.received) == 201)
                assert wire.messages.index(b"own") < 2 * udp.BATCH
                assert [data for data in wire.messages if data != b"own"] == [b"%d" % n for n in range(200)]
                for _ in range(4 * udp.STRANGERS // 100):
                    for n in range(100):
                        stranger.send(b"%d" % n)
                    listener._read()
                    assert len(listener._strangers) <= udp.STRANGERS
                for _ in range(3 * udp.STRANGERS_BYTES // 60_000):
                    stranger.send(b"x" * 60_000)
                    listener._read()
                    assert sum(len(data) for data, _ in listener._strangers) <= udp.STRANGERS_BYTES
                await came_true(lambda: not listener._strangers)
                assert (listener._strangers_bytes, len(listener._sources)) == (0, 0)
                wire.received.clear()
                for data in (b"1", b"2", b"own", b"3"):  # of one source, whose order is kept
                    owner.send(data)
                await came_true(lambda: len(wire.received) == 4)
                assert wire.messages == [b"1", b"2", b"own", b"3"]
        finally:
            endpoint.close()

    run(main)


def test_a_line_that_is_choked_sends_the_rest_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rig:
            rig.bind(("127.0.0.1", 0))
            rig.settimeout(LONG)
            try:
                await endpoint.connect("line", socket.AF_INET, rig.getsockname())
                line: Any = endpoint._lines["line"]
                transmit, choked = line._transmit, [True] * 5

                def choke(*args: Any) -> None:
                    if choked:
                        choked.pop()
                        raise BlockingIOError
                    transmit(*args)

                monkeypatch.setattr(line, "_transmit", choke)
                sent = [json.dumps([n]).encode() for n in range(2 * udp.MOST_UNSENT)]
                wire.outbox += [("line", data) for data in sent]
                endpoint.pump()
                assert len(line._unsent) == udp.MOST_UNSENT
                await came_true(lambda: not line._unsent)
                assert [rig.recv(100) for _ in range(udp.MOST_UNSENT)] == sent[: udp.MOST_UNSENT]
                wire.outbox.append(("line", b"and on"))
                endpoint.pump()
                assert rig.recv(100) == b"and on"
            finally:
                endpoint.close()
            wire.outbox.append(("line", b"too late"))
            line.send("line", b"too late")  # says nothing: it is closed

    run(main)


def test_closing_while_datagrams_wait_to_be_read() -> None:
    async def main() -> None:
        wire = Wire()
        endpoint = Endpoint(wire, print)
        address = await endpoint.listen(socket.AF_INET, ("127.0.0.1", 0))
        taken = wire.receive_datagram

        def receive(data: bytes, source: Any, now: float) -> None:
            taken(data, source, now)
            endpoint.close()

        wire.receive_datagram = receive  # type: ignore[method-assign]
        with asking("127.0.0.1", address[1]) as sock:
            for _ in range(3):
                sock.send(b"hello")
            await came_true(lambda: wire.received)
        assert len(wire.received) == 1

    run(main)


@needs_ipv6
@pytest.mark.parametrize(("host", "only_ipv6"), [("::", 0), ("::1", 1), ("fe80::1%lo", 1)])
@pytest.mark.parametrize("default", [0, 1])
def test_what_ipv6_sockets_hear_does_not_depend_on_the_system(host: str, only_ipv6: int, default: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, default)
        dual_stack(sock, (host, 0))
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == only_ipv6


@needs_ipv6
@pytest.mark.skipif(not udp._TELLS_ADDRESS, reason="this system does not tell")
def test_a_socket_that_cannot_tell_which_address_was_asked_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def bound(*args: Any) -> socket.socket:
        opened.append(real(*args))
        return opened[-1]

    async def listen() -> None:
        with pytest.raises(OSError, match=r"."):
            await Endpoint(Wire(), print).listen(socket.AF_INET6, ("::", 0))

    real = udp._bound
    monkeypatch.setattr(udp, "_bound", bound)
    monkeypatch.setattr(udp, "_IPV6_RECVPKTINFO", 0x7FFF)  # no such option
    run(listen)
    assert [sock.fileno() for sock in opened] == [-1]
