"""A command that is told, and a notification on the desktop, which is one: each within a limit, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import IO, Any

from rigsync._text import one_line
from rigsync.alerts.limits import Limit, NotSent
from rigsync.alerts.texts import environment_of, sentence, words_of
from rigsync.config.alerts import Hook

LOOK = 0.02
"""Seconds between looks whether a command has ended."""
GRACE = 1.0
"""Seconds from terminate to kill."""
LONGEST_TAIL = 4096
"""Bytes of a command's last output that are kept."""

_TITLE = "rigsync"
_ON_MAC = 'on run argv\ndisplay notification (item 1 of argv) with title "rigsync"\nend run'
# The text comes from the environment, and becomes a node of the document: it is neither code nor XML.
_ON_WINDOWS = """
$ErrorActionPreference = 'Stop'
[void][Windows.UI.Notifications.ToastNotificationManager, Windows.UI.Notifications, ContentType = WindowsRuntime]
$kind = [Windows.UI.Notifications.ToastTemplateType]::ToastText02
$document = [Windows.UI.Notifications.ToastNotificationManager]::GetTemplateContent($kind)
$places = $document.GetElementsByTagName('text')
[void]$places.Item(0).AppendChild($document.CreateTextNode('rigsync'))
[void]$places.Item(1).AppendChild($document.CreateTextNode($env:RIGSYNC_ALERT_TEXT))
$program = '{1AC14E77-02E7-4E5D-B744-2EB1AE5198B7}\\WindowsPowerShell\\v1.0\\powershell.exe'
$toast = [Windows.UI.Notifications.ToastNotification]::new($document)
[Windows.UI.Notifications.ToastNotificationManager]::CreateToastNotifier($program).Show($toast)
"""


def tell(hook: Hook, values: Mapping[str, Any], limit: Limit) -> None:
    """Run a command to its end; raise `NotSent` unless its exit status is 0, within the limit."""
    words = words_of(hook, values)
    run([_found(words[0], hook.folder), *words[1:]], hook.folder, environment_of(values), limit)


def problem_with(hook: Hook) -> str | None:
    """Return why a command cannot run on this computer; None where it can."""
    try:
        _found(hook.words[0], hook.folder)
    except NotSent as error:
        return str(error)
    return None


def _found(program: str, folder: str) -> str:
    """Return the path of a program; a relative one begins at the file's folder."""
    path = os.path.join(folder, program) if os.path.dirname(program) else program
    if (found := shutil.which(path)) is None:
        problem = f"the program {one_line(program)!r} is not on this computer; install it, or correct its name or PATH"
        raise NotSent(problem, for_good=True)
    return found


# ----------------------------------------------------------------------------------------------------- the desktop


def show(values: Mapping[str, Any], limit: Limit) -> None:
    """Show a notification; raise `NotSent` where that cannot be."""
    if problem := desktop_problem():
        raise NotSent(problem, for_good=True)
    text = sentence(values)
    run(desktop_words(text), None, environment_of({"text": text}), limit)


def desktop_problem(platform: str = sys.platform, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return why nothing can be shown on a desktop here; None where it can."""
    if platform not in ("win32", "darwin") and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        return "there is no desktop: this program was not started in a session with one"
    program = desktop_words("", platform)[0]
    if shutil.which(program, path=environ.get("PATH")):
        return None
    remedy = "; install it (Debian: libnotify-bin)" if program == "notify-send" else ""
    return f"the program {program} is not there, which shows notifications{remedy}"


def desktop_words(text: str, platform: str = sys.platform) -> list[str]:
    """Return the command that shows a text; on Windows the text stands in the environment."""
    if platform == "win32":
        return ["powershell", "-NoProfile", "-NonInteractive", "-Command", _ON_WINDOWS]
    if platform == "darwin":
        return ["osascript", "-e", _ON_MAC, f" {text}"]  # the blank: a text is no option
    # The body may hold markup (Desktop Notifications Specification), so these three are escaped.
    body = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ["notify-send", f"--app-name={_TITLE}", "--urgency=critical", "--", _TITLE, body]


# --------------------------------------------------------------------------------------------------------- running


def run(words: Sequence[str], folder: str | None, environment: Mapping[str, str], limit: Limit) -> None:
    """Run a command to its end, and end what it leaves; raise `NotSent` unless all is well within the limit."""
    name = one_line(os.path.basename(words[0]))
    try:
        process = _start(words, folder, environment)
    except (OSError, ValueError) as error:
        why = one_line(str(getattr(error, "strerror", None) or error))
        raise NotSent(f"{name} cannot be started: {why}") from None
    output = _Output(process.stdout)
    try:
        if not limit.wait_for(lambda: process.poll() is not None, LOOK):
            _terminate(process)
            said = output.last()
            raise NotSent(f"{name} did not end within {limit.seconds:.3g} s, and was ended{said}")
    finally:
        _kill(process)
        output.end()
    if process.returncode:
        how = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise NotSent(f"{name} ended with {how}{output.last()}")


def _start(words: Sequence[str], folder: str | None, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A group of its own, so that all of it can be ended; no console, and no signal of this one.
    own: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return subprocess.Popen(  # noqa: S603 - no shell reads it, and no message chooses the program
        words,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **own,
    )


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Tell a command and its group to end, and give it a moment."""
    if sys.platform != "win32":  # where there is nothing between an interrupt and a kill
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a command and of all that it has started."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # the group is empty; macOS forbids signals to the dead
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        kill = ["taskkill", "/F", "/T", "/PID", str(process.pid)]  # with its descendants
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(kill, capture_output=True, timeout=GRACE, check=False)  # noqa: S603
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
        process.wait(GRACE)


class _Output:
    """The last output of a command, which is read to its end, so that the command never waits for a reader."""

    def __init__(self, pipe: IO[bytes] | None):
        self._pipe, self._tail = pipe, deque[bytes](maxlen=2)
        self._thread = threading.Thread(target=self._read, name="rigsync-alert-output", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system gives no more threads: a full pipe ends with the limit
            self._thread.start()

    def _read(self) -> None:
        if self._pipe:
            with self._pipe, contextlib.suppress(OSError, ValueError):
                while data := os.read(self._pipe.fileno(), LONGEST_TAIL):
                    self._tail.append(data)

    def end(self) -> None:
        """Wait for the rest; what has left the command's group may hold the pipe open."""
        if self._thread.ident is not None:
            self._thread.join(GRACE)
        elif self._pipe:
            self._pipe.close()

    def last(self) -> str:
        """Return its last line, as the end of a sentence."""
        text = b"".join(self._tail).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"; its last line: {one_line(lines[-1])[:300]}" if lines else ""
