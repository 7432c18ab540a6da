"""The values that a message gives to commands."""

from __future__ import annotations

import os
import posixpath
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rigsync.agent.file import AgentFile, Command, read_agent_file
from rigsync.agent.template import OF_THE_SESSION, PARTS, SubstitutionError
from rigsync.agent.values import (
    LONGEST_IN_ENVIRONMENT,
    ROOM_IN_ENVIRONMENT,
    Values,
    environment,
)
from rigsync.core.enums import ExpMessage

INIT = ExpMessage.EXPINIT
REFERENCE = "2026-01-31_1_mouse"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> AgentFile:
    path = tmp_path_factory.mktemp("agent") / "rig.yaml"
    path.write_text(
        "name: cameras\non:\n  EXPINIT:\n"
        "    run: record --ref={exp_ref} {date} {number} {message.x} /data/{subject}/{message.x}.mp4\n"
        "  EXPEND: {shell: true, run: 'record --ref={exp_ref} {subject} {message.x} > /data/{message.x}'}\n"
    )
    return read_agent_file(path)


def values(exp_ref: Any = REFERENCE, **data: Any) -> Values:
    return Values("EXPINIT", "cameras", exp_ref, data)


def command_of(file: AgentFile, event: ExpMessage) -> Command:
    run = file.on[event].run
    assert run
    return run.command


# -------------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize(
    ("exp_ref", "parts"),
    [
        (REFERENCE, (REFERENCE, "2026-01-31", "1", "mouse")),
        ("2024-02-29_001_a_b 3", ("2024-02-29_1_a_b 3", "2024-02-29", "1", "a_b 3")),
        ("2026-01-31_000_m", ("2026-01-31_0_m", "2026-01-31", "0", "m")),
        (
            {"date": "2026-01-31T12:00:00", "sequence": "002", "subject": "mouse"},
            ("2026-01-31_2_mouse", "2026-01-31", "2", "mouse"),
        ),
    ],
)
def test_the_parts_of_a_reference(exp_ref: Any, parts: tuple[str, ...]) -> None:
    found = values(exp_ref)
    assert tuple(found[name] for name in PARTS) == parts
    told = found.parts()
    assert told
    assert {name: told[name] for name in PARTS} == dict(zip(PARTS, parts, strict=True))


@pytest.mark.parametrize(
    ("exp_ref", "alf", "bids"),
    [
        (REFERENCE, "mouse/2026-01-31/001", "sub-mouse/ses-20260131001"),
        ("2026-01-31_007_SWC_0-4.3 b", "SWC_0-4.3 b/2026-01-31/007", "sub-SWC043b/ses-20260131007"),
        ("2026-01-31_1234_m", "m/2026-01-31/1234", "sub-m/ses-202601311234"),
        ("2026-01-31_1_мышь", "мышь/2026-01-31/001", None),
        ("2026-01-31_1_--", "--/2026-01-31/001", None),
        ("2026-01-31_1_a+b", "a+b/2026-01-31/001", None),
        ("2026-01-31_1_a/b", None, None),
        ("2026-01-31_1_..", None, None),
        ("2026-01-31_1_../..", None, None),
        ("2026-01-31_1_a\\b", None, None),
        ("2026-01-31_1_C:", None, None),
        ("2026-01-31_1_a.", None, "sub-a/ses-20260131001"),
        ("2026-01-31_1_a\nb", None, None),
    ],
)
def test_the_folder_of_a_session(exp_ref: str, alf: str | None, bids: str | None) -> None:
    found = values(exp_ref)
    told = found.parts()
    assert told
    for name, expected in (("session_path", alf), ("bids", bids)):
        assert told.get(name) == expected
        if expected is None:
            with pytest.raises(SubstitutionError, match="does not say which folder"):
                found[name]
        else:
            assert found[name] == expected


@pytest.mark.parametrize(
    "exp_ref",
    [
        "mouse",
        "2026-01-31",
        "2026-01-31_1",
        "2026-01-31_1_",
        "2026-01-31__mouse",
        "2026-01-31_-1_mouse",
        "2026-01-31_+1_mouse",
        "2026-01-31_a_mouse",
        "2026-01-31_\u0661_mouse",
        "2026-02-30_1_mouse",
        "0000-01-01_1_mouse",
        "26-01-31_1_mouse",
        "\u0662\u0660\u0662\u0666-01-31_1_mouse",
        " 2026-01-31_1_mouse",
        "../2026-01-31_1_mouse",
    ],
)
def test_what_is_no_reference_is_refused_where_it_is_used(file: AgentFile, exp_ref: str) -> None:
    found = Values(INIT.name, "cameras", exp_ref, {"x": "y"})
    for name in OF_THE_SESSION:
        with pytest.raises(SubstitutionError, match=rf"of \{{{name}\}} is not a reference yyyy-mm-dd_n_subject"):
            found[name]
    with pytest.raises(SubstitutionError):
        command_of(file, INIT).filled(found)
    assert found.parts() is None
    assert found["message.x"] == "y", "what does not come from it goes on"


