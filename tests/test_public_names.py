"""The names that `import rigsync` promises, and what it costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import rigsync

ROOT = pathlib.Path(__file__).parents[1]

PROMISED = {
    *("Coordinator", "Push", "Call", "CallError", "CallTimeout", "AsyncExperiment"),
    *("Auxiliaries", "Rig", "RigServices", "RemoteRig", "RigView"),
    *("RigConfig", "Rigs", "Timing", "load_rigs"),
    *("ExpMessage", "ExpStatus", "PushResult", "PingReply"),
    *("RigsyncError", "ConfigError", "PayloadError", "PayloadTooLarge", "UnknownRig", "ListenError"),
    "JournalError",
    *("NotRunning", "LoopBlocked", "LoopStuck", "RemoteProtocolError"),
    *("RigError", "RigTimeout", "RigRefused", "RigLost", "Interrupted", "Aborted", "RemoteError"),
    *("NotSupported", "WrongRig"),
    *("PushError", "PushTimeout"),
    *("BusyError", "Cancelled", "RigRestarted", "RigsMissing", "ClockEstimate", "Start"),
    *("Experiment", "ExperimentError", "RigFailure"),
    *("Progress", "UnknownStream"),
    *("Hub", "Timer", "events", "UnknownEvent", "Journal"),
}


def test_names() -> None:
    assert set(rigsync.__all__) == PROMISED
    assert list(rigsync.__all__) == sorted(rigsync.__all__)
    assert set(dir(rigsync)) >= PROMISED | {"__version__"}


@pytest.mark.parametrize("name", sorted(PROMISED - {"events"}))
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(rigsync, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert getattr(rigsync, name) is value
    module = value.__module__
    assert module.startswith(("rigsync.", "iblutil."))
    assert getattr(importlib.import_module(module), name) is value


def test_events_are_public_and_documented_and_none_has_the_name_of_an_error() -> None:
    events, errors = rigsync.events, importlib.import_module("rigsync.errors")
    kinds = {name for name, value in vars(events).items() if inspect.isclass(value) and issubclass(value, events.Event)}
    own = {
        name
        for name, value in vars(events).items()
        if not name.startswith("_") and (name.isupper() or getattr(value, "__module__", "").endswith(".events"))
    }
    assert set(events.__all__) == own
    assert own > kinds
    assert [name for name in own if not name.isupper() and not inspect.getdoc(getattr(events, name))] == []
    core = importlib.import_module("rigsync.core.events")
    assert {kind.__name__ for kind in core.Event.__subclasses__() if kind.__module__ == core.__name__} <= kinds
    assert [name for name in kinds if hasattr(errors, name)] == []


def test_events_are_a_module_that_can_be_imported() -> None:
    code = """if True:
        from rigsync.events import LinkLost, define
        import rigsync, rigsync.events as events, rigsync.hub.events as home
        assert events.LinkLost is LinkLost is rigsync.events.LinkLost is home.LinkLost
        assert events.__all__ is home.__all__
        define("Lick", 1001)
        print(list(home.KINDS) == list(events.KINDS), set(home.__all__) <= set(dir(events)))
    """
    assert python(code) == "True True"


def test_every_exception_is_public() -> None:
    errors = importlib.import_module("rigsync.errors")
    assert {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__ and not name.startswith("_")
    } <= PROMISED


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(pathlib.Path(rigsync.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        (str(node.module), alias.name, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {(f"rigsync.{rigsync._HOME[name]}", name, name) for name in PROMISED}


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'rigsync' has no attribute 'nothing'"):
        _ = rigsync.nothing
    with pytest.raises(ImportError):
        from rigsync import nothing  # noqa: F401


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z0-9.+]*)", rigsync.__version__)


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_import_costs_nothing_until_a_name_is_used() -> None:
    code = """if True:
        import sys, rigsync
        rigsync.__version__, rigsync.__all__, dir(rigsync)
        heavy = {"iblutil", "numpy", "asyncio", "yaml", "rich"}
        print(sorted(heavy & set(sys.modules)), "rigsync.errors" in sys.modules)
        rigsync.PushError
        print(sorted(heavy & set(sys.modules)), "rigsync.errors" in sys.modules)
        """
    assert python(code).splitlines() == ["[] False", "[] True"]


def test_star_import() -> None:
    names = python("from rigsync import *; print(*sorted(n for n in dir() if not n.startswith('_')))")
    assert set(names.split()) == PROMISED
