"""What task code and rigs in the field rely on: iblrig's mixin, rigs that await their messages, iblutil's verbs."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from awaiting_rigs import VARIANTS, whole_experiments_of
from live_helpers import EchoServer, run
from platforms import posix
from processes import LONG, ROOT, IblutilProgram, Program, RigProgram, free_port, iblutil_net, until

from rigsync import Auxiliaries, ExpStatus, NotRunning, PushError, PushResult, Rig
from rigsync.config.rigs import rigs_from
from rigsync.coordinator.service import RigServices
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage
from rigsync.core.timing import Timing
from rigsync.errors import LoopBlocked, UnknownRig
from rigsync.net.relay import relay_before
from rigsync.rig.handlers import EndedBadly

REFERENCE = "2026-03-01_2_mouse"
TASK = str(Path(__file__).with_name("mixin_task.py"))
COUNTED = {f"EXP{verb}": "count" for verb in ("INFO", "INIT", "START", "END", "INTERRUPT")}
WHOLE = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND"]

Serve = Callable[..., Rig]
Connect = Callable[..., Auxiliaries]

pytestmark = pytest.mark.filterwarnings("ignore:Expected list, got:RuntimeWarning")


# ---------------------------------------------------------------------------------- task code as iblrig's mixin is


@pytest.fixture
def stderr() -> Iterator[IO[str]]:
    with tempfile.TemporaryFile("w+") as file:
        yield file


class Lab:
    """Two rigs, of which `cameras` comes to grief, and the task; each a process of its own."""

    def __init__(self, stack: Any, stderr: IO[str], kind: type = RigProgram, lease: float = 300.0, **options: Any):
        own = {"handlers": COUNTED, "lease": lease} if kind is RigProgram else {}
        self.ephys, self.cameras = (stack.enter_context(kind(name, **own)) for name in ("ephys", "cameras"))
        self.clients = {rig.name: rig.uri for rig in (self.ephys, self.cameras)}
        self._stack, self._stderr, self._options = stack, stderr, options

    def start_task(self) -> None:
        task = Program("task", TASK, self._stderr, clients=self.clients, **self._options)
        self.task = self._stack.enter_context(task)
        self.task.wait_for("initialised")

    def go(self) -> None:
        self.task.tell("go")

    def await_told(self, rig: Program, messages: list[str]) -> None:
        """Wait until a rig has told that it was told these messages, and no others."""

        def told() -> list[str]:
            return [report[1] for report in rig.reports.copy() if report[0] in ("ran", "called")]

        until(lambda: len(told()) >= len(messages), "what the rig was told")
        assert told() == messages

    def end(self) -> str:
        """Return what the task has written on stderr, once it has failed."""
        assert self.task.exit_status() == 1
        self._stderr.seek(0)
        return self._stderr.read()

    def status(self, name: str) -> str | None:
        """Return a rig's status, as another program sees it."""
        with Auxiliaries({name: self.clients[name]}, connect_timeout=LONG) as aux:
            return getattr(aux.ping(name, timeout=LONG)[name], "status", None)


KINDS = pytest.mark.parametrize("kind", [RigProgram, IblutilProgram])


@KINDS
def test_a_rig_killed_before_start(stack: Any, stderr: IO[str], kind: type) -> None:
    lab = Lab(stack, stderr, kind)
    lab.start_task()
    lab.cameras.kill()
    lab.go()
    text = lab.end()
    lab.await_told(lab.ephys, ["EXPINFO", "EXPINIT", "EXPSTART", "EXPINTERRUPT"])  # nobody would have stopped it
    assert "EXPSTART failed on one rig: cameras: " in text.splitlines()[-1]
    assert "rigsync: WARNING: cameras is lost" in text
    assert text.count("cameras is lost") == 1
    if kind is RigProgram:
        assert lab.status("ephys") == "STOPPED"


