"""The configuration: every good form is read, and every bad one is a ConfigError that names the place."""

from __future__ import annotations

import ipaddress
import math
import os
import socket
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rigsync.config.address import parse_uri
from rigsync.config.files import load_rigs
from rigsync.config.finding import find_rigs_file, user_config_file
from rigsync.config.programs import ProgramRig
from rigsync.config.rigs import Rigs, rigs_from
from rigsync.core.rigs import Address, RigConfig, Room, is_literal
from rigsync.core.timing import Timing
from rigsync.errors import ConfigError, PayloadTooLarge, UnknownRig
from rigsync.net.resolve import resolve, resolve_all

ROOT = Path(__file__).parents[1]
CAMERAS = RigConfig("cameras", Address("udp", "192.168.1.20", 11001))


# ------------------------------------------------------------------------------------------------------- parse_uri


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.168.1.20", "192.168.1.20", 11001),
        ("192.168.1.20:9999", "192.168.1.20", 9999),
        ("udp://192.168.1.20", "192.168.1.20", 11001),
        ("UDP://192.168.1.20:1", "192.168.1.20", 1),
        ("udp://192.168.1.20:65535", "192.168.1.20", 65535),
        ("0.0.0.0", "0.0.0.0", 11001),
        ("::1", "::1", 11001),
        ("::", "::", 11001),
        ("udp://::1", "::1", 11001),
        ("[::1]", "::1", 11001),
        ("[::1]:5", "::1", 5),
        ("udp://[FE80:0:0::1%eth0]:5", "fe80::1%eth0", 5),
        ("fe80::1%eth0", "fe80::1%eth0", 11001),
        ("[fe80::1%12]", "fe80::1%12", 11001),
        ("::ffff:192.168.1.20", "192.168.1.20", 11001),
        ("localhost", "localhost", 11001),
        ("Cameras-PC:7", "cameras-pc", 7),
        ("udp://NPX_PC.Lab.Example.org:7", "npx_pc.lab.example.org", 7),
        ("rig.local.", "rig.local.", 11001),
        ("3com.example", "3com.example", 11001),
        ("a" * 63, "a" * 63, 11001),
        (".".join(["a" * 63] * 3 + ["a" * 61]), ".".join(["a" * 63] * 3 + ["a" * 61]), 11001),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1", 11001),
        (ipaddress.ip_address("fe80::1%eth0"), "fe80::1%eth0", 11001),
    ],
)
def test_addresses(text, host, port):
    address = parse_uri(text)
    assert address == Address("udp", host, port)
    assert parse_uri(str(address)) == address


def test_address_as_text():
    assert str(Address("udp", "192.168.1.20", 11001)) == "udp://192.168.1.20:11001"
    assert str(Address("udp", "fe80::1%eth0", 5)) == "udp://[fe80::1%eth0]:5"
    with pytest.raises(FrozenInstanceError):
        parse_uri("localhost").port = 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is not the address of a rig: it has no host"),
        ("udp://", "no host"),
        (":11001", "no host"),
        (".", "no host"),
        ("udp://:11001", "no host"),
        ("wss://192.168.1.20", "only udp://, tcp:// and mqtt:// are supported"),
        ("http://192.168.1.20:8888", "only udp://, tcp:// and mqtt:// are supported"),
        ("://192.168.1.20", "only udp://, tcp:// and mqtt:// are supported"),
        ("udp://udp://192.168.1.20", "no user, path or query"),
        ("192.168.1.20/", "no user, path or query"),
        ("192.168.1.20:11001/rig", "no user, path or query"),
        ("192.168.1.20?a=b", "no user, path or query"),
        ("192.168.1.20#a", "no user, path or query"),
        ("user:secret@cameras", "no user, path or query"),
        (" 192.168.1.20", "white space"),
        ("192.168.1.20\n", "white space"),
        ("camera pc", "white space"),
        ("cameras:0", "the port is a number from 1 to 65535"),
        ("cameras:65536", "the port is a number from 1 to 65535"),
        ("cameras:-1", "the port is a number from 1 to 65535"),
        ("cameras:", "the port is a number from 1 to 65535"),
        ("cameras:left", "the port is a number from 1 to 65535"),
        ("cameras:1_1", "the port is a number from 1 to 65535"),
        ("cameras:\u0661", "the port is a number from 1 to 65535"),
        ("cameras:" + "1" * 5000, "the port is a number from 1 to 65535"),
        ("[::1]:0", "the port is a number from 1 to 65535"),
        ("[::1]11001", "brackets go around an IPv6 address"),
        ("[::1", "brackets go around an IPv6 address"),
        ("[192.168.1.20]:11001", "brackets go around an IPv6 address"),
        ("[cameras]", "brackets go around an IPv6 address"),
        ("[]", "brackets go around an IPv6 address"),
        ("[::g]", "neither an IP address nor a host name"),
        ("11001", "a port alone"),
        ("1:2:3", "neither an IP address nor a host name"),
        ("::1]", "neither an IP address nor a host name"),
        ("fe80::1%", "neither an IP address nor a host name"),
        ("fe80::1%eth0!", "network interface"),
        ("[fe80::1%a[b]", "network interface"),
        ("cam$ras", "neither an IP address nor a host name"),
        ("caméras", "neither an IP address nor a host name"),
        ("\u212aamera", "neither an IP address nor a host name"),
        ("cameras\0", "neither an IP address nor a host name"),
        ("-cameras", "neither an IP address nor a host name"),
        ("cameras-", "neither an IP address nor a host name"),
        ("cameras..local", "neither an IP address nor a host name"),
        (".cameras", "neither an IP address nor a host name"),
        ("a" * 64, "neither an IP address nor a host name"),
        (".".join(["a" * 63] * 4), "neither an IP address nor a host name"),
        ("256.1.1.1", "'256.1.1.1' is not an IPv4 address"),
        ("192.168.1", "is not an IPv4 address"),
        ("192.168.1.1.1", "is not an IPv4 address"),
        ("192.168.l.20", "is not an IPv4 address"),
        ("192.168.1.020", "is not an IPv4 address"),
        ("192.168.1.20.", "is not an IPv4 address"),
        (None, "it is of type NoneType, not text"),
        (b"cameras", "it is of type bytes, not text"),
        (11001, "it is of type int, not text"),
    ],
)
def test_what_is_no_address(text, problem):
    with pytest.raises(ConfigError) as caught:
        parse_uri(text)
    assert problem in str(caught.value)
    assert "expected [udp://|tcp://]host[:port], for instance udp://192.168.1.20:11001" in str(caught.value)
    assert (caught.value.file, caught.value.line, caught.value.key) == (None, None, None)
    assert len(str(caught.value)) < 400


