"""`rigsync transfers`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

import rigsync
from rigsync._text import close_match, one_line, printable, shortened, span_text
from rigsync.agent.file import AgentFile, read_agent_file
from rigsync.agent.finish_queue import ENDED, FAILED, FORGET, RECORDING, RETRY, WAITING, Job, Listing, Queue
from rigsync.agent.finish_work import UNWRITTEN
from rigsync.agent.in_use import InUse, PathTaken, take_queue
from rigsync.cli.live import UNKNOWN_ON_TCP
from rigsync.cli.logs import NOTICES, start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.outcomes import failure_in_words
from rigsync.cli.output import write_json, write_line
from rigsync.cli.rigs import chosen, connect, let_tell, may_be_asked, rigs_of_file
from rigsync.cli.tables import print_table
from rigsync.core.lifecycle import same_reference
from rigsync.core.queries import TRANSFERS
from rigsync.errors import NotSupported, RemoteError, RigError, RigsyncError

FILES = (".yaml", ".yml")
OBEYED_WITHIN = 5.0
"""Seconds for an agent to find what is wished of it; it looks each second."""
_LOOK = 0.05
WAIT = 5.0
"""Seconds for a rig's answer."""


@click.command(short_help="Show what agents still have to do after sessions.")
@click.argument("files", metavar="[FILE.yaml]...", nargs=-1, type=click.Path())
@click.option("--retry", is_flag=False, flag_value="", metavar="[REF]", help="Try what has failed again, now.")
@click.option("--forget", metavar="REF", help="Do no more for this session; nothing is deleted.")
@rigs_option
@json_option
@verbose_option
def command(files: tuple[str, ...], retry: str | None, forget: str | None, rigs_file: str | None, as_json: bool) -> int:
    """Show what is still to be done after sessions, by `finish` in the files of agents: a line for each session.

    Without FILE.yaml, it asks every rig of the file of rigs. On a recording PC, give the files of its agents: that
    works, too, while the agents do not run.

    --retry and --forget need FILE.yaml, and take a reference, or the id that --json shows. Without REF, --retry is for
    all that have failed. The commands are then those that FILE.yaml has now, so that a mistake in it can be mended.

    The exit status is 1 if something has failed for good, or a rig does not answer.
    """
    if files and rigs_file:
        raise click.UsageError("give either FILE.yaml or --rigs FILE")
    if retry is not None and forget is not None:
        raise click.UsageError("give either --retry or --forget")
    wished = retry if forget is None else forget
    if wished is not None and not files:
        hint = "; give it before --retry" if wished.lower().endswith(FILES) else ", on that computer"
        raise click.UsageError(f"name the agent's FILE.yaml{hint}")
    start_logging(printed=NOTICES)
    if not files:
        return _show_asked(rigs_file, as_json)
    queues = [_LocalQueue(read_agent_file(name)) for name in files]
    if wished is not None:
        verb = RETRY if forget is None else FORGET
        known = [job for queue in queues for job in queue.listing.jobs if not wished or _is_meant(job, wished)]
        if wished and not known:
            raise click.UsageError(_unknown(wished, [job for queue in queues for job in queue.listing.jobs]))
        return max(queue.wish(verb, wished) for queue in queues)
    rows = [row for queue in queues for row in queue.rows()]
    junk = {name: why for queue in queues for name, why in queue.junk().items()}
    _show(rows, junk, as_json)
    return int(bool(junk) or any(row["state"] == FAILED for row in rows))


