"""JSON to a web address, over HTTPS with its certificate verified: one request, no redirects, within some seconds."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import os
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from rigsync import __version__
from rigsync._text import one_line
from rigsync.alerts.limits import Limit, NotSent
from rigsync.alerts.texts import request_of
from rigsync.config.alerts import Webhook, url_problem
from rigsync.errors import ConfigError

logger = logging.getLogger("rigsync.alerts")

CUT_TIME = 0.5
"""Seconds for a request to end whose connection was cut."""
_TRY_AGAIN = (408, 409, 423, 425, 429)
"""Of what says that the request is wrong, what may be right a while later."""
_REMEDIES = {
    401: "the address wants a password or token, or another one",
    403: "the address does not let this in: is its URL still valid?",
    404: "the address does not exist: look at its URL",
    405: "the address takes no POST: is it a webhook's?",
    410: "the webhook was removed: make a new one",
}


def url_of(webhook: Webhook) -> str:
    """Return the URL of a webhook, from the file or the environment.

    Raises
    ------
    NotSent
        There is none, or none that can be; the text does not show it.
    """
    if webhook.url:
        return webhook.url
    name = webhook.url_from or ""
    url = os.environ.get(name, "").strip()
    if not url:
        raise NotSent(f"the environment variable {name} is not set; set it to the webhook's URL", for_good=True)
    if problem := url_problem(url):
        raise NotSent(f"the environment variable {name}: {problem}", for_good=True)
    return url


_ENDS = "interpreter shutdown"
"""What Python says from 3.12 on where a program that ends is to begin a thread."""


def tell(webhook: Webhook, values: Mapping[str, Any], limit: Limit) -> None:
    """Send an alert, and return when the address has taken it.

    Raises
    ------
    NotSent
        It has not, or not within the limit. No URL is in the text.
    """
    secret = url_of(webhook)
    try:
        url, document = request_of(webhook, secret, values)
    except ConfigError as error:
        raise NotSent(str(error), for_good=True) from None
    exchange = _Exchange(secret, url, document, limit)
    thread = threading.Thread(target=exchange.run, name="rigsync-webhook", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if _ENDS not in str(error):  # the system gives no more threads
            raise NotSent(str(error)) from None
        exchange.run()  # this thread, which ends with the program, however long that takes
    else:
        while thread.is_alive() and not exchange.is_over and limit.left:
            limit.wait(limit.left)
        if not exchange.is_over:
            exchange.cut()
        thread.join(CUT_TIME)  # it may hang in a name server, which nothing ends
    if exchange.problem:
        raise exchange.problem
    if not exchange.is_over:
        raise NotSent(_too_long(limit))


def _too_long(limit: Limit) -> str:
    return f"no answer within {limit.seconds:.3g} s; is the address reachable from here?"


class _Exchange:
    """One request and its answer, on a thread of its own, since no part of it keeps to a time."""

    def __init__(self, secret: str, url: str, document: Any, limit: Limit):
        self._url, self._secret, self._limit = url, secret, limit
        self._data = json.dumps(document, allow_nan=False).encode()
        self._connections: list[http.client.HTTPConnection] = []
        self._is_cut = False
        self.is_over = False
        self.problem: NotSent | None = None

    def run(self) -> None:
        try:
            self._send()
        except NotSent as error:
            self.problem = error
        except Exception as error:
            # Not its text, which may hold the URL.
            self.problem = NotSent(f"it cannot be sent: {type(error).__name__}")
            logger.debug("a webhook", exc_info=True)
        finally:
            if self._is_cut:
                self.problem = NotSent(_too_long(self._limit))
            self.is_over = True
            self._limit.done()

    def cut(self) -> None:
        """End it, whatever it waits for; from another thread."""
        self._is_cut = True
        for connection in self._connections:
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which takes part in the reading

    def note(self, connection: _Plain | _Tls) -> Any:
        """Have a connection that is about to begin cut in time."""
        connection.check = self._check
        self._connections.append(connection)
        return connection

    def _check(self) -> None:
        if self._is_cut:
            raise OSError("it was cut while it was being connected")

    def _send(self) -> None:
        parts = urlsplit(self._url)
        headers = {"Content-Type": "application/json", "User-Agent": f"rigsync/{__version__}"}
        host = parts.netloc.rpartition("@")[2]
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        url = urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))
        request = urllib.request.Request(url, self._data, headers, method="POST")  # noqa: S310 - http or https
        opener = urllib.request.build_opener(_Http(self), _Https(self), _NoRedirect())
        try:
            with opener.open(request, timeout=self._limit.seconds + CUT_TIME):
                pass  # the status says all; the body may be endless
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except urllib.error.URLError as error:
            raise _unreachable(error.reason, host) from None
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error, host) from None

    def _refused(self, error: urllib.error.HTTPError) -> NotSent:
        code = error.code
        if 300 <= code < 400:
            target = self._shown(str(error.headers.get("Location", "")))
            return NotSent(f"the address redirects to {target}, which is not followed; write the URL that it leads to")
        known = [status.phrase for status in HTTPStatus if status == code]
        remedy = _REMEDIES.get(code, "look at the service" if code >= 500 else "the address does not take this body")
        for_good = 400 <= code < 500 and code not in _TRY_AGAIN
        return NotSent(f"the address answered {' '.join([str(code), *known])}; {remedy}", for_good)

    def _shown(self, target: str) -> str:
        """Return where a redirect leads, without its query, and without what of its path is this URL's own."""
        try:
            parts = urlsplit(urljoin(self._url, target))
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return "an address that is none"
        own = {part for part in re.split(r"[/?&=#@:]", self._secret.partition("://")[2].partition("/")[2]) if part}
        path = "/".join("***" if part in own else part for part in parts.path.split("/"))
        return one_line(f"{parts.scheme}://{name}{f':{port}' if port else ''}{path}")[:200]


