"""Web addresses that take alerts, well or badly, and what alerts are made of."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from rigsync.alerts.watch import Happening
from rigsync.config.alerts import Alert, Hook, Webhook
from rigsync.config.files import load_rigs

REFERENCE = "2026-11-30_1_mouse"
SECRET = "T0F00D/B00BEEF/s3cr3tT0k3n"


class Web:
    """An HTTP server on this computer, which keeps what it was sent.

    `answer` is called with the handler and the stop event, and answers, or does not; by default 200. With `certificate`
    and `key` it speaks TLS.
    """

    def __init__(
        self, answer: Callable[[Any, threading.Event], None] | None = None, certificate: tuple[Path, Path] | None = None
    ):
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.stop = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                web.requests.append((self.path, dict(self.headers), json.loads(data)))
                (answer or status(200))(self, web.stop)

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Let those be who have gone before the answer was out."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.requests]

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = f"/services/{SECRET}") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def status(code: int, **headers: str) -> Callable[[Any, threading.Event], None]:
    """Answer with a status and headers."""

    def answer(handler: Any, _: threading.Event) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def hang(_: Any, stop: threading.Event) -> None:
    """Never answer."""
    stop.wait()


def endless_body(handler: Any, stop: threading.Event) -> None:
    """Answer 200, and then go on for ever."""
    handler.send_response(200)
    handler.end_headers()
    while not stop.is_set():
        handler.wfile.write(b"x" * 65536)


def slow_headers(handler: Any, stop: threading.Event) -> None:
    """Send a byte now and then: each single one comes in time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not stop.wait(0.05):
        handler.wfile.write(b"x")


def nothing_listens() -> str:
    """Return the URL of a port at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/{SECRET}"


def alert(way: Webhook | Hook | Any, *on: str, key: str = "alerts[0].webhook") -> Alert:
    return Alert(key, on or ("failure",), way)


def webhook(url: str | None, preset: str | None = None, url_from: str | None = None, body: Any = None) -> Webhook:
    return Webhook(preset, url, url_from, body)


def happening(text: str = "disk full", rig: str = "cameras", on: str = "failure") -> Happening:
    return Happening(on, (rig,) if rig else (), text, REFERENCE)


def alerts_in(folder: Path, text: str) -> tuple[Alert, ...]:
    """Return the alerts of a section, as a file of rigs has it."""
    path = folder / "rigs.yaml"
    path.write_text(f"rigs: {{cameras: 127.0.0.1}}\nalerts:\n{text}", encoding="utf-8")
    return load_rigs(path).alerts
