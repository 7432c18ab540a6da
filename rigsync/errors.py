"""Every exception of rigsync, each with the operator's next step in its text.

They are split by who erred, since the remedies are opposite: the caller (`ConfigError`, `PayloadError`, `UnknownRig`,
`NotRunning`, `LoopBlocked`), the other side (`RemoteProtocolError`, `RemoteError`), or the link between
(`RigTimeout`, `RigRefused`, `RigLost`).
"""

from __future__ import annotations

import copyreg
import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from rigsync._text import line_for_each, printable


class RigsyncError(Exception):
    """Base of every exception that rigsync raises or returns."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied and pickled by what it holds: the arguments of most are not those of `Exception`.
        return copyreg.__newobj__, (type(self),), {**vars(self), "args": self.args}  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------- the caller erred


class ConfigError(RigsyncError, ValueError):
    """A configuration that can never work.

    `problem` says what is wrong, and what is expected instead. `file`, `line` (from 1) and `key`, for instance
    ``rigs.cameras.uri``, say where, or are None.

    One error may stand for all mistakes of a file. Then its text has a line for each, and `problem`, `file`, `line` and
    `key` are those of the first.
    """

    def __init__(self, problem: str, *, file: str | None = None, line: int | None = None, key: str | None = None):
        self.problem, self.file, self.line, self.key = problem, file, line, key
        self._parts: tuple[ConfigError, ...] = ()
        where = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (where, key, problem) if part))

    @property
    def errors(self) -> tuple[ConfigError, ...]:
        """An error for each mistake; for one mistake it is this one."""
        return self._parts or (self,)

    @classmethod
    def of(cls, errors: Iterable[ConfigError]) -> ConfigError:
        """Return one error for one or more."""
        parts = tuple(part for error in errors for part in error.errors)
        first = parts[0]
        if len(parts) == 1:
            return first
        whole = cls(first.problem, file=first.file, line=first.line, key=first.key)
        whole.args, whole._parts = ("\n".join(map(str, parts)),), parts
        return whole


class PayloadError(RigsyncError, TypeError):
    """An argument that cannot be sent; the text names its path and type. Nothing was sent."""


class PayloadTooLarge(RigsyncError, ValueError):
    """A message that is too large for the transport of a rig. Nothing was sent to any rig.

    It takes `size` of `unit`, ``bytes`` or ``values``, and may take `limit` (docs/protocol.md section 2) on its way by
    `scheme`, ``udp``, ``tcp`` or ``mqtt``. `rig` is the one whose limit it is, or None.
    """

    def __init__(self, size: int, limit: int, rig: str | None = None, scheme: str = "udp", unit: str = "bytes"):
        self.size, self.limit, self.rig, self.scheme, self.unit = size, limit, rig, scheme, unit
        if unit == "values":
            super().__init__(
                f"the message holds {size:,} values, and one may hold {limit:,}; "
                "send them as text, such as base64, in several messages, or send a path to the data instead"
            )
            return
        towards = f" to rig {rig}" if rig else ""
        if scheme == "tcp":
            most = f"the connection{towards} carries at most {limit:,}; raise max_message on both sides"
        elif scheme.startswith("mqtt"):
            most = f"a broker carries at most {limit:,}{towards}; address the rig with tcp:// on both sides"
        else:
            most = f"one datagram{towards} carries at most {limit:,}; address the rig with tcp:// on both sides"
        super().__init__(f"the message takes {size:,} bytes and {most}, or send a path to the data instead")


def closest_first(wanted: str, names: Iterable[str]) -> list[str]:
    """Return names, close matches first."""
    known = list(names)
    close = difflib.get_close_matches(wanted, known, n=len(known) or 1, cutoff=0.5)
    return close + [name for name in known if name not in close]


class UnknownRig(RigsyncError, LookupError):
    """A rig name or pattern, `wanted`, that matches none of `names`; the text lists these, close matches first."""

    def __init__(self, wanted: str, names: Iterable[str]):
        self.wanted, self.names = wanted, tuple(names)
        ordered = closest_first(wanted, self.names)
        super().__init__(f"no rig matches {wanted!r}; the rigs are: {', '.join(ordered) or '(none)'}")


class UnknownStream(RigsyncError, LookupError):
    """A stream, `wanted`, that the rig does not have, or has no longer; the text lists those that it has, `names`."""

    def __init__(self, wanted: str, names: Iterable[str]):
        self.wanted, self.names = wanted, tuple(names)
        shown = ", ".join(map(repr, self.names[:20])) + (", ..." if len(self.names) > 20 else "")
        super().__init__(f"there is no stream {wanted!r}; add it before. The streams are: {shown or '(none)'}")


class ListenError(RigsyncError):
    """A rig cannot listen where it is told to: the port or the name is taken, or the address is not this machine's."""


