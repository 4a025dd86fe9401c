"""Layer 1 of the broker: the registries of sockets and channels, subscriptions, tokens, questions about them.

Called on one thread only (the loop's). The lowest of the three layers of the broker: `Registry`, `Delivery` (frames out
and closes) and `Broker` (messages in and commands) are one object, in a file each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from mypy_extensions import i64, mypyc_attr

from wsbroker.broker.channel import Channel
from wsbroker.broker.inline_queue import InlineQueue
from wsbroker.broker.limits import Counters, Limits
from wsbroker.broker.outgoing import Outgoing
from wsbroker.broker.socket import NO_INDEX, Socket
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.errors import CommandError
from wsbroker.wire import commands

CALL_INSIDE_FLUSH_ERROR: Final = (
    "this is a finaliser or a signal handler that interrupted the broker while it writes to its sockets: it cannot ask "
    "the broker; subscribe_nowait and the other calls without an answer work"
)


@mypyc_attr(allow_interpreted_subclasses=True)
class TurnScheduler:
    """The owner of the event loop, as the broker sees that: it runs one turn when the broker has something to flush."""

    def schedule_turn(self) -> None:
        """Schedules one loop turn, which must call `Broker.deliver_batches` and `Broker.flush`.

        Called by the broker at most once per turn (`Broker.is_turn_scheduled`).
        """
        raise NotImplementedError


class Registry:
    """Registers sockets, channels and their subscriptions. Loop thread only."""

    def __init__(self, limits: Limits, turn_scheduler: TurnScheduler) -> None:
        self.limits: Final = limits
        self.turn_scheduler: Final = turn_scheduler
        self.counters: Final = Counters()
        self.outgoing: Final = Outgoing(limits, self.counters)
        self.sockets: Final[dict[int, Socket]] = {}
        self.channels_by_name: Final[dict[bytes, Channel]] = {}
        self.worker_queues: Final[list[WorkerQueue]] = []
        self.dirty_worker_queues: list[WorkerQueue] = []
        self.inline_queue: Final = InlineQueue()
        self.last_socket_id: int = 0
        self.unhandled_bytes: i64 = 0
        """Cost of the messages of all sockets read and not yet handled (inline: only those in inboxes)."""
        self.is_turn_scheduled = False
        self.deferred_commands: list[tuple[object, ...]] = []
        """Commands given inside a flush, applied after it: a finaliser or a signal handler has interrupted a transport.
        SEND and PUBLISH commands carry the encoded frame here."""
        self.is_applying_deferred = False
        self.deliver_batch: Callable[[int, list[tuple[object, ...]]], None] | None = None
        """``(worker_index, events)``: hands a worker its batch of events at the end of a turn; set by
        `server/node.py`."""

    def schedule_turn(self) -> None:
        """Schedules a loop turn that flushes, unless a turn is scheduled already."""
        if not self.is_turn_scheduled:
            self.is_turn_scheduled = True
            self.turn_scheduler.schedule_turn()

    # Sockets. ---------------------------------------------------------------------------------------------------------

    def allocate_socket_id(self) -> int:
        """Returns a new socket id; ids count up from 1 and are never used again."""
        self.last_socket_id += 1
        return self.last_socket_id

    def register_socket(self, socket: Socket) -> None:
        """Puts a new socket in the table of sockets: from here on calls find the socket by its id."""
        self.sockets[socket.id] = socket
        socket.worker_queue.socket_count += 1

    def _unregister_socket(self, socket: Socket) -> None:
        """Removes a socket from the table of sockets and from all its channels. O(subscriptions of the socket).

        Does nothing if the socket is not registered (any more).
        """
        if self.sockets.pop(socket.id, None) is None:
            return
        socket.worker_queue.socket_count -= 1
        for channel in socket.channel_list():
            self._remove_subscription(socket, cast(Channel, channel))

    # Subscriptions. ---------------------------------------------------------------------------------------------------

    def subscribe(self, socket_id: int, name: bytes) -> bool:
        """Subscribes a socket to a channel.

        Returns:
            True if the subscription is new; False if the socket is unknown, is subscribed already, or has
            `max_channels` subscriptions.

        Raises:
            CommandError: a flush is running, during which no channel may gain or lose members.
        """
        if self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
            return False
        return self._add_subscription(socket, name)

    def subscribe_nowait(self, socket_id: int, name: bytes) -> None:
        """Subscribes a socket to a channel without an answer; inside a flush, once that flush has ended."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.SUBSCRIBE, socket_id, name))
        else:
            self.subscribe(socket_id, name)

    def _add_subscription(self, socket: Socket, name: bytes) -> bool:
        """Adds a socket to a channel, made if missing, unless the socket is a member or has `max_channels` already.

        Called for each subscribe call. A refusal because of `max_channels` is counted.

        Returns:
            whether the socket was added.
        """
        channel = self.channels_by_name.get(name)
        if channel is not None and socket.is_member(channel):
            return False
        if socket.channel_count() >= self.limits.max_channels:
            self.counters.subscriptions_refused += 1
            return False
        if channel is None:
            channel = Channel(name)
            self.channels_by_name[name] = channel
        channel.add_member(socket)
        self.outgoing.record_join(socket, channel)
        return True

    def unsubscribe(self, socket_id: int, name: bytes) -> bool:
        """Unsubscribes a socket from a channel; returns whether the socket was subscribed.

        Raises:
            CommandError: a flush is running, during which no channel may gain or lose members.
        """
        if self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)
        socket = self.sockets.get(socket_id)
        if socket is None:
            self.counters.unroutable += 1
            return False
        channel = self.channels_by_name.get(name)
        if channel is None or not socket.is_member(channel):
            return False
        self._remove_subscription(socket, channel)
        return True

    def unsubscribe_nowait(self, socket_id: int, name: bytes) -> None:
        """Unsubscribes a socket from a channel without an answer; inside a flush, once that flush has ended."""
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.UNSUBSCRIBE, socket_id, name))
        else:
            self.unsubscribe(socket_id, name)

    def _remove_subscription(self, socket: Socket, channel: Channel) -> None:
        """Removes a member from a channel, and the channel from the table if that was the last member.

        A channel whose frames wait for a flush stays until the flush.
        """
        self.outgoing.record_leave(socket, channel)
        channel.remove_member(socket)
        if channel.member_count == 0 and channel.dirty_index == NO_INDEX:
            self.channels_by_name.pop(channel.name, None)

    def copy_subscriptions(self, from_name: bytes, to_name: bytes) -> None:
        """Subscribes all present subscribers of one channel to another channel too, in the order of the first one.

        O(subscribers of the first). Sockets that have `max_channels` subscriptions are left out and counted.
        """
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.COPY_SUBSCRIPTIONS, from_name, to_name))
            return
        source = self.channels_by_name.get(from_name)
        if source is None or from_name == to_name:
            return
        for socket in source.members:  # of another channel than the one that grows
            if socket is not None:
                self._add_subscription(socket, to_name)

    # Tokens. ----------------------------------------------------------------------------------------------------------

    def set_token(self, socket_id: int, token: bytes | None) -> None:
        """Sets or clears (None) the token of a socket; the socket's worker gets the token with its next message.

        A socket that has closed is found as long as an inline message handler of it runs. Any other unknown id is
        ignored and counted.
        """
        if self.outgoing.is_flushing:
            self.deferred_commands.append((commands.SET_TOKEN, socket_id, token))
            return
        socket = self.sockets.get(socket_id)
        if socket is None:
            socket = self._find_closed_in_handler(socket_id)
        if socket is None:
            self.counters.unroutable += 1
        else:
            self.store_token(socket, token, NO_INDEX, 0)

    def _find_closed_in_handler(self, socket_id: int) -> Socket | None:
        """Returns the socket of this id, closed already, if an inline handler of that socket still runs; else None."""
        current = self.inline_queue.current_socket
        if current is not None and current.id == socket_id:
            return current
        return self.inline_queue.busy_sockets.get(socket_id)

    def store_token(self, socket: Socket, token: bytes | None, worker_index: i64, number: int) -> None:
        """Stores the token of a socket, and whether the socket's worker must still be told of the token.

        Args:
            worker_index: of the worker that gave the SET_TOKEN command; NO_INDEX: no worker did.
            number: of the command in that worker's token cache; 0: the worker does not cache the token.
        """
        socket.token = token
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            return
        if worker_queue.index == worker_index and number > 0:
            socket.applied_token_number = number
            socket.is_token_stale = False
        else:
            socket.is_token_stale = True

    # Questions. -------------------------------------------------------------------------------------------------------

    def _check_answerable(self) -> None:
        """Raises CommandError for a question asked during a flush, if commands given during that flush still wait.

        An answer would not take account of those commands. Called by each question before it is answered.
        """
        if self.deferred_commands and self.outgoing.is_flushing:
            raise CommandError(CALL_INSIDE_FLUSH_ERROR)

    def is_open(self, socket_id: int) -> bool:
        """Returns whether a socket is registered: from before its open handler runs until it begins to close."""
        self._check_answerable()
        return socket_id in self.sockets

    def subscriber_count(self, name: bytes) -> int:
        """Returns how many sockets are subscribed to a channel; 0 for an unknown name."""
        self._check_answerable()
        channel = self.channels_by_name.get(name)
        return 0 if channel is None else int(channel.member_count)

    def subscribers(self, name: bytes) -> list[int]:
        """Returns the ids of the sockets subscribed to a channel, in subscription order. O(subscribers)."""
        self._check_answerable()
        channel = self.channels_by_name.get(name)
        return [] if channel is None else channel.member_ids()

    def subscriptions(self, socket_id: int) -> list[bytes]:
        """Returns the names of a socket's channels, oldest subscription first; [] for an unknown id."""
        self._check_answerable()
        socket = self.sockets.get(socket_id)
        return [] if socket is None else [channel.name for channel in socket.channel_list()]

    def channels(self) -> list[bytes]:
        """Returns the names of all channels that have a subscriber. O(channels)."""
        self._check_answerable()
        return [name for name, channel in self.channels_by_name.items() if channel.member_count > 0]

    def queued_bytes(self, socket_id: int) -> int:
        """Returns the bytes that wait for a socket: sent to it alone in this turn, in its outbox, and in its transport.

        Frames count with their headers, without the overhead that `max_queue_bytes` adds for each.
        """
        self._check_answerable()
        socket = self.sockets.get(socket_id)
        if socket is None:
            return 0
        outbox = socket.outbox
        outbox_bytes: i64 = 0 if outbox is None else outbox.frame_bytes()
        return int(socket.direct_bytes + outbox_bytes) + socket.transport_bytes()
