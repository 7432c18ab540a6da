"""`rigsync push`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rigsync.cli.options import SECONDS, json_option, rigs_option, verbose_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rigsync import Auxiliaries, PushResult, RigError


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
@rigs_option
@json_option
@verbose_option
def command(
    message: str,
    arguments: tuple[str, ...],
    patterns: tuple[str, ...],
    timeout: float | None,
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
    rigsync push EXPINTERRUPT
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    from rigsync.cli.log import start_logging
    from rigsync.cli.output import write_json
    from rigsync.cli.rigs import chosen, connect, rigs_of_file
    from rigsync.protocol.arguments import compose

    values = [value_of(argument) for argument in arguments]
    try:
        compose(message, *values)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    with connect(rigs) as auxiliaries:
        result, seconds = timed_push(auxiliaries, message, values, timeout)
    if as_json:
        write_json(document_of(result, seconds))
    else:
        _print_result(result, seconds, list(rigs.rigs))
    if click.get_current_context().obj:
        _print_tracebacks(result.failed.values())
    return 1 if result.failed else 0


def value_of(argument: str) -> Any:
    """Return what an argument of the command line stands for: JSON, or else text."""
    import json

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON, though Python's decoder takes it")

    try:
        return json.loads(argument, parse_constant=refuse)
    except (ValueError, RecursionError):
        return argument


def timed_push(
    auxiliaries: Auxiliaries,
    message: str,
    arguments: Iterable[Any] = (),
    timeout: float | None = None,
    on_answer: Callable[[str, float], object] | None = None,
) -> tuple[PushResult, dict[str, float]]:
    """Push a message and wait, also see when each answer came.

    Parameters
    ----------
    auxiliaries : Auxiliaries
        The rigs; nobody else may push to them meanwhile.
    message : str
        Name of the message.
    arguments : iterable
        What follows it.
    timeout : float, optional
        Seconds, instead of each rig's own.
    on_answer : callable, optional
        Called on the service thread with the rig's name and the seconds that it took, as its answer comes.

    Returns
    -------
    result : PushResult
        What became of it.
    seconds : dict of str to float
        How long each rig took that has answered.
    """
    from time import perf_counter

    from rigsync import PushError
    from rigsync.protocol.events import MessageReceived

    seconds: dict[str, float] = {}

    def note(event: MessageReceived) -> None:
        if event.request_time is not None:
            seconds[event.rig] = perf_counter() - begun
            if on_answer:
                on_answer(event.rig, seconds[event.rig])

    unsubscribe = auxiliaries.on(MessageReceived, note)
    begun = perf_counter()
    try:
        outcome = auxiliaries.push(message, *arguments, wait=True, timeout=timeout)
    finally:
        unsubscribe()
    result = outcome.result if isinstance(outcome, PushError) else outcome
    return result, {name: seconds[name] for name in result if name in seconds}


def answer_of(message: str, answer: list[Any]) -> list[Any]:
    """Return what may be shown of a rig's answer: all, but the tokens in an answer to ALYX."""
    if message != "ALYX":
        return answer
    return [dict.fromkeys(part, "***") if isinstance(part, dict) else part for part in answer]


def document_of(result: PushResult, seconds: dict[str, float]) -> dict[str, Any]:
    """Return what became of a push for JSON."""
    return {
        "message": result.message,
        "request_time": result.request_time,
        "answers": {name: answer_of(result.message, answer) for name, answer in result.items()},
        "failed": {name: _failure(error) for name, error in result.failed.items()},
        "ms": {name: 1000 * time for name, time in seconds.items()},
    }


def _failure(error: RigError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "problem": error.problem,
        "traceback": getattr(error, "traceback", "") or None,
    }


def _print_result(result: PushResult, seconds: dict[str, float], names: list[str]) -> None:
    from rigsync.cli.output import compact, milliseconds, print_table

    rows = []
    for name in names:
        if name in result:
            answer = compact(answer_of(result.message, result[name]))
            rows.append([name, "ok", milliseconds(seconds.get(name)), answer])
        else:
            error = result.failed[name]
            rows.append([name, "failed", "-", f"{type(error).__name__}: {error.problem}"])
    print_table(["rig", "outcome", "ms", "answer"], rows, right=["ms"])


def _print_tracebacks(failures: Iterable[RigError]) -> None:
    from rigsync.cli.output import printable

    for error in failures:
        if traceback := getattr(error, "traceback", ""):
            click.echo(f"\n{error.rig}:\n{printable(traceback)}", err=True)
