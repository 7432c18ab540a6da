"""What a shell is offered at Tab: by click's own variables, of a process, and by a real bash."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_programs import Command, environment, run_here
from platforms import posix
from processes import LONG

from rigsync import Rig, cli
from rigsync.cli.push import MESSAGES

RIGS = "cameras:left: 10.0.0.1\ncameras:right: 10.0.0.2\nleft laser: nowhere.invalid\n"
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """Return a function that gives what is offered for the last of some words; it fails where anything else is told."""

    def offered(*words: str, shell: str = "fish", **more: str) -> list[str]:
        # fish gives the word that is typed, bash its number.
        typed = {"COMP_WORDS": " ".join(["rigsync", *words]), "COMP_CWORD": words[-1]}
        if shell == "bash":
            typed["COMP_CWORD"] = str(len(words))
        asked = environment(tmp_path, _RIGSYNC_COMPLETE=f"{shell}_complete", **typed, **more)
        if more:  # which a Python at its start is told
            with Command([], tmp_path, asked) as command:
                outcome = command.outcome()
        else:
            outcome = run_here([], tmp_path, asked)
        assert (outcome.status, outcome.err) == (0, "")
        return [line.partition(",")[2].partition("\t")[0] for line in outcome.out.splitlines() if line]

    return offered


@pytest.fixture
def commanded() -> Iterator[Rig]:
    with Rig("cameras", "udp://127.0.0.1:0") as rig:
        for name in ("focus", "fan", "$(touch x)", "two words"):
            rig.command(name)(lambda: None)
        yield rig


def test_commands_are_completed_and_none_is_loaded(complete: Complete) -> None:
    assert complete("") == list(cli.COMMANDS)
    assert complete("p") == ["ping", "push"]
    assert complete("--ver") == ["--version", "--verbose"]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["push", "--t"], ["--to", "--timeout", "--takeover"]),
        (["call", "--r"], ["--rigs"]),
        (["ping", "--c"], ["--count"]),
    ],
)
def test_options_are_completed(complete: Complete, words: list[str], options: list[str]) -> None:
    assert complete(*words) == options


def test_messages_are_completed(complete: Complete) -> None:
    assert complete("push", "") == list(MESSAGES)
    assert complete("push", "EXPS") == ["EXPSTART", "EXPSTATUS"]
    assert complete("push", "expsta") == ["EXPSTART", "EXPSTATUS"]
    assert complete("serve", "cameras", "--fail", "EXPE") == ["EXPEND"]


@pytest.mark.parametrize(
    "words",
    [["ping"], ["watch"], ["doctor"], ["call"], ["push", "EXPINFO", "--to"], ["run", "--to"], ["ping", "other"]],
)
def test_rigs_are_completed_from_the_file(complete: Complete, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "rigs.yaml").write_text(RIGS)
    assert complete(*words, "") == ["cameras:left", "cameras:right", "left laser"]
    assert complete(*words, "cameras:r") == ["cameras:right"]


def test_the_file_of_rigs_is_the_one_that_the_command_would_take(complete: Complete, tmp_path: Path) -> None:
    for name, rig in (("rigs", "here"), ("named", "named"), ("other", "other")):
        (tmp_path / f"{name}.yaml").write_text(f"{rig}: 10.0.0.1\n")
    assert complete("ping", "") == ["here"]
    assert complete("ping", "", RIGSYNC_RIGS="other.yaml") == ["other"]
    assert complete("ping", "--rigs", "named.yaml", "", RIGSYNC_RIGS="other.yaml") == ["named"]
    assert complete("ping", "--rigs", "~/named.yaml", "") == ["named"]


@pytest.mark.parametrize("text", [None, "", "rigs: [", "a: b\na: b\n", "a: {b: c}\n", "\0"])
def test_a_file_that_cannot_be_read_offers_nothing(complete: Complete, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "rigs.yaml").write_text(text)
    assert complete("ping", "") == complete("call", "cameras", "") == complete("ping", "--rigs", "gone.yaml", "") == []


@pytest.mark.parametrize("words", ["ping", "call", "push EXPINFO --to"])
def test_names_of_rigs_ask_nothing_of_the_network(tmp_path: Path, words: str) -> None:
    (tmp_path / "rigs.yaml").write_text(RIGS)
    program = """
