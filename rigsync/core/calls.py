"""What a coordinator publishes, and what a rig calls of its coordinator (docs/protocol.md section 2)."""

from __future__ import annotations

from rigsync.core.messages import Command

OWN = "rigsync."
"""How the names of commands and topics begin that are rigsync's own."""
PUBLISH = Command("rigsync.publish")
"""Tells a rig something about a topic: ``[[topic, body], {}]``."""
HEARD, UNHEARD = "heard", "nobody listens"
"""What a rig answers to it."""
