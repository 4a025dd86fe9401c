"""A channel: its members in the order they subscribed, and what was published on it in this turn."""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import NO_INDEX, Socket

MIN_HOLES_TO_COMPACT: Final = 16


@final
class Channel:
    """One channel. Joining and leaving are O(1) amortised, walking the members costs a few ns each."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name
        self.members: list[Socket | None] = []
        """In subscription order; None is the hole somebody left."""
        self.member_count: i64 = 0
        # This turn (see outgoing.py).
        self.dirty_index: i64 = NO_INDEX
        self.frame_numbers: list[int] = []
        self.batch_bytes: i64 = 0
        self.turn_frames: list[bytes] | None = None
        self.joined_frames: bytes = b""

    def add_member(self, socket: Socket) -> None:
        """Adds a socket that is not a member, at the end."""
        socket.set_member_index(self, len(self.members))
        self.members.append(socket)
        self.member_count += 1

    def remove_member(self, socket: Socket) -> None:
        """Removes a member, leaving a hole that the next compaction closes."""
        index = socket.get_member_index(self)
        socket.clear_member_index(self)
        self.members[index] = None
        self.member_count -= 1
        holes = len(self.members) - self.member_count
        if holes > MIN_HOLES_TO_COMPACT and holes > self.member_count:
            self._compact_members()

    def _compact_members(self) -> None:
        members: list[Socket | None] = []
        for socket in self.members:
            if socket is not None:
                socket.set_member_index(self, len(members))
                members.append(socket)
        self.members = members

    def member_ids(self) -> list[int]:
        """The ids of the members, in subscription order. O(members)."""
        return [socket.id for socket in self.members if socket is not None]
