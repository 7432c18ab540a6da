"""One rig of a coordinator, with the members of iblutil's `Communicator`."""

from __future__ import annotations

import asyncio
import json
import logging
import warnings
from typing import Any

from rigsync.coordinator.faces import Faced
from rigsync.coordinator.links import Links
from rigsync.coordinator.results import PushResult
from rigsync.coordinator.view import RigView, read_of
from rigsync.core.arguments import compose, encode, validate_event
from rigsync.core.enums import PROTOCOL_VERSION, ExpMessage
from rigsync.core.events import LinkState
from rigsync.core.legacy import NULL_MESSAGE
from rigsync.core.messages import Message, Verb
from rigsync.core.peer import Peer
from rigsync.core.rigs import RigConfig, Room
from rigsync.errors import PushError, RigError
from rigsync.runtime.callbacks import guarded, on_loop_of, resolve_future


def _known(field: str, meaning: str) -> Any:
    """Return a property that reads one field of the rig's `view`, without the others."""
    return property(lambda rig: read_of(rig.peer, field), doc=meaning)


class RemoteRig(Faced):
    """One rig, over the rigsync core, with the members of iblutil's `Communicator`.

    The coroutines may be awaited on any event loop. The verbs `init`, `start`, `stop`, `status`, `info`, `cleanup` and
    `alyx` send their message as `confirmed_send` does, whose errors they raise; `addr` is the rig's address, if at all.
    For `isinstance`, it is a `Communicator` where iblutil is loaded.

    Parameters
    ----------
    config : RigConfig
        The rig.
    links : Links
        The links to all rigs, of which it has one.
    """

    __version__ = PROTOCOL_VERSION
    role = property(lambda _: "client", doc="``client``, as iblutil calls the side that commands one rig.")

    def __init__(self, config: RigConfig, links: Links):
        self.config, self._links = config, links
        self.name, self.server_uri = config.name, str(config.address)
        self.logger = logging.getLogger(f"rigsync.rig.{config.name}")
        events = (NULL_MESSAGE, *ExpMessage.__members__.values())
        # Callers are on any thread. All are changed in single steps, without a lock: a signal handler may
        # interrupt a caller, and wait for the service thread, which delivers.
        self._callbacks: dict[Verb, list[_Callback]] = {event: [] for event in events}
        self._confirming: dict[float, tuple[Verb, asyncio.Future[None]]] = {}
        """By request time, what `confirmed_send` has sent and the rig has not confirmed."""
        self._asked: set[Verb] = set()
        """What the rig has confirmed to a `confirmed_send`, and has not answered."""
        self._unclaimed: dict[Verb, tuple[list[Any], tuple[Any, ...]] | RigError] = {}

    def __repr__(self) -> str:
        return f"<RemoteRig {self.name} {self.server_uri} {self.state.value}>"

    @property
    def hostname(self) -> str:
        """Name or address of the rig's host, as configured."""
        return self.config.address.host

    @property
    def port(self) -> int:
        """Port of the rig."""
        return self.config.address.port

    @property
    def protocol(self) -> str:
        """What carries the messages: ``udp`` or ``tcp``."""
        return self.config.address.scheme

    @property
    def is_connected(self) -> bool:
        """Whether the services are open, as iblutil has it; whether the rig is there, `is_alive` says."""
        return self._links.is_open

    @property
    def is_alive(self) -> bool:
        """Whether the rig has answered lately: its link is alive or suspect."""
        return self.state in (LinkState.ALIVE, LinkState.SUSPECT)

    @property
    def peer(self) -> Peer | None:
        """The core's view of this rig; None until the services are open. For reading only."""
        return self._links.peer(self.name)

    @property
    def has_ended(self) -> bool:
        """Whether the rig's program has said that it records nothing, and then goodbye."""
        return (peer := self.peer) is not None and peer.has_ended

    @property
    def view(self) -> RigView:
        """How the rig is now, in one piece; each property below reads a field of it. Safe to read from any thread."""
        return self._links.view(self.name)

    state = _known("link", "The `LinkState`: whether the rig answers.")
    reason = _known("reason", "What the state of the link rests on, in words.")
    dialect = _known("dialect", "``rigsync``, ``iblutil`` or ``unknown``.")
    clock = _known(
        "clock", "How the rig's clock stands to this computer's; None before it is known, and of iblutil rigs."
    )
    round_trip = _known("round_trip", "Smoothed round trip in seconds; None before the first.")
    loss = _known("loss", "Share of the newest probes that were lost, from 0 to 1; None before it can be told.")
    rig_status = _known("status", "The rig's `ExpStatus`, as it said last; None of an iblutil rig, which does not say.")
    exp_ref = _known("exp_ref", "Reference of the rig's experiment, as it said last.")
    version = _known("version", "Version of rigsync on the rig.")
    owner = _known("owner", "Host of the coordinator that is in charge of the rig's experiment; None without one.")
    progress = _known("progress", "How far things on the rig are, by item.")
    streams = _known("streams", "What the rig says of each of its streams, by the stream's name.")

    async def init(self, data: Any = None, addr: Any = None) -> None:
        """Send EXPINIT.

        Parameters
        ----------
        data : object, optional
            What the rig is to know.
        addr : (str, int), optional
            The rig's address.
        """
        await self.confirmed_send((ExpMessage.EXPINIT, data), addr)

    async def start(self, exp_ref: Any, data: Any = None, addr: Any = None) -> None:
        """Send EXPSTART.

        Parameters
        ----------
        exp_ref : str or mapping
            ``yyyy-mm-dd_n_subject``, or a map of ``date``, ``sequence`` and ``subject``.
        data, addr
            As for `init`.
        """
        await self.confirmed_send((ExpMessage.EXPSTART, exp_ref, data), addr)

    async def stop(self, data: Any = None, immediately: bool = False, addr: Any = None) -> None:
        """Send EXPEND.

        Parameters
        ----------
        data, addr
            As for `init`.
        immediately : bool
            Whether to send EXPINTERRUPT instead.
        """
        await self.confirmed_send((ExpMessage.EXPINTERRUPT if immediately else ExpMessage.EXPEND, data), addr)

    async def status(self, status: Any, addr: Any = None) -> None:
        """Send EXPSTATUS.

        Parameters
        ----------
        status : ExpStatus, str or int
            This computer's, an `ExpStatus`, its name or number.
        addr
            As for `init`.
        """
        await self.confirmed_send((ExpMessage.EXPSTATUS, status), addr)

    async def info(self, status: Any, data: Any = None, addr: Any = None) -> None:
        """Send EXPINFO.

        Parameters
        ----------
        status : ExpStatus, str or int
            This computer's, an `ExpStatus`, its name or number.
        data : object, optional
            What this computer says of itself.
        addr
            As for `init`.
        """
        await self.confirmed_send((ExpMessage.EXPINFO, status, data), addr)

    async def cleanup(self, data: Any = None, addr: Any = None) -> None:
        """Send EXPCLEANUP.

        Parameters
        ----------
        data, addr
            As for `init`.
        """
        await self.confirmed_send((ExpMessage.EXPCLEANUP, data), addr)

    async def alyx(self, alyx: Any = None, addr: Any = None) -> Any:
        """Send a token of Alyx, or ask for one.

        Parameters
        ----------
        alyx : AlyxClient, optional
            One that is logged in; without it the rig is asked for its own.
        addr
            As for `init`.

        Returns
        -------
        list
            What it answers, with address and token; None where a token was sent.
        """
        message = compose(ExpMessage.ALYX, alyx, room=self.config.room)
        await self.confirmed_send((ExpMessage.ALYX, alyx), addr)
        if not message.asks_token:
            return None
        data, _ = await self.on_event(ExpMessage.ALYX)
        return data

    async def confirmed_send(self, data: Any, addr: Any = None, timeout: float | None = None) -> None:
        """Send a message, and return when the rig has confirmed that it has it.

        The answer comes by `on_event` or a callback. An iblutil rig is sent the next message from then on.

        Parameters
        ----------
        data : sequence, str or bytes
            ``[event, *args]``, or its JSON text.
        addr : (str, int), optional
            The rig's address, if at all.
        timeout : float, optional
            Seconds; by default the rig's own timeout.

        Raises
        ------
        RigError
            The rig did not confirm it. (A failure after that is raised by `on_event`, but for an iblutil rig that does
            not answer: of such a one, silence is no failure.)
        TypeError, ValueError
            It is no message, or cannot be sent; or the address is not the rig's.
        NotRunning
            The services are not open.
        """
        self._check_address(addr)
        message = message_of(data, self.config.room)
        self._unclaimed.pop(message.event, None)
        order = self._links.order(message, [self.name], timeout=timeout, confirm=True)
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(outcome: PushResult | PushError) -> None:
            failure = outcome.failed.get(self.name)
            if self._confirming.pop(order.request_time, None):
                resolve_future(confirmed, failure)
            elif failure:
                self.deliver_failure(failure, message.event)

        self._confirming[order.request_time] = message.event, confirmed
        self._links.push(order, done)
        await confirmed

    def awaiting_response(self, addr: Any = None) -> bool:
        """Return whether a `confirmed_send` awaits that the rig confirms it; never for the address of another one."""
        return bool(self._confirming) and (not addr or tuple(addr[:2]) == (self.hostname, self.port))

    def send(self, data: Any, addr: Any = None) -> None:
        """Send a message without waiting for anything; parameters and errors are those of `confirmed_send`."""
        self._check_address(addr)
        self._links.push(self._links.order(message_of(data, self.config.room), [self.name]))

    async def on_event(self, event: Any) -> Any:
        """Wait for a message from the rig; the answer to the last `confirmed_send` of it is not missed by coming late.

        Parameters
        ----------
        event : str, int or ExpMessage
            The message, or several joined by ``|``.

        Returns
        -------
        (list, tuple)
            What follows the event, and the rig's address; for several events at once, also the event.

        Raises
        ------
        RigError
            The rig failed to answer the last `confirmed_send`.
        TypeError, ValueError
            No such message.
        """
        event = ExpMessage.validate(event)
        while True:
            future = asyncio.get_running_loop().create_future()
            waiting = self._assign(event, future)  # before it looks, so as not to miss what comes meanwhile
            try:
                single = next((single for single in _singles(event) if single in self._unclaimed), None)
                if single is None or not waiting.claim():
                    return await future
            finally:  # one that was given up must not take the next answer
                self.clear_callbacks(event, future, cancel_futures=False)
            if outcome := self._unclaimed.pop(single, None):  # else another one has fetched it
                if isinstance(outcome, RigError):
                    raise outcome
                return outcome if single is event else (*outcome, single)

    def assign_callback(self, event: Any, callback: Any) -> None:
        """Have a function called, or a future resolved, when a message comes.

        Parameters
        ----------
        event : str, int or ExpMessage
            The message, or several joined by ``|``, or 0 for the errors that an iblutil rig reports.
        callback : callable or asyncio.Future
            Called on the services' thread with what follows the event and the rig's address; where there are several
            events, also with the event. A future, which may be of any event loop, has these as a tuple.

        Raises
        ------
        TypeError, ValueError
            No such message, or what is to be called is neither a function nor a future.
        """
        event = ExpMessage.validate(event)
        if not (callable(callback) or asyncio.isfuture(callback)):
            raise TypeError("a callback is a function or a future")
        self._assign(event, callback)

    def _assign(self, event: ExpMessage, callback: Any) -> _Callback:
        singles = _singles(event)
        # Not as iblutil finds it out, which takes several events for one since Python 3.12.
        assigned = _Callback(callback, singles != [event])
        for single in singles:
            self._callbacks[single].append(assigned)
        return assigned

    def clear_callbacks(self, event: Any, callback: Any = None, cancel_futures: bool = True) -> int:
        """Remove the callbacks of a message, or of several joined by ``|``, or one of them; return how many that were.

        Parameters
        ----------
        event, callback
            As for `assign_callback`; by default all callbacks.
        cancel_futures : bool
            Whether to cancel the futures among them.
        """
        wanted = callback and identity(callback)
        removed = []
        for single in _singles(ExpMessage.validate(event)):
            for entry in tuple(self._callbacks[single]):
                if (not callback or identity(entry.callback) == wanted) and self._remove(single, entry):
                    removed.append(entry.callback)
        for future in removed:
            if cancel_futures and asyncio.isfuture(future):
                on_loop_of(future, future.cancel)
        return len(removed)

    def close(self) -> None:
        """Remove all callbacks and cancel futures; the socket closes with the services."""
        for event in self._callbacks:
            self.clear_callbacks(event)

    @staticmethod
    def encode(data: Any) -> bytes:
        """Return data as iblutil sends it: bytes as they are, text in UTF-8, all else as JSON."""
        if isinstance(data, bytes):
            return data
        return (data if isinstance(data, str) else json.dumps(data)).encode()

    @staticmethod
    def decode(data: bytes) -> Any:
        """Return what bytes hold as JSON, or their text, with a warning, where they are none."""
        try:
            return json.loads(data)
        except json.JSONDecodeError:
            warnings.warn("what has been received is no JSON", stacklevel=2)
            return data.decode()

    def note_received(self, request_time: float) -> None:
        """Take note that the rig has a message of `confirmed_send`, and may answer it; for `RigServices`."""
        if confirming := self._confirming.pop(request_time, None):
            event, confirmed = confirming
            self._asked.add(event)
            resolve_future(confirmed, None)

    def hears(self, event: ExpMessage) -> bool:
        """Whether anybody wants a message, so that `deliver` has something to do."""
        return event in self._asked or bool(self._callbacks[event])

    def deliver(self, event: ExpMessage, args: list[Any], addr: tuple[Any, ...]) -> None:
        """Give a message to callbacks and futures, as iblutil does; for `RigServices`.

        Unlike there, a callback that raises keeps neither the others nor the link from going on.
        """
        for entry in self._claim(event, (args, addr)):
            content = (args, addr, event) if entry.takes_event else (args, addr)
            if entry.is_future:
                resolve_future(entry.callback, content)
            else:
                guarded(f"callback for {event.name or 'errors'} from {self.name}", entry.callback, *content)

    def deliver_failure(self, error: RigError, event: Verb | None = None) -> None:
        """Tell who waits for the answer to a message, of any by default, that there is none; for `RigServices`."""
        for asked in list(self._asked) if event is None else [event] if event in self._asked else []:
            for entry in self._claim(asked, error):
                if entry.is_future:
                    resolve_future(entry.callback, error)

    def _claim(self, event: Verb, outcome: Any) -> list[_Callback]:
        """Return an event's callbacks; keep the outcome of what was asked for `on_event` where no future waits."""
        is_asked = event in self._asked
        if is_asked:  # before it looks for futures: `on_event` makes one, and then looks for this
            self._unclaimed[event] = outcome
        self._asked.discard(event)
        claimed = []
        for entry in tuple(self._callbacks[event]):
            if not entry.is_future:
                claimed.append(entry)
            elif not entry.callback.done() and entry.claim():
                claimed.append(entry)
                for single in self._callbacks:  # one that waits for several events is in several lists
                    for other in tuple(self._callbacks[single]):
                        if other.callback is entry.callback:
                            self._remove(single, other)
        if is_asked and any(entry.is_future for entry in claimed):
            self._unclaimed.pop(event, None)
        return claimed

    def _remove(self, event: Verb, entry: _Callback) -> bool:
        try:
            self._callbacks[event].remove(entry)
        except ValueError:
            return False
        return True

    def _check_address(self, addr: Any) -> None:
        if addr and (addr[0], addr[1]) not in ((self.hostname, self.port), self._links.address(self.name)):
            raise ValueError(f"{self.name} is at {self.server_uri}, not at {addr}")


