"""Does what is to be done after sessions: their jobs in order, and the commands of each in theirs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rigsync._text import one_line, span_text
from rigsync.agent.aside import Aside
from rigsync.agent.commands import GENTLE, LOOK_AT_DRIVE, Child, CommandFailed, Commands, output_of
from rigsync.agent.expressions import LONGEST_PROGRESS
from rigsync.agent.file import AgentFile, Finish
from rigsync.agent.finish_queue import FAILED, FORGET, LONGEST_TEXT, WAITING, FilledStep, Job, Listing, Queue
from rigsync.agent.in_use import InUse, Output, PathTaken, keys_of_outputs, take_queue
from rigsync.agent.keys import ENDS, WAIT
from rigsync.agent.session_log import SessionLog, log_of
from rigsync.agent.values import environment
from rigsync.core.board import LONGEST
from rigsync.core.notices import FAILURE, FINISH, RECOVERED
from rigsync.errors import RigsyncError

_logger = logging.getLogger("rigsync.agent")

RETRIES = (60.0, 300.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 28_800.0)
"""Seconds until a job that has failed is tried again, the first time, the second and so on: a day in all. A server that
is restarted is back within minutes, one that has broken down the next morning."""
TOLD_AFTER = 3
"""Failures of a job after which people are told: a server that is restarted is back before, a wrong path stays."""
LOOK = 1.0
"""Seconds between looks at the queue: somebody may have put something there, or the time of a job has come."""

UNWRITTEN = "finish"
"""Key of the notice that the queue cannot be written."""
_DEFAULT = Finish((), ENDS, 1, WAIT, None)
"""How jobs are done that an agent finds whose file has no `finish` any more."""


class FinishWork:
    """Does the jobs of one agent's queue.

    `is_under_way` says whether a session is. `progress` reports an item of the rig's board, and `notify` tells the
    coordinators something: topic, body, key.
    """

    def __init__(
        self,
        file: AgentFile,
        is_under_way: Callable[[], bool],
        progress: Callable[..., None],
        notify: Callable[[str, Any, str], None],
    ):
        self._file, self.how = file, file.finish or _DEFAULT
        self._is_under_way, self._progress, self._notify = is_under_way, progress, notify
        self._name = file.name
        self.queue = Queue(file.queue_folder)
        self._claim = InUse(file.name)
        """By which no other agent does these jobs."""
        self._opened: Aside | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.jobs: dict[str, Job] = {}
        """By id, what the queue held when it was last looked at, and what could not be written into it."""
        self.held: dict[str, Job] = {}
        """Jobs of the present session, which are not to be done yet."""
        self.running: dict[str, Running] = {}
        self._has_claim = self._has_looked = False
        self._closing = threading.Event()
        self._unsaved: set[str] = set()
        """Jobs that are not, as they are now, on the disk."""
        self._is_troubled = False
        """Whether the queue could not be written when that was last tried."""
        self._untold: list[tuple[str, str, str | None, str, float, Job | None]] = []
        """Topic, key, reference, text, monotonic time (s) and failed job of what is told while no session is on."""
        self._said: dict[str, str] = {}
        """What the log has said of the queue, by what it was about."""
        self._logs: set[SessionLog] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self, aside: Aside) -> None:
        """Begin, on the running event loop; `run` does the rest."""
        self._begin_anew()
        self._opened = aside
        self._commands = Commands(lambda *_: None, aside, self._name)
        self._news, self._writing = asyncio.Event(), asyncio.Lock()

    def wake(self) -> None:
        """Have it look soon what is to be done."""
        self._news.set()

    async def run(self, each_turn: Callable[[], Awaitable[None]]) -> None:
        """Do what is to be done, until this is cancelled. `each_turn` is called before each look at the queue."""
        try:
            while not self._closing.is_set() and await self._has_work():
                self._news.clear()
                try:
                    await self._turn(each_turn)
                except PathTaken as error:
                    text = f"another agent does what is to be done after sessions: {error}"
                    self._say_once("queue", text, logging.INFO)
                except (RigsyncError, OSError, RuntimeError) as error:
                    if not self._closing.is_set():
                        self._say_once("queue", f"what is to be done after sessions cannot be looked up: {error}")
                except Exception as error:  # whoever awaits this ends all commands of the agent
                    if self._said.get("fault") != repr(error):
                        self._said["fault"] = repr(error)
                        _logger.exception("%s: what is to be done after sessions waits", self._name)
                # Not wait_for: before Python 3.12 it ignores a cancellation that comes just with the news.
                news = asyncio.ensure_future(self._news.wait())
                try:
                    await asyncio.wait([news], timeout=LOOK)
                finally:
                    news.cancel()
            await asyncio.Event().wait()
        finally:
            for task in self._tasks.copy():
                task.cancel()

    async def _has_work(self) -> bool:
        """Whether there can be anything to do: the file says so, or said so once."""
        if not self._file.finish:
            with contextlib.suppress(RigsyncError, OSError, RuntimeError):
                return bool(await self.ask(self.queue.folder.exists))
        return True

    async def _turn(self, each_turn: Callable[[], Awaitable[None]]) -> None:
        self._tell_untold()
        for name in list(self._unsaved):
            if job := self.jobs.get(name) or self.held.get(name):
                await self.save(job)
        await each_turn()
        if not self._has_claim:
            self.jobs = {name: job for name, job in self.jobs.items() if name in self._unsaved}  # the other's to do
            await self.ask(take_queue, self._claim, self.queue.folder)
            self._has_claim = True
        listing = await self._look()
        for name, why in listing.junk.items():
            path = str(self.queue.folder / name)
            self._say_once(path, f"{path} {why}, and is left alone; look whose it is, and move it away")
        for wish, name in listing.wishes:
            await self._fulfil(wish, name)
        for running in list(self.running.values()):
            if running.job.percent != running.saved:
                running.saved = running.job.percent
                await self.save(running.job, durable=False)
        if self.how.while_recording == WAIT and self._is_under_way():
            self.pause()
        elif not self._closing.is_set():
            self._begin_due()

    async def _look(self) -> Listing:
        """Look what is to be done; where nobody can tell, it is what is known already."""
        listing = Listing([], [], {})
        try:
            async with self._writing:  # else a job that has just been done would be taken in again
                listing = await self.ask(self.queue.look)
                self._take_in(listing.jobs)
                self._said.pop("queue", None)
        except (RigsyncError, OSError, RuntimeError) as error:
            self._say_once("queue", f"what is to be done after sessions cannot be looked up: {error}")
        return listing

    def untouched(self) -> list[Job]:
        """Return the jobs that nothing was done of yet."""
        begun = {name for name, running in self.running.items() if running.has_begun}
        return [job for name, job in self.jobs.items() if job.state == WAITING and not job.done and name not in begun]

    def pause(self) -> None:
        """Have what runs end, to be begun anew later."""
        for running in self.running.values():
            running.pause()

    def _take_in(self, found: list[Job]) -> None:
        is_first, self._has_looked = not self._has_looked, True
        kept = {name: job for name, job in self.jobs.items() if name in self.running or name in self._unsaved}
        for job in found:
            if job.id in self.held:
                continue
            if is_first and job.state == FAILED:
                self._tell_failed(job)
            known = self.jobs.get(job.id)  # which is newer, or the same, unless another agent has its session
            kept[job.id] = known if known and known.state in (WAITING, FAILED) else job
        for job in kept.values():
            job.due = min(job.due, time.time() + max(RETRIES, default=0.0))  # the clock was set back
            job.running = job.id in self.running
        self.jobs = kept

    async def _fulfil(self, wish: str, name: str) -> None:
        running, job = self.running.get(name), self.jobs.get(name)
        if wish == FORGET and running:
            running.pause()
            return  # until it has ended
        if job and wish == FORGET:
            self._untell(job)
            await self.drop(job)
            _logger.info("%s: what was to be done after %s is forgotten, as somebody wished", self._name, job.label)
        elif job and not running:
            wished = await self.ask(self.queue.job, name, wish)
            if wished and wished.state == WAITING:
                self._untell(job)
                self.jobs[name] = wished
                await self.save(wished)
        await self.ask(self.queue.remove, name, wish)

    # ---------------------------------------------------------------------------------------------------- doing

    def _begin_due(self) -> None:
        now = time.time()
        present = {output for job in self.held.values() for output in job.outputs}
        for name, job in sorted(self.jobs.items()):
            if len(self.running) >= self.how.at_once:
                return
            # Of files that are recorded once more the jobs of both sessions may be one.
            is_due = job.state == WAITING and job.due <= now and present.isdisjoint(job.outputs)
            if is_due and name not in self.running:
                self.running[name] = running = Running(job)
                running.task = self.in_background(self._do(running))

    async def _do(self, running: Running) -> None:
        job, claim = running.job, InUse(f"{self._name} (finish of {running.job.label})")
        log: SessionLog | None = None
        job.running = True
        try:
            keys = await self._keys_of(job)
            with claim.taking(keys):
                running.has_begun = True
                self._logs.add(log := log_of(self._file, job.values()))
                await self._do_steps(running, log)
        except PathTaken as error:  # somebody records there again
            self._say_once(f"claim {job.id}", f"finish of {job.label} waits: {error}", logging.INFO)
            job.due = time.time() + LOOK
        except (RigsyncError, OSError, RuntimeError) as error:
            if not (running.is_paused or self._closing.is_set()):
                await self._note_failure(job, str(error))
        finally:
            job.running, job.percent = False, None
            claim.keep_only()
            del self.running[job.id]
            if log:
                log.end()  # the agent may have ended meanwhile, and close no more logs
            if log and not self._closing.is_set():
                with contextlib.suppress(RigsyncError, RuntimeError):
                    await self._aside.begin(log.close)
                    self._logs.discard(log)
            if not self._closing.is_set():
                await self.save(job, durable=False)  # that it does not run any more
            self.wake()

    async def _do_steps(self, running: Running, log: SessionLog) -> None:
        job = running.job
        steps = job.steps or ()
        while job.done < len(steps):
            if running.is_paused:
                return
            self._show(job)
            await self.save(job)
            await self._do_step(running, steps[job.done], log)
            job.done, job.percent = job.done + 1, None
        self._show(job)
        log.write("[rigsync] finish: all is done")
        _logger.info("%s: finish of %s: all is done", self._name, job.label)
        self._untell(job)
        self._note(job, job.attempts + 1)
        await self.drop(job)

    async def _do_step(self, running: Running, step: FilledStep, log: SessionLog) -> None:
        """Run a command to its good end; raise `CommandFailed` at any other, which may be that it was to wait."""
        job = running.job
        percent = step.percent and re.compile(step.percent)

        def note(child: Child, line: str) -> None:
            log.write(f"[{child.label}] {line}")
            if percent and (found := percent.search(line[:LONGEST_PROGRESS])):
                with contextlib.suppress(TypeError, ValueError):  # no number
                    job.percent = min(100.0, max(0.0, float(found[1])))
                    self._show(job)

        log.write(f"[rigsync] finish: {step.words[0] if step.shell else ' '.join(map(repr, step.words))}")
        child = running.child = await self._commands.begin(
            step.words[0] if step.shell else step.words,
            folder=step.folder,
            environment=environment(job.values(), shell=step.by_shell),
            on_line=note,
            on_exit=lambda child, ended: log.write(f"[{child.label}] {ended.described()}"),
            gives_way=True,
        )
        if running.is_paused:  # meanwhile
            child.end()
        is_late = not (await asyncio.wait([child.ended], timeout=step.timeout))[0]
        ended = await self._commands.end(child) if is_late else child.ended.result()
        running.child = None
        if is_late or ended.status != 0:
            took = f"took more than {step.timeout:g} s and " if is_late else ""
            raise CommandFailed(f"{child.label} {took}{ended.described()}{output_of(ended)}")

    async def _keys_of(self, job: Job) -> dict[str, str]:
        looks = [
            self._aside.ask(f"the file {path!r}", Output.of if is_pattern else Output.at, path)
            for path, is_pattern in job.outputs
        ]
        return keys_of_outputs(await asyncio.gather(*looks))

    async def _note_failure(self, job: Job, problem: str) -> None:
        job.attempts, job.running, job.percent = job.attempts + 1, False, None
        job.problem = one_line(problem)[:LONGEST_TEXT]
        if job.attempts > len(RETRIES):
            self.give_up(job, job.problem)
        else:
            job.due = time.time() + RETRIES[job.attempts - 1]
            again = span_text(RETRIES[job.attempts - 1])
            if job.attempts < TOLD_AFTER:
                text = "%s: finish of %s has failed, and is tried again in %s: %s"
                _logger.warning(text, self._name, job.label, again, job.problem)
                self._note(job, job.attempts, job.problem)
            else:
                self._tell(FAILURE, _item_of(job), job.exp_ref, _failing_text(job, again, self._file.source))
        await self.save(job)

    def give_up(self, job: Job, problem: str) -> None:
        job.state, job.problem = FAILED, one_line(problem)[:LONGEST_TEXT]
        self._tell_failed(job)

    # -------------------------------------------------------------------------------------------------- telling

    def _show(self, job: Job) -> None:
        steps = job.steps or ()
        with contextlib.suppress(ValueError):  # the board is full
            if any(step.percent for step in steps):
                self._progress(_item_of(job), round(job.share, 1), unit="%")
            else:
                self._progress(_item_of(job), job.done, len(steps), "commands")

    def _tell_failed(self, job: Job) -> None:
        self._tell(FAILURE, _item_of(job), job.exp_ref, _failed_text(job, self._file.source), job)

    def _untell(self, job: Job) -> None:
        if job.state == FAILED or job.attempts >= TOLD_AFTER:
            self._tell(RECOVERED, _item_of(job), job.exp_ref, f"finish of {job.label} is no failure any more")

    def _tell(self, topic: str, key: str, reference: str | None, problem: str, failed: Job | None = None) -> None:
        level = logging.ERROR if topic == FAILURE else logging.INFO
        _logger.log(level, "%s: %s", self._name, one_line(problem))
        self._untold.append((topic, key, reference, problem, time.monotonic() - _known_for(failed), failed))

    def _note(self, job: Job, attempts: int, problem: str | None = None) -> None:
        """Tell how a job gets on, for the journals. That is no failure, which a session could take for its own."""
        with contextlib.suppress(RigsyncError):
            body = {"exp_ref": job.exp_ref, "attempts": attempts, "problem": problem}
            self._notify(FINISH, body, _item_of(job))

    def _tell_untold(self) -> None:
        """Tell the coordinators what they have not been told, while no session of theirs could take it for its own."""
        if self._is_under_way():
            return
        untold, self._untold = self._untold, []
        for topic, key, reference, problem, at, failed in untold:
            age = time.monotonic() - at
            late = {"age": round(age, 3)} if topic == FAILURE and age > 2 * LOOK else {}
            with contextlib.suppress(RigsyncError):
                self._notify(topic, {"problem": problem, "exp_ref": reference, **late}, key)
                if failed and failed is self.jobs.get(failed.id) and not failed.failed:
                    failed.failed = time.time() - age
                    self._unsaved.add(failed.id)

    def _say_once(self, what: str, text: str, level: int = logging.ERROR) -> None:
        if self._said.get(what) != text:
            self._said[what] = text
            _logger.log(level, "%s: %s", self._name, one_line(text))

    # ------------------------------------------------------------------------------------------------- the disk

    @property
    def _aside(self) -> Aside:
        assert self._opened  # noqa: S101  # by `open`
        return self._opened

    async def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run something that touches the queue's drive; see `Aside.ask`."""
        return await self._aside.ask(f"the queue {str(self.queue.folder)!r}", function, *args)

    async def save(self, job: Job, durable: bool = True) -> None:
        """Write a job into the queue. Where that cannot be, it is kept in memory, and tried again."""
        self._unsaved.add(job.id)
        try:
            async with self._writing:
                if job is not self.jobs.get(job.id) and job is not self.held.get(job.id):  # it is done
                    return
                await self.ask(self.queue.save, job.id, job.text(), "json", durable)
                self._unsaved.discard(job.id)
        except (RigsyncError, OSError, RuntimeError) as error:
            if not self._is_troubled and not self._closing.is_set():
                self._is_troubled = True
                why = getattr(error, "strerror", None) or error  # its text names a file that is never seen
                problem = (
                    f"what is to be done after {job.label} cannot be written into {self.queue.folder}: {why}; it is "
                    "kept in memory, and lost if this program ends before; look at that folder and its disk"
                )
                self._tell(FAILURE, UNWRITTEN, job.exp_ref, problem)
        else:
            if self._is_troubled:
                self._is_troubled = False
                self._tell(RECOVERED, UNWRITTEN, job.exp_ref, f"{self.queue.folder} can be written again")

    async def drop(self, job: Job) -> None:
        """Take a job out of the queue."""
        try:
            async with self._writing:
                self.jobs.pop(job.id, None)
                self._unsaved.discard(job.id)
                await self.ask(self.queue.remove, job.id)
        except (RigsyncError, OSError, RuntimeError) as error:
            self._say_once("queue", f"{job.label} is done, and stays in {self.queue.folder}: {error}")

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that nobody waits for. It ends with `run`."""
        task: asyncio.Task[None] = asyncio.create_task(work, name="rigsync does what comes after a session")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -------------------------------------------------------------------------------------------------- the end

    def stop(self) -> None:
        """Tell all to end; from any thread, without waiting. What is not done is begun anew by the next agent."""
        if self._opened:
            self._closing.set()
            self._commands.close()

    def end(self) -> None:
        """Wait for the end of what was told to end. Off the event loop."""
        if not self._opened:
            return
        if not self._commands.wait(GENTLE.grace):
            _logger.error("%s: a command of finish does not end, though it was killed; %s", self._name, LOOK_AT_DRIVE)
        for log in self._logs.copy():
            log.close()
        self._claim.keep_only()


class Running:
    """A job that is being done."""

    task: asyncio.Task[None]

    def __init__(self, job: Job):
        self.job = job
        self.child: Child | None = None
        self.has_begun = False
        """Whether it has the files of its session."""
        self.is_paused = False
        """Whether it was told to end, to be begun anew later."""
        self.saved: float | None = None
        """The percentage that the queue has."""

    def pause(self) -> None:
        self.is_paused = True
        if self.child:
            self.child.end()


def _known_for(job: Job | None) -> float:
    """Return for how many seconds it has been known that a job has failed for good."""
    return max(0.0, time.time() - job.failed) if job and job.failed else 0.0


def _failing_text(job: Job, again: str, source: str | None) -> str:
    """Return what is told of a job that goes on failing, with the remedy."""
    return (
        f"what was to be done after {job.label} has failed {job.attempts} times, and is tried again in {again}: "
        f"{job.problem}; mend that, then rigsync transfers {source} --retry {job.label}"
    )


def _failed_text(job: Job, source: str | None) -> str:
    """Return what is told of a job that has failed for good, with the remedy."""
    tried = f" after {job.attempts} attempts" if job.attempts else ""
    return (
        f"what was to be done after {job.label} has failed for good{tried}, so that its data may be in one place only: "
        f"{job.problem}; mend that, then rigsync transfers {source} --retry {job.exp_ref or job.id}"
    )


def _item_of(job: Job) -> str:
    """Return what a job is called on the rig's board, and in notices."""
    return one_line(f"finish {job.label}")[:LONGEST]
