"""Show what no test would notice: change modules in small ways, one at a time, and run the tests that match.

`python3 run.py mutate [PATH ...] [--seed N] [--number N]`; docs/architecture.md says how to read what it prints. It
works on a copy of the tree, and ends whatever its tests have left running.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
HELD_BY = {
    "core/agenda": ["core/test_responder.py", "core/test_board.py"],
    "core/answers": ["core/test_responder.py"],
    "core/events": ["core/test_peer.py", "core/test_responder.py"],
    "core/legacy_answers": ["core/test_responder.py", "core/test_reach.py"],
    "core/legacy_link": ["core/test_peer.py", "core/test_iblutil_rigs.py"],
    "core/link": ["core/test_peer.py"],
    "core/orders": ["core/test_fanout.py"],
    "core/outputs": ["core/test_peer.py"],
    "core/process": ["core/test_peer.py", "core/test_belief.py"],
    "core/queries": ["core/test_responder.py"],
    "core/recorded": ["agent/test_recorded.py"],
    "core/references": ["core/test_lifecycle.py"],
    "core/requests": ["core/test_peer.py", "core/test_starts.py"],
    "core/rigs": ["test_config.py", "core/test_fanout.py"],
    "core/session_paths": ["agent/test_session_folder.py"],
    "core/timing": ["test_config.py", "core/test_liveness.py"],
    "coordinator/closing": ["test_drop_in.py", "test_coordinator.py"],
    "coordinator/commands": ["test_calls.py"],
    "coordinator/course": ["test_experiment.py", "test_coordinator.py"],
    "coordinator/experiment": ["test_experiment.py", "test_coordinator.py"],
    "coordinator/faces": ["test_compat.py"],
    "coordinator/failures": ["test_experiment.py", "test_drop_in.py"],
    "coordinator/introductions": ["test_experiment.py"],
    "coordinator/journaling": ["journal/test_recording.py"],
    "coordinator/lab": ["test_coordinator.py", "test_mistakes.py"],
    "coordinator/own_queue": ["test_drop_in.py"],
    "coordinator/pings": ["test_auxiliaries.py"],
    "coordinator/push": ["test_coordinator.py"],
    "coordinator/remote_rig": ["test_service.py"],
    "coordinator/rules": ["test_told_once.py", "test_notices.py"],
    "coordinator/service_thread": ["test_auxiliaries.py", "test_unreferenced.py"],
    "coordinator/settling": ["journal/test_recording.py", "journal/test_trouble.py"],
    "coordinator/stand_ins": ["bridges/test_program_rigs.py"],
    "coordinator/view": ["test_service.py", "test_watch.py"],
    "coordinator/ways": ["test_links.py", "test_live_tcp.py"],
    "rig/board": ["test_progress.py"],
    "hub/documents": ["bridges/test_osc_bridge.py"],
    "rig/handlers": ["test_rig.py", "test_commands.py"],
    "rig/journaling": ["journal/test_collecting.py"],
    "rig/rules": ["test_rig.py", "test_rig_closing.py"],
    "rig/session": ["test_rig.py", "test_schedule.py"],
    "rig/telling": ["test_notices.py", "test_rig_closing.py"],
}
"""The test files that were written for a module, where none has its name, or that one is not all, or another's."""
NUMBERS = "tests/test_docs.py"
"""Holds limits and times of every package to the tables of docs/protocol.md."""
MARK = "RIGSYNC_MUTANT"
_PAIRS = [
    *[(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)],
    *[(ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.LShift, ast.RShift), (ast.BitAnd, ast.BitOr)],
]
SWAPPED: dict[type, Any] = dict([*_PAIRS, *[(after, before) for before, after in _PAIRS], (ast.FloorDiv, ast.Mult)])


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    line: int
    change: str
    source: bytes


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return all changes of a module that are still Python."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, text in _changes(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        changed = source[:begin] + text.encode() + source[end:]
        try:
            compile(changed, path, "exec")
        except SyntaxError:
            continue
        shown = [textwrap.shorten(part, 60, placeholder=" ...") for part in (source[begin:end].decode(), text)]
        found.append(Mutant(path, node.lineno, f"{shown[0]} -> {shown[1]}", changed))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.change))


