"""Measure all the figures of docs/figures.md: `python -m benchmarks` (about five minutes; keep the machine idle).

`python -m benchmarks strangers` measures what strangers can do to a rig (about four minutes), and `python -m benchmarks
year` how long a year of sessions takes to ask (about three).
"""

from __future__ import annotations

import os
import platform
import sys
from statistics import median, quantiles

from benchmarks import journal, lsl, measure, mqtt, osc, strangers, year, zeromq


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def row(what: str, ours: str, against: str, held: str) -> None:
    print(f"| {what} | {ours} | {against} | {held} |", flush=True)


def latency_rows() -> None:
    for count, rounds in ((1, 1000), (8, 400), (64, 100), (256, 40), (1000, 20)):
        ours, floor = measure.push_latency(count, rounds)
        rigs = "one rig" if count == 1 else f"{count} rigs in another process"
        per_rig = "" if count == 1 else f" ({ours / count * 1e6:.0f} µs a rig)"
        row(
            f"`push(wait=True)`, {rigs}, p50",
            milliseconds(ours) + per_rig,
            f"raw asyncio, same datagrams: {milliseconds(floor)}",
            f"{ours / floor:.2f} ×",
        )
    ours, floor = measure.push_latency(8, 300, "handlers")
    row(
        "the same, 8 rigs with handlers in worker threads",
        milliseconds(ours),
        f"raw asyncio: {milliseconds(floor)}",
        f"{ours / floor:.2f} ×",
    )


def iblutil_rows() -> None:
    polling = measure.polling_latency(4, 20)
    for what, rest in (("after a pause", 0.3), ("right after the one before", 0.0)):
        ours = measure.iblutil_latency(4, 40, rest)
        row(
            f"push to 4 iblutil rigs {what}, p50",
            milliseconds(ours),
            f"existing pattern: {milliseconds(polling)}",
            f"1/{polling / ours:.0f}" if ours < polling / 2 else f"{ours / polling:.2f} ×",
        )
    ours, polling = measure.start_spread()
    row(
        "4 iblutil rigs with 0.4 s echoes: first to last told to start",
        milliseconds(ours),
        f"existing pattern: {milliseconds(polling)}",
        f"1/{polling / ours:.0f}",
    )


def fault_rows() -> None:
    succeeded, half, most = measure.latency_under_loss()
    row(
        "1,000 pushes to 3 rigs, 20 % lost each way",
        f"{succeeded:,} succeed; p50 {milliseconds(half)}, p99 {milliseconds(most)}",
        "bar: 80 ms and 1 s",
        "",
    )
    scheduled, at_once, bound = measure.start_skew()
    row(
        "16 rigs, each datagram 2 to 20 ms late: first to last start, p95",
        f"{milliseconds(scheduled)} with `delay=` (told bound: {milliseconds(bound)})",
        f"sent at once: {milliseconds(at_once)}",
        f"1/{at_once / scheduled:.0f}",
    )


def start_rows() -> None:
    half, most, agreed = measure.early_starts()
    row(
        "4 rigs, each datagram 1 to 6 ms late, 3 s after connecting, `delay=0.4`: first to last start",
        f"p50 {milliseconds(half)}, p95 {milliseconds(most)}",
        f"bar: p95 0.30 ms; told within its bounds in {agreed:.0%}",
        "",
    )


def instant_rows() -> None:
    for kind, is_coroutine in (("plain", False), ("coroutine", True)):
        half, most = measure.entry_delay(is_coroutine)
        row(
            f"{kind} handler entered after its instant",
            f"p50 {1e6 * half:.0f} µs, p95 {1e6 * most:.0f} µs",
            "bar: 200 µs",
            "",
        )


def hub_rows() -> None:
    ours, floor = measure.hub_ratio()
    row(
        "hub: 1,000,000 events, five handlers (CPU)",
        f"{ours:.2f} s",
        f"a bare loop over the same handlers: {floor:.2f} s; bar: 8 ×",
        f"{ours / floor:.2f} ×",
    )


def resource_rows() -> None:
    row("idle coordinator, 16 rigs", f"{measure.idle_load():.2%} of one core", "bar: 1 %", "")
    share, most = measure.progress_load()
    row(
        "20 items × 1,000 progress calls a second, one coordinator: the rig's process",
        f"{share:.1%} of one core; at most {most} datagrams an item in any second",
        "bar: 5 %, 10 a second",
        "",
    )
    full, end = measure.memory_growth()
    row(
        "memory, 20,000 to 200,000 pushes", f"{full:.1f} to {end:.1f} MiB", "log limit 10,000", f"{end - full:+.1f} MiB"
    )
    ours, click = measure.help_ratio()
    row(
        "`rigsync --help`",
        milliseconds(ours),
        f'`python -c "import click"`: {milliseconds(click)}',
        f"{ours / click:.2f} ×",
    )
    ours, alone = measure.rig_ratio()
    row(
        "a program that imports rigsync and makes a `Rig`",
        milliseconds(ours),
        f'`python -c "import asyncio"`: {milliseconds(alone)}',
        f"{ours / alone:.2f} ×",
    )


