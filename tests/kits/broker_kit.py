"""A broker without connections: its sockets record each write, and `frames_of` decodes the recorded frames."""

from collections.abc import Callable

from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import Limits
from wsbroker.broker.registry import TurnScheduler
from wsbroker.broker.socket import Socket
from wsbroker.broker.worker_queue import WorkerQueue


class CountingTurnScheduler(TurnScheduler):
    """Counts how often a turn was armed."""

    def __init__(self) -> None:
        self.woken = 0

    def schedule_turn(self) -> None:
        self.woken += 1


class RecordingSocket(Socket):
    """A socket that records all that is written to it; blocked after `room` writes (None: never)."""

    def __init__(self, socket_id: int, worker_queue: WorkerQueue) -> None:
        super().__init__(socket_id, worker_queue)
        self.writes: list[bytes] = []
        self.room: int | None = None
        self.buffered = 0
        self.finishes = 0
        self.paused = 0
        self.resumed = 0
        self.overflows = 0
        self.aborts = 0
        self.on_write: Callable[[bytes], None] = self.writes.append

    def write(self, data: bytes) -> None:
        """Records a write, and marks the socket as blocked when `room` writes were made. Called by the broker."""
        self.on_write(data)
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.is_blocked = True

    def transport_bytes(self) -> int:
        return self.buffered

    def on_close_written(self) -> None:
        self.finishes += 1

    def pause_reading(self) -> None:
        self.is_reading_paused = True
        self.paused += 1

    def resume_reading(self) -> None:
        self.is_reading_paused = False
        self.resumed += 1

    def on_overflow(self) -> None:
        self.overflows += 1

    def abort(self) -> None:
        self.aborts += 1

    @property
    def received(self) -> list[bytes]:
        """The payloads of the frames written so far; a Close frame stands as b"close"."""
        return [b"close" if opcode == 8 else payload for opcode, payload in frames_of(b"".join(self.writes))]


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    """Returns (opcode, payload) of each unmasked frame in the data; fails if the last frame is incomplete."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        opcode, size, at = data[at] & 15, data[at + 1], at + 2
        if size == 126:
            size, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        elif size == 127:
            size, at = int.from_bytes(data[at : at + 8], "big"), at + 8
        assert at + size <= len(data), "a frame was cut"
        found.append((opcode, data[at : at + size]))
        at += size
    return found


def a_broker(limits: Limits | None = None, *, inline: bool = True, credit_bytes: int = 4 * 1024 * 1024) -> Broker:
    """Returns a new broker with one worker queue, number 0."""
    broker = Broker(limits or Limits(max_queue_bytes=1 << 40), CountingTurnScheduler())
    broker.add_worker_queue(0, credit_bytes, inline)
    return broker


def connect(broker: Broker, worker_index: int = 0) -> RecordingSocket:
    """Returns a new socket of the broker, which is open."""
    socket = RecordingSocket(broker.allocate_socket_id(), broker.worker_queues[worker_index])
    broker.register_socket(socket)
    broker.mark_socket_open(socket)
    return socket
