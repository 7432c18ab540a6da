"""`run.py mutate`: on a tree of its own, with a module and tests that are small."""

from __future__ import annotations

import importlib.util
import random
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import until

ROOT = Path(__file__).resolve().parents[1]

TOY = """
from __future__ import annotations

LIMIT: int = 3


def is_over(number: int, strict: bool = True) -> bool:
    \"\"\"Say 1 of 2.\"\"\"
    if strict and number > LIMIT:
        return f"{number + 1}" != ""
    return False


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def up(self) -> None:
        self.count += 1
        print("up")
"""
TESTS = """
from rigsync.core.toy import Counter, is_over

def test_is_over():
    assert is_over(5) and not is_over(3) and not is_over(5, False)

def test_counter():
    counter = Counter()
    counter.up()
    assert counter.count == 1
"""
FOLDER = """
from rigsync.core.toy import is_over

def test_the_limit():
    assert is_over(4)
"""


def load() -> Any:
    spec = importlib.util.spec_from_file_location("mutate", ROOT / "tools" / "mutate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module  # where its dataclass looks for its types
    spec.loader.exec_module(module)
    return module


mutate = load()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # of which these tests need none
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # options of plugins, perhaps

    def write(toy: str = TOY, tests: str = TESTS, folder: str = FOLDER) -> Path:
        root = tmp_path / "project"
        files = {
            "rigsync/__init__.py": "",
            "rigsync/core/__init__.py": "",
            "rigsync/core/toy.py": toy,
            "tests/core/test_toy.py": tests,
            "tests/core/test_all.py": folder,
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(textwrap.dedent(text))
        return root

    return write


def content(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_is_changed_and_what_not() -> None:
    found = [(one.line, one.change) for one in mutate.mutants("toy.py", TOY.encode())]
    assert found == [
        (4, "3 -> 4"),
        (7, "True -> False"),
        (9, "number > LIMIT -> (number >= LIMIT)"),
        (9, "strict and number > LIMIT -> (not (strict and number > LIMIT))"),
        (9, "strict and number > LIMIT -> (strict or number > LIMIT)"),
        (10, """f"{number + 1}" != "" -> (f'{number + 1}' == '')"""),
        (11, "False -> True"),
        (16, "0 -> 1"),
        (16, "self.count = 0 -> pass"),
        (19, "1 -> 2"),
        (19, "self.count += 1 -> pass"),
        (20, 'print("up") -> pass'),
    ]


def test_characters_of_several_bytes_are_no_hindrance() -> None:
    source = 'was = ["é", 1 < 2, "ü"]\n'.encode()
    changed = {one.source.decode() for one in mutate.mutants("toy.py", source)}
    assert 'was = ["é", (1 <= 2), "ü"]\n' in changed


def test_each_change_is_told_with_who_has_caught_it(
    tree: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree()
    before = content(root)
    assert mutate.main(["rigsync/core/toy.py", "--number", "100"], root) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 13
    assert "rigsync/core/toy.py:9: number > LIMIT -> (number >= LIMIT): caught by its file" in told
    assert "rigsync/core/toy.py:4: 3 -> 4: caught by others" in told
    assert 'rigsync/core/toy.py:20: print("up") -> pass: survived' in told
    assert told[-1] == "12 of 12 changes, seed 0: caught by its file 10 (83%), caught by others 1 (8%), survived 1 (8%)"
    assert content(root) == before


def test_the_same_seed_chooses_the_same(
    tree: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate.Bench, "is_caught", lambda *_: False)
    root = tree()
    told = []
    for seed in ("1", "1", "2"):
        mutate.main(["rigsync", "--number", "2", "--seed", seed, "--quick"], root)
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]


def test_what_hangs_is_caught_by_time_and_leaves_nothing_running(tree: Callable[..., Path], tmp_path: Path) -> None:
    source = "def wait():\n    return True\n"
    pid = tmp_path / "pid"
    tests = f"""
    import pathlib, subprocess, sys, time
    from rigsync.core.toy import wait

    def test_wait():
        if not wait():
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
            pathlib.Path({str(pid)!r}).write_text(str(child.pid))
            time.sleep(1000)
    """
    root = tree(source, tests)
    (mutant,) = mutate.mutants("rigsync/core/toy.py", source.encode())
    bench = mutate.Bench(root, tmp_path / "work", 20.0)
    assert bench.is_caught(mutant, ["tests/core/test_toy.py"])
    child = int(pid.read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_tests_that_fail_anyway_say_nothing_of_a_change(tree: Callable[..., Path]) -> None:
    root = tree(tests="def test_it():\n    assert False\n")
    with pytest.raises(SystemExit, match=r"test_toy\.py: fails without any change"):
        mutate.main(["rigsync", "--number", "1"], root)


def test_a_path_that_is_not_there_is_refused(tree: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = tree()
    with pytest.raises(SystemExit):
        mutate.main(["rigsync/core/top.py"], root)
    assert f"there is no {root / 'rigsync' / 'core' / 'top.py'}" in capsys.readouterr().err


def test_changes_are_tried_in_the_order_drawn_so_that_a_part_is_a_fair_sample(
    tree: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate.Bench, "is_caught", lambda *_: False)
    root = tree()
    mutate.main(["rigsync", "--number", "12", "--seed", "1", "--quick"], root)
    told = capsys.readouterr().out.splitlines()[:-1]
    drawn = random.Random(1).sample(mutate.mutants("rigsync/core/toy.py", TOY.encode()), 12)
    assert told == [f"{one.path}:{one.line}: {one.change}: survived" for one in drawn]


@pytest.mark.parametrize(
    ("path", "matching"),
    [
        ("rigsync/core/board.py", ["tests/core/test_board.py"]),
        ("rigsync/core/requests.py", ["tests/core/test_peer.py", "tests/core/test_starts.py"]),
        ("rigsync/coordinator/results.py", ["tests/test_results.py"]),
        ("rigsync/coordinator/ways.py", ["tests/test_links.py", "tests/test_live_tcp.py"]),
        ("rigsync/rig/board.py", ["tests/test_progress.py"]),
        ("rigsync/coordinator/commands.py", ["tests/test_calls.py"]),  # test_commands.py is about those of rigs
    ],
)
def test_which_tests_match_a_module(path: str, matching: list[str]) -> None:
    found, others = mutate.tests_of(path, ROOT)
    assert found == matching
    assert others
    assert not set(found) & set(others)


def test_the_others_of_a_package_without_a_folder_of_tests_are_those_that_match_its_other_modules() -> None:
    _, others = mutate.tests_of("rigsync/rig/rig.py", ROOT)
    names = ("calls", "commands", "docs", "notices", "progress", "rehearsal", "rig_closing", "schedule")
    assert others == ["tests/journal/test_collecting.py", *(f"tests/test_{name}.py" for name in names)]


def test_every_module_of_the_rule_has_tests_that_match_it() -> None:
    modules = [
        f"{name}/{file.stem}"
        for name in ("core", "hub", "coordinator", "rig")
        for file in (ROOT / "rigsync" / name).glob("*.py")
        if file.stem != "__init__"
    ]
    assert [module for module in modules if not mutate.matching(f"rigsync/{module}.py", ROOT)] == []
    assert set(mutate.HELD_BY) <= set(modules)
    assert max(len(names) for names in mutate.HELD_BY.values()) == 2
    for module, names in mutate.HELD_BY.items():
        assert mutate.matching(f"rigsync/{module}.py", ROOT) == [f"tests/{name}" for name in names]
        assert all((ROOT / "tests" / name).exists() for name in names)
