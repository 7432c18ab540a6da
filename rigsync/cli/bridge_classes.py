"""The classes of bridges, for `rigsync bridge` and `rigsync serve`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from keyword import iskeyword
from typing import Any

from rigsync.config.address import without_login
from rigsync.errors import ConfigError

BRIDGES = {"lsl": "LslBridge", "mqtt": "MqttBridge", "osc": "OscBridge", "zmq": "ZmqBridge"}
"""The class of each bridge. It is loaded when it is asked for: its library may not be installed."""


def classes_of(names: Iterable[str]) -> dict[str, Any]:
    """Load the classes of bridges; raise a `ConfigError` where a library is not installed."""
    try:
        return {name: getattr(import_module(f"rigsync.bridges.{name}"), BRIDGES[name]) for name in names}
    except ImportError as error:  # its library, or what that needs, is not there
        raise ConfigError(str(error)) from error


def made(classes: Mapping[str, Any], bridges: Mapping[str, Mapping[str, Any]], lab: Any) -> list[Any]:
    """Make the bridges of a file for a rig or those who command rigs; `classes_of` has loaded their classes."""
    return [
        classes[name](lab, **{f"{key}_" if iskeyword(key) else key: value for key, value in options.items()})
        for name, options in bridges.items()
    ]


def shown(bridges: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the bridges of a file as others may see them: without the password of a broker."""
    found = {name: dict(options) for name, options in bridges.items()}
    if "mqtt" in found:
        found["mqtt"]["broker"] = without_login(found["mqtt"]["broker"])
    return found
