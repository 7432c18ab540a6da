"""The small program in which liblsl runs: it holds the bridge's stream, and hears the markers of another one.

liblsl ends the program that it is in when one of its streams ends at an unlucky moment, such as while a recorder reads
it, and when what comes from the network is not what it expects. So it is never in a program that commands rigs.
`rigsync.bridges.lsl.bridge` starts this one as ``program.py OPTIONS``, with `Options` in JSON. It imports little, and
nothing of rigsync.

* Its input has a marker in each line: ``[TEXT, STAMP]`` in JSON. It ends with its input, so with its starter too.
* Its output has a list in each line, in JSON. ``["begun"]`` or ``["refused", TEXT]`` comes first: the stream is there,
  or cannot be. ``["failed", TEXT]``: a marker was not taken. ``["found", HOST]``: the other stream is there, on that
  computer. ``["lost", TEXT]``: it is not; the text goes on from its name. ``["marker", VALUE, HERE, STAMP]``: one has
  come, with its stamp by LSL's clock of this computer, or null as long as that is not known, and its stamp as it was
  given. ``["too long"]``: one has come that is no event.

It never ends a stream: it exits, and the system closes what it has.
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
"""Seconds for a stream to open."""
COMPARING = 5.0
"""Seconds for the first comparison of clocks, of which markers wait. It takes 0.7 s, or more where answers get lost."""
MOST_AT_ONCE = 256
"""Most markers that are taken in at a time."""
BUFFERED = 10
"""Most markers, in hundreds, that wait in liblsl. Beyond that it drops the oldest."""
MOST_CHANNELS = 100
LONGEST = 65_536
"""Most characters or bytes of a marker."""

_telling = threading.Lock()
_output = 1


class Options(TypedDict):
    """What it is to do."""

    name: str
    """The name of the bridge's stream."""
    source_id: str
    ahead: str
    """Seconds by which LSL's clock is ahead of Unix time by the coordinator's, and their bound."""
    bound: str
    heard: str | None
    """The name of the stream to hear, if any."""
    again: float
    """Seconds between two looks whether it was found."""
    silence: float
    """Seconds without a marker after which it has to be found again: a computer that is cut off says no goodbye."""


class Lost(Exception):
    """The stream is not there, or no stream of markers; the text says which."""


def main(options: Options) -> NoReturn:
    """Do it until the input ends."""
    global _output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the starter, which then ends this
    _output = os.dup(1)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # pylsl prints at times
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
    """Write a line of the output; end where nobody reads it any more."""
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
    """End this program where listening ends, say for want of memory: another one begins."""
    try:
        _listen(*options)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _listen(name: str, again: float, silence: float) -> None:
    """Tell the markers of a stream, wherever and as often as it begins."""
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
    """Return the stream of markers that was found; of several, the one that began last: another may have ended."""
    found = search.results()
    irregular = [each for each in found if each.nominal_srate() == pylsl.IRREGULAR_RATE]
    if not irregular:
        raise Lost(f"has a regular rate of {found[0].nominal_srate():g} Hz, and so no markers" if found else none)
    last = max(irregular, key=lambda each: float(each.created_at()))
    if last.channel_count() > MOST_CHANNELS:
        raise Lost(f"has {last.channel_count():,} channels, and markers have {MOST_CHANNELS} at most")
    return last


class _Inlet:
    """A stream that was found; `Lost` where it does not open."""

    def __init__(self, info: Any, search: Any, silence: float):
        self._uid, self._search, self._silence = info.uid(), search, silence
        with _lost():
            self._inlet = pylsl.StreamInlet(info, max_buflen=BUFFERED, recover=False)
            self._inlet.open_stream(OPENING)
        self._heard = time.monotonic()
        self._compared = self._heard + COMPARING

    def pull(self) -> None:
        """Wait a little for markers, and tell those that have come; `Lost` if the stream is there no more."""
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
            if any(isinstance(value, bytes) and len(value) > LONGEST for value in sample):
                _tell("too long")
                continue
            values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in sample]
            here = None if correction is None else stamp + correction
            _tell("marker", values[0] if len(values) == 1 else values, here, stamp)

    def _correction(self, timeout: float) -> float | None:
        """Return what makes its stamps those of this computer; None where no comparison comes through."""
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