def _changes(parent: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Give what can be changed below a node, each with what is to stand in its place."""
    for name, value in ast.iter_fields(parent):
        if name in ("annotation", "returns", "decorator_list", "format_spec"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, ast.JoinedStr):  # a text for people
                yield from _changes_of(node)
                yield from _changes(node)


def _changes_of(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    match node:
        case ast.Compare(left, [op], [right]) if type(op) in SWAPPED:
            yield node, f"({ast.unparse(ast.Compare(left, [SWAPPED[type(op)]()], [right]))})"
        case ast.BoolOp(op, values):
            yield node, f"({ast.unparse(ast.BoolOp(SWAPPED[type(op)](), values))})"
        case ast.BinOp(left, op, right) if type(op) in SWAPPED and not {type(left), type(right)} & {ast.JoinedStr}:
            yield node, f"({ast.unparse(ast.BinOp(left, SWAPPED[type(op)](), right))})"
        case ast.Constant(bool(value)):
            yield node, repr(not value)
        case ast.Constant(int(value) | float(value)):
            yield node, repr(value + 1)
        case ast.If(ast.Name("TYPE_CHECKING")):
            return
        case ast.If() | ast.While() | ast.IfExp():
            yield node.test, f"(not ({ast.unparse(node.test)}))"
        case ast.Expr(ast.Constant()):
            return  # a docstring
        case ast.Expr() | ast.AugAssign() | ast.Delete() | ast.Raise() | ast.Continue() | ast.Break():
            yield node, "pass"
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield node, "pass"


def matching(path: str, root: Path) -> list[str]:
    """Return the test files that were written for a module, or else the one of the same name."""
    package, stem = Path(path).parts[-2], Path(path).stem
    named = [name for name in (f"{package}/test_{stem}.py", f"test_{stem}.py") if (root / "tests" / name).exists()][:1]
    return [f"tests/{name}" for name in HELD_BY.get(f"{package}/{stem}", named)]


def tests_of(path: str, root: Path) -> tuple[list[str], list[str]]:
    """Return the tests that match a module, and the others of its package."""
    own, package = matching(path, root), Path(path).parts[-2]
    if (folder := root / "tests" / package).is_dir():
        every = [file.relative_to(root).as_posix() for file in folder.glob("test_*.py")]
    else:
        modules = (root / path).parent.glob("*.py")
        every = [name for module in modules for name in matching(module.relative_to(root).as_posix(), root)]
    every.append(NUMBERS)
    return own, sorted({name for name in every if (root / name).exists()} - {*own})


class Bench:
    """A copy of the tree, in which tests are run; `seconds` bound each run."""

    def __init__(self, root: Path, work: Path, seconds: float):
        self.tree, self._seconds = work / "tree", seconds
        self._temporary = work / "temporary"
        self._mark = secrets.token_hex(8)
        self._took: dict[tuple[str, ...], float] = {}
        shutil.copytree(root, self.tree, ignore=shutil.ignore_patterns(".*", "__pycache__"))

    def is_caught(self, mutant: Mutant, tests: list[str]) -> bool:
        """Tell whether some of the tests fail with a change, or take far longer than without it."""
        if not tests:
            return False
        if tuple(tests) not in self._took:
            begin = time.monotonic()
            if self._run(tests, self._seconds):
                raise SystemExit(
                    f"{tests[0]}{' and others' if tests[1:] else ''}: fails without any change, or is slow"
                )
            self._took[tuple(tests)] = time.monotonic() - begin
        path = self.tree / mutant.path
        before = path.read_bytes()
        try:
            path.write_bytes(mutant.source)
            return self._run(tests, min(self._seconds, 30 + 5 * self._took[tuple(tests)])) != 0
        finally:
            path.write_bytes(before)

    def _run(self, tests: list[str], seconds: float) -> int:
        """Return the exit status of pytest, 1 where its time is up; leave nothing running."""
        many = ["--numprocesses", "4", "--dist", "worksteal"] if tests[1:] else []
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={self._temporary}", *many]
        # A .pyc file is known by the second in which its source was written, and by its size: both may be the same.
        environment = {**os.environ, MARK: self._mark, "PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", *options, *tests]
        no = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=self.tree, env=environment, stdin=no, stdout=no, stderr=no)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return 1
        finally:
            self._end_all(process)

    def _end_all(self, process: subprocess.Popen[bytes]) -> None:
        left = [process.pid] if process.poll() is None else []
        left += [child.pid for pid in left for child in psutil.Process(pid).children(recursive=True)]
        for other in psutil.process_iter():
            try:
                if other.pid in left or other.environ().get(MARK) == self._mark:
                    other.kill()
            except (psutil.Error, OSError):
                continue  # it has ended, or is somebody else's
        process.wait()


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Print what becomes of each change; return 1 where no test has noticed one."""
    parser = argparse.ArgumentParser(prog="run.py mutate", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="modules or folders; by default those of the rule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=20, help="how many changes to try")
    parser.add_argument("--seconds", type=float, default=900.0, help="bound of each run of tests")
    parser.add_argument("--quick", action="store_true", help="run the matching tests alone")
    given = parser.parse_args(arguments)
    places = [
        root / path for path in given.paths or [f"rigsync/{name}" for name in ("core", "hub", "coordinator", "rig")]
    ]
    if given.paths and (missing := [str(place) for place in places if not place.exists()]):
        parser.error(f"there is no {missing[0]}")
    files = sorted({file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))})
    every = [mutant for file in files for mutant in mutants(file.relative_to(root).as_posix(), file.read_bytes())]
    chosen = random.Random(given.seed).sample(every, min(given.number, len(every)))
    counts = dict.fromkeys(("caught by its file", "caught by others", "survived"), 0)
    with tempfile.TemporaryDirectory(prefix="mutate-") as work:
        bench = Bench(root, Path(work), given.seconds)
        for mutant in chosen:  # as drawn: whoever stops it early has a fair sample
            groups = tests_of(mutant.path, root)[: 1 if given.quick else 2]
            verdict = next(
                (list(counts)[i] for i, tests in enumerate(groups) if bench.is_caught(mutant, tests)), "survived"
            )
            counts[verdict] += 1
            print(f"{mutant.path}:{mutant.line}: {mutant.change}: {verdict}", flush=True)
    shares = [f"{verdict} {count} ({count / max(1, len(chosen)):.0%})" for verdict, count in counts.items()]
    print(f"{len(chosen)} of {len(every)} changes, seed {given.seed}: {', '.join(shares)}")
    return int(counts["survived"] > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
