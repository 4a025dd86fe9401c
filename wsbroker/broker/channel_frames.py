"""Data only, base class of `Channel`: its name, and the frames published to it since the last flush.

A base class of its own, because a socket knows its channels and a channel its sockets: so neither file needs the
other's. See outgoing.py for the numbers.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

NO_INDEX: Final = -1
"""Stands for an index where there is none."""


class ChannelFrames:
    """The name of a channel and its frames of this turn."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name
        self.dirty_index: i64 = NO_INDEX
        """Index in `Outgoing.dirty_channels`; NO_INDEX: the channel has no frames in this turn."""
        self.frame_numbers: list[int] = []
        """Numbers of the frames, ascending: indexes in `Outgoing.frames`."""
        self.batch_bytes: i64 = 0
        self.turn_frames: list[bytes] | None = None
        """The frames themselves, once the flush has needed them."""
        self.joined_frames: bytes = b""
        """`turn_frames` in one piece."""
