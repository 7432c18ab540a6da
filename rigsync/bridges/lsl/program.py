"""The small program in which liblsl runs: it holds the bridge's stream, and hears the markers of another one.

A fault in liblsl can kill its whole program: when a stream ends at an unlucky moment, such as while a recorder reads
it, or when the network brings what liblsl does not expect. So liblsl never runs in a program that commands rigs.
`rigsync.bridges.lsl.bridge` starts this program as ``program.py OPTIONS``, with `Options` in JSON. It imports little,
and nothing of rigsync.

* Each line of its input is a marker: ``[TEXT, STAMP]`` in JSON. It ends with its input, so also with its starter.
* Each line of its output is a list in JSON. ``["begun"]`` or ``["refused", TEXT]`` comes first: the bridge's stream is
  there, or cannot begin. ``["failed", TEXT]``: liblsl did not take a marker. ``["found", HOST]``: the other stream is
  there, on that computer. ``["lost", TEXT]``: it is not there; the text goes on after its name.
  ``["marker", VALUE, HERE, STAMP]``: a marker has come. HERE is its stamp by LSL's clock of this computer, null while
  that is not known; STAMP is the one that the other program gave. ``["too long"]``: a marker that is too long has come.

It never ends a stream: it exits, and the system closes its sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn, TypedDict

import pylsl

LINGER = 0.5
"""Seconds between the last marker and the end of the stream: liblsl drops what it has not sent by then."""
PULL = 0.25
"""Seconds of waiting for markers."""
OPENING = 1.5
"""Seconds that a stream may take to open."""
COMPARING = 5.0
"""Seconds for the first comparison of clocks. Markers wait for it. It takes 0.7 s, or more if answers get lost."""
MOST_AT_ONCE = 256
"""Most markers that are read at a time."""
BUFFERED = 10
"""Most markers, in hundreds, that wait in liblsl. Beyond that it drops the oldest."""
MOST_CHANNELS = 100
LONGEST = 65_536
"""Most characters or bytes of a marker, in all its channels together."""

_telling = threading.Lock()
_output = 1


class Options(TypedDict):
    """What the program has to do."""

    name: str
    """The name of the bridge's stream."""
    source_id: str
    ahead: str
    """Seconds by which LSL's clock is ahead of Unix time by the coordinator's, and their bound."""
    bound: str
    heard: str | None
    """The name of the other stream, if there is one."""
    again: float
    """Seconds between two looks for the other stream."""
    silence: float
    """Seconds without a marker after which the search must find it again: a computer that is cut off says nothing."""


class Lost(Exception):
    """The stream is not there, or has no markers; the text says which."""


def main(options: Options) -> NoReturn:
    """Send and hear markers until the input ends."""
    global _output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the starter, which then ends this program
    _output = os.dup(1)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # pylsl sometimes prints to standard output
    try:
        outlet = _outlet(options)
    except RuntimeError as error:
        _tell("refused", str(error))
        os._exit(1)
    _tell("begun")
    if options["heard"] is not None:
        listening = (options["heard"], options["again"], options["silence"])
        threading.Thread(target=_keep_listening, args=listening, daemon=True).start()
    sent = 0.0
    for line in sys.stdin.buffer:
        text, stamp = json.loads(line)
        try:
            outlet.push_sample([text], stamp)
            sent = time.monotonic()
        except (RuntimeError, OSError) as error:
            _tell("failed", str(error))
    if outlet.have_consumers():
        time.sleep(max(0.0, min(LINGER, sent + LINGER - time.monotonic())))
    os._exit(0)


def _tell(*what: Any) -> None:
    """Write a line of the output; exit if nobody reads it any more."""
    left = memoryview(json.dumps(what).encode() + b"\n")
    with _telling:
        try:
            while left:
                left = left[os.write(_output, left) :]
        except OSError:
            os._exit(1)


# -------------------------------------------------------------------------------------------------------- going out


