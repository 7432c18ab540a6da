"""What no journal may hold: passwords and tokens, wherever they stand."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_NAMES = r"passw|passphrase|token|secret|authoriz|api[_-]?key|private[_-]?key|credential"
_NAME = re.compile(_NAMES, re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s/@\"'\\]+(?=@)")
_WEBHOOK = re.compile(r"(https?://[^\s/?#\"'\\]+[/?#])[^\s\"',}\]]+", re.IGNORECASE)
"""The URL of a webhook: who has its path can write there."""
_IN_TEXT = re.compile(
    rf"""((?:{_NAMES})[\w-]*["']?(?:[ \t]*[:=,][ \t]*|[ \t]+))(?!\s)("[^"\n]*"|'[^'\n]*'|[^\s,}}\]]+)""", re.IGNORECASE
)


def may_hold_secrets(text: str) -> bool:
    """Return whether a text holds a word such as ``password``, or the URL of a user."""
    lowered = text.lower()
    return (  # word by word: many times as fast as an expression, and several times as a loop
        "passw" in lowered
        or "passphrase" in lowered
        or "token" in lowered
        or "secret" in lowered
        or "authoriz" in lowered
        or "key" in lowered
        or "credential" in lowered
        or ("://" in text and "@" in text)
    )


def without_secrets(value: Any) -> Any:
    """Return plain data without what stands under a key such as ``token``, and without users and passwords of URLs."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if _NAME.search(name) and item not in (None, "", False, True) else without_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _USER.sub(HIDDEN, value) if isinstance(value, str) else value


def file_without_secrets(text: str) -> str:
    """Return the text of a configuration file without URLs of webhooks, and what stands behind ``password`` or so."""
    return _IN_TEXT.sub(rf"\g<1>{HIDDEN}", _WEBHOOK.sub(rf"\g<1>{HIDDEN}", _USER.sub(HIDDEN, text)))
