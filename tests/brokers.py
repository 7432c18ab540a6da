"""Brokers of MQTT for the tests: mosquitto, in processes of their own, and its programs as other people's clients."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
from pathlib import Path
from socket import create_connection
from typing import Any

import pytest
from processes import LONG, free_port, until

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(
    not (MOSQUITTO and shutil.which("mosquitto_sub")), reason="mosquitto and its clients are not installed here"
)


class Broker:
    """A mosquitto on a free port of loopback; a context manager.

    Parameters
    ----------
    folder : Path
        Where its files stand.
    *lines : str
        Of its configuration. Without ``password_file`` or ``acl_file`` anybody may do anything.
    """

    def __init__(self, folder: Path, *lines: str):
        self.port = free_port(scheme="tcp")
        self.uri = f"mqtt://127.0.0.1:{self.port}/lab"
        self._file, self._log = folder / "mosquitto.conf", folder / "mosquitto.log"
        anonymous = str(not any(line.startswith("password_file") for line in lines)).lower()
        whole = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {anonymous}", *lines]
        whole.append("user root")  # who started it as root; otherwise it is another one, who may not read the files
        self._file.write_text("\n".join([*whole, ""]), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._file)], stdout=log, stderr=log)
        until(self._is_there, "the broker")

    def _is_there(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log()
        with contextlib.suppress(OSError), create_connection(("127.0.0.1", self.port), LONG):
            return True
        return False

    def stop(self, kill: bool = False) -> None:
        if self._process:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(LONG)
            self._process = None

    def log(self) -> str:
        """Return what it has logged."""
        return self._log.read_text()

    def publish(self, topic: str, text: str, *options: str) -> None:
        """Publish by mosquitto_pub."""
        command = ["mosquitto_pub", "-p", str(self.port), "-q", "1", "-t", topic, "-m", text, *options]
        subprocess.run(command, check=True, timeout=LONG)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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
