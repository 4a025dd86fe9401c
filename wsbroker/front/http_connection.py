"""One accepted connection until it is lost or becomes a socket: the asyncio protocol of the front.

    FRESH ──first request──▶ SERVING ──────────▶ LEAVING   the last answer is written, what still comes is discarded
      │                       │   ▲
      │ upgrade, and there is │   │ refused
      │ an open handler       │   │
      ├────────▶ OPENING ─────┼───┘
      │             │         │ upgrade
      ▼             ▼         ▼
    GONE (let go to the sockets, or lost: from everywhere)

A connection too many is TURNED_AWAY instead: its first bytes are answered 503, whatever they are.
FRESH is ours: bytes go to aiohttp's parser directly, so that the usual connection (one upgrade request in one segment)
costs no task, no future and no timer. Everything else is served by aiohttp's own task (SERVING).

In both, `parse_pending_data` feeds the parser slice by slice (`slicer`), as much as one turn of the loop allows, and counts what
is held of requests that are not answered. The file is long because that reading decides by these states, line by line.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import PIPELINE_HIGH_WATER, HttpProtocol, ParsedRequest
from wsbroker.front.conversion import (
    RAW_CONNECTION_LIMIT,
    RAW_INTERNAL_ERROR,
    content_length,
    error_response,
    header_fields_of,
    make_complete_response,
    request_bytes_limit_response,
)
from wsbroker.front.interfaces import OpeningConnection
from wsbroker.front.request_body import BODY_COMPLETE, BodyCollector
from wsbroker.front.request_slicer import EMPTY_LINE, MessageSlicer
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.response import HttpResponse
from wsbroker.websocket.handshake import offers_websocket

if TYPE_CHECKING:
    from wsbroker.front.front import Front

log: Final = GuardedLog(__name__)

NEW: Final = 0
OPENING: Final = 1
SERVING: Final = 2
LINGERING: Final = 3
OVER_LIMIT: Final = 4
ENDED: Final = 5
STATE_NAMES: Final = ("fresh", "opening", "serving", "leaving", "turned away", "gone")

MAX_BYTES_BEHIND_UPGRADE: Final = aiohttp_private.READ_BUFFER_BYTES
"""What a client may send behind its upgrade request before our 101; then reading stops until the socket is open."""

MIN_CHUNK_FRAMING_BYTES: Final = len("1\r\n") + len("\r\n")
"""The fewest bytes of framing that a chunk takes."""

MAX_FAST_PATH_BYTES: Final = 8 * 1024
"""A request that is larger is divided like everything that is unusual."""

MEMORY_PER_CHUNK: Final = 90
"""Bytes of memory for a chunk besides its content, until its request's turn comes."""

ASSUMED_LINE_BYTES: Final = 16
"""The length of a line in a head, where lines are not counted."""

MAX_FRAMING_RATIO: Final = 2
"""A chunked body is refused (400) when its framing has taken more than `max_head_size`, and more than so many times its
content: chunks of one or two bytes, thousands of them. A chunk costs the loop 3 µs whatever is in it, and even the
smallest line of JSON, ``{}`` and its line break, stays below."""

MAX_PARSED_PREFIX_BYTES: Final = 64 * 1024
"""What may be kept although it is parsed, to save copying the rest."""

HALF_CLOSED_CHECK_S: Final = 0.02
"""When it is looked whether a half-closed connection has been answered already; aiohttp's task knows by then."""
MAX_UNCOUNTED_BYTES: Final = 4 * 1024
"""A body that has been read whole and is no larger is not counted: that would cost more than it tells."""

MEMORY_PER_HEAD_BYTE: Final = 3
"""Bytes of memory for each byte of a head: as it came, and decoded."""
MEMORY_PER_HEAD_LINE: Final = 400
"""Bytes of memory for each line of a head besides: the objects that hold name and value."""