class UnknownEvent(RigsyncError, ValueError):
    """A kind of event that there is not: no class, name or number of one."""


class CallError(RigsyncError):
    """A call that was not made: too many are outstanding, or there is nobody who would answer it."""


class CallTimeout(CallError, TimeoutError):
    """A call of a coordinator by a rig that was not answered in time. It may have been done."""


class NotRunning(RigsyncError, RuntimeError):
    """The service thread is not running: not started, closed, or dead."""


class LoopBlocked(RigsyncError, RuntimeError):
    """A blocking call on the very thread that would have to answer it."""


class LoopStuck(RigsyncError, RuntimeError):
    """The service thread does not respond: a callback of this program blocks it. The rigs are not to blame."""


# ------------------------------------------------------------------------------------------ the other side erred


class RemoteProtocolError(RigsyncError):
    """Bytes from outside that are no valid frame. Counted and logged once, never raised into the event loop.

    They are counted by `kind`, a short name for the violation. `problem` says what exactly is wrong. `head` is how a
    message began that was refused while it came, so that its sender can be told.
    """

    def __init__(self, kind: str, problem: str, head: bytes = b""):
        self.kind, self.problem, self.head = kind, problem, head
        super().__init__(f"{kind}: {problem}")


# -------------------------------------------------------------------------------------- what became of one rig


class RigError(RigsyncError):
    """What went wrong with one `rig`; the values of `PushError.result.failed` are of this class.

    `problem` says what happened and what to do next.
    """

    def __init__(self, rig: str, problem: str):
        self.rig, self.problem = rig, problem
        super().__init__(f"{rig}: {problem}")


class RigTimeout(RigError, TimeoutError):
    """The rig is up, or may be, and did not answer in time."""


class RigRefused(RigError, ConnectionRefusedError):
    """The rig's host is up and says that nothing listens at the rig's port."""


class RigLost(RigError, TimeoutError):
    """The rig has been silent for too long; its host is down, unplugged, or behind a firewall."""


class Interrupted(RigError):
    """The message was overtaken by EXPINTERRUPT before the rig had answered it."""


class RigRestarted(RigError):
    """The rig's program was started anew while a message was outstanding. The new one does not run it."""


class Cancelled(RigError):
    """The message was called off before its instant."""


class Aborted(RigError):
    """The message was taken out of the queue unsent, or this program closed before the rig had answered."""


class WrongRig(RigError):
    """Another rig answers at the rig's address. It was sent nothing. The text names both, and what to correct."""


class NotSupported(RigError):
    """The rig speaks the iblutil dialect, which knows no commands, or its rigsync is too old. It has run nothing."""


class _RemoteTraceback(Exception):
    """Where on a rig something failed, without what, in which the traceback here ends."""

    def __init__(self, rig: str, traceback: str):
        lines = traceback.splitlines()[1:]
        while lines and not lines[-1].startswith(" "):
            lines.pop()
        super().__init__("\n".join([f"on {rig}:", *lines]))


