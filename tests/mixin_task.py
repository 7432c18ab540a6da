"""A task that relies on its coordinator as iblrig's network mixin does; run as a program of its own.

It asks `is_connected` before each message, pushes with ``wait=True``, closes and raises what is returned, and sets up
no logging for rigsync. It tells what it does in lines of JSON, and waits for a line on its standard input before
EXPSTART and before its body ends.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

import rigsync

REFERENCE = "2026-03-01_2_mouse"


class Task:
    """The life of a task: constructed, then run."""

    def __init__(self, clients: dict[str, str], body_raises: bool):
        self.body_raises = body_raises
        self.remote_rigs = rigsync.Auxiliaries(clients)
        assert not clients or self.remote_rigs.is_connected
        self.tell("open")
        if self.remote_rigs.is_connected:
            self.communicate("EXPINFO", "CONNECTED", {"master": True})
            self.communicate("EXPINIT", {"exp_ref": REFERENCE})

    def tell(self, what: str) -> None:
        print(json.dumps([what]), flush=True)

    def wait(self, what: str) -> None:
        self.tell(what)
        sys.stdin.readline()

    def communicate(self, message: str, *args: Any) -> Any:
        outcome = self.remote_rigs.push(message, *args, wait=True)
        if isinstance(outcome, Exception):
            self.remote_rigs.close()
            raise outcome
        return outcome

    def run(self) -> None:
        if self.remote_rigs.is_connected:
            self.communicate("EXPSTART", REFERENCE)
        try:
            self.wait("running")
            if self.body_raises:
                raise ValueError("the valve is stuck")
            if self.remote_rigs.is_connected:
                self.communicate("EXPEND")
            self.remote_rigs.close()
        except Exception as error:
            if self.remote_rigs.is_connected:
                details = {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
                self.remote_rigs.push("EXPINTERRUPT", details, wait=True)
                self.remote_rigs.close()
            raise


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    task = Task(options["clients"], options.get("body_raises", False))
    task.wait("initialised")
    task.run()
    task.tell("done")