def test_port_zero_is_for_those_who_listen():
    assert parse_uri("0.0.0.0:0", allow_port_zero=True) == Address("udp", "0.0.0.0", 0)
    assert parse_uri("[::]:0", allow_port_zero=True) == Address("udp", "::", 0)
    with pytest.raises(ConfigError, match="the port is a number from 0 to 65535"):
        parse_uri("cameras:65536", allow_port_zero=True)


ODD_TEXT = st.lists(
    st.sampled_from(
        ["udp", "://", ":", "[", "]", "::1", "fe80", "%eth0", "1.2.3.4", "256", ".", "a", "-", "_", "0", "é"]
    )
    | st.text(max_size=3)
).map("".join)


@given(st.text() | ODD_TEXT, st.booleans())
@example("udp://[fe80::1%eth0]:11001", False)
def test_any_text_is_an_address_or_a_config_error(text, allow_port_zero):
    try:
        address = parse_uri(text, allow_port_zero=allow_port_zero)
    except ConfigError:
        return
    assert parse_uri(str(address), allow_port_zero=allow_port_zero) == address


# ---------------------------------------------------------------------------------------------------------- timing


def test_timing_derives():
    timing = Timing(beat=2, suspect_beats=4, lost_beats=10, overdue_probes=5)
    assert (timing.suspect_after, timing.lost_after, timing.overdue_interval) == (8, 20, 0.4)
    assert Timing().lost_after == 5.0
    assert Timing() == Timing()


SECONDS = [field.name for field in fields(Timing) if isinstance(field.default, float)]
COUNTS = [field.name for field in fields(Timing) if isinstance(field.default, int)]


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, -math.inf, 10**400, True, "1", None, [1]])
def test_times_are_finite_and_above_zero(name, value):
    with pytest.raises(ConfigError, match="expected a number of seconds above 0, not") as caught:
        Timing(**{name: value})
    assert caught.value.key == name


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_counts_are_whole_and_above_zero(name, value):
    with pytest.raises(ConfigError, match="expected a whole number from 1 to 1000, not") as caught:
        Timing(**{name: value})
    assert caught.value.key == name


@pytest.mark.parametrize(
    ("options", "key", "problem"),
    [
        ({"suspect_beats": 5}, "suspect_beats", "5 is not below lost_beats, which is 5"),
        ({"lost_beats": 2}, "suspect_beats", "3 is not below lost_beats, which is 2"),
        ({"iblutil_suspect_probes": 3}, "iblutil_suspect_probes", "3 is not below iblutil_lost_probes, which is 3"),
        ({"resend_min": 2}, "resend_min", "2 is over resend_max, which is 1.0"),
    ],
)
def test_times_do_not_contradict_each_other(options, key, problem):
    with pytest.raises(ConfigError) as caught:
        Timing(**options)
    assert problem in str(caught.value)
    assert caught.value.key == key


def test_least_and_greatest_resending_may_be_equal():
    assert Timing(resend_min=0.5, resend_max=0.5).resend_min == 0.5


# ------------------------------------------------------------------------------------------------------------ rigs


@pytest.mark.parametrize(
    ("options", "key", "problem"),
    [
        *[({"name": name}, "name", "expected the name of a rig") for name in ("", " a", "a ", "a\nb", "a\0", None, 1)],
        ({"address": "192.168.1.20"}, "address", "expected an Address, as parse_uri() gives, not '192.168.1.20'"),
        *[({"timeout": value}, "timeout", "number of seconds above 0") for value in (0, math.inf, "10", True, None)],
        ({"dialect": "iblutils"}, "dialect", "one of auto, iblutil, rigsync, not 'iblutils'; did you mean 'iblutil'?"),
        ({"dialect": "RIGSYNC"}, "dialect", "did you mean 'rigsync'?"),
        ({"dialect": "tcp"}, "dialect", "expected one of auto, iblutil, rigsync, not 'tcp'"),
        ({"dialect": ["auto"]}, "dialect", "expected one of auto, iblutil, rigsync, not ['auto']"),
        ({"resend": 1}, "resend", "expected true or false, not 1"),
        ({"resend": "no"}, "resend", "expected true or false, not 'no'"),
    ],
)
def test_what_is_no_rig(options, key, problem):
    with pytest.raises(ConfigError) as caught:
        replace(CAMERAS, **options)
    assert problem in str(caught.value)
    assert caught.value.key == key


def test_names_may_hold_colons_spaces_and_any_script():
    for name in ("cameras:left", "two photon", "カメラ", "1"):
        assert replace(CAMERAS, name=name).name == name


def test_rigs_from_every_form():
    rigs = rigs_from(
        {
            "neuropixel": "Neuropixel-PC:7",
            "cameras": CAMERAS,
            "mesoscope": {"uri": "[::1]:5", "timeout": 30, "dialect": "rigsync", "resend": True},
            "sound": {"uri": ipaddress.ip_address("10.0.0.1")},
        }
    )
    assert list(rigs.rigs) == ["neuropixel", "cameras", "mesoscope", "sound"]
    assert rigs.rigs["neuropixel"] == RigConfig("neuropixel", Address("udp", "neuropixel-pc", 7))
    assert rigs.rigs["cameras"] is CAMERAS
    assert rigs.rigs["mesoscope"] == RigConfig("mesoscope", Address("udp", "::1", 5), 30, "rigsync", True)
    assert rigs.rigs["sound"] == RigConfig("sound", Address("udp", "10.0.0.1", 11001), 10.0, "auto", False)
    assert (rigs.timing, rigs.source) == (Timing(), None)


def test_rigs_from_rigs_and_from_nothing():
    rigs = rigs_from({"cameras": CAMERAS}, Timing(beat=2))
    assert rigs_from(rigs) is rigs
    assert rigs_from(rigs, Timing(beat=3)) == Rigs(rigs.rigs, Timing(beat=3))
    assert rigs_from(None) == rigs_from({}) == Rigs({})


def test_rigs_are_read_only():
    mapping = {"cameras": CAMERAS}
    rigs = Rigs(mapping)
    mapping.clear()
    assert list(rigs.rigs) == ["cameras"]
    with pytest.raises(TypeError):
        rigs.rigs["other"] = CAMERAS


@pytest.mark.parametrize("clients", [b"cameras", ["cameras"], 1, CAMERAS])
def test_rigs_from_another_type(clients):
    with pytest.raises(TypeError, match=f"Rigs or None, not {type(clients).__name__}$"):
        rigs_from(clients)


