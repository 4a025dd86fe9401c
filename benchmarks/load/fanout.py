"""Fan-out: publishers, subscribers, and a number of publications that are always on the way to everybody.

Each publisher has channels of its own, so that the publications of a channel have one order, and all its subscribers
get the same bytes. A publication is on the way until the last subscriber of its channel has it.
"""

import time
from functools import partial

from benchmarks.load.client import Client
from benchmarks.load.receiver import Receiver
from benchmarks.load.row import Row, merge_rows
from benchmarks.load.stage import Stage, is_probe
from benchmarks.load.stream import Stream


class Channel:
    """Counts the publications of a channel, and how many its subscribers have received."""

    def __init__(self, stage: Stage, number: int, in_flight: int, publisher: "Publisher") -> None:
        job = stage.job
        self.name = b"c%d" % number
        self.stream = Stream(b"P %b " % self.name, number, job.size, in_flight)
        self.sent = 0
        self._stage = stage
        self._publisher = publisher
        self._at: dict[int, int] = {}
        """By position, a number of publications: how many subscribers have received so many."""
        self._low = 0
        self._sent_ns: dict[int, int] = {}

    def add_subscriber(self, receiver: Receiver) -> None:
        """Adds a subscriber; to be called before anything is published."""
        self._at[0] = self._at.get(0, 0) + 1
        receiver.client.on_end = partial(self._on_subscriber_end, receiver)

    def remove_subscriber(self, receiver: Receiver) -> None:
        """Stops waiting for this subscriber to receive publications."""
        self._remove_position(receiver.count)

    def encode_publications(self, count: int, now_ns: int) -> bytes:
        """Returns the frames of the next `count` publications and notes the time for their latency."""
        first = self.sent
        self.sent += count
        for number in range(first, self.sent):
            self._sent_ns[number] = now_ns
        return self.stream.encode_outgoing(first, count)

    def record_advance(self, before: int, after: int) -> None:
        """Counts that a subscriber has received `after` publications, and before it had `before`."""
        self._stage.count += after - before
        at = self._at
        try:
            at[after] += 1
        except KeyError:
            at[after] = 1
        left = at[before] - 1
        if left:
            at[before] = left
        else:
            self._pass_position(before)

    def record_probe_advance(self, before: int, after: int) -> None:
        """Does what `record_advance` does, and counts the latency of each publication."""
        now_ns = time.monotonic_ns()
        for number in range(before, after):
            self._stage.histogram.add_duration(now_ns - self._sent_ns.get(number, now_ns))
        self.record_advance(before, after)

    @property
    def is_quiet(self) -> bool:
        """Whether every subscriber has received every publication."""
        return self._low >= self.sent

    def _remove_position(self, position: int) -> None:
        """Removes one subscriber from those that have received so many publications."""
        self._at[position] -= 1
        if not self._at[position]:
            self._pass_position(position)

    def _pass_position(self, position: int) -> None:
        """Forgets a position without subscribers; if it was the lowest, the next publications have been delivered."""
        at = self._at
        del at[position]
        if position == self._low:
            low = position + 1 if at else self.sent
            while at and low not in at:
                low += 1
            for number in range(position, low):
                self._sent_ns.pop(number, None)
            self._low = low
            self._publisher.on_way -= low - position

    def _on_subscriber_end(self, receiver: Receiver, client: Client) -> None:
        """Counts a connection that the server ended. Called by the client."""
        self._stage.ended += 1
        self._remove_position(receiver.count)


class Publisher:
    """Publishes on its channels in turn, over one connection."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.channels: list[Channel] = []
        self.on_way = 0
        self._next = 0

    def publish(self, count: int) -> None:
        """Publishes `count` messages."""
        if self.client is None:
            return
        self.on_way += count
        now_ns = time.monotonic_ns()
        if len(self.channels) == 1:
            self.client.send(self.channels[0].encode_publications(count, now_ns))
            return
        pieces = []
        for _ in range(count):
            pieces.append(self.channels[self._next].encode_publications(1, now_ns))
            self._next = (self._next + 1) % len(self.channels)
        self.client.send(b"".join(pieces))


class Fanout:
    """Opens subscribers and publishers, and keeps publications in flight."""

    def __init__(self, stage: Stage) -> None:
        job = stage.job
        self.stage = stage
        self.is_publishing = True
        self.receivers: list[Receiver] = []
        self.publishers = [Publisher() for _ in range(job.publishers)]
        # With a rate, what is on the way has no bound of its own: a second's worth is one.
        in_flight = max(job.in_flight, int(job.rate))
        self.channels: list[Channel] = []
        for number in range(job.channels):
            publisher = self.publishers[number % job.publishers]
            self.channels.append(Channel(stage, number, in_flight, publisher))
            publisher.channels.append(self.channels[-1])

        self.before = stage.meter.read()
        names = [self.channels[index % job.channels].name for index in range(job.connections)]
        for index, client in enumerate(stage.open_clients([b"S " + name for name in names], job.connections)):
            channel = self.channels[index % job.channels]
            advanced = channel.record_probe_advance if is_probe(index, job.connections) else channel.record_advance
            receiver = Receiver(client, channel.stream, advanced)
            channel.add_subscriber(receiver)
            self.receivers.append(receiver)
        self.after = stage.meter.read()
        for publisher, client in zip(
            self.publishers, stage.open_clients([None] * job.publishers, job.publishers), strict=True
        ):
            publisher.client = client
        self._due = 0.0
        self._due_s = time.monotonic()
        self._turn_of = 0

    def take_turn(self, timeout_s: float) -> None:
        """Publishes as much as may be in flight, then handles what has come."""
        job = self.stage.job
        if job.rate:
            self._publish_what_is_due()
            timeout_s = min(timeout_s, 1 / job.rate)
        elif self.is_publishing:
            for publisher in self.publishers:
                if publisher.on_way < job.in_flight:
                    publisher.publish(job.in_flight - publisher.on_way)
        self.stage.loop.take_turn(timeout_s)

    def _publish_what_is_due(self) -> None:
        """Publishes as much as the job's rate says since the last call."""
        now_s = time.monotonic()
        if self.is_publishing:
            self._due += (now_s - self._due_s) * self.stage.job.rate
        self._due_s = now_s
        while self._due >= 1:
            self._due -= 1
            self.publishers[self._turn_of].publish(1)
            self._turn_of = (self._turn_of + 1) % len(self.publishers)

    def finish_run(self, row: Row) -> Row:
        """Stops publishing, waits for what is in flight, and adds losses and memory to the row."""
        self.is_publishing = False
        self.stage.drain_until(self.take_turn, lambda: all(channel.is_quiet for channel in self.channels))
        for index, receiver in enumerate(self.receivers):
            receiver.add_problems(row, self.channels[index % len(self.channels)].sent)
        row.ended = self.stage.ended
        row.rss_per_connection = (self.after.rss_bytes - self.before.rss_bytes) / len(self.receivers)
        for publisher in self.publishers:
            if publisher.client is not None:
                publisher.client.reset_connection()
        for receiver in self.receivers:
            receiver.client.reset_connection()
        return row


def run(stage: Stage) -> Row:
    """Runs the scenario: publications to all subscribers. Returns the medians."""
    fanout = Fanout(stage)
    return fanout.finish_run(merge_rows(stage.measure_runs(fanout.take_turn)))
