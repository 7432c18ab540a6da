"""Rigs and coordinators for the tests of whole programs: in processes of their own, and iblutil's in this one.

A `Program` tells what happens to it in lines of JSON on its standard output, takes commands from its standard input,
and ends when that does, so that none outlives the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import importlib.util
import itertools
import json
import logging
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import rigsync
from rigsync import ExpMessage, ExpStatus
from rigsync.runtime.loop_thread import LoopThread

if __name__ != "__main__":  # the programs do without what they have no need of: many begin
    import psutil

ROOT = Path(__file__).parents[1]

LONG = 30.0
"""Seconds that only pass where something is broken."""

PROBE_WARNING = r"Expected list, got \{'rigsync'. 1, 'kind'. 'probe'"
"""iblutil warns of each probe: all that it says of rigsync. Any other warning of its is an error."""

TOKEN = {"sync": "f3a8"}

Report = Callable[..., None]


def run_strictly(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program in Python's development mode, which warns of what is left open.

    It also has asyncio warn of what took long. That says only that the computer is busy, and is kept out.
    """
    prelude = "import logging; logging.getLogger('asyncio').addFilter(lambda record: record.msg[:9] != 'Executing')\n"
    return subprocess.run(
        [sys.executable, "-X", "dev", *options, "-c", prelude + textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * LONG,
    )


def calm(err: str) -> str:
    """Return what a program has written on stderr, but for how long it stood still, as it does on a busy computer."""
    return "".join(line for line in err.splitlines(keepends=True) if " stood still" not in line)


def until(condition: Callable[[], Any], what: str = "this") -> Any:
    """Wait until a condition is true, and return its value.

    It looks again after a millisecond, then less and less often, so that waiting leaves the computer to what it waits
    for; more so where to look takes long itself.
    """
    pause, before = 0.001, time.monotonic()
    deadline = before + LONG
    while not (value := condition()):
        now = time.monotonic()
        assert now < deadline, f"{what} never came true"
        time.sleep(max(pause, 2 * (now - before)))
        pause, before = min(1.1 * pause, 0.01), time.monotonic()
    return value


_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_start = random.randrange(20000, 32768)
_ports = itertools.cycle(port for port in [*range(_start, 32768), *range(20000, _start)] if port % _workers == _worker)
"""Those that no system gives to a socket that asks for any, which may be a coordinator's before it is a rig's.

Linux gives ports from 32768 on, others from 49152 on. Of tests that run side by side each process has its own.
"""


def collected(weak: weakref.ref[Any]) -> None:
    """Wait until an object is collected that nobody keeps: another thread may be using it just now."""
    until(lambda: gc.collect() >= 0 and weak() is None, "the end of what nobody refers to")


def free_port(host: str = "127.0.0.1", scheme: str = "udp") -> int:
    """Return a port that nobody uses just now, another one each time; OSError where this machine has no such host."""
    kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = next(_ports)
        with socket.socket(family, kind) as sock:
            try:
                sock.bind((host, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
            else:
                return port


def iblutil_net() -> Any:
    """Return `iblutil.io.net`; where iblutil is not installed, skip the test, or the module, that has need of it."""
    if importlib.util.find_spec("iblutil") is None:
        import pytest  # not in programs of their own, which it would make slow

        pytest.skip("iblutil is not installed here, and a real peer of its own is wanted", allow_module_level=True)
    return importlib.import_module("iblutil.io.net")


def has_ipv6() -> bool:
    """Tell whether this computer can be reached by IPv6 from itself."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return True
    return False


def port_of(uri: str) -> int:
    """Return the port of a URI."""
    return int(uri.rpartition(":")[2])


class Leftovers:
    """Programs that a command leaves running in the ways that there are; Linux only. A context manager.

    Each is a `sleep` of as many seconds as no other one, by which it is found again.
    """

    WAYS = ("background", "setsid", "nohup", "daemon", "many", "stubborn")

    def __init__(self) -> None:
        self.seconds = f"98765.{random.randrange(10**9):09}"

    def line(self, way: str) -> str:
        """Return a line for the shell; `count` tells how many of them it runs."""
        sleep = f"sleep {self.seconds}"
        return {
            "background": f"{sleep} & {sleep}",
            "setsid": f"setsid {sleep} & {sleep}",
            "nohup": f"nohup {sleep} > /dev/null 2>&1 & {sleep}",
            "daemon": f"(setsid sh -c '(setsid {sleep} < /dev/null > /dev/null 2>&1 &)' &); {sleep}",
            "many": f"for n in $(seq 54); do setsid {sleep} & done; {sleep}",
            "stubborn": f"(trap '' INT TERM; setsid {sleep} &); {sleep}",
        }[way]

    def await_all(self, way: str) -> None:
        """Wait until all run."""
        until(lambda: len(self.found()) == (55 if way == "many" else 2), f"what runs in the way {way}")

    def found(self) -> list[psutil.Process]:
        """Return those that run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline() == ["sleep", self.seconds] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def __enter__(self) -> Leftovers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.found():
            with contextlib.suppress(psutil.Error):
                process.kill()


def keepers_of(pid: int) -> list[psutil.Process]:
    """Return the parents of what a program has started, by whatever name, which its keepers are."""
    return [child for child in psutil.Process(pid).children() if child.children()]


@contextlib.contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    """Stop a process; kill it in the end, if it is still there."""
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def watchers_of(pid: int) -> list[psutil.Process]:
    """Return the watchers of a program: they hold the other end of one of its pipes."""

    def pipes(process: psutil.Process) -> set[str]:
        found = set()
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(os.readlink(link))
        return {link for link in found if link.startswith("pipe:")}

    ours = pipes(psutil.Process(pid))
    return [found for found in psutil.process_iter(["name"]) if found.name() == "rig-watcher" and pipes(found) & ours]


class FakeAlyx:
    """What both sides need of a ``one.webclient.AlyxClient``."""

    base_url = "https://alyx.example.org"
    user = "sync"
    _token = "f3a8"
    is_logged_in = True


# ------------------------------------------------------------------------------------------------ an iblutil rig


class IblutilRig:
    """A rig as labs have them now: `EchoProtocol.server`, whose callbacks answer with its own verbs.

    Parameters
    ----------
    name : str
        Its name, which is in its answers.
    port : int
        Where it listens, on 127.0.0.1.
    failing : iterable of str
        Messages whose callback raises a ValueError.
    held : iterable of str
        Messages that are answered only after `let_go`.
    report : callable
        Called with what happens: ``called, message, args``; ``answered, message``; ``error, text``.
    scheme : str
        ``udp`` or ``tcp``.
    """

    def __init__(
        self, name: str, port: int, failing: Iterable[str], held: Iterable[str], report: Report, scheme: str = "udp"
    ):
        self.name, self.port, self.report, self.scheme = name, port, report, scheme
        self._serve = iblutil_net().app.EchoProtocol.server
        self.failing, self.held = frozenset(failing), frozenset(held)
        self.address: Any = None
        self.token: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.report("error", repr(context.get("exception", context))))
        log = logging.getLogger(f"iblutil.{self.name}")  # else it would set up one that writes on standard output
        self.server = await self._serve(f"{self.scheme}://127.0.0.1:{self.port}", name=self.name, log=log)
        self._go = asyncio.Event()
        for event in ExpMessage.__members__.values():  # each apart: iblutil's callbacks for several need Python < 3.12
            self.server.assign_callback(event, functools.partial(self._called, event))

    async def close(self) -> None:
        self.server.close()
        if self.server.Server:  # of TCP, which its close() leaves open
            self.server.Server.close()

    async def say(self, message: str) -> None:
        """Send a message of its own accord to whoever sent the last one."""
        await self._answer(ExpMessage[message], [])

    async def let_go(self) -> None:
        """Send the answers that were held."""
        self._go.set()

    async def is_connected(self) -> bool:
        """Whether its socket is open, which it closes for good where an echo is wrong or late."""
        return bool(self.server.is_connected)

    def _called(self, event: ExpMessage, args: list[Any], address: Any) -> None:
        self.report("called", event.name, args)
        if event.name in self.failing:
            raise ValueError(f"{self.name} cannot do {event.name}")
        self.address = address
        if event is ExpMessage.ALYX and all(args):
            self.token = args
            return  # a token was handed over: the echo is the answer
        task = asyncio.get_running_loop().create_task(self._answer(event, args, event.name in self.held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, event: ExpMessage, args: list[Any], held: bool = False) -> None:
        if held:
            await self._go.wait()
        server, address = self.server, self.address
        info = {"rig": self.name, "event": event.name, "got": args}
        answers = {
            ExpMessage.EXPINIT: lambda: server.init(info, addr=address),
            ExpMessage.EXPSTART: lambda: server.start((args or [None])[0], info, addr=address),
            ExpMessage.EXPEND: lambda: server.stop(info, addr=address),
            ExpMessage.EXPINTERRUPT: lambda: server.stop(info, immediately=True, addr=address),
            ExpMessage.EXPCLEANUP: lambda: server.cleanup(info, addr=address),
            ExpMessage.EXPSTATUS: lambda: server.status(ExpStatus.RUNNING, addr=address),
            ExpMessage.EXPINFO: lambda: server.info(ExpStatus.RUNNING, info, addr=address),
            ExpMessage.ALYX: lambda: server.alyx(FakeAlyx(), addr=address),
        }
        try:
            await answers[event]()
        except Exception as error:
            self.report("error", repr(error))
        else:
            self.report("answered", event.name)


class IblutilServer:
    """An `IblutilRig` on a thread of this process. A context manager, like `Program`."""

    def __init__(
        self,
        name: str,
        port: int | None = None,
        failing: Iterable[str] = (),
        held: Iterable[str] = (),
        scheme: str = "udp",
    ):
        self.reports: list[list[Any]] = []
        self.name, self.port = name, free_port(scheme=scheme) if port is None else port
        self.uri = f"{scheme}://127.0.0.1:{self.port}"
        self.rig = IblutilRig(name, self.port, failing, held, lambda *report: self.reports.append(list(report)), scheme)
        self._thread = LoopThread(f"iblutil-{name}")

    @property
    def errors(self) -> list[str]:
        return [report[1] for report in self.reports if report[0] == "error"]

    @property
    def calls(self) -> list[str]:
        return [report[1] for report in self.reports if report[0] == "called"]

    @property
    def is_connected(self) -> bool:
        return self._thread.run_coroutine(IblutilRig.is_connected, self.rig)

    def wait_for_echo(self, message: str, count: int = 1) -> None:
        """Wait until its answers to a message have been echoed.

        iblutil stands only one answer outstanding, and over TCP no message that it reads together with such an echo, as
        it may where it is busy for longer than `rigsync.core.legacy.ARRAY_GAP`.
        """
        until(lambda: self.reports.count(["answered", message]) >= count, f"the echo of the answer to {message}")

    def say(self, message: str) -> None:
        """Send a message of its own accord; return when its echo is back."""
        self._thread.run_coroutine(self.rig.say, message)

    def let_go(self) -> None:
        """Send the answers that were held."""
        self._thread.run_coroutine(IblutilRig.let_go, self.rig)

    def go_deaf(self) -> None:
        """Close the socket, as iblutil does where an echo is wrong or late."""
        self._thread.run_coroutine(IblutilRig.close, self.rig)

    def __enter__(self) -> IblutilServer:
        self._thread.start()
        self._thread.run_coroutine(IblutilRig.open, self.rig)
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run_coroutine(IblutilRig.close, self.rig)
        self._thread.stop()
        self._thread.join(LONG)


# ----------------------------------------------------------------------------------------- programs of their own


class Program:
    """A rig or a coordinator in a process of its own, as a context manager.

    Parameters
    ----------
    role : str
        The name of a function below.
    script : str
        The file that is run.
    stderr : file, optional
        Where what it writes there goes, if not to where that of the tests goes.
    **options
        Its arguments.

    Attributes
    ----------
    reports : list of list
        What it has told.
    """

    def __init__(self, role: str, script: str = __file__, stderr: IO[str] | None = None, **options: Any):
        self.role = role
        self.reports: list[list[Any]] = []
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._process = subprocess.Popen(
            [sys.executable, script, role, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name=f"reader of {role}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def all(self, what: str, *details: Any) -> list[list[Any]]:
        """Return the reports of one kind, by default whatever their details."""
        return [report for report in self.reports.copy() if report[: 1 + len(details)] == [what, *details]]

    def wait_for(self, what: str, *details: Any, count: int = 1) -> list[Any]:
        """Wait for the `count`-th report of one kind, and return it."""
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self.all(what, *details)) >= count, LONG)
        found = self.all(what, *details)
        assert len(found) >= count, f"{self.role} told only {self.reports}, not {what} {details}"
        return found[count - 1]

    def tell(self, *command: str) -> None:
        """Give it a command."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, without a farewell."""
        self._process.kill()
        self._process.wait(LONG)

    def exit_status(self) -> int:
        """Wait until it has ended by itself."""
        return self._process.wait(LONG)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._reader.join(LONG)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._news:
                self.reports.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class RigProgram(Program):
    """A `rigsync.Rig` in a process of its own that listens already; see `serve_rig`."""

    def __init__(self, name: str = "cameras", uri: str = "udp://127.0.0.1:0", **options: Any):
        super().__init__("serve_rig", name=name, uri=uri, **options)
        self.name, self.uri = name, uri

    def __enter__(self) -> RigProgram:
        try:
            self.uri = self.wait_for("listening")[1]
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self


class IblutilProgram(Program):
    """An `IblutilRig` in a process of its own that listens already; see `serve_iblutil`."""

    def __init__(self, name: str, port: int | None = None, failing: Iterable[str] = (), scheme: str = "udp"):
        self.name, self.port = name, free_port(scheme=scheme) if port is None else port
        self.uri = f"{scheme}://127.0.0.1:{self.port}"
        iblutil_net()
        super().__init__("serve_iblutil", name=name, port=self.port, failing=list(failing), scheme=scheme)

    def __enter__(self) -> IblutilProgram:
        try:
            self.wait_for("listening")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self


class AwaitingProgram(Program):
    """An iblutil rig in a process of its own that awaits each message, and listens already; see `serve_awaiting`."""

    def __init__(self, name: str, pattern: str, level: str, scheme: str = "udp"):
        self.name, self.port = name, free_port(scheme=scheme)
        self.uri = f"{scheme}://127.0.0.1:{self.port}"
        iblutil_net()
        super().__init__("serve_awaiting", uri=self.uri, name=name, pattern=pattern, level=level)

    def __enter__(self) -> AwaitingProgram:
        try:
            self.wait_for("listening")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self


# ----------------------------------------------------------------------------------- what runs in those processes

_output = threading.Lock()


def tell(*report: Any) -> None:
    """Report something to the parent."""
    with _output:
        print(json.dumps(report), flush=True)


def obey(commands: dict[str, Callable[..., object]]) -> None:
    """Run commands from the parent, on a thread, until there are no more; then end."""

    def read() -> None:
        rest = b""
        # Not sys.stdin: its lock, held by a daemon thread, would abort the interpreter when it exits.
        while data := os.read(0, 4096):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                command, *args = json.loads(line)
                commands[command](*args)
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()


def serve_rig(name: str, uri: str, handlers: dict[str, str] | None = None, **options: Any) -> None:
    """Run a rig in the foreground.

    `handlers` maps messages to what their handler does: ``count`` (only reports), ``hang`` (until the command ``go``),
    ``raise``, ``spin`` (a coroutine that blocks the event loop) or ``sulk`` (a coroutine that will not be cancelled).
    """

    class TellingRig(rigsync.Rig):  # here, since other programs do without what a rig loads
        def start(self) -> None:
            super().start()
            tell("listening", self.uri)

    rig = TellingRig(name, uri, **options)
    go = threading.Event()
    obey({"go": go.set, "close": rig.close})

    def add(message: str, action: str) -> None:
        def handle(*args: Any) -> dict[str, Any]:
            tell("ran", message, list(args))
            if action == "hang":
                go.wait()
            elif action == "raise":
                raise ValueError(f"{name} cannot do {message}")
            return {"pid": os.getpid()}

        async def handle_on_loop(*args: Any) -> None:
            tell("ran", message, list(args))
            while not go.is_set():
                if action == "spin":
                    time.sleep(0.01)  # noqa: ASYNC251 - that is the fault
                    continue
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

        rig.on(message)(handle_on_loop if action in ("spin", "sulk") else handle)

    for message, action in (handlers or {}).items():
        add(message, action)
    rig.run()
    tell("ended")


def serve_iblutil(name: str, port: int, failing: list[str], scheme: str) -> None:
    """Serve as an iblutil rig, on the event loop that `asyncio.run` gives."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        rig = IblutilRig(name, port, failing, (), tell, scheme)
        await rig.open()

        def say(message: str) -> None:
            asyncio.run_coroutine_threadsafe(rig.say(message), loop)

        def ask() -> None:
            tell("connected", asyncio.run_coroutine_threadsafe(rig.is_connected(), loop).result())

        obey({"say": say, "ask": ask})
        tell("listening", name)
        await asyncio.Event().wait()

    asyncio.run(serve())


def serve_awaiting(uri: str, name: str, pattern: str, level: str) -> None:
    """Serve as an iblutil rig whose program awaits each message, in the two patterns that iblutil documents.

    `pattern` is ``any``, one `on_event` for all messages, or ``sequence``, one for each in the order of an experiment.
    """
    order = [ExpMessage[f"EXP{verb}"] for verb in ("INFO", "INIT", "START", "END", "CLEANUP")]

    log = logging.getLogger(f"iblutil.{name}")
    log.setLevel(level)
    log.propagate = False
    log.addHandler(logging.FileHandler(os.devnull))

    if hasattr(os, "nice"):
        with contextlib.suppress(PermissionError):
            # As on a computer of its own. It drops what comes before it awaits that, for which it has 0.2 s.
            os.nice(-15)

    async def serve() -> None:
        com = await iblutil_net().app.EchoProtocol.server(uri, name=name, log=log)
        tell("listening", name)
        for expected in itertools.cycle(order):
            if pattern == "any":
                # Since Python 3.12 iblutil does not say which event it is.
                _, addr, *event = await com.on_event(ExpMessage.any())
            else:
                (_, addr), event = await com.on_event(expected), []
            met = ExpMessage(event[0]) if event else expected
            info = {"exp_ref": None, "main_sync": False, "rig": name}
            if met is ExpMessage.EXPINFO:
                await com.info(ExpStatus.CONNECTED, info, addr=addr)
            elif met is ExpMessage.EXPINIT:
                await com.init(info, addr=addr)
            elif met is ExpMessage.EXPSTART:
                await com.start(None, info, addr=addr)
            elif met is ExpMessage.EXPEND:
                await com.stop(info, addr=addr)
            else:
                await com.cleanup(info, addr=addr)

    obey({})
    asyncio.run(serve())


def coordinate(rigs: dict[str, str]) -> None:
    """Command rigs: the command ``push`` tells the answers, or the failures, of one message."""
    auxiliaries = rigsync.Auxiliaries(rigs)

    def push(message: str, *args: Any) -> None:
        outcome = auxiliaries.push(message, *args, wait=True)
        result = getattr(outcome, "result", outcome)
        tell("result", message, dict(result), {rig: type(error).__name__ for rig, error in result.failed.items()})

    obey({"push": push})
    tell("connected", auxiliaries.all_alive)
    threading.Event().wait()


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", PROBE_WARNING, RuntimeWarning)
    logging.basicConfig(level=logging.WARNING)
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