@pytest.mark.parametrize(
    ("clients", "key", "problem"),
    [
        ({"cameras": "wss://a"}, "rigs.cameras.uri", "only udp://, tcp:// and mqtt:// are supported"),
        ({"cameras": "a:0"}, "rigs.cameras.uri", "the port is a number from 1 to 65535"),
        ({"cameras": 5}, "rigs.cameras.uri", "it is of type int, not text"),
        ({"cameras": None}, "rigs.cameras.uri", "it is of type NoneType, not text"),
        ({"cameras": {}}, "rigs.cameras.uri", "this key is missing: The address of the rig, for instance 192.168.1.20"),
        ({"cameras": {"uri": "a", "timeout": 0}}, "rigs.cameras.timeout", "number of seconds above 0, not 0"),
        ({"cameras": {"uri": "a", "timout": 1}}, "rigs.cameras.timout", "did you mean 'timeout'?"),
        ({"cameras": {"uri": "a", 1: 1}}, "rigs.cameras.1", "unknown key 1; the keys here are uri, timeout, dialect"),
        ({"cameras": {"uri": "a", "name": "b"}}, "rigs.cameras.name", "unknown key 'name'"),
        ({"": "a"}, "rigs.", "expected the name of a rig"),
        ({1: "a"}, "rigs.1", "expected the name of a rig"),
        ({"left": CAMERAS}, "rigs.left", "the rig under this key calls itself 'cameras'"),
        (
            {"a": "PC", "b": {"uri": "udp://pc:11001"}},
            "rigs.b.uri",
            "rigs 'a' and 'b' have the same address, host pc and port",
        ),
        ({"a": {"uri": "::1"}, "b": {"uri": "[0:0::1]"}}, "rigs.b.uri", "rigs 'a' and 'b' have the same address"),
        ({"cameras": {"uri": "a", "pause": -0.1}}, "rigs.cameras.pause", "seconds from 0 to 60, not -0.1"),
        ({"cameras": {"uri": "a", "pause": "1"}}, "rigs.cameras.pause", "seconds from 0 to 60, not '1'"),
        ({"cameras": {"uri": "a", "pause": math.nan}}, "rigs.cameras.pause", "seconds from 0 to 60, not nan"),
        ({"cameras": CAMERAS, "b": "::ffff:192.168.1.20"}, "rigs.b.uri", "rigs 'cameras' and 'b' have the same"),
    ],
)
def test_what_are_no_rigs(clients, key, problem):
    with pytest.raises(ConfigError) as caught:
        rigs_from(clients)
    assert problem in str(caught.value)
    assert caught.value.key == key
    assert (caught.value.file, caught.value.line) == (None, None)


# ----------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "rigs.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


LONG = """\
timing: {beat: 2, resend_min: 5.0e-2, lost_beats: 6}
rigs:
    cameras:
        uri: udp://192.168.1.20:11001
        timeout: 30
        dialect: iblutil
        resend: yes
    cameras:left: 192.168.1.5:1230
"""


def test_long_form(write):
    path = write(LONG)
    rigs = load_rigs(str(path))
    assert list(rigs.rigs) == ["cameras", "cameras:left"]
    assert rigs.rigs["cameras"] == replace(CAMERAS, timeout=30, dialect="iblutil", resend=True)
    assert rigs.rigs["cameras:left"] == RigConfig("cameras:left", Address("udp", "192.168.1.5", 1230))
    assert rigs.timing == Timing(beat=2, resend_min=0.05, lost_beats=6)
    assert rigs.source == str(path)


def test_bridges(write):
    path = write("rigs:\nbridges:\n  osc:\n    to: ['udp://127.0.0.1:9001', tcp+length://max-pc:9002]\n")
    told = ("udp://127.0.0.1:9001", "tcp+length://max-pc:9002")
    assert load_rigs(path).bridges == {"osc": {"listen": "udp://127.0.0.1:9000", "to": told}}
    assert load_rigs(write("rigs:\nbridges: {osc: }\n")).bridges["osc"]["to"] == ()
    path = write(f"rigs:\nbridges: {{zmq: {{curve: {{secret_key: a.key, clients: ['{'k' * 40}']}}}}}}\n")
    curve = {"secret_key": str(Path(path).parent / "a.key"), "clients": ("k" * 40,)}
    usual = {"pub": "tcp://127.0.0.1:5556", "rep": "tcp://127.0.0.1:5555"}
    assert load_rigs(path).bridges == {"zmq": {**usual, "curve": curve}}
    lsl = load_rigs(write("rigs:\nbridges: {lsl: {from: stimuli}}\n")).bridges["lsl"]
    assert lsl == {"name": "rigsync", "from": "stimuli"}
    path = write("rigs:\nbridges: {mqtt: {broker: mqtts://me:secret@b.lab/room1/a}}\n")
    assert load_rigs(path).bridges == {"mqtt": {"broker": "mqtts://me:secret@b.lab/room1/a", "commands": False}}
    assert load_rigs(write("rigs:\nbridges:\n")).bridges == load_rigs(write("a: b\n")).bridges == {}


def test_flat_form(write):
    path = write("cameras:left: 192.168.1.20\nmesoscope: udp://10.0.0.1:8888\ntiming: timing-pc\n")
    rigs = load_rigs(path)
    assert {name: str(rig.address) for name, rig in rigs.rigs.items()} == {
        "cameras:left": "udp://192.168.1.20:11001",
        "mesoscope": "udp://10.0.0.1:8888",
        "timing": "udp://timing-pc:11001",
    }
    assert rigs.timing == Timing()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("{}", []),
        ("rigs:\n", []),
        ("rigs: {}\ntiming:\n", []),
        ("1: a\nyes: b\nnull: c\n12:30: d\n", ["1", "yes", "null", "12:30"]),
        ("rigs: {1: a, on: {uri: b}}", ["1", "on"]),
        ("\ufeffcameras: a\r\n'two photon': \"b\"\r\n", ["cameras", "two photon"]),
        ("---\nカメラ: a\n...\n", ["カメラ"]),
        ("&anchored a: b", ["a"]),
        ("<<: b", ["<<"]),
    ],
)
def test_files_that_load(write, content, names):
    assert list(load_rigs(write(content)).rigs) == names


@pytest.mark.parametrize(
    ("written", "read"), [("30", 30), ("1.5", 1.5), (".5", 0.5), ("2.", 2.0), ("1e1", 10.0), ("+1", 1.0), ("'30'", 30)]
)
def test_numbers(write, written, read):
    assert load_rigs(write(f"rigs: {{a: {{uri: b, timeout: {written}}}}}")).rigs["a"].timeout == read


@pytest.mark.parametrize("written", ["true", "False", "YES", "no", "On", "off"])
def test_booleans(write, written):
    rigs = load_rigs(write(f"rigs: {{a: {{uri: b, resend: {written}}}}}"))
    assert rigs.rigs["a"].resend is (written.lower() in ("true", "yes", "on"))


