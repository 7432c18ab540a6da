"""What `isinstance` says of a coordinator's objects, beside their own classes."""

from __future__ import annotations

from collections.abc import Callable

lenders: set[Callable[[], object]] = set()
"""Called before each `isinstance` of one of these objects; they register classes of other packages that are loaded."""


class Faced:
    """An object that has the members of another package's class, of which nothing here knows."""

    # Asked for by `isinstance`, and so in time, whichever of the two packages a program has imported first.
    @property  # type: ignore[misc] # typeshed says that it can be set
    def __class__(self) -> type[Faced]:
        for lend in tuple(lenders):
            lend()
        return type(self)
