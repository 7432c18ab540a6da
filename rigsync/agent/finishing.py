"""What becomes of a session when it is over: its job waits until EXPCLEANUP, and is then done in the background.

The disk knows of the job while the session goes on, so that one whose agent is killed is not forgotten
(docs/decisions/0046).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rigsync._text import one_line
from rigsync.agent.aside import Aside
from rigsync.agent.commands import GENTLE, LAST_GRACE
from rigsync.agent.file import AgentFile
from rigsync.agent.finish_queue import ENDED, FAILED, RECORDING, WAITING, Job, new_job
from rigsync.agent.finish_work import FinishWork
from rigsync.agent.in_use import InUse, PathTaken
from rigsync.agent.keys import INTERRUPT, WAIT
from rigsync.agent.template import SubstitutionError
from rigsync.agent.values import Values, environment
from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.lifecycle import named_reference, rehearses
from rigsync.errors import RigsyncError
from rigsync.rig.handlers import EndedBadly

_logger = logging.getLogger("rigsync.agent")

UNCLEANED = {ExpMessage.EXPEND: 3600.0, ExpMessage.EXPINTERRUPT: 60.0}
"""Seconds after these for EXPCLEANUP to come, which a task that has crashed does not send. After EXPEND a person may
take some time; an interrupt is followed at once."""
TOLD_SOON = 2.0
"""Seconds for which EXPCLEANUP waits until the disk has the job. A drive may hang."""
MOST_TOLD = 100
"""Jobs in one answer, which has to fit into a datagram; of further ones their number is told."""
LONGEST_TOLD = 300
"""Characters of a problem in such an answer."""
_UNDER_WAY = (ExpStatus.INITIALIZED, ExpStatus.RUNNING)

Act = Callable[..., Awaitable[dict[str, Any]]]


class Finishing:
    """The jobs of one agent's sessions.

    `status` returns that of the rig; for `progress` and `notify` see `FinishWork`.
    """

    def __init__(
        self,
        file: AgentFile,
        status: Callable[[], ExpStatus],
        progress: Callable[..., None],
        notify: Callable[[str, Any, str], None],
    ):
        self._file, self._status = file, status
        self._work = FinishWork(file, self._is_under_way, progress, notify)
        self._locks = InUse(file.name)
        """By which other agents know that a session's agent lives."""
        self._beginning = 0
        """How many messages are being worked on that may begin something."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._reference: str | None = None
        self._data: dict[str, Any] = {}
        self._is_rehearsal = False
        self._release_at: float | None = None
        """When jobs are let go, in monotonic seconds, where EXPCLEANUP does not come."""

    def open(self, aside: Aside) -> None:
        """Begin, on the running event loop; `run` does the rest."""
        self._begin_anew()
        self._work.open(aside)

    async def run(self) -> None:
        """Do what is to be done, until this is cancelled."""
        await self._work.run(self._look_after)

    def stop(self) -> None:
        """Tell all to end; from any thread, without waiting. What is not done is begun anew by the next agent."""
        self._work.stop()

    def end(self) -> None:
        """Wait for the end of what was told to end. Off the event loop."""
        self._work.end()
        self._locks.keep_only()

    def _is_under_way(self) -> bool:
        return bool(self._beginning) or self._status() in _UNDER_WAY

    # ------------------------------------------------------------------------------------------------- messages

    async def handle(self, event: ExpMessage, act: Act, *args: Any) -> dict[str, Any]:
        """Have a message acted on, and note what is to be done after the session."""
        begins = event in (ExpMessage.EXPINIT, ExpMessage.EXPSTART)
        data = args[-1] if args and isinstance(args[-1], dict) else {}
        self._beginning += begins
        try:
            if begins:
                await self._make_way(event, named_reference(event, list(args)) or self._reference, data)
            told = await act(event, *args)
            if event is ExpMessage.EXPINIT:
                await self._release()
                self._reference, self._data = named_reference(event, list(args)), data
                self._is_rehearsal = rehearses(event, list(args))
            elif event is ExpMessage.EXPSTART:
                self._note_start(named_reference(event, list(args)), data)
            elif event is ExpMessage.EXPEND:
                self._note_end(data)
            elif event is ExpMessage.EXPCLEANUP:
                told |= await self._release_after_cleanup(data)
        except EndedBadly:
            self._note_end(data)
            raise
        finally:
            if event is ExpMessage.EXPINTERRUPT:
                self._note_interrupt()
            self._beginning -= begins
            self._work.wake()
        return told

    async def told(self) -> dict[str, Any]:
        """Return what is still to be done: the command `rigsync.transfers` asks. It changes nothing."""
        jobs = [job.document() for job in self._unfinished()]
        for job in jobs:
            job["problem"] = job["problem"] and one_line(job["problem"])[:LONGEST_TOLD]
        return {"jobs": jobs[:MOST_TOLD], "more": max(0, len(jobs) - MOST_TOLD)}

    def _unfinished(self) -> list[Job]:
        """Return all jobs that are known, in the order of their sessions."""
        return [job for _, job in sorted({**self._work.jobs, **self._work.held}.items())]

    async def _make_way(self, event: ExpMessage, reference: str | None, data: dict[str, Any]) -> None:
        """Have what runs wait for the recording; return when nothing is done any more with the files of that."""
        if self._work.how.while_recording != WAIT or not self._work.running:
            return
        self._work.pause()
        values = Values(event.name, self._file.name, reference, {**self._data, **data})
        outputs = new_job(self._file, values, {}, 0).outputs
        running = self._work.running.values()
        if same := [each.task for each in running if set(outputs) & set(each.job.outputs)]:
            await asyncio.wait(same, timeout=GENTLE.grace + LAST_GRACE)

    def _note_start(self, reference: str | None, data: dict[str, Any]) -> None:
        self._reference = self._reference or reference
        if self._is_rehearsal or not self._file.finish:
            return
        values = Values(ExpMessage.EXPSTART.name, self._file.name, self._reference, {**self._data, **data})
        job = new_job(self._file, values, values.data, time.time())
        self._work.held[job.id], self._release_at = job, None
        self._work.in_background(self._keep(job))

    async def _keep(self, job: Job) -> None:
        """Have the disk know of a session while it goes on: its agent may be killed."""
        with contextlib.suppress(RigsyncError, OSError, RuntimeError):
            await self._work.ask(_take, self._locks, job)
        await self._work.save(job)

    def _note_end(self, data: dict[str, Any]) -> None:
        for job in self._work.held.values():
            if job.state == RECORDING:
                job.state = ENDED
                job.add_data(data)
                self._work.in_background(self._work.save(job))
        self._release_at = time.monotonic() + UNCLEANED[ExpMessage.EXPEND]

    def _note_interrupt(self) -> None:
        for job in list(self._work.held.values()):
            if job.state == RECORDING and INTERRUPT not in self._work.how.after:
                del self._work.held[job.id]
                self._work.in_background(self._work.drop(job))
            elif job.state == RECORDING:
                job.state = ENDED
                self._work.in_background(self._work.save(job))
        self._release_at = time.monotonic() + UNCLEANED[ExpMessage.EXPINTERRUPT]

    # -------------------------------------------------------------------------------------------- what is let go

    async def _release_after_cleanup(self, data: dict[str, Any]) -> dict[str, Any]:
        """Let the session's jobs begin, and return that for the answer."""
        for job in self._work.held.values():
            job.add_data(data)
        queued = await self._release()
        return {"finish": {"queued": queued, "unfinished": len(self._unfinished())}} if queued else {}

    async def _release(self) -> int:
        """Let the jobs of the session before begin; return how many these are, once the disk has them."""
        released, self._release_at = list(self._work.held.values()), None
        self._work.held.clear()
        begun, work = 0, []
        for job in released:
            self._settle(job)
            # Several takes may be copied by one command, which runs once. One that runs may be past the last take.
            alike = (other for other in self._work.jobs.values() if other.id not in self._work.running)
            if job.state == FAILED or not any(_mean_the_same(job, other) for other in alike):
                begun += 1
                self._work.jobs[job.id] = job
                work.append(self._work.in_background(self._work.save(job)))
            else:
                work.append(self._work.in_background(self._work.drop(job)))
        if work:
            await asyncio.wait(work, timeout=TOLD_SOON)
            self._work.in_background(self._let_go())
        return begun

    def _settle(self, job: Job) -> None:
        """Give a job its commands, now that the session is over."""
        job.begin_anew()
        job.steps = ()
        if not self._file.finish:
            self._work.give_up(job, f"{self._file.source} has no finish any more")
            return
        try:
            job.fill(self._file)
        except SubstitutionError as error:
            self._work.give_up(job, str(error))

    async def _let_go(self) -> None:
        """Let go of sessions that are over."""
        with contextlib.suppress(RigsyncError, OSError, RuntimeError):
            await self._work.ask(self._locks.keep_only, [*map(_key_of, self._work.held.values())])

    async def _look_after(self) -> None:
        """Let jobs begin whose EXPCLEANUP does not come, or whose agent was killed in the middle of their session."""
        if self._release_at is not None and time.monotonic() >= self._release_at:
            await self._release()
        for job in [job for job in self._work.jobs.values() if job.state in (RECORDING, ENDED)]:
            try:
                await self._work.ask(_take, self._locks, job)
            except PathTaken:  # its agent lives
                continue
            if job.state == RECORDING and INTERRUPT not in self._work.how.after:
                await self._work.drop(job)
            else:
                text = "%s: the agent of %s ended before EXPCLEANUP; what was to be done then begins now"
                _logger.warning(text, self._file.name, job.label)
                self._settle(job)
                await self._work.save(job)
            await self._let_go()


def _take(lock: InUse, job: Job) -> None:
    """Lock a job while its session goes on: another agent leaves it alone for as long. Blocks."""
    with lock.taking({_key_of(job): job.id}):
        pass


def _key_of(job: Job) -> str:
    return f"session {job.id}"


def _mean_the_same(one: Job, other: Job) -> bool:
    if one.steps != other.steps or other.state != WAITING or other.done:
        return False
    by_shell = any(step.by_shell for step in one.steps or ())
    return environment(one.values(), shell=by_shell) == environment(other.values(), shell=by_shell)
