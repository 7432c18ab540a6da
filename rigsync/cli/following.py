"""Showing what a command does, while it does it: what goes to which rigs, and what comes back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

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
    """Shows the messages of a coordinator, from when it is made until the coordinator is closed.

    Nothing else may push to these rigs meanwhile. It runs on a worker, since whoever reads the output may be slow. So
    the view is complete when the coordinator is closed.
    """

    def __init__(self, auxiliaries: rigsync.Auxiliaries, view: View, rigs: list[str], messages: list[str]):
        self._view = view
        self._began: dict[str, float] = {}
        self.seconds: dict[str, dict[str, float]] = {}
        """By message, how long each rig took to answer."""
        view.begin(rigs, messages)
        events = rigsync.events
        kinds = (events.PushBegun, events.MessageReceived, events.PushCompleted)
        hub = auxiliaries.hub
        hub.subscribe(events.CoordinatorEvent, self._note, where=lambda event: isinstance(event, kinds), run="worker")

    def _note(self, event: Any) -> None:
        at, name = event.stamp.time, getattr(event.event, "name", "")
        if isinstance(event, rigsync.events.PushBegun):
            self._began[name], self.seconds[name] = at, {}
            self._view.pushed(name)
        elif isinstance(event, rigsync.events.PushCompleted):
            result = rigsync.PushResult(name, event.request_time, event.answers, event.failures)
            self._view.settled(result, self.seconds[name])
        elif event.request_time is not None and name in self._began:
            self.seconds[name][event.rig] = seconds = at - self._began[name]
            self._view.answered(event.rig, seconds)
