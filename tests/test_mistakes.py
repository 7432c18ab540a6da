"""Mistakes in a program are told when they are made, and say what to write."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rigsync import Auxiliaries, Coordinator, PushResult, Rig

LOCAL = "udp://127.0.0.1:0"


def takes_two(exp_ref: str, data: Any) -> None: ...


def takes_three(exp_ref: str, data: Any, more: Any) -> None: ...


def by_name(data: Any = None, *, exp_ref: str) -> None: ...


async def coroutine(exp_ref: str, data: Any) -> None: ...


def with_camera(function: Callable[..., Any]) -> Callable[..., Any]:
    """Bring an argument more, as a program's own decorator may."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function("camera", *args)

    return call


class Camera:
    def end(self, exp_ref: str, data: Any) -> None: ...

    def start(self, exp_ref: str, data: Any) -> None: ...


@pytest.mark.parametrize(
    ("event", "handler", "told"),
    [
        (
            "EXPEND",
            takes_two,
            "takes_two() cannot handle EXPEND: it needs exp_ref, data, and EXPEND brings data; "
            "write def takes_two(data=None)",
        ),
        ("EXPCLEANUP", coroutine, "coroutine() cannot handle EXPCLEANUP: it needs exp_ref, data"),
        (
            "EXPSTART",
            takes_three,
            "takes_three() cannot handle EXPSTART: it needs exp_ref, data, more, and EXPSTART brings exp_ref and data; "
            "write def takes_three(exp_ref=None, data=None)",
        ),
        ("EXPEND", by_name, "by_name() cannot handle EXPEND: it needs exp_ref by name"),
        ("EXPINTERRUPT", Camera().end, "end() cannot handle EXPINTERRUPT: it needs exp_ref, data"),
        ("ALYX", takes_three, "ALYX brings base_url and token"),
        ("EXPSTATUS", lambda status, data: None, "<lambda>() cannot handle EXPSTATUS"),
    ],
)
def test_a_handler_that_needs_more_than_the_message_brings(event: str, handler: Callable[..., Any], told: str) -> None:
    rig = Rig("cameras", LOCAL)
    with pytest.raises(TypeError) as raised:
        rig.on(event)(handler)
    assert told in str(raised.value)
    rig.on("EXPSTART")(takes_two)  # which fits


@pytest.mark.parametrize(
    "handler",
    [
        takes_two,
        Camera().start,
        print,
        lambda: None,
        lambda *args: None,
        lambda **options: None,
        with_camera(takes_three),
    ],
)
def test_a_handler_that_fits(handler: Callable[..., Any]) -> None:
    assert Rig("cameras", LOCAL).on("EXPSTART")(handler) is handler


def test_a_handler_that_fits_one_of_two_messages_is_registered_for_neither() -> None:
    rig = Rig("cameras", LOCAL)
    with pytest.raises(TypeError, match="EXPEND brings data"):
        rig.on("EXPSTART", "EXPEND")(takes_two)
    with rig, Auxiliaries({"cameras": rig.uri}) as aux:
        aux.request("EXPINIT", {"exp_ref": "2026-11-20_1_mouse"})
        aux.request("EXPSTART")  # takes_two(None, None) would be called, and return None


def test_on_without_brackets_says_what_to_write() -> None:
    rig = Rig("cameras", LOCAL)
    with pytest.raises(TypeError, match=r"needs the message that takes_two\(\) handles: write @rig.on\('EXPSTART'\)"):
        rig.on(takes_two)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", ["rigs.yaml", Path("rigs.yaml")])
@pytest.mark.parametrize("kind", [Auxiliaries, Coordinator])
def test_a_file_in_place_of_rigs_says_what_to_write(kind: Any, file: Any) -> None:
    with pytest.raises(TypeError, match=r"'rigs.yaml' is one text.*Auxiliaries.from_file"):
        kind(file)


@pytest.mark.parametrize("kind", [Auxiliaries, Coordinator])
def test_an_experiment_on_no_rigs_is_an_error(kind: Any) -> None:
    with pytest.raises(ValueError, match="an experiment on no rigs records nothing"):
        kind({}).experiment("2026-11-20_1_mouse")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ((), "EXPINIT names no experiment; write {'exp_ref': '2026-11-20_1_mouse'}"),
        (({"ref": "2026-11-20_1_mouse"},), "EXPINIT names no experiment: its data have 'ref' and no 'exp_ref'; write"),
        (([1],), "EXPINIT names no experiment: its data are [1]"),
        (({"exp_ref": "mouse 1"},), "the reference 'mouse 1' has not the form yyyy-mm-dd_n_subject"),
        (({"exp_ref": "2026-11-20_1_mouse"},), ""),
    ],
)
def test_an_odd_init_is_sent_with_a_warning(
    serve: Callable[..., Rig], caplog: pytest.LogCaptureFixture, data: tuple[Any, ...], told: str
) -> None:
    with Auxiliaries({"cameras": serve("cameras").uri}) as aux:
        assert isinstance(aux.push("EXPINIT", *data, wait=True), PushResult)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [warning[: len(told)] for warning in warnings] == ([told] if told else [])


@pytest.mark.parametrize(
    ("ref", "told"), [(None, "EXPINIT names no experiment"), ("mouse 1", "the reference 'mouse 1'")]
)
def test_an_experiment_with_an_odd_reference_warns(
    serve: Callable[..., Rig], caplog: pytest.LogCaptureFixture, ref: Any, told: str
) -> None:
    with Auxiliaries({"cameras": serve("cameras").uri}) as aux, aux.experiment(ref):
        pass
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [warning[: len(told)] for warning in warnings] == [told]
