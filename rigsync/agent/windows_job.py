"""A command in a job object: Windows ends all that it has started when it, or the agent, ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

_SPECIAL = '"%!&|<>^\r\n'
"""Characters that cmd.exe, which reads batch files' arguments, takes for more than text."""


def batch_problem(command: Sequence[str] | str) -> str:
    """Return why a command would hand its arguments to a shell unasked; an empty text if it would not.

    Windows runs a batch file by ``cmd.exe``. That reads the arguments again, by rules under which no quoting is safe.
    """
    if isinstance(command, str) or not command[0].rstrip(" .").lower().endswith((".bat", ".cmd")):
        return ""
    for argument in command[1:]:
        special = next((character for character in argument if character in _SPECIAL), None)
        if special:
            return (
                f"the argument {argument!r} of the batch file {command[0]!r} contains {special!r}, which cmd.exe would "
                "interpret; run a program that is no batch file, or take that character out"
            )
    return ""


if sys.platform == "win32":
    import contextlib
    import ctypes
    import errno
    import logging
    import os
    import signal
    import subprocess
    import threading
    import time
    from ctypes import wintypes
    from typing import Any

    from rigsync.agent.programs import RefusedStart, Step

    _logger = logging.getLogger("rigsync.agent")

    _LOOK = 0.05
    """Seconds between checks whether the command has ended, or has to be killed."""
    _CHUNK = 65_536
    _OUTPUT_LIMIT = 1.0
    """Seconds for the rest of the output to arrive when no process is left."""

    # Names and numbers of winnt.h, winbase.h and tlhelp32.h.
    _JobObjectBasicAccountingInformation = 1
    _JobObjectExtendedLimitInformation = 9
    _JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE = 0x2000
    _CREATE_SUSPENDED = 0x4
    _TH32CS_SNAPTHREAD = 0x4
    _THREAD_SUSPEND_RESUME = 0x2
    _INVALID_HANDLE_VALUE = wintypes.HANDLE(-1).value

    class _BasicLimits(ctypes.Structure):  # JOBOBJECT_BASIC_LIMIT_INFORMATION
        _fields_ = (
            ("PerProcessUserTimeLimit", wintypes.LARGE_INTEGER),
            ("PerJobUserTimeLimit", wintypes.LARGE_INTEGER),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        )

    class _ExtendedLimits(ctypes.Structure):  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
        _fields_ = (
            ("BasicLimitInformation", _BasicLimits),
            ("IoInfo", ctypes.c_ulonglong * 6),  # IO_COUNTERS
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        )

    class _Accounting(ctypes.Structure):  # JOBOBJECT_BASIC_ACCOUNTING_INFORMATION
        _fields_ = (
            ("TotalUserTime", wintypes.LARGE_INTEGER),
            ("TotalKernelTime", wintypes.LARGE_INTEGER),
            ("ThisPeriodTotalUserTime", wintypes.LARGE_INTEGER),
            ("ThisPeriodTotalKernelTime", wintypes.LARGE_INTEGER),
            ("TotalPageFaultCount", wintypes.DWORD),
            ("TotalProcesses", wintypes.DWORD),
            ("ActiveProcesses", wintypes.DWORD),
            ("TotalTerminatedProcesses", wintypes.DWORD),
        )

    class _ThreadEntry(ctypes.Structure):  # THREADENTRY32
        _fields_ = (
            ("dwSize", wintypes.DWORD),
            ("cntUsage", wintypes.DWORD),
            ("th32ThreadID", wintypes.DWORD),
            ("th32OwnerProcessID", wintypes.DWORD),
            ("tpBasePri", wintypes.LONG),
            ("tpDeltaPri", wintypes.LONG),
            ("dwFlags", wintypes.DWORD),
        )

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)

    def _function(name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(_kernel, name)
        function.restype, function.argtypes = result, arguments
        return function

    _HANDLE, _BOOL, _DWORD = wintypes.HANDLE, wintypes.BOOL, wintypes.DWORD
    _CreateJobObject = _function("CreateJobObjectW", _HANDLE, ctypes.c_void_p, wintypes.LPCWSTR)
    _SetInformation = _function("SetInformationJobObject", _BOOL, _HANDLE, ctypes.c_int, ctypes.c_void_p, _DWORD)
    _QueryInformation = _function(
        "QueryInformationJobObject", _BOOL, _HANDLE, ctypes.c_int, ctypes.c_void_p, _DWORD, ctypes.c_void_p
    )
    _AssignProcess = _function("AssignProcessToJobObject", _BOOL, _HANDLE, _HANDLE)
    _TerminateJob = _function("TerminateJobObject", _BOOL, _HANDLE, wintypes.UINT)
    _CloseHandle = _function("CloseHandle", _BOOL, _HANDLE)
    _CreateSnapshot = _function("CreateToolhelp32Snapshot", _HANDLE, _DWORD, _DWORD)
    _FirstThread = _function("Thread32First", _BOOL, _HANDLE, ctypes.POINTER(_ThreadEntry))
    _NextThread = _function("Thread32Next", _BOOL, _HANDLE, ctypes.POINTER(_ThreadEntry))
    _OpenThread = _function("OpenThread", _HANDLE, _DWORD, _BOOL, _DWORD)
    _ResumeThread = _function("ResumeThread", _DWORD, _HANDLE)

    def _checked(result: Any) -> Any:
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())
        return result

    def _resume(pid: int) -> None:
        """Resume a suspended process; `subprocess` keeps no handle of its thread."""
        snapshot = _CreateSnapshot(_TH32CS_SNAPTHREAD, 0)
        if snapshot == _INVALID_HANDLE_VALUE:
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            entry = _ThreadEntry(dwSize=ctypes.sizeof(_ThreadEntry))
            more = _FirstThread(snapshot, ctypes.byref(entry))
            while more:
                if entry.th32OwnerProcessID == pid:
                    thread = _checked(_OpenThread(_THREAD_SUSPEND_RESUME, False, entry.th32ThreadID))
                    _ResumeThread(thread)
                    _CloseHandle(thread)
                more = _NextThread(snapshot, ctypes.byref(entry))
        finally:
            _CloseHandle(snapshot)

    def _start_in_job(
        command: Sequence[str] | str, *, creationflags: int = 0, **options: Any
    ) -> tuple[subprocess.Popen[bytes], Any]:
        """Start a command as `subprocess.Popen` does, in a job object of its own; return it and its job.

        Windows closes the job, and ends what is in it, when this process has ended.
        """
        job = _checked(_CreateJobObject(None, None))
        try:
            _limit(job, _JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE)
            # Suspended, so that nothing that it starts escapes the job.
            process = subprocess.Popen(command, creationflags=creationflags | _CREATE_SUSPENDED, **options)  # noqa: S603
            try:
                # The handle is no public attribute. OpenProcess would give the same handle for the pid.
                _checked(_AssignProcess(job, int(process._handle)))  # type: ignore[attr-defined]
                _resume(process.pid)
            except OSError:
                process.kill()
                process.communicate()
                raise
        except BaseException:
            _CloseHandle(job)
            raise
        return process, job

    def _limit(job: Any, flags: int) -> None:
        limits = _ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = flags
        size = ctypes.sizeof(limits)
        _checked(_SetInformation(job, _JobObjectExtendedLimitInformation, ctypes.byref(limits), size))

    class JobCommand:
        """A command whose output is passed on; text is a line for the shell. It runs when this is made.

        Raises
        ------
        RefusedStart, OSError
            It cannot be started.
        """

        keeper = ""  # the job does a keeper's work

        def __init__(
            self,
            command: Sequence[str] | str,
            folder: str | None,
            environment: Mapping[str, str],
            rig: str,
            gives_way: bool = False,
        ):
            if folder and not os.path.isdir(folder):
                raise RefusedStart("folder", errno.ENOENT)
            if problem := batch_problem(command):
                raise OSError(problem)
            self._lock = threading.Lock()
            self._steps: list[Step] = []
            self._kill_at = float("inf")
            self._by_itself = False
            self._ended = False
            self._process, self._job = _start_in_job(
                command,
                shell=isinstance(command, str),
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP
                | (subprocess.BELOW_NORMAL_PRIORITY_CLASS if gives_way else 0),
            )

        @property
        def pid(self) -> int:
            """The process id."""
            return self._process.pid

        def stop(self, step: Step, grace: float) -> None:
            """Send an interrupt once, and kill the rest after the grace; kill at once if a harder step is asked for."""
            with self._lock:
                if self._ended:
                    return
                now = time.monotonic()
                if step != "interrupt":
                    self._kill_at = now
                elif not self._steps:
                    self._steps.append("interrupt")
                    self._kill_at = min(self._kill_at, now + grace)
                    try:
                        os.kill(self.pid, signal.CTRL_BREAK_EVENT)
                    except OSError as error:
                        self._kill_at = now
                        text = "process %d cannot be interrupted, and is killed: %s; run the agent in a console window"
                        _logger.log(logging.ERROR, text, self.pid, error)

        def run(self, read: Callable[[bytes], None]) -> tuple[int | None, int | None, Sequence[Step]]:
            """Pass on the output until nothing is left in the job; return the exit status, None, and what was sent."""
            reader = threading.Thread(target=self._pass_on, args=(read,), name=f"output of {self.pid}", daemon=True)
            reader.start()
            status: int | None = None
            while status is None or self._count():
                try:
                    status = self._process.wait(_LOOK)
                except subprocess.TimeoutExpired:
                    pass
                else:
                    time.sleep(_LOOK)
                with self._lock:
                    # The rest of a command that has ended by itself is of no use.
                    self._by_itself = self._by_itself or (status is not None and not self._steps)
                    is_late = time.monotonic() >= self._kill_at
                    if is_late and status is None and "kill" not in self._steps:
                        self._steps.append("kill")
                    if is_late or self._by_itself:
                        _TerminateJob(self._job, 1)
            with self._lock:
                self._ended = True
                _CloseHandle(self._job)
            reader.join(_OUTPUT_LIMIT)
            return status, None, () if self._by_itself else self._steps

        def _pass_on(self, read: Callable[[bytes], None]) -> None:
            if output := self._process.stdout:
                with output, contextlib.suppress(OSError):
                    while data := output.read(_CHUNK):
                        read(data)

        def _count(self) -> int:
            """Return how many processes are left in the job."""
            accounting = _Accounting()
            size = ctypes.sizeof(accounting)
            kind = _JobObjectBasicAccountingInformation
            _checked(_QueryInformation(self._job, kind, ctypes.byref(accounting), size, None))
            return int(accounting.ActiveProcesses)

    class Foreground:
        """A command in the foreground of this program's terminal."""

        def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
            self._process, self._job = _start_in_job(list(command), env={**os.environ, **environment})

        def wait(self) -> int:
            """Wait until it has ended; return its exit status. What it leaves behind goes on."""
            status = self._process.wait()
            _limit(self._job, 0)
            _CloseHandle(self._job)
            return status

        def end(self, grace: float) -> None:
            """Kill it and all that it has started: Windows has no gentler way."""
            _TerminateJob(self._job, 1)
            self.wait()