@pytest.mark.parametrize(
    ("written", "host", "port"), [("true", "true", 11001), ("1e3", "1e3", 11001), ("a:60", "a", 60)]
)
def test_addresses_are_the_text_in_the_file(write, written, host, port):
    assert load_rigs(write(f"a: {written}")).rigs["a"].address == Address("udp", host, port)


@pytest.mark.parametrize("written", ["11:30", "2001-01-01:5:6", "010"])
def test_text_that_yaml_takes_for_something_else_is_shown_as_written(write, written):
    with pytest.raises(ConfigError, match=f"{written!r} is not"):
        load_rigs(write(f"a: {written}"))


NOT_YAML = "not valid YAML: "
BAD_FILES = {
    "empty": ("", 1, None, "the file is empty; expected a YAML file with a key 'rigs'"),
    "comments only": ("# nothing\n\n", 1, None, "the file is empty"),
    "a list": ("\n- cameras\n", 2, None, "the file is not a map; expected a YAML file with a key 'rigs'"),
    "text": ("cameras", 1, None, "the file is not a map"),
    "null": ("---\n~", 2, None, "the file is not a map"),
    "latin-1": (b"a: b\n# \xe9\n", 2, None, "the file is not UTF-8 text; save it with that encoding"),
    "utf-16": ("a: b\n".encode("utf-16"), 1, None, "the file is not UTF-8 text"),
    "null character": ("a: b\nc: \0\n", 2, None, NOT_YAML + "the character '\\x00' is not allowed"),
    "open bracket": ("a: b\nc: [\n", 3, None, NOT_YAML),
    "tab": ("rigs:\n\ta: b\n", 2, None, "indented by spaces"),
    "open quote": ("a: b\nc: 'd\n", 3, None, NOT_YAML),
    "two documents": ("a: b\n---\nc: d\n", 2, None, NOT_YAML),
    "unknown alias": ("a: b\nc: *d\n", 2, None, "aliases (*name) and tags (!name) are not supported"),
    "alias": ("a: &b c\nd: *b\n", 2, None, "aliases"),
    "endless alias": ("rigs: &a\n  b: *a\n", 2, None, "aliases"),
    "merge": ("rigs:\n  a: &a {uri: b}\n  c:\n    <<: *a\n", 4, None, "aliases"),
    "tag": ("a: b\nc: !secret d\n", 2, None, "tags"),
    "python tag": ("a: !!python/object/apply:os.getcwd []\n", 1, None, "tags"),
    "bad escape": ('a: b\nc: "\\UFFFFFFFF"\n', 2, None, NOT_YAML),
    "deep flow": ("a: b\nc: " + "[" * 100_000, 2, "c" + "[0]" * 20, "nested more than 20 levels deep"),
    "deep block": ("- " * 100_000, 1, "[0]" * 21, "nested more than 20 levels deep"),
    "too large": ("#" * (2**20 + 1), None, None, "the file is larger than 1,048,576 bytes"),
    "key is a list": ("a: b\n? [c]\n: d\n", 2, "rigs", "a key must be text, not a list or a map"),
    "key is a map": ("rigs:\n  a:\n    ? {b: c}\n    : d\n", 3, "rigs.a", "a key must be text"),
    "unknown top key": ("rigs:\n  a: b\ntimings: {}\n", 3, "timings", "'timings'; did you mean 'timing'?"),
    "forgotten indentation": ("rigs:\na: b\n", 2, "a", "unknown key 'a'; the keys here are timing, rigs"),
    "unknown timing": ("timing:\n  beats: 1\nrigs:\n", 2, "timing.beats", "did you mean 'beat'?"),
    "unknown rig key": ("rigs:\n  a:\n    uri: b\n    timout: 3\n", 4, "rigs.a.timout", "did you mean 'timeout'?"),
    "unknown bridge": ("rigs:\nbridges:\n  ocs:\n", 3, "bridges.ocs", "unknown key 'ocs'; did you mean 'osc'?"),
    "bridge without a port": (
        "rigs:\nbridges:\n  osc: {listen: udp://a}\n",
        3,
        "bridges.osc.listen",
        "and a port, such as",
    ),
    "bridge at a name without a port": (
        "rigs:\nbridges:\n  zmq: {pub: tcp://a}\n",
        3,
        "bridges.zmq.pub",
        "expected tcp://, an IP address and a port, such as tcp://127.0.0.1:5555, not 'tcp://a'",
    ),
    "program without messages": (
        "rigs:\n  a: osc://b:1\n",
        2,
        "rigs.a.messages",
        "nothing says what the program is sent",
    ),
    "program without a port": (
        "rigs:\n  a:\n    uri: osc://b\n    messages: {EXPINIT: [/a]}\n",
        3,
        "rigs.a.uri",
        "'osc://b' has no port; expected osc://, a host and a port, such as osc://192.168.1.30:9000",
    ),
    "unknown field": (
        "rigs:\n  a:\n    uri: osc://b:1\n    messages:\n      EXPINIT:\n        - /a\n        - 'x {exp_re}'\n",
        7,
        "rigs.a.messages.EXPINIT[1]",
        "unknown field 'exp_re'; did you mean 'exp_ref'?; the fields here are exp_ref, date, number, subject, id, "
        "message.KEY for what",
    ),
    "field in a map": (
        "rigs:\n  a:\n    uri: zmq+req://b:1\n    messages:\n      EXPINIT: {a: {b: '{id}'}}\n",
        5,
        "rigs.a.messages.EXPINIT.a.b",
        "unknown field 'id'; the fields here",
    ),
    "open brace": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: [/a, '{exp_ref']}}}",
        1,
        "rigs.a.messages.EXPINIT[1]",
        "a '{' without its counterpart",
    ),
    "field of a ping": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: [/a]}, ping: [/p, '{exp_ref}']}}",
        1,
        "rigs.a.ping[1]",
        "unknown field 'exp_ref'; a ping has no fields",
    ),
    "field without quotes": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: [/a, {exp_ref}]}}}",
        1,
        "rigs.a.messages.EXPINIT[1]",
        "expected text or a number, not a map; put quotes around",
    ),
    "no address": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: [start]}}}",
        1,
        "rigs.a.messages.EXPINIT[0]",
        "an OSC message begins with an address, such as /exp/start, not with 'start'",
    ),
    "map for OSC": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: {a: b}}}}",
        1,
        "rigs.a.messages.EXPINIT",
        'what a rig at osc:// is sent is written as in [/exp/start, "{exp_ref}"]',
    ),
    "start without an end": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPSTART: [/a], EXPEND: [/b]}}}",
        1,
        "rigs.a.messages",
        "EXPEND and EXPINTERRUPT have to stop what EXPSTART starts; write EXPINTERRUPT, too",
    ),
    "unknown message": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPSTRT: [/a]}}}",
        1,
        "rigs.a.messages.EXPSTRT",
        "did you mean 'EXPSTART'?",
    ),
    "answers by ZeroMQ": (
        "rigs: {a: {uri: 'zmq+req://b:1', messages: {EXPINIT: {}}, answer: /a}}",
        1,
        "rigs.a.answer",
        "answer is for a rig by OSC",
    ),
    "answers over TCP to another port": (
        "rigs: {a: {uri: 'osc+tcp://b:1', messages: {EXPINIT: [/a]}, listen: 'udp://0.0.0.0:9001'}}",
        1,
        "rigs.a.listen",
        "listen is for a rig by OSC over UDP",
    ),
    "keys by OSC": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: [/a]}, curve: {secret_key: a, server: '" + "k" * 40 + "'}}}",
        1,
        "rigs.a.curve",
        "curve is for a rig by ZeroMQ",
    ),
    "dialect of a program": (
        "rigs: {a: {uri: 'osc://b:1', messages: {EXPINIT: [/a]}, dialect: iblutil}}",
        1,
        "rigs.a.dialect",
        "dialect is for a rig that speaks iblutil",
    ),
    "messages of another rig": (
        "rigs: {a: {uri: b, ping: [/a]}}",
        1,
        "rigs.a.ping",
        "ping is for a rig whose address begins with osc:// or zmq+req://",
    ),
    "keys without a client": (
        "rigs:\nbridges:\n  zmq:\n    curve: {secret_key: a}\n",
        4,
        "bridges.zmq.curve.clients",
        "this key is missing: Public keys of those who may connect.",
    ),
    "no key": (
        "rigs:\nbridges:\n  zmq:\n    curve: {secret_key: a, clients: [b]}\n",
        4,
        "bridges.zmq.curve.clients[0]",
        "expected a public key, 40 characters in quotes, not 'b'",
    ),
    "stream with quotes": (
        "rigs:\nbridges:\n  lsl: {name: it's}\n",
        3,
        "bridges.lsl.name",
        "expected the name of an LSL stream, without quotes",
    ),
    "bridge without a broker": (
        "rigs:\nbridges:\n  mqtt: {}\n",
        3,
        "bridges.mqtt.broker",
        "this key is missing: The broker, and with what its topics begin",
    ),
    "bridge to no broker": (
        "rigs:\nbridges:\n  mqtt: {broker: 'udp://me:secret@a'}\n",
        3,
        "bridges.mqtt.broker",
        "'udp://***@a' is not the address of an MQTT broker: it may have no user, path or query; expected mqtt://host",
    ),
    "bridge to a map": ("rigs:\nbridges:\n  osc: {to: [{a: b}]}\n", 3, "bridges.osc.to[0]", "expected text, not a map"),
    "duplicate rig": ("rigs:\n  a: b\n  a: c\n", 3, "rigs.a", "this key is there twice, first in line 2; remove one"),
    "duplicate flat rig": ("a: b\nc: d\n'a': e\n", 3, "rigs.a", "this key is there twice, first in line 1"),
    "duplicate top key": ("rigs:\n  a: b\nrigs:\n  c: d\n", 3, "rigs", "this key is there twice, first in line 1"),
    "duplicate rig key": ("rigs:\n  a:\n    uri: b\n    uri: c\n", 4, "rigs.a.uri", "this key is there twice"),
    "duplicate timing": ("rigs:\ntiming:\n  beat: 1\n  beat: 1\n", 4, "timing.beat", "this key is there twice"),
    "rigs is text": ("rigs: cameras\n", 1, "rigs", "expected a map, with one key and its value in each line"),
    "rigs is a list": ("timing:\nrigs:\n  - a\n", 2, "rigs", "expected a map, with one key and its value in each line"),
    "timing is text": ("rigs:\ntiming: fast\n", 2, "timing", "expected a map, with one key"),
    "time is text": ("rigs:\ntiming:\n  beat: fast\n", 3, "timing.beat", "number of seconds above 0, not 'fast'"),
    "time is boolean": ("rigs:\ntiming:\n  beat: true\n", 3, "timing.beat", "number of seconds above 0, not 'true'"),
    "time is a map": ("rigs:\ntiming:\n  beat: {a: b}\n", 3, "timing.beat", "number of seconds above 0, not a map"),
    "time is sexagesimal": ("rigs:\ntiming:\n  beat: 1:30\n", 3, "timing.beat", "not '1:30'"),
    "time is infinite": ("rigs:\ntiming:\n  beat: .inf\n", 3, "timing.beat", "not '.inf'"),
    "beat over the longest": ("rigs:\ntiming:\n  beat: 60\n", 3, "timing.beat", "at most 24 s, not 60"),
    "time overflows": ("rigs:\ntiming:\n  beat: 1e999\n", 3, "timing.beat", "not '1e999'"),
    "count is a fraction": ("timing:\n  lost_beats: 5.5\nrigs:\n", 2, "timing.lost_beats", "whole number"),
    "contradiction": (
        "timing:\n  beat: 1\n  suspect_beats: 9\nrigs:\n",
        3,
        "timing.suspect_beats",
        "is not below lost",
    ),
    "contradicts the default": ("rigs:\ntiming:\n  lost_beats: 2\n", 2, "timing.suspect_beats", "is not below lost"),
    "timeout is text": ("rigs:\n  a:\n    uri: b\n    timeout: soon\n", 4, "rigs.a.timeout", "not 'soon'"),
    "timeout is boolean": ("rigs:\n  a:\n    uri: b\n    timeout: no\n", 4, "rigs.a.timeout", "not 'no'"),
    "timeout is zero": ("rigs:\n  a:\n    uri: b\n    timeout: 0\n", 4, "rigs.a.timeout", "above 0, not '0'"),
    "timeout is too long": (f"rigs:\n  a:\n    uri: b\n    timeout: {'9' * 5000}\n", 4, "rigs.a.timeout", "not '999"),
    "resend is a number": ("rigs:\n  a:\n    uri: b\n    resend: 1\n", 4, "rigs.a.resend", "true or false, not '1'"),
    "resend is a map": ("rigs:\n  a:\n    uri: b\n    resend: {}\n", 4, "rigs.a.resend", "true or false, not a map"),
    "dialect": (
        "rigs:\n  a:\n    uri: b\n    dialect: ibl\n",
        4,
        "rigs.a.dialect",
        "auto, iblutil, rigsync, not 'ibl'",
    ),
    "no uri": (
        "rigs:\n  a:\n    timeout: 3\n",
        2,
        "rigs.a.uri",
        "this key is missing: The address of the rig, for instance 192.168.1.20",
    ),
    "empty rig": ("rigs:\n  a:\n  b: c\n", 2, "rigs.a", "the address is missing; write one, such as 192.168.1.20"),
    "uri is a map": (
        "rigs:\n  a:\n    uri: {b: c}\n",
        3,
        "rigs.a.uri",
        "expected text, not a map; put quotes around text that begins with a brace",
    ),
    "uri is a list": (
        "rigs:\n  a:\n    uri: [b]\n",
        3,
        "rigs.a.uri",
        "expected text, not a list; put quotes around text that begins with a bracket",
    ),
    "malformed uri": ("rigs:\n  a:\n    uri: b/c\n", 3, "rigs.a.uri", "it may have no user, path or query"),
    "malformed flat uri": ("a: b\nc: d_$\n", 2, "rigs.c.uri", "neither an IP address nor a host name"),
    "scheme": ("a: b\nmesoscope: wss://86.167.0.224:8888\n", 2, "rigs.mesoscope.uri", "only udp://, tcp:// and mqtt"),
    "port": ("rigs:\n  a: b:65536\n", 2, "rigs.a.uri", "the port is a number from 1 to 65535"),
    "one address": ("rigs:\n  a: PC\n  b:\n    uri: pc:11001\n", 4, "rigs.b.uri", "rigs 'a' and 'b' have the same"),
    "one flat address": ("a: '::1'\nb: '[::1]'\n", 2, "rigs.b.uri", "rigs 'a' and 'b' have the same address"),
    "name": ("rigs:\n  ' a': b\n", 2, "rigs. a", "expected the name of a rig as text that is not empty"),
    "IPv6 without quotes": ("a: b\nc: [::1]:11001\n", 2, None, "and quotes around what has brackets"),
    "empty name": ("a: b\n'': c\n", 2, "rigs.", "expected the name of a rig as text that is not empty"),
    "map in a flat file": ("a: b\nc:\n  uri: d\n", 2, "rigs.c", "stand below a first line 'rigs:'"),
    "timing in a flat file": ("a: b\ntiming: {beat: 1}\n", 2, "rigs.timing", "stand below a first line 'rigs:'"),
    "dots in a name": ("rigs:\n  x.y:\n    uri: b\n    timeout: 0\n", 4, "rigs.x.y.timeout", "above 0, not '0'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_file_of_rigs(write, case):
    content, line, key, problem = BAD_FILES[case]
    path = write(content)
    with pytest.raises(ConfigError) as caught:
        load_rigs(path)
    (error,) = (error for error in caught.value.errors if problem in error.problem)
    assert (error.file, error.line, error.key) == (str(path), line, key)
    assert str(error).startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_aliases_cannot_make_a_small_file_huge(write):
    bomb = "a0: &a0 {x: y}\n" + "".join(f"a{i}: &a{i} {{b: *a{i - 1}, c: *a{i - 1}}}\n" for i in range(1, 100))
    with pytest.raises(ConfigError, match="aliases") as caught:
        load_rigs(write(bomb))
    assert caught.value.line == 2


def test_missing_file(tmp_path):
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=r"cannot be read .*expected a YAML file") as caught:
        load_rigs(path)
    assert (caught.value.file, caught.value.line, caught.value.key) == (str(path), None, None)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_folder(tmp_path):
    with pytest.raises(ConfigError, match="this is a folder; expected a YAML file") as caught:
        load_rigs(tmp_path)
    assert (caught.value.file, caught.value.line, caught.value.key) == (str(tmp_path), None, None)