class _LocalQueue:
    """The queue of an agent of this computer."""

    def __init__(self, file: AgentFile):
        self._file, self._queue = file, Queue(file.queue_folder)
        self._lock = InUse(file.name)
        self.listing: Listing = self._look()

    def _look(self) -> Listing:
        try:
            return self._queue.look()
        except OSError as error:
            problem = f"{self._queue.folder} cannot be read: {error.strerror or error}; look at its permissions"
            raise click.ClickException(problem) from error

    @property
    def is_served(self) -> bool:
        """Whether an agent does what is in it."""
        try:
            take_queue(self._lock, self._queue.folder)
        except PathTaken:
            return True
        self._lock.keep_only()
        return False

    def junk(self) -> dict[str, str]:
        return {str(self._queue.folder / name): why for name, why in self.listing.junk.items()}

    def rows(self) -> list[dict[str, Any]]:
        is_served = self.is_served
        return [_row({**job.document(), "running": job.running and is_served}, is_served) for job in self.listing.jobs]

    def wish(self, verb: str, wished: str) -> int:
        """Have something done with the jobs that are meant; return the exit status."""
        meant = [job for job in self.listing.jobs if (_is_meant(job, wished) if wished else _has_failed(job))]
        if not wished and not meant:
            write_line(f"{self._file.name}: nothing has failed")
        try:
            take_queue(self._lock, self._queue.folder)
        except PathTaken:
            return max([self._have_done(verb, job) for job in meant], default=0)
        try:
            return max([self._do(verb, job) for job in meant], default=0)
        finally:
            self._lock.keep_only()

    def _have_done(self, verb: str, job: Job) -> int:
        """Leave a wish for the agent, and wait until it has found that."""
        if job.state in (RECORDING, ENDED) or (verb == RETRY and job.running):
            why = "its session goes on" if job.state in (RECORDING, ENDED) else "it is being done"
            return _refused(job, f"{why}; look again when that is over")
        if problem := self._begin_anew(verb, job):
            return _refused(job, problem)
        self._write(job, verb)
        path = self._queue.folder / f"{job.id}.{verb}"
        end = time.monotonic() + OBEYED_WITHIN
        while path.exists() and time.monotonic() < end:
            time.sleep(_LOOK)
        if path.exists():
            return _refused(job, "the agent has not found this wish yet; look again, or at the agent's log")
        write_line(f"{job.label}: {'is tried again now' if verb == RETRY else 'forgotten'}")
        return 0

    def _do(self, verb: str, job: Job) -> int:
        """Do it here, since no agent runs."""
        if problem := self._begin_anew(verb, job):
            return _refused(job, problem)
        if verb == RETRY:
            self._write(job, "json")
        else:
            self._queue.remove(job.id)
        write_line(f"{job.label}: {'is tried again when the agent is started' if verb == RETRY else 'forgotten'}")
        return 0

    def _begin_anew(self, verb: str, job: Job) -> str | None:
        """Give a job the commands that its file has now; return why it cannot have them."""
        if verb == FORGET:
            return None
        if not self._file.finish:
            return f"{self._file.source} has no finish any more; write it there again, or use --forget"
        job.begin_anew()
        try:
            job.fill(self._file)
        except RigsyncError as error:
            return str(error)
        return None

    def _write(self, job: Job, what: str) -> None:
        try:
            self._queue.save(job.id, b"" if what == FORGET else job.text(), what)
        except OSError as error:
            problem = f"{self._queue.folder} cannot be written: {error.strerror or error}; look at it, and its disk"
            raise click.ClickException(problem) from error


def _is_meant(job: Job, wished: str) -> bool:
    return wished in (job.id, job.exp_ref) or same_reference(job.exp_ref, wished)


def _has_failed(job: Job) -> bool:
    return job.state == FAILED or (job.state == WAITING and job.attempts > 0 and not job.running)


def _refused(job: Job, problem: str) -> int:
    click.echo(f"Error: {printable(job.label)}: {printable(problem)}", err=True)
    return 1


def _unknown(wished: str, jobs: Iterable[Job]) -> str:
    names = list(dict.fromkeys(job.exp_ref or job.id for job in jobs))
    known = f"there are {', '.join(map(one_line, names[:5]))}{' and others' if len(names) > 5 else ''}"
    return f"nothing is to be done after {wished}{close_match(wished, names)}; {known if names else 'there is nothing'}"


# --------------------------------------------------------------------------------------------------- over the network


