"""Which hosts have shown that they receive what a rig sends: to others, which may be forged, it sends little.

Nothing proves the source of a datagram. Whoever forges it could have a rig send somebody else many times what was sent
to the rig (RFC 9000 section 8.1). So a host has to send back something that only its receiver can know.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import OrderedDict

AMPLIFICATION = 3
"""Bytes that leave to a host for each byte that has come from it, until it has shown that it receives them."""
HOSTS = 4096
"""Hosts that are remembered, of either sort; those that are forgotten show it again."""
BORROWED = 1 << 16
"""Bytes beyond that which leave to all such hosts together. An iblutil coordinator shows that it receives only by the
echo of a whole answer, so that the first answer to it has to leave before."""
BORROWED_PER_SECOND = 1 << 14
"""Bytes of it that are given back in a second."""
CHALLENGES = 1 << 30
"""The lowest number of a notice by which a host is asked, and how many such numbers there are; those of all other
notices are higher."""
_BLANKS = 40


class Allowance:
    """Bytes that may leave beyond what each host is owed, and when there are enough of them again."""

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._used, self._at = 0.0, -math.inf

    def take(self, size: int, now: float) -> bool:
        """Tell whether so many bytes may leave, and count them."""
        self._used, self._at = max(0.0, self._used - BORROWED_PER_SECOND * (now - self._at)), now
        if self._used + size > BORROWED:
            return False
        self._used += size
        return True

    def when(self, size: int) -> float:
        """Return from when on so many bytes may leave, in monotonic seconds, after `take` has refused them."""
        return self._at + (self._used + size + 1 - BORROWED) / BORROWED_PER_SECOND


class Reach:
    """What may leave to which host.

    Parameters
    ----------
    is_open : bool
        Whether to send to everybody: over TCP, whoever has opened a connection has shown that it receives.
    secret : bytes, optional
        Key of what the hosts have to send back; drawn at random by default.
    """

    def __init__(self, is_open: bool, secret: bytes | None = None):
        self.is_open = is_open
        self._secret = secret or secrets.token_bytes(16)
        self._shown: OrderedDict[str, None] = OrderedDict()
        self._left: OrderedDict[str, int] = OrderedDict()
        self.common, self.own = Allowance(), Allowance()
        """What may leave beyond that: to all hosts together, and to the one in charge, which no flood keeps waiting."""

    def heard(self, host: str, size: int) -> None:
        """Take note of so many bytes that have come."""
        if host in self._shown:
            self._shown.move_to_end(host)
        elif not self.is_open:
            self._left[host] = self._left.pop(host, 0) + AMPLIFICATION * size
            if len(self._left) > HOSTS:
                self._left.popitem(last=False)

    def has_shown(self, host: str) -> bool:
        """Tell whether a host has shown that it receives; this computer has to show nothing."""
        # No network carries a datagram that comes from there, so that nobody can forge one.
        return self.is_open or host in self._shown or host.startswith("127.") or host == "::1"

    def spend(self, host: str, size: int) -> bool:
        """Tell whether so many bytes may leave to a host, and count them."""
        if self.has_shown(host):
            return True
        if size > self._left.get(host, 0):
            return False
        self._left[host] -= size
        return True

    def show(self, host: str) -> None:
        """Take note that a host has shown that it receives."""
        self._left.pop(host, None)
        self._shown[host] = None
        if len(self._shown) > HOSTS:
            self._shown.popitem(last=False)

    def challenge(self, host: str) -> int:
        """Return the number of the notice that this host alone gets, and has to acknowledge."""
        return CHALLENGES + self._digest(host) % CHALLENGES

    def blanks(self, host: str) -> bytes:
        """Return the white space that stands in an answer to this host alone, in the iblutil dialect."""
        digest = self._digest(host)
        return bytes(b" \t"[digest >> bit & 1] for bit in range(_BLANKS))

    def _digest(self, host: str) -> int:
        return int.from_bytes(hashlib.blake2b(host.encode(), key=self._secret, digest_size=8).digest(), "big")
