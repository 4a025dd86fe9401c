"""A channel: its members in the order they subscribed, and what was published on it in this turn."""

from __future__ import annotations

from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.socket import NOWHERE, Socket

MIN_HOLES: Final = 16


@final
class Channel:
    """One channel. Joining and leaving are O(1) amortised, walking the members costs a few ns each."""

    def __init__(self, name: bytes) -> None:
        self.name: Final = name
        self.members: list[Socket | None] = []
        """In subscription order; None is the hole somebody left."""
        self.count: i64 = 0
        # This turn (see outgoing.py).
        self.index: i64 = NOWHERE
        self.numbers: list[int] = []
        self.batch_bytes: i64 = 0
        self.frames: list[bytes] | None = None
        self.joined: bytes = b""

    def add(self, socket: Socket) -> None:
        """Adds a socket that is not a member, at the end."""
        socket.place(self, len(self.members))
        self.members.append(socket)
        self.count += 1

    def remove(self, socket: Socket) -> None:
        """Removes a member, leaving a hole that the next compaction closes."""
        index = socket.place_of(self)
        socket.displace(self)
        self.members[index] = None
        self.count -= 1
        holes = len(self.members) - self.count
        if holes > MIN_HOLES and holes > self.count:
            self._compact()

    def _compact(self) -> None:
        members: list[Socket | None] = []
        for socket in self.members:
            if socket is not None:
                socket.place(self, len(members))
                members.append(socket)
        self.members = members

    def ids(self) -> list[int]:
        """The ids of the members, in subscription order. O(members)."""
        return [socket.id for socket in self.members if socket is not None]
