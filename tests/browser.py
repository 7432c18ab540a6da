"""Chromium without a window, by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 60.0
"""Seconds for an answer: a browser takes long to begin on a busy computer."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
_LAUNCH = """
import os, subprocess, sys
reads, writes, *command = sys.argv[1:]
os.dup2(int(reads), 3)
os.dup2(int(writes), 4)
quiet = subprocess.DEVNULL
started = subprocess.Popen(command, pass_fds=(3, 4), start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet)
print(started.pid, flush=True)
os._exit(0)
"""
"""Chromium takes its orders from descriptor 3, and answers by 4. It is nobody's child then: its own processes come and
go, and no test has left them behind."""


def chromium() -> str | None:
    """Return the path of Chromium; None where it is not installed, and on Windows, where it takes no such orders."""
    if sys.platform == "win32":
        return None
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A browser with one page.

    `said` has what the page and the browser have complained of, and `asked` the addresses of all that was asked for.
    """

    def __init__(self, program: str, profile: Path):
        asks, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        launcher = [sys.executable, "-c", _LAUNCH, str(asks), str(answers), *command]
        try:
            begun = subprocess.run(
                launcher, pass_fds=(asks, answers), stdout=subprocess.PIPE, check=True, timeout=PATIENCE
            )
        finally:
            os.close(asks)
            os.close(answers)
        self._process = psutil.Process(int(begun.stdout))
        self._number, self._rest, self._page = 0, b"", ""
        self.said: list[str] = []
        self.asked: list[str] = []
        self._is_loaded = False

    def open(self) -> None:
        """Make the page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End it, and wait until it is gone."""
        with contextlib.suppress(Exception):
            self._page = ""
            self.call("Browser.close")
        for descriptor in (self._orders, self._answers):
            os.close(descriptor)
        with contextlib.suppress(psutil.NoSuchProcess):
            below = [self._process, *self._process.children(recursive=True)]
            _, alive = psutil.wait_procs(below, timeout=10)
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give an order, and return the answer."""
        self._number += 1
        number, order = self._number, {"id": self._number, "method": method, "params": parameters}
        if self._page:
            order["sessionId"] = self._page
        data = json.dumps(order).encode() + b"\0"
        while data:
            data = data[os.write(self._orders, data) :]
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._next(end, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                found: dict[str, Any] = answer["result"]
                return found

    def show(self, address: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Show a page, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._is_loaded = False
        self.said.clear()
        self.asked.clear()
        found = self.call("Page.navigate", url=address)
        assert "errorText" not in found, found
        end = time.monotonic() + PATIENCE
        while not self._is_loaded:
            self._next(end, address)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, height: int | None = None) -> bytes:
        """Return the whole page, or its upper part, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(found["data"])

    def _next(self, end: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._answers, 1 << 16) if ready else b""
            assert data, f"the browser does not answer: {what}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Log.entryAdded":
            self.said.append(told["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.said.append(json.dumps(told))


@contextlib.contextmanager
def browser(program: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(program, Path(profile))
        try:
            started.open()
            yield started
        finally:
            started.close()
