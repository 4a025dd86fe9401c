"""The limit of open files: the connections that it allows, and how it is raised."""

import sys

import pytest

from wsbroker.settings import descriptors
from wsbroker.settings.config import Config


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files there")
class TestOpenFiles:
    @pytest.mark.parametrize(
        ("soft", "connections"),
        [(8, 1), (256, 224), (1024, 896), (65536, 64512), (-1, 1_000_000), (1 << 30, 1_000_000)],
    )
    def test_connections_follow_the_limit_less_a_reserve(
        self, monkeypatch: pytest.MonkeyPatch, soft: int, connections: int
    ) -> None:
        limits = Limits(soft, -1)
        limits.install(monkeypatch)
        assert descriptors.default_max_connections() == connections
        assert Config().connection_limit() == connections
        assert Config(max_connections=5).connection_limit() == 5

    def test_too_many_connections_for_the_limit_are_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Limits(1024, 1024).install(monkeypatch)
        assert descriptors.fd_warning(None) is None
        assert descriptors.fd_warning(896) is None
        assert descriptors.fd_warning(897) == (
            "max_connections is 897, but this process may open only 1024 files, so about 896 connections fit: "
            "raise the limit (ulimit -n, LimitNOFILE) or lower max_connections"
        )

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ((1024, 4096), (4096, 4096)),
            ((4096, 4096), (4096, 4096)),
            ((256, -1), (1 << 20, -1)),
            ((1024, 1 << 30), (1 << 20, 1 << 30)),
            ((1 << 29, 1 << 30), (1 << 29, 1 << 30)),
            ((-1, -1), (-1, -1)),
        ],
    )
    def test_the_soft_limit_is_raised_to_the_hard_one(
        self, monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int]
    ) -> None:
        limits = Limits(*before)
        limits.install(monkeypatch)
        descriptors.raise_fd_limit()
        assert (limits.soft, limits.hard) == after

    def test_a_limit_that_cannot_be_raised_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = Limits(256, -1, is_refusing=True)
        limits.install(monkeypatch)
        descriptors.raise_fd_limit()
        assert limits.soft == 256


class Limits:
    """A substitute for the process's limits of open files; -1 is infinity."""

    def __init__(self, soft: int, hard: int, is_refusing: bool = False) -> None:
        self.soft = soft
        self.hard = hard
        self.is_refusing = is_refusing

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("resource.RLIM_INFINITY", -1)
        monkeypatch.setattr("resource.getrlimit", lambda _: (self.soft, self.hard))
        monkeypatch.setattr("resource.setrlimit", self.set)

    def set(self, _: int, limits: tuple[int, int]) -> None:
        if self.is_refusing:
            raise ValueError("not allowed to raise maximum limit")
        self.soft, self.hard = limits
