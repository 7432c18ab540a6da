"""rigsync: start, stop and watch every machine of a neuroscience rig together, and hear what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rigsync.auxiliaries import Auxiliaries as Auxiliaries
    from rigsync.config import RigConfig as RigConfig
    from rigsync.config import Rigs as Rigs
    from rigsync.config import Timing as Timing
    from rigsync.config import load_rigs as load_rigs
    from rigsync.errors import Aborted as Aborted
    from rigsync.errors import BusyError as BusyError
    from rigsync.errors import Cancelled as Cancelled
    from rigsync.errors import ConfigError as ConfigError
    from rigsync.errors import ExperimentError as ExperimentError
    from rigsync.errors import Interrupted as Interrupted
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
    from rigsync.errors import UnknownRig as UnknownRig
    from rigsync.errors import UnknownStream as UnknownStream
    from rigsync.errors import WrongRig as WrongRig
    from rigsync.experiment import Experiment as Experiment
    from rigsync.failures import RigFailure as RigFailure
    from rigsync.protocol.board import Progress as Progress
    from rigsync.protocol.clock import ClockEstimate as ClockEstimate
    from rigsync.protocol.events import Start as Start
    from rigsync.protocol.messages import ExpMessage as ExpMessage
    from rigsync.protocol.messages import ExpStatus as ExpStatus
    from rigsync.remote_rig import RemoteRig as RemoteRig
    from rigsync.results import PingReply as PingReply
    from rigsync.results import PushResult as PushResult
    from rigsync.rig import Rig as Rig
    from rigsync.service import RigServices as RigServices

_MODULES = {
    "auxiliaries": ["Auxiliaries"],
    "config": ["RigConfig", "Rigs", "Timing", "load_rigs"],
    "errors": [
        "Aborted",
        "BusyError",
        "Cancelled",
        "ConfigError",
        "ExperimentError",
        "Interrupted",
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
        "UnknownRig",
        "UnknownStream",
        "WrongRig",
    ],
    "experiment": ["Experiment"],
    "failures": ["RigFailure"],
    "protocol.board": ["Progress"],
    "protocol.clock": ["ClockEstimate"],
    "protocol.events": ["Start"],
    "protocol.messages": ["ExpMessage", "ExpStatus"],
    "remote_rig": ["RemoteRig"],
    "results": ["PingReply", "PushResult"],
    "rig": ["Rig"],
    "service": ["RigServices"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `rigsync --help` must not wait for iblutil and NumPy."""
    if name not in _HOME:
        raise AttributeError(f"module 'rigsync' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"rigsync.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
