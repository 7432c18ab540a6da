"""Networks of their own for tests: two computers as network namespaces of this one, joined by cables."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, environment

HERE, THERE = "10.231.77.1", "10.231.77.2"
"""Addresses of the task's computer and of the rig's, on the cable between them."""


class Lab:
    """A task's computer, `pc`, and a rig's, `rig`, with a cable between them; what runs in them ends with the test.

    Parameters
    ----------
    folder : Path
        Where commands run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.pc, self.rig = f"rs{os.getpid()}pc", f"rs{os.getpid()}rig"
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        with contextlib.ExitStack() as stack:
            for name in (self.pc, self.rig):
                _run("ip", "netns", "add", name)
                stack.callback(_run, "ip", "netns", "delete", name)
                self.run(name, "ip", "link", "set", "lo", "up")
            self.plug("cable", HERE, THERE)
            self._ends = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def plug(self, name: str, here: str, there: str) -> None:
        """Join the two by another cable, whose ends are called `name` in both, in a network of 256 addresses."""
        _run(
            "ip", "link", "add", "name", name, "netns", self.pc, "type", "veth", "peer", "name", name, "netns", self.rig
        )
        for computer, address in ((self.pc, here), (self.rig, there)):
            self.run(computer, "ip", "address", "add", f"{address}/24", "dev", name)
            self.run(computer, "ip", "link", "set", name, "up")

    def name(self, name: str, *addresses: str) -> None:
        """Have a name stand for addresses, on the task's computer."""
        folder = Path("/etc/netns", self.pc)  # which `ip netns exec` puts in the place of /etc
        folder.mkdir(parents=True)
        self._ends.callback(shutil.rmtree, folder)
        lines = ["127.0.0.1 localhost\n", *(f"{address} {name}\n" for address in addresses)]
        (folder / "hosts").write_text("".join(lines), encoding="utf-8")

    def run(self, computer: str, *command: str) -> None:
        """Run a command on a computer."""
        _run("ip", "netns", "exec", computer, *command)

    def filter(self, computer: str, hook: str, rule: str) -> None:
        """Have a computer's firewall do something; `hook` is ``input`` or ``output``."""
        self.run(computer, "nft", "add", "table", "inet", "t")
        self.run(computer, "nft", f"add chain inet t {hook} {{ type filter hook {hook} priority 0; }}")
        self.run(computer, "nft", f"add rule inet t {hook} {rule}")

    def start(self, computer: str, *arguments: str, **environ: str) -> Command:
        """Start `rigsync` on a computer; it ends with the lab."""
        before = ["ip", "netns", "exec", computer]
        command = Command(list(arguments), self.folder, environment(self.folder, **environ), before=before)
        return self._ends.enter_context(command)

    def serve(self, name: str = "cameras", host: str = "0.0.0.0", scheme: str = "udp", port: int = 11001) -> None:
        """Run a rig on the rig's computer."""
        self.start(self.rig, "serve", name, "--uri", f"{scheme}://{host}:{port}", "--json").line('{"listening"')

    def doctor(self, **rigs: Any) -> dict[str, Any]:
        """Ask the doctor on the task's computer; return what it says of each rig."""
        (self.folder / "rigs.yaml").write_text(json.dumps({"rigs": rigs}), encoding="utf-8")
        outcome = self.start(self.pc, "doctor", "--json").outcome()
        assert "Traceback" not in outcome.err
        found: dict[str, Any] = json.loads(outcome.out)["rigs"]
        assert outcome.status == any(rig["findings"] for rig in found.values())
        return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def why_not() -> str | None:
    """Return why this machine has no network namespaces for us, None where it has."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    if os.geteuid():
        return "network namespaces need the rights of root"
    for tool in ("ip", "nft"):
        if not shutil.which(tool):
            return f"there is no command {tool} (packages iproute2, nftables)"
    name = f"rs{os.getpid()}try"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "netns", "exec", name, "ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "two")
            _run("ip", "netns", "exec", name, "nft", "add table inet t")
        finally:
            _run("ip", "netns", "delete", name)
    except OSError as error:
        return f"this machine does not allow network namespaces: {error}"
    return None


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Give two computers with a cable between them."""
    if reason := why_not():
        pytest.skip(reason)
    with Lab(tmp_path) as made:
        yield made