def _unreachable(error: object, host: str) -> NotSent:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"the certificate of {host} is not valid: {error.verify_message}"
        return NotSent(f"{why}; look at the URL, at this computer's clock, and at its certificates", for_good=True)
    if isinstance(error, http.client.InvalidURL):
        return NotSent("its URL is none that can be asked", for_good=True)
    if isinstance(error, http.client.HTTPException):
        return NotSent(f"{host} answers, but not by HTTP ({type(error).__name__}); is it the right port?")
    if isinstance(error, socket.gaierror):
        return NotSent(f"the name {host} is not known here; look at the URL, and at this computer's network")
    text = one_line(str(getattr(error, "strerror", None) or error))
    return NotSent(f"{host} cannot be reached: {text}; look at this computer's network")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: what it leads to is not what the file names."""

    def http_error_301(self, *_: Any) -> None:
        """Return nothing, so that the redirect is an error."""

    http_error_302 = http_error_303 = http_error_307 = http_error_308 = http_error_301  # type: ignore[assignment]


class _Http(urllib.request.HTTPHandler):
    def __init__(self, exchange: _Exchange):
        super().__init__()
        self._exchange = exchange

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request)

    def _connection(self, host: str, **options: Any) -> Any:
        return self._exchange.note(_Plain(host, **options))


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, exchange: _Exchange):
        super().__init__()
        self._exchange, self._verified = exchange, ssl.create_default_context()

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request)

    def _connection(self, host: str, **options: Any) -> Any:
        return self._exchange.note(_Tls(host, context=self._verified, **options))


class _Plain(http.client.HTTPConnection):
    check: Callable[[], None]

    def connect(self) -> None:
        super().connect()
        self.check()


class _Tls(http.client.HTTPSConnection):
    """Has its socket to be cut already while TLS begins."""

    check: Callable[[], None]

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        name = getattr(self, "_tunnel_host", None) or self.host
        context: ssl.SSLContext = getattr(self, "_context")  # noqa: B009 - its types do not have it
        self.sock = context.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False)
        self.check()
        self.sock.do_handshake()
