"""Who publishes what in the order run: a function of publisher and number, so that nobody has to tell anybody."""

from typing import Final, NamedTuple

BURST: Final = 16
"""Messages that a publisher sends in one piece before it waits for the answer to the last."""
MAIN: Final = 1_000_000
"""Numbers of the main program's publishers begin here."""
MAIN_THREADS: Final = 2
LARGE: Final = 8 * 1024
"""A burst of these reaches the cap of a channel's batch."""


class Plan(NamedTuple):
    """Who does what."""

    sockets: int
    channels: int

    def publishers(self) -> range:
        """Numbers of the sockets that publish."""
        return range(1, self.sockets, 10)

    def roamers(self) -> list[int]:
        """Numbers of the sockets that join and leave; references are none."""
        return [number for number in range(4, self.sockets, 5) if number >= self.channels]

    def dawdlers(self) -> list[int]:
        """Numbers of the sockets that stop reading for a while; references are none."""
        return [number for number in range(2, self.sockets, 20) if number >= self.channels]

    def memberships(self, number: int) -> list[int]:
        """The channels a socket is subscribed to from the start; a channel's reference has its number."""
        found = [number]
        if number % 2:
            found.append(number * 3 + 1)
        if number % 3 == 0:
            found.append(number * 7 + 2)
        if number % 10 == 0:
            found += [number + 4, number + 9]
        return sorted({channel % self.channels for channel in found})

    def roams(self, number: int) -> int:
        """The channel that a roamer joins and leaves."""
        taken = self.memberships(number)
        return next(c for step in range(self.channels) if (c := (number * 11 + 5 + step) % self.channels) not in taken)

    def message(self, publisher: int, index: int) -> str:
        """What a publisher sends as its `index`-th message: ``KIND:publisher:index:place:padding``."""
        if index % 10 == 9:
            return f"D:{publisher}:{index}:{(publisher * 31 + index * 17) % self.sockets}:"
        size = LARGE if publisher % 20 == 1 and index // BURST % 4 == 0 else index * 37 % 200
        return f"P:{publisher}:{index}:{(publisher + index * 3) % self.channels}:{'.' * size}"

    def excluded(self, publisher: int, index: int) -> list[int]:
        """Numbers of the sockets that do not get it."""
        others = self.sockets - self.channels
        if index % 4 or others <= 0:
            return []
        return [self.channels + (publisher * 5 + index * 7 + step * 13) % others for step in range(8)]