def _show_asked(rigs_file: str | None, as_json: bool) -> int:
    rigs = rigs_of_file(rigs_file)
    names = [name for name, rig in rigs.rigs.items() if may_be_asked(rig)]
    for name, rig in rigs.rigs.items():
        if rig.dialect == "auto" and name not in names:
            click.echo(f"{printable(name)} is not asked: {UNKNOWN_ON_TCP}", err=True)
    rows: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    if names:
        # The pool outlives the connection, whose end, at Ctrl-C too, ends what is asked.
        with ThreadPoolExecutor(len(names)) as pool, connect(chosen(rigs, names)) as auxiliaries:
            for name, told in zip(names, pool.map(lambda name: _ask(auxiliaries, name), names), strict=True):
                if isinstance(told, str):
                    problems[name] = told
                else:
                    rows += told
            # What has failed is in the table; that the queue cannot be written is not.
            let_tell(lambda: [view.failures for view in auxiliaries.views.values()])
            unwritten = {name: auxiliaries.view(name).failures.get(UNWRITTEN) for name in names}
            problems |= {name: problem for name, problem in unwritten.items() if problem and name not in problems}
    _show(rows, problems, as_json)
    return int(bool(problems) or any(row["state"] == FAILED for row in rows))


def _ask(auxiliaries: rigsync.Auxiliaries, rig: str) -> list[dict[str, Any]] | str:
    """Return the rows of a rig, none where it is no agent; or why there are none."""
    try:
        answer = auxiliaries.call(rig, TRANSFERS.name, timeout=WAIT)
    except NotSupported:
        return []
    except RigError as error:
        is_no_agent = isinstance(error, RemoteError) and error.error in ("UnknownCommand", "BusyError")
        return [] if is_no_agent else failure_in_words(error)
    try:
        rows = [_row({**job, "rig": rig}, True) for job in answer["jobs"]]
        if answer["more"]:
            rows.append({**_NONE, "rig": rig, "text": f"and {int(answer['more'])} more"})
    except (TypeError, KeyError, ValueError, OverflowError, OSError):
        return f"its {TRANSFERS.name} returns {shortened(answer)}, and not what is to be done"
    return rows


# ---------------------------------------------------------------------------------------------------------- showing

_NONE: dict[str, Any] = {"exp_ref": None, "state": WAITING, "attempts": 0, "began": None}


def _row(told: Mapping[str, Any], is_served: bool) -> dict[str, Any]:
    """Return what is shown of a job, with its state in words as `text`; raise TypeError or the like for another thing.

    `is_served` says whether an agent does it.
    """
    now = time.time()
    row = {
        "id": str(told["id"]),
        "rig": str(told["rig"]),
        "exp_ref": None if told["exp_ref"] is None else str(told["exp_ref"]),
        "state": str(told["state"]),
        "running": told["running"] is True,
        "done": int(told["done"]),
        "steps": int(told["steps"]),
        "percent": None if told["percent"] is None else float(told["percent"]),
        "attempts": int(told["attempts"]),
        "began": float(told["began"]),
        "due": float(told["due"]),
        "problem": None if told["problem"] is None else str(told["problem"]),
    }
    return {**row, "text": _state_text(row, now, is_served)}


def _state_text(row: Mapping[str, Any], now: float, is_served: bool) -> str:
    if row["state"] == FAILED:
        return f"failed: {row['problem']}"
    if not is_served:
        return "waits for its agent, which does not run"
    if row["state"] == RECORDING:
        return "its session goes on"
    if row["state"] == ENDED:
        return "waits for EXPCLEANUP"
    if row["running"]:
        of = f" (command {row['done'] + 1} of {row['steps']})" if row["steps"] > 1 else ""
        share = "" if row["percent"] is None else f" {row['percent']:.0f} %"
        return f"running{share}{of}"
    if row["due"] > now:
        form = "%H:%M" if row["due"] - now < 12 * 3600 else "%Y-%m-%d %H:%M"
        return f"tried again at {time.strftime(form, time.localtime(row['due']))}: {row['problem']}"
    return "waiting"


def _show(rows: list[dict[str, Any]], problems: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        write_json({"transfers": rows, "problems": dict(problems)})
    elif rows:
        cells = [
            [
                row["exp_ref"] or "-",
                row["rig"],
                one_line(row["text"]),
                str(row["attempts"]),
                "-" if row["began"] is None else span_text(time.time() - row["began"]),
            ]
            for row in rows
        ]
        columns = ["session", "rig", "state", "failures", "age"]
        print_table(columns, cells, right=["failures", "age"], stacks=[(0, 1), (2,), (3, 4)])
    elif not problems:
        write_line("nothing is to be done")
    for name, problem in problems.items() if not as_json else ():
        click.echo(f"Error: {printable(name)}: {printable(problem)}", err=True)