def test_unreadable_file(write, monkeypatch):
    path = write("a: b")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read \(Permission denied\)") as caught:
        load_rigs(path)
    monkeypatch.undo()
    assert (caught.value.file, caught.value.line, caught.value.key) == (str(path), None, None)


def test_null_character_in_a_path():
    with pytest.raises(ConfigError, match="cannot be read"):
        load_rigs("a\0b")


YAML_PIECES = st.sampled_from(
    b"rigs:|timing:|uri: |timeout: |resend: |a|1.2.3.4|1|yes|FFFFFFFF|\n  |\n|\t|\r|: |- |? |[|]|{|}|, |&a |*a|<<|!|"
    b"\"|'|\\U|> |%YAML 1.1\n|---|#".split(b"|")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary() | st.text().map(str.encode) | st.lists(YAML_PIECES).map(b"".join))
def test_any_bytes_are_rigs_or_a_config_error(write, content):
    path = write(content)
    try:
        rigs = load_rigs(path)
    except ConfigError as error:
        assert error.file == str(path)  # noqa: PT017 - either way is right
    else:
        assert rigs == Rigs(rigs.rigs, rigs.timing, str(path), journal=rigs.journal)


def test_the_example_loads_without_a_look_up(monkeypatch):
    monkeypatch.chdir(ROOT)
    rigs = load_rigs("rigs.example.yaml")
    assert all(is_literal(rig.address) for rig in rigs.rigs.values())
    text = Path("rigs.example.yaml").read_text(encoding="utf-8")
    for key in [field.name for field in (*fields(Timing), *fields(RigConfig))]:
        assert key in ("name", "address") or f" {key}: " in text
    assert rigs.timing == Timing(), "the example says that these are the usual values"


