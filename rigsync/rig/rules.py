"""What the log of a rig tells of events: a rule for each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rigsync._text import one_line
from rigsync.core.events import (
    EchoMissing,
    Event,
    HandlerOvertaken,
    LeaseExpired,
    NoticesDropped,
    StatusChanged,
    ViolationSeen,
)

logger = logging.getLogger("rigsync.rig")


def log_rules(rig: str) -> list[tuple[type[Event], Callable[[Any], object]]]:
    """Return the kinds of events of a rig that are logged, and by what."""

    def overtaken(event: HandlerOvertaken) -> None:
        logger.warning("%s: EXPINTERRUPT overtakes the handler of %s", rig, event.event.name)

    def status(event: StatusChanged) -> None:
        reference = one_line(event.exp_ref or "no experiment")
        logger.info("%s: %s, was %s (%s)", rig, event.after.name, event.before.name, reference)

    def lease(event: LeaseExpired) -> None:
        logger.error("%s: interrupts: %s", rig, one_line(event.reason))

    def dropped(event: NoticesDropped) -> None:
        if event.is_gone:
            logger.info("%s: %s misses notices: %s", rig, event.source, event.reason)
        else:
            logger.warning("%s: %s does not get every notice: %s", rig, event.source, event.reason)

    def echo(event: EchoMissing) -> None:
        text = "%s: %s did not confirm the answer to %s: it may have ended; going on"
        logger.warning(text, rig, event.source, event.event.name)

    def violation(event: ViolationSeen) -> None:
        logger.warning("%s: %s sent %s (counted from now on)", rig, event.source, one_line(event.problem))

    return [
        (HandlerOvertaken, overtaken),
        (StatusChanged, status),
        (LeaseExpired, lease),
        (NoticesDropped, dropped),
        (EchoMissing, echo),
        (ViolationSeen, violation),
    ]
