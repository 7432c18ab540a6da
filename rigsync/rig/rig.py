"""The rig side: answers coordinators, and runs the user's handlers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import queue
import signal
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any

from rigsync import __version__
from rigsync.config.address import parse_uri
from rigsync.config.journal import Journal
from rigsync.config.rigs import checked_lease
from rigsync.core.answers import Identity
from rigsync.core.arguments import to_plain
from rigsync.core.clock import StampClock
from rigsync.core.enums import ExpStatus
from rigsync.core.health import Health
from rigsync.core.messages import Verb, to_json
from rigsync.core.ownership import LEASE
from rigsync.core.queries import JOURNAL
from rigsync.core.responder import Responder
from rigsync.core.rigs import LONGEST_DESCRIPTION, MAX_MESSAGE, Address, RigConfig, Room
from rigsync.core.timing import Timing
from rigsync.errors import LoopBlocked, NotRunning, PayloadTooLarge
from rigsync.net.endpoint import look_up
from rigsync.net.ports import explained
from rigsync.rig.board import RigBoard
from rigsync.rig.calls import RigCalls
from rigsync.rig.handlers import CommandHandler
from rigsync.rig.journaling import journal_command, recorder_of
from rigsync.rig.rehearsal import RigRehearsals
from rigsync.rig.session import Session
from rigsync.rig.telling import RigTelling
from rigsync.runtime.callbacks import guarded
from rigsync.runtime.conditions import Awaited
from rigsync.runtime.exits import RIGS, at_exit
from rigsync.runtime.hub import Hub
from rigsync.runtime.loop_thread import LoopThread
from rigsync.runtime.signals import ending_signals, signals_handled, signals_held_back

logger = logging.getLogger("rigsync.rig")

CLOSE_TIMEOUT = 2.0
"""Seconds within which `Rig.close` returns where no experiment is under way."""
REACTION = 1.0
"""Seconds of these in which the event loop has to begin closing. Otherwise a handler blocks it."""
INTERRUPT_GRACE = 5.0
"""Further seconds that `Rig.close` gives to the handlers of EXPINTERRUPT, or of an EXPEND that runs already."""
WAKE_INTERVAL = 0.5
"""Seconds between looks for Ctrl-C in `Rig.run`: on Windows a wait without end cannot be interrupted."""


class Rig(RigRehearsals, RigBoard, RigCalls, RigTelling):
    """A machine of the experiment that can be commanded.

    It answers rigsync's coordinators, and iblutil's and iblrig's as they are. Without handlers it answers every
    message. A handler does the work; the dict that it returns is merged into the answer.

    Parameters
    ----------
    name : str
        Name of the rig.
    uri : str
        Where to listen, for instance ``udp://0.0.0.0:11001`` or ``tcp://[::]:11001``, which is for IPv4 too;
        port 0 lets the system choose. ``mqtt://broker/prefix`` is by way of a broker (docs/facility.md).
    main_sync : bool
        Whether this rig records the signal to which all others are aligned.
    experiment_description : dict, optional
        Devices and their settings, sent with each answer.
    lease : float
        Seconds for which the coordinator in charge may be silent. After that the rig interrupts by itself, so that a
        computer that has crashed leaves nothing running. 0 for never.
    max_message : int
        Bytes of the largest message that comes or goes over ``tcp://``; 64 MiB by default.
    journal : bool, str or os.PathLike, optional
        Where all that happens at this rig is kept (docs/journal.md): True for this user's journal, a path for another.
        None by default.

    Raises
    ------
    ConfigError
        A malformed URI, a lease that is not a number of seconds from 0 on, or an impossible `max_message`.
    PayloadError, PayloadTooLarge
        An experiment description that cannot be sent.

    Examples
    --------
    >>> rig = Rig('cameras', 'udp://127.0.0.1:0')
    >>> @rig.on('EXPSTART')
    ... def start(exp_ref, data=None):
    ...     return {'files': ['left.mp4']}
    >>> with rig:
    ...     rig.status.name
    'CONNECTED'
    """

    _is_logged = True
    """Whether it logs the outcome of messages. The coordinator's log, which may be the same, has their failures."""
    _journal_files: Sequence[str] = ()
    """The configuration files that the journal keeps as they are."""

    def __init__(
        self,
        name: str,
        uri: str | Address = "udp://0.0.0.0:11001",
        *,
        main_sync: bool = False,
        experiment_description: dict[str, Any] | None = None,
        lease: float = LEASE,
        max_message: int = MAX_MESSAGE,
        journal: Journal = None,
    ):
        self._config = RigConfig(name, parse_uri(uri, allow_port_zero=True), max_message=max_message)
        description = to_plain(experiment_description or {}, "experiment_description")
        if len(to_json(description)) > LONGEST_DESCRIPTION:
            raise PayloadTooLarge(len(to_json(description)), LONGEST_DESCRIPTION)
        RigRehearsals.__init__(self, name)
        RigBoard.__init__(self, self._room)
        self._lease = checked_lease(lease)
        self._identity = Identity(name, bool(main_sync), description, __version__)
        self.hub = Hub(f"rig {name}", owner="Rig")
        """Where all that happens is told, while the rig serves: see `rigsync.Hub` and docs/hub.md."""
        self._recorder = recorder_of(self.hub, name, journal, self._journal_files, lambda: self._session)
        if self._recorder:
            self._handlers[JOURNAL] = [CommandHandler.of(journal_command(self._recorder, name))]
        self._session: Session | None = None
        self._thread: LoopThread | None = None
        self._uri = str(self._config.address)

    @property
    def uri(self) -> str:
        """str: Where it listens; once it does, with the port that the system chose."""
        return self._uri

    @property
    def status(self) -> ExpStatus:
        """ExpStatus: The rig's status; CONNECTED while it does not serve."""
        return session.agenda.status if (session := self._session) else ExpStatus.CONNECTED

    @property
    def exp_ref(self) -> str | None:
        """Reference of the present experiment, as ``yyyy-mm-dd_n_subject``, or None."""
        return session.agenda.exp_ref if (session := self._session) else None

    @property
    def picture(self) -> dict[str, Any]:
        """How the rig is now: the fields of `RigView`, for a program that joins a bridge at the rig."""
        wrong = (session.agenda.health if (session := self._session) else Health()).picture
        return {"status": self.status, "exp_ref": self.exp_ref, **wrong, **self._board.contents}

    @property
    def is_running(self) -> bool:
        """bool: Whether it serves."""
        return self._session is not None and ((thread := self._thread) is None or thread.failure is None)

    def __repr__(self) -> str:
        return f"<Rig {self.name} {self.uri} {self.status.name if self.is_running else 'not running'}>"

    # ------------------------------------------------------------------------------------------------- serving

    def start(self) -> None:
        """Serve in the background, on a daemon thread.

        Raises
        ------
        ListenError
            The port is in use, or the address is not this machine's.
        RuntimeError
            It serves already.
        """
        if self._thread or self._session:
            raise RuntimeError(f"rig {self.name} serves already")
        thread = self._thread = _RigThread(self)  # before it serves, so that whoever sees it serving can close it
        _unclosed.add(self)
        try:
            thread.start()
            thread.run_coroutine(type(self)._open, self)
        except BaseException:
            self._thread = None
            thread.stop()
            if thread.ident is not None:
                thread.join(CLOSE_TIMEOUT)
            raise

    def close(self) -> None:
        """Interrupt what is under way, say goodbye to the coordinators and stop serving. May be called repeatedly.

        It returns within 2 s. If an experiment is under way, the rig does as though EXPINTERRUPT had come, with the
        reason that its program is being closed. The handlers have 5 s more. One that takes longer is given up, and
        the log and a notice ``failure`` say so. From then on EXPINIT and EXPSTART are refused. Ctrl-C and signals that
        end the program have their effect afterwards.

        Raises
        ------
        LoopBlocked
            In a coroutine handler of this rig.
        """
        if self._thread and self._thread.on_loop_thread:
            raise LoopBlocked("close() in a coroutine handler would wait for itself; call it from another thread")
        with signals_held_back():
            begun = time.monotonic()
            try:
                if self._stop_work():
                    begun = time.monotonic()
            finally:
                self._stop_serving(begun + CLOSE_TIMEOUT)

    def _stop_serving(self, end: float) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        session, self._session = self._session, None
        if session:
            with contextlib.suppress(NotRunning):
                # Not awaited: if a handler blocks the loop, the socket is closed as soon as the handler ends.
                thread.call(session.leave)
            with contextlib.suppress(NotRunning, TimeoutError):
                thread.run_coroutine(session.await_bridges, None, max(0.1, end - time.monotonic()))
        thread.stop()
        thread.join(max(0.1, end - time.monotonic()))
        if session:
            session.end_workers(max(0.1, end - time.monotonic()))
            self.hub.end_workers(max(0.1, end - time.monotonic()))
            session.await_journal(max(0.1, end - time.monotonic()))

    @property
    def _interrupt_grace(self) -> float:
        """Seconds for the handlers of EXPINTERRUPT at `close`."""
        return INTERRUPT_GRACE

    def _begin_to_close(self) -> bool:
        """Refuse experiments, and interrupt what is under way; return whether to wait for that."""
        thread, session = self._thread, self._session
        if thread is None or session is None or not thread.is_alive():  # a fork has a copy of it, but no thread
            return False
        try:
            thread.call(session.begin_to_close, self._interrupt_grace)
            return thread.run_coroutine(session.is_to_be_awaited, session.ends_here, REACTION)
        except NotRunning:  # the loop has died, and the log says so
            return False
        except TimeoutError:
            if session.agenda.is_under_way:
                logger.error(  # noqa: TRY400 - the text says all
                    "%s: a handler blocks its event loop, so that EXPINTERRUPT cannot run; it may go on recording: "
                    "look at it",
                    self.name,
                )
            return False

    def _stop_work(self) -> bool:
        """Stop all that an experiment has begun; return whether there was anything. Off the event loop."""
        is_awaited = self._begin_to_close()
        thread = self._thread
        if is_awaited and thread and (session := self._session):
            with contextlib.suppress(NotRunning, TimeoutError):
                thread.run_coroutine(session.end_experiment, None, self._interrupt_grace + REACTION)
        if thread and (thread.is_alive() or thread.failure is not None):  # not in a fork
            self._end_commands()
        return is_awaited

    def _end_commands(self) -> None:
        """End what runs beside the handlers, or was made for them; off the event loop."""
        self._end_rehearsal()

    def _end_with_program(self) -> None:
        """Do as `close` does, for a program that ends: running handlers end with it."""
        try:
            self._stop_work()
        finally:
            said = Awaited()
            if (thread := self._thread) and (session := self._session):
                with contextlib.suppress(NotRunning):
                    thread.call(session.leave)
                    thread.call(said.bring, True)
                    said.wait(REACTION)

    def run(self) -> None:
        """Serve in the foreground, until Ctrl-C, SIGTERM, SIGHUP, or `close` on another thread.

        A program that serves by `start` or ``with`` instead is killed at once by SIGTERM and SIGHUP. That is how Python
        is, unless the program says ``signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))``.

        Raises
        ------
        ListenError
            The port is in use, or the address is not this machine's.
        NotRunning
            The event loop has died.
        """
        run_rigs([self])

    def __enter__(self) -> Rig:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Rig:
        """Serve on the running event loop, which has to be a selector loop."""
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do as `close` does, on this event loop."""
        session, loop = self._session, asyncio.get_running_loop()
        if session is None:
            return
        try:
            session.begin_to_close(self._interrupt_grace)
            await session.end_experiment()
            await loop.run_in_executor(None, self._end_commands)
        finally:
            self._session = None
            await session.end_coroutines(CLOSE_TIMEOUT / 2)
            await session.await_bridges()
            await loop.run_in_executor(None, session.end_workers, CLOSE_TIMEOUT / 2)
            await loop.run_in_executor(None, self.hub.end_workers, CLOSE_TIMEOUT / 2)
            await loop.run_in_executor(None, session.await_journal, CLOSE_TIMEOUT / 2)

    def _serving(self, otherwise: str) -> Session:
        if (session := self._session) is None:
            raise NotRunning(f"rig {self.name} does not serve: {otherwise}")
        return session

    def _calling(self) -> tuple[Session, Room]:
        return self._serving("start it before it calls its coordinator"), self._room

    def _wake(self) -> None:
        if session := self._session:
            session.wake()

    @property
    def _room(self) -> Room:
        return dataclasses.replace(self._config.room, rig=None)  # the coordinator knows it

    def _make_responder(self, handled: Collection[Verb], timing: Timing, boot: str, stamps: StampClock) -> Responder:
        """Make the core of one stretch of serving; overridden by rigs that behave otherwise, such as `serve --drop`."""
        return Responder(self._identity, handled, timing, boot, stamps, self._lease, self._room, self._board)

    async def _listen(self, session: Session) -> tuple[Any, ...]:
        at = self._config.address
        if at.is_brokered:
            return await session.endpoint.listen_at_broker(at, self.name, session.boot, session.picture)
        (family, address), *_ = await look_up(self._config)
        return await session.endpoint.listen(family, address, self._config.max_message if at.scheme == "tcp" else None)

    async def _open(self) -> None:
        if self._session:
            raise RuntimeError(f"rig {self.name} serves already")
        handling = self._handlers, self._handlers_for, self._make_responder
        session = Session(self.name, *handling, self.hub, self._recorder, self._is_logged)
        try:
            bound = await self._listen(session)
        except BaseException as error:
            session.endpoint.close()
            session.end_rules()
            if not isinstance(error, OSError):
                raise
            # On some systems it takes seconds to find what holds the port.
            explain = asyncio.to_thread(explained, error, f"rig {self.name}", self._uri, self._config.address)
            raise await explain from None  # its text says all
        self._uri = str(dataclasses.replace(self._config.address, host=bound[0], port=bound[1]))
        self._session = session
        session.begin()
        if not self._config.address.is_brokered:  # where that tells it once the broker is there
            logger.info("rig %s listens on %s", self.name, self._uri)


_unclosed: weakref.WeakSet[Rig] = weakref.WeakSet()


@at_exit(RIGS)
def _end_the_unclosed() -> None:
    """Interrupt what a program leaves running, and say goodbye, if it ends without `close`."""
    rigs = [rig for rig in list(_unclosed) if (thread := rig._thread) and thread.is_alive()]
    for rig in rigs:  # all first, so that none waits for the handlers of another
        guarded("end of the program", rig._begin_to_close)
    for rig in rigs:
        guarded("end of the program", rig._end_with_program)


def run_rigs(rigs: Sequence[Rig], announce: Callable[[Rig], object] = lambda _: None) -> None:
    """Serve several rigs in the foreground, until Ctrl-C, SIGTERM, SIGHUP, or `close` of one on another thread.

    `announce` is called with each rig once all listen. All are closed at the same time: a slow one does not let the
    others go on.

    Raises
    ------
    ListenError
        A port is in use, or an address is not this machine's; then none serves.
    NotRunning
        The event loop of one has died.
    """
    # A signal handler may put into it at any moment, even while another signal is being handled. An Event cannot
    # be used so.
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    numbers = signal.SIGINT, *ending_signals()
    # A shell has programs in the background ignore SIGINT; a rig ends by it all the same.
    with signals_handled(lambda number, _: asked.put(number), *numbers, even_ignored=(signal.SIGINT, signal.SIGTERM)):
        try:
            for rig in rigs:
                rig.start()
            for rig in rigs:
                announce(rig)
            while not _comes(asked, WAKE_INTERVAL):
                threads = [rig._thread for rig in rigs]
                for rig, thread in zip(rigs, threads, strict=True):
                    if thread and thread.failure is not None:
                        raise NotRunning(f"rig {rig.name} has stopped: {thread.failure!r}")
                if None in threads:
                    return
        finally:
            closing = [threading.Thread(target=rig.close, name=f"rigsync-close-{rig.name}") for rig in rigs]
            for closer in closing:
                closer.start()
            for closer in closing:
                closer.join()


def _comes(asked: queue.SimpleQueue[int], timeout: float) -> bool:
    try:
        asked.get(timeout=timeout)
    except queue.Empty:
        return False
    return True


class _RigThread(LoopThread):
    """The daemon thread of one `Rig`."""

    def __init__(self, rig: Rig):
        super().__init__(f"rig-{rig.name}")
        self._rig = rig

    def task_failed(self, error: BaseException) -> None:
        if session := self._rig._session:
            session.leave()