class _Callback:
    """What was assigned to one event, or several."""

    def __init__(self, callback: Any, takes_event: bool):
        self.callback, self.takes_event = callback, takes_event
        self.is_future = asyncio.isfuture(callback)
        self._free = [None]

    def claim(self) -> bool:
        """Take a future, which is for one message; return whether nobody has before."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True


def message_of(data: Any, room: Room) -> Message:
    """Return a message in the form that iblutil's `confirmed_send` takes, encoded; errors are those of `compose`."""
    if isinstance(data, (str, bytes, bytearray)):
        data = json.loads(data)
    if not isinstance(data, (list, tuple)) or not data:
        raise TypeError(f"a message is [event, *args], not a {type(data).__name__}")
    event, *args = data
    event = validate_event(event)
    if event is ExpMessage.ALYX and len(args) == 2:
        return encode(event, args, room)  # address and token, as iblutil's own Service.alyx gives them
    return compose(event, *args, room=room)


def _singles(event: ExpMessage) -> list[ExpMessage]:
    """Return the events of which this one is made, the null message included."""
    if not event:
        return [NULL_MESSAGE]
    return [single for single in ExpMessage.__members__.values() if single & event]


def identity(callback: Any) -> Any:
    """Return by what a callback is known again, also one that `RigServices` has wrapped."""
    return getattr(callback, "id", None) or hash(callback)
