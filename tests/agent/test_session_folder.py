"""`{session_path}` and `{bids}` of an agent: the folder of a session, and nothing outside it."""

from __future__ import annotations

import json
import os

import pytest
from processes import LONG

from agent.test_agent import REFERENCE, SAYS_ITS_ARGUMENTS, Lab, failure, init, lab
from rigsync.agent.template import OF_THE_SESSION, SubstitutionError, Template, Use
from rigsync.agent.values import Values

__all__ = ["lab"]  # a fixture


def filled(text: str, subject: str, use: Use = Use.ARGUMENT) -> str:
    return Template.parse(text, OF_THE_SESSION, use=use).fill(Values("EXPINIT", "left", f"2026-01-31_1_{subject}"))


def test_its_folders_are_part_of_a_path() -> None:
    assert filled("/data/{session_path}/left.mp4", "a b") == "/data/a b/2026-01-31/001/left.mp4"
    assert filled("/data/{bids}_left.mp4", "a_b") == "/data/sub-ab/ses-20260131001_left.mp4"
    assert filled("/data/{session_path}/*.mp4", "[a]", Use.GLOB) == "/data/[[]a]/2026-01-31/001/*.mp4"
    assert filled("copy {session_path}", "a_b", Use.SHELL) == "copy a_b/2026-01-31/001"


@pytest.mark.parametrize(
    ("subject", "use"),
    [
        ("..", Use.ARGUMENT),
        ("a/../../..", Use.ARGUMENT),
        ("a/b", Use.ARGUMENT),
        ("a\\b", Use.ARGUMENT),
        ("a\uff0fb", Use.ARGUMENT),
        ("CON", Use.ARGUMENT),
        ("a\0b", Use.ARGUMENT),
        ("-rf", Use.ARGUMENT),
        ("a b", Use.SHELL),
        ("$(id)", Use.SHELL),
    ],
)
def test_a_subject_that_leads_elsewhere_is_refused(subject: str, use: Use) -> None:
    with pytest.raises(SubstitutionError, match=r"of \{session_path\}"):
        filled("{session_path}", subject, use)


def test_a_name_that_text_beside_it_makes_is_refused() -> None:
    with pytest.raises(SubstitutionError, match="device on Windows"):
        filled("/data/CO{session_path}", "N")


def test_an_agent_makes_it_and_tells_its_commands(lab: Lab) -> None:
    words = [*lab.program(SAYS_ITS_ARGUMENTS), "{session_path}", "{bids}"]
    lab.agent({"EXPINIT": {"run": words, "timeout": LONG}}, folders=["data/{session_path}", "data/{bids}"])
    init(lab.connect())
    assert (lab.folder / "data" / "mouse" / REFERENCE[:10] / f"{int(REFERENCE.split('_')[1]):03}").is_dir()
    assert len(os.listdir(lab.folder / "data" / "sub-mouse")) == 1
    lab.logged("RIGSYNC_EVENT")
    (line,) = [line for line in lab.log().splitlines() if "RIGSYNC_EVENT" in line]
    arguments, environment, *_ = json.loads(line.partition("] ")[2])
    assert arguments == [environment["RIGSYNC_SESSION_PATH"], environment["RIGSYNC_BIDS"]]


def test_a_subject_that_bids_has_no_name_for_is_refused_before_anything_runs(lab: Lab) -> None:
    lab.agent({"EXPINIT": {"run": lab.program("open('ran', 'w')")}}, folders=["data/{bids}"])
    error = failure(lab.connect(), "EXPINIT", {"exp_ref": "2026-01-31_1_мышь"})
    assert "other characters than letters and digits, which BIDS has not" in error.message
    assert os.listdir(lab.folder / "data") == []
    assert not (lab.folder / "ran").exists()
