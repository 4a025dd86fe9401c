"""The heap is trimmed after much memory was freed, and not too often."""

import sys
import threading

import pytest

from wsbroker.server.memory_release import MIN_FREED_BYTES, MIN_TRIM_INTERVAL_S, HeapTrimmer, find_malloc_trim


class Trims:
    """Counts the trims; a trim lasts until the test ends it."""

    def __init__(self) -> None:
        self.count = 0
        self.done = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def find(self) -> "Trims":
        return self

    def __call__(self) -> None:
        self.may_end.wait(10)
        self.count += 1
        self.done.set()

    def wait(self) -> int:
        assert self.done.wait(10)
        self.done.clear()
        return self.count


def test_memory_is_given_back_once_much_of_what_was_held_is_free() -> None:
    trims = Trims()
    release = HeapTrimmer(trims.find)
    assert not release.trim_if_much_was_freed(MIN_FREED_BYTES, MIN_FREED_BYTES, 1)
    assert not release.trim_if_much_was_freed(1, MIN_FREED_BYTES, 2)
    assert release.trim_if_much_was_freed(0, MIN_FREED_BYTES, 3)
    assert trims.wait() == 1
    assert not release.trim_if_much_was_freed(0, 0, 3 + MIN_TRIM_INTERVAL_S)


def test_a_peak_between_two_looks_counts() -> None:
    trims = Trims()
    release = HeapTrimmer(trims.find)
    assert release.trim_if_much_was_freed(1000, 2 * MIN_FREED_BYTES, 1)
    assert trims.wait() == 1


def test_trims_have_a_pause_between_them_and_none_is_forgotten() -> None:
    trims = Trims()
    release = HeapTrimmer(trims.find)
    assert release.trim_if_much_was_freed(0, MIN_FREED_BYTES, 1)
    assert trims.wait() == 1
    assert not release.trim_if_much_was_freed(0, MIN_FREED_BYTES, 1 + MIN_TRIM_INTERVAL_S / 2)
    assert any(
        release.trim_if_much_was_freed(0, 0, 1 + MIN_TRIM_INTERVAL_S) for _ in range(1_000_000)
    )  # its thread may be about to end
    assert trims.wait() == 2


def test_a_trim_that_still_runs_is_not_joined_by_another() -> None:
    trims = Trims()
    trims.may_end.clear()
    release = HeapTrimmer(trims.find)
    assert release.trim_if_much_was_freed(0, MIN_FREED_BYTES, 1)
    assert not release.trim_if_much_was_freed(0, MIN_FREED_BYTES, 100)
    trims.may_end.set()
    assert trims.wait() == 1


def test_where_there_is_no_trim_nothing_happens() -> None:
    assert not HeapTrimmer(lambda: None).trim_if_much_was_freed(0, MIN_FREED_BYTES, 1)


def test_the_trim_of_this_c_library_can_be_called() -> None:
    trim = find_malloc_trim()
    if trim is not None:
        assert trim() in (0, 1)


def test_a_python_without_ctypes_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert find_malloc_trim() is None
    assert not HeapTrimmer().trim_if_much_was_freed(0, 2 * MIN_FREED_BYTES, 1.0)