def osc_rows() -> None:
    for what, measured, other in (
        ("OSC in: messages to a method, under a flood over UDP", osc.throughput_in, "server"),
        ("OSC out: events told to a program over UDP", osc.throughput_out, "client"),
    ):
        ours, theirs = measured()
        row(
            what,
            f"{ours:,.0f} a second",
            f"python-osc's {other}: {theirs:,.0f}; bar: half of it",
            f"{ours / theirs:.2f} ×",
        )
    half, most = osc.lateness()
    row(
        "OSC bundle after its instant",
        f"p50 {1e6 * half:.0f} µs, p95 {1e6 * most:.0f} µs",
        "bar: p95 1 ms",
        "",
    )
    row("idle OSC bridge, 4 rigs, one program that is told", f"{osc.idle_share():.2%} of one core", "bar: 0.5 %", "")


def zmq_rows() -> None:
    ours, theirs = zeromq.latency()
    row(
        "ZeroMQ: event to a subscriber in another process, p50",
        f"{1e3 * ours:.2f} ms",
        f"raw pyzmq, same bytes: {1e3 * theirs:.2f} ms; bar: 0.5 ms",
        f"{ours / theirs:.2f} ×",
    )
    told, missed, rate = zeromq.joined()
    row(
        f"ZeroMQ: who joins while {zeromq.MANY:,} events are told as fast as can be",
        f"{told:,} heard, {missed} missed or twice; {rate:,.0f} a second",
        "bar: none missed, none twice",
        "",
    )
    row("idle ZeroMQ bridge, 4 rigs, one subscriber", f"{zeromq.idle_share():.2%} of one core", "bar: 0.5 %", "")


def lsl_rows() -> None:
    pushes, starts, held_by = lsl.stamps()
    for what, off, bar in (
        ("LSL: stamp of a push beside LSL's clock when the hub told it", pushes, "bar: 0.2 ms"),
        (
            "LSL: stamp of a start beside LSL's clock as the handler reads it",
            starts,
            f"its told bound holds in {held_by:.0%}",
        ),
    ):
        row(what, f"p50 {1e6 * median(off):.0f} µs, p95 {1e6 * quantiles(off, n=20)[-1]:.0f} µs", bar, "")
    apart, ours, theirs = lsl.agreement()
    row(
        "LSL: clocks of two programs, rigsync's estimate beside `time_correction`",
        f"{1e6 * apart:.0f} µs apart",
        f"bar: both bounds, {1e6 * ours:.0f} + {1e6 * theirs:.0f} µs",
        "",
    )
    row("idle LSL bridge, 4 rigs, one stream that it hears", f"{lsl.idle_share():.2%} of one core", "bar: 0.5 %", "")


def mqtt_rows() -> None:
    ours, theirs = mqtt.fan_out()
    row(
        f"`push(wait=True)`, {mqtt.RIGS:,} rigs through one mosquitto, in {mqtt.RIGS // mqtt.EACH} processes",
        f"p50 {milliseconds(ours[0])}, p99 {milliseconds(ours[1])}",
        f"raw paho, same bytes: {milliseconds(theirs[0])}, {milliseconds(theirs[1])}; bar: 2 ×",
        f"{ours[0] / theirs[0]:.2f} ×, {ours[1] / theirs[1]:.2f} ×",
    )
    row("idle MQTT bridge, 4 rigs", f"{mqtt.idle_share():.2%} of one core", "bar: 0.5 %", "")


def journal_rows() -> None:
    told, kept, rate, longest = journal.flood()
    row(
        f"journal: {told:,} events, {rate:,.0f} a second",
        f"{told - kept} missing; the newest record at most {1e3 * longest:.0f} ms old",
        "bar: none missing",
        "",
    )
    for what, events in (("", 0), (f", while {journal.RATE:,} events a second are told", journal.RATE)):
        ours, ours_late, bare, bare_late = journal.pushes(events)
        row(
            f"`push(wait=True)`, one rig, with a journal{what}, p50 and p99",
            f"{milliseconds(ours)}, {milliseconds(ours_late)}",
            f"without: {milliseconds(bare)}, {milliseconds(bare_late)}; bar: p50 within 5 %",
            f"{ours / bare - 1:+.1%}",
        )


