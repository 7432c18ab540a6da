"""rigsync: start, stop and watch every machine of a neuroscience rig together, and hear what became of each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rigsync.config.files import load_rigs as load_rigs
    from rigsync.config.rigs import Rigs as Rigs
    from rigsync.coordinator.auxiliaries import Auxiliaries as Auxiliaries
    from rigsync.coordinator.coordinator import Coordinator as Coordinator
    from rigsync.coordinator.experiment import AsyncExperiment as AsyncExperiment
    from rigsync.coordinator.experiment import Experiment as Experiment
    from rigsync.coordinator.failures import RigFailure as RigFailure
    from rigsync.coordinator.push import Call as Call
    from rigsync.coordinator.push import Push as Push
    from rigsync.coordinator.remote_rig import RemoteRig as RemoteRig
    from rigsync.coordinator.results import PingReply as PingReply
    from rigsync.coordinator.results import PushResult as PushResult
    from rigsync.coordinator.service import RigServices as RigServices
    from rigsync.coordinator.view import RigView as RigView
    from rigsync.core.board import Progress as Progress
    from rigsync.core.clock import ClockEstimate as ClockEstimate
    from rigsync.core.enums import ExpMessage as ExpMessage
    from rigsync.core.enums import ExpStatus as ExpStatus
    from rigsync.core.events import Start as Start
    from rigsync.core.rigs import RigConfig as RigConfig
    from rigsync.core.timing import Timing as Timing
    from rigsync.errors import Aborted as Aborted
    from rigsync.errors import BusyError as BusyError
    from rigsync.errors import CallError as CallError
    from rigsync.errors import CallTimeout as CallTimeout
    from rigsync.errors import Cancelled as Cancelled
    from rigsync.errors import ConfigError as ConfigError
    from rigsync.errors import ExperimentError as ExperimentError
    from rigsync.errors import Interrupted as Interrupted
    from rigsync.errors import JournalError as JournalError
    from rigsync.errors import ListenError as ListenError
    from rigsync.errors import LoopBlocked as LoopBlocked
    from rigsync.errors import LoopStuck as LoopStuck
    from rigsync.errors import NotRunning as NotRunning
    from rigsync.errors import NotSupported as NotSupported
    from rigsync.errors import PayloadError as PayloadError
    from rigsync.errors import PayloadTooLarge as PayloadTooLarge
    from rigsync.errors import PushError as PushError
    from rigsync.errors import PushTimeout as PushTimeout
    from rigsync.errors import RemoteError as RemoteError
    from rigsync.errors import RemoteProtocolError as RemoteProtocolError
    from rigsync.errors import RigError as RigError
    from rigsync.errors import RigLost as RigLost
    from rigsync.errors import RigRefused as RigRefused
    from rigsync.errors import RigRestarted as RigRestarted
    from rigsync.errors import RigsMissing as RigsMissing
    from rigsync.errors import RigsyncError as RigsyncError
    from rigsync.errors import RigTimeout as RigTimeout
    from rigsync.errors import UnknownEvent as UnknownEvent
    from rigsync.errors import UnknownRig as UnknownRig
    from rigsync.errors import UnknownStream as UnknownStream
    from rigsync.errors import WrongRig as WrongRig
    from rigsync.hub import events as events
    from rigsync.hub.timers import Timer as Timer
    from rigsync.journal.query import Journal as Journal
    from rigsync.rig.rig import Rig as Rig
    from rigsync.runtime.hub import Hub as Hub

_MODULES = {
    "config.files": ["load_rigs"],
    "config.rigs": ["Rigs"],
    "coordinator.auxiliaries": ["Auxiliaries"],
    "coordinator.coordinator": ["Coordinator"],
    "coordinator.experiment": ["AsyncExperiment", "Experiment"],
    "coordinator.failures": ["RigFailure"],
    "coordinator.push": ["Call", "Push"],
    "coordinator.remote_rig": ["RemoteRig"],
    "coordinator.results": ["PingReply", "PushResult"],
    "coordinator.service": ["RigServices"],
    "coordinator.view": ["RigView"],
    "core.board": ["Progress"],
    "core.clock": ["ClockEstimate"],
    "core.enums": ["ExpMessage", "ExpStatus"],
    "core.events": ["Start"],
    "core.rigs": ["RigConfig"],
    "core.timing": ["Timing"],
    "errors": [
        "Aborted",
        "BusyError",
        "CallError",
        "CallTimeout",
        "Cancelled",
        "ConfigError",
        "ExperimentError",
        "Interrupted",
        "JournalError",
        "ListenError",
        "LoopBlocked",
        "LoopStuck",
        "NotRunning",
        "NotSupported",
        "PayloadError",
        "PayloadTooLarge",
        "PushError",
        "PushTimeout",
        "RemoteError",
        "RemoteProtocolError",
        "RigError",
        "RigLost",
        "RigRefused",
        "RigRestarted",
        "RigTimeout",
        "RigsMissing",
        "RigsyncError",
        "UnknownEvent",
        "UnknownRig",
        "UnknownStream",
        "WrongRig",
    ],
    "hub": ["events"],
    "hub.timers": ["Timer"],
    "journal.query": ["Journal"],
    "rig.rig": ["Rig"],
    "runtime.hub": ["Hub"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `rigsync --help` must not wait for asyncio."""
    if name not in _HOME:
        raise AttributeError(f"module 'rigsync' has no attribute {name!r}")
    value = getattr(import_module(f"rigsync.{_HOME[name]}"), name)
    if _HOME[name].startswith("coordinator."):
        import_module("rigsync.compat")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
