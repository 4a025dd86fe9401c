"""State that all connections share: broker, timer wheel, time limits, turn number (the turn runs in `connections`).

`Connections` derives from `Turn`; a connection knows its server as a `Turn` only.
"""

from __future__ import annotations

from math import ceil
from typing import Final, final

from mypy_extensions import i64

from wsbroker.broker.broker import Broker
from wsbroker.broker.limits import Limits
from wsbroker.broker.registry import TurnScheduler
from wsbroker.broker.socket import Socket
from wsbroker.broker.timer_wheel import TimerWheel
from wsbroker.websocket.decoder import Decoder

LONGEST_TICK_S: Final = 0.25
SHORTEST_TICK_S: Final = 0.01
TICKS_PER_DEADLINE: Final = 8
"""Number of ticks in the shortest deadline, so that no deadline is late by more than an eighth."""


@final
class ConnectionSettings:
    """The settings of all connections. Sizes in bytes, durations in seconds; a `ping_interval` of 0 sends no pings,
    a `flush_interval` of 0 flushes once per turn."""

    def __init__(
        self,
        max_connections: int = 10_000,
        max_message_size: int = 64 * 1024,
        read_budget_bytes: int = 256 * 1024,
        read_budget_frames: int = 256,
        flush_interval: float = 0.0,
        ping_interval: float = 25.0,
        pong_timeout: float = 10.0,
        write_timeout: float = 10.0,
        close_timeout: float = 5.0,
    ) -> None:
        self.max_connections: Final = max_connections
        self.max_message_size: Final = max_message_size
        self.read_budget_bytes: Final = read_budget_bytes
        self.read_budget_frames: Final = read_budget_frames
        self.flush_interval: Final = flush_interval
        self.ping_interval: Final = ping_interval
        self.pong_timeout: Final = pong_timeout
        self.write_timeout: Final = write_timeout
        self.close_timeout: Final = close_timeout


class Turn(TurnScheduler):
    """The state of a server that its connections share, and two requests of a connection to the server."""

    def __init__(self, limits: Limits, settings: ConnectionSettings) -> None:
        self.broker: Final = Broker(limits, self)
        self.timer_wheel: Final = TimerWheel()
        self.max_message_size: Final = settings.max_message_size
        self.read_budget_bytes: i64 = settings.read_budget_bytes
        """Bytes that a connection may read in one turn."""
        self.read_budget_frames: i64 = settings.read_budget_frames
        """Frames that a connection may decode in one turn."""
        deadlines = [settings.pong_timeout, settings.write_timeout, settings.close_timeout]
        if settings.ping_interval > 0:
            deadlines.append(settings.ping_interval)
        self.tick_s: Final = max(SHORTEST_TICK_S, min(LONGEST_TICK_S, min(deadlines) / TICKS_PER_DEADLINE))
        self.ping_ticks: i64 = ceil(settings.ping_interval / self.tick_s)
        self.pong_ticks: i64 = ceil(settings.pong_timeout / self.tick_s)
        self.write_ticks: i64 = ceil(settings.write_timeout / self.tick_s)
        self.close_ticks: i64 = ceil(settings.close_timeout / self.tick_s)
        self.idle_ticks: i64 = ceil(3600 / self.tick_s)
        self.turn_number: i64 = 0
        """Number of loop turns so far."""
        self.spare_decoder: Decoder | None = None
        """An idle decoder. Most reads end with a whole message, so nearly all connections share one decoder (112 B)."""

    def acquire_decoder(self) -> Decoder:
        """Returns an idle decoder, the spare one or a new one, for a connection that has received bytes."""
        decoder = self.spare_decoder
        if decoder is None:
            return Decoder(self.max_message_size)
        self.spare_decoder = None
        return decoder

    def defer_reading(self, connection: Socket) -> None:
        """Pauses reading of a connection until the next turn, which reads on."""
        raise NotImplementedError

    def remove_lost_connection(self, connection: Socket) -> None:
        """Removes a connection whose transport has closed, and closes its socket with code 1006 if that is open."""
        raise NotImplementedError
