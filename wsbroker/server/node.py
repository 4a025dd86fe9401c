"""The composition root: one broker with its connections, workers and HTTP front, started and stopped in order.

Start:  broker → API of the main interpreter → workers (handlers imported) → listeners. So a handler that cannot be
        imported is reported before an address is bound, and `handle_worker_start` can already call the API.
Stop:   listeners → sockets (1001, in paced batches) and HTTP requests in flight → workers (close handlers run,
        `handle_worker_stop`) → API.

May import: all rooms but `cli`, `apps`, `bench`. The only module in which `front`, `pool` and `connections` meet.
"""

import asyncio
import math
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, cast

from wsbroker.broker.limits import DISCONNECT, DROP_NEW, DROP_OLD, Limits
from wsbroker.connections.connection import Connection
from wsbroker.connections.connections import Connections, ConnectionSettings
from wsbroker.connections.inline_runner import InlineHandlers, InlineRunner
from wsbroker.front.front import Front
from wsbroker.guarded_log import GuardedLog
from wsbroker.pool.local_api import LocalApi
from wsbroker.pool.pool import Pool
from wsbroker.server.memory_release import HeapTrimmer
from wsbroker.server.operator_warnings import OperatorWarnings
from wsbroker.settings import open_sockets
from wsbroker.settings.addresses import Address, BindAddress
from wsbroker.settings.checks import format_size
from wsbroker.settings.config import Config
from wsbroker.worker import api as worker_api
from wsbroker.worker import forks

logger = GuardedLog(__name__)

CLOSE_BATCH_SIZE: Final = 500
"""How many sockets are closed together in a shutdown; between batches the loop flushes, and reconnects spread out."""
CLOSE_PAUSE_S: Final = 0.05
"""Seconds between two such batches."""
CLOSE_POLL_S: Final = 0.02
"""Seconds between two checks whether all connections have ended."""
WORKERS_STOP_SHARE: Final = 0.25
"""Part of the stop timeout that is kept for the stop of the workers, however long clients take to answer a Close."""
MAX_WORKERS_STOP_SHARE_S: Final = 5.0
"""That part in seconds, at most."""
FAILED_START_STOP_S: Final = 5.0
"""How long workers that have started may take to stop, when an address cannot be bound."""
WARNING_INTERVAL_S: Final = 1.0
"""Seconds between two looks at the counters."""
SLOW_CONSUMER_POLICIES: Final = {"disconnect": DISCONNECT, "drop_new": DROP_NEW, "drop_old": DROP_OLD}


