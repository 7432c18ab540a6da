"""Set up what is needed, then run it: `python3 run.py demo` or `python3 run.py test`; needs nothing but Python.

Everything goes into a virtual environment beside this file, one for each version of Python.
Further arguments are passed on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Six at a time on any computer: many tests wait for other processes and for time to pass. More would only be in each
# other's way, since two cores are busy then.
PYTEST = ["-m", "pytest", "--numprocesses", "6", "--dist", "worksteal"]
DRIVES_NO_IBLUTIL = [
    "tests/core/test_iblutil_rigs.py",
    "tests/core/test_legacy.py",
    "tests/agent/test_agent.py",
    "tests/test_auxiliaries.py",
    "tests/test_cli.py",
    "tests/test_experiment.py",
    "tests/test_rig.py",
    "tests/test_service.py",
    "tests/test_without_iblutil.py",
]
"""Tests of rig, agent, facade, commands, both dialects; those of them that drive a real iblutil peer are skipped."""
ROOM_OF_TESTS = 2 << 30
"""Bytes: more than the files of all tests take together."""
APART = {"lowest", "bare"}
"""Tasks with an environment of their own."""
NOT_BARE = {"iblutil", "ipykernel", "mypy", "paho-mqtt", "pylsl", "python-osc", "pyzmq", "ruff", "types-PyYAML"}
TASKS = {
    "demo": ["-m", "rigsync", "demo"],
    "test": PYTEST,
    "lowest": PYTEST,  # with the oldest releases of the dependencies that pyproject.toml admits
    "bare": [*PYTEST, *DRIVES_NO_IBLUTIL],  # without iblutil, as docs/install.md says
    "lint": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "mypy"],
    "benchmark": ["-m", "benchmarks"],
    "mutate": ["tools/mutate.py"],
}


def folder_of(kind: str) -> Path:
    """Return where a virtual environment of the project is: the one that is named by its task, or the usual one."""
    return HERE / f".venv-{sys.version_info[0]}.{sys.version_info[1]}{f'-{kind}' if kind in APART else ''}"


def environment(kind: str) -> Path:
    """Return the Python of a virtual environment of the project, which is made and filled where it is out of date."""
    folder = folder_of(kind)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / "installed"
    project = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    wanted = project + str(HERE)
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        print(f"setting up {folder.name} (once; a few minutes at most)", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if kind == "bare":
            run_quietly([*install, "--no-deps", "-e", str(HERE)])
            named = listed(project, "dependencies") + listed(project, "dev")
            run_quietly([*install, *(f"{name}>={version}" for name, version in named if name not in NOT_BARE)])
        else:
            run_quietly([*install, "-e", f"{HERE}[dev]", *(lower_bounds(project) if kind == "lowest" else [])])
        done.write_text(wanted, encoding="utf-8")
    return python


def lower_bounds(project: str) -> list[str]:
    """Return the dependencies in the text of pyproject.toml, each in the oldest release that it admits."""
    return [f"{name}=={version}" for name, version in listed(project, "dependencies")]


def listed(project: str, key: str) -> list[tuple[str, str]]:
    """Return the packages in a list of pyproject.toml, each with its oldest release; 0 where any will do."""
    found = re.search(rf"^{key} = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    packages = re.findall(r'"([\w-]+)(?:>=([\d.]+))?"', found[1] if found else "")
    return [(name, version or "0") for name, version in packages]


def compile_tests(python: Path, environ: dict[str, str]) -> None:
    """Have pytest compile all tests, where it never has: else each of the processes that run them does so itself."""
    compiled = f"conftest.{sys.implementation.cache_tag}-pytest-*"
    if not any((HERE / "tests" / "__pycache__").glob(compiled)):
        print("compiling the tests (once)", file=sys.stderr, flush=True)
        collect = [str(python), "-m", "pytest", "--collect-only", "--quiet"]
        halves = ("--ignore-glob=*/tests/test_*", "--ignore-glob=*/tests/*/test_*")  # for two cores
        running = [
            subprocess.Popen([*collect, half], cwd=HERE, env=environ, stdout=subprocess.DEVNULL) for half in halves
        ]
        for process in running:
            process.wait()


def in_memory() -> dict[str, str]:
    """Return the variable that has pytest keep the files of tests in memory, where the computer offers that.

    A drive that is busy takes no record for seconds, while packages are installed for example. The journal then tells
    so, as it has to, and what tests ask of it does not hold.
    """
    folder = Path("/dev/shm")  # noqa: S108 - pytest makes a folder there that nobody else may enter
    try:
        is_roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > ROOM_OF_TESTS
    except OSError:
        is_roomy = False
    return {"PYTEST_DEBUG_TEMPROOT": str(folder)} if is_roomy else {}


def sizes() -> str:
    """Return how much the environment without iblutil takes, and the usual one where it is there."""
    told = []
    for kind, what in (("bare", "without iblutil"), ("", "with iblutil")):
        for folder in folder_of(kind).rglob("site-packages"):
            size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
            told.append(f"{size / 1e6:.0f} MB {what}")
    return f"site-packages, tools of the tests included: {', '.join(told)}"


def run_quietly(command: list[str]) -> None:
    """Run a command, and show what it says only where it fails: pip warns of much that is of no account here."""
    try:
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        print(error.output.decode(errors="replace"), file=sys.stderr)
        raise


def main(arguments: list[str]) -> int:
    """Run one task; return its exit status."""
    if not arguments or arguments[0] not in TASKS:
        print(f"usage: python3 run.py {'|'.join(TASKS)} [ARGUMENT ...]", file=sys.stderr)
        return 2
    if sys.version_info < (3, 10):
        print(f"rigsync needs Python 3.10 or later, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    try:
        python = environment(arguments[0])
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"setting up failed: {error}\nIf the module ensurepip is missing, install it (Debian: python3-venv); "
            "if packages could not be fetched, look at the network",
            file=sys.stderr,
        )
        return 1
    if arguments[0] == "bare":
        print(sizes(), flush=True)
    # With this variable each of the hundreds of programs that the tests start would compile rigsync anew, which takes
    # longer than what they do.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    task = TASKS[arguments[0]]
    try:
        if task[: len(PYTEST)] == PYTEST:
            compile_tests(python, environ)
            environ = {**in_memory(), **environ}
        return subprocess.call([str(python), *task, *arguments[1:]], cwd=HERE, env=environ)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
