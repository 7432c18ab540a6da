"""What the log of a coordinator tells of events: a rule for each kind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from rigsync._text import line_for_each, one_line, since_text
from rigsync.coordinator.results import still_running, unconfirmed_of
from rigsync.core.enums import ExpMessage
from rigsync.core.events import (
    LinkChanged,
    LinkState,
    Notice,
    PushCompleted,
    PushDecided,
    RemoteComplaint,
    StoodStill,
    ViolationSeen,
)
from rigsync.core.health import age_in
from rigsync.core.messages import Command, Verb
from rigsync.core.notices import FAILURE
from rigsync.core.peer import Peer
from rigsync.core.throttle import ALL_TOLD_EACH_MINUTE, TOLD_EACH_MINUTE, Ration
from rigsync.errors import ENDED_BADLY, Interrupted, RemoteError, RigError
from rigsync.runtime.hub import Hub

logger = logging.getLogger("rigsync.service")
push_logger = logging.getLogger("rigsync.push")
link_logger = logging.getLogger("rigsync.link")
_TO_LOOK_AT = (ExpMessage.EXPSTART, ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT)
"""Messages after which somebody has to look whether they were done, if nobody confirms them."""

notice_logger = logging.getLogger("rigsync.notice")


class LogRules:
    """Logs what people at a rig have to know; failed pushes after everybody has heard of them."""

    def __init__(self, hub: Hub, peer: Callable[[str], Peer | None]):
        self._peer = peer
        self._complained: set[tuple[str, ExpMessage]] = set()
        self._decided: set[float] = set()
        self._failures: dict[str, str] = {}
        """The last failure that each rig has told."""
        self._ends: dict[str, str] = {}
        """Why each rig has last stopped by itself, as it is in the log."""
        self._refusals: Ration[tuple[str, str, str]] = Ration(60.0, TOLD_EACH_MINUTE, ALL_TOLD_EACH_MINUTE)
        hub.rule(LinkChanged, self._log_link)
        hub.rule(Notice, self._log_notice)
        hub.rule(RemoteComplaint, self._log_complaint)
        hub.rule(StoodStill, self._log_standstill)
        hub.rule(ViolationSeen, self._log_violation)
        hub.rule(PushDecided, lambda event: self._decided.add(event.request_time))

    def _log_link(self, event: LinkChanged) -> None:
        peer = self._peer(event.rig)
        end = peer and peer.why_ended
        is_known = bool(end) and self._ends.get(event.rig) == one_line(end or "")  # that it is gone, and why
        is_bad = event.after in (LinkState.LOST, LinkState.SUSPECT)
        level = logging.WARNING if is_bad and not is_known else logging.INFO
        link_logger.log(level, "%s is %s: %s", event.rig, event.after.value, one_line(event.reason))

    def _log_notice(self, event: Notice) -> None:
        body = event.body if isinstance(event.body, dict) else {}
        if event.topic == "status" and body.get("reason"):
            reason = self._ends[event.rig] = one_line(str(body["reason"]))
            if self._failures.pop(event.rig, None) != reason:  # why it has stopped may be what it has just told
                notice_logger.warning("%s does not record any more: %s%s", event.rig, reason, _since(event))
        elif event.topic == FAILURE:
            self._failures[event.rig] = one_line(str(body.get("problem") or event.body))
            notice_logger.error("%s: %s%s", event.rig, self._failures[event.rig], _since(event))
        elif event.topic == "log" and body.get("error"):  # told to the coordinators that have not sent the message
            told = f"{body.get('message')} from {body.get('from')} failed: {body['error']}"
            # A rig of the version before tells each refusal of whoever reaches its port.
            sort = event.rig, str(body.get("from")).rpartition(":")[0], str(body["error"]).partition(":")[0]
            is_told = self._refusals.allows(sort, time.monotonic())
            level = logging.WARNING if is_told else logging.DEBUG
            notice_logger.log(level, "%s: %s", event.rig, one_line(told))

    def _log_complaint(self, event: RemoteComplaint) -> None:
        # One line for each rig and message: a rig whose callback fails may say so for every datagram.
        level = logging.DEBUG if (event.rig, event.event) in self._complained else logging.ERROR
        self._complained.add((event.rig, event.event))
        text = one_line(event.text)
        logger.log(level, "%s: its callback for %s failed: %s", event.rig, event.event.name, text)

    def _log_standstill(self, event: StoodStill) -> None:
        logger.warning(
            "this program stood still for %.1f s, in which it heard no rig: it was stopped, its computer slept, "
            "or one of its callbacks, or other code, held up all threads",
            event.seconds,
        )

    def _log_violation(self, event: ViolationSeen) -> None:
        logger.warning("%s: %s (further ones are counted, not logged)", event.source, one_line(event.problem))

    def log_failures(self, event: PushCompleted, raised: Collection[str]) -> None:
        """Log what has failed, and what nobody confirms, a line for each reason.

        The failures of the rigs in `raised` are raised, so the log has them only at the level INFO.
        """
        unsure = {} if isinstance(event.event, Command) else unconfirmed_of(event.answers)
        for line in line_for_each(unsure):
            level = logging.WARNING if event.event in _TO_LOOK_AT else logging.INFO
            notice_logger.log(level, "%s: %s; look there whether it is done", event.event.name, one_line(line))
        if event.event in (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT):
            for line in line_for_each(still_running(event.answers)):
                push_logger.warning("%s: %s", event.event.name, one_line(line))
        is_decided = event.request_time in self._decided
        self._decided.discard(event.request_time)
        if not event.failures:
            return
        news: dict[str, str] = {}
        known: dict[str, str] = {}
        for rig, error in event.failures.items():
            is_called_off = is_decided and isinstance(error, Interrupted)
            # Who calls it off knows, and why. So does who has read why the rig has stopped, and then sends EXPEND.
            is_known = rig in raised or is_called_off or self._has_told(rig, error)
            if not is_known and isinstance(event.event, Command):  # of which thousands may fail at once
                is_known = not self._allows(rig, event.event.name, type(error).__name__)
            (known if is_known else news)[rig] = error.problem
        for level, told in ((logging.ERROR, news), (logging.INFO, known)):
            for line in line_for_each(told):
                push_logger.log(level, "%s: %s", event.event.name, one_line(line))

    def level_of_wait(self, event: Verb, rigs: Sequence[str]) -> int:
        """Return at which level the log tells that somebody waits for rigs. Thousands of calls may be waited for."""
        is_told = not isinstance(event, Command) or self._allows(rigs[0], event.name, "")
        return logging.WARNING if is_told else logging.DEBUG

    def _allows(self, rig: str, command: str, what: str) -> bool:
        """Return whether the log tells what has become of a command, once more."""
        return self._refusals.allows((rig, command, what), time.monotonic())

    def _has_told(self, rig: str, error: RigError) -> bool:
        if not isinstance(error, RemoteError) or error.error != ENDED_BADLY:
            return False
        return one_line(error.message) == self._ends.get(rig)


def _since(event: Notice) -> str:
    """Return when something was told first, where this program was not there to hear it."""
    return since_text(age_in(event.body), time.time())
