"""A broker of MQTT: what it is given, and what is wrong with it, in words for people. No text shows a secret.

User and password come from the address (``mqtt://user:password@broker``), or from the environment:
``RIGSYNC_MQTT_USER``, and ``RIGSYNC_MQTT_PASSWORD`` or ``RIGSYNC_MQTT_PASSWORD_FILE``. For ``mqtts://``,
``RIGSYNC_MQTT_CA``, ``RIGSYNC_MQTT_CERT`` and ``RIGSYNC_MQTT_KEY`` name files. Without the first, the authorities count
that this computer trusts.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from rigsync.core.rigs import Address
from rigsync.errors import ConfigError

_WHO = "wrong user or password, or none; correct them in the address, or in RIGSYNC_MQTT_USER and RIGSYNC_MQTT_PASSWORD"
UNREADABLE = "it brings a packet that cannot be read here; look for what is retained on the topics"
_REMEDIES = {
    0x84: "it does not speak MQTT 5; use a newer broker",
    0x85: "it refuses this client's name; allow names that begin with rigsync- there",
    0x86: _WHO,
    0x87: _WHO,  # so says mosquitto of a wrong password
    0x88: "it is not available; look at its log",
    0x89: "it is busy; look at its log",
    0x8A: "it has banned this client; look at its log",
    0x8B: "it is being shut down",
    0x8E: "another client has the same name",
    0x95: "a message is larger than it takes; raise its largest packet size",
    0x97: "it is full: a quota is exceeded; raise it there",
    0x9F: "too many clients connect at once; raise its connection rate",
}
"""What a broker means by its reason codes (MQTT 5, section 2.4), and what to do."""


class Will(NamedTuple):
    """What the broker publishes, retained, when it loses this client."""

    topic: str
    data: bytes


class AnswerTo(NamedTuple):
    """Where the sender of a message wants an answer (MQTT 5, section 4.10)."""

    topic: str
    """Empty where it wants none."""
    correlation: bytes
    """The correlation data that go with the answer."""


def login(broker: Address, environ: Mapping[str, str]) -> tuple[str, str | None]:
    user, colon, password = broker.login.partition(":")
    if broker.login:
        return unquote(user), unquote(password) if colon else None
    return environ.get("RIGSYNC_MQTT_USER", ""), environ.get("RIGSYNC_MQTT_PASSWORD") or _in_file(environ)


def _in_file(environ: Mapping[str, str]) -> str | None:
    if not (path := environ.get("RIGSYNC_MQTT_PASSWORD_FILE")):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            password = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the broker's password cannot be read from {path}: {type(error).__name__}") from None
    if sys.platform != "win32" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others may read the broker's password: chmod 600 {path}")
    return password


class Tls(ssl.SSLContext):
    """Knows the last socket that it has wrapped, so that it can be closed: paho does not after a failed handshake."""

    wrapped: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        self.wrapped = super().wrap_socket(*args, **options)
        return self.wrapped


def tls(environ: Mapping[str, str]) -> Tls:
    ca, certificate, key = (environ.get(f"RIGSYNC_MQTT_{name}") or None for name in ("CA", "CERT", "KEY"))
    try:
        context = Tls(ssl.PROTOCOL_TLS_CLIENT)
        if ca:
            context.load_verify_locations(ca)
        else:
            context.load_default_certs()
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        problem = f"the files of RIGSYNC_MQTT_CA, RIGSYNC_MQTT_CERT and RIGSYNC_MQTT_KEY cannot be used: {error}"
        raise ConfigError(problem) from None
    return context


def refusal(code: int, name: str) -> str:
    """Return what a reason code of a broker means, and what to do."""
    return _REMEDIES.get(code, f"it refuses this client: {name}")


def explained(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); name that of its authority in RIGSYNC_MQTT_CA"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it ({error.reason}); is that its port for TLS?"
    if isinstance(error, socket.gaierror):
        return f"its name is unknown ({error.strerror}); check its spelling"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there; start the broker, or correct its address"
    if isinstance(error, TimeoutError):
        return "its computer does not answer; check that it is on, its address and firewalls"
    if isinstance(error, (OSError, ValueError, RuntimeError)):
        return f"no connection ({error})"
    return f"no connection ({type(error).__name__}: {error})"


def closed(was_there: bool) -> str:
    if was_there:
        return "the connection is lost; look whether it runs"
    return "it has closed the connection without a word; it is full, wants TLS (mqtts://), or is no MQTT broker"
