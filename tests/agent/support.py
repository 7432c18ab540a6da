"""Files of agents, and pieces of which tests make others."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import strategies as st

from rigsync.agent.keys import (
    AGENT,
    Boolean,
    Choice,
    CommandLine,
    Free,
    Kind,
    Listing,
    Named,
    Number,
    Size,
    Table,
    Text,
)

EXAMPLE = """\
name: cameras
listen: udp://0.0.0.0:11001
main_sync: false
lease: 300
variables: {data: "D:/data"}
on:
  EXPINIT:  {run: "python prepare.py --session {exp_ref}", timeout: 20}
  EXPSTART: {start: "ffmpeg -f lavfi {data}/{exp_ref}/left.mp4", ready: {file: "{data}/{exp_ref}/left.mp4", within: 5}}
  EXPEND:   {stop: {signal: interrupt, grace: 10}}
  EXPCLEANUP: {run: "python transfer.py {exp_ref}"}
require: {free_disk: {path: "{data}", at_least: 20 GB}, files: ["{data}"]}
verify:  {files: "{data}/{exp_ref}/*.mp4", growing_within: 5}
"""

LEAST = "name: cameras\non:\n  EXPINIT: {run: date}\n"

FULL = """\
name: "cameras:left"
listen: tcp://[::1]:12001
main_sync: yes
lease: 0
max_message: 200000000
experiment_description:
  devices: {cameras: {left: {fps: 60, gain: 1.5, serial: "0042", sync: true, note: no, label:}}}
  authors: [me, 7]
variables:
  data: /data
  raw: "{data}/raw/{{x}}"
folders: ["{raw}/{exp_ref}"]
on:
  EXPINIT:
    run: [python, "prepare it.py", "{message.operator}"]
    folder: "{data}"
  EXPSTART:
    run: ls
    start: ffmpeg 'a b' "{raw}" {{}}
    frames: 'frame=\\s*([0-9]+)'
  EXPEND: {stop: {}, run: "echo {date} {number} {subject} > {data}/done", shell: true}
  EXPINTERRUPT: {stop: {signal: kill}}
require: {programs: [exiftool, "{data}/bin/tool"]}
existing: keep
verify: {files: "{raw}/cam_*.avi", growing_within: 2, settled_within: 3, segments: yes}
logs: {folder: "logs/of", keep: 7, max_size: 512 KiB}
"""


class Core(yaml.SafeLoader):
    """Reads YAML as editors do: by the core schema of YAML 1.2, in which `on` and `no` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML has it


for tag, pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}.items():
    Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), None)
Core.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def load(text: str | bytes) -> Any:
    """Return a document as an editor has it."""
    return yaml.load(text, Core)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["20 GB", "kill", "{data}", "{exp_ref}", "a 'b", "..", "(a)", "udp://a:1", "yes", "1e3", "5", ".5"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(table: Table, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Kind]]:
    """Return the path and the kind of each key of a table, and of those in it."""
    found: list[tuple[tuple[str, ...], Kind]] = []
    for name, key in table.keys.items():
        found.append(((*path, name), key.kind))
        if isinstance(key.kind, Table):
            found += places(key.kind, (*path, name))
    return found


WORDS = st.sampled_from(
    ["a", "{exp_ref}", "x {message.y}", "tcp://h:1", "(a)", "~", "7", "no", "../x", "null"]
) | st.text(min_size=1, max_size=10)
GOOD: dict[type, st.SearchStrategy[Any]] = {
    Text: WORDS | st.integers() | st.booleans(),
    Number: st.integers(0, 100) | st.floats(0, 100),
    Boolean: st.booleans() | st.sampled_from(["yes", "No", "OFF", "on"]),
    Size: st.sampled_from(["20 GB", "1.5 MiB", "100000 B", "1 PB"]),
    Choice: st.sampled_from(["interrupt", "terminate", "kill"]),
    Listing: st.lists(WORDS, min_size=1, max_size=3),
    CommandLine: WORDS | st.lists(WORDS, min_size=1, max_size=3),
    Named: st.dictionaries(st.sampled_from(["data", "b"]), WORDS),
    Free: st.dictionaries(st.text(max_size=5), VALUES),
}
"""What a key of this kind may hold, or nearly."""


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Draw the example with any value at one of the keys that there are, so that it gets past YAML and names."""
    document = load(EXAMPLE)
    for _ in range(draw(st.integers(1, 2))):
        (*outer, last), kind = draw(st.sampled_from(places(AGENT)))
        inner = document
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                break
        else:
            inner[last] = draw(GOOD.get(type(kind), VALUES) if draw(st.integers(0, 3)) else VALUES)
    return yaml.safe_dump(document)
