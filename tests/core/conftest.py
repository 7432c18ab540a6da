"""For the tests of the pure core: no sockets, no threads, no sleeping."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Skip the search for leaks: code that may not import socket or threading leaves nothing (tests/test_layering.py).

    There are thousands of tests here, and the search costs each of them more than the test itself does.
    """
