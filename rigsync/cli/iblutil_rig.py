"""A rig that knows nothing of rigsync: a plain iblutil server that answers as iblrig's rigs do.

`rigsync demo` runs it as a program of its own. The first line on its stdout is a JSON object with the address; it ends
with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import warnings
from functools import partial
from typing import Any

from iblutil.io.net.app import EchoProtocol
from iblutil.io.net.base import PROTOCOL_VERSION, ExpMessage, ExpStatus

from rigsync.cli.stdin import at_end_of_stdin

STATUS_AFTER = {
    ExpMessage.EXPINIT: ExpStatus.INITIALIZED,
    ExpMessage.EXPSTART: ExpStatus.RUNNING,
    ExpMessage.EXPEND: ExpStatus.STOPPED,
    ExpMessage.EXPINTERRUPT: ExpStatus.STOPPED,
    ExpMessage.EXPCLEANUP: ExpStatus.CONNECTED,
}


class IblutilRig:
    """The callbacks of the server."""

    def __init__(self, server: EchoProtocol):
        self._server = server
        self._status = ExpStatus.CONNECTED
        self._exp_ref: str | None = None
        self._answering: set[asyncio.Task[None]] = set()  # a loop holds its tasks by weak references only
        for event in ExpMessage.__members__.values():
            server.assign_callback(event, partial(self._receive, event))

    def _receive(self, event: ExpMessage, data: list[Any], address: tuple[str, int]) -> None:
        self._status = STATUS_AFTER.get(event, self._status)
        if event is ExpMessage.EXPINIT and isinstance(data[0], dict):
            self._exp_ref = data[0].get("exp_ref")
        elif event is ExpMessage.EXPCLEANUP:
            self._exp_ref = None
        task = asyncio.ensure_future(self._answer([event, *self._content(event)], address))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, message: list[Any], address: tuple[str, int]) -> None:
        with contextlib.suppress(TimeoutError, RuntimeError):  # iblutil closes its socket then, and logs why
            await self._server.confirmed_send(message, addr=address)

    def _content(self, event: ExpMessage) -> list[Any]:
        if event is ExpMessage.ALYX:
            return [None, {}]
        if event is ExpMessage.EXPSTATUS:
            return [self._status]
        information = {
            "exp_ref": self._exp_ref,
            "main_sync": False,
            "experiment_description": {},
            "master": False,
            "rig_version": "iblutil",
            "spec_version": PROTOCOL_VERSION,
            "status": self._status,
        }
        if event is ExpMessage.EXPINFO:
            return [self._status, information]
        return [self._exp_ref, information] if event is ExpMessage.EXPSTART else [information]


async def serve(name: str) -> None:
    """Serve at a free port of the loopback interface, until stdin ends."""
    loop = asyncio.get_running_loop()
    # iblutil takes no port 0, so it is given a socket that is bound already.
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    uri = f"udp://127.0.0.1:{sock.getsockname()[1]}"
    logger = logging.getLogger(name)  # iblutil's own would write to stdout
    protocol = partial(EchoProtocol, uri, "server", name=name, logger=logger)
    _, server = await loop.create_datagram_endpoint(protocol, sock=sock)
    IblutilRig(server)
    # Past the buffer of stdout, which would complain at exit if the parent has gone away.
    os.write(sys.stdout.fileno(), (json.dumps({"listening": uri}) + "\n").encode())
    ended = loop.create_future()
    at_end_of_stdin(lambda: loop.call_soon_threadsafe(ended.set_result, None))
    await ended


def main() -> None:
    warnings.filterwarnings("ignore", "Expected list", RuntimeWarning)  # iblutil's, at the first probe of rigsync
    loop = asyncio.SelectorEventLoop()  # on Windows the default loop goes deaf when a port refuses a datagram
    with contextlib.closing(loop), contextlib.suppress(BrokenPipeError):
        loop.run_until_complete(serve(sys.argv[1]))


if __name__ == "__main__":
    main()
