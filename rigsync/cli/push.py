"""`rigsync push`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from time import time
from typing import Any

import click

import rigsync
from rigsync._text import printable, printable_lines
from rigsync.cli import completion
from rigsync.cli.logs import start_logging
from rigsync.cli.options import SECONDS, json_option, rigs_option, usage_errors, verbose_option
from rigsync.cli.outcomes import answer_in_words, answer_of, document_of, failure_in_words, timed_push
from rigsync.cli.output import compact, milliseconds, write_json
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.cli.tables import print_table
from rigsync.core.arguments import checked_delay, compose
from rigsync.errors import RigError

MESSAGES = {
    "EXPINFO": (("STATUS", "DATA"), "say what you are"),
    "EXPINIT": (("DATA",), "prepare; DATA holds exp_ref, or is the reference"),
    "EXPSTART": (("EXP_REF", "DATA"), "record"),
    "EXPEND": (("DATA",), "stop"),
    "EXPINTERRUPT": (("DATA",), "stop at once, whoever is in charge"),
    "EXPCLEANUP": (("DATA",), "tidy up"),
    "EXPSTATUS": (("STATUS",), "say your status"),
    "ALYX": ((), "give your Alyx token; it is not shown"),
}
"""The messages, each with its arguments on the command line and its meaning."""
NOBODY_CONFIRMS = 3
"""Exit status if no rig has failed, and nobody confirms that some of them have done it."""
_MOST_SHOWN = 60
"""Most characters of a faulty argument that are shown."""


def _epilog() -> str:
    lines = [
        f"  {' '.join([name, *(f'[{part}]' for part in follow)]):26}{what}" for name, (follow, what) in MESSAGES.items()
    ]
    return "\n".join(["\b", "Messages, and what follows them:", *lines])


to_option = click.option(
    "--to",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    shell_complete=completion.rigs,
    help="Only these rigs: a name, or a pattern such as 'cam*'.",
)
timeout_option = click.option(
    "--timeout", type=SECONDS, metavar="S", help="Seconds for the answers, instead of each rig's own."
)

init_option = click.option("--init", metavar="JSON", help="Data of EXPINIT: a map.")
start_option = click.option("--start", metavar="JSON", help="Data of EXPSTART.")
any_ref_option = click.option("--any-ref", is_flag=True, help="Take a reference of another form, too.")
delay_option = click.option(
    "--delay", type=SECONDS, metavar="S", help="Have all rigs begin at one instant, so many seconds ahead."
)


@click.command(short_help="Send one message to the rigs, and show their answers.", epilog=_epilog())
@click.argument("message", shell_complete=completion.one_of(MESSAGES))
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@to_option
@timeout_option
@click.option("--takeover", is_flag=True, help="With EXPINIT: take this experiment over from another program.")
@click.option("--delay", type=SECONDS, metavar="S", help="Have all rigs act at one instant, so many seconds from now.")
@rigs_option
@json_option
@verbose_option
def command(
    message: str,
    arguments: tuple[str, ...],
    patterns: tuple[str, ...],
    timeout: float | None,
    takeover: bool,
    delay: float | None,
    rigs_file: str | None,
    as_json: bool,
) -> int:
    """Send MESSAGE, for instance EXPSTART, with its ARGs to the rigs, and show what each has answered.

    An ARG is JSON, or else text. The command shows the status of each rig, the reference, and what the rig's handlers
    have added. -v shows the whole answer, and the traceback of a rig that failed. The exit status is 1 if a rig failed,
    and 3 if none did, and a rig is a program that confirms nothing: its outcome is "sent".

    When the command has ended, nobody is in charge of an experiment that it began. The rigs go on, and interrupt when
    their lease is over: after 300 s, unless the rig says otherwise.

    \b
    rigsync push EXPINFO CONNECTED
    rigsync push EXPINIT 2026-01-31_1_mouse
    rigsync push EXPINIT '{"exp_ref": "2026-01-31_1_mouse"}'
    rigsync push EXPSTART 2026-01-31_1_mouse --to 'cameras:*'
    rigsync push EXPSTART 2026-01-31_1_mouse --delay 0.5
    rigsync push EXPINTERRUPT
    rigsync push EXPINIT 2026-01-31_1_mouse --takeover
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    with usage_errors():
        values = [value_of(argument) for argument in arguments]
        _check_usage(message, len(values), delay)
        if takeover:
            values = _taking_over(message, values)
        event = compose(message, *values).event
        checked_delay(event, None, delay, time())
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    with connect(rigs, leave_running=True) as auxiliaries:
        result, seconds = timed_push(auxiliaries, message, values, timeout, delay=delay)
    if as_json:
        write_json(document_of(result, seconds))
    else:
        _print_result(result, seconds, list(rigs.rigs))
        if (result.message == "EXPSTART" or takeover) and result:
            click.echo(
                "nobody is in charge when this command has ended: rigs with a lease (300 s, unless they were told "
                "otherwise) interrupt when it is over",
                err=True,
            )
    if click.get_current_context().obj:
        print_tracebacks(result.failed.values())
    return 1 if result.failed else NOBODY_CONFIRMS if result.unconfirmed else 0


