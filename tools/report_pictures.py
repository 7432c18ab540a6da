"""Draws docs/report-1280.png and docs/report-400.png anew: the report of a made-up session, as Chromium shows it.

    .venv-3.11/bin/python tools/report_pictures.py

The pictures keep 128 colours, which is all that the page has but for a few shades: they are a fifth as large.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from browser import browser, chromium  # noqa: E402
from journal.made_up import unlucky  # noqa: E402

from rigsync.journal.query import Journal  # noqa: E402
from rigsync.journal.report.writing import page  # noqa: E402

HEIGHTS = {1280: 1720, 400: 2200}
"""Pixels that are shown, by width: down to how exactly the rigs began."""
COLOURS = 128


def main() -> int:
    """Draw them; return the exit status."""
    program = chromium()
    if program is None:
        print("there is no Chromium here; install it (Debian: chromium)", file=sys.stderr)
        return 1
    os.environ["TZ"] = "UTC"  # a page tells the time of day of the computer that makes it
    time.tzset()
    with tempfile.TemporaryDirectory() as folder, browser(program) as shown:
        path = Path(folder, "journal.sqlite")
        unlucky().write(path)
        with Journal(path) as journal:
            text, _ = page(journal, journal.session())
        made = Path(folder, "report.html")
        made.write_text(text, encoding="utf-8")
        for width, height in HEIGHTS.items():
            shown.show(made.as_uri(), width=width, height=height)
            picture = smaller(shown.picture(height))
            target = ROOT / "docs" / f"report-{width}.png"
            target.write_bytes(picture)
            print(f"{target.relative_to(ROOT)}: {len(picture) / 1000:.0f} kB")
    return 0


def smaller(picture: bytes) -> bytes:
    """Return a PNG with a palette for one of true colour (https://www.w3.org/TR/png-3/)."""
    width, height, depth, rows = decoded(picture)
    pixels = [row[at : at + 3] for row in rows for at in range(0, width * depth, depth)]
    numbers = Counter(pixels)
    palette = [colour for colour, _ in numbers.most_common(COLOURS)]
    place = {colour: number for number, colour in enumerate(palette)}
    for colour in numbers.keys() - place.keys():
        place[colour] = min(range(len(palette)), key=lambda number: _distance(colour, palette[number]))
    lines = []
    for begin in range(0, len(pixels), width):
        lines.append(b"\0" + bytes(place[pixel] for pixel in pixels[begin : begin + width]))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    data = zlib.compress(b"".join(lines), 9)
    chunks = ((b"IHDR", head), (b"PLTE", b"".join(palette)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def decoded(picture: bytes) -> tuple[int, int, int, list[bytes]]:
    """Return width, height, bytes of a pixel, and the rows of a PNG of 8 bits that is not interlaced."""
    at, data, head = 8, b"", b""
    while at < len(picture):
        (size,) = struct.unpack_from(">I", picture, at)
        kind, body = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + size]
        head = body if kind == b"IHDR" else head
        data += body if kind == b"IDAT" else b""
        at += 12 + size
    width, height, _, colour = struct.unpack_from(">IIBB", head)
    depth = {2: 3, 6: 4}[colour]
    size, raw = width * depth, zlib.decompress(data)
    rows, before = [], bytes(size)
    for number in range(height):
        begin = number * (size + 1)
        before = _unfiltered(raw[begin], raw[begin + 1 : begin + 1 + size], before, depth)
        rows.append(before)
    return width, height, depth, rows


def _unfiltered(kind: int, row: bytes, above: bytes, depth: int) -> bytes:
    made = bytearray(row)
    for at in range(len(made) if kind else 0):
        left = made[at - depth] if at >= depth else 0
        corner = above[at - depth] if at >= depth else 0
        made[at] = (
            made[at] + (left, above[at], (left + above[at]) // 2, _paeth(left, above[at], corner))[kind - 1] & 255
        )
    return bytes(made)


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


if __name__ == "__main__":
    raise SystemExit(main())
