"""`rigsync push`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rigsync.cli.options import SECONDS, json_option, rigs_option, verbose_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rigsync import PushResult, RigError


@click.command(short_help="Send one message to the rigs, and show their answers.")
@click.argument("message")
@click.argument("arguments", metavar="[ARG]...", nargs=-1)
@click.option(
    "--to",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only to these rigs: a name, or a pattern such as 'cam*'.",
)
@click.option("--timeout", type=SECONDS, metavar="S", help="Seconds for the answers, instead of each rig's own.")
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

    An ARG is taken as JSON, or as text where it is not JSON. The exit status is 1 if some rig failed; with -v, its
    traceback is shown too.

    \b
    rigsync push EXPINFO CONNECTED
    rigsync push EXPINIT '{"exp_ref": "2026-01-31_1_mouse"}'
    rigsync push EXPSTART 2026-01-31_1_mouse --to 'cameras:*'
    rigsync push EXPSTART 2026-01-31_1_mouse --delay 0.5
    rigsync push EXPINTERRUPT
    rigsync push EXPINIT 2026-01-31_1_mouse --takeover
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    from time import time

    from rigsync.cli.log import start_logging
    from rigsync.cli.outcomes import document_of, timed_push
    from rigsync.cli.output import write_json
    from rigsync.cli.rigs import chosen, connect, rigs_of_file
    from rigsync.protocol.arguments import checked_delay, compose

    try:
        values = [value_of(argument) for argument in arguments]
        if takeover:
            values = _taking_over(message, values)
        event = compose(message, *values).event
        checked_delay(event, None, delay, time())
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    with connect(rigs) as auxiliaries:
        result, seconds = timed_push(auxiliaries, message, values, timeout, delay=delay)
    if as_json:
        write_json(document_of(result, seconds))
    else:
        _print_result(result, seconds, list(rigs.rigs))
    if click.get_current_context().obj:
        _print_tracebacks(result.failed.values())
    return 1 if result.failed else 0


def value_of(argument: str) -> Any:
    """Return what an argument of the command line stands for: JSON, or else text.

    Raises
    ------
    ValueError
        A list or map with NaN or infinity in it, which JSON has no way to write, though Python's decoder takes them.
    """
    import json
    import math

    unfit: list[str] = []

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            unfit.append(text)
        return value

    try:
        value = json.loads(argument, parse_constant=number, parse_float=number)
    except (ValueError, RecursionError):
        return argument
    if not unfit:
        return value
    if isinstance(value, float):
        return argument  # a subject may be called 12e456
    raise ValueError(f"{unfit[0]} is no number that JSON can carry; write null, or quotes around it")


def _taking_over(message: str, values: list[Any]) -> list[Any]:
    """Return the arguments of an EXPINIT that takes over the experiment whose reference, or whose data, it has."""
    if message.upper() != "EXPINIT" or len(values) != 1 or not isinstance(values[0], (str, dict)):
        raise ValueError("--takeover goes with EXPINIT and the reference of the experiment, and nothing else")
    data = {"exp_ref": values[0]} if isinstance(values[0], str) else values[0]
    return [{**data, "takeover": True}]


def _print_result(result: PushResult, seconds: dict[str, float], names: list[str]) -> None:
    from rigsync.cli.outcomes import answer_of
    from rigsync.cli.output import compact, milliseconds, print_table, printable

    rows = []
    for name in names:
        if name in result:
            answer = compact(answer_of(result.message, result[name]))
            rows.append([name, "ok", milliseconds(seconds.get(name)), answer])
        else:
            error = result.failed[name]
            rows.append([name, "failed", "-", f"{type(error).__name__}: {error.problem}"])
    print_table(["rig", "outcome", "ms", "answer"], rows, right=["ms"])
    if result.at is not None:
        for name, start in result.starts.items():
            about = "about " if start.is_estimate else ""
            late = 1000 * (start.time - result.at)
            click.echo(f"{printable(name)} began {about}{late:+.2f} ± {1000 * start.bound:.2f} ms from the instant")
        if result.skew is not None:
            click.echo(f"{1000 * result.skew:.2f} ms between the first and the last")
    if result.message == "EXPSTART" and result:
        # The experiment has nobody any more who gives signs of life.
        click.echo("rigs with a lease (300 s, unless they were told otherwise) interrupt when it is over", err=True)


def _print_tracebacks(failures: Iterable[RigError]) -> None:
    from rigsync.cli.output import printable, printable_lines

    for error in failures:
        if traceback := getattr(error, "traceback", ""):
            click.echo(f"\n{printable(error.rig)}:\n{printable_lines(traceback)}", err=True)