@pytest.mark.parametrize("exp_ref", [None, ""])
def test_a_missing_reference(exp_ref: Any) -> None:
    with pytest.raises(SubstitutionError, match=r"EXPINIT names no exp_ref, which \{date\} needs"):
        values(exp_ref)["date"]


@pytest.mark.parametrize("exp_ref", [3, [REFERENCE], {"date": "2026-01-31"}, True, "x" * 501])
def test_a_reference_of_another_form(exp_ref: Any) -> None:
    with pytest.raises(SubstitutionError, match=r"of \{subject\} is no reference: an experiment reference"):
        values(exp_ref)["subject"]


@pytest.mark.parametrize(
    "subject",
    ["a/b", "../../etc", "..\\a", "C:", "a\nb", "..", ".", "a.", "nul"],
)
def test_a_subject_that_would_lead_elsewhere(file: AgentFile, subject: str) -> None:
    found = Values(INIT.name, "cameras", f"2026-01-31_1_{subject}", {"x": "y"})
    for event in (INIT, ExpMessage.EXPEND):
        with pytest.raises(SubstitutionError, match=r"of \{(exp_ref|subject)\}"):
            command_of(file, event).filled(found)


# ------------------------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize(
    ("value", "text"), [("a b", "a b"), (3, "3"), (1.5, "1.5"), (True, "true"), (-2, "-2"), (10**30, "1" + "0" * 30)]
)
def test_values_of_the_data(value: Any, text: str) -> None:
    assert values(x=value)["message.x"] == text


@pytest.mark.parametrize("value", [None, [], ["a"], {"a": "b"}, pytest.param(10**5000, id="digits")])
def test_what_has_no_text(value: Any) -> None:
    with pytest.raises(SubstitutionError, match=r"of \{message.x\} is neither text, nor true or false, nor a number"):
        values(x=value)["message.x"]


def test_data_that_are_missing() -> None:
    with pytest.raises(SubstitutionError, match=r"EXPINIT has no 'x' in its data, which \{message.x\} stands for"):
        values(y=1)["message.x"]


def test_data_that_are_missing_after_init_may_come_with_either() -> None:
    with pytest.raises(
        SubstitutionError, match=r"EXPSTART has no 'x' in its data, nor had EXPINIT.*send 'x' with either"
    ):
        Values("EXPSTART", "cameras", REFERENCE, {"y": 1})["message.x"]


def test_other_names_are_no_variables() -> None:
    for name in ("x", "message", "message.", "rig"):
        with pytest.raises(KeyError):
            values(x=1)[name]


# ---------------------------------------------------------------------------------------------------- any message


@settings(max_examples=500, deadline=None)
@given(
    subject=st.text(max_size=12) | st.text("a./\\:;$'\" -\n`(){}", max_size=8),
    exp_ref=JSON | st.none(),
    x=JSON | st.text("a./\\:;$'\" -\n`(){}", max_size=8),
)
def test_each_argument_stays_one_word(file: AgentFile, subject: str, exp_ref: Any, x: Any) -> None:
    for reference in (f"2026-01-31_1_{subject}", exp_ref):
        found = Values(INIT.name, "cameras", reference, {"x": x})
        for event in (INIT, ExpMessage.EXPEND):
            try:
                words = command_of(file, event).filled(found)
            except SubstitutionError as error:
                assert str(error).isprintable()  # noqa: PT017 - either way is right
                continue
            assert len(words) == (6 if event is INIT else 1)
            if event is INIT:
                assert words[0] == "record"
                assert not any(set(word) & set("/\\:\n\0") for word in words[1:5])
                assert not any(word.startswith("-") for word in words[2:5])
                assert words[5].startswith("/data/")
                assert words[5].count("/") == 3
                assert posixpath.normpath(words[5]) == words[5]
            else:
                assert not set(words[0]) & set(";$'\"`&|<(){}!^%#~*?[]\\\n")
                assert len(words[0].split()) == 6


