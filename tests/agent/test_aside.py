"""What may hang is asked on threads of its own, for a limited time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from processes import until

from rigsync import NotRunning
from rigsync.agent import aside
from rigsync.agent.aside import Aside, DriveHangs


class Drive:
    """Something to ask that hangs until it is there."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_there = threading.Event()

    def look(self, answer: Any = "answer") -> Any:
        self.asked += 1
        self.is_there.wait()
        return answer


@pytest.fixture
def drive() -> Iterator[Drive]:
    drive = Drive()
    yield drive
    drive.is_there.set()


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[Aside], Coroutine[Any, Any, Any]]], Any]]:
    threads = Aside("test")
    yield lambda function: asyncio.run(function(threads))
    threads.close()


def test_answers_and_errors_come_back(run: Callable[..., Any]) -> None:
    async def ask(threads: Aside) -> tuple[Any, Any]:
        with pytest.raises(FileNotFoundError):
            await threads.ask("no file", open, "/no/such/file")
        return await threads.ask("a sum", max, 1, 2), await threads.begin(threading.current_thread)

    answer, thread = run(ask)
    assert answer == 2
    assert thread is not threading.current_thread()
    assert thread.daemon  # so that none keeps a program from ending


def test_one_that_hangs_is_named_and_asked_once(
    run: Callable[..., Any], drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "PATIENCE", 0.05)

    async def ask(threads: Aside) -> Any:
        for _ in range(3):
            with pytest.raises(DriveHangs, match=r"the folder 'x' does not answer within 0\.05 s"):
                await threads.ask("the folder 'x'", drive.look)
        assert drive.asked == 1
        assert await threads.ask("another folder", max, 1, 2) == 2
        drive.is_there.set()
        monkeypatch.setattr(aside, "PATIENCE", 20)
        return await threads.ask("the folder 'x'", drive.look, "there again")

    assert run(ask) == "there again"
    assert drive.asked == 2


def test_one_that_was_called_off_is_waited_for_and_asked_again(run: Callable[..., Any], drive: Drive) -> None:
    async def ask(threads: Aside) -> Any:
        first = asyncio.create_task(threads.ask("the folder 'x'", drive.look))
        while not drive.asked:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(threads.ask("the folder 'x'", drive.look, "of the second"))
        await asyncio.sleep(0)
        drive.is_there.set()
        return await second

    assert run(ask) == "of the second"


def test_however_many_hang_there_is_room_for_one_more(run: Callable[..., Any], drive: Drive) -> None:
    async def ask(threads: Aside) -> Any:
        for _ in range(100):
            threads.begin(drive.look)
        return await threads.ask("a sum", max, 1, 2)

    assert run(ask) == 2
    until(lambda: drive.asked == 100)


def test_closed_it_takes_no_more(run: Callable[..., Any]) -> None:
    async def ask(threads: Aside) -> None:
        threads.close()
        with pytest.raises(NotRunning):
            threads.begin(max, 1, 2)

    run(ask)
