"""The search for leaks finds leaks, and nothing else."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, settings

HERE = pathlib.Path(__file__).parent

LEAKS = {
    "thread": """
        import threading
        def test_leak():
            threading.Thread(target=threading.Event().wait, daemon=True, name="forgotten").start()
        """,
    "referenced socket": """
        import socket
        kept = []
        def test_leak():
            kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            kept[0].bind(("127.0.0.1", 0))
        """,
    "socket without an address": """
        import socket
        kept = []
        def test_leak():
            kept.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        """,
    "forgotten socket": """
        import socket
        def test_leak():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.1", 0))
            cycle = [sock]
            cycle.append(cycle)
        """,
    "transport": """
        import asyncio
        def test_leak():
            async def main():
                await asyncio.get_running_loop().create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            loop = asyncio.SelectorEventLoop()
            loop.run_until_complete(main())
            loop.close()
        """,
    "task": """
        import asyncio
        kept = []
        def test_leak():
            loop = asyncio.SelectorEventLoop()
            async def wait():
                await asyncio.Event().wait()
            async def main():
                kept.append(asyncio.ensure_future(wait()))
                await asyncio.sleep(0)
            loop.run_until_complete(main())
            loop.close()
        """,
    "destroyed task": """
        import asyncio, gc
        def test_leak():
            loop = asyncio.SelectorEventLoop()
            async def wait():
                await asyncio.get_running_loop().create_future()
            async def main():
                asyncio.ensure_future(wait())
                await asyncio.sleep(0)
            loop.run_until_complete(main())
            loop.close()
            gc.collect()
        """,
    "child process": """
        import subprocess, sys
        kept = []
        def test_leak():
            kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        def test_after():
            kept[0].communicate(b"\\n")
        """,
}

CLEAN = """
    import asyncio, socket, subprocess, sys, threading, time
    def test_clean():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
        subprocess.run([sys.executable, "-c", ""], check=True)
        async def main():
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        loop = asyncio.SelectorEventLoop()
        loop.run_until_complete(main())
        loop.close()
    def test_that_ends_in_time():
        threading.Thread(target=time.sleep, args=(0.05,)).start()
    def test_with_a_fixture(tmp_path):
        pass
    """


def test_leaks_are_found(tmp_path: pathlib.Path) -> None:
    source = (HERE / "conftest.py").read_text(encoding="utf-8")
    shorter = re.sub(r"^PATIENCE = .*$", "PATIENCE = 0.3", source, flags=re.MULTILINE)
    assert shorter != source
    (tmp_path / "conftest.py").write_text(shorter, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    for kind, code in LEAKS.items():
        (tmp_path / f"test_{kind.replace(' ', '_')}.py").write_text(textwrap.dedent(code), encoding="utf-8")
    (tmp_path / "test_clean.py").write_text(textwrap.dedent(CLEAN), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-rA", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    print(done.stdout)
    for kind in LEAKS:
        file = f"test_{kind.replace(' ', '_')}.py"
        assert re.search(rf"^(ERROR|FAILED) {file}::test_leak", done.stdout, re.MULTILINE), kind
    for test in ("test_clean", "test_that_ends_in_time", "test_with_a_fixture"):
        assert re.search(rf"^PASSED test_clean.py::{test}$", done.stdout, re.MULTILINE), test
    assert "ERROR test_clean" not in done.stdout


def test_no_property_depends_on_how_fast_this_computer_is() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


@pytest.mark.parametrize("kind", ["thread", "socket", "asyncio task", "child process"])
def test_nothing_is_there_now(kind: str) -> None:
    import conftest

    assert conftest._newcomers({k: find() for k, find in conftest._KINDS.items()}) == []
    assert isinstance(conftest._KINDS[kind](), set)
