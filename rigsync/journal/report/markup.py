"""HTML and SVG as text. Whatever is not markup already is escaped: no place of a page has to remember to."""

from __future__ import annotations

from html import escape
from typing import Any

from rigsync._text import printable

LONGEST = 2000
"""Most characters of one text from outside on a page."""
_VOID = frozenset({"br", "circle", "line", "link", "meta", "path", "polygon", "polyline", "rect", "use"})
"""Elements that are written without an end."""


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def markup(value: object) -> Markup:
    """Return text as HTML: escaped, its control characters shown, cut where it is very long; markup stays."""
    if isinstance(value, Markup):
        return value
    text = str(value)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} [{len(text) - LONGEST:,} more characters]"
    return Markup(escape(printable(text)))


def lines(text: str, most: int) -> Markup:
    """Return text of several lines for `pre`, at most so many characters of it."""
    rest = len(text) - most
    text = "\n".join(printable(line.expandtabs(4)) for line in text[:most].split("\n"))
    return Markup(escape(text) + (f"\n[{rest:,} more characters]" if rest > 0 else ""))


def joined(*parts: object) -> Markup:
    """Return parts one behind the other; None is left out."""
    return Markup("".join(markup(part) for part in parts if part is not None))


def element(name: str, *children: object, **attributes: Any) -> Markup:
    """Return an element. An attribute that is None is left out.

    In the names of attributes ``_`` stands for a hyphen; one at the end is dropped, as in ``class_``.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{joined(*children)}</{name}>")


def _attribute(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return markup(value)


def table(head: list[object], rows: list[list[object]], caption: str, numbers: frozenset[int] = frozenset()) -> Markup:
    """Return a table. The first cell of each row is its heading; columns of `numbers` are set to the right."""

    def cells(row: list[object], is_head: bool = False) -> Markup:
        made = []
        for place, cell in enumerate(row):
            kind = "num" if place in numbers else None
            if is_head:
                made.append(element("th", cell, scope="col", class_=kind))
            elif place == 0:
                made.append(element("th", cell, scope="row", class_=kind))
            else:
                made.append(element("td", cell, class_=kind))
        return element("tr", *made)

    made = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", cells(head, is_head=True)),
        element("tbody", *map(cells, rows)),
    )
    # The table may be wider than the page and is moved sideways by itself; what it is called stays where it is.
    scrolled = element("div", made, class_="table", tabindex="0", role="region", aria_label=caption)
    return joined(element("p", caption, class_="caption", aria_hidden="true"), scrolled)