class RemoteError(RigError):
    """The rig's handler failed, or the rig refused the message.

    `error` is the type of the remote exception, for instance ``FileNotFoundError``, or ``StateError`` for a refusal;
    `message` is its text. `traceback` is empty where the rig sent none; else Python shows it above its own.
    """

    def __init__(self, rig: str, error: str, message: str, traceback: str = ""):
        self.error, self.message, self.traceback = error, message, traceback
        super().__init__(rig, f"{error}: {message}" if message else error)
        if traceback:
            self.__cause__ = _RemoteTraceback(rig, traceback)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rig, self.error, self.message, self.traceback), vars(self)


class BusyError(RemoteError):
    """The rig does another coordinator's experiment; the text names that coordinator and the reference."""


ENDED_BADLY = "EndedBadly"
"""What `RemoteError.error` says where an EXPEND fails since the recording is over, and has ended badly."""


def remote_error(rig: str, error: str, message: str, traceback: str = "") -> RigError:
    """Return a rig's failure as an exception: of a class above where one has its name, else a `RemoteError`."""
    for own in (Cancelled, Interrupted, RigRestarted):
        if error == own.__name__ and not traceback:  # otherwise a handler has raised something of that name
            return own(rig, message)
    return (BusyError if error == BusyError.__name__ else RemoteError)(rig, error, message, traceback)


class RigsMissing(RigsyncError, TimeoutError):
    """Rigs have not appeared in time; `reasons` says by name of rig what is known of each."""

    def __init__(self, reasons: Mapping[str, str]):
        self.reasons = dict(reasons)
        super().__init__(_told("rigs did not answer in time, see `rigsync doctor`", self.reasons))


class JournalError(RigsyncError):
    """A journal that cannot be used; `path` is its file, and `problem` says why, and what to do."""

    def __init__(self, path: str | os.PathLike[str], problem: str):
        self.path, self.problem = os.fspath(path), problem
        super().__init__(f"journal {self.path}: {problem}")


# ----------------------------------------------------------------------------------------- what became of a push


def _told(what: str, rigs: Mapping[str, str]) -> str:
    """Return what has failed, and a line for each reason, in which a traceback ends; a single one in the same line."""
    lines = line_for_each(rigs)
    return f"{what}: {lines[0]}" if len(lines) == 1 else "\n".join([f"{what}:", *lines])


class PushError(RigsyncError):
    """A push in which at least one rig failed.

    `message` is the name of the message, for instance ``EXPSTART``. `result`, a `PushResult`, says what became of every
    rig, the partial successes included. `failed` has the failures, each a `RigError`, by name of rig.
    """

    def __init__(self, message: str, result: Any, failed: Mapping[str, RigError]):
        self.message, self.result, self.failed = message, result, dict(failed)
        many = f"{len(self.failed)} rigs" if len(self.failed) != 1 else "one rig"
        super().__init__(_told(f"{message} failed on {many}", {rig: e.problem for rig, e in self.failed.items()}))


class ExperimentError(RigsyncError):
    """An experiment, with the reference `exp_ref`, that a rig has spoilt.

    The text says what became of every rig, in a line for all rigs with the same; those that have failed come last.

    `stage` is the name of the message that failed, or ``recording`` where a rig failed after it had begun. By name of
    rig, `outcomes` says what became of each in words, and `failed` has the failures, each a `RigError`.
    """

    def __init__(self, exp_ref: str | None, stage: str, outcomes: Mapping[str, str], failed: Mapping[str, RigError]):
        self.exp_ref, self.stage, self.outcomes, self.failed = exp_ref, stage, dict(outcomes), dict(failed)
        many = f"{len(self.failed)} of {len(self.outcomes)} rigs"
        others = {rig: outcome for rig, outcome in self.outcomes.items() if rig not in self.failed}
        what = f"experiment {printable(exp_ref or 'without a reference')} failed at {stage} on {many}"
        super().__init__(_told(what, {**others, **self.outcomes}))  # those that have failed last


class PushTimeout(PushError, TimeoutError):
    """A push in which every failure is a time-out or a lost rig."""
