"""Lets a coordinator's objects pass for another package's in `isinstance`. No such package is named here."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

from rigsync.core.enums import ExpMessage

lenders: set[Callable[[], object]] = set()
"""Functions that register other packages. Called before each `isinstance` of such an object, and by `shown`."""
message_kinds: list[type[IntFlag]] = []
"""Message enums of other packages that are loaded; `lenders` add them."""


class Faced:
    """Base of objects that have the members of another package's class."""

    # `isinstance` asks for this, so it works whichever of the two packages was imported first.
    @property  # type: ignore[misc] # typeshed says that it can be set
    def __class__(self) -> type[Faced]:
        _lend()
        return type(self)


def shown(event: ExpMessage) -> IntFlag:
    """Return a message as another package's enum has it, if one is loaded: for code written for that package."""
    _lend()
    return message_kinds[0](int(event)) if message_kinds else event


def _lend() -> None:
    for lend in tuple(lenders):
        lend()