def year_rows() -> None:
    count, size, took = year.questions()
    row(
        f"journal: a year, {year.SESSIONS:,} sessions of an hour with {len(year.RIGS)} rigs",
        f"{count:,} records, {size / 1e6:.0f} MB",
        "bar: 1 GB",
        "",
    )
    for what, seconds in took.items():
        row(f"`rigsync {what}` of that year", milliseconds(seconds), "beside `import sqlite3`; bar: 300 ms", "")


ATTACKS = {
    "nothing": ("nothing, over UDP", "udp", strangers.FLOODED),
    "lists": ("`[[],[],...]` of 59 MB", "tcp", strangers.TIMES * strangers.LARGE),
    "lists3": ("three of them at once", "tcp", strangers.TIMES * strangers.LARGE),
    "text": ("EXPINFO with a text of 59 MB, iblutil dialect", "tcp", strangers.TIMES * strangers.LARGE),
    "textframe": ("the same, rigsync dialect", "tcp", strangers.TIMES * strangers.LARGE),
    "wide": (
        "the same, 25 MB and one character beyond U+FFFF, which counts 2.5 times",
        "tcp",
        strangers.TIMES * int(2.5 * strangers.WIDE),
    ),
    "unread": (
        "45 messages of 20 MB, iblutil dialect, and read no echo",
        "tcp",
        strangers.TIMES * strangers.UNREAD + strangers.FLOODED,
    ),
    "begun": ("126 connections that begin a message of 1 MB and stop", "tcp", strangers.FLOODED),
    "instants": ("4,000 EXPINFO of 60 kB with `at` an hour ahead", "udp", strangers.FLOODED),
    "instantsports": ("the same, from 2,000 ports", "udp", strangers.FLOODED),
    "frames": ("200,000 EXPINFO of as many coordinators, from 2,000 ports", "udp", strangers.FLOODED),
    "arrays": ("200,000 EXPINFO in the iblutil dialect, from 2,000 ports", "udp", strangers.FLOODED),
    "rush": ("EXPINFO of as many coordinators for 5 s, as fast as they leave", "udp", strangers.FLOODED),
    "forged": ("68,000 forged coordinators and their goodbyes, and the owner's", "udp", strangers.FLOODED),
}
"""Each with its title, its transport, and the bytes that it may take."""


def held(text: str, is_held: bool) -> str:
    return f"{text}: {'ok' if is_held else 'over'}"


def stranger_rows() -> None:
    print("| strangers send | memory of the rig, at most | longest wait of a probe | the owner's commands | s |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for attack, (what, scheme, memory) in ATTACKS.items():
        done = strangers.damage(attack, scheme)
        cells = (
            held(f"+{done.memory / 1e6:.0f} MB of {memory / 1e6:.0f}", done.memory <= memory),
            held(f"{done.longest:.2f} s of {strangers.DEAF:g}", done.longest <= strangers.DEAF),
            held(f"{done.commands - done.failed} of {done.commands} ran", not done.failed),
        )
        print("|", what, "|", " | ".join(cells), f"| {done.seconds:.1f} |", flush=True)
    print("\n| one datagram of a host that never answers | bytes that come | bytes that leave |\n| --- | --- | --- |")
    address = strangers.own_address()
    for what, data in strangers.questions().items() if address else ():
        sent, came = strangers.amplification(str(address), data)
        times = held(f"{sent / came:.1f} × of {strangers.AMPLIFIED}", sent <= strangers.AMPLIFIED * came)
        print(f"| {what} | {came} | {sent:,} ({times}) |", flush=True)
    if not address:
        print("| not measured: this computer has no address but 127.0.0.1 | | |")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load not known"
    print(f"at the end: {load}", file=sys.stderr)


ROWS = {
    "push": latency_rows,
    "iblutil": iblutil_rows,
    "faults": fault_rows,
    "starts": start_rows,
    "instants": instant_rows,
    "hub": hub_rows,
    "resources": resource_rows,
    "lsl": lsl_rows,
    "osc": osc_rows,
    "zmq": zmq_rows,
    "mqtt": mqtt_rows,
    "journal": journal_rows,
    "year": year_rows,
    "strangers": stranger_rows,
}
"""What may be named on the command line, to measure that alone: `python -m benchmarks push hub`."""
APART = {"strangers", "year"}
"""What takes some minutes by itself."""


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in ROWS]:
        sys.exit(f"no rows are called {', '.join(unknown)}; choices: {', '.join(ROWS)}")
    print(f"Python {platform.python_version()}, {platform.system()}, {os.cpu_count()} cores\n", file=sys.stderr)
    print("| what | rigsync | held against, same run | ratio |\n| --- | --- | --- | --- |", flush=True)
    for name in names or [name for name in ROWS if name not in APART]:
        ROWS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
