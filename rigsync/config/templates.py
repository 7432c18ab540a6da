"""Texts, lists and maps with fields in braces, such as ``{exp_ref}``: what is wrong with them, how they are filled."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from rigsync._text import close_match, shortened
from rigsync.errors import ConfigError

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def wrong_fields(
    template: Any, key: str, known: tuple[str, ...], family: tuple[str, str] = ("", ""), none: str = ""
) -> Iterator[ConfigError]:
    """Yield an error for each unknown field of a template, and for each brace without its counterpart.

    `family` is how fields begin of which there are many, and what they are; `none` says why there are no fields.
    """
    if isinstance(template, dict):
        for name, value in template.items():
            yield from wrong_fields(value, f"{key}.{name}", known, family, none)
    elif isinstance(template, (list, tuple)):
        for index, value in enumerate(template):
            yield from wrong_fields(value, f"{key}[{index}]", known, family, none)
    prefix, meaning = family
    for token in _TOKEN.finditer(template) if isinstance(template, str) else ():
        name = token[1]
        if name is None and len(token[0]) == 1:
            problem = f"a {token[0]!r} without its counterpart; fields are written {{exp_ref}}, braces {{{{ and }}}}"
            yield ConfigError(problem, key=key)
        elif name is not None and name not in known and not (prefix and re.fullmatch(rf"{prefix}[\w-]+", name)):
            more = (f"{prefix}KEY {meaning}",) if prefix else ()
            told = f"{close_match(name, known)}; the fields here are {', '.join((*known, *more))}"
            yield ConfigError(f"unknown field {shortened(name)}{f'; {none}' if none else told}", key=key)


def fields_of(text: str) -> list[str]:
    """Return the names of the fields in a text."""
    return [token[1] for token in _TOKEN.finditer(text) if token[1] is not None]


def filled(template: Any, value_of: Callable[[str], Any]) -> Any:
    """Return a template with the value of each field in its place. A field alone in its text keeps its type."""
    if isinstance(template, dict):
        return {name: filled(value, value_of) for name, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [filled(value, value_of) for value in template]
    if not isinstance(template, str):
        return template
    if (alone := _TOKEN.fullmatch(template)) and alone[1] is not None:
        return value_of(alone[1])

    def written(token: re.Match[str]) -> str:
        value = token[0][0] if token[1] is None else value_of(token[1])
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _TOKEN.sub(written, template)
