"""The commands against real rigs: what they print, where, and their exit status.

Those that a test starts are processes of their own; those that it runs to their end are not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from cli_programs import Command, Outcome, environment, has_ended, run_here
from platforms import needs_terminal, posix
from processes import LONG, FakeAlyx, IblutilServer, RigProgram, free_port, iblutil_net, until

import rigsync
from rigsync import PushResult, cli
from rigsync.cli import children, logs, push
from rigsync.cli.outcomes import answer_in_words
from rigsync.config.finding import user_config_file
from rigsync.core import messages
from rigsync.core.arguments import compose
from rigsync.core.enums import ExpMessage
from rigsync.core.ownership import LEASE
from rigsync.core.rigs import MAX_MESSAGE
from rigsync.doctor.findings import Fault

REFERENCE = "2026-01-31_1_mouse"
LEFT_TO_ITSELF = (
    f"nobody is in charge when this command has ended: rigs with a lease ({LEASE:g} s, unless they were told "
    "otherwise) interrupt when it is over\n"
)
ESCAPE = "\x1b"


class Commands:
    """Runs commands in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = environment(folder)

    def rigs(self, **uris: Any) -> None:
        """Write rigs.yaml."""
        self.write("rigs.yaml", json.dumps({"rigs": uris}, ensure_ascii=False))

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *arguments: str, **options: Any) -> Command:
        """Start a command."""
        return Command(list(arguments), self.folder, self.environment, **options)

    def run(self, *arguments: str, status: int = 0, **options: Any) -> Outcome:
        """Run a command to its end, which has to have that exit status; with options in a process of its own."""
        if options:
            with self.start(*arguments, **options) as command:
                outcome = command.outcome()
        else:
            outcome = run_here(arguments, self.folder, self.environment)
        assert outcome.status == status, outcome
        assert "Traceback" not in outcome.err
        assert ESCAPE not in outcome.out + outcome.err
        return outcome

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Run a command with --json, and return the one document that it prints."""
        return from_json(self.run(*arguments, "--json", status=status).out)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


@pytest.fixture
def silent() -> Iterator[int]:
    """Give a port that takes every datagram and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def from_json(text: str) -> Any:
    """Read JSON as programs do that are stricter than Python."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def table_of(text: str) -> list[dict[str, str]]:
    """Read the last table of an output: cells are two blanks apart, and the headings say where they begin or end."""
    lines = text.rstrip("\n").split("\n")
    heading = max(i for i, line in enumerate(lines) if line.startswith("rig "))
    names = re.split(r" {2,}", lines[heading])
    rows = [re.split(r" {2,}", line) for line in lines[heading + 1 :]]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


# ----------------------------------------------------------------------------------------------------- the whole


def test_help_imports_click_and_little_else(commands: Commands) -> None:
    program = """
import sys, click
before = set(sys.modules)
from rigsync import cli
try:
    sys.argv = ["rigsync", "--help"]
    cli.main()
finally:
    print("\\n".join(set(sys.modules) - before), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=commands.environment, capture_output=True, text=True, check=True
    )
    imported = set(done.stderr.split())
    assert "rigsync.cli" in imported
    heavy = {"asyncio", "dataclasses", "iblutil", "json", "logging", "numpy", "rich", "socket", "yaml"}
    assert not {name.partition(".")[0] for name in imported} & heavy
    assert {name for name in imported if name.startswith("rigsync")} == {
        "rigsync",
        "rigsync._text",
        "rigsync.cli",
        "rigsync.cli.loading",
        "rigsync.cli.options",
        "rigsync.errors",
    }


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_loads_neither_another_command_nor_iblutil(commands: Commands, name: str) -> None:
    with Command(
        [name, "--help"], commands.folder, {**commands.environment, "PYTHONPROFILEIMPORTTIME": "1"}
    ) as command:
        outcome = command.outcome()
    assert f"Usage: rigsync {name}" in outcome.out
    imported = set(re.findall(r"\| +([\w.]+)$", outcome.err, re.MULTILINE))
    assert "rigsync.cli.options" in imported
    others = {f"rigsync.cli.{other}" for other in cli.COMMANDS if other not in (name, "push")}
    assert not imported & {"iblutil", "numpy", *others}  # the words of a command line are read by push
    if name in (
        "push",
        "call",
        "rehearse",
        "run",
        "check",
        "start",
        "stop",
        "interrupt",
    ):  # which load the coordinator when they connect
        assert not imported & {"asyncio", "rigsync.coordinator.coordinator", "rigsync.rig.rig"}
    if name not in ("demo", "status", "watch"):  # a table in a pipe is plain
        assert "rich" not in imported
    if name in ("push", "call", "ping", "watch", "doctor", "status", "stop", "interrupt"):
        assert "rigsync.agent.file" not in imported