@KINDS
def test_a_rig_killed_while_it_records(stack: Any, stderr: IO[str], kind: type) -> None:
    lab = Lab(stack, stderr, kind)
    lab.start_task()
    lab.go()
    lab.task.wait_for("running")
    lab.cameras.kill()
    lab.go()
    text = lab.end()
    lab.await_told(lab.ephys, WHOLE)
    assert "EXPEND failed on one rig: cameras: " in text.splitlines()[-1]
    assert "rigsync: WARNING: cameras is lost" in text
    if kind is RigProgram:
        assert lab.status("ephys") == "STOPPED"


@posix
def test_a_rig_that_is_frozen(stack: Any, stderr: IO[str]) -> None:
    lab = Lab(stack, stderr)
    lab.start_task()
    lab.go()
    lab.task.wait_for("running")
    lab.cameras.signal(signal.SIGSTOP)
    lab.go()
    text = lab.end()
    lab.await_told(lab.ephys, WHOLE)
    assert "EXPEND failed on one rig: cameras: " in text.splitlines()[-1]
    assert "rigsync: WARNING: cameras is lost" in text
    assert lab.status("ephys") == "STOPPED"
    lab.cameras.signal(signal.SIGCONT)
    until(lambda: lab.status("cameras") == "STOPPED", "the end of what the frozen rig records")


def test_a_rig_out_of_reach_at_the_end(stack: Any, stderr: IO[str]) -> None:
    lab = Lab(stack, stderr, lease=5.0)
    before = stack.enter_context(relay_before({"cameras": ("127.0.0.1", int(lab.cameras.uri.rpartition(":")[2]))}))
    direct = lab.clients["cameras"]
    lab.clients["cameras"] = "udp://{}:{}".format(*before["cameras"].address)
    lab.start_task()
    lab.go()
    lab.task.wait_for("running")
    before["cameras"].loss = 1.0
    lab.go()
    text = lab.end()
    lab.await_told(lab.ephys, WHOLE)
    assert "EXPEND failed on one rig: cameras: " in text.splitlines()[-1]
    assert "rigsync: WARNING: cameras is lost" in text
    assert lab.status("ephys") == "STOPPED"
    lab.clients["cameras"] = direct
    until(lambda: lab.status("cameras") == "STOPPED", "the end of its lease")


@pytest.mark.parametrize("killed", [True, False])
def test_the_task_raises(stack: Any, stderr: IO[str], killed: bool) -> None:
    lab = Lab(stack, stderr, body_raises=True)
    lab.start_task()
    lab.go()
    lab.task.wait_for("running")
    if killed:
        lab.cameras.kill()
    lab.go()
    text = lab.end()
    lab.await_told(lab.ephys, ["EXPINFO", "EXPINIT", "EXPSTART", "EXPINTERRUPT"])
    assert text.splitlines()[-1] == "ValueError: the valve is stuck"
    assert ("rigsync: ERROR: EXPINTERRUPT: cameras: " in text) is killed
    for rig in ["ephys"] if killed else ["ephys", "cameras"]:
        assert lab.status(rig) == "STOPPED"


def test_a_rig_that_is_down_from_the_start_is_named_by_the_first_push(stack: Any, stderr: IO[str]) -> None:
    lab = Lab(stack, stderr)
    lab.clients["cameras"] = f"udp://127.0.0.1:{free_port()}"
    task = stack.enter_context(Program("task", TASK, stderr, clients=lab.clients))
    lab.task = task
    text = lab.end()
    assert task.all("open")  # the constructor succeeds
    assert "EXPINFO failed on one rig: cameras: " in text.splitlines()[-1]
    assert "rigsync: WARNING: cameras is lost" in text


# --------------------------------------------------------------------------------------- what is left by a program


def started(aux: Auxiliaries, *rigs: Rig) -> None:
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.request("EXPSTART", REFERENCE)
    assert {rig.status for rig in rigs} == {ExpStatus.RUNNING}


