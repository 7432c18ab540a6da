"""Showing what a command does, while it does it: what goes to which rigs, and what comes back."""

from __future__ import annotations

from importlib import import_module
from queue import SimpleQueue
from threading import Thread
from typing import Any

import click

import rigsync
from rigsync.cli.output import on_terminal
from rigsync.cli.plain_views import PlainView, View


def view_of(as_json: bool) -> View:
    """Return the view for where the output goes."""
    if as_json:
        return View()
    if on_terminal():
        view: View = import_module("rigsync.cli.views").LiveView()
        return view
    return PlainView()


class Following:
    """Shows the messages of a coordinator, as a context: when it is left, all that has come is shown.

    Nothing else may push to these rigs meanwhile. It shows them on a thread of its own, since whoever reads the output
    may be slow.
    """

    def __init__(self, auxiliaries: rigsync.Auxiliaries, view: View, rigs: list[str], messages: list[str]):
        self._auxiliaries, self._view = auxiliaries, view
        self._began: dict[str, float] = {}
        self.seconds: dict[str, dict[str, float]] = {}
        """By message, how long each rig took to answer."""
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._thread = Thread(target=self._show, name="rigsync view", daemon=True)
        view.begin(rigs, messages)

    def __enter__(self) -> Following:
        events = rigsync.events
        kinds = (events.PushBegun, events.MessageReceived, events.PushCompleted)
        self._thread.start()
        self._unsubscribe = [self._auxiliaries.hub.subscribe(kind, self._events.put) for kind in kinds]
        return self

    def __exit__(self, *_: object) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._events.put(None)
        self._thread.join()

    def _show(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._note(event)
            except (BrokenPipeError, click.ClickException):  # nobody reads any more, which the command's end tells
                self._view = View()

    def _note(self, event: Any) -> None:
        at, name = event.stamp.time, getattr(event.event, "name", "")
        if isinstance(event, rigsync.events.PushBegun):
            self._began[name], self.seconds[name] = at, {}
            self._view.pushed(name)
        elif isinstance(event, rigsync.events.PushCompleted):
            result = rigsync.PushResult(name, event.request_time, event.answers, event.failures)
            self._view.settled(result, self.seconds.get(name, {}))
        elif event.request_time is not None and name in self._began:
            self.seconds[name][event.rig] = seconds = at - self._began[name]
            self._view.answered(event.rig, seconds)
