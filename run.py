"""Set up what is needed, then run it: `python3 run.py demo` or `python3 run.py test`; needs nothing but Python.

Everything goes into a virtual environment beside this file, one for each version of Python.
Further arguments are passed on.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Four at a time on any computer: most tests wait for other processes and for time to pass.
PYTEST = ["-m", "pytest", "--numprocesses", "4", "--dist", "worksteal"]
TASKS = {
    "demo": ["-m", "rigsync", "demo"],
    "test": PYTEST,
    "lowest": PYTEST,  # with the oldest releases of the dependencies that pyproject.toml admits
    "lint": ["-m", "ruff", "check", "."],
    "format": ["-m", "ruff", "format", "--check", "."],
    "types": ["-m", "mypy"],
    "benchmark": ["-m", "benchmarks"],
    "mutate": ["tools/mutate.py"],
}


def environment(lowest: bool) -> Path:
    """Return the Python of the project's virtual environment, which is made and filled where it is out of date."""
    folder = HERE / f".venv-{sys.version_info[0]}.{sys.version_info[1]}{'-lowest' if lowest else ''}"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / "installed"
    project = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    wanted = project + str(HERE)
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        print(f"setting up {folder.name} (once; a few minutes at most)", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", f"{HERE}[dev]"]
        run_quietly([*install, *(lower_bounds(project) if lowest else [])])
        done.write_text(wanted, encoding="utf-8")
    return python


def lower_bounds(project: str) -> list[str]:
    """Return the dependencies in the text of pyproject.toml, each in the oldest release that it admits."""
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    found = re.findall(r'"([\w-]+)>=([\d.]+)"', listed[1] if listed else "")
    return [f"{name}=={version}" for name, version in found]


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
        python = environment(arguments[0] == "lowest")
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"setting up failed: {error}\nIf the module ensurepip is missing, install it (Debian: python3-venv); "
            "if packages could not be fetched, look at the network",
            file=sys.stderr,
        )
        return 1
    try:
        return subprocess.call([str(python), *TASKS[arguments[0]], *arguments[1:]], cwd=HERE)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
