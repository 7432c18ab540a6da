"""The dependency rule of docs/architecture.md, held to the import statements: an import may only point left."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rigsync"

# From left to right. A package may import those of the rows left of its own; of its own row only itself, but for the
# first, whose modules belong together.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "_text"}),
    frozenset({"core"}),
    frozenset({"hub"}),
    frozenset({"runtime", "config"}),
    frozenset({"net"}),
    frozenset({"journal", "alerts"}),
    frozenset({"coordinator", "rig"}),
    frozenset({"compat", "agent", "doctor", "bridges", "web", "security", "discovery"}),
    frozenset({"cli"}),
    frozenset({"__main__", "events"}),
)
ORDER = " | ".join(", ".join(sorted(layer)) for layer in LAYERS)

TESTING_MAY_IMPORT = frozenset({"errors", "_text", "core", "hub", "config"})
"""`testing` stands beside the layers: what it takes is listed here, and no other module may take it."""

PURE = frozenset({"core", "hub"})
IMPURE = frozenset({"asyncio", "socket", "threading", "time", "select", "selectors", "ssl", "subprocess", "logging"})
"""Standard modules that the pure packages may not have: their time and their bytes come in as arguments."""

LONGEST_MODULE, LONGEST_CLASS = 500, 400
HEAVY = ("socket", "threading", "asyncio", "logging", "ssl", "subprocess", "numpy", "iblutil")
"""Modules that importing the pure packages may not load, be it by way of others."""

AT_THE_SIDE = {
    "iblutil": ("rigsync.compat.iblutil", "rigsync.cli.iblutil_rig"),
    "numpy": (),
    "paho": ("rigsync.net.mqtt_client",),
    "pylsl": ("rigsync.bridges.lsl.library", "rigsync.bridges.lsl.program"),
    "pythonosc": ("rigsync.bridges.osc.codec",),
    "zmq": ("rigsync.bridges.zmq.sockets",),
}
"""What only these modules import, so that a computer can do without it: the side, the demo's rig, the bridges, MQTT."""

INSIDE = {
    "rigsync.agent.keeper": {"ctypes"},  # prctl, of Linux alone; some Pythons are built without ctypes
    "rigsync.cli.keys": {"msvcrt", "termios", "tty"},
}
"""The imports inside functions: modules of one platform."""

BY_NAME = {
    "rigsync": "its public names, which are loaded when they are asked for",
    "rigsync.alerts.alerting": "what sends alerts, only where there are some",
    "rigsync.cli.asked": "what reads the file of rigs, where that names a journal",
    "rigsync.cli.bridge_classes": "the bridge that is asked for, whose library may not be installed",
    "rigsync.cli": "the commands, so that `rigsync --help` does not wait for asyncio, rich and PyYAML",
    "rigsync.cli.following": "rich, where there is a terminal",
    "rigsync.cli.log": "what fetches the journals of rigs, where that is asked for",
    "rigsync.cli.tables": "rich, where there is a terminal",
    "rigsync.net.endpoint": "the lines at brokers, whose library may not be installed",
    "rigsync.journal.recorder": "what the writer's thread makes of events, and a program without a journal never",
    "rigsync.journal.writer": "SQLite, which its thread loads",
    "rigsync.journal.query": "pandas, where a frame is asked for",
    "rigsync.rig.journaling": "what tells a rig's journal, once somebody asks for it",
    "rigsync.compat": "what needs iblutil, once the program has loaded that",
    "rigsync.coordinator.journaling": "what writes reports and metadata, only where they are asked for",
    "rigsync.coordinator.lab": "what reads the file of rigs, only where there is one",
    "rigsync.coordinator.stand_ins": "what finds the class for a rig that is a program, only where there is such a rig",
}
"""The modules that load others by a call, and which."""

EAGER = frozenset({"__future__", "importlib", "typing"})
"""All that `import rigsync` may load at once; the public names are loaded when they are asked for."""

CALLS = frozenset({"import_module", "__import__"})


@dataclass(frozen=True)
class Import:
    """One imported name: ``from module import name``, or ``import module`` where `name` is empty."""

    line: int
    module: str
    name: str = ""

    @property
    def root(self) -> str:
        """The top-level package."""
        return self.module.partition(".")[0]