@pytest.mark.parametrize("how", ["close", "stop_event", "cleanup"])
def test_what_was_started_and_not_ended_is_interrupted_when_its_program_closes(
    serve: Serve, connect: Connect, how: str
) -> None:
    told: list[Any] = []
    rigs = [serve(name, {"EXPINTERRUPT": told.append}) for name in ("cameras", "ephys")]
    aux = connect(*rigs)
    started(aux, *rigs)
    if how == "close":
        aux.close()
    elif how == "stop_event":
        aux.stop_event.set()
        aux.thread.join(LONG)
    else:
        asyncio.run(aux.cleanup())
    until(lambda: {rig.status for rig in rigs} == {ExpStatus.STOPPED}, "the interrupt")  # not awaited for ever
    assert told == [{"error": "Closed", "message": "the program that started the rig closed without EXPEND"}] * 2


@pytest.mark.parametrize("last", ["sys.exit(3)", "raise ValueError('the valve is stuck')", ""])
def test_what_was_started_and_not_ended_is_interrupted_at_the_end_of_the_program(serve: Serve, last: str) -> None:
    rig = serve("cameras")
    program = f"""
import rigsync, sys
aux = rigsync.Auxiliaries({{"cameras": {rig.uri!r}}})
aux.request("EXPINIT", {{"exp_ref": {REFERENCE!r}}})
aux.request("EXPSTART", {REFERENCE!r})
{last}
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=LONG, check=False)
    until(lambda: rig.status is ExpStatus.STOPPED, "the interrupt")


@pytest.mark.parametrize(("error", "status"), [(OSError("disk full"), "RUNNING"), (EndedBadly("no file"), "STOPPED")])
def test_a_rig_that_goes_on_after_its_end_is_interrupted_when_its_program_closes(
    serve: Serve, connect: Connect, error: Exception, status: str
) -> None:
    told: list[Any] = []

    def fail(*_: Any) -> None:
        raise error

    rig = serve("cameras", {"EXPEND": fail, "EXPINTERRUPT": told.append})
    aux = connect(rig)
    started(aux, rig)
    assert isinstance(aux.push("EXPEND", wait=True), PushError)
    assert rig.status.name == status
    aux.close()
    until(lambda: rig.status is ExpStatus.STOPPED, "the interrupt")
    assert len(told) == (status == "RUNNING")


def test_at_ctrl_c_what_records_is_interrupted_though_another_rig_still_begins(serve: Serve, gate: Any) -> None:
    fast, slow = serve("fast"), serve("slow", {"EXPSTART": gate})
    program = f"""
import _thread, threading, time
import rigsync
from rigsync.coordinator import service_thread
service_thread.CLOSE_TIMEOUT = 1000.0
aux = rigsync.Auxiliaries({{"fast": {fast.uri!r}, "slow": {slow.uri!r}}})
aux.request("EXPINIT", {{"exp_ref": {REFERENCE!r}}})
def press():
    while aux.view("fast").status != rigsync.ExpStatus.RUNNING: time.sleep(0.01)
    _thread.interrupt_main()
threading.Thread(target=press).start()
aux.push("EXPSTART", {REFERENCE!r}, wait=True, timeout=1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL) as task:
        assert gate.reached.wait(LONG)
        until(lambda: fast.status is ExpStatus.STOPPED, "the interrupt")
        gate.open.set()
        task.wait(LONG)


@pytest.mark.parametrize("last", ["EXPEND", "EXPINTERRUPT"])
def test_what_was_ended_hears_nothing_more(serve: Serve, connect: Connect, last: str) -> None:
    told: list[Any] = []
    rig = serve("cameras", {"EXPINTERRUPT": told.append})
    aux = connect(rig)
    started(aux, rig)
    aux.request(last, "of its own")
    aux.close()
    assert told == (["of its own"] if last == "EXPINTERRUPT" else [])


