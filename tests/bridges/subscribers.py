"""What others hear from a broker of MQTT, by mosquitto's own programs."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

from brokers import Broker
from processes import LONG, until


def publish(broker: Broker, topic: str, text: str, *options: str) -> None:
    """Publish by mosquitto_pub."""
    command = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", topic, "-m", text, *options]
    subprocess.run(command, check=True, timeout=LONG)


def kept(broker: Broker, topic: str) -> dict[str, Any]:
    """Return what the broker keeps below a topic, for who comes late."""
    publish(broker, "end", "{}", "-r")
    with Subscriber(broker, topic, "end", options=("--retained-only",)) as late:
        until(lambda: late.of("end"))
    return {where: told for where, told in late.heard if where != "end"}


class Subscriber:
    """mosquitto_sub, and what it has heard: pairs of topic and JSON; a context manager.

    Parameters
    ----------
    broker : Broker
    *topics : str
    options : tuple of str
        More options of mosquitto_sub.
    """

    def __init__(self, broker: Broker, *topics: str, options: tuple[str, ...] = ()):
        chosen = [part for topic in topics for part in ("-t", topic)]
        command = ["mosquitto_sub", "-p", str(broker.port), "-V", "5", "-q", "1", *chosen, "-F", "%t %p", *options]
        self.heard: list[tuple[str, Any]] = []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            topic, _, text = line.rstrip("\n").partition(" ")
            self.heard.append((topic, json.loads(text) if text else None))

    def of(self, topic: str) -> list[Any]:
        """Return what was heard on topics that begin so, oldest first."""
        return [told for where, told in self.heard if where.startswith(topic)]

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()
