"""Layer 3 of the broker: routes messages to workers, applies workers' commands, handles lost and replaced workers.

The highest layer of the broker (`Registry`, `Delivery`, `Broker`). Called on one thread only (the loop's).
"""

from __future__ import annotations

from typing import cast, final

from mypy_extensions import i64

from wsbroker.broker.delivery import Delivery
from wsbroker.broker.inbox import SocketInbox
from wsbroker.broker.limits import MESSAGE_OVERHEAD_BYTES, SCARCE_INBOX_BYTES
from wsbroker.broker.socket import NO_INDEX, Socket
from wsbroker.broker.worker_queue import WorkerQueue
from wsbroker.wire import commands, events


@final
class Broker(Delivery):
    """Routes messages to the workers, applies their commands and replaces workers. Loop thread only."""

    # Messages. --------------------------------------------------------------------------------------------------------

    def add_worker_queue(self, worker_index: int, credit_bytes: int, is_inline: bool = False) -> WorkerQueue:
        """Adds the queue of one more worker and returns that queue; indexes count from 0."""
        if worker_index != len(self.worker_queues):
            raise ValueError(f"worker index {worker_index} is not the next index, {len(self.worker_queues)}")
        worker_queue = WorkerQueue(worker_index, credit_bytes, is_inline)
        self.worker_queues.append(worker_queue)
        return worker_queue

    def receive_message(self, socket: Socket, data: object, size_bytes: i64) -> None:
        """Queues a client's message for the socket's worker, or in the socket's inbox while the worker is behind.

        Called by the connection for each decoded message.

        Args:
            data: `str` of a text message, `bytes` of a binary one.
            size_bytes: the payload on the wire.
        """
        self.counters.messages_received += 1
        worker_queue = socket.worker_queue
        if worker_queue.is_inline:
            self.inline_queue.sockets.append(socket)
            self.inline_queue.events.append(data)
        else:
            cost_bytes = size_bytes + MESSAGE_OVERHEAD_BYTES
            socket.unhandled_bytes += cost_bytes
            worker_queue.unhandled_bytes += cost_bytes
            self.unhandled_bytes += cost_bytes
            if (
                not worker_queue.queue_message(socket, (events.MESSAGE, socket.id, data, int(cost_bytes)), cost_bytes)
                and not worker_queue.is_paused
            ):
                self.counters.mailboxes_full += 1
        if not worker_queue.is_dirty:
            self._mark_worker_queue_dirty(worker_queue)

    def deliver_batches(self) -> None:
        """Hands each worker its batch of events of this turn; called once per turn. The inline runner takes its own."""
        while self.dirty_worker_queues:  # popped singly: if handing a batch over fails, the other queues stay listed
            worker_queue = self.dirty_worker_queues.pop()
            worker_queue.is_dirty = False
            if worker_queue.events and self.deliver_batch is not None:
                batch = worker_queue.events
                worker_queue.events = []
                self.deliver_batch(worker_queue.index, batch)

    def record_handled_messages(self, worker_queue: WorkerQueue, handled: list[tuple[int, int]]) -> None:
        """Takes a worker's report of handled messages: returns their credit, resumes reading, sends waiting events.

        Args:
            handled: (socket id, cost in bytes) for each message whose handler has ended.
        """
        count: i64 = len(handled)
        worker_queue.in_flight_messages -= count
        worker_queue.handled_messages += count
        total: i64 = 0
        for socket_id, cost_bytes in handled:
            total += cost_bytes
            socket = self.sockets.get(socket_id)
            if socket is not None:
                worker_queue.return_share(socket, cost_bytes)
                self.release_inbox_bytes(socket, cost_bytes)
            elif worker_queue.sockets_with_inbox:
                # Unregistered: the socket's last messages and its CLOSE event may still wait for its share.
                unregistered = worker_queue.sockets_with_inbox.get(socket_id)
                if unregistered is not None:
                    worker_queue.return_share(unregistered, cost_bytes)
        worker_queue.in_flight_bytes -= total
        self._subtract_unhandled_bytes(worker_queue, total)
        if worker_queue.send_waiting_events():
            self._mark_worker_queue_dirty(worker_queue)
        self._subtract_dropped_bytes(worker_queue)

    def _subtract_unhandled_bytes(self, worker_queue: WorkerQueue, cost_bytes: i64) -> None:
        """Subtracts the cost of handled or lost messages from `unhandled_bytes` of the worker queue and the broker."""
        worker_queue.unhandled_bytes -= cost_bytes
        self.unhandled_bytes -= cost_bytes

    def _subtract_dropped_bytes(self, worker_queue: WorkerQueue) -> None:
        """Subtracts a worker queue's `dropped_bytes` from the sums of unhandled bytes, and sets `dropped_bytes` to 0.

        Called after waiting events were sent, where messages of closed sockets are dropped from inboxes.
        """
        if worker_queue.dropped_bytes:
            self._subtract_unhandled_bytes(worker_queue, worker_queue.dropped_bytes)
            worker_queue.dropped_bytes = 0

    def inbox_limit_bytes(self) -> i64:
        """Returns the bytes that one socket may have read and not yet handled, before its reading pauses."""
        limit: i64 = self.limits.inbox_bytes
        if self.unhandled_bytes < self.limits.max_inbox_bytes_total or limit < SCARCE_INBOX_BYTES:
            return limit
        return SCARCE_INBOX_BYTES

    def release_inbox_bytes(self, socket: Socket, cost_bytes: i64) -> None:
        """Subtracts a handled message's cost from its socket's unhandled bytes; resumes reading at half the limit.

        Called once per handled message. A close postponed until the last message is applied here.
        """
        socket.unhandled_bytes -= cost_bytes
        if socket.is_reading_paused and socket.unhandled_bytes * 2 <= self.inbox_limit_bytes():
            socket.resume_reading()
        if socket.pending_close is not None and socket.unhandled_bytes <= 0 and not socket.worker_queue.is_inline:
            self.apply_pending_close(socket)

    # Workers lost and replaced. ---------------------------------------------------------------------------------------

    def mark_worker_lost(
        self, worker_index: int, code: int, reason: str = "worker restart"
    ) -> list[tuple[object, ...]]:
        """Closes all sockets of a worker that died and empties its queue; later commands of that worker are ignored.

        Args:
            code: the close code for the sockets.

        Returns:
            the CLOSE events whose handler has not run, for another worker (`adopt_closes`).
        """
        worker_queue = self.worker_queues[worker_index]
        worker_queue.generation += 1
        for socket in list(self.sockets.values()):
            if socket.worker_queue is worker_queue:
                self.close_socket(socket, code, reason, code, reason)
        self.counters.messages_lost += worker_queue.count_unhandled_messages()
        self._subtract_unhandled_bytes(worker_queue, worker_queue.unhandled_bytes)
        return worker_queue.drop_all_events()

    def pause_worker_queue(self, worker_index: int) -> None:
        """Pauses the queue of a worker, so that the worker runs empty before its replacement (`WorkerQueue.pause`)."""
        self.worker_queues[worker_index].pause()

    def resume_worker_queue(self, worker_index: int) -> None:
        """Resumes a paused worker queue: the messages that waited go to the worker."""
        worker_queue = self.worker_queues[worker_index]
        if worker_queue.resume():
            self._mark_worker_queue_dirty(worker_queue)
        self._subtract_dropped_bytes(worker_queue)

    def drop_waiting_messages(self) -> int:
        """Drops the messages that still wait for workers, so that the close handlers behind them run in time.

        Called when the server stops and has no time for all messages.

        Returns:
            how many messages were dropped; they are counted as lost.
        """
        dropped: i64 = 0
        for worker_queue in self.worker_queues:
            dropped += worker_queue.drop_waiting_messages()
            if worker_queue.send_waiting_events():
                self._mark_worker_queue_dirty(worker_queue)
            self._subtract_dropped_bytes(worker_queue)
        self.counters.messages_lost += dropped
        return int(dropped)

    def replace_worker(self, worker_index: int) -> None:
        """Connects a paused, empty worker queue to a new worker and resumes the queue; its sockets stay open.

        Later commands of the old worker are ignored; the new worker gets the tokens with the messages. O(sockets).
        """
        worker_queue = self.worker_queues[worker_index]
        worker_queue.generation += 1
        self._subtract_unhandled_bytes(worker_queue, worker_queue.in_flight_bytes)
        own_sockets: list[SocketInbox] = [
            socket for socket in self.sockets.values() if socket.worker_queue is worker_queue
        ]
        worker_queue.reset_for_new_worker(own_sockets)
        self.resume_worker_queue(worker_index)

    def adopt_closes(self, worker_index: int, closes: list[tuple[object, ...]]) -> None:
        """Queues for this worker the CLOSE events that a lost worker has not handled (from `mark_worker_lost`)."""
        worker_queue = self.worker_queues[worker_index]
        for event in closes:
            worker_queue.unhandled_closes[cast(int, event[1])] = event
            worker_queue.events.append(event)
        self._mark_worker_queue_dirty(worker_queue)

    # Commands. --------------------------------------------------------------------------------------------------------

    def apply_commands(
        self, worker_index: int, generation: int, batch: list[tuple[object, ...]]
    ) -> list[tuple[object, ...]]:
        """Applies a batch of commands in order.

        Args:
            worker_index: of the worker that gave the commands; -1: a thread of the main interpreter did.
            generation: `WorkerQueue.generation` when that worker was started; the batch of a worker that was lost or
                replaced since is dropped.

        Returns:
            the commands that are the pool's to apply, and for worker -1 the ANSWER events to its questions.
        """
        pool_commands: list[tuple[object, ...]] = []
        worker_queue: WorkerQueue | None = None
        if worker_index >= 0:
            worker_queue = self.worker_queues[worker_index]
            if worker_queue.generation != generation:
                return pool_commands
        answers: list[tuple[object, ...]] = []
        for command in batch:
            try:
                self._apply_command(worker_queue, command, answers, pool_commands)
            except (TypeError, ValueError, IndexError):
                # The API checks its arguments, so only a defect of ours gets here; the other commands must be applied.
                self.counters.commands_refused += 1
        if answers:
            if worker_queue is None:
                pool_commands.extend(answers)
            else:
                worker_queue.events.extend(answers)
                self._mark_worker_queue_dirty(worker_queue)
                if self.deliver_batch is not None:  # a handler is blocked until the answer: sent now, not with the turn
                    ready = worker_queue.events
                    worker_queue.events = []
                    self.deliver_batch(worker_queue.index, ready)
        return pool_commands

    def _apply_command(
        self,
        worker_queue: WorkerQueue | None,
        command: tuple[object, ...],
        answers: list[tuple[object, ...]],
        pool_commands: list[tuple[object, ...]],
    ) -> None:
        """Applies one command of a worker or thread, by its kind; skips and counts a command of an unknown kind.

        Args:
            worker_queue: of the worker that gave the command; None: a thread of the main interpreter did.
            answers: the ANSWER event of a question is appended here.
            pool_commands: a command that is the pool's to apply is appended here.
        """
        kind = cast(int, command[0])
        if kind == commands.SEND:
            self.send(cast(int, command[1]), command[2])
        elif kind == commands.PUBLISH:
            self.publish(cast(bytes, command[1]), command[2], cast(tuple[int, ...], command[3]))
        elif kind == commands.HANDLED:
            if worker_queue is not None:
                self.record_handled_messages(worker_queue, cast(list[tuple[int, int]], command[1]))
        elif kind == commands.SUBSCRIBE:
            self.subscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
        elif kind == commands.UNSUBSCRIBE:
            self.unsubscribe_nowait(cast(int, command[1]), cast(bytes, command[2]))
        elif kind == commands.ASK:
            answers.append((events.ANSWER, command[1], self._answer_question(command)))
        elif kind == commands.SET_TOKEN:
            token_number = cast(int, command[3])
            socket = self.sockets.get(cast(int, command[1]))
            if socket is None and worker_queue is not None and token_number > 0:  # a handler of it still runs
                socket = cast(Socket | None, worker_queue.get_socket_with_inbox(cast(int, command[1])))
            if socket is None:
                self.counters.unroutable += 1
            else:
                worker_index: i64 = NO_INDEX if worker_queue is None else worker_queue.index
                self.store_token(socket, cast(bytes | None, command[2]), worker_index, token_number)
        elif kind == commands.COPY_SUBSCRIPTIONS:
            self.copy_subscriptions(cast(bytes, command[1]), cast(bytes, command[2]))
        elif kind == commands.CLOSE:
            self.close(cast(int, command[1]), cast(int, command[2]), cast(str, command[3]))
        elif kind == commands.HANDLER_FAILED:
            self.close(cast(int, command[1]), 1011, "handler error")
        elif kind == commands.CLOSE_HANDLED:
            if worker_queue is not None:
                worker_queue.unhandled_closes.pop(cast(int, command[1]), None)
        elif kind >= commands.FIRST_POOL_COMMAND:
            pool_commands.append(command)
        else:
            self.counters.commands_refused += 1

    def _answer_question(self, command: tuple[object, ...]) -> object:
        """Returns the answer to a command ``(ASK, call id, question, *arguments)``.

        An unknown question is counted as a refused command, and its answer is None.
        """
        question = cast(int, command[2])
        if question == commands.SUBSCRIBE:
            return self.subscribe(cast(int, command[3]), cast(bytes, command[4]))
        if question == commands.UNSUBSCRIBE:
            return self.unsubscribe(cast(int, command[3]), cast(bytes, command[4]))
        if question == commands.SUBSCRIBER_COUNT:
            return self.subscriber_count(cast(bytes, command[3]))
        if question == commands.SUBSCRIBERS:
            return self.subscribers(cast(bytes, command[3]))
        if question == commands.SUBSCRIPTIONS:
            return self.subscriptions(cast(int, command[3]))
        if question == commands.CHANNELS:
            return self.channels()
        if question == commands.IS_OPEN:
            return self.is_open(cast(int, command[3]))
        if question == commands.QUEUED_BYTES:
            return self.queued_bytes(cast(int, command[3]))
        self.counters.commands_refused += 1
        return None