def module_name(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache  # several tests look at each module
def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Return every import in a module, those within functions and under ``if TYPE_CHECKING`` too."""
    found: list[Import] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                anchor = parents[: len(parents) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            found += (Import(node.lineno, base, alias.name) for alias in node.names)
    return found


def eager_imports(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the imports that run when a module is loaded: not those in functions or under ``if TYPE_CHECKING``."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            type_checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
            blocks = ("orelse",) if type_checking else ("body", "orelse", "finalbody", "handlers")
            for block in blocks:
                pending += getattr(node, block, [])


@functools.cache  # two tests look at each module
def late_imports(source: str) -> frozenset[tuple[int, str]]:
    """Return line and module of each import inside a function; of a call that imports, the call's name."""
    found: list[tuple[int, str]] = []
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        part = pending.pop()
        if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            pending += ast.iter_child_nodes(part)
        else:  # with the functions in it
            for node in ast.walk(part):
                if isinstance(node, ast.Import):
                    found += ((node.lineno, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    found.append((node.lineno, "." * node.level + (node.module or "")))
                elif isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    found += [(node.lineno, name)] if name in CALLS else []
    return frozenset(found)


def lateness(source: str, module: str) -> list[str]:
    """Return what is wrong with the imports inside functions of one module."""
    return [
        f"{module}: line {line}: {name} is imported inside a function; import it at the top, so that what is missing "
        "or goes round in circles is seen at once"
        for line, name in sorted(late_imports(source))
        if name not in INSIDE.get(module, ()) and not (name in CALLS and module in BY_NAME)
    ]


def circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Return modules of which each imports the next, and the last is the first; empty where there are none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        found: list[str] = []
        for target in () if module in done else imports[module]:
            found = found or visit(target, [*way, module])
        done.add(module)
        return found

    return next((found for module in imports if (found := visit(module, []))), [])


def named_by_each() -> dict[str, set[str]]:
    """Return the modules of rigsync that each one imports, for its types too."""
    paths = {module_name(path): path for path in modules()}
    named: dict[str, set[str]] = {}
    for module, path in paths.items():
        named[module] = set()
        for found in imports_of(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
            inner = f"{found.module}.{found.name}"
            named[module].add(inner if inner in paths else found.module)
        named[module] &= paths.keys() - {"rigsync"}  # which loads nothing at once
    return named


def place(top: str) -> int | None:
    """Return the number of a top-level module's layer, None where it has none."""
    return next((number for number, layer in enumerate(LAYERS) if top in layer), None)


def unknown(top: str) -> str:
    return (
        f"rigsync.{top} has no place in the order of imports; give it one in LAYERS of {Path(__file__).name} "
        f"(and in docs/architecture.md) beside what it may import. The order is: {ORDER}"
    )


def own_target(found: Import) -> str | None:
    """Return the top-level module of rigsync that an import takes, '' for rigsync itself, None for anything else."""
    if found.root != "rigsync":
        return None
    _, _, inside = found.module.partition(".")
    return (inside or found.name).partition(".")[0]


def public_names() -> dict[str, str]:
    """Return the top-level module that each public name of rigsync is loaded from when it is asked for."""
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    own = ((own_target(found), found.name) for found in imports_of(source, "rigsync", is_package=True))
    return {name: module for module, name in own if module}


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return what is wrong with the imports of one module."""
    if module == "rigsync":
        return [
            f"rigsync: line {node.lineno}: {ast.unparse(node)} is loaded by every 'import rigsync'; load it lazily"
            for node in eager_imports(ast.parse(source))
            if not (isinstance(node, ast.ImportFrom) and not node.level and node.module in EAGER)
            and not (isinstance(node, ast.Import) and {alias.name for alias in node.names} <= EAGER)
        ]
    top = module.split(".")[1]
    if top != "testing" and place(top) is None:
        return [unknown(top)]
    return [
        f"{module}: line {found.line}: {problem}"
        for found in imports_of(source, module, is_package)
        if (
            problem := _order_problem(top, found)
            or (_purity_problem(top, found) if top in PURE else "")
            or _side_problem(module, found)
        )
    ]


def _order_problem(top: str, found: Import) -> str:
    target = own_target(found)
    if found.module == "rigsync" and place(target or "") is None:
        target = PUBLIC.get(found.name, target)  # a public name is an import of the module that it is loaded from
    if target is None or target in (top, "__version__"):
        return ""
    if target == "testing":
        return "testing is for tests; nothing of the package may depend on it"
    if top == "testing":
        return "" if target in TESTING_MAY_IMPORT else f"testing imports {', '.join(sorted(TESTING_MAY_IMPORT))} only"
    here = place(top)
    assert here is not None
    if target == "":
        all_public = max(place(module) or 0 for module in PUBLIC.values())
        return "" if here > all_public else "'import rigsync' offers what stands to the right; name the module"
    there = place(target)
    if there is None:
        return unknown(target)
    if there < here or here == there == 0:
        return ""
    if there == here:
        return f"{top} imports {target}, which stands beside it; the order is: {ORDER}"
    return f"{top} imports {target}, which is to its right; the order is: {ORDER}"


def _purity_problem(top: str, found: Import) -> str:
    if found.root in IMPURE:
        return f"{top} is pure and imports no {found.root}"
    if found.root == "random" and found.name != "Random":
        return f"{top} gets its random numbers handed in: 'from random import Random', for the type"
    if found.root not in (*sys.stdlib_module_names, "rigsync"):
        return f"{top} has no dependency such as {found.root}"
    return ""


def _side_problem(module: str, found: Import) -> str:
    may = AT_THE_SIDE.get(found.root, (module,))
    return "" if module in may else f"rigsync does without {found.root}; {' and '.join(may) or 'nothing'} may import it"


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


PUBLIC = public_names()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Skip the search for leaks: nothing here opens anything."""


# ------------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_point_left(path: Path) -> None:
    found = violations(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_no_import_stands_inside_a_function(path: Path) -> None:
    found = lateness(path.read_text(encoding="utf-8"), module_name(path))
    assert not found, "\n".join(found)


def test_each_exception_from_that_is_needed() -> None:
    late = {
        (module_name(path), name) for path in modules() for _, name in late_imports(path.read_text(encoding="utf-8"))
    }
    assert {(module, name) for module, names in INSIDE.items() for name in names} <= late
    assert {module for module, name in late if name in CALLS} == BY_NAME.keys()


def test_no_imports_go_round_in_circles() -> None:
    assert " -> ".join(circle(named_by_each())) == ""


def test_every_module_is_found() -> None:
    found = {module_name(path) for path in modules()}
    assert {"rigsync", "rigsync.errors", "rigsync.testing", "rigsync.core.messages"} <= found
    assert len(found) > 20


def test_the_public_names_are_known() -> None:
    assert PUBLIC["Auxiliaries"] == "coordinator"
    assert PUBLIC["ExpMessage"] == "core"
    assert all(place(module) is not None for module in PUBLIC.values())


def test_each_module_has_one_place() -> None:
    assert sum(len(layer) for layer in LAYERS) == len(frozenset().union(*LAYERS))


# ---------------------------------------------------------------------------------------------------- the checker


@pytest.mark.parametrize(
    ("module", "statement", "complaint"),
    [
        ("rigsync.errors", "from rigsync.core.messages import decode", "errors imports core, which is to its right"),
        ("rigsync.core.peer", "import rigsync.net.endpoint", "core imports net"),
        ("rigsync.core.peer", "from rigsync import coordinator", "core imports coordinator"),
        ("rigsync.core.peer", "from .. import coordinator", "core imports coordinator"),
        ("rigsync.core.peer", "from ..runtime.loop_thread import LoopThread", "core imports runtime"),
        ("rigsync.core.peer", "from rigsync.config.rigs import Rigs", "core imports config"),
        (
            "rigsync.config.rigs",
            "from rigsync.runtime import workers",
            "config imports runtime, which stands beside it",
        ),
        ("rigsync.runtime.workers", "from rigsync.net import udp", "runtime imports net"),
        (
            "rigsync.coordinator.service",
            "from rigsync.rig.rig import Rig",
            "coordinator imports rig, which stands beside",
        ),
        ("rigsync.rig.rig", "from ..coordinator.service import RigServices", "rig imports coordinator"),
        ("rigsync.rig.rig", "def f():\n    from rigsync import agent", "rig imports agent"),
        ("rigsync.rig.rig", "if TYPE_CHECKING:\n    import rigsync.cli.push as p", "rig imports cli"),
        ("rigsync.rig.rig", "try:\n    import rigsync.web\nexcept ImportError:\n    pass", "rig imports web"),
        ("rigsync.agent.checks", "from rigsync.cli import main", "agent imports cli"),
        ("rigsync.agent.checks", "from rigsync.doctor import findings", "agent imports doctor, which stands beside it"),
        ("rigsync.cli.push", "from rigsync.testing import SimNetwork", "nothing of the package may depend on it"),
        ("rigsync.rig.rig", "from rigsync import Auxiliaries", "rig imports coordinator"),
        ("rigsync.core.peer", "from rigsync import errors, Rig", "core imports rig"),
        ("rigsync.testing", "from rigsync import Auxiliaries", "testing imports _text, config, core, errors, hub only"),
        ("rigsync.rig.rig", "from rigsync import Laser", "rigsync.Laser has no place"),
        ("rigsync.rig.rig", "import rigsync", "'import rigsync' offers what stands to the right"),
        ("rigsync.rig.rig", "import rigsync.lasers", "rigsync.lasers has no place"),
        ("rigsync.lasers", "import json", "rigsync.lasers has no place in the order of imports; give it one in LAYERS"),
        ("rigsync.lasers.shutter", "", "rigsync.lasers has no place"),
        ("rigsync.testing", "from rigsync.net import udp", "testing imports _text, config, core, errors, hub only"),
        ("rigsync.core.peer", "import asyncio", "imports no asyncio"),
        ("rigsync.core.peer", "import json, socket", "imports no socket"),
        ("rigsync.core.peer", "from threading import Lock", "imports no threading"),
        ("rigsync.core.peer", "from time import monotonic", "imports no time"),
        ("rigsync.core.peer", "import asyncio.events as e", "imports no asyncio"),
        ("rigsync.core.peer", "def f():\n    import time", "imports no time"),
        ("rigsync.core.peer", "import random", "gets its random numbers handed in"),
        ("rigsync.core.peer", "from random import Random, uniform", "gets its random numbers handed in"),
        ("rigsync.core.peer", "from random import *", "gets its random numbers handed in"),
        ("rigsync.core.enums", "from iblutil.io.net.base import ExpStatus", "no dependency such as iblutil"),
        ("rigsync.core.arguments", "import numpy as np", "no dependency such as numpy"),
        ("rigsync.coordinator.service", "from iblutil.io.net import app", "rigsync does without iblutil"),
        ("rigsync.rig.rig", "def f():\n    import iblutil", "rigsync does without iblutil; rigsync.compat.iblutil and"),
        ("rigsync.compat.iblutil", "import numpy", "rigsync does without numpy; nothing may import it"),
        ("rigsync.coordinator.service", "from rigsync.compat import iblutil", "coordinator imports compat"),
        ("rigsync.hub.hub", "import logging", "hub is pure and imports no logging"),
        ("rigsync", "from rigsync.rig import Rig", "load it lazily"),
        ("rigsync", "from .rig import Rig", "load it lazily"),
        ("rigsync", "import inspect", "load it lazily"),
        ("rigsync", "import typing, asyncio", "load it lazily"),
        ("rigsync", "try:\n    import numpy\nexcept ImportError:\n    numpy = None", "load it lazily"),
        ("rigsync", "if TYPE_CHECKING:\n    pass\nelse:\n    import asyncio", "load it lazily"),
        ("rigsync", "class Lazy:\n    import asyncio", "load it lazily"),
    ],
)
def test_a_bad_import_is_found(module: str, statement: str, complaint: str) -> None:
    (found,) = violations(f"from __future__ import annotations\n{statement}\n", module)
    assert complaint in found
    if "no place" not in complaint:
        assert "line " in found


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("def f():\n    import json", "json"),
        ("async def f():\n    if 1:\n        from rigsync.net import udp", "rigsync.net"),
        ("class A:\n    def f(self):\n        from .udp import x", ".udp"),
        ("f = lambda: __import__('json')", "__import__"),
        ("def f():\n    importlib.import_module('json')", "import_module"),
        ("def f():\n    import msvcrt", "msvcrt"),
    ],
)
def test_an_import_inside_a_function_is_found(statement: str, name: str) -> None:
    (found,) = lateness(statement, "rigsync.net.udp")
    assert f": {name} is imported inside a function" in found


def test_an_import_at_the_top_is_let_through() -> None:
    assert lateness("import json\nif 1:\n    import msvcrt\ndef f(): pass", "rigsync.net.endpoint") == []
    assert lateness("def f():\n    import msvcrt", "rigsync.cli.keys") == []


def test_a_circle_is_found() -> None:
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("rigsync.config.files", "from rigsync.errors import ConfigError\nimport rigsync.config.yaml"),
        (
            "rigsync.core.peer",
            "from rigsync.core import events\nfrom . import clock\nfrom ..errors import X",
        ),
        ("rigsync.core.peer", "from random import Random\nimport json, math, re\nfrom collections import deque"),
        ("rigsync.net.endpoint", "import asyncio, socket\nfrom rigsync.core.events import Event"),
        ("rigsync.rig.rig", "from rigsync import __version__\nfrom rigsync.net.udp import x\nimport random, yaml"),
        ("rigsync.rig.rig", "from rigsync import net, errors"),
        (
            "rigsync.cli.push",
            "from rigsync.coordinator.auxiliaries import Auxiliaries\nfrom rigsync.agent import f\nimport click",
        ),
        ("rigsync.testing", "from rigsync.core.outputs import Line\nfrom rigsync.config import rigs\nimport heapq"),
        ("rigsync.cli.push", "import rigsync\nfrom rigsync import Auxiliaries, ConfigError, load_rigs"),
        ("rigsync.agent.agent", "from rigsync import Rig, RigServices, PushError, ExpMessage"),
        ("rigsync", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rigsync.rig import Rig"),
        ("rigsync.compat.iblutil", "from iblutil.io.net import app\nfrom rigsync.coordinator.service import x"),
        ("rigsync", "import typing\nfrom importlib import import_module"),
    ],
)
def test_a_good_import_is_let_through(module: str, statement: str) -> None:
    assert violations(f"from __future__ import annotations\n{statement}\n", module) == []


def test_relative_imports_of_a_package_start_at_the_package() -> None:
    assert violations("from .peer import Line", "rigsync.core", is_package=True) == []
    (found,) = violations("from ..net import x", "rigsync.core", is_package=True)
    assert "core imports net" in found


def test_an_unknown_module_is_told_with_the_order() -> None:
    (found,) = violations("", "rigsync.lasers")
    assert found.endswith(ORDER)


def test_the_pure_packages_load_nothing_that_is_not_pure() -> None:
    """In a fresh interpreter, with an empty package in the place of `rigsync/__init__.py`."""
    names = sorted(module_name(path) for path in modules() if module_name(path).split(".")[1:2] in (["core"], ["hub"]))
    assert len(names) > 20
    script = f"""
import sys, types
package = types.ModuleType("rigsync")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["rigsync"] = package
for name in {names!r}:
    __import__(name)
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout.strip()) == (0, ""), shown.stdout + shown.stderr


def test_importing_rigsync_loads_nothing_of_it_but_itself() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert all(isinstance(node, ast.ImportFrom) and node.module in EAGER for node in eager_imports(tree))


def test_a_module_and_a_class_can_be_held_in_the_head() -> None:
    """At most 500 lines a module, and 400 a class."""
    too_long = []
    for path in modules():
        source = path.read_text(encoding="utf-8")
        if (lines := source.count("\n")) > LONGEST_MODULE:
            too_long.append(f"{path.relative_to(PACKAGE)}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            lines = (node.end_lineno or 0) - node.lineno + 1 if isinstance(node, ast.ClassDef) else 0
            if isinstance(node, ast.ClassDef) and lines > LONGEST_CLASS:
                too_long.append(f"{path.relative_to(PACKAGE)}: the class {node.name}: {lines} lines")
    assert too_long == []
