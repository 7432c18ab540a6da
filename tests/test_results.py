"""What becomes of a push, and the log of all of them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import pytest
from live_helpers import in_thread
from processes import LONG

import rigsync.coordinator.results
from rigsync import errors
from rigsync.coordinator.results import KEPT_ANYWAY, MOST_BYTES, PingReply, PushResult, ResultLog, draw_request_time
from rigsync.core.events import Start
from rigsync.errors import PushError, PushTimeout, RemoteError, RigLost, RigRefused, RigTimeout

LATE = RigTimeout("ephys", "no answer in time")
LOST = RigLost("imaging", "silent for 5 s")
REFUSED = RigRefused("imaging", "nothing listens there")
FAILED = RemoteError("imaging", "OSError", "no disk", "Traceback ...")


def test_result_is_a_dict_of_the_answers() -> None:
    answers = {"cameras": [{"a": 1}], "ephys": []}
    result = PushResult("EXPINIT", 12.5, answers, {})
    assert isinstance(result, dict)
    assert result == answers
    assert (result.message, result.request_time, result.failed) == ("EXPINIT", 12.5, {})
    assert result.succeeded == answers
    assert type(result.succeeded) is dict
    assert result.as_outcome() is result


@pytest.mark.parametrize(("times", "skew"), [([], None), ([12.0], None), ([12.0, 12.75, 12.5], 0.75)])
def test_the_skew_is_known_from_two_starts_on(times: list[float], skew: float | None) -> None:
    starts = {str(time): Start(time, 0.001) for time in times}
    assert PushResult("EXPSTART", 12.5, {}, {}, starts).skew == skew


def test_result_keeps_copies() -> None:
    answers, failed = {"cameras": [1]}, {"ephys": LATE}
    result = PushResult("EXPINIT", 12.5, answers, failed)
    answers.clear()
    failed.clear()
    assert (result, result.failed) == ({"cameras": [1]}, {"ephys": LATE})
    result.succeeded.clear()
    assert result == {"cameras": [1]}


@pytest.mark.parametrize(
    ("failed", "kind"),
    [
        ([LATE], PushTimeout),
        ([LATE, LOST], PushTimeout),
        ([LATE, REFUSED], PushError),
        ([LATE, FAILED], PushError),
        ([REFUSED], PushError),
    ],
)
def test_outcome_where_a_rig_failed(failed: list[Any], kind: type) -> None:
    result = PushResult("EXPEND", 12.5, {"cameras": [1]}, {error.rig: error for error in failed})
    error = result.as_outcome()
    assert type(error) is kind
    assert isinstance(error, TimeoutError) == (kind is PushTimeout)
    assert isinstance(error, PushError)
    assert error.result is result
    assert error.failed == result.failed
    assert str(error).startswith("EXPEND failed on ")
    assert all(str(each) in str(error) for each in failed)


@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_results_and_errors_can_be_copied_and_pickled(duplicate: Any) -> None:
    result = PushResult("EXPEND", 12.5, {"cameras": [{"a": 1}]}, {"imaging": FAILED})
    twin = duplicate(result)
    assert type(twin) is PushResult
    assert (twin, twin.message, twin.request_time) == (result, "EXPEND", 12.5)
    assert twin.failed["imaging"].traceback == FAILED.traceback
    error = duplicate(result.as_outcome())
    assert type(error) is PushError
    assert (error.message, error.result, str(error)) == ("EXPEND", result, str(result.as_outcome()))
    assert error.failed["imaging"].error == "OSError"


@pytest.mark.parametrize(
    "error",
    [
        *(LATE, LOST, REFUSED, FAILED),
        errors.NotRunning("it is closed"),
        errors.ConfigError("no port", file="rigs.yaml", line=3, key="rigs.cameras.uri"),
        errors.PayloadTooLarge(70_000, 65_507, "cameras"),
        errors.UnknownRig("camera", ["cameras"]),
        errors.RemoteProtocolError("cut message", "it ends", b"{"),
        errors.RigsMissing({"cameras": "silent"}),
        errors.PushTimeout("EXPEND", {}, {"ephys": LATE}),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_every_error_is_copied_whole(error: errors.RigsyncError, duplicate: Any) -> None:
    twin = duplicate(error)
    assert (type(twin), str(twin), twin.args) == (type(error), str(error), error.args)
    assert {name: str(value) for name, value in vars(twin).items()} == {
        name: str(value) for name, value in vars(error).items()
    }


def test_ping_reply_is_frozen() -> None:
    reply = PingReply("cameras", "127.0.0.1:11001", 0.001, "iblutil", None, None, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        reply.rig = "other"  # type: ignore[misc]


def some_results(count: int) -> list[PushResult]:
    return [PushResult("EXPSTATUS", float(i), {"cameras": [i]}, {}) for i in range(count)]


def test_log_is_a_mapping_of_the_newest() -> None:
    log = ResultLog(3)
    results = some_results(5)
    for result in results:
        log.file(result.request_time, result)
    assert isinstance(log, Mapping)
    assert (len(log), log.limit, list(log)) == (3, 3, [2.0, 3.0, 4.0])
    assert list(log.values()) == results[2:]
    assert list(log.items()) == [(r.request_time, r) for r in results[2:]]
    assert list(log.keys()) == [2.0, 3.0, 4.0]
    assert dict(log) == {r.request_time: r for r in results[2:]}
    assert log[4.0] is results[4]
    assert 4.0 in log
    assert 0.0 not in log
    assert log.get(0.0, "gone") == "gone"
    with pytest.raises(KeyError):
        log[0.0]
    with pytest.raises(TypeError):
        log[5.0] = results[0]  # type: ignore[index]
    assert repr(log) == "<ResultLog of 3 results>"


def test_large_results_are_kept_until_they_take_too_much_memory_and_the_newest_in_any_case() -> None:
    log = ResultLog()
    results = some_results(300)
    for result in results[:100]:
        log.file(result.request_time, result, size=MOST_BYTES // 20)
    assert list(log.values()) == results[80:100]
    for result in results[100:200]:
        log.file(result.request_time, result, size=MOST_BYTES)
    assert list(log.values()) == results[200 - KEPT_ANYWAY : 200]
    for result in results[200:]:
        log.file(result.request_time, result)
    assert list(log.values()) == results[199:]  # the last of the large ones has room beside them


def at_each_line(interrupted: Callable[[], Any], interrupt: Callable[[], Any]) -> Iterator[tuple[Any, Any]]:
    """Do one thing in the middle of another, as a signal handler may, before each line of it in turn."""
    places: set[int] = set()
    while True:
        between: list[Any] = []

        def trace(frame: FrameType, event: str, _: Any, between: list[Any] = between) -> Any:
            is_new = frame.f_code.co_filename == rigsync.coordinator.results.__file__ and frame.f_lineno not in places
            if event == "line" and is_new and not between:
                places.add(frame.f_lineno)
                between.append(interrupt())
            return trace

        def run(trace: Any = trace) -> Any:
            sys.settrace(trace)
            try:
                return interrupted()
            finally:
                sys.settrace(None)

        outcome = in_thread(run).result(LONG)
        if not between:
            break
        yield outcome, between[0]
    assert len(places) > 5


def test_a_signal_handler_that_pushes_while_a_push_draws_its_time_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rigsync.coordinator.results.time, "time", lambda: 1.0)  # a clock that was set back
    before = draw_request_time()
    for drawn, handled in at_each_line(draw_request_time, draw_request_time):
        assert before < min(drawn, handled)
        assert drawn != handled
        before = max(drawn, handled)
        assert draw_request_time() > before


@pytest.mark.parametrize("limit", [1, 3])
def test_a_signal_handler_that_files_a_result_while_one_is_filed_leaves_the_log_whole(limit: int) -> None:
    log, size = ResultLog(limit), MOST_BYTES // 2
    results = iter(some_results(1_000))

    def file() -> float:
        result = next(results)
        log.file(result.request_time, result, size)
        return result.request_time

    for _ in range(limit):
        file()
    for outer, inner in at_each_line(file, file):
        assert limit <= len(log) <= limit + 1  # one more until the next is filed
        assert {outer, inner} & set(log)
        assert log._bytes == len(log) * size
        last = [file() for _ in range(limit)]
        assert sorted(log) == last
        assert log._bytes == limit * size


def test_views_are_of_the_moment() -> None:
    log = ResultLog(2)
    for result in some_results(2):
        log.file(result.request_time, result)
    keys, values, items = iter(log), log.values(), log.items()
    for result in some_results(4)[2:]:
        log.file(result.request_time, result)
    assert list(keys) == [0.0, 1.0]
    assert [value.request_time for value in values] == [0.0, 1.0]
    assert [key for key, _ in items] == [0.0, 1.0]


def test_log_from_many_threads() -> None:
    log = ResultLog(5)

    def work(offset: int) -> None:
        for i in range(500):
            log.file(offset + i / 1000, PushResult("EXPSTATUS", 0.0, {}, {}))
            assert 1 <= len(list(log.values())) <= 6

    workers = [in_thread(work, offset) for offset in range(8)]
    for worker in workers:
        worker.result(LONG)
    assert len(log) == 5


@pytest.mark.parametrize("limit", [0, -1, 1.0, "5", None, True])
def test_limit_of_the_log_is_checked(limit: Any) -> None:
    with pytest.raises(ValueError, match="positive whole number"):
        ResultLog(limit)


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownRig("camera", ["cameras", "ephys"]),
        errors.PayloadTooLarge(70_000, 65_507),
        errors.RemoteProtocolError("junk", "5 bytes"),
        errors.ConfigError("no port", file="rigs.yaml", line=3, key="rigs.cameras.uri"),
        errors.RemoteError("cameras", "OSError", "disk full", "Traceback"),
        errors.RigLost("cameras", "silent"),
    ],
)
def test_errors_survive_the_way_to_another_process(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
