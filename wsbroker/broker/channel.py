"""A channel: the subscribed sockets, in the order of subscribing."""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.channel_frames import ChannelFrames
from wsbroker.broker.socket import Socket

MIN_HOLES_TO_COMPACT: Final = 16


@final
class Channel(ChannelFrames):
    """One channel. Adding and removing a member is O(1) amortised, walking the members costs a few ns each."""

    def __init__(self, name: bytes) -> None:
        super().__init__(name)
        self.members: list[Socket | None] = []
        """Subscribed sockets in subscription order; None stands where a socket was removed."""
        self.member_count: i64 = 0

    def add_member(self, socket: Socket) -> None:
        """Adds a socket that is not yet a member at the end of the member list."""
        socket.set_member_index(self, len(self.members))
        self.members.append(socket)
        self.member_count += 1

    def remove_member(self, socket: Socket) -> None:
        """Removes a member, leaving None in its place until the next compaction."""
        index = socket.get_member_index(self)
        socket.clear_member_index(self)
        self.members[index] = None
        self.member_count -= 1
        holes = len(self.members) - self.member_count
        if holes > MIN_HOLES_TO_COMPACT and holes > self.member_count:
            self._compact_members()

    def _compact_members(self) -> None:
        """Removes the empty places (None) from the member list. O(members)."""
        members: list[Socket | None] = []
        for socket in self.members:
            if socket is not None:
                socket.set_member_index(self, len(members))
                members.append(socket)
        self.members = members

    def member_ids(self) -> list[int]:
        """Returns the socket ids of the members, in subscription order. O(members)."""
        return [socket.id for socket in self.members if socket is not None]
