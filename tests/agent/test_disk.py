"""How long a disk lasts. Pure: free bytes and times are arguments."""

from __future__ import annotations

from rigsync.agent.disk import FULL, FreeSpace

MB = 1_000_000


def test_a_disk_that_lasts_is_not_told() -> None:
    space = FreeSpace()
    for second in range(100):
        assert space.update(1000 * MB - second * MB, second) is None
    assert space.rate == MB


def test_a_disk_is_told_when_it_lasts_for_two_minutes_and_when_it_lasts_for_four_again() -> None:
    space = FreeSpace()
    told = [second for second in range(200) if space.update(300 * MB - second * MB, second)]
    assert told == [181]
    assert space.described() == "101 MB free, 1 MB less each second, which is enough for 101 s"
    news = [space.update(800 * MB, 200 + second) for second in range(3)]
    assert news == [False, None, None]
    assert space.described() == "800 MB free"


def test_a_disk_that_becomes_full_at_once_is_told_without_a_rate() -> None:
    space = FreeSpace()
    assert space.update(MB, 0) is None
    assert space.update(FULL - 1, 1)
    assert space.is_full
    assert space.described() == "65.5 kB free"
    for second in range(2, 100):
        assert space.update(0, second) is None  # it does not become fuller, and is full all the same


def test_a_full_disk_is_told_with_the_rate_at_which_it_was_filled() -> None:
    space = FreeSpace()
    assert [space.update(10 * MB - second * MB, second) for second in range(11)].count(True) == 1
    assert space.described() == "0 B free, after 1 MB less each second"


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    space = FreeSpace()
    for second in range(100):
        space.update(10_000 * MB - (0 if second < 50 else (second - 50) * MB), second)
    assert space.rate == MB
    assert space.left == (10_000 - 49)


def test_what_is_set_aside_at_once_is_no_rate() -> None:
    space = FreeSpace()
    for second in range(100):
        assert space.update(1000 * MB - (900 * MB if second > 10 else 0), second) is None
