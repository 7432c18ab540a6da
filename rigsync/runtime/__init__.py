"""Threads: the daemon loop thread and the calls into it, waiting, signals, and warnings that nobody shows."""

import rigsync.runtime.last_resort  # noqa: F401 - here, since every package that logs passes through here
