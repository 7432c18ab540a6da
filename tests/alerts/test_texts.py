"""How alerts read: nothing that a rig says is code, an option, a mention or markup."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import posix

from alerts.support import REFERENCE, happening, webhook
from rigsync.alerts.command import desktop_problem, desktop_words, show, tell
from rigsync.alerts.limits import Limit
from rigsync.alerts.plan import Message
from rigsync.alerts.texts import environment_of, request_of, sentence, values_of, words_of
from rigsync.config.alerts import FIELDS, PRESETS, Hook

HOSTILE = [
    "-rf /",
    "--config=/etc/passwd",
    "/delete",
    "@/etc/passwd",
    "+!sh",
    "\0null",
    "a\nb\r\n\x1b[2J",
    "$(reboot) `reboot` ; reboot | reboot > x",
    '"; drop table; "',
    "%PATH% ^& calc",
    "{what} {{",
    "<!channel> <script>alert(1)</script> & @all [x](http://evil)",
    "\ud800 lone",
    "x" * 100_000,
    "\ufb00 \uff02 \u2215",  # what looks like ff " /
    "",
]


def values(text: str = "disk full", rig: str = "cameras", on: str = "failure", held_back: int = 0) -> dict[str, Any]:
    message = Message(on, 1_900_000_000.0, 0.0, REFERENCE, [happening(text, rig, on)], held_back)
    return values_of(message, "task-pc")


def test_the_fields() -> None:
    found = values(held_back=3)
    assert tuple(found) == FIELDS
    assert {**found, "time": ""} == {
        "on": "failure",
        "what": "cameras: disk full",
        "rig": "cameras",
        "exp_ref": REFERENCE,
        "host": "task-pc",
        "time": "",
        "held_back": 3,
    }
    assert found["time"].startswith("2030-03-1")
    assert sentence(found) == (
        f"failure: cameras: disk full ({REFERENCE}, task-pc, {found['time']}); 3 more were held back"
    )


def texts(document: Any) -> list[str]:
    if isinstance(document, dict):
        return [text for value in document.values() for text in texts(value)]
    if isinstance(document, list):
        return [text for value in document for text in texts(value)]
    return [document] if isinstance(document, str) else []


@pytest.mark.parametrize("preset", [*PRESETS, None])
def test_each_preset_has_the_body_of_its_service(preset: str | None) -> None:
    url, document = request_of(webhook("https://a.b/c/topic", preset), "https://a.b/c/topic", values())
    text = sentence(values())
    at_root = {"topic": "topic", "title": "failure: cameras", "message": text, "priority": 4}
    expected: dict[str | None, Any] = {
        "slack": {"text": text, "mrkdwn": False},
        "mattermost": {"text": re.sub(r"([_()])", r"\\\1", text)},
        "ntfy": at_root,
        None: {**values(), "text": text},
    }
    assert url == ("https://a.b/c/" if preset == "ntfy" else "https://a.b/c/topic")
    if preset == "teams":
        (card,) = document["attachments"]
        assert document["type"] == "message"
        assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert card["content"]["body"][0] == {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text}]}
    else:
        assert document == expected[preset]


@pytest.mark.parametrize("preset", [*PRESETS, None])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_in_every_body(preset: str | None, text: str) -> None:
    _, document = request_of(webhook("https://a.b/topic", preset), "https://a.b/topic", values(text, rig=text or "x"))
    data = json.dumps(document, allow_nan=False)
    assert json.loads(data) == document
    assert len(data) < 200_000
    for each in texts(document):
        assert each.replace("\u200b", "").isprintable()
        if preset == "slack":
            assert "<" not in each
        if preset == "mattermost":
            assert "@all" not in each
            assert "](" not in each


def test_a_body_of_one_s_own() -> None:
    body = {"title": "{on} on {rig}", "count": "{held_back}", "list": ["{exp_ref}", 7, {"x": None}], "{{a}}": "{{}}"}
    found = webhook("https://a.b", body=body)
    assert request_of(found, "https://a.b", values('say "{what}"'))[1] == {
        "title": "failure on cameras",
        "count": 0,
        "list": [REFERENCE, 7, {"x": None}],
        "{{a}}": "{}",
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_argument_and_no_option(tmp_path: Path, text: str) -> None:
    script = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps([sys.argv[2:], dict(os.environ)]))"
    words = (sys.executable, "-c", script, str(tmp_path / "told"), "{rig}", "--rig={rig}", "{rig}{what}", "{{rig}}")
    found = {**values(text, rig=text or "x")}
    tell(Hook(words, str(tmp_path)), found, Limit(30.0))
    arguments, environment = json.loads((tmp_path / "told").read_text())
    rig, option, both, literal = arguments
    assert rig.lstrip(" ") == found["rig"].lstrip(" ")
    assert rig[:1] == " " or rig[:1].isalnum()
    assert both[:1] == " " or both[:1].isalnum()
    assert option == f"--rig={found['rig']}"
    assert literal == "{rig}"
    assert environment["RIGSYNC_ALERT_RIG"] == found["rig"]
    assert environment["RIGSYNC_ALERT_HELD_BACK"] == "0"


@given(st.text())
def test_no_value_begins_an_argument_as_an_option(text: str) -> None:
    (word,) = words_of(Hook(("{what}",), "."), values(text, rig=""))
    assert word[:1].isalnum() or word[:1] in (" ", "_", "")
    assert "\0" not in word


def test_on_windows_no_letter_becomes_a_quote() -> None:
    found = values("\uff21 \uff02x\uff02 \u201cy\u201d \u00b5m", rig="")
    assert words_of(Hook(("{what}",), "."), found, windows=True) == ["\uff21 ?x? ?y? \u00b5m"]
    assert environment_of(found, windows=True)["RIGSYNC_ALERT_WHAT"] == "\uff21 ?x? ?y? \u00b5m"


# ----------------------------------------------------------------------------------------------------- the desktop


@posix
def test_a_notification_is_shown_by_notify_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for it on PATH: this says which words it gets, not what a desktop makes of them."""
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/told\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("DISPLAY", ":0")
    found = values("<b>-x & y</b>")
    show(found, Limit(30.0))
    *options, title, body = (tmp_path / "told").read_text().splitlines()
    assert options == ["--app-name=rigsync", "--urgency=critical", "--"]
    assert (title, body) == ("rigsync", sentence(found).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def test_where_there_is_no_desktop_it_says_so(tmp_path: Path) -> None:
    assert "there is no desktop" in str(desktop_problem("linux", {"PATH": str(tmp_path)}))
    assert "install it (Debian: libnotify-bin)" in str(
        desktop_problem("linux", {"PATH": str(tmp_path), "DISPLAY": ":0"})
    )
    assert "powershell is not there" in str(desktop_problem("win32", {"PATH": str(tmp_path)}))
    assert "osascript is not there" in str(desktop_problem("darwin", {"PATH": str(tmp_path)}))


def test_no_text_is_part_of_a_script() -> None:
    hostile = '-e do shell script "reboot" $(reboot)'
    windows = desktop_words(hostile, "win32")
    assert hostile not in " ".join(windows)
    *script, text = desktop_words(hostile, "darwin")
    assert text == f" {hostile}"
    assert hostile not in " ".join(script)


@pytest.mark.skipif(not shutil.which("pwsh"), reason="no PowerShell here")
def test_the_script_for_windows_is_one() -> None:
    script = desktop_words("", "win32")[-1]
    check = f"[void][scriptblock]::Create(@'\n{script}\n'@)"
    assert subprocess.run(["pwsh", "-NoProfile", "-Command", check], check=False).returncode == 0
