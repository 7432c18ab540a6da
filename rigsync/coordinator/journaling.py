"""What the journal is told of a coordinator, beside what its hub tells."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rigsync.config.journal import Journal, chosen_journal
from rigsync.config.rigs import Rigs
from rigsync.coordinator.service import RigServices
from rigsync.coordinator.view import RigView
from rigsync.core.enums import ExpStatus
from rigsync.core.events import CoordinatorClosed, CoordinatorOpened
from rigsync.journal.recorder import COORDINATOR, Recorder, Subject
from rigsync.runtime.hub import Hub

if TYPE_CHECKING:
    from rigsync.journal.report.background import SessionReports

logger = logging.getLogger("rigsync.report")


def recorder_of(hub: Hub, rigs: Rigs, journal: Journal, services: Callable[[], RigServices]) -> Recorder | None:
    """Return the recorder of a coordinator's hub, if it is to have one; it records while the coordinator is open."""
    settings = chosen_journal(journal, rigs.journal)
    if settings is None:
        return None

    def samples() -> dict[str, dict[str, Any]]:
        return {rig: sample_of(view) for rig, view in services().views().items()}

    def about() -> dict[str, Any]:
        return {"rigs": {name: str(rig.address) for name, rig in rigs.rigs.items()}}

    def reference(names: Iterable[str]) -> str | None:
        # This is asked some time after the message, when a rig may have ended already.
        return reference_at(services(), names, ExpStatus.INITIALIZED, ExpStatus.RUNNING, ExpStatus.STOPPED)

    files = [] if rigs.source is None else [rigs.source]
    recorder = Recorder(
        hub, settings, Subject(COORDINATOR, "", files, lambda: services().clock, about, samples, reference)
    )
    hub.rule(CoordinatorOpened, lambda _: recorder.begin())
    hub.rule(CoordinatorClosed, lambda _: recorder.end(), last=True)
    return recorder


def going_on_at(services: RigServices, names: Iterable[str]) -> str | None:
    """Return which experiment goes on at some rigs, as they say; None for none."""
    return reference_at(services, names, ExpStatus.INITIALIZED, ExpStatus.RUNNING)


def reference_at(services: RigServices, names: Iterable[str], *states: ExpStatus) -> str | None:
    """Return which experiment some rigs in one of these states name; None for none."""
    known = services.views()
    going = [view for rig in names if (view := known.get(rig)) and view.status in states]
    counted = Counter(view.exp_ref for view in going if view.exp_ref is not None)
    return counted.most_common(1)[0][0] if counted else None


def reports_of(hub: Hub, rigs: Rigs, recorder: Recorder | None) -> SessionReports | None:
    """Return what writes a report, or metadata, at each session's end, if the file of rigs asks for it.

    It needs the journal.
    """
    if rigs.report is None and rigs.metadata is None:
        return None
    if recorder is None:
        for what, folder in (("report", rigs.report), ("metadata", rigs.metadata)):
            if folder is not None:
                text = "%s: no %s is written, since there is no journal; leave out journal: off"
                logger.warning(text, folder, what)
        return None
    made: SessionReports = import_module("rigsync.journal.report.background").SessionReports(
        hub, recorder, rigs.report, rigs.metadata
    )
    return made


def sample_of(view: RigView) -> dict[str, Any]:
    """Return how the link to a rig is, for a record; times in seconds."""
    clock = view.clock
    return {
        "link": view.link.value,
        "dialect": view.dialect,
        "status": None if view.status is None else view.status.name,
        "exp_ref": view.exp_ref,
        "owner": view.owner,
        "round_trip": None if view.round_trip is None else round(view.round_trip, 6),
        "loss": None if view.loss is None else round(view.loss, 3),
        "clock": clock and {name: round(value, 9) for name, value in dataclasses.asdict(clock).items()},
        "failures": dict(view.failures),
        "version": view.version,
    }