import os, socket
socket.getaddrinfo = socket.socket.connect = socket.socket.sendto = lambda *_, **__: os._exit(3)
from rigsync import cli
cli.main()
"""
    assert "left laser" in outcome_of(program, tmp_path, f"rigsync {words} ").stdout


def test_commands_of_a_rig_are_those_that_it_has(complete: Complete, tmp_path: Path, commanded: Rig) -> None:
    (tmp_path / "rigs.yaml").write_text(f"cameras: {commanded.uri}\n")
    # What a shell might read otherwise is not offered, since it comes from another computer.
    assert complete("call", "cameras", "") == ["fan", "focus"]
    assert complete("call", "cam*", "fo") == ["focus"]
    assert complete("call", "cameras", "focus", "") == []
    assert complete("call", "ephys", "") == []


def test_a_rig_that_says_nothing_offers_nothing(complete: Complete, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        (tmp_path / "rigs.yaml").write_text(f"cameras: 127.0.0.1:{deaf.getsockname()[1]}\nlost: nowhere.invalid\n")
        assert complete("call", "cameras", "") == []
    assert complete("call", "cameras", "") == complete("call", "lost", "") == []


@pytest.mark.parametrize("dialect", ["auto", "iblutil"])
def test_a_rig_that_a_connection_might_take_from_its_task_is_not_asked(
    complete: Complete, tmp_path: Path, dialect: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        (tmp_path / "rigs.yaml").write_text(f"rigs: {{cameras: {{uri: '{uri}', dialect: {dialect}}}}}\n")
        assert complete("call", "cameras", "") == []
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_name_server_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text("cameras: camera-pc\n")
    program = f"""
import socket, time
socket.getaddrinfo = lambda *_, **__: time.sleep({10 * LONG})
from rigsync import cli
cli.main()
"""
    assert outcome_of(program, tmp_path, "rigsync call cameras ").stdout.strip() == ""


def outcome_of(program: str, folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    """Run a program for the completion of the empty word after some words; check that it tells nothing else."""
    asked = {"_RIGSYNC_COMPLETE": "fish_complete", "COMP_WORDS": words, "COMP_CWORD": ""}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(folder, **asked),
        capture_output=True,
        text=True,
        timeout=3 * LONG,
        check=True,
    )
    assert done.stderr == ""
    return done


def test_bash_gets_words_that_it_can_read(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "rigs.yaml").write_text(RIGS)
    assert complete("ping", "", shell="bash") == ["cameras:left", "cameras:right", "'left laser'"]
    # Bash ends a word at a colon, and leaves what is before it as it is.
    assert complete("ping", "cameras", ":", shell="bash") == ["left", "right"]
    assert complete("ping", "cameras", ":", "r", shell="bash") == ["right"]
    assert complete("ping", "cameras", ":", "left", "l", shell="bash") == ["'left laser'"]


def bash() -> str | None:
    """Return a bash that click has a script for."""
    found = shutil.which("bash")
    test = "[[ ${BASH_VERSINFO[0]} -gt 4 || ${BASH_VERSINFO[0]} -eq 4 && ${BASH_VERSINFO[1]} -ge 4 ]]"
    return found if found and subprocess.run([found, "-c", test], check=False).returncode == 0 else None


@posix
@pytest.mark.parametrize(
    ("words", "reply"),
    [("push EXPSTA", "EXPSTART EXPSTATUS"), ("ping cameras : r", "right"), ("ping le", "'left laser'"), ("ca", "call")],
)
def test_what_the_help_says_switches_it_on_in_bash(tmp_path: Path, words: str, reply: str) -> None:
    shell = bash()
    if not shell:
        pytest.skip("no bash from 4.4 on")
    (tmp_path / "rigs.yaml").write_text(RIGS)
    program = tmp_path / "rigsync"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rigsync "$@"\n')
    program.chmod(0o755)
    told = subprocess.run([program, "--help"], env=environment(tmp_path), capture_output=True, text=True, check=True)
    line = re.search(r'eval "\$\(.*?\)"', told.stdout)
    assert line
    script = f"{line[0]}\nCOMP_WORDS=(rigsync {words})\nCOMP_CWORD={len(words.split())}\n"
    done = subprocess.run(
        [shell, "--norc", "-c", script + '_rigsync_completion rigsync\necho "${COMPREPLY[@]}"'],
        cwd=tmp_path,
        env=(env := environment(tmp_path)) | {"PATH": f"{tmp_path}:{env['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (reply, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(tmp_path: Path, shell: str) -> None:
    outcome = run_here([], tmp_path, environment(tmp_path, _RIGSYNC_COMPLETE=f"{shell}_source"))
    assert outcome.status == 0
    assert f"_RIGSYNC_COMPLETE={shell}_complete" in outcome.out


def test_the_page_of_the_lab_says_how_to_switch_it_on() -> None:
    page = (Path(__file__).parents[1] / "docs" / "lab.md").read_text(encoding="utf-8")
    for shell in ("bash", "zsh", "fish"):
        assert f"{cli.COMPLETE}={shell}_source rigsync" in page
