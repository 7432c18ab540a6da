"""Threads: the daemon loop thread and every call into it; waiting; signals; warnings that nobody shows."""

import rigsync.runtime.last_resort  # noqa: F401 - here, since every package that logs passes through here