class HttpConnection(HttpProtocol):
    """See the module.

    Args:
        front: whose connection it is.
    """

    __slots__ = (
        "answer_bytes",
        "response_count",
        "incomplete_body",
        "body_bytes",
        "failed_body_status",
        "slicer",
        "framing_bytes",
        "front",
        "request_memory_costs",
        "is_parsing",
        "discards_input",
        "is_half_closed",
        "is_last_request_read",
        "opening_connection",
        "current_body_bytes",
        "first_request_refusal",
        "other_counted_bytes",
        "state",
        "incomplete_bytes",
        "incomplete_head_lines",
        "last_unsent_bytes",
        "body_collector",
    )

    def __init__(self, front: "Front[Any]") -> None:
        super().__init__(front.aiohttp_server, front.loop, front.config.keepalive_timeout, front.config.max_head_size)
        self.front: Front[Any] = front
        self.state = NEW
        self.response_count = 0
        """Requests that were answered, or are being answered."""
        self.slicer: MessageSlicer | None = None
        """Where what is read is divided; made for the first that has to be."""
        self.incomplete_bytes = 0
        """Bytes of a head that is not complete yet; within a body, bytes since the body last grew."""
        self.incomplete_head_lines = 0
        """Lines of a head that is not complete yet."""
        self.incomplete_body: StreamReader | None = None
        """The newest request's body, for as long as it is incomplete."""
        self.body_bytes = 0
        """What `incomplete_body` had grown to."""
        self.framing_bytes = 0
        """Bytes of `incomplete_body` that are no content: sizes and ends of chunks, extensions, trailers."""
        self.failed_body_status = 400
        """The answer to a request whose body has been given up."""
        self.body_collector: BodyCollector | None = None
        """The body of the request that is being answered, while it is read."""
        self.current_body_bytes = 0
        """The size of that body once it has been read, until the request is answered."""
        self.request_memory_costs: list[int] = []
        """What each request that is not answered yet takes of memory besides the bytes of its body."""
        self.other_counted_bytes = 0
        """All else that is held of requests which are not answered, as last counted."""
        self.is_parsing = False
        """Whether `parse_pending_data` is on the stack (a body that is read from there asks for more)."""
        self.opening_connection: OpeningConnection | None = None
        """The socket that an open handler is being asked about."""
        self.first_request_refusal: HttpResponse | None = None
        """The answer to the first request, when that was decided before aiohttp served."""
        self.discards_input = False
        """Whether what still comes is discarded: the framing is lost, or nothing may follow."""
        self.is_half_closed = False
        """Whether the peer has closed its side."""
        self.is_last_request_read = False
        """Whether the connection ends behind the requests that have been read."""
        self.last_unsent_bytes = 0
        """What the transport's buffer had shrunk to when its progress was last looked at."""
        self.answer_bytes = 0
        """What this connection has in the front's `answer_bytes`."""

    def __repr__(self) -> str:
        return f"<Door {self.remote or 'unix'} {STATE_NAMES[self.state]}>"

    @property
    def remote(self) -> str:
        """The peer's address; ``""`` for a Unix socket, or when it is gone."""
        wire = self.live_transport
        peer = None if wire is None else wire.get_extra_info("peername")
        # A socket handed in may take both families; its IPv4 peers have mapped addresses (RFC 4291 section 2.5.5.2).
        return str(peer[0]).removeprefix("::ffff:") if isinstance(peer, tuple) else ""

    # From the transport. --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection was accepted."""
        self.attach_transport(transport)
        try:
            self.front.on_connection_made(self)
        except Exception:
            self.close_after_failure()

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer, split anywhere. (aiohttp calls it too, with none, to parse on.)"""
        state = self.state
        try:
            if state == NEW or state == SERVING:
                if self.discards_input:
                    return
                if data:
                    if (
                        not self.unparsed_data
                        and self.incomplete_body is None
                        and not self.incomplete_bytes
                        and self._read_whole_head(data)
                    ):
                        return
                    self.unparsed_data = self.unparsed_data + data if self.unparsed_data else data
                self.parse_pending_data()
            elif state == OPENING:
                self.unparsed_data += data
                self._limit_early_bytes()
                self.count_held_bytes()
            elif state == OVER_LIMIT:
                self._reject_over_limit()
        except Exception:
            self.close_after_failure()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps a half-closed connection
        """The peer has closed its side. It may still read: what it has asked for completely is answered first."""
        if self.state != SERVING or self.is_idle or self.has_upgrade or self.incomplete_body is not None:
            return False
        self.is_half_closed = self.is_last_request_read = True
        self.front.head_deadlines.add(self)
        self.front.loop.call_later(HALF_CLOSED_CHECK_S, self._close_if_answered)
        return True

    def _close_if_answered(self) -> None:
        """Ends a half-closed connection whose last answer was being written already when its peer had heard enough."""
        if self.state == SERVING and self.is_idle and self.live_transport is not None:
            self.live_transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport is gone, whoever ended it."""
        if self.state == ENDED:
            return
        self.state = ENDED
        try:
            self.front.on_connection_lost(self)
        except Exception:
            log.exception("cannot forget a lost connection")
        super().connection_lost(exc)
        self.incomplete_body = None
        self.abort_current_body(400)
        self.release_counted_bytes()

    def pause_writing(self) -> None:
        """The peer does not take what it asked for."""
        super().pause_writing()
        self.front.start_write_deadline(self)

    def count_unsent_bytes(self) -> None:
        """More was written since the peer has stopped taking it."""
        if self.live_transport is not None and not self.live_transport.is_closing():
            self.front.count_unsent_bytes(self)

    def resume_writing(self) -> None:
        """It does now."""
        super().resume_writing()
        self.front.stop_write_deadline(self)

    # Reading. -------------------------------------------------------------------------------------------------------

    def _read_whole_head(self, data: bytes) -> bool:
        """Reads what begins with a whole head, the usual thing, in a third of the time that `parse_pending_data` takes for it.

        Returns:
            whether it did; else nothing has been done.
        """
        end = data.find(EMPTY_LINE, 0, MAX_FAST_PATH_BYTES) + 4
        front = self.front
        if (
            end <= 4
            or end > front.config.max_head_size
            or not self.can_parse
            or self.has_upgrade
            or self.closes_after_responses
        ):
            return False
        size = len(data)
        messages, is_upgrade = self.parse_slice(data if end == size else data[:end])
        if not messages:  # the preface of HTTP/2, which has an empty line in it
            self.incomplete_bytes = end
            self.unparsed_data = data[end:]
            self.parse_pending_data()
            return True
        message, body = messages[0]
        if is_upgrade and self.state == NEW and body is aiohttp_private.NO_BODY:
            self.has_upgrade = True
            if end != size:
                self.unparsed_data = data[end:]
            front.upgrade_first_request(self, cast(RawRequestMessage, message))
            return True
        self.has_upgrade = is_upgrade
        self.incomplete_bytes = end
        self._record_head(messages[0])
        if end != size and not self._read_whole_body(data, end):
            self.unparsed_data = data[end:]
            self.parse_pending_data(messages)
            return True
        self._dispatch_requests(messages)
        if (
            self.incomplete_body is not None
            or self.has_upgrade
            or self.queued_request_count >= PIPELINE_HIGH_WATER
            or self._is_over_total_limit()
        ):
            self._decide_next_reader()
        return True

    def _read_whole_body(self, data: bytes, start: int) -> bool:
        """Reads the body of a known length that stands whole, and alone, behind its head."""
        cutter, body_bytes = self.slicer, len(data) - start
        if (
            self.incomplete_body is None
            or cutter is None
            or cutter.remaining_body_bytes != body_bytes
            or body_bytes > MAX_FAST_PATH_BYTES
        ):
            return False
        cutter.remaining_body_bytes = 0
        self.parse_slice(data[start:])
        self.incomplete_body = None
        self.body_bytes = body_bytes
        if body_bytes > MAX_UNCOUNTED_BYTES:
            self.count_held_bytes()
        return True

    def parse_pending_data(self, first: Sequence[ParsedRequest] = ()) -> int:
        """Parses what has been read, as much as one turn of the loop allows; the front calls again for the rest.

        Args:
            first: what has arrived and is to be passed on, before what is parsed now.

        Returns:
            what it took, in lines of heads and chunks.
        """
        if self.is_parsing:
            return 0
        self.is_parsing = True
        budget = left = self.front.max_parse_lines
        arrived = list(first)
        data, position = self.unparsed_data, self.parsed_prefix_bytes
        cutter = self.slicer or self._make_slicer()
        try:
            while left > 0 and position < len(data) and self._may_parse_next_slice(len(arrived)):
                end = lines = 0
                if (
                    self.incomplete_body is None and not self.incomplete_bytes
                ):  # a whole head, the usual thing, needs no cutter
                    end = data.find(EMPTY_LINE, position, position + MAX_FAST_PATH_BYTES) + 4
                    lines = (end - position) // ASSUMED_LINE_BYTES
                if end < 4:
                    end = cutter.find_slice_end(data, position)
                    lines = cutter.slice_lines
                part = data[position:end]  # the same object if it is all
                position = end
                left -= self._parse_and_count_slice(part, lines, arrived)
            self._keep_unparsed_data(data, position)
            self._dispatch_requests(arrived)
        finally:
            self.is_parsing = False
        if self.state == NEW or self.state == SERVING:
            self._decide_next_reader()
        return budget - left

    def _make_slicer(self) -> MessageSlicer:
        cutter = self.slicer = MessageSlicer(self.front.max_parse_lines)
        return cutter

    def _keep_unparsed_data(self, data: bytes, position: int) -> None:
        """Keeps what is not parsed yet. It is not copied for each small part: chunks of one byte have 341 in a read."""
        if position == len(data):
            self.drop_unparsed_data()
        elif self.has_upgrade or position >= MAX_PARSED_PREFIX_BYTES:
            self.unparsed_data, self.parsed_prefix_bytes = data[position:], 0
        else:
            self.parsed_prefix_bytes = position

    def _may_parse_next_slice(self, arrived: int) -> bool:
        """Whether the next part of what was read may be parsed now."""
        if (
            self.discards_input
            or self.has_upgrade
            or not self.can_parse
            or self.queued_request_count + arrived >= PIPELINE_HIGH_WATER
        ):
            return False
        if self.incomplete_body is None:
            return not self.closes_after_responses and (not arrived or self.state == SERVING)
        # While others have chunks waiting that they may not parse in this turn, these wait behind them.
        assert self.slicer is not None
        return self.slicer.remaining_body_bytes > 0 or self.front.may_parse_chunks(self)

    def _decide_next_reader(self) -> None:
        """Decides who reads on: the transport, a later turn of the loop, or aiohttp's task when it has room again."""
        if self.has_upgrade:
            self._limit_early_bytes()
        elif self.discards_input or self.closes_after_responses and self.incomplete_body is None:
            self.drop_unparsed_data()
            self.update_reading()
        else:
            if self.unparsed_data and self.can_parse:
                self.front.schedule_parsing(self)
            self.update_reading()
        if (
            self.unparsed_data
            or self.incomplete_bytes
            or self.body_bytes > MAX_UNCOUNTED_BYTES
            or self.other_counted_bytes
            or self._is_over_total_limit()
        ):
            self.count_held_bytes()

    def _is_over_total_limit(self) -> bool:
        """Whether all connections together hold more than they may, heads that wait included."""
        return self.front.request_bytes > self.front.max_request_bytes

    def _parse_and_count_slice(self, part: bytes, lines: int, arrived: list[ParsedRequest]) -> int:
        """Parses one slice.

        Args:
            part: the slice.
            lines: line breaks in it.
            arrived: takes the request whose head it completes.

        Returns:
            what it took, in lines.
        """
        messages, is_upgrade = self.parse_slice(part)
        if is_upgrade:
            self.has_upgrade = True
        if self.incomplete_body is not None:
            return self._record_body_progress(len(part), lines, bool(messages))
        self.incomplete_bytes += len(part)
        self.incomplete_head_lines += lines
        if self.incomplete_bytes > self.front.config.max_head_size and not (messages and _is_parse_error(messages[0])):
            self.discards_input = True
            arrived.append(aiohttp_private.make_failed_request(431))
        elif messages:
            self._record_head(messages[0])
            arrived.append(messages[0])
        elif self.state == SERVING:
            self.front.head_deadlines.add(self)
        return 1 + lines

    def _record_head(self, newest: ParsedRequest) -> None:
        """Remembers what follows a head that is complete."""
        message, body = newest
        if not isinstance(message, RawRequestMessage):
            self.discards_input = True
            return
        cost = self.incomplete_bytes * MEMORY_PER_HEAD_BYTE + len(message.raw_headers) * MEMORY_PER_HEAD_LINE
        self.request_memory_costs.append(cost)
        self.front.request_bytes += cost
        self.incomplete_bytes = self.incomplete_head_lines = self.body_bytes = self.framing_bytes = 0
        if self.state == SERVING:
            self.front.head_deadlines.remove(self)
        has_body = aiohttp_private.has_body(body)
        if not has_body:
            # aiohttp stops only behind an Upgrade that names websocket and nothing else.
            if message.upgrade and not self.has_upgrade:
                self.has_upgrade = offers_websocket(header_fields_of(message))
        elif not self.has_upgrade:
            self.incomplete_body = body
            if not message.chunked:
                (self.slicer or self._make_slicer()).remaining_body_bytes = content_length(message) or 0

    def _record_body_progress(self, part_bytes: int, lines: int, is_broken: bool) -> int:
        """Bytes of the newest request's body were parsed.

        Returns:
            what that took, in lines: content is not looked at, so not more than there can have been chunks.
        """
        body = self.incomplete_body
        assert body is not None
        grown = body.total_bytes - self.body_bytes
        self.body_bytes += grown
        framing = part_bytes - grown
        self.framing_bytes += framing
        if framing and self.queued_request_count and self.request_memory_costs:
            # Nobody reads it yet: aiohttp keeps an object for each chunk.
            cost = framing // MIN_CHUNK_FRAMING_BYTES * MEMORY_PER_CHUNK
            self.request_memory_costs[-1] += cost
            self.front.request_bytes += cost
        self.incomplete_bytes = 0 if grown else self.incomplete_bytes + framing
        limit = self.front.config.max_head_size
        if is_broken:
            self.abandon_newest_body()
        elif body.is_eof():
            self.incomplete_body = None
            self.incomplete_bytes = 0
        elif self.incomplete_bytes > limit:  # chunk extensions or trailers without end
            self.abandon_newest_body()
        elif self.framing_bytes > max(limit, MAX_FRAMING_RATIO * self.body_bytes):
            self.abandon_newest_body()
        if self.body_collector is not None:
            self.body_collector.collect_available_bytes()
        return 1 + min(lines, framing // MIN_CHUNK_FRAMING_BYTES)

    def _dispatch_requests(self, arrived: Sequence[ParsedRequest]) -> None:
        """Gives requests to who answers them."""
        if not arrived:
            return
        if self.state != NEW:
            self.enqueue_requests(arrived)
            return
        message, body = arrived[0]
        if self.has_upgrade and isinstance(message, RawRequestMessage) and not aiohttp_private.has_body(body):
            self.front.upgrade_first_request(self, message)
        else:
            self._start_aiohttp_serving(arrived)

    def _start_aiohttp_serving(self, messages: Sequence[ParsedRequest]) -> None:
        """Hands the connection over to aiohttp, which serves these requests first."""
        self.state = SERVING
        self.front.head_deadlines.remove(self)
        self.start_serving(messages)

    def _limit_early_bytes(self) -> None:
        """Keeps what a client sends behind its upgrade request, up to a limit."""
        if len(self.unparsed_data) >= MAX_BYTES_BEHIND_UPGRADE:
            self.stop_reading()

    # Bodies. --------------------------------------------------------------------------------------------------------

    def read_complete_body(self, content: StreamReader) -> bytes | None:
        """Returns the body of the request that is being answered, if it has all been read."""
        if not content.is_eof() or content.exception() is not None:
            return None
        body = content.read_nowait()
        self.current_body_bytes = len(body)
        if self.current_body_bytes > MAX_UNCOUNTED_BYTES:
            self.count_held_bytes()
        return body

    async def read_body(self, content: StreamReader, limit_bytes: int) -> bytes | int:
        """Reads the body of the request that is being answered; see `read_complete_body` first.

        Args:
            content: where the parser puts it.
            limit_bytes: of the body.

        Returns:
            the body, or the status of the answer to a request whose body is not to be had.
        """
        upload = self.body_collector = BodyCollector(content, limit_bytes, self.front.loop.create_future())
        self.front.body_deadlines.add(self)
        self._collect_then_parse(upload)
        try:
            outcome = await upload.outcome
        finally:
            self.body_collector = None
            self.front.body_deadlines.remove(self)
        if outcome != BODY_COMPLETE:
            return self.failed_body_status if outcome == 400 else outcome
        self.current_body_bytes = upload.size_bytes
        return upload.pop_body()

    def _collect_then_parse(self, upload: BodyCollector) -> None:
        """Takes what is there of a body, then parses on."""
        self.is_parsing = True
        try:
            upload.collect_available_bytes()
        finally:
            self.is_parsing = False
        self.parse_pending_data()

    def abort_current_body(self, outcome: int) -> None:
        """Gives the body that is being read up; the answer to its request is `outcome`."""
        if self.body_collector is not None:
            self.body_collector.set_outcome(outcome)

    def abandon_newest_body(self, status: int = 400) -> None:
        """Gives up the newest request's body, which is incomplete: its request is answered with `status`."""
        self.discards_input = True
        self.failed_body_status = status
        body, self.incomplete_body = self.incomplete_body, None
        if body is not None:
            aiohttp_private.fail_body_stream(body)
        if self.body_collector is not None:
            self.body_collector.collect_available_bytes()

    # What is held. --------------------------------------------------------------------------------------------------

    def count_held_bytes(self) -> None:
        """Counts what this connection holds besides heads, and sheds what is unfinished if all hold too much."""
        held = len(self.unparsed_data) + self.current_body_bytes
        if self.incomplete_body is None:
            held += self.incomplete_bytes * MEMORY_PER_HEAD_BYTE + self.incomplete_head_lines * MEMORY_PER_HEAD_LINE
        if self.body_collector is not None:
            held += self.body_collector.size_bytes
        held += self.queued_body_bytes()
        front = self.front
        front.request_bytes += held - self.other_counted_bytes
        self.other_counted_bytes = held
        if front.request_bytes > front.peak_request_bytes:
            front.peak_request_bytes = front.request_bytes
        if front.request_bytes > front.max_request_bytes:
            self._shed_incomplete_requests()

    def has_room_for_early_bytes(self) -> bool:
        """Whether what came behind the first request, an upgrade, may be kept while its open handler is asked."""
        return self.front.request_bytes + len(self.unparsed_data) <= self.front.max_request_bytes

    def _shed_incomplete_requests(self) -> None:
        """Gives up what is unfinished here, with a 503: all connections together hold too much."""
        if self.discards_input or self.state not in (NEW, OPENING, SERVING):
            return
        if self.has_upgrade and (self.state != SERVING or not self.queued_request_count):
            self.stop_reading()  # the open handler is asked about it: more will not come
            return
        begun = self.response_count > 0 and not self.is_idle
        spared = max(self.queued_request_count - (not begun), int(self.has_upgrade))
        if self.incomplete_body is not None:
            self.abandon_newest_body(503)
        elif self.state == NEW and self.incomplete_bytes:
            self.discards_input = True
            self._start_aiohttp_serving([aiohttp_private.make_failed_request(503)])
        elif self.unparsed_data or self.incomplete_bytes or spared:
            self.discards_input = True
            self.replace_newest_with_error(503, spared)
            for _ in range(spared):
                self.front.request_bytes -= self.request_memory_costs.pop()
        else:
            return
        front = self.front
        front.requests_shed += 1
        front.rate_limited_log.warn_or_count(
            "no room for another request remote=%s bytes=%d", self.remote, front.request_bytes
        )
        front.head_deadlines.remove(self)
        self.drop_unparsed_data()
        self.incomplete_bytes = self.incomplete_head_lines = 0
        self.update_reading()
        self.count_held_bytes()

    def release_oldest_request(self) -> None:
        """The oldest request is answered: what it held is free."""
        if self.request_memory_costs:
            self.front.request_bytes -= self.request_memory_costs.pop(0)
        self.current_body_bytes = 0
        if self.other_counted_bytes:
            self.count_held_bytes()

    def release_counted_bytes(self) -> None:
        """Counts nothing any more: the connection is gone, or no longer HTTP's."""
        if self.request_memory_costs or self.other_counted_bytes:
            self.front.request_bytes -= sum(self.request_memory_costs) + self.other_counted_bytes
            self.other_counted_bytes = 0
            self.request_memory_costs.clear()

    # Upgrades. ------------------------------------------------------------------------------------------------------

    def begin_opening(self, connection: OpeningConnection) -> None:
        """An open handler is asked about this connection; what the client sends meanwhile is kept."""
        self.opening_connection = connection
        if self.state == NEW:
            self.state = OPENING
            self.front.head_deadlines.remove(self)
            if self.unparsed_data:
                self._limit_early_bytes()
                self.count_held_bytes()

    def refuse_first_request(self, message: RawRequestMessage, answer: HttpResponse) -> None:
        """Answers the first request, an upgrade, with this instead of the 101."""
        self.first_request_refusal = answer
        self.discards_input = True
        self.drop_unparsed_data()
        self._start_aiohttp_serving([(message, aiohttp_private.NO_BODY)])

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """See `HttpProtocol.detach_transport`."""
        self.state = ENDED
        self.opening_connection = None
        if self.request_memory_costs or self.other_counted_bytes:
            self.release_counted_bytes()
        return super().detach_transport()

    # Answers. -------------------------------------------------------------------------------------------------------

    def make_last_response(self, answer: HttpResponse, method: str = "GET") -> web.StreamResponse:
        """Returns the answer that ends the connection, whatever else was asked or is still being sent."""
        self.discards_input = True
        last = make_complete_response(answer, method, is_last=True)
        last.on_written = self._on_last_response_written
        return cast(web.StreamResponse, last)

    def _on_last_response_written(self) -> None:
        if self.state == SERVING:
            self.start_lingering()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what could not be parsed (and what failed inside aiohttp). Never repeats what the peer sent."""
        if status >= 500:
            if status == 503:  # `_shed_incomplete_requests` has said why
                return self.make_last_response(request_bytes_limit_response())
            log.error("cannot answer remote=%s", self.remote, exc_info=exc)
        else:
            if aiohttp_private.is_size_error(exc):
                status = 431
            problem = type(exc).__name__
            self.front.rate_limited_log.warn_or_count(
                "bad request remote=%s status=%d problem=%s", self.remote, status, problem
            )
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        aiohttp_private.force_http_1_1_response(request)
        return self.make_last_response(error_response(status))

    async def start(self) -> None:
        """aiohttp's task for this connection."""
        try:
            await super().start()
        finally:
            if self.state == SERVING and self.live_transport is not None:
                # It is closing: what is still unsent has `write_timeout` for each bit of progress.
                self.front.start_write_deadline(self)

    def _reject_over_limit(self) -> None:
        assert self.live_transport is not None
        self.live_transport.write(RAW_CONNECTION_LIMIT)
        self.start_lingering()

    def start_lingering(self) -> None:
        """The last answer is written. Closing now would reset the connection under bytes that nobody has read, and the
        answer with it: half-close, and discard what comes until the peer is done or a time is over."""
        self.state = LINGERING
        wire = self.live_transport
        assert wire is not None
        self.stop_serving()
        if self.is_half_closed:
            wire.close()
        else:
            try:
                wire.write_eof()
            except (OSError, RuntimeError):  # closing already
                wire.close()
        self.front.on_last_response_written(self)

    def close_after_failure(self) -> None:
        """Our own code has failed for this connection: called while that exception is handled."""
        state = self.state
        wire = self.live_transport
        if wire is not None and not wire.is_closing():
            if state in (NEW, OPENING):
                wire.write(RAW_INTERNAL_ERROR)
                wire.close()
            else:
                wire.abort()
        log.error("connection failed remote=%s state=%s", self.remote, STATE_NAMES[state], exc_info=True)


def _is_parse_error(message: ParsedRequest) -> bool:
    return not isinstance(message[0], RawRequestMessage)
