"""The reading half of an HTTP connection: parses within a budget, collects bodies, counts and limits the bytes held.

`parse_pending_data` feeds aiohttp's parser slice by slice (`message_slicer`), as much as one loop turn allows. Usual
requests, whose head came whole, skip the slicer (`_read_whole_head`). Every byte that is held of unanswered requests is
counted in `ConnectionResources.request_bytes`; past the limit the connection that adds bytes refuses its own unfinished
requests. The states and their transitions stand in `http_connection`; this half only reads `state`.

The file has more than 500 lines because parsing, bodies and the count of bytes decide by the same dozen fields: in
separate objects each of them would have to read and set the others' fields for every slice.
"""

from collections.abc import Sequence
from typing import Final, cast

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import PIPELINE_HIGH_WATER, HttpProtocol, ParsedRequest
from wsbroker.front.body_collector import BODY_COMPLETE, BodyCollector
from wsbroker.front.connection_resources import ConnectionResources
from wsbroker.front.conversion import content_length, header_fields_of
from wsbroker.front.message_slicer import EMPTY_LINE, MessageSlicer
from wsbroker.websocket.handshake import offers_websocket

NEW: Final = 0
"""No request is read yet."""
OPENING: Final = 1
"""The open handler runs for the first request, an upgrade."""
SERVING: Final = 2
"""aiohttp's task answers the requests."""
LINGERING: Final = 3
"""The last response is written; further input is discarded until the client closes."""
OVER_LIMIT: Final = 4
"""There are too many connections; the first input is answered with 503."""
ENDED: Final = 5
"""The connection is lost, or is a WebSocket connection now."""

MAX_BYTES_BEHIND_UPGRADE: Final = aiohttp_private.READ_BUFFER_BYTES
"""How much a client may send behind its upgrade request before the 101; then reading stops until the socket is open."""

MIN_CHUNK_FRAMING_BYTES: Final = len("1\r\n") + len("\r\n")
"""The fewest bytes of framing that a chunk takes."""

MAX_FAST_PATH_BYTES: Final = 8 * 1024
"""The longest head, and the longest body, that is parsed without the slicer."""

MEMORY_PER_CHUNK: Final = 90
"""Bytes of memory for a chunk besides its content, until its body is collected."""

ASSUMED_LINE_BYTES: Final = 16
"""The assumed length of a line in a head whose lines are not counted."""

MAX_FRAMING_RATIO: Final = 2
"""A chunked body is refused (400) when its framing has taken more than `max_head_size`, and more than so many times its
content: chunks of one or two bytes, thousands of them. A chunk costs the loop 3 µs whatever its size, and even the
smallest line of JSON, ``{}`` and its line break, stays below."""

MAX_PARSED_PREFIX_BYTES: Final = 64 * 1024
"""How many parsed bytes may be kept in front of pending input, to save copying the pending input."""

MAX_UNCOUNTED_BYTES: Final = 4 * 1024
"""A body that is complete and has no more bytes is not counted: counting would cost more than it tells."""

MEMORY_PER_HEAD_BYTE: Final = 3
"""Bytes of memory for each byte of a head: raw and decoded."""
MEMORY_PER_HEAD_LINE: Final = 400
"""Bytes of memory for each line of a head besides: the objects for name and value."""


