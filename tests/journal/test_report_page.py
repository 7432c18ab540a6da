"""The report in a real browser: what it shows, and what it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, chromium

from journal.made_up import MadeUp, unlucky
from rigsync.journal.query import Journal
from rigsync.journal.report.writing import page

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here")

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&\x1b[2J\u202e"
"""What a rig may send as a name, a text, a path."""
MANY = 16
MARKS = "document.querySelectorAll('svg.lane use').length"


def written(folder: Path, made: MadeUp) -> str:
    made.write(folder / "journal.sqlite")
    with Journal(folder / "journal.sqlite") as journal:
        text, _ = page(journal, journal.session(made.ref))
    (folder / "report.html").write_text(text, encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def shown() -> Iterator[Browser]:
    program = chromium()
    assert program
    with browser(program) as started:
        yield started


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("report"), unlucky())


def text_of(shown: Browser, selector: str) -> list[str]:
    found: list[str] = shown.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.textContent.trim())"
    )
    return found


def test_it_asks_for_nothing_and_complains_of_nothing(shown: Browser, usual: str) -> None:
    shown.show(usual)
    assert shown.asked == [usual]
    assert shown.said == []
    assert shown.run("document.scripts.length") == 0
    assert (
        shown.run("getComputedStyle(document.querySelector('.verdict')).borderTopStyle") == "double"
    )  # its style holds


def test_the_policy_of_the_page_lets_nothing_in(shown: Browser, usual: str) -> None:
    shown.show(usual)
    shown.run("void document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x.png\">')")
    shown.run(
        "document.body.insertAdjacentHTML('beforeend', '<b id=b style=\"color: rgb(1, 2, 3)\" onclick=\"1\">x</b>')"
    )
    shown.run("new Promise(done => setTimeout(done, 100))")
    assert any("x.png" in said and "Content Security Policy" in said for said in shown.said)
    assert shown.run("getComputedStyle(document.getElementById('b')).color") != "rgb(1, 2, 3)"


def test_it_begins_with_what_is_missing(shown: Browser, usual: str) -> None:
    shown.show(usual)
    (verdict,) = text_of(shown, ".verdict p")
    assert verdict == "Not complete: 1 of 4 rigs lacks something (ephys)"
    (missing,) = text_of(shown, ".verdict li")
    assert missing.startswith("ephys: EndedBadly: the recorder died")
    top = "document.querySelector('.verdict').getBoundingClientRect().bottom"
    assert shown.run(top) < 300


def test_every_rig_has_a_lane_with_its_messages_states_and_troubles(shown: Browser, usual: str) -> None:
    shown.show(usual)
    made = unlucky()
    assert shown.run("[...document.querySelectorAll('section.rig')].map(each => each.dataset.rig)") == list(made.rigs)
    for rig in made.rigs:
        lane = f"document.querySelector('section.rig[data-rig=\"{rig}\"]')"
        box: dict[str, float] = shown.run(f"{lane}.querySelector('svg').getBoundingClientRect().toJSON()")
        assert box["width"] > 800
        assert box["height"] > 50
        for message in ("info", "init", "start", "end", "cleanup"):
            assert shown.run(f"{lane}.querySelectorAll('use[href=\"#m-{message}\"]').length") == 1
        assert shown.run(f"{lane}.querySelectorAll('.s-RUNNING').length") == 1
        assert shown.run(f"{lane}.querySelectorAll('.s-handler').length") >= 4
    assert text_of(shown, "section[data-rig='cameras:right'] .s-silent title") == [
        "lost for 72.0 s: it has been silent for 5 beats"
    ]
    assert text_of(shown, "section[data-rig=ephys] text.number") == ["2", "3"]
    assert text_of(shown, "section[data-rig='cameras:left'] use[href='#m-notice'] title") == ["dropped: 12 frames"]


def test_shapes_stand_where_their_time_is(shown: Browser, usual: str) -> None:
    """The recording fills the middle of the lane, the loss its proper place there."""
    shown.show(usual)
    box = "document.querySelector(\"section[data-rig='cameras:right'] {}\").getBoundingClientRect()"
    left, right = (shown.run(f"{box.format('.s-RUNNING')}.{side}") for side in ("left", "right"))
    lost = shown.run(f"{box.format('.s-silent')}.left")
    whole = shown.run(f"{box.format('svg')}.width")
    assert right - left > 0.5 * whole
    assert left + 0.2 * whole < lost + 0.1 * whole < right
    assert shown.run("document.querySelectorAll('svg.lane rect.gap').length") == 2 * 4


def test_the_starts_have_a_mark_and_a_bound_each(shown: Browser, usual: str) -> None:
    shown.show(usual)
    assert shown.run("document.querySelectorAll('svg.starts .bound').length") == 4
    assert len(text_of(shown, "svg.starts .point title")) == 4
    assert text_of(shown, ".lead")[0].startswith("EXPSTART: 4 rigs began within 1.780 ms of each other")
    assert shown.run("document.querySelectorAll('svg.starts .guess').length") == 1  # of the one that only arrived


@pytest.mark.parametrize("width", [400, 1280])
def test_no_page_is_wider_than_its_window(shown: Browser, usual: str, width: int) -> None:
    shown.show(usual, width=width)
    assert shown.run("document.documentElement.scrollWidth") <= width
    sizes: list[float] = shown.run("[...document.querySelectorAll('svg text')].map(each => each.getBBox().height)")
    assert min(sizes) > 10  # legible, and not made small to fit
    outside = shown.run(
        "[...document.querySelectorAll('svg.draw text')].filter(each => each.getBoundingClientRect().right > innerWidth"
        " || each.getBoundingClientRect().left < 0).length"
    )
    assert outside == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_by_day_and_by_night(shown: Browser, usual: str, scheme: str) -> None:
    shown.show(usual, scheme=scheme)
    paper: str = shown.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for selector in ("body", ".verdict li", "dt", "caption + thead th", "td", ".note", "svg .tick", "svg .number"):
        colour: str = shown.run(
            f"(found => found instanceof SVGElement ? getComputedStyle(found).fill : getComputedStyle(found).color)"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        assert contrast(colour, paper) >= 4.5, selector  # WCAG 2.2, 1.4.3


def test_states_differ_without_colour(shown: Browser, usual: str) -> None:
    """In the grey of a printer: dark, hatched, dotted, empty."""
    shown.show(usual)
    fills = [
        shown.run(f"getComputedStyle(document.querySelector('.s-{state}')).fill")
        for state in ("RUNNING", "STOPPED", "INITIALIZED", "CONNECTED", "silent")
    ]
    assert len(set(fills)) == 5
    assert luminance(fills[0]) < 0.2
    assert [fill.startswith("url(") for fill in fills] == [False, True, True, False, True]


def test_whoever_cannot_see_hears_the_same(shown: Browser, usual: str) -> None:
    shown.show(usual)
    nodes: list[dict[str, Any]] = shown.call("Accessibility.getFullAXTree")["nodes"]
    told = [
        (node["role"]["value"], node.get("name", {}).get("value", ""), node.get("description", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    ]
    images = [name for role, name, _ in told if role in ("image", "img")]
    assert images
    assert all(images)
    lost = [name for name in images if name.startswith("cameras:right")]
    assert any("lost for 72.0 s" in name for name in lost)
    assert any("RUNNING from" in name for name in lost)
    headings = [name for role, name, _ in told if role == "heading"]
    assert headings[:3] == ["2026-11-25_1_mouse7", "What was recorded", "Over time"]
    tables = [name for role, name, _ in told if role == "table"]
    assert len(tables) >= 7
    assert all(tables)
    assert {role for role, *_ in told} >= {"columnheader", "rowheader", "main", "status"}


def test_it_can_be_printed(shown: Browser, usual: str) -> None:
    shown.show(usual)
    shown.call("Emulation.setEmulatedMedia", media="print")
    assert shown.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    printed = shown.call("Page.printToPDF", printBackground=True)["data"]
    shown.call("Emulation.setEmulatedMedia", media="")
    assert len(printed) > 20_000


def test_hostile_text_is_text(shown: Browser, tmp_path: Path) -> None:
    names = [f"cameras{HOSTILE}", "ephys"]
    made = MadeUp(
        ref=f"2026-11-25_1_{HOSTILE}",
        rigs=names,
        troubles={names[0]: HOSTILE},
        outcome="incomplete",
        notices=[(names[0], 0.5, HOSTILE, {HOSTILE: HOSTILE})],
        failing=[(names[0], 0.6, HOSTILE, HOSTILE)],
        silent={names[0]: (0.2, 0.3)},
        recorded={
            "ephys": {"seconds": 1, "files": [{"path": HOSTILE, "bytes": 0, "frames": None, "verified": HOSTILE}]}
        },
        about={HOSTILE: HOSTILE, "files": {HOSTILE: f"rigs: {HOSTILE}\n</pre>{HOSTILE}"}},
        program=HOSTILE,
        host=HOSTILE,
    )
    address = written(tmp_path, made)
    shown.show(address, width=400)
    assert shown.asked == [address]
    assert shown.said == []
    assert "owned" in shown.run("document.title")  # as text
    assert shown.run("document.querySelectorAll('script, img, [onerror]').length") == 0
    assert shown.run("document.documentElement.scrollWidth") <= 400
    assert (
        shown.run("document.body.innerText.includes('\\u202e') || document.body.innerText.includes('\\x1b')") is False
    )
    lane = text_of(shown, "section.rig h3")[0]
    assert lane.startswith("cameras</script><script>")
    assert "\\x1b[2J\\u202e" in lane
    missing = text_of(shown, ".verdict li")
    assert missing[0].startswith("cameras</script>")
    assert any(text.startswith("ephys: ") and text.endswith("is empty") for text in missing)


def test_two_hours_with_16_rigs_are_less_than_a_megabyte(shown: Browser, tmp_path: Path) -> None:
    rigs = [f"rig{number:02}" for number in range(MANY)]
    notices = [(rig, number / 100, "note", {"text": f"number {number}"}) for rig in rigs for number in range(100)]
    address = written(tmp_path, MadeUp(rigs=rigs, seconds=7200.0, notices=notices))
    size = (tmp_path / "report.html").stat().st_size
    assert 100_000 < size < 1_000_000
    shown.show(address)
    assert shown.said == []
    assert text_of(shown, ".verdict p") == [f"Complete: {MANY} rigs, {2 * MANY} files, 145 GB"]
    assert shown.run("document.querySelectorAll('section.rig').length") == MANY
    assert shown.run("document.querySelectorAll('section.link').length") == MANY
    assert text_of(shown, ".left-out") == ["1,200 more are not listed: rigsync log 2026-11-25_1_mouse7 shows all."]
    assert "Neighbouring values are drawn as one" in text_of(shown, "#links ~ .note")[0]
    assert shown.run(MARKS) < 16 * (6 + 100 + 1)


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2 of a colour such as ``rgb(1, 2, 3)``."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