def test_a_start_whose_answer_is_outstanding_is_interrupted(serve: Serve, connect: Connect, gate: Any) -> None:
    rig = serve("cameras", {"EXPSTART": gate})
    aux = connect(rig)
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.push("EXPSTART", REFERENCE)
    assert gate.reached.wait(LONG)
    aux.close()
    gate.open.set()
    until(lambda: rig.status is ExpStatus.STOPPED, "the interrupt")


def test_a_start_that_never_reached_another_program_s_rig_stops_nothing(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    first = connect(rig)
    started(first, rig)
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        second = connect({"cameras": f"udp://{host}:{port}"})
        relays["cameras"].loss = 1.0
        second.push("EXPSTART", "2026-03-01_9_rat", wait=True, timeout=0.3)
        relays["cameras"].loss = 0.0
        second.close()
    assert rig.status is ExpStatus.RUNNING


def test_what_a_verb_has_ended_or_a_restart_hears_nothing_more(connect: Connect, serve: Serve) -> None:
    with EchoServer("imaging") as echo:
        aux = connect({"imaging": echo.uri})
        aux.request("EXPSTART", REFERENCE)
        rig = aux.services["imaging"]  # type: ignore[index]

        async def end() -> None:
            await rig.stop()
            await rig.on_event("EXPEND")

        run(end)
        aux.close()
        assert [event.name for event, _ in echo.calls] == ["EXPSTART", "EXPEND"]
    first = serve("cameras")
    aux = connect(first)
    started(aux, first)
    first.close()
    told: list[Any] = []
    serve("cameras", {"EXPINTERRUPT": told.append}, port=int(first.uri.rpartition(":")[2]))
    until(lambda: not aux._lab._closing._started._surely, "the news of the restart")
    aux.close()
    assert told == []


def test_a_start_taken_back_or_for_an_instant_is_no_start(serve: Serve, connect: Connect, gate: Any) -> None:
    told: list[Any] = []
    rig = serve("cameras", {"EXPINIT": gate, "EXPINTERRUPT": told.append})
    aux = connect(rig)
    aux.push("EXPINIT", {"exp_ref": REFERENCE})
    assert gate.reached.wait(LONG)
    aux.push("EXPSTART", REFERENCE)
    assert aux.clear_message_queue() == 1
    gate.open.set()
    aux.request("EXPSTATUS")
    aux.push("EXPSTART", REFERENCE, delay=60)
    aux.close()
    until(lambda: rig.status is ExpStatus.INITIALIZED)
    assert told == []


def test_a_start_that_another_program_s_rig_refused_is_no_start(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    first, second = connect(rig), connect(rig)
    started(first, rig)
    assert isinstance(second.push("EXPSTART", REFERENCE, wait=True), Exception)
    second.close()
    assert rig.status is ExpStatus.RUNNING


def test_an_experiment_that_was_taken_over_is_left_alone(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    first, second = connect(rig), connect(rig)
    started(first, rig)
    second.request("EXPINIT", {"exp_ref": REFERENCE, "takeover": True})
    until(lambda: not first._lab._closing._started._surely, "the news of it")
    first.close()
    assert rig.status is ExpStatus.RUNNING


def test_an_end_that_is_under_way_is_not_overtaken(serve: Serve, connect: Connect, gate: Any) -> None:
    """A recorder may take longer to finish its files than the push has waited, or anybody waits at all."""
    told: list[Any] = []
    rig = serve("cameras", {"EXPEND": gate, "EXPINTERRUPT": told.append})
    aux = connect(rig)
    started(aux, rig)
    assert isinstance(aux.push("EXPEND", wait=True, timeout=0.1), Exception)
    aux.close()
    gate.open.set()
    assert gate.left.wait(LONG)
    until(lambda: rig.status is ExpStatus.STOPPED, "the end")
    assert told == []


def test_a_rig_that_was_lost_meanwhile_is_left_to_its_lease(serve: Serve, connect: Connect) -> None:
    """Another program may have taken it over."""
    rig = serve("cameras")
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        first = connect({"cameras": f"udp://{host}:{port}"}, timing=Timing(beat=0.2))
        started(first, rig)
        relays["cameras"].loss = 1.0
        until(lambda: not first.all_alive)
        second = connect(rig)
        second.request("EXPINIT", {"exp_ref": REFERENCE, "takeover": True})
        relays["cameras"].loss = 0.0
        until(lambda: first.all_alive)
        first.close()
    assert rig.status is ExpStatus.RUNNING


def test_a_start_whose_instant_is_past_is_interrupted(serve: Serve, connect: Connect, gate: Any) -> None:
    rig = serve("cameras", {"EXPSTART": gate})
    aux = connect(rig)
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.push("EXPSTART", REFERENCE, delay=0.05)
    assert gate.reached.wait(LONG)
    aux.close()
    gate.open.set()
    until(lambda: rig.status is ExpStatus.STOPPED, "the interrupt")


def test_a_start_that_is_about_to_come_is_interrupted(serve: Serve, connect: Connect) -> None:
    """By its own clock, which is known to some milliseconds only, the rig may have begun already."""
    rig = serve("cameras")
    aux = connect(rig)
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.push("EXPSTART", REFERENCE, delay=0.9)
    until(lambda: aux._lab._closing._started._told, "the push")
    aux.close()
    until(lambda: rig.status is ExpStatus.STOPPED, "the interrupt")


def test_a_program_may_leave_its_rigs_running(serve: Serve, connect: Connect) -> None:
    rig = serve("cameras")
    aux = connect(rig, leave_running=True)
    started(aux, rig)
    aux.close()
    assert rig.status is ExpStatus.RUNNING


def test_iblutil_rigs_are_interrupted_too(connect: Connect) -> None:
    with EchoServer("cameras") as echo:
        aux = connect({"cameras": echo.uri})
        aux.request("EXPINIT", {"exp_ref": REFERENCE})
        aux.request("EXPSTART", REFERENCE)
        aux.close()
        assert [event.name for event, _ in echo.calls] == ["EXPINIT", "EXPSTART", "EXPINTERRUPT"]


# --------------------------------------------------------------------------------- rigs that await their messages


def test_experiments_with_rigs_that_await_each_message() -> None:
    """All eight at a time; tests/chaos has a hundred of each."""
    assert whole_experiments_of(VARIANTS, 4) == dict.fromkeys(VARIANTS, 4)


def test_a_refresh_rate_of_the_program_s_own_is_the_pause(connect: Connect) -> None:
    with EchoServer("cameras") as echo:
        aux = connect({"cameras": echo.uri})
        for pause in (0.4, 0.0):
            aux.refresh_rate = pause
            begin = time.monotonic()  # the pause begins with the answer, of which this thread hears later
            aux.request("EXPSTATUS")
            aux.request("EXPSTATUS")
            assert time.monotonic() - begin >= pause
        with pytest.raises(ValueError, match="refresh_rate is the seconds"):
            aux.push("EXPSTATUS", wait=setattr(aux, "refresh_rate", -1) or True)
        aux.refresh_rate = 0.2


def test_a_pause_longer_than_the_timeout_costs_no_answer(connect: Connect) -> None:
    with EchoServer("cameras") as echo:
        aux = connect({"cameras": {"uri": echo.uri, "pause": 2.5, "timeout": 2.0}})
        for _ in range(2):
            assert isinstance(aux.push("EXPSTATUS", wait=True), PushResult)


# --------------------------------------------------------------------------------------------------- iblutil's verbs


PAUSE = 5.0
"""Seconds that tell what waits for a pause from what does not."""


def test_verbs_of_a_rig_that_confirms_and_never_answers() -> None:
    with EchoServer("cameras", lambda *_: None) as echo:

        async def main() -> float:
            services = RigServices(rigs_from({"cameras": echo.uri}), pause=lambda: PAUSE)
            await services.open()
            rig = services["cameras"]
            while not rig.is_alive:
                await asyncio.sleep(0.001)
            begin = time.monotonic()
            await rig.init({"exp_ref": REFERENCE})
            await rig.start(REFERENCE)
            await rig.stop()
            taken = time.monotonic() - begin
            services.close()
            return taken

        assert run(main) < PAUSE
        # The echo leaves before iblutil calls back.
        until(lambda: [event.name for event, _ in echo.calls] == ["EXPINIT", "EXPSTART", "EXPEND"])


def test_an_answer_after_a_verb_reaches_on_event_and_callbacks(connect: Connect) -> None:
    with EchoServer("cameras") as echo:
        aux = connect({"cameras": echo.uri})
        rig = aux.services["cameras"]  # type: ignore[index]
        called: list[Any] = []
        rig.assign_callback("EXPINIT", lambda data, addr: called.append(data))

        async def main() -> Any:
            await rig.init({"exp_ref": REFERENCE})
            until(lambda: called)
            data, _ = await rig.on_event("EXPINIT")  # though it comes late
            return data

        assert run(main) == called[0] == [{"by": "cameras"}]
        assert all(result == {} for result in aux.log.values())  # nothing is told as an answer that is none


def test_a_rig_that_is_lost_ends_the_wait_for_its_answer(connect: Connect) -> None:
    with EchoServer("cameras", lambda *_: None) as echo:
        aux = connect({"cameras": echo.uri})
        rig = aux.services["cameras"]  # type: ignore[index]

        async def main() -> Any:
            await rig.init({"exp_ref": REFERENCE})
            waiting = asyncio.ensure_future(rig.on_event("EXPINIT"))
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, echo.close)
            aux.push("EXPSTATUS")
            with pytest.raises(ConnectionError):
                await rig.status("CONNECTED")
            return await asyncio.gather(waiting, return_exceptions=True)

        (error,) = run(main)
        assert "lost before it answered" in str(error)


# --------------------------------------------------------------------------- answers of another name, and patience


@pytest.mark.parametrize("answer", [ExpMessage.EXPINTERRUPT, ExpMessage.EXPEND, ExpMessage.EXPSTATUS])
def test_an_experiment_leaves_a_rig_that_answers_cleanup_by_another_event(connect: Connect, answer: ExpMessage) -> None:
    names = {ExpMessage.EXPCLEANUP: answer}
    with EchoServer("cameras", names=names) as echo:
        aux = connect({"cameras": {"uri": echo.uri, "timeout": 2.0}})
        begin = time.monotonic()
        if answer is ExpMessage.EXPSTATUS:
            with pytest.raises(Exception, match="EXPCLEANUP failed: no answer to EXPCLEANUP in time"):
                _experiment(aux)
        else:
            _experiment(aux)
        assert time.monotonic() - begin < LONG


def _experiment(aux: Auxiliaries) -> None:
    with aux.experiment(REFERENCE):
        pass


# ------------------------------------------------------------------------------- subclasses as they were written


class CreatesItself(Auxiliaries):
    """Makes iblutil's own services, as iblrig's class does."""

    async def create(self) -> None:
        with self.connected:
            app = iblutil_net().app
            rigs = [await app.EchoProtocol.client(uri, name) for name, uri in self._clients.items()]
            self.services = app.Services(rigs, timeout=10)  # type: ignore[assignment]
            self.connected.notify()


class ListensItself(Auxiliaries):
    """Serves its queue itself, as iblrig's class does."""

    async def listen(self) -> None:
        await self.create()
        assert self.services is not None
        while not self.stop_event.is_set():
            for request_time in sorted(self._queued):
                event, args, _ = self._queued[request_time]
                if not isinstance(event, iblutil_net().base.ExpMessage):  # word for word
                    raise TypeError("invalid message cued")
                try:
                    answers: Any = await {
                        ExpMessage.EXPINIT: self.services.init,
                        ExpMessage.EXPSTART: self.services.start,
                    }[event](*args)
                except asyncio.TimeoutError as error:
                    answers = error
                with self.response_received:
                    self._log[request_time] = answers  # type: ignore[index]
                    self._queued.pop(request_time, None)
                    self.response_received.notify()
            await asyncio.sleep(self.refresh_rate)
        await self.cleanup()


class DoesBoth(CreatesItself, ListensItself):
    """Both."""


class AddsToBoth(Auxiliaries):
    """Adds to what the methods do."""

    added = ()

    async def create(self) -> None:
        await super().create()
        self.added = (*self.added, "create")

    async def listen(self) -> None:
        self.added = (*self.added, "listen")
        await super().listen()


def test_a_queue_of_a_subclass_knows_no_options() -> None:
    with EchoServer("cameras") as echo, DoesBoth({"cameras": echo.uri}) as aux:
        for options in ({"rigs": "cameras"}, {"timeout": 1.0}, {"delay": 2.0}, {"patience": 1.0}):
            with pytest.raises(ValueError, match="DoesBoth serves its queue itself"):
                aux.push("EXPSTART", REFERENCE, **options)  # type: ignore[call-overload]
        with pytest.raises(NotRunning, match="DoesBoth makes its services itself"):
            aux.ping()
        blocked = threading.Event()

        def push_and_wait() -> None:
            try:
                aux.push("EXPSTART", REFERENCE, wait=True)
            except LoopBlocked:
                blocked.set()

        aux.thread.call(push_and_wait)
        assert blocked.wait(LONG)
        assert aux.connected.is_set()
    assert not aux.connected.is_set()


def test_an_order_is_for_rigs_that_there_are() -> None:
    with Rig("cameras", "udp://127.0.0.1:0") as rig, Auxiliaries({"cameras": rig.uri}) as aux:
        assert aux.services is not None
        assert aux.services.order(compose("EXPINFO"), ["cam*"]).rigs == ["cameras"]
        with pytest.raises(UnknownRig, match="no rig matches 'camera'"):
            aux.services.order(compose("EXPINFO"), ["camera"])


def test_a_queue_of_a_subclass_takes_what_a_connection_carries() -> None:
    with Rig("cameras", "tcp://127.0.0.1:0") as rig, ListensItself({"cameras": rig.uri}) as aux:
        outcome = aux.push("EXPINIT", {"exp_ref": REFERENCE, "data": 100_000 * "x"}, wait=True)
        assert isinstance(outcome, dict), outcome
        assert list(outcome) == ["cameras"]


def test_what_is_pushed_before_a_subclass_listens_is_sent() -> None:
    class SetsUp(Auxiliaries):
        key: float = 0.0

        async def listen(self) -> None:
            await self.create()
            while not self.key:
                await asyncio.sleep(0.001)
            await super().listen()

    with EchoServer("cameras") as echo, SetsUp({"cameras": echo.uri}) as aux:
        aux.key = aux.push("EXPINIT", {"exp_ref": REFERENCE})
        until(lambda: aux.key in aux.log)
        assert aux.log[aux.key] == {"cameras": [{"by": "cameras"}]}


@pytest.mark.parametrize("kind", [CreatesItself, ListensItself, DoesBoth, AddsToBoth])
def test_subclasses_that_were_written_for_iblrig_s_class(kind: type[Auxiliaries]) -> None:
    with EchoServer("cameras") as echo:
        aux = kind({"cameras": echo.uri})
        try:
            assert aux._clients == {"cameras": echo.uri}
            assert aux._thread is not None
            assert aux._thread.is_alive()
            assert aux.is_connected
            assert aux.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True) == {"cameras": [{"by": "cameras"}]}
            key = aux.push("EXPSTART", REFERENCE)
            with aux.response_received:
                assert aux.response_received.wait_for(lambda: key in aux._log, timeout=LONG)
            assert aux._log[key] == {"cameras": [{"by": "cameras"}]}
            assert aux._queued == {}
        finally:
            aux.close()
        assert not aux._thread.is_alive()
        own = not issubclass(kind, CreatesItself)  # it has this class's services, which stop what they have started
        assert [event.name for event, _ in echo.calls] == ["EXPINIT", "EXPSTART", *(["EXPINTERRUPT"] if own else [])]


def test_what_is_under_way_stands_in_the_queue(serve: Serve, connect: Connect, gate: Any) -> None:
    aux = connect(serve("cameras", {"EXPINIT": gate}))
    key = aux.push("EXPINIT", {"exp_ref": REFERENCE})
    assert aux._queued[key] == [ExpMessage.EXPINIT, [{"exp_ref": REFERENCE}], {}]
    gate.open.set()
    until(lambda: key in aux.log)
    assert aux._queued == {}


# ------------------------------------------------------------------------------------- the last line of a program

LAST_LINE = """
import rigsync
aux = rigsync.Auxiliaries({{"cameras": {uri!r}}}, connect_timeout=5)
aux.push("EXPINFO", "CONNECTED", {number})
"""


GIVEN_UP = "rigsync: ERROR: EXPINFO was given up: cameras had not answered when the program ended\n"


def last_line(uri: str, number: int = 0) -> str:
    """Run a program whose last line is a push that does not wait; return what it has written on stderr."""
    code = LAST_LINE.format(uri=uri, number=number)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=LONG, capture_output=True, text=True)
    assert done.returncode == 0
    return done.stderr


