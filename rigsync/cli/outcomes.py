"""The outcome of a push: waiting for it, and showing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

import rigsync
from rigsync.cli.answers import words_of
from rigsync.errors import PushError, RemoteError, RigError


def timed_push(
    auxiliaries: rigsync.Auxiliaries,
    message: str,
    arguments: Iterable[Any] = (),
    timeout: float | None = None,
    on_answer: Callable[[str, float], object] | None = None,
    delay: float | None = None,
) -> tuple[rigsync.PushResult, dict[str, float]]:
    """Push a message, wait, and return the result and the seconds that each rig took to answer.

    Nothing else may push to these rigs meanwhile. `on_answer` is called on the service thread with each rig's name and
    seconds, when its answer comes.
    """
    seconds: dict[str, float] = {}

    def note(event: rigsync.events.MessageReceived) -> None:
        if event.request_time is not None:
            seconds[event.rig] = perf_counter() - begun
            if on_answer:
                on_answer(event.rig, seconds[event.rig])

    unsubscribe = auxiliaries.on("MessageReceived", note)
    begun = perf_counter()
    try:
        outcome = auxiliaries.push(message, *arguments, wait=True, timeout=timeout, delay=delay)
    finally:
        unsubscribe()
    result = outcome.result if isinstance(outcome, PushError) else outcome
    return result, {name: seconds[name] for name in result if name in seconds}


def answer_of(message: str, answer: list[Any]) -> list[Any]:
    """Return a rig's answer without the tokens of ALYX, so that it can be shown."""
    if message != "ALYX":
        return answer
    return [dict.fromkeys(part, "***") if isinstance(part, dict) else part for part in answer]


def answer_in_words(result: rigsync.PushResult, rig: str) -> str:
    """Return a rig's answer for people: status, reference, and what its handlers have added.

    An answer of another shape, which rigs of the iblutil dialect may give, is returned as JSON.
    """
    return words_of(result.message, answer_of(result.message, result[rig]))


def failure_in_words(error: RigError) -> str:
    """Return the name of a rig's error, and what has failed."""
    name = type(error).__name__
    if isinstance(error, RemoteError) and error.error == name:
        return error.problem  # which begins with it
    return f"{name}: {error.problem}"


def document_of(result: rigsync.PushResult, seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "message": result.message,
        "request_time": result.request_time,
        "answers": {name: answer_of(result.message, answer) for name, answer in result.items()},
        "unconfirmed": result.unconfirmed,
        "failed": {name: failure_document(error) for name, error in result.failed.items()},
        "ms": {name: 1000 * time for name, time in seconds.items()},
        "at": result.at,
        "starts": {name: dataclasses.asdict(start) for name, start in result.starts.items()},
        "skew": result.skew,
    }


def failure_document(error: RigError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "problem": error.problem,
        "traceback": getattr(error, "traceback", "") or None,
    }
