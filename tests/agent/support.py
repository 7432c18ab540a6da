"""Files of agents."""

from __future__ import annotations

from hypothesis import strategies as st
from yaml_documents import near

from rigsync.agent.keys import AGENT

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
validate: {run: "ffprobe -v error {file}", timeout: 30, folder: "{data}"}
finish:
  steps:
    - {run: "cp -r {raw}/{exp_ref} /nas/raw", timeout: 9000, percent: '(\\d+)%', folder: "{data}"}
    - {run: "cp {data}/done {data}/{exp_ref}", shell: true}
  after: [end]
  at_once: 2
  while_recording: go on
  queue: "{data}/queue"
logs: {folder: "logs/of", keep: 7, max_size: 512 KiB}
"""


def documents() -> st.SearchStrategy[str]:
    """Draw the example with any value at one or two of the keys that there are."""
    return near(EXAMPLE, AGENT.schema)