def data_of(init: str | None, start: str | None) -> tuple[dict[str, Any] | None, Any]:
    """Return the data that the options for EXPINIT and EXPSTART give."""
    found = []
    for option, text in (("--init", init), ("--start", start)):
        with usage_errors(f"{option}: "):
            found.append(None if text is None else value_of(text))
    if not isinstance(found[0], (dict, type(None))):
        raise click.UsageError("--init takes a map, such as '{\"box\": 4}'")
    return found[0], found[1]


def value_of(argument: str) -> Any:
    """Return the value of an argument of the command line: JSON, or else text.

    It raises a ValueError where it begins like a JSON list or map and is none: most likely a shell has removed its
    quotes. So it does for NaN and infinity, which JSON does not know.
    """
    unfit: list[str] = []

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            unfit.append(text)
        return value

    try:
        value = json.loads(argument, parse_constant=number, parse_float=number)
    except (ValueError, RecursionError) as error:
        if argument.lstrip().startswith(("{", "[")):
            raise ValueError(
                f"{printable(argument[:_MOST_SHOWN])} looks like JSON and is not: {error}; on Windows write "
                r'"{\"exp_ref\": \"2026-01-31_1_mouse\"}", elsewhere single quotes around all of it'
            ) from None
        return argument
    if not unfit:
        return value
    if isinstance(value, float):
        return argument  # a subject may be called 12e456
    raise ValueError(f"{unfit[0]} is no number that JSON can carry; write null, or quotes around it")


def _check_usage(message: str, count: int, delay: float | None) -> None:
    """Raise a ValueError for mistakes that are told in the words of the command line; `compose` finds all others."""
    name = message.upper()
    if name in MESSAGES and count > len(follow := MESSAGES[name][0]):
        plural = "" if len(follow) == 1 else "s"
        most = f"at most {len(follow)} argument{plural} ({', '.join(follow)})" if follow else "no argument"
        raise ValueError(f"{name} takes {most}, got {count}")
    if name == "EXPINTERRUPT" and delay is not None:
        raise ValueError("EXPINTERRUPT acts at once; leave out --delay")


def _taking_over(message: str, values: list[Any]) -> list[Any]:
    """Return the arguments of an EXPINIT that takes over, made from a reference or from data."""
    if message.upper() != "EXPINIT" or len(values) != 1 or not isinstance(values[0], (str, dict)):
        raise ValueError("--takeover goes with EXPINIT and the reference of the experiment, and nothing else")
    data = {"exp_ref": values[0]} if isinstance(values[0], str) else values[0]
    return [{**data, "takeover": True}]


def _print_result(result: rigsync.PushResult, seconds: dict[str, float], names: list[str]) -> None:
    is_whole = bool(click.get_current_context().obj)
    rows = []
    for name in names:
        if name in result:
            shown = compact(answer_of(result.message, result[name])) if is_whole else answer_in_words(result, name)
            unsure = result.unconfirmed.get(name)
            outcome, told = ("ok", shown) if unsure is None else ("sent", f"{shown}; {unsure}")
            rows.append([name, outcome, milliseconds(seconds.get(name)), told])
        else:
            rows.append([name, "failed", "-", failure_in_words(result.failed[name])])
    print_table(["rig", "outcome", "ms", "answer"], rows, right=["ms"])
    print_starts(result)


def print_starts(result: rigsync.PushResult) -> None:
    """Print when each rig has begun, where all were to begin at one instant."""
    if result.at is not None:
        for name, start in result.starts.items():
            about = "about " if start.is_estimate else ""
            late = 1000 * (start.time - result.at)
            click.echo(f"{printable(name)} began {about}{late:+.2f} ± {1000 * start.bound:.2f} ms from the instant")
        if result.skew is not None:
            click.echo(f"{1000 * result.skew:.2f} ms between the first and the last")


def print_tracebacks(failures: Iterable[RigError]) -> None:
    """Print on stderr the tracebacks of rigs that have failed."""
    for error in failures:
        if traceback := getattr(error, "traceback", ""):
            click.echo(f"\n{printable(error.rig)}:\n{printable_lines(traceback)}", err=True)
