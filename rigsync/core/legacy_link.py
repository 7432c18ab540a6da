"""A rig of the iblutil dialect as its coordinator sees it: what is sent when, and what comes (docs/protocol.md 1)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rigsync.core import legacy
from rigsync.core.clock import NANOSECONDS
from rigsync.core.enums import ExpMessage
from rigsync.core.errands import Errand
from rigsync.core.events import MessageReceived, RemoteComplaint, Start
from rigsync.core.legacy import Array, EchoGuard
from rigsync.core.lifecycle import ENDS, name_different
from rigsync.core.link import Link
from rigsync.core.messages import Verb
from rigsync.errors import RemoteError, RemoteProtocolError

VERB_GAP = 0.05
"""Seconds between the confirmation of one of iblutil's verbs and the next message. The answer, if any, comes meanwhile.
A rig that sends it takes any other message for a wrong echo, and closes."""


class Answer(NamedTuple):
    """How an errand ends."""

    outcome: list[Any] | RemoteError | None
    """None where only a confirmation was asked for."""
    start: Start | None = None
    event: Verb | None = None
    """The message that was taken for the answer."""


class EchoLink:
    """What is sent and not echoed, what is owed, and when the next message may leave."""

    def __init__(self, link: Link):
        self._link = link
        self._guard = EchoGuard()
        self._awaited: bytes | None = None
        self.echo_due = math.inf
        """Until when, in monotonic seconds, an echo is awaited. Nothing else may leave before."""
        self._spoke_at = -math.inf
        """When the rig last sent a message that was no echo."""
        self._held_until = -math.inf
        """Before this nothing leaves to a rig that has just confirmed a verb."""
        self._owed: set[Verb] = set()
        """Messages that are no longer outstanding, and that the rig may still answer."""

    def begin_anew(self) -> None:
        """Expect nothing more: another program is there."""
        self._spoke_at = -math.inf
        self.stop_waiting()
        self.forgive()

    def forgive(self) -> None:
        """Expect no more answers to what was given up: the rig's program has ended."""
        self._owed.clear()

    def stop_waiting(self) -> None:
        self._awaited, self.echo_due = None, math.inf

    # ------------------------------------------------------------------------------------------------- sending

    def ready_at(self, pause: float) -> float:
        """Return when, in monotonic seconds, the rig gets its next message; -inf for rigs of rigsync.

        Its program may await each message by `on_event`, and drops messages that come too early (section 1). So it gets
        a pause after its last word, of these seconds, unless its configuration says otherwise.
        """
        return self._spoke_at + self._pause(pause)

    def give_time(self, errand: Errand, before: int, now: float) -> None:
        """Let the time for an answer begin after the pauses, also those of the errands before it."""
        errand.time_left = errand.deadline - now
        errand.deadline += before * self._pause(errand.request.pause)

    def may_leave(self, errand: Errand, now: float) -> bool:
        """Whether a message may leave; otherwise set when to ask again."""
        if self._awaited is not None:
            errand.next_send = math.inf
            return False
        if errand.turn_at == math.inf:
            errand.turn_at, errand.time_left = now, min(errand.time_left, errand.deadline - now)
        errand.next_send = self._leaves_at(errand)
        if now >= errand.next_send:
            return True
        if errand.request.act_at is None:
            errand.deadline = max(errand.deadline, errand.next_send + errand.time_left)
        return False

    def send(self, errand: Errand, now: float) -> None:
        link = self._link
        self._awaited, self.echo_due = errand.request.array, now + link.timing.echo_timeout
        link.outbox.append((link.requests, self._awaited))
        errand.next_send = now + link.backoff.wait(errand.tries) if link.config.resend else math.inf

    def owe(self, errand: Errand) -> None:
        """Remember that the answer to a message may come while another one is outstanding."""
        if errand.tries:
            self._owed.add(errand.request.event)

    def _pause(self, usual: float) -> float:
        pause = self._link.config.pause
        return usual if pause is None else pause

    def _leaves_at(self, errand: Errand) -> float:
        """Return when a message leaves: once that is awaited, half a round trip before its instant."""
        request, pause = errand.request, self._pause(errand.request.pause)
        # A rig that goes on talking does not put it off for ever.
        ready_at = min(self._spoke_at + pause, errand.turn_at + 2 * pause)
        leaves_at = max(request.leave_at, ready_at, self._held_until)
        if request.act_at is not None:
            leaves_at = max(leaves_at, request.act_at - (self._link.backoff.smoothed or 0.0) / 2)
        return leaves_at

    # ----------------------------------------------------------------------------------------------- receiving

    def receive(self, message: Array, data: bytes, errand: Errand | None, now: float) -> Answer | None:
        """Process a message of the rig; return how the outstanding errand ends by it, if it does."""
        if legacy.has_mark(data, legacy.COORDINATOR_MARK):
            return self._receive_echo(data, errand, now)
        link = self._link
        if message.event == legacy.NULL_MESSAGE:
            self._spoke_at = now
            text, event = message.args
            if errand and errand.received and errand.request.event is event:
                error, _, problem = text.partition(": ")
                return Answer(RemoteError(link.name, error, problem))
            link.events.append(RemoteComplaint(link.name, event, text))
            return None
        if errand and not self._answers(message, errand):
            errand = None
        if not errand and not self._guard.allows(data, now):
            raise RemoteProtocolError("echo loop", "the rig sends the same message over and over")
        link.outbox.append((link.requests, data))
        self._spoke_at, self._held_until = now, -math.inf
        if not errand:
            self._owed.discard(message.event)
            link.events.append(MessageReceived(link.name, message.event, message.args, None, len(data)))
            return None
        self.stop_waiting()
        if errand.tries > 1:
            self.owe(errand)  # the rig may have received several copies, and answer each
        return Answer(message.args, self._estimated_start(errand), message.event)

    def _answers(self, message: Array, errand: Errand) -> bool:
        """Whether a message answers the outstanding request, and not one that was given up.

        iblutil echoes a message before it answers, and its answer to EXPSTART names the experiment. A late answer that
        was taken for the next request's would report a success where the rig did nothing.
        """
        if not errand.received:
            return False
        if message.event is not errand.request.event:
            both_end = {message.event, errand.request.event} <= ENDS
            return both_end and message.event not in self._owed
        if message.event is not ExpMessage.EXPSTART or not message.args:
            return True
        return not name_different(errand.request.message.args[0], message.args[0])

    def _receive_echo(self, data: bytes, errand: Errand | None, now: float) -> Answer | None:
        if data == self._awaited:
            self.stop_waiting()
        else:
            self._link.violations["late echo"] += 1  # of a request that was given up, or a second copy
        if errand is None or data != errand.request.array:
            return None
        errand.next_send = math.inf  # a late echo shows as well that the rig has the request
        errand.echoed_at = errand.echoed_at or now
        errand.confirm_receipt(self._link)
        if errand.request.hands_over_token:
            self._spoke_at = now
            return Answer([], self._estimated_start(errand))
        if errand.request.confirm:  # one of iblutil's verbs, which end with the echo
            self.owe(errand)
            self._held_until = now + VERB_GAP
            return Answer(None)
        return None

    def _estimated_start(self, errand: Errand) -> Start | None:
        # The rig got it between sending and echo, and then runs its callbacks. It says no more about when.
        if errand.echoed_at is None:
            return None
        middle = self._link.stamps.stamp((errand.sent_at + errand.echoed_at) / 2)
        return Start(middle / NANOSECONDS, (errand.echoed_at - errand.sent_at) / 2, is_estimate=True)
