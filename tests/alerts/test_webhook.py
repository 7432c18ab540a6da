"""Webhooks, at real servers that answer, hang, fail, redirect, or are somebody else."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import until

from alerts.support import (
    SECRET,
    Web,
    endless_body,
    hang,
    nothing_listens,
    slow_headers,
    status,
    webhook,
)
from alerts.test_texts import values
from rigsync.alerts.limits import Limit, NotSent
from rigsync.alerts.webhook import tell

ENOUGH = 30.0
"""Seconds for what is quick, on a busy computer too."""


def refusal(url: str, limit: Limit | None = None, **options: Any) -> NotSent:
    with pytest.raises(NotSent) as caught:
        tell(webhook(url, **options), values(), limit or Limit(ENOUGH))
    assert SECRET not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_json_is_posted() -> None:
    with Web() as web:
        tell(webhook(web.url(), "slack"), values(), Limit(ENOUGH))
    ((path, headers, body),) = web.requests
    assert path == f"/services/{SECRET}"
    assert headers["Content-Type"] == "application/json"
    assert body["text"].startswith("failure: cameras: disk full")


def test_ntfy_is_asked_at_its_root_with_the_topic_in_the_body() -> None:
    with Web() as web:
        tell(webhook(web.url("/my-topic"), "ntfy"), values(), Limit(ENOUGH))
        tell(webhook(web.url("/ntfy/my-topic/?auth=abc"), "ntfy"), values(), Limit(ENOUGH))
    told = [(path, body["topic"]) for path, _, body in web.requests]
    assert told == [("/", "my-topic"), ("/ntfy/?auth=abc", "my-topic")]
    assert "names no topic" in str(refusal("https://ntfy.example", preset="ntfy"))


def test_user_and_password_of_a_url_go_into_the_header_alone() -> None:
    with Web() as web:
        tell(webhook(web.url().replace("://", "://me:p%40ss@")), values(), Limit(ENOUGH))
    ((_, headers, _),) = web.requests
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert "@" not in headers["Host"]


def test_the_url_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web() as web:
        monkeypatch.setenv("LAB_URL", f" {web.url()}\n")
        tell(webhook(None, url_from="LAB_URL"), values(), Limit(ENOUGH))
        assert len(web.requests) == 1
    monkeypatch.setenv("LAB_URL", f"ftp://a/{SECRET}")
    with pytest.raises(NotSent, match=r"^the environment variable LAB_URL: expected a URL") as caught:
        tell(webhook(None, url_from="LAB_URL"), values(), Limit(ENOUGH))
    assert SECRET not in str(caught.value)
    monkeypatch.delenv("LAB_URL")
    with pytest.raises(NotSent, match="LAB_URL is not set; set it to the webhook's URL"):
        tell(webhook(None, url_from="LAB_URL"), values(), Limit(ENOUGH))


@pytest.mark.parametrize("answer", [hang, slow_headers])
def test_one_that_hangs_is_left_when_the_time_is_over(answer: Callable[..., None]) -> None:
    with Web(answer) as web:
        begun = time.monotonic()
        problem = refusal(web.url(), Limit(0.5))
        assert time.monotonic() - begun < 5
        assert str(problem) == "no answer within 0.5 s; is the address reachable from here?"
        assert not problem.for_good
        assert len(web.requests) == 1


def test_one_that_answers_and_goes_on_for_ever_has_answered() -> None:
    with Web(endless_body) as web:
        tell(webhook(web.url()), values(), Limit(ENOUGH))


def test_it_is_cut_short_by_somebody_else() -> None:
    limit = Limit(ENOUGH)
    with Web(hang) as web:
        cutting = threading.Thread(target=lambda: (until(lambda: web.requests), limit.cut()))
        cutting.start()
        begun = time.monotonic()
        refusal(web.url(), limit)
        assert time.monotonic() - begun < ENOUGH / 2
        cutting.join()


@pytest.mark.parametrize(
    ("code", "told", "for_good"),
    [
        (500, "the address answered 500 Internal Server Error; look at the service", False),
        (429, "the address answered 429 Too Many Requests; the address does not take this body", False),
        (404, "the address answered 404 Not Found; the address does not exist: look at its URL", True),
        (403, "the address answered 403 Forbidden; the address does not let this in: is its URL still valid?", True),
        (799, "the address answered 799; look at the service", False),
    ],
)
def test_one_that_refuses_is_named_with_the_remedy(code: int, told: str, for_good: bool) -> None:
    with Web(status(code)) as web:
        problem = refusal(web.url())
    assert (str(problem), problem.for_good) == (told, for_good)


def test_a_redirect_is_not_followed_and_named_without_what_is_secret() -> None:
    with Web() as other, Web(status(302, Location=f"{other.url('/login')}?token={SECRET}#x")) as web:
        problem = refusal(web.url())
        assert other.requests == []
    assert f"redirects to http://127.0.0.1:{other.port}/login, which is not followed" in str(problem)
    for location, shown in (
        (f"https://a.b/services/{SECRET}", "https://a.b/***/***/***/***"),
        ("//[", "an address that is none"),
    ):
        with Web(status(307, Location=location)) as web:
            assert f"redirects to {shown}, which" in str(refusal(web.url()))
    with Web(status(301, Location="/\x1b[2J" + "x" * 5000)) as web:
        assert len(str(refusal(web.url()))) < 400


def test_nothing_listens_and_names_that_nobody_knows() -> None:
    assert "cannot be reached: Connection refused; look at this computer's network" in str(refusal(nothing_listens()))
    assert "the name nowhere.invalid is not known here" in str(refusal(f"https://nowhere.invalid/{SECRET}"))


@contextmanager
def talking(words: bytes) -> Iterator[str]:
    """A server that says something to whoever connects, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}"
        thread.join()


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH\r\n\r\n", b"", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_web_server(words: bytes) -> None:
    with talking(words) as url:
        assert "127.0.0.1:" in str(refusal(url))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that nobody has signed, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl here, which makes certificates")
    key, found = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {found} -subj /CN=localhost"
    subprocess.run([*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return found, key


def test_a_certificate_that_nobody_vouches_for(certificate: tuple[Path, Path]) -> None:
    with Web(certificate=certificate) as web:
        problem = refusal(web.url())
        assert web.requests == []
    assert str(problem).startswith(f"the certificate of 127.0.0.1:{web.port} is not valid: self")
    assert problem.for_good


def test_a_certificate_that_this_computer_trusts(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with Web(certificate=certificate) as web:
        tell(webhook(web.url()), values(), Limit(ENOUGH))
        assert len(web.requests) == 1


def test_one_that_says_nothing_when_tls_begins() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.monotonic()
        problem = refusal(f"https://127.0.0.1:{server.getsockname()[1]}/{SECRET}", Limit(0.5))
    assert time.monotonic() - begun < 5
    assert "no answer within 0.5 s" in str(problem)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        tell(webhook(f"http://chat.invalid/{SECRET}"), values(), Limit(ENOUGH))
    assert [path for path, _, _ in proxy.requests] == [f"http://chat.invalid/{SECRET}"]
