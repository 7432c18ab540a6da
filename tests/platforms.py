"""Marks of tests that not every system can run."""

from __future__ import annotations

import shutil
import sys

import pytest

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals, permissions and links")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc, where processes are found again")
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals to test with")
needs_ffmpeg = pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="no ffmpeg here")