class Node:
    """One broker with its connections, workers and HTTP front. Made and used in the thread of the event loop only.

    Args:
        config: all settings.
        spec: the registered worker: the name of a module or object, or a live module, class or object.
        on_fatal: called once with the error if the broker cannot go on (workers in a crash loop).
    """

    def __init__(self, config: Config, spec: object, on_fatal: Callable[[BaseException], None]) -> None:
        self.config = config
        self.spec = spec
        self.on_fatal = on_fatal
        self.addresses: list[Address] = []
        self.connections = Connections(
            asyncio.get_running_loop(), _make_limits(config), _make_connection_settings(config)
        )
        self.broker = self.connections.broker
        self.local_api = LocalApi(self.broker, config.command_bytes)
        self.pool = Pool(config, spec, self.broker, self.local_api, on_fatal)
        self.front = Front(config, self.connections, self.pool)
        self._warning_timer: asyncio.TimerHandle | None = None
        self._warnings = OperatorWarnings(logger)
        self._heap_trimmer = HeapTrimmer()

    async def open(self, addresses: Sequence[BindAddress]) -> None:
        """Starts the workers and then listens on the addresses; closes the node again if that fails.

        Raises:
            ConfigError: the handlers cannot be loaded.
            WorkerError: a worker did not start.
            OSError: an address cannot be bound; nothing stays bound.
        """
        self.local_api.start()
        worker_api.set_default_api(self.local_api)
        forks.register_child_action(self._detach_in_child)
        try:
            self.broker.deliver_batch = self.pool.post_events
            await self.pool.start()
            self._connect_inline_runner()
            self.addresses = await self.front.listen(addresses)
        except BaseException:
            await self.close(FAILED_START_STOP_S)
            raise
        self.connections.advance_timers()
        self._run_periodic_checks()

    def _connect_inline_runner(self) -> None:
        """Connects the compiled `InlineRunner`, which calls the message handler, with the inline worker's runtime.

        Called once, when the workers have started. Does nothing for other kinds of worker. The interpreted runtime does
        the rarer work: results that need waiting, errors, slow calls, close handlers.
        """
        inline = self.pool.inline_worker
        if inline is None:
            return
        runtime, handlers = inline.runtime, inline.handlers
        inline_handlers = InlineHandlers(
            message_handler=handlers.raw_message_handler,
            arity=handlers.message_arity,
            slow_threshold_s=runtime.slow_threshold_s,
            process_result=runtime.on_message_result,
            on_failure=runtime.on_message_failed,
            on_slow_call=runtime.on_message_slow,
            begin_close_handler=runtime.begin_close_handler,
            on_missing_handler=runtime.on_message_unhandled,
        )
        runner = InlineRunner(self.broker, inline_handlers)
        runtime.resume_socket = runner.resume_socket
        runtime.is_behind = lambda: runner.is_behind
        runtime.drop_waiting_messages = runner.drop_waiting_messages
        inline.count_handled_messages = lambda: runner.handled_messages
        self.connections.inline_runner = runner

    async def reload(self) -> None:
        """Replaces the workers by new ones with the present code of the application; raises as `Pool.reload`."""
        await self.pool.reload()

    async def close(self, timeout_s: float) -> None:
        """Stops listeners, then sockets and HTTP requests together, then workers.

        A part of the time, `WORKERS_STOP_SHARE`, is kept for the workers, also if clients answer no Close.
        After `timeout_s` seconds the remaining connections and handlers are dropped. Never raises because of a stuck
        handler or client.
        """
        deadline = time.monotonic() + timeout_s
        clients_deadline = deadline - min(timeout_s * WORKERS_STOP_SHARE, MAX_WORKERS_STOP_SHARE_S)
        if self._warning_timer is not None:
            self._warning_timer.cancel()
        self.front.stop_listening()
        self.connections.stop()
        # Requests in flight need the workers: they get half of the time, the end of the handlers gets the other half.
        await asyncio.gather(self._close_sockets(clients_deadline), self.front.stop(timeout_s / 2))
        await self.pool.stop(max(0.0, deadline - time.monotonic()))
        self.connections.inline_runner = None  # no handler runs after `handle_worker_stop`
        dropped = self.connections.abort_connections()
        if dropped:
            logger.info("connections dropped count=%d", dropped)
            await asyncio.sleep(0)
        forks.unregister_child_action(self._detach_in_child)
        if worker_api.default_api is self.local_api:
            worker_api.set_default_api(None)
        self.local_api.stop()

    def _detach_in_child(self) -> None:
        """Redirects all sockets of the server to the null device, in a forked child. Called by `worker.forks` there.

        So the child neither writes to the server's connections nor keeps them open. The inline runner is told to report
        the end of every handler, where the child is to end. Cost: O(connections), about 1.5 µs each.
        """
        descriptors = self.front.open_descriptors() + open_sockets.systemd_sockets.all_descriptors()
        for slot in self.connections.timer_wheel.slots:
            for socket in slot:
                transport = cast(Connection, socket).transport
                if transport is not None:
                    descriptors.append(transport.get_extra_info("socket").fileno())
        forks.redirect_to_null_device(descriptors)
        if self.connections.inline_runner is not None:
            # Every handler counts as slow then, so that the runtime hears of its end, where the child is to end.
            self.connections.inline_runner.slow_threshold_s = -math.inf
        signal.set_wakeup_fd(-1)  # otherwise a signal to the child would wake the server's loop

    async def _close_sockets(self, deadline: float) -> None:
        """Closes all sockets with code 1001, in batches with pauses, and waits for the ends of their connections.

        After `deadline`, a time of `time.monotonic`, closes the sockets that are left at once. Waits `close_timeout` at
        most, and not beyond `deadline`. Called when the node closes.
        """
        while (
            self.connections.close_oldest_sockets(CLOSE_BATCH_SIZE, 1001, "server shutdown")
            and time.monotonic() < deadline
        ):
            await asyncio.sleep(CLOSE_PAUSE_S)
        self.connections.close_oldest_sockets(1 << 60, 1001, "server shutdown")  # out of time: all the others
        limit = min(deadline, time.monotonic() + self.config.close_timeout)
        while self.connections.connection_count and time.monotonic() < limit:
            await asyncio.sleep(CLOSE_POLL_S)

    def _run_periodic_checks(self) -> None:
        """Logs warnings about counters that have grown, updates the guards against signal handlers, and trims the heap.

        Called when the node is open, and from then on every `WARNING_INTERVAL_S` by a timer. The broker itself only
        counts.
        """
        counters = self.broker.counters
        limit = self.config.max_channels_per_socket
        self._warn_if_grown(
            counters.subscriptions_refused,
            f"a subscription was refused: a socket may hold {limit} (max_channels_per_socket)",
        )
        self._warn_if_grown(
            counters.slow_consumers, "a slow consumer was closed with 1013 (max_queue_bytes, write_timeout)"
        )
        self._warn_if_grown(
            counters.overload_closes,
            f"more than {format_size(self.broker.limits.max_waiting_bytes)} waited for all clients together "
            "(max_waiting_bytes): those for whom most waited were closed with 1013",
        )
        self._warn_if_grown(
            self.front.answers_shed,
            f"answers of more than {format_size(self.front.max_answer_bytes)} waited for all HTTP clients together "
            "(max_waiting_bytes): connections for which most waited were aborted",
        )
        self._warn_if_grown(
            counters.frames_dropped,
            f"messages to slow consumers are dropped (slow_consumer={self.config.slow_consumer})",
        )
        self._warn_if_grown(
            counters.mailboxes_full, "a worker is behind: messages wait with their sockets (mailbox_bytes, workers)"
        )
        self._warn_if_grown(
            self.front.requests_shed,
            f"a request was refused with 503: all together held {format_size(self.front.max_request_bytes)} "
            "(max_request_bytes_total)",
        )
        self._warn_if_grown(
            counters.commands_refused, "commands of a worker were not understood and ignored: please report this"
        )
        self.local_api.refresh_signal_handlers()
        self._trim_heap_if_much_was_freed()
        self._warning_timer = asyncio.get_running_loop().call_later(WARNING_INTERVAL_S, self._run_periodic_checks)

    def _warn_if_grown(self, count: int, text: str) -> None:
        """Logs a warning if a counter has grown since the last warning with this text, which is long enough ago.

        See `OperatorWarnings.warn_if_grown`; the time is that of the loop.
        """
        self._warnings.warn_if_grown(count, text, asyncio.get_running_loop().time())

    def _trim_heap_if_much_was_freed(self) -> None:
        """Returns freed memory to the system if much less data waits now than waited at most since the last trim.

        Resets the peaks of the bytes that wait in the broker and in the front. Called by `_run_periodic_checks`.
        """
        outgoing, front = self.broker.outgoing, self.front
        held = int(outgoing.waiting_bytes) + front.held_bytes
        peak = int(outgoing.peak_waiting_bytes) + front.reset_peak_held_bytes()
        outgoing.peak_waiting_bytes = outgoing.waiting_bytes
        self._heap_trimmer.trim_if_much_was_freed(held, peak, time.monotonic())

    def collect_statistics(self) -> dict[str, int]:
        """Returns the counters and sizes of the broker, its connections and the HTTP front, by name."""
        counters = self.broker.counters
        return {
            "sockets": len(self.broker.sockets),
            "connections": self.connections.connection_count,
            "channels": len(self.broker.channels_by_name),
            "sockets_opened": counters.sockets_opened,
            "sockets_closed": counters.sockets_closed,
            "messages_received": counters.messages_received,
            "messages_lost": counters.messages_lost,
            "publications": counters.publications,
            "unheard": counters.unroutable,
            "frames_dropped": counters.frames_dropped,
            "slow_consumers": counters.slow_consumers,
            "overload_closes": counters.overload_closes,
            "waiting_bytes": int(self.broker.outgoing.waiting_bytes),
            "subscriptions_refused": counters.subscriptions_refused,
            "commands_refused": counters.commands_refused,
            "inboxes_full": counters.inboxes_full,
            "mailboxes_full": counters.mailboxes_full,
            "timers": int(self.connections.timer_wheel.timer_count),
            "http_connections": len(self.front.http_connections),
            "request_bytes": self.front.request_bytes,
            "requests_shed": self.front.requests_shed,
            "answer_bytes": self.front.answer_bytes,
            "answers_shed": self.front.answers_shed,
            "inbox_bytes": int(self.broker.unhandled_bytes),
            "command_bytes": self.local_api.waiting_bytes,
        }


def _make_limits(config: Config) -> Limits:
    """Returns the limits that the broker's core keeps, made from the settings."""
    return Limits(
        config.max_queue_bytes,
        SLOW_CONSUMER_POLICIES[config.slow_consumer],
        config.inbox_bytes,
        config.max_channels_per_socket,
        config.waiting_bytes_limit(),
        config.inbox_bytes_limit(),
    )


def _make_connection_settings(config: Config) -> ConnectionSettings:
    """Returns the limits and times of WebSocket connections, made from the settings."""
    return ConnectionSettings(
        max_connections=config.connection_limit(),
        max_message_size=config.max_message_size,
        read_budget_bytes=config.read_budget_bytes,
        read_budget_frames=config.read_budget_frames,
        flush_interval=config.flush_interval,
        ping_interval=config.ping_interval,
        pong_timeout=config.pong_timeout,
        write_timeout=config.write_timeout,
        close_timeout=config.close_timeout,
    )
