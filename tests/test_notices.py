"""What rigs tell of their own accord, with real rigs, sockets, and a bad network between."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from processes import port_of, until

from rigsync import Auxiliaries, NotRunning, PayloadError, PayloadTooLarge, PushError, Rig
from rigsync.net.relay import relay_before


@pytest.fixture
def rig(stack: contextlib.ExitStack) -> Rig:
    return stack.enter_context(Rig("cameras", "udp://127.0.0.1:0"))


class Watcher:
    """A coordinator that notes what it is told."""

    def __init__(self, stack: contextlib.ExitStack, uri: str):
        self.aux = stack.enter_context(Auxiliaries({"cameras": uri}))
        self.notices: list[Any] = []
        self.aux.on("notice", self.notices.append)

    def of(self, topic: str) -> list[Any]:
        return [notice.body for notice in self.notices.copy() if notice.topic == topic]


def test_confirmed_notices_reach_every_coordinator_once_and_in_order_over_a_bad_network(
    stack: contextlib.ExitStack, rig: Rig
) -> None:
    target = {"cameras": ("127.0.0.1", port_of(rig.uri))}
    bad = stack.enter_context(relay_before(target, loss=0.3, duplication=0.2, seed=1))["cameras"]
    watchers = [Watcher(stack, "udp://{}:{}".format(*bad.address)), Watcher(stack, rig.uri)]
    until(lambda: all(watcher.aux.all_alive for watcher in watchers))
    for i in range(50):
        rig.notify("frames", {"frame": i})
    for watcher in watchers:
        until(lambda watcher=watcher: len(watcher.of("frames")) >= 50)  # type: ignore[misc]
        assert watcher.of("frames") == [{"frame": i} for i in range(50)]
    rig.notify("frames", "the end")
    until(lambda: all(watcher.of("frames")[-1] == "the end" for watcher in watchers))
    assert all(len(watcher.of("frames")) == 51 for watcher in watchers)


def test_a_notice_says_what_it_is(stack: contextlib.ExitStack, rig: Rig) -> None:
    watcher = Watcher(stack, rig.uri)
    rig.notify("focus", 0.5, key="left", confirm=False)
    notice = until(lambda: watcher.notices)[0]
    assert (notice.rig, notice.topic, notice.key, notice.body, notice.confirmed) == (
        *("cameras", "focus", "left", 0.5),
        False,
    )


def test_each_change_of_status_is_told(stack: contextlib.ExitStack, rig: Rig) -> None:
    watcher, owner = Watcher(stack, rig.uri), Watcher(stack, rig.uri)
    for message in ("EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"):
        owner.aux.request(message)
    until(lambda: len(watcher.of("status")) == 4)
    expected = ["INITIALIZED", "RUNNING", "STOPPED", "CONNECTED"]
    assert [body["status"] for body in watcher.of("status")] == expected
    until(lambda: len(owner.of("status")) == 4)
    until(lambda: len(watcher.of("log")) == 4)
    assert [body["message"] for body in watcher.of("log")] == ["EXPINIT", "EXPSTART", "EXPEND", "EXPCLEANUP"]
    assert owner.of("log") == []


def test_notices_come_from_any_thread_each_thread_s_in_order(stack: contextlib.ExitStack, rig: Rig) -> None:
    watcher = Watcher(stack, rig.uri)

    def tell(name: str) -> None:
        for i in range(20):
            rig.notify("log", [name, i])

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(watcher.of("log")) == 60)
    for name in "abc":
        assert [i for of, i in watcher.of("log") if of == name] == list(range(20))


@pytest.mark.parametrize("handler", ["thread", "coroutine"])
def test_a_handler_may_tell_something(stack: contextlib.ExitStack, rig: Rig, handler: str) -> None:
    def tell() -> None:
        rig.notify("focus", "moved")

    async def tell_on_loop() -> None:
        tell()

    rig.on("EXPINFO")(tell if handler == "thread" else tell_on_loop)
    watcher = Watcher(stack, rig.uri)
    watcher.aux.request("EXPINFO")
    until(lambda: watcher.of("focus") == ["moved"])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("log", "x" * 70_000), PayloadTooLarge),
        (("log", object()), PayloadError),
        (("", 1), ValueError),
        (("x" * 101, 1), ValueError),
        ((5, 1), TypeError),
    ],
)
def test_what_cannot_be_sent_is_refused_at_the_call(
    stack: contextlib.ExitStack, rig: Rig, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    watcher = Watcher(stack, rig.uri)
    with pytest.raises(error):
        rig.notify(*arguments)
    with pytest.raises((TypeError, ValueError)):
        rig.notify("log", 1, key="")
    rig.notify("log", "after")
    until(lambda: watcher.of("log") == ["after"])


def test_a_rig_that_does_not_serve_tells_nothing() -> None:
    rig = Rig("cameras", "udp://127.0.0.1:0")
    with pytest.raises(NotRunning):
        rig.notify("log", 1)
    with rig:
        rig.notify("log", 1)
    with pytest.raises(NotRunning):
        rig.notify("log", 1)


def test_refusals_that_a_rig_tells_by_the_hundred_flood_no_screen(
    stack: contextlib.ExitStack, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher(stack, rig.uri)
    body = {"message": "EXPSTART", "error": "BusyError: EXPSTART refused: another is in charge"}
    for port in range(200):
        rig.notify("log", {**body, "from": f"10.0.0.9:{port}"})
    until(lambda: len(watcher.of("log")) == 200)
    assert caplog.text.count("BusyError") == 3


def test_failures_are_on_the_screen_of_every_coordinator(
    stack: contextlib.ExitStack, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError("disk full")

    rig.on("EXPINIT")(refuse)
    watcher, owner = Watcher(stack, rig.uri), Watcher(stack, rig.uri)
    outcome = owner.aux.push("EXPINIT", "2026-03-01_2_mouse", wait=True)
    assert isinstance(outcome, PushError)
    rig.notify("failure", {"problem": "left.mp4 has stopped growing"})
    until(lambda: all(watcher.of("failure") for watcher in (watcher, owner)))
    until(lambda: watcher.of("log"))

    def told_on_screen() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "rigsync.notice"]

    until(lambda: told_on_screen().count("cameras: left.mp4 has stopped growing") == 2)
    told = told_on_screen()
    assert any(line.startswith("cameras: EXPINIT from 127.0.0.1:") and "disk full" in line for line in told)
