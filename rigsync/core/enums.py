"""What rigs are told, and the status of a rig: equal to iblutil's enums by value and name."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from functools import reduce
from operator import or_

PROTOCOL_VERSION = "1.0.0"
"""Version of these numbers, as `iblutil.io.net.base` has it."""


class ExpMessage(IntFlag):
    """What an experiment tells its rigs."""

    EXPINIT = 1
    """Prepare."""
    EXPSTART = 2
    """Begin to record."""
    EXPEND = 4
    """Stop recording."""
    EXPCLEANUP = 8
    """Tidy up."""
    EXPINTERRUPT = 16
    """Stop at once: the experiment has failed."""
    EXPSTATUS = 32
    """Where the coordinator is in its life cycle; the rig answers with its own."""
    EXPINFO = 64
    """What the rig is."""
    ALYX = 128
    """The token of an Alyx database."""
    __version__ = PROTOCOL_VERSION

    @property
    def name(self) -> str:
        """Its name; of several in one, their names with ``|`` between."""
        return self._name_ or "|".join(name for name, one in ExpMessage.__members__.items() if one & self) or "NULL"

    @classmethod
    def any(cls) -> ExpMessage:
        """Return all messages in one. 0, which stands for an error, is not among them."""
        return reduce(or_, cls.__members__.values())

    @staticmethod
    def validate(event: object, allow_bitwise: bool = True) -> ExpMessage:
        """Return the message that is meant.

        Parameters
        ----------
        event : str, int or ExpMessage
            Its name, in any case, its number, or itself; also iblutil's.
        allow_bitwise : bool
            Whether several in one may be meant.

        Raises
        ------
        TypeError
            It is neither text nor a whole number.
        ValueError
            There is no such message, or several are meant and may not be.
        """
        if isinstance(event, str):
            name = event.strip().upper()
            if name not in ExpMessage.__members__:
                raise ValueError(f'unrecognized event "{event}"; the messages are {", ".join(ExpMessage.__members__)}')
            return ExpMessage[name]
        if not isinstance(event, int):
            raise TypeError(f"unknown event type {type(event).__name__}: give a message by its name or number")
        found = ExpMessage(int(event))
        if not allow_bitwise and found not in ExpMessage.__members__.values():
            raise ValueError(f"{found!r} is not one message; the messages are {', '.join(ExpMessage.__members__)}")
        return found

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers of the messages that are in this one, on every version of Python."""
        return (int(single) for single in ExpMessage.__members__.values() if single & self)


class ExpStatus(IntEnum):
    """Where in its life cycle a rig is."""

    CONNECTED = 0
    """It is there."""
    INITIALIZED = 10
    """It is ready to record."""
    RUNNING = 20
    """It records."""
    STOPPED = 30
    """It has stopped recording."""
    __version__ = PROTOCOL_VERSION
