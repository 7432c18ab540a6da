"""Which regular expressions may be searched for in a recorder's lines: none that may take long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigsync.agent.expressions import LONGEST_PROGRESS, MayTakeLong, check_is_quick

QUICK = [
    r"frame=\s*(\d+)",
    r"(?i)frames?[ :=]+(\d+)",
    r"^\s*frame\s+(\d+)\s*/\s*\d+$",
    r"(?:frame|frames|frm)\s*=?\s*(\d+)",
    r"\[?frame\]?\s*[:=]?\s*(\d+)",
    r"(\d+) ?(?:frames|images)",
    r"wrote (\d+) of \d+ frames in [\d.]+ s",
    r"[^,]*,[^,]*,(\d+)",
    r"^[^\d]*(\d+)",
    r".*?(\d+) frames",
    r"(?<=frame)\s*(\d+)",
    r"(?P<n>\d{1,9})x",
    r"(?:(?:a{2}){3})*(b)",
    r"(?:ab)+(\d)",
    r"(é+)é*x",
    r"(a)b{0}",
    r"x=\d+\.?\d*\s+y=\d+\.?\d*\s+(\d+)",
    r".*frame=\s*(\d+)",
    r".*frames?: (\d+)",
    r"^.*\bframe[ _]?#?(\d+)",
    r"n:\s*(\d+)\s+pts:\s*\d+\s+pts_time:[\d.]+",
]
ALIKE = "several of its repeats match the same characters"
SLOW = {
    r"(a+)+b": "a repeat or alternatives are within a repeat",
    r"(?:\d+,)*(\d+)": "a repeat or alternatives are within a repeat",
    r"(?:ab|a)+(\d)": "a repeat or alternatives are within a repeat",
    r"(a?){50}b": "a repeat or alternatives are within a repeat",
    r"(\w+)\1": "it refers to a group of its own",
    r"(a)?(?(1)b|c)": "it refers to a group of its own",
    r".*frame.*?(\d+)": ALIKE,
    r".*.*.*x(1)": ALIKE,
    r"[^a]*[^b]*[^c]*(x)": ALIKE,
    r"é*\w*(é+)x": ALIKE,
    r"٣*\d*(٤+)x": ALIKE,
    r"(?i)a*A*(a+)x": ALIKE,
    "a?" * 30 + "(a{30})": ALIKE,
    "(?:a|aa)" * 20 + "(b)": ALIKE,
    "(?:a+|b)" * 3 + "(c)": ALIKE,
    "(?=a*)" * 3 + "(c)": ALIKE,
    r"(\d+\.?\d*)\s+\d+\.?\d*\s+\d+\.?\d* x": ALIKE,
    "".join(f"{letter}*{letter}*" for letter in "abcdefghij") + "(x)": ALIKE,
    "".join(f"{one}*[{one}{two}]{{2}}{two}*" for one, two in zip("abcdefgh", "ijklmnop", strict=True)) + "(x)": ALIKE,
    "".join(f"{one}*[{one}{two}]{{9}}{two}*" for one, two in zip("abcd", "ijkl", strict=True)) + "(x)": ALIKE,
    "c?[ab]*[ab]*[ab]*(x)": ALIKE,
    "[^é]*ü*[^é]*ü*(x)": ALIKE,
    r"\w*½*\w*½*(x)": ALIKE,
    r"\D*²*\D*²*(x)": ALIKE,
    "(?i)[\u017f-\u0180]*s*[\u017f-\u0180]*s*(x)": ALIKE,
}


@pytest.mark.parametrize("expression", QUICK)
def test_quick(expression: str) -> None:
    check_is_quick(expression)


@pytest.mark.parametrize(("expression", "why"), SLOW.items())
def test_slow(expression: str, why: str) -> None:
    with pytest.raises(MayTakeLong) as raised:
        check_is_quick(expression)
    assert str(raised.value).startswith(why)


ATOMS = st.sampled_from(["a", "b", ".", r"\w", "[ab]", "[^b]", "(?:ab)", "(?:a|b)", "(?:a|aa)", "(?:a|b+)", "(?:aa?)"])
REPEATS = st.sampled_from(["", "", "*", "+", "?", "*?", "{2}", "{0,9}"])
EXPRESSIONS = st.lists(st.tuples(ATOMS, REPEATS), min_size=1, max_size=12).map(
    lambda parts: "".join(atom + repeat for atom, repeat in parts) + "(c)"
)


@given(EXPRESSIONS)
def test_what_is_taken_for_quick_ends(expression: str) -> None:
    """Of two characters, 12 places: what is exponential would hang here."""
    try:
        check_is_quick(expression)
    except MayTakeLong:
        return
    for text in ("a", "ab", "aab", "b"):
        assert not re.search(expression, (text * LONGEST_PROGRESS)[:LONGEST_PROGRESS])