def test_the_flat_map_in_the_example_is_the_same(write):
    text = (ROOT / "rigs.example.yaml").read_text(encoding="utf-8")
    flat = "\n".join(line[1:].strip() for line in text.partition("would be:\n")[2].splitlines())
    long = load_rigs(ROOT / "rigs.example.yaml").rigs
    assert {name: rig.address for name, rig in load_rigs(write(flat)).rigs.items()} == {
        name: rig.address for name, rig in long.items() if not isinstance(rig, ProgramRig)
    }


# ----------------------------------------------------------------------------------------------- finding the file


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Every place in which a file is looked for, first ones first; the working directory is one below the first."""
    environ = {
        "RIGSYNC_RIGS": str(tmp_path / "named.yaml"),
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "APPDATA": str(tmp_path / "roaming"),
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    files = [tmp_path / "explicit.yaml", tmp_path / "named.yaml", Path("rigs.yaml"), user_config_file()]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a: b")
    return files


def test_order_of_places(places, monkeypatch):
    explicit, named, here, users = places
    assert find_rigs_file(explicit) == explicit
    assert find_rigs_file(str(explicit)) == explicit
    assert find_rigs_file() == named
    monkeypatch.setenv("RIGSYNC_RIGS", "")
    assert find_rigs_file() == here
    here.unlink()
    here.mkdir()
    assert find_rigs_file() == users
    users.unlink()
    assert find_rigs_file() is None


def test_relative_paths_start_from_the_working_directory(places, monkeypatch):
    assert find_rigs_file("../explicit.yaml") == Path("../explicit.yaml")
    monkeypatch.setenv("RIGSYNC_RIGS", "../named.yaml")
    assert find_rigs_file() == Path("../named.yaml"), "the environment is read at the call"


def test_a_named_file_has_to_exist(places):
    explicit, named, _, _ = places
    named.unlink()
    explicit.unlink()
    with pytest.raises(ConfigError, match="variable RIGSYNC_RIGS names this file, which does not exist") as caught:
        find_rigs_file()
    assert (caught.value.file, caught.value.line, caught.value.key) == (str(named), None, None)
    with pytest.raises(ConfigError, match="--rigs names this file, which does not exist") as caught:
        find_rigs_file(explicit)
    assert caught.value.file == str(explicit)


def test_users_folder(tmp_path):
    home = tmp_path / "home"
    environ = {"HOME": str(home), "APPDATA": str(tmp_path / "roaming")}
    end = Path("rigsync", "rigs.yaml")
    assert user_config_file(environ, "win32") == tmp_path / "roaming" / end
    assert user_config_file({"HOME": str(home)}, "win32") == home / "AppData" / "Roaming" / end
    assert user_config_file(environ, "darwin") == home / "Library" / "Application Support" / end
    assert user_config_file(environ, "linux") == home / ".config" / end
    assert user_config_file({**environ, "XDG_CONFIG_HOME": str(tmp_path)}, "linux") == tmp_path / end
    assert user_config_file({**environ, "XDG_CONFIG_HOME": "relative"}, "linux") == home / ".config" / end
    assert user_config_file({}, "linux") == Path(os.path.expanduser("~")) / ".config" / end


# ------------------------------------------------------------------------------------------------------- resolving


@pytest.fixture
def look_up(monkeypatch):
    """Stand in for name servers: a dict of host to addresses, or to the exception that the look-up raises."""
    known = {}

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        assert type == socket.SOCK_DGRAM
        answer = known[host, flags]
        if isinstance(answer, Exception):
            raise answer
        return [
            (socket.AF_INET6, type, 17, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, type, 17, "", (ip, port))
            for ip in answer
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def rig(uri):
    return RigConfig("cameras", parse_uri(uri))


def test_literal_addresses_are_not_looked_up(look_up):
    look_up["192.168.1.20", socket.AI_NUMERICHOST] = ["192.168.1.20"]
    look_up["fe80::1%eth0", socket.AI_NUMERICHOST] = ["fe80::1"]
    assert resolve(rig("192.168.1.20:5")) == (socket.AF_INET, ("192.168.1.20", 5))
    assert resolve(rig("[fe80::1%eth0]:5")) == (socket.AF_INET6, ("fe80::1", 5, 0, 0))


def test_a_literal_address_with_the_real_function():
    assert resolve(rig("127.0.0.1:5")) == (socket.AF_INET, ("127.0.0.1", 5))


def test_names_are_looked_up_and_ipv4_is_preferred(look_up):
    look_up["pc", 0] = ["fd00::1", "10.0.0.1", "10.0.0.2"]
    look_up["pc6", 0] = ["fd00::1", "fd00::2"]
    assert resolve(rig("PC:5")) == (socket.AF_INET, ("10.0.0.1", 5))
    assert resolve(rig("pc6:5")) == (socket.AF_INET6, ("fd00::1", 5, 0, 0))
    found = [entry[1][0] for entry in resolve_all(rig("PC:5"))]
    assert found == ["10.0.0.1", "10.0.0.2", "fd00::1"]
    look_up["twice", 0] = ["10.0.0.1", "10.0.0.1"]  # as some systems tell an address in two files
    assert len(resolve_all(rig("twice:5"))) == 1


def test_unknown_host(look_up):
    look_up["pc", 0] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(ConfigError) as caught:
        resolve(rig("pc"))
    assert str(caught.value) == (
        "rigs.cameras.uri: the host 'pc' of rig 'cameras' cannot be resolved (Name or service not known); check "
        "its spelling, and whether `ping pc` finds it; or give its IP address instead"
    )
    assert (caught.value.file, caught.value.line, caught.value.key) == (None, None, "rigs.cameras.uri")


def test_unknown_network_interface(look_up):
    look_up["fe80::1%none", socket.AI_NUMERICHOST] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(ConfigError, match="check whether this computer has IPv6 and the network interface") as caught:
        resolve(rig("fe80::1%none"))
    assert caught.value.key == "rigs.cameras.uri"


def test_a_name_that_idna_cannot_encode(look_up):
    look_up["a..b", 0] = UnicodeError("label empty or too long")
    with pytest.raises(ConfigError, match=r"the host 'a\.\.b' of rig 'cameras' .*label empty or too long") as caught:
        resolve(RigConfig("cameras", Address("udp", "a..b", 1)))
    assert caught.value.key == "rigs.cameras.uri"


def test_literals():
    assert is_literal(parse_uri("192.168.1.20"))
    assert is_literal(parse_uri("fe80::1%eth0"))
    assert not is_literal(parse_uri("localhost"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://192.168.1.20:5", Address("tcp", "192.168.1.20", 5)),
        ("TCP://PC", Address("tcp", "pc", 11001)),
        ("ws://86.167.0.224:8888", Address("tcp", "86.167.0.224", 8888)),  # as in iblutil, where it means plain TCP
        ("tcp://[fe80::1%eth0]:5", Address("tcp", "fe80::1%eth0", 5)),
        ("tcp://::1", Address("tcp", "::1", 11001)),
    ],
)
def test_addresses_on_tcp(text, address):
    assert parse_uri(text) == address
    assert parse_uri(str(address)) == address


def test_one_port_of_udp_and_one_of_tcp_are_two_addresses():
    rigs = rigs_from({"a": "udp://192.168.1.20:5", "b": "tcp://192.168.1.20:5"})
    assert [str(rig.address) for rig in rigs.rigs.values()] == ["udp://192.168.1.20:5", "tcp://192.168.1.20:5"]
    with pytest.raises(ConfigError, match="rigs 'a' and 'b' have the same address"):
        rigs_from({"a": "ws://192.168.1.20:5", "b": "tcp://192.168.1.20:5"})


def test_two_names_of_one_address_are_for_the_map_that_iblrig_passes_alone(write):
    both = {"left": "192.168.1.20", "right": "udp://192.168.1.20:11001"}
    assert rigs_from(both).may_share
    assert not rigs_from({**both, "right": {"uri": "192.168.1.21"}}).may_share
    lines = "".join(f"{name}: {uri}\n" for name, uri in both.items())
    with pytest.raises(ConfigError, match="rigs 'left' and 'right' have the same address"):
        load_rigs(write(lines))


@pytest.mark.parametrize("nothing", ["null", "~", "", "NULL"])
@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("ephys: 10.0.0.1\ncameras: {}\n", 2, "rigs.cameras"),
        ("rigs:\n  cameras: {}\n", 2, "rigs.cameras"),
        ("rigs:\n  cameras:\n    uri: {}\n", 3, "rigs.cameras.uri"),
    ],
)
def test_a_rig_without_an_address_is_refused(write, text, line, key, nothing):
    with pytest.raises(ConfigError, match="the address is missing; write one, such as") as caught:
        load_rigs(write(text.format(nothing)))
    assert (caught.value.line, caught.value.key) == (line, key)


def test_a_host_may_be_called_null(write):
    assert load_rigs(write("cameras: 'null'\n")).rigs["cameras"].address.host == "null"


def test_the_pause_of_a_rig_in_a_file(write):
    rigs = load_rigs(write("rigs:\n  a:\n    uri: 10.0.0.1\n    pause: 0\n  b: 10.0.0.2\n"))
    assert [rig.pause for rig in rigs.rigs.values()] == [0, None]


def test_the_socket_address_is_looked_up_for_the_transport(monkeypatch):
    asked = []

    def getaddrinfo(host, port, **options):
        asked.append(options["type"])
        return [(socket.AF_INET, options["type"], 0, "", ("10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for scheme in ("udp", "tcp"):
        assert resolve(RigConfig("a", parse_uri(f"{scheme}://pc:5"))) == (socket.AF_INET, ("10.0.0.1", 5))
    assert asked == [socket.SOCK_DGRAM, socket.SOCK_STREAM]


@pytest.mark.parametrize("value", [0, -1, 65_506, (1 << 30) + 1, 1e6, "1000000", True, None])
def test_a_cap_that_cannot_be(value):
    with pytest.raises(ConfigError, match="expected a whole number of bytes from 65507 to 1073741824") as caught:
        rigs_from({"a": {"uri": "tcp://pc", "max_message": value}})
    assert caught.value.key == "rigs.a.max_message"


def test_how_large_a_message_may_be_depends_on_the_rigs():
    rigs = rigs_from({"a": "tcp://pc", "b": {"uri": "tcp://pc:2", "max_message": 100_000}, "c": "pc:3"})
    assert rigs.room(["a"]) == Room(1 << 26, "a", "tcp")
    assert rigs.room(["a", "b"]) == Room(100_000, "b", "tcp")
    assert rigs.room() == rigs.room(["c", "a"]) == Room(65_507, "c", "udp")
    assert rigs_from(None).room() == Room()
    rigs.room(["b"]).check(100_000)
    with pytest.raises(PayloadTooLarge, match=r"100,001 bytes .* rig b carries at most 100,000; raise max_message"):
        rigs.room(["b"]).check(100_001)
    with pytest.raises(PayloadTooLarge, match=r"one datagram to rig c carries at most 65,507; .* tcp://"):
        rigs.room().check(65_508)


def test_the_cap_in_a_file(write):
    rigs = load_rigs(write("rigs:\n  a:\n    uri: tcp://10.0.0.1\n    max_message: 1000000\n"))
    assert rigs.rigs["a"].max_message == 1_000_000


def test_resolved_addresses_are_distinct():
    rigs = Rigs(rigs_from({"a": "tcp://one", "b": "udp://two", "c": "tcp://three", "d": "udp://four"}).rigs)
    rigs.check_distinct({})
    rigs.check_distinct({"a": ("10.0.0.1", 1), "c": ("10.0.0.1", 2), "d": ("10.0.0.2", 1)})
    rigs.check_distinct({"a": ("10.0.0.1", 1), "b": ("10.0.0.1", 1)})  # the ports of each transport are its own
    rigs.check_distinct({"a": ("fe80::1", 1, 0, 2), "c": ("fe80::1", 1, 0, 3)})
    with pytest.raises(
        ConfigError, match=r"rigs 'a' and 'c' have the same address, host 10\.0\.0\.1 and port 1"
    ) as caught:
        rigs.check_distinct({"a": ("10.0.0.1", 1), "b": ("10.0.0.1", 1), "c": ("10.0.0.1", 1)})
    assert caught.value.key == "rigs.c.uri"
    with pytest.raises(ConfigError, match="rigs 'b' and 'd' have the same address"):
        rigs.check_distinct({"b": ("10.0.0.1", 1), "d": ("10.0.0.1", 1)})


def test_rigs_that_no_file_holds_need_no_yaml():
    code = "import sys, rigsync.config.rigs; print([m for m in ('yaml', 'iblutil', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------------------------- choosing


LAB = rigs_from({"cameras:left": "10.0.0.1", "cameras:right": "10.0.0.2", "Ephys": "10.0.0.3", "odd[1]": "10.0.0.4"})


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("Ephys", ["Ephys"]),
        ("cameras:*", ["cameras:left", "cameras:right"]),
        (["Ephys", "cameras:?eft"], ["cameras:left", "Ephys"]),
        (["*", "Ephys"], ["cameras:left", "cameras:right", "Ephys", "odd[1]"]),
        ("odd[1]", ["odd[1]"]),
        ([], []),
    ],
)
def test_rigs_are_chosen_in_their_own_order(patterns: str | list[str], names: list[str]) -> None:
    assert LAB.matching(patterns) == names


@pytest.mark.parametrize("pattern", ["ephys", "EPHYS", "camera", "", "odd[2]"])
def test_unknown_rig_lists_the_names(pattern: str) -> None:
    with pytest.raises(UnknownRig, match=r"the rigs are: .*cameras:left"):
        LAB.matching(["Ephys", pattern])


def test_close_matches_come_first() -> None:
    with pytest.raises(UnknownRig, match=r"the rigs are: cameras:right"):
        LAB.matching("cameras:rigth")


def test_rigs_are_chosen_by_text_only() -> None:
    with pytest.raises(TypeError, match="not by int"):
        LAB.matching([1])  # type: ignore[list-item]


@pytest.mark.parametrize(("field", "value"), [("beat", 1e-9), ("resend_min", 0.0005), ("overdue_probes", 10**9)])
def test_timing_that_would_take_a_computer_for_itself_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        Timing(**{field: value})
    assert caught.value.key == field


def test_a_name_that_would_burst_the_answer_to_a_probe_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 100 characters, not 101"):
        rigs_from({"x" * 101: "10.0.0.1"})
