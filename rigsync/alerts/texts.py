"""How an alert reads: as JSON for a web address, and as words and variables for a command. Nothing in it is code."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rigsync._text import printable
from rigsync.alerts.plan import Message
from rigsync.config.alerts import FIELDS, SESSION_END, Hook, Webhook, topic_of, variable
from rigsync.config.templates import fields_of, filled
from rigsync.errors import ConfigError

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#!|~])")
_MENTION = "@\u200b"
"""A zero-width space behind an @, so that nobody is called by what a rig says."""
_NEEDS_NO_BLANK = re.compile(r"\w")


def values_of(message: Message, host: str) -> dict[str, Any]:
    """Return the values of `FIELDS`; texts in one line, whatever a rig has said."""
    when = datetime.fromtimestamp(message.time).astimezone().isoformat(timespec="seconds")
    values = (message.on, message.what, ", ".join(message.rigs), message.exp_ref or "", host, when, message.held_back)
    return {
        name: printable(value) if isinstance(value, str) else value for name, value in zip(FIELDS, values, strict=True)
    }


def sentence(values: Mapping[str, Any]) -> str:
    """Return all of an alert as a sentence."""
    where = ", ".join(filter(None, (values["exp_ref"], values["host"], values["time"])))
    more = f"; {values['held_back']} more were held back" if values["held_back"] else ""
    return f"{values['on']}: {values['what']} ({where}){more}"


# ----------------------------------------------------------------------------------------------------- for the web


def request_of(webhook: Webhook, url: str, values: Mapping[str, Any]) -> tuple[str, Any]:
    """Return where to send what: the URL, and the JSON document.

    Raises
    ------
    ConfigError
        The URL names no topic of ntfy.
    """
    text = sentence(values)
    if webhook.preset == "slack":
        # https://docs.slack.dev/messaging/formatting-message-text: these three are all that has to be escaped.
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return url, {"text": escaped, "mrkdwn": False}
    if webhook.preset == "mattermost":
        return url, {"text": _MARKDOWN.sub(r"\\\1", text).replace("@", _MENTION)}
    if webhook.preset == "teams":
        # A rich text block, since the other kind of text is read as Markdown.
        block = {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text}]}
        content = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.2",
            "body": [block],
        }
        card = {"contentType": "application/vnd.microsoft.card.adaptive", "content": content}
        return url, {"type": "message", "attachments": [card]}
    if webhook.preset == "ntfy":
        if (found := topic_of(url)) is None:
            raise ConfigError("its URL names no topic; write one, as in https://ntfy.sh/my-lab-4f7a")
        # https://docs.ntfy.sh/publish/#publish-as-json: to the server itself, with the topic in the document.
        priority = 3 if values["on"] == SESSION_END else 4
        title = f"{values['on']}: {values['rig']}"
        return found[0], {"topic": found[1], "title": title, "message": text, "priority": priority}
    if webhook.body:
        return url, filled(webhook.body, values.__getitem__)
    return url, {**values, "text": text}


# --------------------------------------------------------------------------------------------------- for a command


def words_of(hook: Hook, values: Mapping[str, Any], windows: bool = sys.platform == "win32") -> list[str]:
    """Return the words of a command. What a rig has said begins none that a program takes for more than text."""
    return [
        _word(word, str(filled(word, lambda name: _fitting(values[name], windows))))
        if fields_of(word)
        else filled(word, str)
        for word in hook.words
    ]


def environment_of(values: Mapping[str, Any], windows: bool = sys.platform == "win32") -> dict[str, str]:
    """Return the variables of a command."""
    return {variable(name): _fitting(value, windows) for name, value in values.items()}


def _word(template: str, word: str) -> str:
    """Put a blank before a word that begins with a value, unless it begins with a letter or a digit.

    ``-x`` and ``/x`` are options, ``@x`` names a file to many a program, ``+x`` is a command to some.
    """
    begins_with_value = template.startswith("{") and not template.startswith("{{")
    return f" {word}" if begins_with_value and word and not _NEEDS_NO_BLANK.match(word) else word


def _fitting(value: Any, windows: bool) -> str:
    """Return a value as text that a command can be given here."""
    text = str(value)
    if windows:
        # A program may get, for a letter that its code page lacks, the one that looks most like it: even a quote.
        text = "".join(each if each.isascii() or each.isalnum() else "?" for each in text)
    encoding = sys.getfilesystemencoding()
    return text.encode(encoding, "backslashreplace").decode(encoding)
