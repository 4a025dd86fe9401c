"""The patterns of the load that publish: a fan-out, and a fan-out during which some subscribers stop reading."""

import time
from functools import partial

from benchmarks.load.client import Client, ignore_client
from benchmarks.load.row import Row
from benchmarks.load.stage import Stage
from benchmarks.load.stream import Receiver, Stream


class Fanout(Stage):
    """Publishers, subscribers, and a number of publications that are always on the way to all subscribers.

    Each publisher has channels of its own, so that the publications of a channel have one order, and all its
    subscribers get the same bytes. A publication is on the way until the last subscriber of its channel has it.
    """

    def open_connections(self) -> None:
        job = self.job
        self.clients = self.open_clients([b"S c%d" % (index % job.channels) for index in range(job.connections)])

    def start_load(self) -> None:
        """Opens the publishers' connections and puts the subscribers on their channels."""
        job = self.job
        self.publishers = [Publisher(client) for client in self.open_clients([None] * job.publishers)]
        self.channels = [
            Channel(self, number, self.publishers[number % job.publishers]) for number in range(job.channels)
        ]
        self.receivers = [
            self.channels[index % job.channels].add_subscriber(client, self.is_probe(index))
            for index, client in enumerate(self.clients)
        ]
        self._next = 0

    def take_turn(self, timeout_s: float) -> None:
        """Publishes as much as may be in flight, or is due, then handles what has come."""
        in_flight = self.job.in_flight
        if self.is_sending and not self.job.rate:
            for publisher in self.publishers:
                if publisher.on_way < in_flight:
                    publisher.publish(in_flight - publisher.on_way)
        super().take_turn(timeout_s)

    def send_next(self) -> None:
        self.publishers[self._next % len(self.publishers)].publish(1)
        self._next += 1

    def is_quiet(self) -> bool:
        return all(channel.is_quiet for channel in self.channels)

    def add_problems(self, row: Row) -> None:
        for index, receiver in enumerate(self.receivers):
            receiver.add_problems(row, self.channels[index % len(self.channels)].sent)


class Publisher:
    """A connection that publishes on its channels in turn."""

    def __init__(self, client: Client) -> None:
        self.channels: list[Channel] = []
        self.on_way = 0
        self._client = client
        self._next = 0

    def publish(self, count: int) -> None:
        """Publishes `count` messages."""
        self.on_way += count
        now_ns = time.monotonic_ns()
        if len(self.channels) == 1:
            self._client.send(self.channels[0].encode_publications(count, now_ns))
            return
        pieces = []
        for _ in range(count):
            pieces.append(self.channels[self._next].encode_publications(1, now_ns))
            self._next = (self._next + 1) % len(self.channels)
        self._client.send(b"".join(pieces))


class Channel:
    """Counts the publications of a channel, and how many its subscribers have received."""

    def __init__(self, stage: Stage, number: int, publisher: Publisher) -> None:
        job = stage.job
        # With a rate, what is on the way has no bound of its own: a second's worth is one.
        self.stream = Stream(b"P c%d " % number, number, job.size, max(job.in_flight, int(job.rate)))
        self.sent = 0
        self._stage = stage
        self._publisher = publisher
        publisher.channels.append(self)
        self._at: dict[int, int] = {}
        """By position, a number of publications: how many subscribers have received so many."""
        self._low = 0
        self._sent_ns: dict[int, int] = {}

    def add_subscriber(self, client: Client, is_probe: bool) -> Receiver:
        """Adds a subscriber; to be called before anything is published."""
        self._at[0] = self._at.get(0, 0) + 1
        receiver = Receiver(client, self.stream, self._record_probe_advance if is_probe else self._record_advance)
        client.on_end = partial(self._record_end, receiver)
        return receiver

    def remove_subscriber(self, receiver: Receiver) -> None:
        """Stops waiting for this subscriber to receive publications."""
        receiver.client.on_end = ignore_client
        receiver.advanced = lambda before, after: None
        self._leave_position(receiver.count)

    def encode_publications(self, count: int, now_ns: int) -> bytes:
        """Returns the frames of the next `count` publications and notes the time for their latency."""
        first = self.sent
        self.sent += count
        for number in range(first, self.sent):
            self._sent_ns[number] = now_ns
        return self.stream.encode_outgoing(first, count)

    @property
    def is_quiet(self) -> bool:
        """Whether every subscriber has received every publication."""
        return self._low >= self.sent

    def _record_advance(self, before: int, after: int) -> None:
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
            self._forget_position(before)

    def _record_probe_advance(self, before: int, after: int) -> None:
        """Does what `_record_advance` does, and counts the latency of each publication."""
        now_ns = time.monotonic_ns()
        for number in range(before, after):
            self._stage.histogram.add_duration(now_ns - self._sent_ns.get(number, now_ns))
        self._record_advance(before, after)

    def _record_end(self, receiver: Receiver, client: Client) -> None:
        """Counts a connection that the server ended. Called by the client."""
        self._stage.count_end(client)
        self._leave_position(receiver.count)

    def _leave_position(self, position: int) -> None:
        """Removes one subscriber from those that have received so many publications."""
        self._at[position] -= 1
        if not self._at[position]:
            self._forget_position(position)

    def _forget_position(self, position: int) -> None:
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


class Stall(Fanout):
    """A fan-out during which some subscribers stop reading: latency of the others, and memory of the server.

    Measured twice at the same rate: first all subscribers read, then some do not. The row is the second part; `extra`
    has figures of the first.
    """

    def measure_load(self) -> Row:
        """Measures while all subscribers read, then while some do not, and returns the second part."""
        job = self.job
        self.run_for(job.warmup_s, "warm up")
        before = self.measure_run("all are reading")
        count = max(job.connections * job.stalled // 100, 1)
        self._stalled: list[Client] = []
        for index in range(1, job.connections, job.connections // count):  # next to the probes, which go on
            receiver = self.receivers[index]
            receiver.client.pause_reading()
            self.channels[index % job.channels].remove_subscriber(receiver)
            self._stalled.append(receiver.client)
        row = self.measure_run(f"{len(self._stalled)} have stopped reading")
        row.extra = {f"{name}_before": value for name, value in before.latency_us.items()}
        row.extra |= {"rss_before": before.rss_peak, "stalled": float(len(self._stalled))}
        return row

    def add_problems(self, row: Row) -> None:
        """Reads what waits for the stalled clients, and counts how many of them the server has closed."""
        for client in self._stalled:
            client.resume_reading()
        self.drain_until(lambda: all(map(_is_closed, self._stalled)))
        row.extra["cut_off"] = float(sum(map(_is_closed, self._stalled)))
        for index, receiver in enumerate(self.receivers):
            if receiver.client not in self._stalled:
                receiver.add_problems(row, self.channels[index % len(self.channels)].sent)


def _is_closed(client: Client) -> bool:
    """Whether the server has ended or closed a connection."""
    return client.has_ended or client.close_code is not None
