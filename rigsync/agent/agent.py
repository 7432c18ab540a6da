"""A rig whose handlers run the commands of a file."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import re
import time
from typing import Any

from rigsync._text import one_line
from rigsync.agent.aside import Aside
from rigsync.agent.commands import (
    GENTLE,
    LAST_GRACE,
    LONGEST_OUTPUT,
    Child,
    CommandFailed,
    Commands,
    bad_end,
    by_itself,
    fitting,
    is_good_end,
    last_words,
    output_of,
)
from rigsync.agent.disk import Disk
from rigsync.agent.expressions import LONGEST_PROGRESS
from rigsync.agent.file import Action, AgentFile, Command, Run, Start, Stop
from rigsync.agent.finishing import Finishing
from rigsync.agent.keys import KEEP, OVERWRITE
from rigsync.agent.leftovers import Leftovers
from rigsync.agent.outputs import Outputs
from rigsync.agent.process import Exit
from rigsync.agent.ready import LAST_LOOK, ReadyFile, losses_of
from rigsync.agent.recorded import Take
from rigsync.agent.recording import Recording
from rigsync.agent.rehearsal import Scratch
from rigsync.agent.requirements import check_requirements, make_folders, missing
from rigsync.agent.session_log import SessionLog, log_of
from rigsync.agent.validation import faults
from rigsync.agent.values import Values, environment, filled, folder_of
from rigsync.alerts.alerting import Alerts
from rigsync.alerts.watch import RigWatch
from rigsync.core.enums import ExpMessage
from rigsync.core.lifecycle import LIFECYCLE_MESSAGES, named_reference, rehearses
from rigsync.core.notices import FAILURE
from rigsync.core.queries import CHECK, TRANSFERS
from rigsync.errors import NotRunning, RigsyncError
from rigsync.rig.handlers import EndedBadly
from rigsync.rig.rig import Rig

logger = logging.getLogger("rigsync.agent")

_ENDING = (ExpMessage.EXPEND, ExpMessage.EXPINTERRUPT, ExpMessage.EXPCLEANUP)
_FIGURE = re.compile(r"\d{1,18}")


class RecordingGoesOn(RigsyncError):
    """A recording is still being written after its end, or nobody can tell."""


class Agent(Rig):
    """A rig that runs the commands of its file."""

    def __init__(self, file: AgentFile):
        self._own, self._journal_files = file, [file.source]
        super().__init__(
            file.name,
            file.listen,
            main_sync=file.main_sync,
            experiment_description=file.description,
            lease=file.lease,
            max_message=file.max_message,
            journal=file.journal or False,
        )
        self._identity = dataclasses.replace(self._identity, rehearses=file.rehearsal is not None)
        self._renew()
        self._recording: Recording | None = None
        self._watches: list[asyncio.Task[None]] = []
        """What looks at the recording and its disk while RUNNING."""
        self._going: list[tuple[Child, Start]] = []
        """Commands that go on until a message ends them. The answer to that message says how they ended."""
        self._take = Take()
        self._kept: list[ReadyFile] = []
        """Files of `ready` that were there before and have to stay, beside those of the recording."""
        self._log: SessionLog | None = None
        self._reference: str | None = None
        self._data: dict[str, Any] = {}
        self._alerts = Alerts(self.hub, file.alerts, RigWatch(file.name, time.monotonic()))
        self._left = Leftovers(file.name)
        self._finish = Finishing(file, lambda: self.status, self.progress, self._tell_coordinators)
        self.command(CHECK.name)(self._missing)
        self.command(TRANSFERS.name)(self._finish.told)
        for event in LIFECYCLE_MESSAGES:
            self.on(event)(functools.partial(self._finish.handle, event, self.handle))

    @property
    def _file(self) -> AgentFile:
        """The file as it is in the present experiment."""
        return self._scratch.file

    @property
    def _interrupt_grace(self) -> float:
        """Seconds for EXPINTERRUPT: the longest grace of the file, 5 s at least, and 5 s more. Then it is ended."""
        graces = [GENTLE.grace, *(action.stop.grace for action in self._file.on.values() if action.stop)]
        return LAST_GRACE + max(graces)

    async def __aexit__(self, *details: object) -> None:
        """End all commands, then say goodbye and stop serving, as `close` does."""
        try:
            await super().__aexit__(*details)
        finally:
            self._loops_end.cancel()  # this ends the commands, even if nobody waits any longer

    async def _open(self) -> None:
        if not self._session:
            self._renew()
            await self._left.end(self._aside)
        self._finish.open(self._aside)
        await super()._open()
        self._alerts.open()
        # An event loop that ends, even by a fault in the program, cancels its tasks.
        self._loops_end = asyncio.create_task(self._end_with_loop(), name="rigsync commands end with the loop")

    def _renew(self) -> None:
        self._aside = Aside(f"{self.name}-files")
        self._commands = Commands(self._note_end, self._aside, self.name)
        self._outputs = Outputs(self._own, self._aside)
        self._scratch = Scratch(self._own, self._own, self._aside)
        """What the present experiment makes, if it is a rehearsal."""

    async def _end_with_loop(self) -> None:
        try:
            await self._finish.run()
        finally:
            self._commands.close()

    def _end_commands(self) -> None:
        """End the commands that EXPINTERRUPT has left; off the event loop."""
        self._commands.close()
        self._finish.stop()
        if not self._commands.wait(self._interrupt_grace):
            logger.error("%s: commands do not end, though they were killed; restart the computer", self.name)
        self._finish.end()
        if log := self._log:
            log.close()
        self._outputs.release()
        self._aside.close()
        self._alerts.finish_here()

    # ------------------------------------------------------------------------------------------------- messages

    async def handle(self, event: ExpMessage, *args: Any) -> dict[str, Any]:
        """Do what the file says for a message; return the result, for the answer."""
        data = args[-1] if args and isinstance(args[-1], dict) else {}
        if event is ExpMessage.EXPINIT:
            return await self._replace(named_reference(event, list(args)), data)
        if event is ExpMessage.EXPSTART:
            self._reference = self._reference or named_reference(event, list(args))
        self._say_message(event, data)
        values = Values(
            event.name, self.name, self._reference, {**self._data, **data}, rehearsal=self._scratch.is_rehearsal
        )
        if event is ExpMessage.EXPSTART:
            async with self._outputs.starting(values):
                return await self._act(event, values)
        try:
            return await self._act(event, values)
        finally:
            if not (self._recording or self._commands.running()):  # even if it has ended badly
                self._outputs.release()

    async def _missing(self, exp_ref: Any = None) -> dict[str, list[str]]:
        """Return what EXPINIT would be refused for, and change nothing: `rigsync check --live` asks."""
        values = Values(ExpMessage.EXPINIT.name, self.name, exp_ref or None)
        return await missing(self._own, self._aside, values, *self._left.looks)

    async def _replace(self, reference: str | None, data: dict[str, Any]) -> dict[str, Any]:
        """Begin an experiment, in place of one that was initialised and not started, if there is one.

        If the new one is refused, the old one stays as it was.
        """
        file = (self._own.rehearsal if rehearses(ExpMessage.EXPINIT, [data]) else None) or self._own
        values = Values(ExpMessage.EXPINIT.name, self.name, reference, data, rehearsal=file is not self._own)
        await check_requirements(self._own, self._aside, values, *self._left.looks)
        async with self._outputs.initialising(values, file):
            return await self._begin_experiment(data, values, Scratch(self._own, file, self._aside))

    async def _begin_experiment(self, data: dict[str, Any], values: Values, scratch: Scratch) -> dict[str, Any]:
        before = self._reference, self._data, self._log, self._scratch
        ended = await self._commands.end_all(None)
        for label, problem in (await self._bad_ends(None)).items():
            self._tell_failure(problem, label)
        self._forget_ended()
        self._kept.clear()
        await self._scratch.remove()
        self._reference, self._data, self._log = values.exp_ref, data, log_of(self._own, values)
        self._scratch = scratch
        self._say_message(ExpMessage.EXPINIT, data)
        try:
            await scratch.look(values)
            await make_folders(self._file, self._aside, values)
            return await self._act(ExpMessage.EXPINIT, values)
        except Exception as error:
            await scratch.remove()
            await self._close_log()
            self._reference, self._data, self._log, self._scratch = before
            if ended:
                # The rig is still INITIALIZED for the old experiment, but its commands are gone.
                with contextlib.suppress(NotRunning):
                    self.interrupt(f"EXPINIT of {values.exp_ref} failed, which was to replace this experiment: {error}")
            raise
        finally:
            if (log := before[2]) and log is not self._log:
                await self._aside.begin(log.close)

    async def _act(self, event: ExpMessage, values: Values) -> dict[str, Any]:
        action, told = self._file.action(event), {}
        if event in _ENDING:
            return await self._end(event, action, values)
        is_start = event is ExpMessage.EXPSTART
        disk = self._disk_of(values) if is_start else None
        recording = self._recording_of(values, disk) if is_start else None
        if is_start:
            self._take = Take()
            await self._scratch.look(values)
        if recording:
            await recording.prepare()
        if action.run:
            told["run"] = await self._run(action.run, values)
        if action.start:
            told["started"] = await self._start(action.start, values)
        if is_start:
            self._recording = recording
            self._take.began = time.monotonic() if recording or action.start else None
            watches = [watched.watch() for watched in (disk, recording) if watched]
            self._watches = [asyncio.create_task(watch, name="rigsync watches a recording") for watch in watches]
            await self._scratch.begin(values)
        return told

    async def _end(self, event: ExpMessage, action: Action, values: Values) -> dict[str, Any]:
        """End all that was started, and do the rest of what the file says for the end, even if either fails.

        At EXPEND, `EndedBadly` means that everything has ended, but something badly, or that a recording is missing;
        `RecordingGoesOn` that something is still being written, or that nobody can tell. Other messages report a bad
        end by a notice: their job is to leave nothing running, which they have done.
        """
        told: dict[str, Any] = {}
        failures: list[Exception] = []
        recorded = self._recording  # an interrupt that overtakes this message tells of it, too
        self._scratch.end()
        for watch in self._watches:
            watch.cancel()
        try:
            if ended := await self._commands.end_all(action.stop):
                told["ended"] = ended
        except CommandFailed as error:
            failures.append(error)
        is_over = not failures
        if recorded:
            await recorded.finish()
        told |= await self._scratch.measured(values)
        self._log_recorded(recorded)
        bad = await self._bad_ends(action.stop)
        if event is ExpMessage.EXPEND:
            bad |= await losses_of(self._kept, self._aside)
        try:
            if action.run:
                told["run"] = await self._run(action.run, values)
        except Exception as error:
            failures.append(error)
        if recorded and event is ExpMessage.EXPEND:
            if verdict := await recorded.verdict():
                if verdict.is_over:
                    bad["verify"] = verdict.problem
                else:
                    is_over = False
                    failures.append(RecordingGoesOn(verdict.problem))
            elif is_over and (validate := self._file.validate):
                told["validated"] = len(recorded.finished)
                bad |= await faults(validate, recorded.finished, values, self._run, self._take.note)
        if is_over or event is not ExpMessage.EXPEND:  # else another EXPEND looks at these again
            self._recording = None
        if is_over and (left := await self._scratch.remove()):
            bad["rehearsal"] = left
        self._forget_ended()  # not before: an interrupt that overtakes this message reports them
        if is_over:
            self._kept.clear()
        if event is not ExpMessage.EXPEND:
            for label, problem in bad.items():
                self._tell_failure(problem, label)
            bad = {}
        if bad or len(failures) > 1:
            raise (EndedBadly if is_over else CommandFailed)("; ".join([*bad.values(), *map(str, failures)]))
        if failures:
            raise failures[0]
        if event is ExpMessage.EXPCLEANUP:
            await self._close_log()
        if recorded and not self._scratch.is_rehearsal:
            told |= self._take.told(recorded, event is ExpMessage.EXPEND)
        return told

    def _log_recorded(self, recorded: Recording | None) -> None:
        if lasted := self._take.end():
            done = "rehearsed, and removes," if self._scratch.is_rehearsal else "recorded"
            what = f"{done} {recorded.described()} in {lasted}" if recorded else f"its commands ran for {lasted}"
            logger.info("%s: %s", self.name, one_line(what))

    async def _bad_ends(self, stop: Stop | None) -> dict[str, str]:
        """Return, by label, the commands that were to go on and have ended badly, each with how."""
        for child, _ in reversed(self._going):
            child.end(stop)  # also one whose end is not known here yet
        running = self._commands.running()
        if ending := [child.ended for child, _ in self._going if child not in running]:
            await asyncio.wait(ending, timeout=LAST_LOOK)
        ended = [(child, child.ended.result(), start) for child, start in self._going if child.ended.done()]
        return {
            child.label: bad_end(child, how)
            for child, how, start in ended
            if not is_good_end(how, child.asked or child.stop, start.good_exit)
        }

    def _forget_ended(self) -> None:
        self._going = [(child, start) for child, start in self._going if not child.ended.done()]

    def _tell_failure(self, problem: str, label: str) -> None:
        self._tell(FAILURE, label, problem)

    def _tell(self, topic: str, key: str, problem: str) -> None:
        """Tell something in the agent's log, and to the coordinators."""
        logger.log(logging.ERROR if topic == FAILURE else logging.INFO, "%s: %s", self.name, one_line(problem))
        with contextlib.suppress(RigsyncError):
            self.notify(topic, {"problem": problem, "exp_ref": self._reference}, key=key)

    def _tell_coordinators(self, topic: str, body: Any, key: str) -> None:
        self.notify(topic, body, key=key)

    def _report(self, topic: str, key: str, problem: str) -> None:
        """Tell something of a recording, in the log of the session too."""
        self._say(problem)
        self._tell(topic, key, problem)

    def _disk_of(self, values: Values) -> Disk | None:
        if not (self._file.require and (disk := self._file.require.free_disk)):
            return None
        path = filled(self._file, disk.path, values)
        return Disk(
            self._aside, path, self._report, self.progress, lambda: last_words(child for child, _ in self._going)
        )

    def _recording_of(self, values: Values, disk: Disk | None) -> Recording | None:
        if not (verify := self._file.verify):
            return None
        pattern = filled(self._file, verify.files, values)
        cause = disk.cause if disk else lambda: ""  # without a watched disk no cause is known
        overwrites, shared = self._file.existing == OVERWRITE, self._outputs.shared
        return Recording(self._aside, pattern, verify, overwrites, self._report, self.progress, cause, shared)

    async def _close_log(self) -> None:
        log, self._log = self._log, None
        if log:
            log.end()  # this may be cancelled before a thread has begun
            await self._aside.begin(log.close)

    # ------------------------------------------------------------------------------------------------- commands

    async def _run(self, run: Run, values: Values) -> dict[str, Any]:
        child = await self._begin(run.command, values)
        # Not wait_for: before Python 3.12 it ignores a cancellation that comes when the command has just ended.
        if not (await asyncio.wait([child.ended], timeout=run.timeout))[0]:
            ended = await self._commands.end(child)
            raise CommandFailed(
                f"{child.label} took more than {run.timeout:g} s and {ended.described()}{output_of(ended)}"
            )
        ended = child.ended.result()
        if ended.status != 0:
            raise CommandFailed(f"{child.label} {ended.described()}{output_of(ended)}")
        return {"command": child.label, "status": ended.status, "last_lines": fitting(ended.last_lines, LONGEST_OUTPUT)}

    async def _start(self, start: Start, values: Values) -> dict[str, Any]:
        ready = start.ready and ReadyFile(filled(self._file, start.ready.file, values), start.ready.within)
        if ready:
            await self._aside.ask(f"the file {ready.path!r}", ready.look)
            if self._file.existing == KEEP:
                verify = self._file.verify if values.event == ExpMessage.EXPSTART.name else None
                pattern = filled(self._file, verify.files, values) if verify else None
                await self._aside.ask(f"the file {ready.path!r}", ready.keep, pattern)
        child = await self._begin(start.command, values, self._file.action(ExpMessage.EXPEND).stop, start.frames)
        try:
            self.add_stream(child.label, state="running", pid=child.process.pid)
            if ready:
                await ready.awaited(child, self._commands, self._aside)
        except Exception:
            child.end()
            raise
        if child.ended.done():
            raise CommandFailed(by_itself(child, child.ended.result()))
        self._going.append((child, start))
        if ready:
            self._kept.append(ready)
            if ready.lost:
                self._tell_failure(ready.lost, child.label)
        return {"command": child.label, "pid": child.process.pid}

    async def _begin(
        self, command: Command, values: Values, stop: Stop | None = None, frames: re.Pattern[str] | None = None
    ) -> Child:
        words = command.filled(values)
        self._say(f"{values.event}: {words[0] if command.shell else ' '.join(map(repr, words))}")

        def note(child: Child, line: str) -> None:
            self._say(line, child.label)
            if (
                frames
                and (found := frames.search(line[:LONGEST_PROGRESS]))
                and (figure := _FIGURE.fullmatch((found[1] or "").strip()))
            ):
                self._take.counted[child.label] = int(figure[0])
                self.progress(f"{child.label} frames", self._take.counted[child.label])

        return await self._commands.begin(
            words[0] if command.shell else words,
            folder=folder_of(self._file, command, values),
            environment=environment(values, shell=command.read_by_shell),
            on_line=note,
            on_exit=lambda child, ended: self._say(ended.described(), child.label),
            stop=stop or GENTLE,
        )

    def _note_end(self, child: Child, ended: Exit) -> None:
        with contextlib.suppress(LookupError):  # of a `run` command
            self.update_stream(child.label, state="ended", outcome=ended.described())
            self.remove_stream(child.label)
        going = [entry for entry in self._going if entry[0] is child]
        if going and not child.asked:  # otherwise the message that stopped it reports its end
            self._going.remove(going[0])
            reason = by_itself(child, ended)
            self._tell_failure(reason, child.label)
            with contextlib.suppress(NotRunning):
                self.interrupt(reason)

    # -------------------------------------------------------------------------------------------------- helpers

    def _say_message(self, event: ExpMessage, data: dict[str, Any]) -> None:
        self._say(f"{event.name} of {self._reference or 'an experiment without a reference'}{_why(data)}")

    def _say(self, text: str, who: str = "rigsync") -> None:
        if log := self._log:
            log.write(f"[{who}] {text}")


def _why(data: dict[str, Any]) -> str:
    """Return the reason in the data of an interrupt, from the rig itself or from a task that has failed."""
    found = [str(data[key]) for key in ("reason", "error", "message") if data.get(key)]
    return f": {': '.join(found)}" if found else ""
