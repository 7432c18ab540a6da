"""The first line of a report: complete, or what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from rigsync._text import size_text, span_text
from rigsync.journal.report.facts import Facts
from rigsync.journal.rows import OK

MUCH, SLACK = 0.95, 2.0
"""Share of the time of a recording, and seconds besides, below which it is said that a rig has recorded less."""
"""What `Session.rigs` says of a rig that has done all that it was asked."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a session."""

    is_complete: bool
    line: str
    """In one line."""
    missing: tuple[tuple[str, str], ...]
    """What is missing, in words, each with its rig; an empty name where it is about no rig."""
    remarks: tuple[str, ...]
    """What else one has to know before one relies on it."""


def verdict_of(facts: Facts) -> Verdict:
    """Return what became of a session, by all that is recorded of it."""
    session = facts.session
    missing = [(rig, outcome) for rig, outcome in session.rigs.items() if outcome != OK]
    bad = {rig for rig, _ in missing}
    for rig, recorded in facts.recorded.items():
        missing += [(rig, f"{file.path} is empty") for file in recorded.files if file.bytes == 0]
    for rig, unsure in facts.unconfirmed.items():
        if rig not in bad:
            missing.append((rig, f"nobody has confirmed it ({unsure}); look there"))
    if session.outcome == "interrupted" and facts.broken_off is not None:
        missing.insert(0, ("", f"broken off by EXPINTERRUPT: {facts.broken_off}"))
    if session.ended is None:
        run = facts.runs[session.run]
        if run.closed is None:
            why = "it goes on, or its program was killed"
        else:
            why = "its program has closed without ending it"
        missing.insert(0, ("", f"the journal knows no end of it: {why}"))
    is_complete = session.outcome == "complete" and not missing
    return Verdict(is_complete, _line(facts, missing, is_complete), tuple(missing), tuple(_remarks(facts)))


def _line(facts: Facts, missing: list[tuple[str, str]], is_complete: bool) -> str:
    session, rigs = facts.session, _many(len(facts.session.rigs), "rig")
    if is_complete:
        files = f", {_many(session.files, 'file')}, {size_text(session.bytes)}"
        return f"Complete: {rigs}{files if session.files else ''}"
    if session.ended is None:
        begin = "Not ended"
    else:
        begin = {"interrupted": "Interrupted", "failed": "Failed"}.get(session.outcome or "", "Not complete")
    named = list(dict.fromkeys(rig for rig, _ in missing if rig))
    if not named:
        return f"{begin}: {missing[0][1]}" if missing else f"{begin}: the session has the outcome {session.outcome!r}"
    shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
    return f"{begin}: {len(named)} of {rigs} {'lacks' if len(named) == 1 else 'lack'} something ({shown})"


def _short(facts: Facts) -> list[str]:
    """Return which rigs say that they have recorded for much less time than they were to."""
    told = []
    for rig, recorded in facts.recorded.items():
        spans = facts.lanes[rig].states if rig in facts.lanes else []
        running = sum(span.end - span.begin for span in spans if span.what == "RUNNING")
        if recorded.seconds is not None and recorded.seconds < MUCH * running - SLACK:
            told.append(f"{rig} has recorded {span_text(recorded.seconds)} of {span_text(running)}.")
    return told


def _many(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def _remarks(facts: Facts) -> list[str]:
    told = []
    silent: dict[str, float] = {}
    for lane in facts.lanes.values():
        if seconds := sum(span.end - span.begin for span in lane.silences):
            silent[lane.rig] = seconds
    if silent:
        rigs = ", ".join(
            f"{rig} ({span_text(seconds) if seconds >= 1 else '< 1 s'})" for rig, seconds in silent.items()
        )
        told.append(f"Silent for a while: {rigs}.")
    if facts.failures:
        told.append(f"{_many(facts.failures, 'failure')} on the way, numbered below.")
    untold = [rig for rig in facts.session.rigs if rig not in facts.recorded]
    if untold and len(untold) < len(facts.session.rigs):
        told.append(f"Told nothing of their files: {', '.join(untold)}.")
    elif untold:
        told.append("No rig told which files it has recorded.")
    told += _short(facts)
    unsure = [rig for rig, one in facts.recorded.items() if any(file.verified is None for file in one.files)]
    if unsure:
        told.append(f"Not all files were looked at after the recording: {', '.join(unsure)}.")
    if facts.unplaced:
        told.append(f"{_many(facts.unplaced, 'record')} of rigs whose clocks are not known: left out.")
    if facts.gaps:
        records = sum(missing for _, missing in facts.gaps)
        told.append(f"The journal could not be written for a while; it lacks {_many(records, 'record')}.")
    return told
