"""What a rig's program tells of its own accord: notices, and that it cannot go on."""

from __future__ import annotations

from typing import Any

from rigsync.core import messages
from rigsync.core.arguments import check_topic, to_plain
from rigsync.core.rigs import Room
from rigsync.rig.board import RESERVED
from rigsync.rig.session import Session

MOST_NOTICES = 2**63 - 1
"""The largest number of a notice, which takes the most room in it."""
LONGEST_REASON = 2000
"""Characters of an interrupt's reason, which is part of answers and has to leave room for the rest."""


class RigTelling:
    """How a rig's program tells something, or interrupts."""

    def _serving(self, otherwise: str) -> Session:
        """Return the present stretch of serving; a `NotRunning` that ends with a text where there is none."""
        raise NotImplementedError

    @property
    def _room(self) -> Room:
        """The room for a notice."""
        raise NotImplementedError

    def notify(self, topic: str, body: Any = None, *, key: str | None = None, confirm: bool = True) -> None:
        """Tell something to the coordinators that watch this rig; from any thread, without waiting.

        Parameters
        ----------
        topic : str
            Its kind: ``log``, or one of your own.
        body : object
            Anything that can be sent.
        key : str, optional
            What it is about, within the topic.
        confirm : bool
            True sends it again until each coordinator has confirmed it: all such notices come, once each and in order.
            (Not to a coordinator that was silent for two minutes, let 4 MiB of them wait, or came after 64 others.
            The log names it.) False sends it once, and a newer one of the same topic and key takes its place.

        Raises
        ------
        TypeError, ValueError
            Topic or key is no text, or is empty or too long; or the topic is the rig's own, such as those of `progress`
            and `add_stream`.
        PayloadError, PayloadTooLarge
            The body cannot be sent.
        NotRunning
            The rig does not serve.
        """
        for name, text in (("topic", topic), ("key", key)):
            if text is None and name == "key":
                continue
            check_topic(text, f"{name} of a notice")
        if topic in RESERVED:
            raise ValueError(f"the topic {topic!r} is the rig's own: {RESERVED[topic]}")
        room = self._room
        plain = to_plain(body, "body", room)
        longest = messages.Notice("0" * 16, MOST_NOTICES, topic, key, plain, bool(confirm))
        messages.notice(longest, room)  # this may say that it is too large
        self._serving("start it before it tells anything").notify(topic, key, plain, bool(confirm))

    def interrupt(self, reason: str) -> None:
        """Interrupt the experiment, since the rig cannot go on; from any thread, without waiting.

        The rig does as though EXPINTERRUPT had come: its handlers run, with ``{'reason': reason}``, and the rig is
        STOPPED. The coordinators that watch are told the reason at once. EXPEND then fails with it, as ``EndedBadly``.
        Nothing happens if no experiment is under way, or if it is being interrupted already.

        Parameters
        ----------
        reason : str
            What has happened, for instance that a recording has ended by itself. It is cut at 2,000 characters.

        Raises
        ------
        TypeError, ValueError
            The reason is no text, or is empty.
        NotRunning
            The rig does not serve.
        """
        if not isinstance(reason, str):
            raise TypeError(f"the reason is text, not {type(reason).__name__}")
        if not reason:
            raise ValueError("an interrupt needs a reason: the coordinators are told it")
        text = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."
        self._serving("nothing is under way").interrupt(text)