def _outlet(options: Options) -> Any:
    info = pylsl.StreamInfo(options["name"], "Markers", 1, pylsl.IRREGULAR_RATE, pylsl.cf_string, options["source_id"])
    description = info.desc()
    description.append_child_value("manufacturer", "rigsync")
    channel = description.append_child("channels").append_child("channel")
    channel.append_child_value("label", "events").append_child_value("type", "Marker")
    channel.append_child_value("unit", "JSON")
    clock = description.append_child("clock")
    clock.append_child_value("lsl_minus_unix", options["ahead"])
    clock.append_child_value("bound", options["bound"])
    return pylsl.StreamOutlet(info)


# -------------------------------------------------------------------------------------------------------- coming in


def _keep_listening(*options: Any) -> NoReturn:
    """Listen, and exit if that fails, say for want of memory: the bridge then starts another program."""
    try:
        _listen(*options)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _listen(name: str, again: float, silence: float) -> None:
    """Tell the markers of a stream, on whatever computer and as often as it begins."""
    search = pylsl.ContinuousResolver("name", name, forget_after=silence / 2)
    problem = ""
    while True:
        time.sleep(again)
        try:
            info = _found(search, problem or "is not there yet")
            inlet = _Inlet(info, search, silence)
            _tell("found", info.hostname())
            problem = ""
            while True:
                inlet.pull()
        except Lost as lost:
            if str(lost) != problem:
                problem = str(lost)
                _tell("lost", problem)


def _found(search: Any, none: str) -> Any:
    """Return the stream of markers that was found; of several, the one that began last: the others may have ended."""
    found = search.results()
    irregular = [each for each in found if each.nominal_srate() == pylsl.IRREGULAR_RATE]
    if not irregular:
        raise Lost(f"has a regular rate of {found[0].nominal_srate():g} Hz, and so no markers" if found else none)
    last = max(irregular, key=lambda each: float(each.created_at()))
    if last.channel_count() > MOST_CHANNELS:
        raise Lost(f"has {last.channel_count():,} channels, and markers have {MOST_CHANNELS} at most")
    return last


class _Inlet:
    """A stream that was found; raises `Lost` if it does not open."""

    def __init__(self, info: Any, search: Any, silence: float):
        self._uid, self._search, self._silence = info.uid(), search, silence
        with _lost():
            self._inlet = pylsl.StreamInlet(info, max_buflen=BUFFERED, recover=False)
            self._inlet.open_stream(OPENING)
        self._heard = time.monotonic()
        self._compared = self._heard + COMPARING

    def pull(self) -> None:
        """Wait a little for markers, and tell those that come; raise `Lost` if the stream is not there any more."""
        if time.monotonic() < self._compared:
            if self._correction(PULL) is None:
                return
            self._compared = 0.0
        with _lost():
            samples, stamps = self._inlet.pull_chunk(PULL, MOST_AT_ONCE, min_samples=1, as_numpy=True)
        now = time.monotonic()
        if len(stamps):
            self._heard = now
        elif now >= self._heard + self._silence:
            if self._uid not in [each.uid() for each in self._search.results()]:
                raise Lost("is not there any more")
            self._heard = now
        correction = self._correction(0.0) if len(stamps) else None
        for sample, stamp in zip(samples.tolist(), stamps.tolist(), strict=True):
            if sum(len(value) for value in sample if isinstance(value, bytes)) > LONGEST:
                _tell("too long")
                continue
            values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in sample]
            here = None if correction is None else stamp + correction
            _tell("marker", values[0] if len(values) == 1 else values, here, stamp)

    def _correction(self, timeout: float) -> float | None:
        """Return the seconds to add to its stamps for this computer's clock; None if no comparison gets through."""
        with _lost():
            try:
                return float(self._inlet.time_correction(timeout))
            except pylsl.util.TimeoutError:
                return None


@contextlib.contextmanager
def _lost() -> Iterator[Any]:
    try:
        yield
    except RuntimeError as error:  # all that pylsl raises derives from it
        raise Lost("is lost") from error


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