# ------------------------------------------------------------------------------------------------ the environment


def test_the_environment() -> None:
    found = environment(values(operator="J. Doe; rm -rf /", weight=21.5, projects=["a", "ü"], ok=True, none=None))
    assert found == {
        "RIGSYNC_EVENT": "EXPINIT",
        "RIGSYNC_RIG": "cameras",
        "RIGSYNC_EXP_REF": REFERENCE,
        "RIGSYNC_DATE": "2026-01-31",
        "RIGSYNC_NUMBER": "1",
        "RIGSYNC_SUBJECT": "mouse",
        "RIGSYNC_SESSION_PATH": "mouse/2026-01-31/001",
        "RIGSYNC_BIDS": "sub-mouse/ses-20260131001",
        "RIGSYNC_OPERATOR": "J. Doe; rm -rf /",
        "RIGSYNC_WEIGHT": "21.5",
        "RIGSYNC_PROJECTS": '["a", "ü"]',
        "RIGSYNC_OK": "true",
        "RIGSYNC_NONE": "null",
    }


def test_no_data_overwrite_what_rigsync_says() -> None:
    names = ("event", "rig", "exp_ref", "Date", "NUMBER", "subject", "rigs", "journal", "bids", "session_path")
    found = environment(Values("EXPINIT", "cameras", REFERENCE, dict.fromkeys(names, "x")))
    assert "x" not in found.values()
    assert "RIGSYNC_JOURNAL" not in found, "it would tell rigsync in the command which journal to write"
    assert "RIGSYNC_RIGS" not in found, "it would tell rigsync in the command which file of rigs to read"


def test_of_two_names_that_differ_in_case_the_first_holds() -> None:
    assert environment(values(a="1", A="2"))["RIGSYNC_A"] == "1"


@pytest.mark.parametrize("key", ["", "a b", "a=b", "a-b", "1a", "é", "a\0", "a\n", "LD_PRELOAD=x"])
def test_keys_that_cannot_be_names(key: str) -> None:
    assert len(environment(Values("EXPINIT", "cameras", None, {key: "x"}))) == 2


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * LONGEST_IN_ENVIRONMENT, pytest.param(10**5000, id="digits")])
def test_values_that_cannot_stand_in_an_environment(value: Any) -> None:
    assert set(environment(values(None, x=value, y="z"))) == {"RIGSYNC_EVENT", "RIGSYNC_RIG", "RIGSYNC_Y"}


def test_a_malformed_reference_has_no_parts() -> None:
    found = environment(values("my session"))
    assert found == {"RIGSYNC_EVENT": "EXPINIT", "RIGSYNC_RIG": "cameras", "RIGSYNC_EXP_REF": "my session"}
    assert "RIGSYNC_EXP_REF" not in environment(values({"a": 1}))


def test_for_a_shell_only_what_it_cannot_misread() -> None:
    found = environment(Values("EXPINIT", "the rig", "2026-01-31_1_a b", {"x": "a&b", "y": "c"}), shell=True)
    assert found == {
        "RIGSYNC_EVENT": "EXPINIT",
        "RIGSYNC_RIG": "the rig",
        "RIGSYNC_DATE": "2026-01-31",
        "RIGSYNC_NUMBER": "1",
        "RIGSYNC_BIDS": "sub-ab/ses-20260131001",
        "RIGSYNC_Y": "c",
    }


def test_a_process_can_have_the_fullest_environment() -> None:
    full = environment(values(**{f"key{i}": "x" * 20_000 for i in range(100)}))
    assert ROOM_IN_ENVIRONMENT - 30_000 < sum(map(len, full.values())) < ROOM_IN_ENVIRONMENT
    program = "import os; print(sum(name.startswith('RIGSYNC_') for name in os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **full}, capture_output=True, check=True, timeout=60
    )
    own = sum(name.startswith("RIGSYNC_") for name in {**os.environ, **full})
    assert int(done.stdout) == own


@settings(max_examples=300, deadline=None)
@given(exp_ref=JSON, data=st.dictionaries(st.text(max_size=6), JSON, max_size=4), shell=st.booleans())
def test_any_message_has_an_environment(exp_ref: Any, data: dict[str, Any], shell: bool) -> None:
    found = environment(Values("EXPINIT", "cameras", exp_ref, data), shell=shell)
    for name, text in found.items():
        assert name.isidentifier()
        assert name.isascii()
        assert "\0" not in os.fsencode(text).decode("utf-8", "surrogateescape")