def test_a_push_that_nobody_waits_for_arrives_though_it_is_the_last_line_of_the_program(serve: Serve) -> None:
    told: list[int] = []
    rig = serve("cameras", {"EXPINFO": lambda _, number: told.append(number)})
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}, loss=0.3, seed=3) as relays:
        host, port = relays["cameras"].address
        errors = [last_line(f"udp://{host}:{port}", number) for number in range(8)]
    assert told == list(range(8))
    # A busy computer may take longer than the 2 s that a program waits for the answer, and says so.
    assert set(errors) <= {"", GIVEN_UP}


def test_a_push_that_is_given_up_at_the_end_of_the_program_is_told(serve: Serve, gate: Any) -> None:
    rig = serve("cameras", {"EXPINFO": gate})
    text = last_line(rig.uri)
    assert text == GIVEN_UP
    assert gate.reached.is_set()


@pytest.mark.parametrize("message", ["EXPEND", "EXPINTERRUPT"])
def test_an_end_that_nobody_waits_for_is_sent_until_it_is_answered_before_the_program_closes(
    serve: Serve, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("auxiliaries.CLOSE_TIMEOUT", "closing.STOP_TIMEOUT"):  # which a busy computer may need
        monkeypatch.setattr(f"rigsync.coordinator.{bound}", LONG)
    rig = serve("cameras")
    with relay_before({"cameras": ("127.0.0.1", int(rig.uri.rpartition(":")[2]))}) as relays:
        host, port = relays["cameras"].address
        with Auxiliaries({"cameras": f"udp://{host}:{port}"}) as aux:
            aux.request("EXPINIT", {"exp_ref": REFERENCE})
            aux.request("EXPSTART", REFERENCE)
            relays["cameras"].loss = 1.0
            restored = threading.Timer(0.2, setattr, [relays["cameras"], "loss", 0.0])
            restored.start()
            aux.push(message)
        restored.join()
    assert rig.status is ExpStatus.STOPPED
    assert aux.log


def test_an_end_that_a_rig_does_not_answer_does_not_keep_the_program_from_closing(
    serve: Serve, connect: Connect, gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    aux = connect(serve("cameras", {"EXPEND": gate}))
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    key = aux.push("EXPEND")
    gate.reached.wait(LONG)
    aux.close()
    assert isinstance(aux.log[key], PushError)
    assert "EXPEND: cameras: this program closed before EXPEND was answered" in caplog.text
    gate.open.set()
