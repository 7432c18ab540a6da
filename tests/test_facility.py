"""docs/facility.md, run: its access list for mosquitto, with a rig that tries to be another, and its picture."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed here")

from brokers import Broker, needs_mosquitto, running_broker
from processes import LONG, until

from rigsync import Rig
from rigsync.core import messages
from rigsync.core.arguments import encode
from rigsync.core.enums import ExpMessage
from rigsync.core.events import LinkState, Notice
from rigsync.errors import ListenError

pytestmark = needs_mosquitto
PAGE = (Path(__file__).parents[1] / "docs" / "facility.md").read_text(encoding="utf-8")
ACCESS = next(block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if "pattern read" in block)
USERS = ("cameras", "mallory", "task", "guest")
REFERENCE = "2026-11-20_1_mouse"


@pytest.fixture
def facility(tmp_path: Path) -> Iterator[Broker]:
    """A broker with the access list of the page; each user's password is its name backwards."""
    passwords, access = tmp_path / "passwords", tmp_path / "acl"
    for path, text in ((passwords, ""), (access, ACCESS)):
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
    for user in USERS:
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, user[::-1]], check=True, timeout=LONG)
    lines = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {access}")
    with running_broker(tmp_path, *lines) as broker:
        yield broker


def uri(broker: Broker, user: str) -> str:
    return broker.uri(login=f"{user}:{user[::-1]}")


def publish(broker: Broker, user: str, topic: str, data: bytes, *options: str) -> None:
    command = ["mosquitto_pub", "-p", str(broker.port), "-u", user, "-P", user[::-1], "-t", topic, "-s", *options]
    subprocess.run(command, input=data, check=True, timeout=LONG)


def test_a_rig_cannot_be_another_command_one_or_speak_for_one(
    facility: Broker, stack: Any, connect: Callable[..., Any]
) -> None:
    runs: list[Any] = []
    heard: list[Notice] = []
    rig = Rig("cameras", uri(facility, "cameras"))
    rig.on("EXPSTART")(lambda *_: runs.append("EXPSTART"))
    stack.enter_context(rig)
    auxiliaries = connect({"cameras": uri(facility, "task")})
    auxiliaries.hub.subscribe(Notice, heard.append)
    assert auxiliaries.push("EXPINIT", {"exp_ref": REFERENCE}, wait=True).keys() == {"cameras"}

    with pytest.raises(ListenError, match=r"this user may not publish on lab/cameras/view \(Not authorized\)"):
        Rig("cameras", uri(facility, "mallory")).start()
    boot = re.findall(r"lab/cameras/out/([0-9a-f]{16})", facility.log)[-1]
    assert rig._session
    mine = rig._session.boot
    forged = messages.notice(messages.Notice(mine, 2**40, "log", None, "forged", False, to=boot))
    order = messages.request(boot, 2**20, encode(ExpMessage.EXPSTART, [REFERENCE, None]), mine)
    gone = json.dumps({"rigsync": 1, "name": "cameras", "boot": mine, "connected": False, "reason": "forged"}).encode()
    for topic, data in ((f"out/{boot}", forged), ("in", order), ("view", gone)):
        for user in ("mallory", "guest"):
            publish(facility, user, f"lab/cameras/{topic}", data, "-q", "1")
    publish(facility, "cameras", f"lab/cameras/out/{boot}", forged, "-q", "1")  # its own user may
    until(lambda: [notice.body for notice in heard if notice.topic == "log" and notice.body == "forged"] == ["forged"])
    assert auxiliaries.views["cameras"].link is LinkState.ALIVE
    assert auxiliaries.push("EXPSTART", REFERENCE, wait=True).keys() == {"cameras"}
    assert runs == ["EXPSTART"]


def test_a_task_without_the_right_to_publish_is_told_the_topic(
    facility: Broker, stack: Any, connect: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    stack.enter_context(Rig("cameras", uri(facility, "cameras")))
    connect({"cameras": uri(facility, "guest")})
    denied = "this user may not publish on lab/cameras/in (Not authorized); allow it in the broker's access list"
    until(lambda: [text for text in caplog.messages if text.endswith(denied)])
    assert len([text for text in caplog.messages if text.endswith(denied)]) == 1


def test_the_picture_of_the_page_is_that_of_a_rig(tmp_path: Path, stack: Any) -> None:
    shown = json.loads(next(block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)))
    with running_broker(tmp_path) as broker:
        stack.enter_context(Rig("cameras", broker.uri()))
        command = ["mosquitto_sub", "-p", str(broker.port), "-t", "lab/+/view", "-C", "1", "-W", str(int(LONG))]
        kept = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=2 * LONG).stdout)
        assert {key: type(value) for key, value in shown.items() if key != "exp_ref"} == {
            key: type(value) for key, value in kept.items() if key != "exp_ref"
        }
        stack.close()