def test_what_a_command_loads_is_no_longer_looked_through_for_garbage() -> None:
    program = """
import gc
from rigsync.cli.loading import loading
with loading():
    assert not gc.isenabled()
    import json
assert gc.isenabled()
gc.collect()
assert not any(found is json.loads for found in gc.get_objects())
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_help_says_of_each_command_what_it_says_itself() -> None:
    context = click.Context(cli.cli)
    for name, text in cli.COMMANDS.items():
        command = cli.cli.get_command(context, name)
        assert command
        assert command.short_help == text


def test_help_lists_the_commands(commands: Commands) -> None:
    printed = commands.run("--help").out
    for name, text in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", printed, re.MULTILINE)


def test_version(commands: Commands) -> None:
    assert commands.run("--version").out == f"rigsync {rigsync.__version__}\n"


def test_a_misspelt_command_is_guessed(commands: Commands) -> None:
    outcome = commands.run("pign", status=2)
    assert "there is no command 'pign'; did you mean ping?" in outcome.err
    assert outcome.out == ""


def test_an_unknown_command_is_told_the_known_ones(commands: Commands) -> None:
    assert f"the commands are {', '.join(cli.COMMANDS)}" in commands.run("zzz", status=2).err


# --------------------------------------------------------------------------------------- where the rigs are found


def test_without_a_file_of_rigs_it_says_where_it_looked_and_what_to_write(commands: Commands) -> None:
    outcome = commands.run("ping", status=2)
    assert outcome.out == ""
    for text in (
        "--rigs",
        "RIGSYNC_RIGS",
        str(commands.folder / "rigs.yaml"),
        str(user_config_file(commands.environment)),
        "cameras: 192.168.1.20",
        "rigs.example.yaml",
    ):
        assert text in outcome.err


def test_the_example_that_it_gives_is_a_file_of_rigs(commands: Commands) -> None:
    example = re.search(r"^  rigs:\n(?:    .*\n)+", commands.run("ping", status=2).err, re.MULTILINE)
    assert example
    commands.write("rigs.yaml", example[0])
    assert list(commands.json("check")["rigs"]) == ["cameras", "neuropixel"]


def test_order_of_the_places(commands: Commands) -> None:
    places = [
        user_config_file(commands.environment).relative_to(commands.folder),
        Path("rigs.yaml"),
        Path("environment.yaml"),
        Path("option.yaml"),
    ]
    for i, place in enumerate(places):
        commands.write(str(place), f"rig{i}: 127.0.0.1")
        options = ["--rigs", "option.yaml"] if i == 3 else []
        if i == 2:
            commands.environment["RIGSYNC_RIGS"] = "environment.yaml"
        document = commands.json("check", *options)
        assert list(document["rigs"]) == [f"rig{i}"]
        assert (commands.folder / document["file"]).samefile(commands.folder / place)


@pytest.mark.parametrize(
    "arguments", [["ping"], ["push", "EXPINFO"], ["call", "cameras", "focus"], ["check"], ["doctor"], ["watch"]]
)
def test_a_faulty_file_is_told_with_file_line_and_key(commands: Commands, arguments: list[str]) -> None:
    commands.write("rigs.yaml", "rigs:\n  cameras:\n    uri: 127.0.0.1\n    timeout: soon\n")
    outcome = commands.run(*arguments, status=2)
    assert outcome.err.startswith("Error: rigs.yaml:4: rigs.cameras.timeout: expected a number of seconds above 0")
    assert outcome.out == ""


def test_check_as_json_of_a_faulty_file(commands: Commands) -> None:
    commands.write("rigs.yaml", "rigs:\n  cameras:\n    uri: 127.0.0.1\n    timeout: soon\n")
    outcome = commands.run("check", "--json", status=2)
    document = from_json(outcome.out)
    (error,) = document["errors"]
    problem = error.pop("problem")
    assert error == {"file": "rigs.yaml", "line": 4, "key": "rigs.cameras.timeout"}
    assert (document["file"], document["rigs"]) == ("rigs.yaml", {})
    assert outcome.err == f"Error: rigs.yaml:4: rigs.cameras.timeout: {problem}\n"


@pytest.mark.parametrize("arguments", [["ping"], ["push", "EXPINFO"], ["check"], ["doctor"]])
def test_all_mistakes_of_a_file_are_told_at_once(commands: Commands, arguments: list[str]) -> None:
    commands.write("rigs.yaml", "rigs:\n  cameras:\n    uri: 127.0.0.1:x\n    timeout: soon\n  ephys: [a]\n")
    outcome = commands.run(*arguments, status=2)
    places = ["3: rigs.cameras.uri: ", "4: rigs.cameras.timeout: ", "5: rigs.ephys: "]
    for line, place in zip(outcome.err.splitlines(), places, strict=True):
        assert line.startswith(f"Error: rigs.yaml:{place}")
    if arguments == ["check"]:
        errors = from_json(commands.run("check", "--json", status=2).out)["errors"]
        assert [f"{error['line']}: {error['key']}: " for error in errors] == places
        assert [f"Error: rigs.yaml:{place}{error['problem']}" for place, error in zip(places, errors, strict=True)] == (
            outcome.err.splitlines()
        )


@pytest.mark.parametrize("arguments", [["ping"], ["push", "EXPINFO"], ["call", "cameras", "focus"], ["watch"]])
def test_a_host_that_does_not_resolve_is_told_with_file_line_and_key(commands: Commands, arguments: list[str]) -> None:
    commands.write("rigs.yaml", "rigs:\n  cameras:\n    uri: nowhere.invalid\n")
    outcome = commands.run(*arguments, status=2)
    assert outcome.err.startswith("Error: rigs.yaml:3: rigs.cameras.uri: the host 'nowhere.invalid'")


@pytest.mark.parametrize("arguments", [["ping"], ["push", "EXPINFO"], ["check"]])
def test_a_file_without_rigs(commands: Commands, arguments: list[str]) -> None:
    commands.write("rigs.yaml", "rigs: {}\n")
    assert commands.run(*arguments, status=2).err.startswith("Error: rigs.yaml: there is no rig in it")


def test_the_named_file_does_not_exist(commands: Commands) -> None:
    assert "Error: gone.yaml: --rigs names this file" in commands.run("ping", "--rigs", "gone.yaml", status=2).err
    assert "Error: gone.yaml: cannot be read" in commands.run("check", "gone.yaml", status=2).err


# --------------------------------------------------------------------------------------------------------- check


def test_check_shows_what_was_understood(commands: Commands) -> None:
    commands.rigs(cameras={"uri": "localhost:5001", "timeout": 2.5, "resend": "true"}, ephys="[::1]:5002")
    outcome = commands.run("check")
    assert table_of(outcome.out) == [
        {
            "rig": "cameras",
            "uri": "udp://localhost:5001",
            "address": "127.0.0.1:5001",
            "dialect": "auto",
            "timeout": "2.5 s",
            "resend": "yes",
        },
        {
            "rig": "ephys",
            "uri": "udp://[::1]:5002",
            "address": "[::1]:5002",
            "dialect": "auto",
            "timeout": "10 s",
            "resend": "no",
        },
    ]
    assert outcome.err == "rigs.yaml: 2 rigs\n"


def test_check_as_json(commands: Commands) -> None:
    commands.rigs(cameras="127.0.0.1:5001")
    rig = {
        "uri": "udp://127.0.0.1:5001",
        "address": "127.0.0.1:5001",
        "dialect": "auto",
        "timeout": 10,
        "resend": False,
    }
    assert commands.json("check") == {"file": "rigs.yaml", "rigs": {"cameras": rig}, "alerts": [], "errors": []}


def test_check_shows_the_other_rigs_where_one_does_not_resolve(commands: Commands) -> None:
    commands.write("rigs.yaml", "rigs:\n  lost: nowhere.invalid\n  cameras: 127.0.0.1\n")
    outcome = commands.run("check", status=2)
    assert [(row["rig"], row["address"]) for row in table_of(outcome.out)] == [
        ("lost", "not found"),
        ("cameras", "127.0.0.1:11001"),
    ]
    assert (
        "Error: rigs.yaml:2: rigs.lost.uri: the host 'nowhere.invalid' of rig 'lost' cannot be resolved" in outcome.err
    )
    document = commands.json("check", status=2)
    assert document["rigs"]["lost"]["address"] is None
    assert [(error["line"], error["key"]) for error in document["errors"]] == [(2, "rigs.lost.uri")]


def test_check_finds_two_rigs_at_one_address(commands: Commands) -> None:
    commands.write("rigs.yaml", "cameras: 127.0.0.1:5001\nephys: localhost:5001\n")
    outcome = commands.run("check", status=2)
    assert "Error: rigs.yaml:2: rigs.ephys.uri: rigs 'cameras' and 'ephys' have the same address" in outcome.err
    assert len(table_of(outcome.out)) == 2


def test_check_takes_one_file(commands: Commands) -> None:
    assert "either FILE or --rigs FILE" in commands.run("check", "a.yaml", "--rigs", "b.yaml", status=2).err


# ---------------------------------------------------------------------------------------------------------- ping


def test_ping_tells_each_answer_and_sums_up(commands: Commands, serve: Callable[..., Any]) -> None:
    rig = serve("cameras")
    address = rig.uri.removeprefix("udp://")
    commands.rigs(cameras=rig.uri)
    outcome = commands.run("ping", "-c", "3", "-i", "0.05")
    answers = re.findall(
        rf"^cameras \({address}\): rigsync {rigsync.__version__}, CONNECTED, seq=(\d) time=\d+\.\d{{3}} ms, "
        r"offset [+-]\d+\.\d ms ± \d+\.\d$",
        outcome.out,
        re.MULTILINE,
    )
    assert answers == ["1", "2", "3"]
    (row,) = table_of(outcome.out)
    shown = {"rig": "cameras", "status": "CONNECTED", "received": "3 of 3"}
    assert {**row, **shown} == row
    assert 0 < float(row["min"]) <= float(row["avg"]) <= float(row["max ms"])
    assert outcome.err == ""


def test_ping_as_json(commands: Commands, serve: Callable[..., Any]) -> None:
    rig = serve("cameras")
    commands.rigs(cameras=rig.uri)
    found = commands.json("ping", "-c", "2", "-i", "0.05")["rigs"]["cameras"]
    times, clock = found.pop("round_trip_ms"), found.pop("clock")
    assert abs(time.time() - found.pop("heard")) < LONG
    assert abs(clock["offset_ms"]) <= clock["bound_ms"] < 1000  # it is one clock
    assert set(clock) == {"offset_ms", "bound_ms", "delay_ms", "drift_ppm"}
    assert 0 < times["min"] <= times["avg"] <= times["max"]
    assert times["mdev"] == pytest.approx((times["max"] - times["min"]) / 2)  # of two probes
    assert found == {
        "address": rig.uri.removeprefix("udp://"),
        "dialect": "rigsync",
        "version": rigsync.__version__,
        "status": "CONNECTED",
        "exp_ref": None,
        "owner": None,
        "owner_heard": None,
        "interrupts_at": None,
        "failures": {},
        "status_reason": None,
        "link": "alive",
        "sent": 2,
        "received": 2,
        "loss": 0,
        "failure": None,
        "problem": None,
        "advice": None,
    }


def test_ping_tells_the_experiment_of_a_rig(
    commands: Commands, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    connect(rig).request("EXPINIT", {"exp_ref": REFERENCE})
    commands.rigs(cameras=rig.uri)
    outcome = commands.run("ping", "-c", "1")
    assert f"INITIALIZED {REFERENCE}, seq=1" in outcome.out
    assert commands.json("ping", "-c", "1")["rigs"]["cameras"]["owner"] == "127.0.0.1"
    assert table_of(outcome.out)[0]["status"] == f"INITIALIZED {REFERENCE}"


def test_ping_knows_an_iblutil_rig(commands: Commands) -> None:
    with IblutilServer("cameras") as rig:
        commands.rigs(cameras=f"127.0.0.1:{rig.port}")
        outcome = commands.run("ping", "-c", "1")
    assert re.search(r"^cameras \(127\.0\.0\.1:\d+\): iblutil, seq=1 time=", outcome.out)
    assert "offset" not in outcome.out
    row = table_of(outcome.out)[0]
    assert (row["status"], row["received"]) == ("-", "1 of 1")


def test_ping_tells_a_refused_port_from_silence(commands: Commands, serve: Callable[..., Any], silent: int) -> None:
    refused = free_port()
    commands.rigs(cameras=serve("cameras").uri, mute=f"127.0.0.1:{silent}", gone=f"127.0.0.1:{refused}")
    outcome = commands.run("ping", "-c", "1", "-W", "1.5", status=1)
    lines = outcome.out.split("\n")
    assert f"mute (127.0.0.1:{silent}): no answer within 1.5 s, seq=1" in lines
    assert f"gone (127.0.0.1:{refused}): refused, seq=1: the host is up, and nothing listens at that port" in lines
    assert [(row["rig"], row["status"], row["received"], row["avg"] == "-") for row in table_of(outcome.out)] == [
        ("cameras", "CONNECTED", "1 of 1", False),
        ("mute", "no answer", "0 of 1", True),
        ("gone", "refused", "0 of 1", True),
    ]
    assert "mute: check that its computer is on and in this network (ping 127.0.0.1)" in outcome.out
    assert f"no firewall, there or here, keeps UDP port {silent} closed; rigsync doctor mute finds out" in outcome.out
    assert re.search(r"^gone: the host .* is up and nothing listens at that port; start", outcome.out, re.MULTILINE)
    assert outcome.err == ""


def test_ping_tells_a_rig_of_another_name(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("ephys").uri)
    outcome = commands.run("ping", "-c", "1", status=1)
    says = re.findall(r"^cameras.*: the rig at .* says that it is ephys", outcome.out, re.MULTILINE)
    assert len(says) == 2  # the line of the probe, and what to do
    assert [row["status"] for row in table_of(outcome.out)] == ["wrong rig"]
    assert "computer is on" not in outcome.out


def test_ping_of_silence_and_refusal_as_json(commands: Commands, silent: int) -> None:
    commands.rigs(mute=f"127.0.0.1:{silent}", gone=f"127.0.0.1:{free_port()}")
    rigs = commands.json("ping", "-c", "1", "-W", "0.2", status=1)["rigs"]
    assert [rigs[name]["failure"] for name in ("mute", "gone")] == ["RigTimeout", "RigRefused"]
    assert all(rig["received"] == 0 and rig["round_trip_ms"] is None and rig["advice"] for rig in rigs.values())


def test_ping_of_the_rigs_that_are_named(commands: Commands, serve: Callable[..., Any], silent: int) -> None:
    rigs = {
        "cameras:left": serve("cameras:left").uri,
        "cameras:right": serve("cameras:right").uri,
        "mute": f"127.0.0.1:{silent}",
    }
    commands.rigs(**rigs)
    assert list(commands.json("ping", "cameras:*", "-c", "1")["rigs"]) == ["cameras:left", "cameras:right"]
    assert list(commands.json("ping", "cameras:right", "-c", "1")["rigs"]) == ["cameras:right"]


@pytest.mark.parametrize(
    "arguments", [["ping", "camras"], ["push", "EXPINFO", "--to", "camras"], ["call", "camras", "focus"]]
)
def test_an_unknown_rig_is_told_the_known_ones_the_closest_first(commands: Commands, arguments: list[str]) -> None:
    commands.rigs(ephys="127.0.0.1:5001", mesoscope="127.0.0.1:5002", cameras="127.0.0.1:5003")
    outcome = commands.run(*arguments, status=2)
    assert outcome.err == "Error: no rig matches 'camras'; the rigs are: cameras, ephys, mesoscope\n"


@pytest.mark.parametrize(
    "options", [["-c", "0"], ["-c", "x"], ["-i", "0"], ["-i", "nan"], ["-W", "-1"], ["-W", "inf"], ["--nonsense"]]
)
def test_junk_options_of_ping(commands: Commands, options: list[str]) -> None:
    commands.rigs(cameras="127.0.0.1")
    outcome = commands.run("ping", *options, status=2)
    assert "Usage: rigsync ping" in outcome.err
    assert outcome.out == ""


@posix
def test_ping_of_a_rig_on_tcp_that_is_killed_and_comes_back(commands: Commands) -> None:
    with RigProgram("cameras", "tcp://127.0.0.1:0", handlers={}) as rig:
        commands.rigs(cameras=rig.uri)
        with commands.start("ping", "-i", "0.05", "-W", "0.2") as command:
            about = f"cameras ({rig.uri.removeprefix('tcp://')}): "
            answer = f"{about}rigsync {rigsync.__version__}, CONNECTED, seq="
            command.line(answer)
            rig.kill()
            command.line(f"{about}refused, seq=")
            with RigProgram("cameras", rig.uri, handlers={}):
                command.line(answer)
                command.interrupt()
                outcome = command.outcome()
    assert outcome.status == 0
    (row,) = table_of(outcome.out)
    received, _, sent = row["received"].partition(" of ")
    assert 0 < int(received) < int(sent)
    assert "Traceback" not in outcome.err


def test_ping_of_a_silent_rig_on_tcp_names_the_port_to_open(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taking:
        port = taking.getsockname()[1]
        commands.rigs(mute=f"tcp://127.0.0.1:{port}")
        outcome = commands.run("ping", "-c", "1", "-W", "0.2", status=1)
    assert f"keeps TCP port {port} closed" in " ".join(outcome.out.split())


@posix
def test_ping_goes_on_until_ctrl_c_and_sums_up(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras").uri)
    with commands.start("ping", "-i", "0.05") as command:
        for _ in range(3):
            command.line("cameras (")
        command.interrupt()
        outcome = command.outcome()
    assert outcome.status == 0
    assert int(table_of(outcome.out)[0]["received"].split(" of ")[0]) >= 3
    assert outcome.err == ""


@posix
def test_ping_as_json_prints_its_document_on_ctrl_c(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras").uri)
    with commands.start("ping", "-i", "0.05", "--json", "-v") as command:
        assert "cameras is alive" in command.error_line()
        command.interrupt()
        outcome = command.outcome()
    found = json.loads(outcome.out)["rigs"]["cameras"]
    assert found["sent"] >= found["received"]
    assert outcome.status == (0 if found["received"] else 1)
    assert "Traceback" not in outcome.err


def test_ping_ends_when_nobody_reads_any_more(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras").uri)
    with commands.start("ping", "-i", "0.05") as command:
        command.line("cameras (")
        assert command.process.stdout
        command.process.stdout.close()
        command.process.stdout = None
        outcome = command.outcome()
    assert (outcome.status, outcome.err) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_of_one_line(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras").uri)
    with open("/dev/full", "w") as full, commands.start("ping", "-c", "1", stdout=full) as command:
        outcome = command.outcome()
    assert outcome.status == 1
    assert outcome.err == f"Error: cannot write the output: {os.strerror(errno.ENOSPC)}\n"


def test_what_a_rig_says_cannot_command_the_terminal(
    commands: Commands, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    connect(rig).request("EXPINIT", "\x1b[2Jmouse\u202e\n")
    commands.rigs(cameras=rig.uri)
    assert "INITIALIZED \\x1b[2Jmouse\\u202e\\n, seq=1" in commands.run("ping", "-c", "1").out
    assert (
        json.loads(commands.run("ping", "-c", "1", "--json").out)["rigs"]["cameras"]["exp_ref"]
        == "\x1b[2Jmouse\u202e\n"
    )


def test_what_a_rig_says_takes_no_line_of_its_own(commands: Commands, serve: Callable[..., Any]) -> None:
    def fail() -> None:
        raise OSError("no disk\nephys ok 0.1 [0]")

    commands.rigs(cameras=serve("cameras", {"EXPINFO": fail}).uri)
    outcome = commands.run("push", "EXPINFO", status=1)
    (row,) = table_of(outcome.out)
    assert outcome.out.endswith("RemoteError: OSError: no disk\\nephys ok 0.1 [0]\n")
    assert row["rig"] == "cameras"
    assert outcome.err == ""


def test_the_log_keeps_the_lines_of_tracebacks_only() -> None:
    try:
        raise ValueError("\x1b[2Jlost")
    except ValueError as error:
        record = logging.LogRecord(
            "rigsync.rig", logging.ERROR, "", 0, "%s", ("two\nlines",), (type(error), error, None)
        )
    plain, full = logs._PlainFormatter(), logs._FullFormatter("%(name)s: %(message)s")
    assert plain.format(record) == "Error: two\\nlines"
    moment = time.strftime("%H:%M:%S", time.localtime(record.created))
    assert logs._PlainFormatter(with_time=True).format(record) == f"{moment} Error: two\\nlines"
    assert full.format(record) == "rigsync.rig: two\\nlines\nValueError: \\x1b[2Jlost"


@posix  # and a shell that can close a stream
@pytest.mark.parametrize(
    ("arguments", "status", "redirection"),
    [
        (["push", "EXPINFO"], 0, ">&-"),
        (["call", "cameras", "focus"], 1, "<&- >&- 2>&-"),
        (["ping", "-c", "1"], 0, ">&-"),
        (["check", "--json"], 0, "<&- >&- 2>&-"),
        (["push", "EXPSTRAT"], 2, "2>&-"),
    ],
    ids=str,
)
def test_commands_do_without_the_streams_that_are_closed(
    commands: Commands, serve: Callable[..., Any], arguments: list[str], status: int, redirection: str
) -> None:
    commands.rigs(cameras=serve("cameras").uri)
    commands.run(*arguments, status=status, redirection=redirection)


@posix
def test_serve_answers_without_a_stdout(commands: Commands) -> None:
    port = free_port()
    commands.rigs(cameras=f"127.0.0.1:{port}")
    options = ["cameras", "--uri", f"udp://127.0.0.1:{port}"]
    with commands.start("serve", *options, redirection=">&-") as command:
        assert "listens on" in command.error_line()
        assert list(commands.json("push", "EXPINFO")["answers"]) == ["cameras"]
        command.interrupt()
        assert command.outcome().status == 0


def test_a_rig_may_have_any_name(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.environment["PYTHONIOENCODING"] = "ascii"
    commands.rigs(**{"Mäuse 🐁": serve("Mäuse 🐁").uri})
    assert "M\\xe4use \\U0001f401 (127.0.0.1" in commands.run("ping", "-c", "1").out


# ---------------------------------------------------------------------------------------------------------- push


def test_push_shows_each_answer(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras", {"EXPSTART": lambda ref: {"files": [ref]}}).uri, ephys=serve("ephys").uri)
    commands.run("push", "EXPINIT", json.dumps({"exp_ref": REFERENCE}))
    outcome = commands.run("push", "expstart", REFERENCE)
    rows = table_of(outcome.out)
    assert [(row["rig"], row["outcome"]) for row in rows] == [("cameras", "ok"), ("ephys", "ok")]
    assert all(float(row["ms"]) > 0 for row in rows)
    assert [row["answer"] for row in rows] == [
        f'RUNNING {REFERENCE} {{"files": ["{REFERENCE}"]}}',
        f"RUNNING {REFERENCE}",
    ]
    assert outcome.err == LEFT_TO_ITSELF


def test_push_shows_the_whole_answer_with_v(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras", {"EXPINFO": lambda: {"free": 7}}).uri)
    assert table_of(commands.run("push", "EXPINFO").out)[0]["answer"] == 'CONNECTED {"free": 7}'
    assert table_of(commands.run("push", "EXPSTATUS").out)[0]["answer"] == "CONNECTED"
    status, info = json.loads(table_of(commands.run("push", "EXPINFO", "-v").out)[0]["answer"])
    assert (status, info["free"], info["rig_version"]) == (0, 7, rigsync.__version__)


@pytest.mark.parametrize(
    ("message", "answer", "shown"),
    [
        ("EXPINIT", [{"status": 10, "exp_ref": None}], "INITIALIZED"),
        ("EXPSTART", [{"date": 1}, {"status": 20, "exp_ref": {"n": 1}, "n": 5}], 'RUNNING {"n": 1} {"n": 5}'),
        ("EXPINIT", [{"status": 11}], '[{"status": 11}]'),
        ("EXPINIT", [{"status": [1]}], '[{"status": [1]}]'),
        ("EXPINIT", [{}], "[{}]"),
        ("EXPINIT", [None], "[null]"),
        ("EXPEND", [], "[]"),
        ("EXPSTATUS", ["20"], '["20"]'),
        ("EXPSTATUS", [20, 5], "[20, 5]"),
        ("ALYX", ["https://alyx", {"sync": "f3a8"}], '["https://alyx", {"sync": "***"}]'),
    ],
    ids=str,
)
def test_answers_of_any_shape_are_shown(message: str, answer: list[Any], shown: str) -> None:
    assert answer_in_words(PushResult(message, 1.0, {"cameras": answer}, {}), "cameras") == shown


def test_push_takes_an_experiment_over(
    commands: Commands, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    commands.rigs(cameras=rig.uri)
    owner, told = connect({"cameras": rig.uri}), []
    owner.on("Notice", told.append)
    owner.request("EXPINIT", REFERENCE)
    (refused,) = table_of(commands.run("push", "EXPEND", status=1).out)
    assert refused["answer"].startswith("BusyError: EXPEND refused: the coordinator on ")
    until(lambda: told)  # its program is this one, so that the next command's output would have it
    taken = commands.run("push", "EXPINIT", REFERENCE, "--takeover")
    assert (table_of(taken.out)[0]["outcome"], taken.err) == ("ok", LEFT_TO_ITSELF)
    assert "ok" in commands.run("push", "EXPEND").out
    for arguments in (["EXPEND", "--takeover"], ["EXPINIT", "--takeover"], ["EXPINIT", "5", "--takeover"]):
        assert "--takeover goes with EXPINIT and the reference" in commands.run("push", *arguments, status=2).err


def test_push_for_an_instant_tells_when_each_rig_began(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras").uri, ephys=serve("ephys").uri)
    commands.run("push", "EXPINIT", json.dumps({"exp_ref": REFERENCE}))
    outcome = commands.run("push", "EXPSTART", REFERENCE, "--delay", "0.3")
    for name in ("cameras", "ephys"):
        assert re.search(rf"^{name} began [+-]\d+\.\d\d ± \d+\.\d\d ms from the instant$", outcome.out, re.MULTILINE)
    assert re.search(r"^\d+\.\d\d ms between the first and the last$", outcome.out, re.MULTILINE)
    document = commands.json("push", "EXPEND", "--delay", "0.3")
    # Nearer to the instant than to the sending; how near depends on what was known of the clock by then.
    assert document["starts"]["cameras"]["time"] > document["at"] - 0.15
    assert document["skew"] >= 0
    assert "not an instant within the hour ahead" in commands.run("push", "EXPEND", "--delay", "4000", status=2).err
    refused = commands.run("push", "EXPINTERRUPT", "--delay", "1", status=2).err
    assert "EXPINTERRUPT acts at once; leave out --delay" in refused


def test_push_as_json(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras").uri, gone=f"127.0.0.1:{free_port()}")
    document = commands.json("push", "EXPINFO", "CONNECTED", status=1)
    assert document["message"] == "EXPINFO"
    assert document["request_time"] > 1e9
    assert document["answers"]["cameras"][0] == 0
    assert list(document["ms"]) == ["cameras"]
    assert document["failed"]["gone"]["type"] == "RigRefused"
    assert "nothing listens at that port" in document["failed"]["gone"]["problem"]
    assert document["failed"]["gone"]["traceback"] is None


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("12", 12),
        ("2026-01-31", "2026-01-31"),
        ("mouse", "mouse"),
        ("NaN", "NaN"),
        ("12e456", "12e456"),
        ("\u00e4", "\u00e4"),
    ],
    ids=str,
)
def test_push_takes_arguments_as_json_or_else_as_text(argument: str, value: Any) -> None:
    from rigsync.cli.push import value_of

    assert value_of(argument) == value


@pytest.mark.parametrize("argument", ["{exp_ref:foo}", '{"a":', " [a]", "[" * 100_000, "{\x1b[2J"], ids=lambda a: a[:9])
def test_push_takes_no_json_that_a_shell_has_spoilt_for_text(argument: str) -> None:
    from rigsync.cli.push import value_of

    with pytest.raises(ValueError, match=r"^ ?[{\[].* looks like JSON and is not: .*; on Windows write ") as caught:
        value_of(argument)
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)
    (example,) = re.findall(r'on Windows write ("\{.*\}"),', str(caught.value))
    assert value_of(json.loads(example)) == {"exp_ref": REFERENCE}  # such a text is quoted there as in JSON


@pytest.mark.parametrize("name", ExpMessage.__members__)
def test_push_says_what_follows_each_message(commands: Commands, name: str) -> None:
    follow, _ = push.MESSAGES[name]
    with pytest.raises(TypeError, match="takes at most"):
        compose(name, *[None] * (max(1, len(follow)) + 1))
    compose(name, *[None] * len(follow))
    too_many = commands.run("push", name.lower(), *["1"] * (len(follow) + 1), status=2).err
    if follow:
        plural = "" if len(follow) == 1 else "s"
        assert f"{name} takes at most {len(follow)} argument{plural} ({', '.join(follow)}), got" in too_many
    else:
        assert f"{name} takes no argument, got 1" in too_many


def test_help_of_push_lists_the_messages_and_fits(commands: Commands) -> None:
    text = commands.run("push", "--help").out
    listed = re.findall(r"^    ([A-Z]+)((?: \[[A-Z_]+\])*) +[a-z]", text, re.MULTILINE)
    assert [(name, tuple(re.findall(r"\w+", follow))) for name, follow in listed] == [
        (name, follow) for name, (follow, _) in push.MESSAGES.items()
    ]
    assert set(push.MESSAGES) == set(ExpMessage.__members__)
    assert max(map(len, text.splitlines())) <= 80
    assert "rigsync push EXPINIT 2026-01-31_1_mouse\n" in text
    assert f"after {LEASE:g} s" in text.replace("\n", " ")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_push_takes_no_list_or_map_with_what_is_no_number(number: str) -> None:
    from rigsync.cli.push import value_of

    with pytest.raises(ValueError, match=f"^{number} is no number that JSON can carry"):
        value_of(f'{{"x": [1, {number}]}}')


def test_json_has_words_for_what_is_no_number(commands: Commands, serve: Callable[..., Any]) -> None:
    odd = {"dff": [math.nan, math.inf, -math.inf, 1.5]}
    commands.rigs(cameras=serve("cameras", {"EXPINFO": lambda: odd}).uri)
    (_, information) = commands.json("push", "EXPINFO", "CONNECTED")["answers"]["cameras"]
    assert information["dff"] == ["NaN", "Infinity", "-Infinity", 1.5]


def test_push_hands_its_arguments_over(commands: Commands, serve: Callable[..., Any]) -> None:
    told: list[Any] = []
    commands.rigs(cameras=serve("cameras", {"EXPINIT": told.append}).uri)
    commands.run("push", "EXPINIT", json.dumps({"exp_ref": REFERENCE, "n": 3}))
    assert told == [{"exp_ref": REFERENCE, "n": 3}]


def test_push_to_some(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(**{name: serve(name).uri for name in ("cameras:left", "cameras:right", "ephys", "mesoscope")})
    document = commands.json("push", "EXPINFO", "--to", "cameras:*", "--to", "ephys")
    assert set(document["answers"]) == {"cameras:left", "cameras:right", "ephys"}


def test_push_tells_what_a_handler_raised_once_and_its_traceback_with_v(
    commands: Commands, serve: Callable[..., Any]
) -> None:
    def fail() -> None:
        raise FileNotFoundError("no disk")

    commands.rigs(cameras=serve("cameras", {"EXPINFO": fail}).uri)
    outcome = commands.run("push", "EXPINFO", status=1)
    assert table_of(outcome.out) == [
        {"rig": "cameras", "outcome": "failed", "ms": "-", "answer": "RemoteError: FileNotFoundError: no disk"}
    ]
    assert outcome.err == ""
    with commands.start("-v", "push", "EXPINFO") as command:
        verbose = command.outcome()
    assert verbose.out == outcome.out
    assert "Traceback (most recent call last)" in verbose.err
    assert 'raise FileNotFoundError("no disk")' in verbose.err
    traceback = commands.json("push", "EXPINFO", status=1)["failed"]["cameras"]["traceback"]
    assert traceback.startswith("Traceback (most recent call last)")


def test_push_allows_the_time_that_it_is_given(commands: Commands, serve: Callable[..., Any]) -> None:
    let_go = threading.Event()
    try:
        commands.rigs(cameras=serve("cameras", {"EXPINFO": lambda: let_go.wait(60) and None}).uri)
        document = commands.json("push", "EXPINFO", "--timeout", "0.3", status=1)
    finally:
        let_go.set()
    assert document["failed"]["cameras"]["type"] == "RigTimeout"


def test_push_of_an_unknown_message_lists_the_messages(commands: Commands) -> None:
    outcome = commands.run("push", "EXPSTRAT", status=2)
    assert "EXPSTRAT" in outcome.err
    assert all(name in outcome.err for name in ExpMessage.__members__)


@pytest.mark.parametrize(
    "arguments",
    [
        ["push"],
        ["push", "EXPEND", "1", "2"],
        ["push", "EXPINFO", "NOWHERE"],
        ["push", "EXPINIT", '{"n": 1}', "--timeout", "nan"],
        ["push", "EXPINIT", '"%s"' % ("x" * 70_000)],
        ["push", "ALYX", "token"],
        ["push", "EXPINIT", '{"x": 1e400}'],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_junk_arguments_of_push_are_found_before_anything_is_sent(commands: Commands, arguments: list[str]) -> None:
    outcome = commands.run(*arguments, status=2)  # without a file of rigs, which would be the next complaint
    assert "Usage: rigsync push" in outcome.err
    assert outcome.out == ""


def test_push_never_shows_a_token(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(cameras=serve("cameras", {"ALYX": lambda: ("https://alyx.example.org", {"sync": "f3a8"})}).uri)
    assert commands.json("push", "ALYX")["answers"] == {"cameras": ["https://alyx.example.org", {"sync": "***"}]}
    with commands.start("-vv", "push", "ALYX") as command:
        outcome = command.outcome()
    assert "***" in outcome.out
    assert "f3a8" not in outcome.out + outcome.err


@posix
def test_ctrl_c_ends_a_push(commands: Commands, serve: Callable[..., Any]) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def dawdle() -> None:
        begun.set()
        let_go.wait(60)

    try:
        commands.rigs(cameras=serve("cameras", {"EXPINFO": dawdle}).uri)
        with commands.start("push", "EXPINFO", "--timeout", "60") as command:
            assert begun.wait(30)
            command.interrupt()
            outcome = command.outcome()
    finally:
        let_go.set()
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "\ninterrupted\n")


# ---------------------------------------------------------------------------------------------------------- call


@pytest.fixture
def commanded(commands: Commands, serve: Callable[..., Any]) -> Commands:
    """A rig that knows some commands, and its configuration."""
    rig, other = serve("cameras"), serve("cameras:2")

    @rig.command
    def told(*args: Any, **keywords: Any) -> list[Any]:
        return [list(args), keywords]

    @rig.command
    def value(what: Any) -> Any:
        return what

    @rig.command
    def fail() -> None:
        raise OSError("no \x1b[2Jdisk\nephys ok")

    commands.rigs(**{"cameras": rig.uri, "cameras:2": other.uri})
    return commands


def test_call_takes_words_with_an_equals_sign_as_keywords(commanded: Commands) -> None:
    words = ["1", "left", "z=3", "path=/data/a=b", 'list=["a", 1]', "a-b=1", '"c=d"', "x=", "on=true"]
    args, keywords = commanded.json("call", "cameras", "told", *words)["value"]
    assert args == [1, "left", "a-b=1", "c=d"]
    assert keywords == {"z": 3, "path": "/data/a=b", "list": ["a", 1], "x": "", "on": True}
    assert commanded.run("call", "cameras", "told", "--", "-2.5").out == "[[-2.5], {}]\n"


@pytest.mark.parametrize(
    ("word", "printed"),
    [("3", "3"), ("text", "text"), ("null", "null"), ("é\n", "é\\n"), ('{"a": [1, "é"]}', '{"a": [1, "é"]}')],
)
def test_call_prints_the_value(commanded: Commands, word: str, printed: str) -> None:
    outcome = commanded.run("call", "cameras", "value", word)
    assert (outcome.out, outcome.err) == (f"{printed}\n", "")


def test_call_as_json(commanded: Commands) -> None:
    document = commanded.json("call", "cameras", "value", '{"a": 1}')
    assert document == {"rig": "cameras", "command": "value", "value": {"a": 1}, "failed": None}
    failed = commanded.json("call", "cameras", "fail", status=1)
    assert (failed["value"], failed["failed"]["type"]) == (None, "RemoteError")
    assert failed["failed"]["traceback"].startswith("Traceback (most recent call last)")


def test_call_tells_what_the_command_raised_and_its_traceback_with_v(commanded: Commands) -> None:
    outcome = commanded.run("call", "cameras", "fail", status=1)
    assert (outcome.out, outcome.err) == (
        "",
        "Error: cameras: RemoteError: OSError: no \\x1b[2Jdisk\\nephys ok\n",
    )
    with commanded.start("-v", "call", "cameras", "fail") as command:
        assert 'raise OSError("no' in command.outcome().err


def test_call_without_a_command_lists_the_commands(commanded: Commands) -> None:
    outcome = commanded.run("call", "cameras")
    assert (outcome.out, outcome.err) == ("fail\ntold\nvalue\n", "")
    assert commanded.json("call", "cameras") == {"rig": "cameras", "commands": ["fail", "told", "value"]}
    none = commanded.run("call", "cameras:2")
    assert (none.out, none.err) == ("", "cameras:2 has no commands: its program defines them by @rig.command\n")


def test_a_list_of_commands_that_is_cut_says_so_and_has_no_part_of_a_name(
    commands: Commands, serve: Callable[..., Any]
) -> None:
    rig, names = serve("cameras"), [f"turn_the_wheel_number_{number}" for number in range(200)]
    for name in names:
        rig.command(name)(print)
    commands.rigs(cameras=rig.uri)
    outcome = commands.run("call", "cameras")
    assert set(outcome.out.split()) < set(names)
    assert outcome.err == "cameras has more commands than there is room for in its answer\n"


def test_call_without_a_command_tells_why_it_cannot_list_them(commands: Commands) -> None:
    commands.rigs(cameras=f"udp://127.0.0.1:{free_port()}")
    *_, told = commands.run("call", "cameras", status=1).err.splitlines()
    assert told.startswith("Error: cameras: RigRefused: ")


def test_call_of_an_unknown_command_lists_the_commands(commanded: Commands) -> None:
    outcome = commanded.run("call", "cameras", "valu", status=1)
    assert "UnknownCommand: the rig has no command 'valu'; it has: value, " in outcome.err
    assert "it has: (none)" in commanded.run("call", "cameras:2", "value", status=1).err


def test_call_with_arguments_that_do_not_fit(commanded: Commands) -> None:
    assert "missing 1 required positional argument: 'what'" in commanded.run("call", "cameras", "value", status=1).err


def test_call_is_for_one_rig(commanded: Commands) -> None:
    outcome = commanded.run("call", "cam*", "value", "1", status=2)
    assert "'cam*' matches cameras, cameras:2; name one of them" in outcome.err
    assert commanded.run("call", "*:2", "value", "1", status=1).out == ""


def test_call_of_an_iblutil_rig_says_what_to_do(commands: Commands) -> None:
    with IblutilServer("ephys") as ephys:
        commands.rigs(ephys=ephys.uri)
        outcome = commands.run("call", "ephys", "focus", status=1)
    assert "NotSupported: focus was not sent: the rig speaks the iblutil dialect" in outcome.err
    assert "rigsync serve" in outcome.err


def test_call_allows_the_time_that_it_is_given(commands: Commands, serve: Callable[..., Any]) -> None:
    let_go = threading.Event()
    rig = serve("cameras")
    rig.command("wait")(lambda: let_go.wait(60))
    commands.rigs(cameras=rig.uri)
    try:
        document = commands.json("call", "cameras", "wait", "--timeout", "0.3", status=1)
    finally:
        let_go.set()
    assert document["failed"]["type"] == "RigTimeout"


@pytest.mark.parametrize(
    "arguments",
    [
        ["call"],
        ["call", "cameras", "EXPSTART"],
        ["call", "cameras", ""],
        ["call", "cameras", "focus", "z=1", "z=2"],
        ["call", "cameras", "focus", "timeout=5"],
        ["call", "cameras", "focus", "z={a: 1}"],
        ["call", "cameras", "focus", "z=[1e400]"],
        ["call", "cameras", "focus", "-3"],
        ["call", "cameras", "focus", "--timeout", "0"],
        ["call", "cameras", "focus", "x" * 70_000],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_junk_arguments_of_call_are_found_before_anything_is_sent(commands: Commands, arguments: list[str]) -> None:
    outcome = commands.run(*arguments, status=2)  # without a file of rigs, which would be the next complaint
    assert "Usage: rigsync call" in outcome.err
    assert outcome.out == ""


# --------------------------------------------------------------------------------------------------------- serve


@contextlib.contextmanager
def serving(commands: Commands, *options: str) -> Iterator[Command]:
    """Run `rigsync serve cameras --json` at a free port, and make it the one rig of rigs.yaml."""
    with commands.start("serve", "cameras", "--uri", "udp://127.0.0.1:0", "--json", *options) as command:
        commands.rigs(cameras=json.loads(command.line())["listening"])
        yield command


def test_serve_has_the_lease_of_every_rig(commands: Commands) -> None:
    assert f"[default: {LEASE}" in " ".join(commands.run("serve", "--help").out.split())


def test_serve_interrupts_after_its_lease(commands: Commands) -> None:
    with serving(commands, "--lease", "0.5") as command:
        commands.run("push", "EXPINIT", json.dumps({"exp_ref": REFERENCE}))
        told = [json.loads(command.line()) for _ in range(2)]
        assert [line["message"] for line in told] == ["EXPINIT", "EXPINTERRUPT"]
        assert "silent for the lease of 0.5 s" in told[1]["args"][0]["reason"]
        assert commands.json("ping", "-c", "1")["rigs"]["cameras"]["status"] == "STOPPED"


def test_serve_refuses_what_is_over_its_max_message(commands: Commands, connect: Callable[..., Any]) -> None:
    listen = ["--uri", "tcp://127.0.0.1:0", "--max-message", "100000"]
    with commands.start("serve", "cameras", "--json", *listen) as command:
        auxiliaries = connect({"cameras": json.loads(command.line())["listening"]})
        outcome = auxiliaries.push("EXPINFO", "CONNECTED", {"note": "x" * 120_000}, wait=True)
        assert "PayloadTooLarge" in str(outcome)
        assert "and this side takes 100,000 (max_message)" in str(outcome)


def test_serve_takes_as_much_as_every_rig(commands: Commands) -> None:
    assert f"[default: {MAX_MESSAGE}]" in " ".join(commands.run("serve", "--help").out.split())


@posix
def test_serve_tells_what_it_is_told(commands: Commands, connect: Callable[..., Any]) -> None:
    with commands.start("serve", "cameras", "--uri", "udp://127.0.0.1:0") as command:
        time_of_day, _, said = command.error_line().partition(" ")
        assert re.fullmatch(r"\d\d:\d\d:\d\d", time_of_day)
        uri = said.removeprefix("rig cameras listens on ")
        auxiliaries = connect({"cameras": uri})
        auxiliaries.request("EXPINIT", {"exp_ref": REFERENCE})
        auxiliaries.request("EXPINFO", "CONNECTED")
        told = [command.line(), command.line()]
        command.interrupt()
        outcome = command.outcome()
    assert re.fullmatch(rf'\d\d:\d\d:\d\d\.\d{{3}} EXPINIT {{"exp_ref": "{REFERENCE}"}}', told[0])
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} EXPINFO 0", told[1])
    assert f"cameras: INITIALIZED, was CONNECTED ({REFERENCE})\n" in outcome.err
    assert all(re.match(r"\d\d:\d\d:\d\d (Error: )?cameras", line) for line in outcome.err.splitlines() if line)
    assert outcome.status == 0
    assert outcome.out.endswith(""" EXPINTERRUPT {"reason": "the rig's program is being closed"}\n""")
    assert outcome.out.count("\n") == 1


def test_serve_as_json(commands: Commands) -> None:
    with serving(commands, "--main-sync") as command:
        answer = commands.json("push", "EXPINIT", json.dumps({"exp_ref": REFERENCE}))["answers"]["cameras"]
        told = json.loads(command.line())
        assert command.process.poll() is None
    assert told.pop("time") > 1e9
    assert told == {"message": "EXPINIT", "args": [{"exp_ref": REFERENCE}]}
    assert answer[0]["main_sync"] is True


@pytest.mark.parametrize("options", [[], ["-vv"]], ids=["", "-vv"])
def test_serve_never_shows_a_token(commands: Commands, connect: Callable[..., Any], options: list[str]) -> None:
    with serving(commands, *options) as command:
        auxiliaries = connect(json.loads((commands.folder / "rigs.yaml").read_text())["rigs"])
        auxiliaries.request("ALYX", FakeAlyx())
        assert json.loads(command.line())["args"] == [FakeAlyx.base_url, {FakeAlyx.user: "***"}]
        command.process.terminate()
        assert FakeAlyx._token not in command.outcome().err


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_cleanly_by_signals(commands: Commands, number: int) -> None:
    with serving(commands) as command:
        command.process.send_signal(number)
        outcome = command.outcome()
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")


def test_serve_ends_with_its_stdin_where_asked_to(commands: Commands) -> None:
    with serving(commands, "--until-eof") as command:
        assert command.process.stdin
        command.process.stdin.close()
        outcome = command.outcome()
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")


@posix
def test_serve_hears_and_ends_while_nobody_reads_its_stderr(commands: Commands) -> None:
    with serving(commands) as command:
        uri = json.loads((commands.folder / "rigs.yaml").read_text())["rigs"]["cameras"]
        port = int(uri.rpartition(":")[2])
        begin, refused = compose("EXPINIT", REFERENCE), compose("EXPSTART", "2026-01-31_9_rat")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(messages.request("c" * 16, 1, begin), ("127.0.0.1", port))
            # Each is a warning, for of the one in charge all are told, and all of them are more than a pipe holds.
            for n in range(2, 1502):
                sock.sendto(messages.request("c" * 16, n, refused), ("127.0.0.1", port))
                if n % 20 == 0:
                    time.sleep(0.002)
        assert commands.json("ping", "-c", "1", "-W", str(LONG))["rigs"]["cameras"]["received"] == 1
        begun = time.monotonic()
        command.interrupt()
        assert command.process.wait(LONG) == 0
        assert time.monotonic() - begun < 5
        lines = command.outcome().err.split("\n")
    assert len(lines) > 100
    assert all(line[9:].startswith("Warning: cameras: EXPSTART") for line in lines[:100])


def test_serve_ends_when_nobody_reads_any_more(commands: Commands) -> None:
    with serving(commands) as command:
        assert command.process.stdout
        command.process.stdout.close()
        command.process.stdout = None
        assert list(commands.json("push", "EXPINFO")["answers"]) == ["cameras"]
        outcome = command.outcome()
    assert (outcome.status, outcome.err) == (0, "")


def test_serve_fails_where_told_to(commands: Commands) -> None:
    with serving(commands, "--fail", "expinit", "--fail", "EXPINFO") as command:
        for message in ("EXPINIT", "EXPINFO"):
            failed = commands.json("push", message, status=1)["failed"]["cameras"]
            assert (failed["type"], failed["problem"]) == ("RemoteError", "RuntimeError: told to fail by --fail")
        assert list(commands.json("push", "EXPSTATUS")["answers"]) == ["cameras"]
        command.process.terminate()
        outcome = command.outcome()
    assert "told to fail by --fail" in outcome.err
    assert "Traceback" not in outcome.err


def test_serve_takes_its_time_and_can_be_interrupted(commands: Commands, connect: Callable[..., Any]) -> None:
    with serving(commands, "--latency", "0.3"):
        assert commands.json("push", "EXPINFO")["ms"]["cameras"] > 300
    with serving(commands, "--latency", "600") as command:
        auxiliaries = connect(json.loads((commands.folder / "rigs.yaml").read_text())["rigs"])
        overtaken = auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE})
        assert json.loads(command.line())["message"] == "EXPINIT"
        auxiliaries.push("EXPINTERRUPT", rigs="cameras")
        until(lambda: auxiliaries.response(overtaken))
        assert isinstance(auxiliaries.response(overtaken).failed["cameras"], rigsync.Interrupted)


@pytest.mark.parametrize(("share", "status", "received"), [("0", 0, 2), ("1", 1, 0)])
def test_serve_drops_what_comes_in(commands: Commands, share: str, status: int, received: int) -> None:
    with serving(commands, "--drop", share):
        rigs = commands.json("ping", "-c", "2", "-i", "0.05", "-W", "1.5", status=status)["rigs"]
    assert rigs["cameras"]["received"] == received
    assert rigs["cameras"]["failure"] == (None if received else "RigTimeout")


def test_serve_names_what_holds_the_port(commands: Commands, silent: int) -> None:
    outcome = commands.run("serve", "cameras", "--uri", f"udp://127.0.0.1:{silent}", status=1)
    assert outcome.out == ""
    uri = f"udp://127.0.0.1:{silent}"
    assert outcome.err.startswith(f"Error: rig cameras cannot listen on {uri}: port {silent} is in use")
    assert f"(pid {os.getpid()})" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Missing argument 'FILE.yaml... | NAME'"),
        ([" "], "expected the name of a rig"),
        (["cameras", "--uri", "wss://127.0.0.1"], "only udp://, tcp:// and mqtt:// are supported"),
        (["cameras", "--uri", "udp://127.0.0.1:99999"], "the port is a number from 0 to 65535"),
        (["cameras", "--fail", "EXPSTRAT"], "EXPINTERRUPT"),
        (["cameras", "--drop", "1.5"], "1.5 is not in the range"),
        (["cameras", "--drop", "0.5", "--uri", "tcp://127.0.0.1"], "--drop is for udp://"),
        (["cameras", "--latency", "-1"], "-1.0 is not in the range"),
        (["cameras", "--lease", "-1"], "-1.0 is not in the range"),
        (["cameras", "--lease", "nan"], "nan is not a number in the range"),
        (["cameras", "--max-message", "9"], "expected a whole number of bytes from 65507 to 1073741824, not 9"),
        (["cameras", "--max-message", "1e6"], "'1e6' is not a valid integer"),
    ],
    ids=str,
)
def test_junk_arguments_of_serve(commands: Commands, arguments: list[str], problem: str) -> None:
    outcome = commands.run("serve", *arguments, status=2)
    assert problem in outcome.err
    assert outcome.out == ""


# -------------------------------------------------------------------------------------------------------- doctor


def test_doctor_where_all_is_well(commands: Commands, serve: Callable[..., Any]) -> None:
    rig = serve("cameras")
    commands.rigs(cameras=rig.uri)
    first, empty, last = commands.run("doctor").out.splitlines()
    assert re.fullmatch(
        rf"cameras \({rig.uri[6:]}\): all is well, rigsync {rigsync.__version__}, CONNECTED, \d+\.\d{{3}} ms, "
        r"offset [+-]\d+\.\d ms ± \d+\.\d",
        first,
    )
    assert (empty, last) == ("", "all is well")


def test_doctor_names_each_fault_and_its_remedy(commands: Commands, serve: Callable[..., Any], silent: int) -> None:
    rigs = {"cameras": serve("cameras").uri, "lost": "nowhere.invalid", "mute": f"127.0.0.1:{silent}"}
    commands.rigs(**rigs, mute2={"uri": f"127.0.0.1:{free_port()}", "dialect": "iblutil"})
    outcome = commands.run("doctor", status=1)
    assert outcome.err == ""
    heads = [line for line in outcome.out.split("\n") if line and not line.startswith(" ")]
    assert [head.partition(" ")[0] for head in heads] == ["cameras", "lost", "mute", "mute2", "3"]
    assert [head.rpartition(": ")[2] for head in heads[1:4]] == ["unknown-name", "silence", "deaf"]
    assert "  seen: the name nowhere.invalid does not resolve: " in outcome.out
    assert "  that is: a firewall drops what comes for this port, or the rig's program hangs\n" in outcome.out
    assert f"      sudo ufw allow {silent}/udp\n" in outcome.out
    assert heads[-1] == "3 of 4 rigs unwell"


def test_doctor_tells_a_remedy_of_many_rigs_once(commands: Commands) -> None:
    commands.rigs(**{name: f"127.0.0.1:{free_port()}" for name in ("cameras", "ephys")})
    outcome = commands.run("doctor", status=1)
    assert outcome.out.count("start the rig's program") == 1
    assert outcome.out.count("  what to do: as for cameras\n") == 1


def test_doctor_as_json(commands: Commands, serve: Callable[..., Any]) -> None:
    closed = free_port()
    commands.rigs(cameras=serve("cameras").uri, gone=f"127.0.0.1:{closed}")
    found = commands.json("doctor", status=1)["rigs"]
    clock, round_trip = found["cameras"].pop("clock"), found["cameras"].pop("round_trip_ms")
    assert set(clock) == {"offset_ms", "bound_ms", "delay_ms", "drift_ppm"}
    assert round_trip > 0
    assert found["cameras"].pop("address").startswith("127.0.0.1:")
    assert found["cameras"] == {
        "dialect": "rigsync",
        "version": rigsync.__version__,
        "status": "CONNECTED",
        "exp_ref": None,
        "owner": None,
        "sent": 8,
        "received": 8,
        "largest_datagram": 60000,
        "findings": [],
    }
    (finding,) = found["gone"]["findings"]
    assert set(finding) == {"fault", "seen", "meaning", "remedies"}
    assert finding["fault"] == "closed-port"
    assert (found["gone"]["address"], found["gone"]["dialect"]) == (f"127.0.0.1:{closed}", None)


def test_doctor_of_the_rigs_that_are_named(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(**{"cameras:left": serve("cameras:left").uri, "gone": f"127.0.0.1:{free_port()}"})
    assert list(commands.json("doctor", "cameras:*")["rigs"]) == ["cameras:left"]
    assert "no rig matches 'camras'" in commands.run("doctor", "camras", status=2).err


def test_the_help_of_doctor_lists_the_faults(commands: Commands) -> None:
    printed = " ".join(commands.run("doctor", "--help").out.split()).replace("- ", "-")  # lines end at hyphens, too
    listed = printed.partition('"fault" of a finding is one of: ')[2].partition(".")[0]
    assert listed.split(", ") == [fault.value for fault in Fault]


def test_what_a_rig_says_cannot_command_the_terminal_of_doctor(
    commands: Commands, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("cameras")
    connect(rig).request("EXPINIT", "\x1b[2Jmouse\u202e\n")
    commands.rigs(cameras=rig.uri)
    assert "INITIALIZED \\x1b[2Jmouse\\u202e\\n, " in commands.run("doctor").out


# ---------------------------------------------------------------------------------------------------------- demo

MESSAGES = ["EXPINFO", "EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
STATUSES = ["CONNECTED", "INITIALIZED", "RUNNING", "STOPPED", "CONNECTED"]


def test_demo_shows_each_answer_and_leaves_nothing_behind(commands: Commands) -> None:
    iblutil_net()  # the last rig is one of its own
    with commands.start("demo") as command:
        first = command.line("EXPINFO")
        children = command.children()
        outcome = command.outcome()
    assert re.fullmatch(r"EXPINFO +rig1 \d+\.\d ms  rig2 \d+\.\d ms  rig3 \d+\.\d ms", first)
    assert outcome.status == 0
    rows = table_of(outcome.out)
    assert [row["rig"] for row in rows] == ["rig1"] * 5 + ["rig2"] * 5 + ["rig3"] * 5
    assert [row["dialect"] for row in rows] == ["rigsync"] * 10 + ["iblutil"] * 5
    assert [row["message"] for row in rows] == MESSAGES * 3
    assert [row["answer"].partition(" ")[0] for row in rows] == STATUSES * 3
    assert all(float(row["ms"]) > 0 for row in rows)
    assert outcome.err == "Starting 3 rigs on this computer ...\n"
    assert len(children) == 3
    assert all(map(has_ended, children))
    assert {path.name for path in commands.folder.iterdir()} == set()


def test_demo_with_loss(commands: Commands) -> None:
    iblutil_net()  # the last rig is one of its own
    outcome = commands.run("demo", "--rigs", "2", "--loss", "0.1", "--seed", "1")
    assert [row["answer"].partition(" ")[0] for row in table_of(outcome.out)] == STATUSES * 2
    assert re.search(r"^[1-9]\d* of \d+ datagrams were lost on purpose\.$", outcome.out, re.MULTILINE)
    assert "A relay loses 10% of all datagrams but those of rig2" in outcome.err


def test_demo_as_json(commands: Commands) -> None:
    iblutil_net()  # the last rig is one of its own
    document = commands.json("demo", "--rigs", "2")
    assert {name: rig["dialect"] for name, rig in document["rigs"].items()} == {"rig1": "rigsync", "rig2": "iblutil"}
    assert [told["message"] for told in document["pushes"]] == MESSAGES
    for told in document["pushes"]:
        assert set(told["answers"]) == set(told["ms"]) == {"rig1", "rig2"}
        assert told["failed"] == {}
    assert document["pushes"][2]["answers"]["rig1"][0] == document["exp_ref"]
    assert document["datagrams"] is None


@posix
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("options", [[], ["--loss", "0.01"]], ids=["", "relay"])
def test_demo_that_is_stopped_leaves_nothing_behind(
    commands: Commands, number: int, status: int, options: list[str]
) -> None:
    with commands.start("demo", *options) as command:
        command.line("recording")
        children = command.children()
        command.process.send_signal(number)
        outcome = command.outcome()
    assert outcome.status == status
    assert "Traceback" not in outcome.err
    assert len(children) == 3
    assert all(map(has_ended, children))


@posix
def test_demo_that_is_stopped_at_its_start_leaves_nothing_behind(commands: Commands) -> None:
    iblutil_net()  # the last rig is one of its own
    with commands.start("demo") as command:
        assert command.error_line() == "Starting 3 rigs on this computer ..."
        children = until(lambda: len(found := command.children()) == 3 and found)
        command.interrupt()
        outcome = command.outcome()
    assert outcome.status == 130
    assert outcome.err == "\ninterrupted\n"
    assert all(map(has_ended, children))


@posix
def test_a_request_to_end_is_handled_by_any_name_and_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)  # which only Windows has
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit) as raised, children.ended_by_signals():
        signal.raise_signal(signal.SIGUSR1)
    assert raised.value.code == 128 + signal.SIGUSR1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_a_handler_that_python_has_not_installed_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: installed.append(handler))  # returns None
    with children.ended_by_signals():
        pass
    assert installed[-1] is signal.SIG_DFL
    assert None not in installed


def test_demo_that_is_killed_leaves_nothing_behind(commands: Commands) -> None:
    with commands.start("demo") as command:
        command.line("EXPINFO")
        children = command.children()
        command.process.kill()
        command.outcome()
    assert len(children) == 3
    until(lambda: all(map(has_ended, children)), "the end of the demo's rigs")


@pytest.mark.parametrize("options", [["--rigs", "1"], ["--loss", "nan"], ["--loss", "2"]], ids=" ".join)
def test_junk_options_of_demo(commands: Commands, options: list[str]) -> None:
    assert "Usage: rigsync demo" in commands.run("demo", *options, status=2).err


# --------------------------------------------------------------------------------------------------- on a terminal


class Terminal:
    """A pseudo-terminal of 80 columns that a command writes to."""

    columns = 80

    def __init__(self, commands: Commands, *arguments: str, **environ: str):
        import fcntl
        import pty
        import struct
        import termios

        self.output = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, self.columns, 0, 0))
        commands.environment.update({"TERM": "xterm", **environ})
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        with commands.start(*arguments, stdout=slave) as command:
            os.close(slave)
            self.outcome = command.outcome()
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # so Linux says that nobody writes any more
            while data := os.read(self._master, 65536):
                self.output += data

    @property
    def lines(self) -> list[str]:
        """What it shows, without what commands the terminal."""
        return re.sub(r"\x1b\[[0-9;?]*\w", "", self.output.decode()).replace("\r\n", "\n").split("\n")


@needs_terminal
def test_tables_on_a_terminal_fit_and_have_colours(commands: Commands, serve: Callable[..., Any]) -> None:
    def fail() -> None:
        raise OSError("no disk is left in this computer, " * 5)

    commands.rigs(cameras=serve("cameras").uri, ephys=serve("ephys", {"EXPINFO": fail}).uri)
    terminal = Terminal(commands, "push", "EXPINFO")
    assert "\x1b[1;31mfailed" in terminal.output.decode()
    assert max(map(len, terminal.lines)) <= 80
    plain = Terminal(commands, "push", "EXPINFO", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain.output.decode())
    assert any(line.startswith("ephys    failed") for line in plain.lines)


@needs_terminal
@pytest.mark.parametrize("arguments", [["check"], ["ping", "-c", "1"]])
def test_tables_break_no_word_on_a_narrow_terminal(
    commands: Commands, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(Terminal, "columns", 40)
    commands.rigs(**{name: serve(name).uri for name in ("cameras:left", "neuropixel:probe0")})
    terminal = Terminal(commands, *arguments)
    assert terminal.outcome.status == 0
    assert max(map(len, terminal.lines)) <= 40
    words = set(" ".join(terminal.lines).split())
    assert {"cameras:left", "neuropixel:probe0", "auto" if arguments == ["check"] else "CONNECTED"} <= words


@needs_terminal
def test_the_summary_of_ping_fits_while_an_experiment_runs(
    commands: Commands, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    rig = serve("neuropixel")
    connect(rig).request("EXPINIT", REFERENCE)
    commands.rigs(neuropixel=rig.uri)
    terminal = Terminal(commands, "ping", "-c", "2", "-i", "0.05")
    assert max(map(len, terminal.lines)) <= 80
    row = [line for line in terminal.lines if line.startswith("neuropixel ")][-1]
    assert re.fullmatch(rf"neuropixel +INITIALIZED {REFERENCE} +2 of 2( +\d+\.\d{{3}}){{3}}", row.rstrip())


@needs_terminal
def test_the_summary_of_ping_is_stacked_where_names_are_long(commands: Commands, serve: Callable[..., Any]) -> None:
    commands.rigs(**{"cameras": serve("cameras").uri, "gone" + ":with:a:long:name" * 3: f"127.0.0.1:{free_port()}"})
    terminal = Terminal(commands, "ping", "-c", "1")
    assert terminal.outcome.status == 1
    assert max(map(len, terminal.lines)) <= 80
    row = next(i for i, line in enumerate(terminal.lines) if line.startswith("cameras  "))
    assert terminal.lines[row].split()[1:4] == ["1", "of", "1"]
    assert terminal.lines[row + 1].startswith("CONNECTED")


def test_ping_names_the_protocol_of_a_silent_rig(commands: Commands) -> None:
    with socket.socket() as listener:  # takes connections, and never says anything
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        commands.rigs(mute=f"tcp://127.0.0.1:{port}")
        outcome = commands.run("ping", "-c", "1", "-W", "0.2", status=1)
    assert f"keeps TCP port {port} closed" in outcome.out


@needs_terminal
def test_demo_has_a_live_view_on_a_terminal(commands: Commands) -> None:
    terminal = Terminal(commands, "demo", "--rigs", "2")
    assert terminal.outcome.status == 0
    output = terminal.output.decode()
    assert "recording for 0.5 s ..." in output
    assert "\x1b[?25l" in output  # hides the cursor ...
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")  # ... and shows it again
    last = max(i for i, line in enumerate(terminal.lines) if re.match("rig1 +✓", line))
    assert len(re.findall(r"✓ \d+\.\d ms", terminal.lines[last])) == len(MESSAGES)
