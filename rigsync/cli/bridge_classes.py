"""The classes of bridges, for `rigsync bridge` and `rigsync serve`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from rigsync.errors import ConfigError

BRIDGES = {"lsl": "LslBridge", "mqtt": "MqttBridge", "osc": "OscBridge", "zmq": "ZmqBridge"}
"""The class of each bridge. It is loaded when it is asked for: its library may not be installed."""


def classes_of(names: Iterable[str]) -> dict[str, Any]:
    """Load the classes of bridges; raise a `ConfigError` where a library is not installed."""
    try:
        return {name: getattr(import_module(f"rigsync.bridges.{name}"), BRIDGES[name]) for name in names}
    except ImportError as error:  # its library, or what that needs, is not there
        raise ConfigError(str(error)) from error
