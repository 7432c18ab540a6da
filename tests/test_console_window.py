"""What asks a program to end: a closed console window, by its parts, where there is no Windows; and `nohup`."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from live_helpers import in_thread
from platforms import posix
from processes import LONG, ROOT, until

from rigsync import Auxiliaries, Rig
from rigsync.runtime import console_window, signals

REFERENCE = "2026-03-01_2_mouse"

pytestmark = posix


class Windows:
    """As much of Windows as the module uses."""

    def __init__(self) -> None:
        self.installed: list[tuple[Any, bool]] = []
        self.slept: list[float] = []
        self.kernel32 = self

    def SetConsoleCtrlHandler(self, handler: Any, add: bool) -> None:
        self.installed.append((handler, add))


@pytest.fixture
def windows() -> Windows:
    return Windows()


@pytest.fixture
def module(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is on Windows, where SIGUSR1 plays SIGBREAK."""
    here = sys.platform
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WINFUNCTYPE", lambda *_: lambda function: function, raising=False)
    monkeypatch.setattr(ctypes, "WinDLL", lambda *_, **__: windows, raising=False)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    spec = importlib.util.spec_from_file_location("console_window_of_windows", console_window.__file__)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "platform", here)
    monkeypatch.setattr(time, "sleep", windows.slept.append)
    return module


@pytest.fixture
def broken() -> Iterator[list[int]]:
    """The SIGBREAKs that have come."""
    came: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("event", [2, 5, 6], ids=["window", "logoff", "shutdown"])
def test_the_end_of_the_window_is_a_sigbreak_and_waits_for_the_program(
    module: ModuleType, windows: Windows, broken: list[int], event: int
) -> None:
    module.watch_console_window()
    ((handler, is_added),) = windows.installed
    assert is_added
    assert handler(event)
    assert broken == [signal.SIGUSR1]
    assert windows.slept == [module._LONGEST]
    assert module._LONGEST > 20  # for which Windows waits at most


@pytest.mark.parametrize("event", [0, 1], ids=["Ctrl-C", "Ctrl-Break"])
def test_ctrl_c_is_left_to_python(module: ModuleType, windows: Windows, broken: list[int], event: int) -> None:
    module.watch_console_window()
    ((handler, _),) = windows.installed
    assert not handler(event)
    assert (broken, windows.slept) == ([], [])


def test_the_window_is_watched_once(module: ModuleType, windows: Windows) -> None:
    module.watch_console_window()
    module.watch_console_window()
    assert len(windows.installed) == 1


def test_sigbreak_ends_what_sigterm_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    assert signals.ending_signals() == [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


def test_sigbreak_ends_a_rig_that_watches_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[str] = []
    monkeypatch.setattr(signals, "watch_console_window", lambda: watched.append("rig"))
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    rig, reasons = Rig("cameras", "udp://127.0.0.1:0"), []
    rig.on("EXPINTERRUPT")(lambda data: reasons.append(data["reason"]))

    def record_and_break() -> None:
        until(lambda: rig.is_running)
        with Auxiliaries({"cameras": rig.uri}, leave_running=True) as aux:
            aux.request("EXPINIT", {"exp_ref": REFERENCE})
            aux.request("EXPSTART", REFERENCE)
            os.kill(os.getpid(), signal.SIGUSR1)

    breaking = in_thread(record_and_break)
    rig.run()
    breaking.result(LONG)
    assert watched == ["rig"]
    assert reasons == ["the rig's program is being closed"]


def test_sigbreak_interrupts_an_experiment_that_watches_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[str] = []
    monkeypatch.setattr(signals, "watch_console_window", lambda: watched.append("experiment"))
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    reports: list[Any] = []
    with Rig("cameras", "udp://127.0.0.1:0") as rig, Auxiliaries({"cameras": rig.uri}) as aux:
        rig.on("EXPINTERRUPT")(reports.append)
        with pytest.raises(SystemExit) as raised, aux.experiment(REFERENCE):
            signal.raise_signal(signal.SIGUSR1)
        assert watched == ["experiment"]
    assert raised.value.code == 128 + signal.SIGUSR1
    assert [report["error"] for report in reports] == ["Terminated"]


def test_nohup_keeps_a_rig_serving() -> None:
    command = ["nohup", sys.executable, "-m", "rigsync", "serve", "cameras", "--uri", "udp://127.0.0.1:0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            uri = json.loads(process.stdout.readline())["listening"]
            draining = threading.Thread(target=process.stdout.read)
            draining.start()
            with Auxiliaries({"cameras": uri}) as aux:
                for _ in range(20):
                    process.send_signal(signal.SIGHUP)
                    aux.request("EXPSTATUS")
            assert process.poll() is None
            process.terminate()
            assert process.wait(LONG) == 0
        finally:
            process.kill()
            draining.join(LONG)
