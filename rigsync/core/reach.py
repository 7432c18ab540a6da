"""Which hosts have shown that they receive what a rig sends. Others may be forged, and are sent little.

Nothing proves the source of a datagram. A forger could make a rig send somebody else many times what came (RFC 9000
section 8.1). So a host has to send back something that only the receiver at its address can know.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import OrderedDict

AMPLIFICATION = 3
"""Bytes that may leave to a host for each byte from it, until it has shown that it receives."""
HOSTS = 4096
"""Hosts remembered of each sort. A forgotten one shows again that it receives."""
BORROWED = 1 << 16
"""Further bytes that may leave to all such hosts together. An iblutil coordinator can only show that it receives by the
echo of a whole answer, which has to leave first."""
BORROWED_PER_SECOND = 1 << 14
"""Bytes a second by which that grows again."""
CHALLENGES = 1 << 30
"""The lowest number of the notices that ask a host to show that it receives, and the count of such numbers. All other
notices have higher numbers."""
_BLANKS = 40


class Allowance:
    """Bytes that may leave beyond each host's own, and when there are enough of them again."""

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._used, self._at = 0.0, -math.inf

    def take(self, size: int, now: float) -> bool:
        """Return whether so many bytes may leave, and count them."""
        self._used, self._at = max(0.0, self._used - BORROWED_PER_SECOND * (now - self._at)), now
        if self._used + size > BORROWED:
            return False
        self._used += size
        return True

    def when(self, size: int) -> float:
        """Return when so many bytes may leave, in monotonic seconds, after `take` has refused them."""
        return self._at + (self._used + size + 1 - BORROWED) / BORROWED_PER_SECOND


class Reach:
    """How much may leave to which host.

    Where it `is_open`, everybody may be sent anything: over TCP, an open connection shows that the host receives, and a
    broker sends it only to who has asked for it.
    `secret` is the key of what the hosts have to send back.
    """

    def __init__(self, is_open: bool, secret: bytes | None = None):
        self.is_open = is_open
        self._secret = secret or secrets.token_bytes(16)
        self._shown: OrderedDict[str, None] = OrderedDict()
        self._left: OrderedDict[str, int] = OrderedDict()

    def heard(self, host: str, size: int) -> None:
        if host in self._shown:
            self._shown.move_to_end(host)
        elif not self.is_open:
            self._left[host] = self._left.pop(host, 0) + AMPLIFICATION * size
            if len(self._left) > HOSTS:
                self._left.popitem(last=False)

    def has_shown(self, host: str) -> bool:
        """Whether a host has shown that it receives; this computer need not."""
        # No network carries datagrams from loopback addresses, so nobody can forge one.
        return self.is_open or host in self._shown or host.startswith("127.") or host == "::1"

    def spend(self, host: str, size: int) -> bool:
        if self.has_shown(host):
            return True
        if size > self._left.get(host, 0):
            return False
        self._left[host] -= size
        return True

    def show(self, host: str) -> None:
        self._left.pop(host, None)
        self._shown[host] = None
        if len(self._shown) > HOSTS:
            self._shown.popitem(last=False)

    def challenge(self, host: str) -> int:
        """Return the number of a notice that only this host gets, and has to acknowledge."""
        return CHALLENGES + self._digest(host) % CHALLENGES

    def blanks(self, host: str) -> bytes:
        """Return white space that only answers to this host have, in the iblutil dialect."""
        digest = self._digest(host)
        return bytes(b" \t"[digest >> bit & 1] for bit in range(_BLANKS))

    def _digest(self, host: str) -> int:
        return int.from_bytes(hashlib.blake2b(host.encode(), key=self._secret, digest_size=8).digest(), "big")
