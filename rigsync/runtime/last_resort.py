"""Warnings on stderr, if the program shows them nowhere else."""

from __future__ import annotations

import contextlib
import logging
import sys


class LastResort(logging.Handler):
    """Writes warnings and errors to stderr if no handler of the program shows them.

    Python's own last resort writes nothing once there is any handler, even one for another library or for errors alone.
    Nobody may miss a lost rig for that.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("rigsync: %(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record unless the program shows it; do nothing without a stderr, as in a Windows program."""
        if sys.stderr is None or _is_shown(record):
            return
        with contextlib.suppress(Exception):  # a closed stderr must not stop the work
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


def _is_shown(record: logging.LogRecord) -> bool:
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger:
        for handler in logger.handlers:
            is_own = isinstance(handler, (LastResort, logging.NullHandler))
            # Only filters by name: one that counts, or drops repeats, must see each record once.
            by_name = [filter_ for filter_ in handler.filters if type(filter_) is logging.Filter]
            if not is_own and record.levelno >= handler.level and all(filter_.filter(record) for filter_ in by_name):
                return True
        logger = logger.parent if logger.propagate else None
    return False


LAST_RESORT = LastResort()
"""The only handler that rigsync sets up. A program with other ways to tell failures silences it by
``logging.getLogger("rigsync").setLevel(logging.CRITICAL)``."""
logging.getLogger("rigsync").addHandler(LAST_RESORT)
