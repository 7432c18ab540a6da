"""`rigsync run`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import click

from rigsync._text import printable, printable_lines
from rigsync.agent.foreground import Foreground
from rigsync.agent.values import PREFIX, Values
from rigsync.cli.logs import start_logging
from rigsync.cli.options import rigs_option, usage_errors, verbose_option
from rigsync.cli.push import any_ref_option, data_of, delay_option, init_option, start_option, timeout_option, to_option
from rigsync.cli.rigs import chosen, connect, rigs_of_file
from rigsync.core.doubts import doubt_of_reference
from rigsync.errors import RigsyncError
from rigsync.runtime.signals import signals_held_back

RIGS_FAILED = 125
"""Exit status if a rig has failed, and not the command. `timeout` and `env` use it for their own failures."""
CANNOT_RUN = 126
NOT_FOUND = 127
"""Exit statuses, by convention, for a command that is no program and for one that is not there."""
GRACE = 10.0
"""Seconds for the command to end when a signal ends this program. After that it is killed."""


@click.command(
    short_help="Run a command as an experiment on all rigs.",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
)
@click.argument("words", metavar="-- COMMAND [ARG]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--ref", required=True, metavar="REF", help="Reference of the experiment: yyyy-mm-dd_n_subject.")
@any_ref_option
@init_option
@start_option
@delay_option
@to_option
@timeout_option
@rigs_option
@verbose_option
def command(
    words: tuple[str, ...],
    ref: str,
    any_ref: bool,
    init: str | None,
    start: str | None,
    delay: float | None,
    patterns: tuple[str, ...],
    timeout: float | None,
    rigs_file: str | None,
) -> int:
    """Have all rigs record while COMMAND runs. It may be written in any language.

    The rigs get EXPINIT and EXPSTART before COMMAND begins. When it ends with exit status 0 they get EXPEND, otherwise
    EXPINTERRUPT, and then EXPCLEANUP. Ctrl-C goes to COMMAND, and its exit status decides. If a rig fails meanwhile,
    stderr shows it.

    The exit status is that of COMMAND, or 128 plus the number of the signal that has ended it. It is 125 if a rig has
    failed, 126 if COMMAND is no program, and 127 if it is not there. COMMAND finds the reference in RIGSYNC_EXP_REF,
    its parts in RIGSYNC_DATE, RIGSYNC_NUMBER and RIGSYNC_SUBJECT, and the session's folder in RIGSYNC_SESSION_PATH, in
    ALF form, and in RIGSYNC_BIDS.

    \b
    rigsync run --ref 2026-01-31_1_mouse -- python task.py
    rigsync run --ref 2026-01-31_1_mouse --delay 0.5 -- matlab -batch task
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    if not ref.strip():  # as of a variable of the shell that is not set
        raise click.UsageError("the reference is empty; name the session, as in 2026-11-20_1_mouse")
    if not any_ref and (doubt := doubt_of_reference(ref)):
        raise click.UsageError(f"{doubt}; if it is meant, add --any-ref")
    begin, data = data_of(init, start)
    if status := _unfit(words[0]):
        return status
    start_logging()
    rigs = chosen(rigs_of_file(rigs_file), patterns)
    with connect(rigs) as auxiliaries:
        with usage_errors():
            experiment = auxiliaries.experiment(ref, init=begin, start=data, delay=delay, timeout=timeout)
        experiment.stays = False
        try:
            with experiment as session:
                _run(words, session.exp_ref)
        except CommandEnded as ended:
            if ended.__cause__ is None:  # else the reason why it could not begin was shown
                click.echo(f"Error: {printable(str(ended))}: the experiment was interrupted", err=True)
            return ended.status
        except RigsyncError as error:
            click.echo(f"Error: {printable_lines(str(error))}", err=True)
            return RIGS_FAILED
    return 0


class CommandEnded(Exception):
    """The command has ended with another exit status than 0: the rigs are interrupted."""

    def __init__(self, program: str, status: int):
        self.status = status if status >= 0 else 128 - status
        how = f"ended with exit status {status}" if status >= 0 else f"was ended by signal {-status}"
        super().__init__(f"{program} {how}")


def _unfit(program: str) -> int:
    """Return 0 if the program can be run; otherwise say so and return the exit status. No rig knows of it yet."""
    if shutil.which(program):
        return 0
    exists = os.path.exists(program)
    problem = "is no program that can be run" if exists else "is not there: look at its name, and at PATH"
    click.echo(f"Error: {printable(program)} {problem}", err=True)
    return CANNOT_RUN if exists else NOT_FOUND


def _run(words: tuple[str, ...], exp_ref: str | None) -> None:
    """Run the command to its end; raise `CommandEnded` unless its exit status is 0."""
    program = shutil.which(words[0]) or words[0]
    process = None
    with _left_to_the_command("SIGINT"):
        try:
            with signals_held_back():  # a signal that comes now would leave a command that nobody ends
                process = Foreground([program, *words[1:]], _environment(exp_ref))
            status = process.wait()
        except OSError as error:
            click.echo(f"Error: {printable(words[0])} cannot be run: {error}", err=True)
            raise CommandEnded(words[0], CANNOT_RUN) from error
        except BaseException:  # a signal ends this program
            if process:
                process.end(GRACE)
            raise
    if status:
        raise CommandEnded(words[0], status)


def _environment(exp_ref: str | None) -> Mapping[str, str]:
    parts = Values("EXPSTART", "", exp_ref).parts() or ({"exp_ref": exp_ref} if exp_ref else {})
    # The reference of a main sync comes from outside, and an environment holds no null character.
    return {PREFIX + name.upper(): part for name, part in parts.items() if "\0" not in part}


def _left_to_the_command(name: str) -> Any:
    """Return a context in which a signal does not end this program. The terminal sends it to the command as well."""
    number = getattr(signal, name)
    if signal.getsignal(number) == signal.SIG_IGN:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        before = signal.signal(number, lambda *_: None)  # the command would inherit SIG_IGN
        try:
            yield
        finally:
            signal.signal(number, before)

    return context()
