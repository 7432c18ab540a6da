"""Whole programs over TCP: experiments, large messages, connections that are cut, rigs that are killed."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from processes import LONG, PROBE_WARNING, IblutilServer, RigProgram, port_of, until

from rigsync import (
    Auxiliaries,
    ExpStatus,
    Interrupted,
    ListenError,
    PayloadTooLarge,
    PushError,
    PushResult,
    PushTimeout,
    RemoteError,
    Rig,
    RigConfig,
    RigRefused,
    Rigs,
    Timing,
)
from rigsync.config.address import parse_uri
from rigsync.config.rigs import rigs_from
from rigsync.core import legacy
from rigsync.core.events import LinkState

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

REFERENCE = "2026-03-01_2_mouse"
EAGER = Timing(beat=0.2, iblutil_beat=0.2)


def answers(aux: Auxiliaries, message: str, *args: Any, **options: Any) -> PushResult:
    outcome = aux.push(message, *args, wait=True, **{"timeout": LONG, **options})
    assert isinstance(outcome, PushResult), outcome
    return outcome


class Proxy:
    """Stands before a rig on TCP, on a thread of its own, and cuts, spoils and silences connections."""

    def __init__(self, port: int, seed: int = 0, cut_after: int | None = None, junk: bytes = b""):
        self._target, self._random = ("127.0.0.1", port), random.Random(seed)
        self.cut_after, self.junk = cut_after, junk
        """Mean number of bytes after which a connection is cut, and what is put into it before."""
        self.cuts = self.connections = 0
        self.silent = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(LONG)
        self._server.close()

    def _serve(self) -> None:
        self._server.settimeout(0.02)
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                sock, _ = self._server.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._relay, args=[sock], daemon=True))
                self._threads[-1].start()

    def _relay(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
            left = self._random.randint(1, 2 * self.cut_after) if self.cut_after else None
            silent = False  # for good, as one whose computer has gone
            while not self._ended.is_set():
                ready, _, _ = select.select([near, far], [], [], 0.02)
                silent = silent or self.silent
                for sock in ready:
                    data = sock.recv(65_536)
                    if not data:
                        return
                    other = far if sock is near else near
                    if left is not None and len(data) >= left:
                        self.cuts += 1
                        other.sendall(data[:left] + self.junk)
                        return
                    left = left and left - len(data)
                    if not silent:
                        other.sendall(data)


@pytest.fixture
def counted() -> Iterator[tuple[Rig, Counter[Any]]]:
    """A rig on TCP whose handlers count their runs."""
    runs: Counter[Any] = Counter()
    lock = threading.Lock()
    with Rig("cameras", "tcp://127.0.0.1:0") as rig:

        @rig.on("EXPINFO")
        def count(_: Any, n: Any) -> dict[str, Any]:
            with lock:
                runs[n["n"]] += 1
            return n  # type: ignore[no-any-return]

        yield rig, runs


# -------------------------------------------------------------------------------------------------- experiments


def test_an_experiment_of_rigs_of_every_kind() -> None:
    with (
        Rig("cameras", "tcp://127.0.0.1:0") as cameras,
        Rig("ephys", "udp://127.0.0.1:0") as ephys,
        RigProgram("imaging", "tcp://127.0.0.1:0", handlers={"EXPSTART": "count"}) as imaging,
        IblutilServer("old", scheme="tcp") as old,
        Auxiliaries({rig.name: rig.uri for rig in (cameras, ephys, imaging, old)}) as aux,
    ):
        assert aux.all_alive
        assert [rig.dialect for rig in aux.services.values()] == ["rigsync", "rigsync", "rigsync", "iblutil"]
        for message, *args in (
            ("EXPINFO", "CONNECTED"),
            ("EXPINIT", {"exp_ref": REFERENCE}),
            ("EXPSTART", REFERENCE),
            ("EXPSTATUS", "RUNNING"),
            ("EXPEND",),
            ("EXPCLEANUP",),
        ):
            assert set(answers(aux, message, *args)) == {"cameras", "ephys", "imaging", "old"}
            old.wait_for_echo(message)
        assert imaging.wait_for("ran") == ["ran", "EXPSTART", [REFERENCE, None]]
        assert old.calls == ["EXPINFO", "EXPINIT", "EXPSTART", "EXPSTATUS", "EXPEND", "EXPCLEANUP"]
        assert old.errors == []
        assert aux.ping("cameras")["cameras"].address == cameras.uri.removeprefix("tcp://")


def test_ws_is_another_word_for_tcp() -> None:
    with Rig("cameras", "ws://127.0.0.1:0") as rig:
        assert rig.uri.startswith("tcp://")
        with Auxiliaries({"cameras": rig.uri.replace("tcp:", "ws:")}) as aux:
            assert answers(aux, "EXPINIT")
            assert aux.services["cameras"].server_uri == rig.uri


def test_interrupt_overtakes_and_errors_come_back() -> None:
    started, go = threading.Event(), threading.Event()
    with Rig("cameras", "tcp://127.0.0.1:0") as rig, Auxiliaries({"cameras": rig.uri}) as aux:

        @rig.on("EXPSTART")
        def start() -> None:
            started.set()
            go.wait(LONG)

        @rig.on("EXPCLEANUP")
        def clean_up() -> None:
            raise FileNotFoundError("no such drive")

        answers(aux, "EXPINIT", {"exp_ref": REFERENCE})
        asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
        assert started.wait(LONG)
        assert answers(aux, "EXPINTERRUPT")["cameras"][0]["status"] == ExpStatus.STOPPED
        assert isinstance(until_response(aux, asked).failed["cameras"], Interrupted)
        go.set()
        outcome = aux.push("EXPCLEANUP", wait=True, timeout=LONG)
        assert isinstance(outcome, PushError)
        error = outcome.failed["cameras"]
        assert isinstance(error, RemoteError)
        assert (error.error, error.message) == ("FileNotFoundError", "no such drive")


def until_response(aux: Auxiliaries, request_time: float) -> Any:
    until(lambda: aux.response(request_time))
    return aux.response(request_time)


def test_a_handler_that_takes_too_long_is_a_timeout_and_holds_up_nobody() -> None:
    go = threading.Event()
    with (
        Rig("cameras", "tcp://127.0.0.1:0") as rig,
        Rig("ephys", "tcp://127.0.0.1:0") as other,
        Auxiliaries({"cameras": rig.uri, "ephys": other.uri}) as aux,
    ):
        rig.on("EXPINIT")(lambda *_: go.wait(LONG) and None)
        outcome = aux.push("EXPINIT", wait=True, timeout=1.0)  # within which the one confirms and the other answers
        assert isinstance(outcome, PushTimeout)
        assert list(outcome.result) == ["ephys"]
        assert "still working on it" in str(outcome.failed["cameras"])
        go.set()


def test_a_port_at_which_nothing_listens_is_a_refusal() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        uri = f"tcp://127.0.0.1:{sock.getsockname()[1]}"
        with Auxiliaries({"cameras": uri}, connect_timeout=0.1) as aux:
            outcome = aux.push("EXPINIT", wait=True, timeout=LONG)
            assert isinstance(outcome, PushError)
            assert isinstance(outcome.failed["cameras"], RigRefused)
            assert isinstance(aux.ping()["cameras"], RigRefused)


def test_a_port_in_use_says_by_whom() -> None:
    with Rig("cameras", "tcp://127.0.0.1:0") as rig:
        with pytest.raises(ListenError, match=r"port \d+ is in use by .*\(pid \d+\)|port \d+ is in use;"):
            Rig("ephys", rig.uri).start()
        with Rig("ephys", rig.uri.replace("tcp:", "udp:")):  # whose ports are others
            pass


# ------------------------------------------------------------------------------------------------ large messages


def test_messages_far_beyond_a_datagram_go_both_ways() -> None:
    text = "é" * 1_000_000  # 6 MB on the wire
    rig, patient = Rig("cameras", "tcp://127.0.0.1:0"), Timing(beat=4.0)  # a busy computer writes them for seconds
    with rig, Auxiliaries(rigs_from({"cameras": rig.uri}, patient)) as aux:
        rig.on("EXPINFO")(lambda _, data: {"back": data})
        assert answers(aux, "EXPINFO", "CONNECTED", text)["cameras"][1]["back"] == text
        assert aux.services["cameras"].state is LinkState.ALIVE
        aux.services.timeout = LONG
        assert aux.request("EXPINFO", "CONNECTED", [text[:100_000]])["cameras"][1]["back"] == [text[:100_000]]


def test_the_largest_message() -> None:
    size = (1 << 26) - 1000
    events: list[Any] = []
    with Rig("cameras", "tcp://127.0.0.1:0") as rig, Auxiliaries({"cameras": rig.uri}) as aux:
        aux.on("LinkChanged", events.append)
        rig.on("EXPINFO")(lambda _, data: {"size": len(data)})
        assert answers(aux, "EXPINFO", "CONNECTED", "x" * size)["cameras"][1]["size"] == size
        assert [event for event in events if event.after is LinkState.LOST] == []


@pytest.mark.parametrize("message", ["EXPINFO", "EXPSTATUS"])
def test_what_is_too_large_for_one_rig_is_sent_to_none(message: str) -> None:
    ran: list[Any] = []
    with (
        Rig("cameras", "tcp://127.0.0.1:0") as cameras,
        Rig("ephys", "udp://127.0.0.1:0") as ephys,
        Auxiliaries({"cameras": cameras.uri, "ephys": ephys.uri}) as aux,
    ):
        cameras.on("EXPINFO")(ran.append)
        large = "x" * 70_000

        async def inform(aux: Auxiliaries) -> Any:
            return await aux.services.info("CONNECTED", large)  # type: ignore[union-attr]

        with pytest.raises(PayloadTooLarge, match=r"70,\d{3} bytes .*rig ephys .*65,507.*tcp://") as caught:
            aux.push("EXPINFO", "CONNECTED", large)
        assert (caught.value.rig, caught.value.scheme, caught.value.limit) == ("ephys", "udp", 65_507)
        with pytest.raises(PayloadTooLarge):
            aux.push("EXPINFO", "CONNECTED", large, wait=True, rigs=["ephys"])
        with pytest.raises(PayloadTooLarge):
            aux.thread.run_coroutine(inform, aux, LONG)
        assert set(answers(aux, message, "CONNECTED")) == {"cameras", "ephys"}
        assert set(answers(aux, "EXPINFO", "CONNECTED", large, rigs="cameras")) == {"cameras"}
        assert len(ran) == (2 if message == "EXPINFO" else 1)


def test_a_cap_of_its_own() -> None:
    rigs = rigs_from({"cameras": {"uri": "tcp://127.0.0.1:1", "max_message": 100_000}})
    with Rig("cameras", "tcp://127.0.0.1:0", max_message=100_000) as rig:
        config = RigConfig("cameras", parse_uri(rig.uri), max_message=rigs.rigs["cameras"].max_message)
        with Auxiliaries(Rigs({"cameras": config})) as aux:
            rig.on("EXPINFO")(lambda _, data: {"back": data * 2})
            with pytest.raises(PayloadTooLarge, match=r"rig cameras carries at most 100,000; raise max_message"):
                aux.push("EXPINFO", "CONNECTED", "x" * 100_000)
            outcome = aux.push("EXPINFO", "CONNECTED", "x" * 60_000, wait=True, timeout=LONG)
            assert isinstance(outcome, PushError)
            error = outcome.failed["cameras"]
            assert isinstance(error, RemoteError)
            assert error.error == "PayloadTooLarge"
            assert "100,000" in error.message
            assert answers(aux, "EXPINFO", "CONNECTED", "x" * 40_000)


# ---------------------------------------------------------------------------------------- connections that are cut


@pytest.mark.parametrize("junk", [b"", b"junk", b"]"], ids=["cut", "junk", "bracket"])
@pytest.mark.parametrize("seed", range(2))
def test_each_handler_runs_once_however_connections_are_cut(
    counted: tuple[Rig, Counter[Any]], seed: int, junk: bytes
) -> None:
    rig, runs = counted
    with Proxy(port_of(rig.uri), seed, cut_after=4000, junk=junk) as proxy, Auxiliaries({"cameras": proxy.uri}) as aux:
        asked = [aux.push("EXPINFO", "CONNECTED", {"n": n, "x": "[" * 500}, timeout=LONG) for n in range(15)]
        for n, request_time in enumerate(asked):
            outcome = until_response(aux, request_time)
            assert isinstance(outcome, PushResult), outcome
            assert outcome["cameras"][1]["n"] == n
        assert proxy.cuts > 1
        assert runs == Counter(range(15))


def test_a_connection_that_leads_nowhere_is_given_up_with_the_link() -> None:
    with (
        Rig("cameras", "tcp://127.0.0.1:0") as rig,
        Proxy(port_of(rig.uri)) as proxy,
        Auxiliaries(rigs_from({"cameras": proxy.uri}, EAGER)) as aux,
    ):
        states: list[LinkState] = []
        aux.on("LinkChanged", lambda event: states.append(event.after))
        proxy.silent = True
        until(lambda: LinkState.LOST in states)
        proxy.silent = False
        until(lambda: aux.all_alive)
        assert proxy.connections > 1
        assert answers(aux, "EXPINIT")


def test_a_rig_that_is_killed_is_refused_at_once_and_back_within_two_beats_of_its_restart() -> None:
    timing = Timing()
    with RigProgram("cameras", "tcp://127.0.0.1:0", handlers={"EXPSTART": "hang"}) as rig:
        aux = Auxiliaries(rigs_from({"cameras": rig.uri}, timing))
        with aux:
            states: list[tuple[LinkState, float]] = []
            aux.on("LinkChanged", lambda event: states.append((event.after, time.monotonic())))
            answers(aux, "EXPINIT", {"exp_ref": REFERENCE})
            asked = aux.push("EXPSTART", REFERENCE, timeout=LONG)
            rig.wait_for("ran", "EXPSTART")
            rig.kill()
            until(lambda: states)
            assert states[0][0] is LinkState.LOST
            outcome = until_response(aux, asked)
            assert isinstance(outcome.failed["cameras"], RigRefused)
            with RigProgram("cameras", rig.uri, handlers={"EXPSTART": "count"}) as again:
                listening = time.monotonic()
                until(lambda: aux.all_alive)
                assert states[-1][1] - listening < 2 * timing.beat
                answers(aux, "EXPINIT", {"exp_ref": REFERENCE})
                answers(aux, "EXPSTART", REFERENCE)
                again.wait_for("ran")
                assert again.all("ran") == [["ran", "EXPSTART", [REFERENCE, None]]]


def test_a_coordinator_that_goes_and_comes_again_and_a_second_one(counted: tuple[Rig, Counter[Any]]) -> None:
    rig, runs = counted
    with Auxiliaries({"cameras": rig.uri}) as first:
        for n in range(3):
            with Auxiliaries({"cameras": rig.uri}) as second:
                assert answers(second, "EXPINFO", "CONNECTED", {"n": n})
                assert answers(first, "EXPINFO", "CONNECTED", {"n": n})
        assert runs == Counter({0: 2, 1: 2, 2: 2})


# ------------------------------------------------------------------------------------------------ iblutil's rigs


def test_probes_never_meet_the_answer_of_an_iblutil_rig(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the one connection, and anything else than its echo makes the rig drop all its callbacks."""
    monkeypatch.setattr(legacy, "ARRAY_GAP", 0.25)  # this rig shares a busy process: it may read late
    with (
        IblutilServer("ephys", scheme="tcp") as server,
        Auxiliaries(rigs_from({"ephys": server.uri}, Timing(iblutil_beat=0.001))) as aux,
    ):
        for n in range(8):
            assert answers(aux, "EXPINFO", "CONNECTED", n)["ephys"][1]["got"] == [0, n]
            server.wait_for_echo("EXPINFO", n + 1)
        assert server.errors == []
        assert server.is_connected
        assert aux.services["ephys"].state is LinkState.ALIVE


def test_an_iblutil_rig_that_is_restarted_is_back_by_itself() -> None:
    with IblutilServer("ephys", scheme="tcp") as server:
        port = server.port
        aux = Auxiliaries(rigs_from({"ephys": server.uri}, EAGER))
        assert answers(aux, "EXPINIT")
    with aux:
        until(lambda: not aux.all_alive)
        with IblutilServer("ephys", port, scheme="tcp") as server:
            until(lambda: aux.all_alive)
            assert answers(aux, "EXPINIT")
            assert server.calls == ["EXPINIT"]
            assert server.errors == []


def test_a_message_that_iblutil_cannot_read_whole_says_so() -> None:
    with IblutilServer("ephys", scheme="tcp") as server, Auxiliaries({"ephys": server.uri}) as aux:
        error = aux.push("EXPINFO", "CONNECTED", "x" * 300_000, wait=True, timeout=0.5)
        assert isinstance(error, PushError)
        assert "iblutil takes no more than it can read at once" in str(error)