class RequestReader(HttpProtocol):
    """Reads the requests of one HTTP connection; the base class of `HttpConnection`, which makes the transitions.

    Args:
        resources: the limits, deadlines and counts that all connections share.
    """

    __slots__ = (
        "_is_parsing",
        "_counted_bytes",
        "_current_body_bytes",
        "_failed_body_status",
        "_framing_bytes",
        "_incomplete_bytes",
        "_incomplete_head_lines",
        "_request_memory_costs",
        "_slicer",
        "body_bytes",
        "body_collector",
        "discards_input",
        "incomplete_body",
        "resources",
        "response_count",
        "state",
    )

    def __init__(self, resources: ConnectionResources) -> None:
        super().__init__(
            resources.aiohttp_server, resources.loop, resources.keepalive_timeout_s, resources.max_head_bytes
        )
        self.resources: Final = resources
        self.state = NEW
        """The state; only `HttpConnection` changes it."""
        self.response_count = 0
        """How many requests are answered or being answered."""
        self.discards_input = False
        """Whether further input is discarded: the framing is lost, or no request may follow."""
        self.incomplete_body: StreamReader | None = None
        """The body of the newest request, while it is incomplete."""
        self.body_bytes = 0
        """The size of the newest request's body so far."""
        self.body_collector: BodyCollector | None = None
        """The collector of the current request's body, while it is collected."""
        self._slicer: MessageSlicer | None = None
        """The object that divides input into slices for the parser; created when it is first used."""
        self._incomplete_bytes = 0
        """Bytes of a head that is not complete yet; within a body, bytes since the body last grew."""
        self._incomplete_head_lines = 0
        """Lines of a head that is not complete yet."""
        self._framing_bytes = 0
        """Bytes of the newest request's body that are no content: sizes and ends of chunks, extensions, trailers."""
        self._failed_body_status = 400
        """The status of the response to a request whose body was abandoned."""
        self._current_body_bytes = 0
        """The size of the current request's complete body, until the request is answered."""
        self._request_memory_costs: list[int] = []
        """The memory that each unanswered request takes besides its body, in bytes, oldest request first."""
        self._counted_bytes = 0
        """All other bytes that this connection holds of unanswered requests, as last counted."""
        self._is_parsing = False
        """Whether `parse_pending_data` is on the stack (collecting a body from there asks to parse again)."""

    @property
    def remote(self) -> str:
        """The client's address; ``""`` for a Unix socket, or when the connection is lost."""
        transport = self.live_transport
        peer = None if transport is None else transport.get_extra_info("peername")
        # An inherited socket may take both families; its IPv4 peers have mapped addresses (RFC 4291 section 2.5.5.2).
        return str(peer[0]).removeprefix("::ffff:") if isinstance(peer, tuple) else ""

    # Transitions, made by `HttpConnection`. -------------------------------------------------------------------------

    def begin_upgrade(self, head: RawRequestMessage) -> None:
        """Answers the first request, which is an upgrade without a body."""
        raise NotImplementedError

    def begin_serving(self, requests: Sequence[ParsedRequest]) -> None:
        """Hands the connection over to aiohttp's task, which answers the given requests first."""
        raise NotImplementedError

    def on_head_timeout(self) -> None:
        """Ends the wait for a request head. Called by `head_deadlines`."""
        raise NotImplementedError

    def close_after_failure(self) -> None:
        """Closes the connection after an exception in the server's own code. Called while the exception is handled."""
        raise NotImplementedError

    # Parsing. -------------------------------------------------------------------------------------------------------

    def read_input(self, data: bytes) -> None:
        """Takes input in state NEW or SERVING and parses as much of it as this loop turn allows.

        Args:
            data: bytes from the client, split anywhere; ``b""`` parses pending input on.
        """
        if self.discards_input:
            return
        if data:
            if (
                not self.unparsed_data
                and self.incomplete_body is None
                and not self._incomplete_bytes
                and self._read_whole_head(data)
            ):
                return
            self.unparsed_data = self.unparsed_data + data if self.unparsed_data else data
        self.parse_pending_data()

    def _read_whole_head(self, data: bytes) -> bool:
        """Parses input that begins with a whole request head, and the body behind it if that is whole too.

        This is the usual case, in a third of the time of `parse_pending_data`. Called by `read_input` while no earlier
        input is pending.

        Returns:
            whether the input was read; else nothing has changed.
        """
        end = data.find(EMPTY_LINE, 0, MAX_FAST_PATH_BYTES) + 4
        if (
            end <= 4
            or end > self.resources.max_head_bytes
            or not self.can_parse
            or self.has_upgrade
            or self.closes_after_responses
        ):
            return False
        size = len(data)
        requests, is_upgrade = self.parse_slice(data if end == size else data[:end])
        if not requests:  # the preface of HTTP/2, which has an empty line in it
            self._incomplete_bytes = end
            self.unparsed_data = data[end:]
            self.parse_pending_data()
            return True
        head, body = requests[0]
        if is_upgrade and self.state == NEW and body is aiohttp_private.NO_BODY:
            self.has_upgrade = True
            if end != size:
                self.unparsed_data = data[end:]
            self.begin_upgrade(cast(RawRequestMessage, head))
            return True
        self.has_upgrade = is_upgrade
        self._incomplete_bytes = end
        self._record_head(requests[0])
        if end != size and not self._read_whole_body(data, end):
            self.unparsed_data = data[end:]
            self.parse_pending_data(requests)
            return True
        self._dispatch_requests(requests)
        if (
            self.incomplete_body is not None
            or self.has_upgrade
            or self.queued_request_count >= PIPELINE_HIGH_WATER
            or self._is_over_total_limit()
        ):
            self._continue_or_pause_reading()
        return True

    def _read_whole_body(self, data: bytes, start: int) -> bool:
        """Parses a request body of known length if the rest of `data` from `start` on is exactly that body.

        Called by `_read_whole_head` when it has parsed the request's head.

        Returns:
            whether the body was read; else nothing has changed.
        """
        slicer, body_bytes = self._slicer, len(data) - start
        if (
            self.incomplete_body is None
            or slicer is None
            or slicer.remaining_body_bytes != body_bytes
            or body_bytes > MAX_FAST_PATH_BYTES
        ):
            return False
        slicer.remaining_body_bytes = 0
        self.parse_slice(data[start:])
        self.incomplete_body = None
        self.body_bytes = body_bytes
        if body_bytes > MAX_UNCOUNTED_BYTES:
            self.count_held_bytes()
        return True

    def parse_pending_data(self, already_parsed: Sequence[ParsedRequest] = ()) -> int:
        """Parses pending input, as much as one loop turn allows; `ParseScheduler` calls again for further input.

        Args:
            already_parsed: requests that were parsed before and are dispatched before those parsed now.

        Returns:
            how many lines of heads and chunks were parsed.
        """
        if self._is_parsing:
            return 0
        self._is_parsing = True
        budget = remaining_lines = self.resources.parse_scheduler.max_lines
        requests = list(already_parsed)
        data, position = self.unparsed_data, self.parsed_prefix_bytes
        slicer = self._slicer or self._make_message_slicer()
        try:
            while remaining_lines > 0 and position < len(data) and self._may_parse_next_slice(len(requests)):
                end = line_count = 0
                if self.incomplete_body is None and not self._incomplete_bytes:
                    # A whole head, the usual case, needs no slicer.
                    end = data.find(EMPTY_LINE, position, position + MAX_FAST_PATH_BYTES) + 4
                    line_count = (end - position) // ASSUMED_LINE_BYTES
                if end < 4:
                    end = slicer.find_slice_end(data, position)
                    line_count = slicer.slice_lines
                data_slice = data[position:end]  # the same object if it is all
                position = end
                remaining_lines -= self._parse_and_count_slice(data_slice, line_count, requests)
            self._keep_unparsed_data(data, position)
            self._dispatch_requests(requests)
        finally:
            self._is_parsing = False
        if self.state == NEW or self.state == SERVING:
            self._continue_or_pause_reading()
        return budget - remaining_lines

    def _make_message_slicer(self) -> MessageSlicer:
        """Creates the `MessageSlicer`, which divides input into slices for the parser. Called when it is first used."""
        slicer = self._slicer = MessageSlicer(self.resources.parse_scheduler.max_lines)
        return slicer

    def _keep_unparsed_data(self, data: bytes, position: int) -> None:
        """Keeps `data` from `position` on as pending input, to be parsed later; the bytes before it are parsed.

        (The rest is copied only when many bytes are parsed, not after each small slice: a read of one-byte chunks has
        341 slices.)
        """
        if position == len(data):
            self.drop_unparsed_data()
        elif self.has_upgrade or position >= MAX_PARSED_PREFIX_BYTES:
            self.unparsed_data, self.parsed_prefix_bytes = data[position:], 0
        else:
            self.parsed_prefix_bytes = position

    def _may_parse_next_slice(self, parsed_count: int) -> bool:
        """Returns whether the next slice of pending input may be parsed in this loop turn.

        Returns False while aiohttp's queue or a body's buffer is full, behind an upgrade or the last request, and while
        other connections are before this one in the queue for parsing chunks.

        Args:
            parsed_count: how many requests are parsed and not dispatched yet.
        """
        if (
            self.discards_input
            or self.has_upgrade
            or not self.can_parse
            or self.queued_request_count + parsed_count >= PIPELINE_HIGH_WATER
        ):
            return False
        if self.incomplete_body is None:
            return not self.closes_after_responses and (not parsed_count or self.state == SERVING)
        # While other connections wait for their turn to parse chunks, this one's chunks wait behind theirs.
        assert self._slicer is not None
        return self._slicer.remaining_body_bytes > 0 or self.resources.parse_scheduler.may_parse_chunks(self)

    def _continue_or_pause_reading(self) -> None:
        """Schedules the parsing of pending input or drops that input, and pauses or resumes reading the transport.

        Called after parsing, in state NEW or SERVING. Also counts the bytes held.
        """
        if self.has_upgrade:
            self.limit_early_bytes()
        elif self.discards_input or self.closes_after_responses and self.incomplete_body is None:
            self.drop_unparsed_data()
            self.update_reading()
        else:
            if self.unparsed_data and self.can_parse:
                self.resources.parse_scheduler.schedule_parsing(self)
            self.update_reading()
        if (
            self.unparsed_data
            or self._incomplete_bytes
            or self.body_bytes > MAX_UNCOUNTED_BYTES
            or self._counted_bytes
            or self._is_over_total_limit()
        ):
            self.count_held_bytes()

    def limit_early_bytes(self) -> None:
        """Stops reading when the client has sent MAX_BYTES_BEHIND_UPGRADE bytes behind its upgrade request."""
        if len(self.unparsed_data) >= MAX_BYTES_BEHIND_UPGRADE:
            self.stop_reading()

    def _parse_and_count_slice(self, data_slice: bytes, line_count: int, requests: list[ParsedRequest]) -> int:
        """Parses one slice of the input and counts its bytes for the request head or body that the slice belongs to.

        A head of more than `max_head_bytes` becomes an error with status 431, and further input is discarded.

        Args:
            data_slice: the slice.
            line_count: how many line breaks the slice has.
            requests: the list to which the request is appended whose head the slice completes.

        Returns:
            what the slice cost, in lines of heads and chunks.
        """
        parsed, is_upgrade = self.parse_slice(data_slice)
        if is_upgrade:
            self.has_upgrade = True
        if self.incomplete_body is not None:
            return self._record_body_progress(len(data_slice), line_count, bool(parsed))
        self._incomplete_bytes += len(data_slice)
        self._incomplete_head_lines += line_count
        if self._incomplete_bytes > self.resources.max_head_bytes and not (parsed and _is_parse_error(parsed[0])):
            self.discards_input = True
            requests.append(aiohttp_private.make_failed_request(431))
        elif parsed:
            self._record_head(parsed[0])
            requests.append(parsed[0])
        elif self.state == SERVING:
            self.resources.head_deadlines.add(self)
        return 1 + line_count

    def _record_head(self, newest: ParsedRequest) -> None:
        """Counts the memory of a request whose head was parsed, and stores its body's stream, or that it is an upgrade.

        If the parser has returned an error in place of the request, further input is discarded.
        """
        head, body = newest
        if not isinstance(head, RawRequestMessage):
            self.discards_input = True
            return
        cost = self._incomplete_bytes * MEMORY_PER_HEAD_BYTE + len(head.raw_headers) * MEMORY_PER_HEAD_LINE
        self._request_memory_costs.append(cost)
        self.resources.request_bytes += cost
        self._incomplete_bytes = self._incomplete_head_lines = self.body_bytes = self._framing_bytes = 0
        if self.state == SERVING:
            self.resources.head_deadlines.remove(self)
        has_body = aiohttp_private.has_body(body)
        if not has_body:
            # aiohttp stops only behind an Upgrade that names websocket and nothing else.
            if head.upgrade and not self.has_upgrade:
                self.has_upgrade = offers_websocket(header_fields_of(head))
        elif not self.has_upgrade:
            self.incomplete_body = body
            if not head.chunked:
                (self._slicer or self._make_message_slicer()).remaining_body_bytes = content_length(head) or 0

    def _record_body_progress(self, slice_bytes: int, line_count: int, is_invalid: bool) -> int:
        """Counts a parsed slice of the newest request's body; gives up a body that is invalid or has too much framing.

        Framing is all that is no content: sizes and ends of chunks, extensions, trailers.

        Args:
            slice_bytes: the size of the slice.
            line_count: how many line breaks the slice has.
            is_invalid: whether the slice could not be parsed.

        Returns:
            what the slice cost, in lines: content costs nothing, so at most as many as there can have been chunks.
        """
        body = self.incomplete_body
        assert body is not None
        content_bytes = body.total_bytes - self.body_bytes
        self.body_bytes += content_bytes
        framing_bytes = slice_bytes - content_bytes
        self._framing_bytes += framing_bytes
        if framing_bytes and self.queued_request_count and self._request_memory_costs:
            # The body is not collected yet: aiohttp keeps an object for each chunk.
            cost = framing_bytes // MIN_CHUNK_FRAMING_BYTES * MEMORY_PER_CHUNK
            self._request_memory_costs[-1] += cost
            self.resources.request_bytes += cost
        self._incomplete_bytes = 0 if content_bytes else self._incomplete_bytes + framing_bytes
        limit = self.resources.max_head_bytes
        if is_invalid:
            self.abandon_newest_body()
        elif body.is_eof():
            self.incomplete_body = None
            self._incomplete_bytes = 0
        elif self._incomplete_bytes > limit:  # chunk extensions or trailers without end
            self.abandon_newest_body()
        elif self._framing_bytes > max(limit, MAX_FRAMING_RATIO * self.body_bytes):
            self.abandon_newest_body()
        if self.body_collector is not None:
            self.body_collector.collect_available_bytes()
        return 1 + min(line_count, framing_bytes // MIN_CHUNK_FRAMING_BYTES)

    def _dispatch_requests(self, requests: Sequence[ParsedRequest]) -> None:
        """Passes parsed requests to aiohttp's task, or to `begin_upgrade` if the connection's first is an upgrade."""
        if not requests:
            return
        if self.state != NEW:
            self.enqueue_requests(requests)
            return
        head, body = requests[0]
        if self.has_upgrade and isinstance(head, RawRequestMessage) and not aiohttp_private.has_body(body):
            self.begin_upgrade(head)
        else:
            self.begin_serving(requests)

    # Bodies. --------------------------------------------------------------------------------------------------------

    def read_complete_body(self, content: StreamReader) -> bytes | None:
        """Returns the body of the current request if it is complete already, else None.

        Args:
            content: the stream into which the parser has put the body.
        """
        if not content.is_eof() or content.exception() is not None:
            return None
        body = content.read_nowait()
        self._current_body_bytes = len(body)
        if self._current_body_bytes > MAX_UNCOUNTED_BYTES:
            self.count_held_bytes()
        return body

    async def read_body(self, content: StreamReader, limit_bytes: int) -> bytes | int:
        """Waits for the body of the current request, which `read_complete_body` has found incomplete.

        Args:
            content: the stream into which the parser puts the body.
            limit_bytes: the most bytes that the body may have.

        Returns:
            the body, or the status of the error response if the body is too long, invalid, late or abandoned.
        """
        collector = self.body_collector = BodyCollector(content, limit_bytes, self.resources.loop.create_future())
        self.resources.body_deadlines.add(self)
        self._collect_then_parse(collector)
        try:
            outcome = await collector.outcome
        finally:
            self.body_collector = None
            self.resources.body_deadlines.remove(self)
        if outcome != BODY_COMPLETE:
            return self._failed_body_status if outcome == 400 else outcome
        self._current_body_bytes = collector.size_bytes
        return collector.pop_body()

    def _collect_then_parse(self, collector: BodyCollector) -> None:
        """Moves the bytes of the body that are parsed already to `collector`, then parses pending input.

        Called when `read_body` begins.
        """
        self._is_parsing = True
        try:
            collector.collect_available_bytes()
        finally:
            self._is_parsing = False
        self.parse_pending_data()

    def on_body_timeout(self) -> None:
        """Has the current request answered with 408, because its body is late. Called by `body_deadlines`."""
        self.abort_current_body(408)

    def abort_current_body(self, status: int) -> None:
        """Stops collecting the current request's body, if one is collected; `read_body` returns `status`."""
        if self.body_collector is not None:
            self.body_collector.set_outcome(status)

    def abandon_newest_body(self, status: int = 400) -> None:
        """Gives up reading the newest request's incomplete body, and discards all further input.

        Args:
            status: the status of the error response to the body's request.
        """
        self.discards_input = True
        self._failed_body_status = status
        body, self.incomplete_body = self.incomplete_body, None
        if body is not None:
            aiohttp_private.fail_body_stream(body)
        if self.body_collector is not None:
            self.body_collector.collect_available_bytes()

    # The bytes held. ------------------------------------------------------------------------------------------------

    def _is_over_total_limit(self) -> bool:
        """Returns whether all connections together hold more bytes of unanswered requests than `max_request_bytes`."""
        return self.resources.request_bytes > self.resources.max_request_bytes

    def count_held_bytes(self) -> None:
        """Counts the bytes that this connection holds besides complete heads; past the total limit refuses requests."""
        held = len(self.unparsed_data) + self._current_body_bytes
        if self.incomplete_body is None:
            held += self._incomplete_bytes * MEMORY_PER_HEAD_BYTE + self._incomplete_head_lines * MEMORY_PER_HEAD_LINE
        if self.body_collector is not None:
            held += self.body_collector.size_bytes
        held += self.queued_body_bytes()
        resources = self.resources
        resources.request_bytes += held - self._counted_bytes
        self._counted_bytes = held
        if resources.request_bytes > resources.peak_request_bytes:
            resources.peak_request_bytes = resources.request_bytes
        if resources.request_bytes > resources.max_request_bytes:
            self._refuse_unfinished_requests()

    def has_room_for_early_bytes(self) -> bool:
        """Returns whether the bytes behind the first request, an upgrade, fit under all connections' common limit."""
        return self.resources.request_bytes + len(self.unparsed_data) <= self.resources.max_request_bytes

    def _refuse_unfinished_requests(self) -> None:
        """Refuses this connection's incomplete or queued requests with 503, and discards its further input.

        Called when all connections together hold more than `max_request_bytes`. A request whose body is complete and
        whose handler runs goes on. While an upgrade waits for its open handler, nothing is refused, and only reading
        stops.
        """
        if self.discards_input or self.state not in (NEW, OPENING, SERVING):
            return
        if self.has_upgrade and (self.state != SERVING or not self.queued_request_count):
            self.stop_reading()  # the open handler runs for the upgrade: no further bytes are taken meanwhile
            return
        has_begun = self.response_count > 0 and not self.is_idle
        replaced_count = max(self.queued_request_count - (not has_begun), int(self.has_upgrade))
        if self.incomplete_body is not None:
            self.abandon_newest_body(503)
        elif self.state == NEW and self._incomplete_bytes:
            self.discards_input = True
            self.begin_serving([aiohttp_private.make_failed_request(503)])
        elif self.unparsed_data or self._incomplete_bytes or replaced_count:
            self.discards_input = True
            self.replace_newest_with_error(503, replaced_count)
            for _ in range(replaced_count):
                self.resources.request_bytes -= self._request_memory_costs.pop()
        else:
            return
        resources = self.resources
        resources.requests_shed += 1
        resources.log.warn_or_count(
            "no room for another request remote=%s bytes=%d", self.remote, resources.request_bytes
        )
        resources.head_deadlines.remove(self)
        self.drop_unparsed_data()
        self._incomplete_bytes = self._incomplete_head_lines = 0
        self.update_reading()
        self.count_held_bytes()

    def release_oldest_request(self) -> None:
        """Stops counting the bytes of the current request. Called when the request is answered."""
        if self._request_memory_costs:
            self.resources.request_bytes -= self._request_memory_costs.pop(0)
        self._current_body_bytes = 0
        if self._counted_bytes:
            self.count_held_bytes()

    def release_counted_bytes(self) -> None:
        """Stops counting all bytes of this connection. Called when it is lost or becomes a WebSocket connection."""
        if self._request_memory_costs or self._counted_bytes:
            self.resources.request_bytes -= sum(self._request_memory_costs) + self._counted_bytes
            self._counted_bytes = 0
            self._request_memory_costs.clear()


def _is_parse_error(request: ParsedRequest) -> bool:
    """Returns whether the parser has returned an error in place of a request.

    Args:
        request: an entry of the parser's result.
    """
    return not isinstance(request[0], RawRequestMessage)
