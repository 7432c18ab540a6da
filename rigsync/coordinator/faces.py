"""What a coordinator's objects are taken for by programs that know another package's, of which nothing here knows."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

from rigsync.core.enums import ExpMessage

lenders: set[Callable[[], object]] = set()
"""Called before each `isinstance` of one of these objects, and by `shown`: they register what is loaded by then."""
message_kinds: list[type[IntFlag]] = []
"""What messages are in other packages that are loaded; filled by `lenders`."""


class Faced:
    """An object that has the members of another package's class, of which nothing here knows."""

    # Asked for by `isinstance`, and so in time, whichever of the two packages a program has imported first.
    @property  # type: ignore[misc] # typeshed says that it can be set
    def __class__(self) -> type[Faced]:
        _lend()
        return type(self)


def shown(event: ExpMessage) -> IntFlag:
    """Return a message for code of a program's own that is older than rigsync: of the other package's kind, if any."""
    _lend()
    return message_kinds[0](int(event)) if message_kinds else event


def _lend() -> None:
    for lend in tuple(lenders):
        lend()
