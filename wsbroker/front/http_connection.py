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

In both, `advance` feeds the parser slice by slice (`cutter`), as much as one turn of the loop allows, and counts what
is held of requests that are not answered. The file is long because that reading decides by these states, line by line.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import PIPELINE_HIGH, HttpProtocol, Message
from wsbroker.front.conversion import (
    RAW_INTERNAL_ERROR,
    RAW_OVERLOADED,
    content_length,
    error_answer,
    fields_of,
    response_of,
    too_busy,
)
from wsbroker.front.interfaces import OpeningConnection
from wsbroker.front.request_body import WHOLE, Upload
from wsbroker.front.request_slicer import EMPTY_LINE, MessageCutter
from wsbroker.guarded_log import GuardedLog
from wsbroker.http.messages import HttpResponse
from wsbroker.websocket.handshake import offers_websocket

if TYPE_CHECKING:
    from wsbroker.front.front import Front

log: Final = GuardedLog(__name__)

FRESH: Final = 0
OPENING: Final = 1
SERVING: Final = 2
LEAVING: Final = 3
TURNED_AWAY: Final = 4
GONE: Final = 5
STATE_NAMES: Final = ("fresh", "opening", "serving", "leaving", "turned away", "gone")

MAX_EARLY_BYTES: Final = aiohttp_private.READ_BUFFER_BYTES
"""What a client may send behind its upgrade request before our 101; then reading stops until the socket is open."""

CHUNK_OVERHEAD: Final = len("1\r\n") + len("\r\n")
"""The fewest bytes of framing that a chunk takes."""

MAX_USUAL_BYTES: Final = 8 * 1024
"""A request that is larger is divided like everything that is unusual."""

CHUNK_COST: Final = 90
"""Bytes of memory for a chunk besides its content, until its request's turn comes."""

USUAL_LINE_BYTES: Final = 16
"""The length of a line in a head, where lines are not counted."""

MAX_FRAMING_SHARE: Final = 2
"""A chunked body is refused (400) when its framing has taken more than `max_head_size`, and more than so many times its
content: chunks of one or two bytes, thousands of them. A chunk costs the loop 3 µs whatever is in it, and even the
smallest line of JSON, ``{}`` and its line break, stays below."""

MAX_PARSED_BYTES: Final = 64 * 1024
"""What may be kept although it is parsed, to save copying the rest."""

HALF_CLOSED_LOOK_S: Final = 0.02
"""When it is looked whether a half-closed connection has been answered already; aiohttp's task knows by then."""
MAX_UNCOUNTED_BYTES: Final = 4 * 1024
"""A body that has been read whole and is no larger is not counted: that would cost more than it tells."""

HEAD_BYTE_COST: Final = 3
"""Bytes of memory for each byte of a head: as it came, and decoded."""
HEAD_LINE_COST: Final = 400
"""Bytes of memory for each line of a head besides: the objects that hold name and value."""


class HttpConnection(HttpProtocol):
    """See the module.

    Args:
        front: whose connection it is.
    """

    __slots__ = (
        "answer_bytes",
        "answers",
        "body",
        "body_bytes",
        "broken_status",
        "cutter",
        "framing_bytes",
        "front",
        "head_costs",
        "is_advancing",
        "is_deaf",
        "is_half_closed",
        "is_last",
        "opening",
        "read_bytes",
        "refusal",
        "rest_bytes",
        "state",
        "unfinished_bytes",
        "unfinished_lines",
        "unsent_bytes",
        "upload",
    )

    def __init__(self, front: "Front[Any]") -> None:
        super().__init__(front.server, front.loop, front.config.keepalive_timeout, front.config.max_head_size)
        self.front: Front[Any] = front
        self.state = FRESH
        self.answers = 0
        """Requests that were answered, or are being answered."""
        self.cutter: MessageCutter | None = None
        """Where what is read is divided; made for the first that has to be."""
        self.unfinished_bytes = 0
        """Bytes of a head that is not complete yet; within a body, bytes since the body last grew."""
        self.unfinished_lines = 0
        """Lines of a head that is not complete yet."""
        self.body: StreamReader | None = None
        """The newest request's body, for as long as it is incomplete."""
        self.body_bytes = 0
        """What `body` had grown to."""
        self.framing_bytes = 0
        """Bytes of `body` that are no content: sizes and ends of chunks, extensions, trailers."""
        self.broken_status = 400
        """The answer to a request whose body has been given up."""
        self.upload: Upload | None = None
        """The body of the request that is being answered, while it is read."""
        self.read_bytes = 0
        """The size of that body once it has been read, until the request is answered."""
        self.head_costs: list[int] = []
        """What each request that is not answered yet takes of memory besides the bytes of its body."""
        self.rest_bytes = 0
        """All else that is held of requests which are not answered, as last counted."""
        self.is_advancing = False
        """Whether `advance` is on the stack (a body that is read from there asks for more)."""
        self.opening: OpeningConnection | None = None
        """The socket that an open handler is being asked about."""
        self.refusal: HttpResponse | None = None
        """The answer to the first request, when that was decided before aiohttp served."""
        self.is_deaf = False
        """Whether what still comes is discarded: the framing is lost, or nothing may follow."""
        self.is_half_closed = False
        """Whether the peer has closed its side."""
        self.is_last = False
        """Whether the connection ends behind the requests that have been read."""
        self.unsent_bytes = 0
        """What the transport's buffer had shrunk to when its progress was last looked at."""
        self.answer_bytes = 0
        """What this connection has in the front's `answer_bytes`."""

    def __repr__(self) -> str:
        return f"<Door {self.remote or 'unix'} {STATE_NAMES[self.state]}>"

    @property
    def remote(self) -> str:
        """The peer's address; ``""`` for a Unix socket, or when it is gone."""
        wire = self.wire
        peer = None if wire is None else wire.get_extra_info("peername")
        # A socket handed in may take both families; its IPv4 peers have mapped addresses (RFC 4291 section 2.5.5.2).
        return str(peer[0]).removeprefix("::ffff:") if isinstance(peer, tuple) else ""

    # From the transport. --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection was accepted."""
        self.take(transport)
        try:
            self.front.entered(self)
        except Exception:
            self.broken()

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer, split anywhere. (aiohttp calls it too, with none, to parse on.)"""
        state = self.state
        try:
            if state == FRESH or state == SERVING:
                if self.is_deaf:
                    return
                if data:
                    if not self.unfed and self.body is None and not self.unfinished_bytes and self._read_usual(data):
                        return
                    self.unfed = self.unfed + data if self.unfed else data
                self.advance()
            elif state == OPENING:
                self.unfed += data
                self._hold_early()
                self.count_bytes()
            elif state == TURNED_AWAY:
                self._turn_away()
        except Exception:
            self.broken()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps a half-closed connection
        """The peer has closed its side. It may still read: what it has asked for completely is answered first."""
        if self.state != SERVING or self.is_idle or self.has_upgrade or self.body is not None:
            return False
        self.is_half_closed = self.is_last = True
        self.front.heads.add(self)
        self.front.loop.call_later(HALF_CLOSED_LOOK_S, self._end_if_answered)
        return True

    def _end_if_answered(self) -> None:
        """Ends a half-closed connection whose last answer was being written already when its peer had heard enough."""
        if self.state == SERVING and self.is_idle and self.wire is not None:
            self.wire.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport is gone, whoever ended it."""
        if self.state == GONE:
            return
        self.state = GONE
        try:
            self.front.lost(self)
        except Exception:
            log.exception("cannot forget a lost connection")
        super().connection_lost(exc)
        self.body = None
        self.end_upload(400)
        self.release_bytes()

    def pause_writing(self) -> None:
        """The peer does not take what it asked for."""
        super().pause_writing()
        self.front.watch_writing(self)

    def count_unsent(self) -> None:
        """More was written since the peer has stopped taking it."""
        if self.wire is not None and not self.wire.is_closing():
            self.front.count_unsent(self)

    def resume_writing(self) -> None:
        """It does now."""
        super().resume_writing()
        self.front.unwatch_writing(self)

    # Reading. -------------------------------------------------------------------------------------------------------

    def _read_usual(self, data: bytes) -> bool:
        """Reads what begins with a whole head, the usual thing, in a third of the time that `advance` takes for it.

        Returns:
            whether it did; else nothing has been done.
        """
        end = data.find(EMPTY_LINE, 0, MAX_USUAL_BYTES) + 4
        front = self.front
        if end <= 4 or end > front.config.max_head_size or not self.can_parse or self.has_upgrade or self.is_ending:
            return False
        size = len(data)
        messages, is_upgrade = self.parse(data if end == size else data[:end])
        if not messages:  # the preface of HTTP/2, which has an empty line in it
            self.unfinished_bytes = end
            self.unfed = data[end:]
            self.advance()
            return True
        message, body = messages[0]
        if is_upgrade and self.state == FRESH and body is aiohttp_private.NO_BODY:
            self.has_upgrade = True
            if end != size:
                self.unfed = data[end:]
            front.upgrade_first(self, cast(RawRequestMessage, message))
            return True
        self.has_upgrade = is_upgrade
        self.unfinished_bytes = end
        self._note_head(messages[0])
        if end != size and not self._read_usual_body(data, end):
            self.unfed = data[end:]
            self.advance(messages)
            return True
        self._pass_on(messages)
        if self.body is not None or self.has_upgrade or self.waiting >= PIPELINE_HIGH or self._is_total_exceeded():
            self._look_ahead()
        return True

    def _read_usual_body(self, data: bytes, start: int) -> bool:
        """Reads the body of a known length that stands whole, and alone, behind its head."""
        cutter, body_bytes = self.cutter, len(data) - start
        if self.body is None or cutter is None or cutter.remaining != body_bytes or body_bytes > MAX_USUAL_BYTES:
            return False
        cutter.remaining = 0
        self.parse(data[start:])
        self.body = None
        self.body_bytes = body_bytes
        if body_bytes > MAX_UNCOUNTED_BYTES:
            self.count_bytes()
        return True

    def advance(self, first: Sequence[Message] = ()) -> int:
        """Parses what has been read, as much as one turn of the loop allows; the front calls again for the rest.

        Args:
            first: what has arrived and is to be passed on, before what is parsed now.

        Returns:
            what it took, in lines of heads and chunks.
        """
        if self.is_advancing:
            return 0
        self.is_advancing = True
        budget = left = self.front.max_lines
        arrived = list(first)
        data, position = self.unfed, self.parsed_bytes
        cutter = self.cutter or self._make_cutter()
        try:
            while left > 0 and position < len(data) and self._may_parse(len(arrived)):
                end = lines = 0
                if self.body is None and not self.unfinished_bytes:  # a whole head, the usual thing, needs no cutter
                    end = data.find(EMPTY_LINE, position, position + MAX_USUAL_BYTES) + 4
                    lines = (end - position) // USUAL_LINE_BYTES
                if end < 4:
                    end = cutter.cut(data, position)
                    lines = cutter.lines
                part = data[position:end]  # the same object if it is all
                position = end
                left -= self._parse_part(part, lines, arrived)
            self._keep_rest(data, position)
            self._pass_on(arrived)
        finally:
            self.is_advancing = False
        if self.state == FRESH or self.state == SERVING:
            self._look_ahead()
        return budget - left

    def _make_cutter(self) -> MessageCutter:
        cutter = self.cutter = MessageCutter(self.front.max_lines)
        return cutter

    def _keep_rest(self, data: bytes, position: int) -> None:
        """Keeps what is not parsed yet. It is not copied for each small part: chunks of one byte have 341 in a read."""
        if position == len(data):
            self.drop_unfed()
        elif self.has_upgrade or position >= MAX_PARSED_BYTES:
            self.unfed, self.parsed_bytes = data[position:], 0
        else:
            self.parsed_bytes = position

    def _may_parse(self, arrived: int) -> bool:
        """Whether the next part of what was read may be parsed now."""
        if self.is_deaf or self.has_upgrade or not self.can_parse or self.waiting + arrived >= PIPELINE_HIGH:
            return False
        if self.body is None:
            return not self.is_ending and (not arrived or self.state == SERVING)
        # While others have chunks waiting that they may not parse in this turn, these wait behind them.
        assert self.cutter is not None
        return self.cutter.remaining > 0 or self.front.may_parse_chunks(self)

    def _look_ahead(self) -> None:
        """Decides who reads on: the transport, a later turn of the loop, or aiohttp's task when it has room again."""
        if self.has_upgrade:
            self._hold_early()
        elif self.is_deaf or self.is_ending and self.body is None:
            self.drop_unfed()
            self.update_reading()
        else:
            if self.unfed and self.can_parse:
                self.front.parse_later(self)
            self.update_reading()
        if (
            self.unfed
            or self.unfinished_bytes
            or self.body_bytes > MAX_UNCOUNTED_BYTES
            or self.rest_bytes
            or self._is_total_exceeded()
        ):
            self.count_bytes()

    def _is_total_exceeded(self) -> bool:
        """Whether all connections together hold more than they may, heads that wait included."""
        return self.front.request_bytes > self.front.max_request_bytes

    def _parse_part(self, part: bytes, lines: int, arrived: list[Message]) -> int:
        """Parses one slice.

        Args:
            part: the slice.
            lines: line breaks in it.
            arrived: takes the request whose head it completes.

        Returns:
            what it took, in lines.
        """
        messages, is_upgrade = self.parse(part)
        if is_upgrade:
            self.has_upgrade = True
        if self.body is not None:
            return self._note_body(len(part), lines, bool(messages))
        self.unfinished_bytes += len(part)
        self.unfinished_lines += lines
        if self.unfinished_bytes > self.front.config.max_head_size and not (messages and _is_error(messages[0])):
            self.is_deaf = True
            arrived.append(aiohttp_private.error_message(431))
        elif messages:
            self._note_head(messages[0])
            arrived.append(messages[0])
        elif self.state == SERVING:
            self.front.heads.add(self)
        return 1 + lines

    def _note_head(self, newest: Message) -> None:
        """Remembers what follows a head that is complete."""
        message, body = newest
        if not isinstance(message, RawRequestMessage):
            self.is_deaf = True
            return
        cost = self.unfinished_bytes * HEAD_BYTE_COST + len(message.raw_headers) * HEAD_LINE_COST
        self.head_costs.append(cost)
        self.front.request_bytes += cost
        self.unfinished_bytes = self.unfinished_lines = self.body_bytes = self.framing_bytes = 0
        if self.state == SERVING:
            self.front.heads.remove(self)
        has_body = aiohttp_private.has_body(body)
        if not has_body:
            # aiohttp stops only behind an Upgrade that names websocket and nothing else.
            if message.upgrade and not self.has_upgrade:
                self.has_upgrade = offers_websocket(fields_of(message))
        elif not self.has_upgrade:
            self.body = body
            if not message.chunked:
                (self.cutter or self._make_cutter()).remaining = content_length(message) or 0

    def _note_body(self, part_bytes: int, lines: int, is_broken: bool) -> int:
        """Bytes of the newest request's body were parsed.

        Returns:
            what that took, in lines: content is not looked at, so not more than there can have been chunks.
        """
        body = self.body
        assert body is not None
        grown = body.total_bytes - self.body_bytes
        self.body_bytes += grown
        framing = part_bytes - grown
        self.framing_bytes += framing
        if framing and self.waiting and self.head_costs:
            # Nobody reads it yet: aiohttp keeps an object for each chunk.
            cost = framing // CHUNK_OVERHEAD * CHUNK_COST
            self.head_costs[-1] += cost
            self.front.request_bytes += cost
        self.unfinished_bytes = 0 if grown else self.unfinished_bytes + framing
        limit = self.front.config.max_head_size
        if is_broken:
            self.break_body()
        elif body.is_eof():
            self.body = None
            self.unfinished_bytes = 0
        elif self.unfinished_bytes > limit:  # chunk extensions or trailers without end
            self.break_body()
        elif self.framing_bytes > max(limit, MAX_FRAMING_SHARE * self.body_bytes):
            self.break_body()
        if self.upload is not None:
            self.upload.collect()
        return 1 + min(lines, framing // CHUNK_OVERHEAD)

    def _pass_on(self, arrived: Sequence[Message]) -> None:
        """Gives requests to who answers them."""
        if not arrived:
            return
        if self.state != FRESH:
            self.enqueue(arrived)
            return
        message, body = arrived[0]
        if self.has_upgrade and isinstance(message, RawRequestMessage) and not aiohttp_private.has_body(body):
            self.front.upgrade_first(self, message)
        else:
            self._serve(arrived)

    def _serve(self, messages: Sequence[Message]) -> None:
        """Hands the connection over to aiohttp, which serves these requests first."""
        self.state = SERVING
        self.front.heads.remove(self)
        self.begin(messages)

    def _hold_early(self) -> None:
        """Keeps what a client sends behind its upgrade request, up to a limit."""
        if len(self.unfed) >= MAX_EARLY_BYTES:
            self.hold_reading()

    # Bodies. --------------------------------------------------------------------------------------------------------

    def whole_body(self, content: StreamReader) -> bytes | None:
        """Returns the body of the request that is being answered, if it has all been read."""
        if not content.is_eof() or content.exception() is not None:
            return None
        body = content.read_nowait()
        self.read_bytes = len(body)
        if self.read_bytes > MAX_UNCOUNTED_BYTES:
            self.count_bytes()
        return body

    async def read_body(self, content: StreamReader, limit_bytes: int) -> bytes | int:
        """Reads the body of the request that is being answered; see `whole_body` first.

        Args:
            content: where the parser puts it.
            limit_bytes: of the body.

        Returns:
            the body, or the status of the answer to a request whose body is not to be had.
        """
        upload = self.upload = Upload(content, limit_bytes, self.front.loop.create_future())
        self.front.uploads.add(self)
        self._collect(upload)
        try:
            outcome = await upload.outcome
        finally:
            self.upload = None
            self.front.uploads.remove(self)
        if outcome != WHOLE:
            return self.broken_status if outcome == 400 else outcome
        self.read_bytes = upload.size_bytes
        return upload.take()

    def _collect(self, upload: Upload) -> None:
        """Takes what is there of a body, then parses on."""
        self.is_advancing = True
        try:
            upload.collect()
        finally:
            self.is_advancing = False
        self.advance()

    def end_upload(self, outcome: int) -> None:
        """Gives the body that is being read up; the answer to its request is `outcome`."""
        if self.upload is not None:
            self.upload.end(outcome)

    def break_body(self, status: int = 400) -> None:
        """Gives up the newest request's body, which is incomplete: its request is answered with `status`."""
        self.is_deaf = True
        self.broken_status = status
        body, self.body = self.body, None
        if body is not None:
            aiohttp_private.break_body(body)
        if self.upload is not None:
            self.upload.collect()

    # What is held. --------------------------------------------------------------------------------------------------

    def count_bytes(self) -> None:
        """Counts what this connection holds besides heads, and sheds what is unfinished if all hold too much."""
        held = len(self.unfed) + self.read_bytes
        if self.body is None:
            held += self.unfinished_bytes * HEAD_BYTE_COST + self.unfinished_lines * HEAD_LINE_COST
        if self.upload is not None:
            held += self.upload.size_bytes
        held += self.waiting_body_bytes()
        front = self.front
        front.request_bytes += held - self.rest_bytes
        self.rest_bytes = held
        if front.request_bytes > front.peak_request_bytes:
            front.peak_request_bytes = front.request_bytes
        if front.request_bytes > front.max_request_bytes:
            self._shed()

    def has_room(self) -> bool:
        """Whether what came behind the first request, an upgrade, may be kept while its open handler is asked."""
        return self.front.request_bytes + len(self.unfed) <= self.front.max_request_bytes

    def _shed(self) -> None:
        """Gives up what is unfinished here, with a 503: all connections together hold too much."""
        if self.is_deaf or self.state not in (FRESH, OPENING, SERVING):
            return
        if self.has_upgrade and (self.state != SERVING or not self.waiting):
            self.hold_reading()  # the open handler is asked about it: more will not come
            return
        begun = self.answers > 0 and not self.is_idle
        spared = max(self.waiting - (not begun), int(self.has_upgrade))
        if self.body is not None:
            self.break_body(503)
        elif self.state == FRESH and self.unfinished_bytes:
            self.is_deaf = True
            self._serve([aiohttp_private.error_message(503)])
        elif self.unfed or self.unfinished_bytes or spared:
            self.is_deaf = True
            self.refuse(503, spared)
            for _ in range(spared):
                self.front.request_bytes -= self.head_costs.pop()
        else:
            return
        front = self.front
        front.requests_shed += 1
        front.rate_limited_log.warn("no room for another request remote=%s bytes=%d", self.remote, front.request_bytes)
        front.heads.remove(self)
        self.drop_unfed()
        self.unfinished_bytes = self.unfinished_lines = 0
        self.update_reading()
        self.count_bytes()

    def note_answered(self) -> None:
        """The oldest request is answered: what it held is free."""
        if self.head_costs:
            self.front.request_bytes -= self.head_costs.pop(0)
        self.read_bytes = 0
        if self.rest_bytes:
            self.count_bytes()

    def release_bytes(self) -> None:
        """Counts nothing any more: the connection is gone, or no longer HTTP's."""
        if self.head_costs or self.rest_bytes:
            self.front.request_bytes -= sum(self.head_costs) + self.rest_bytes
            self.rest_bytes = 0
            self.head_costs.clear()

    # Upgrades. ------------------------------------------------------------------------------------------------------

    def begin_opening(self, connection: OpeningConnection) -> None:
        """An open handler is asked about this connection; what the client sends meanwhile is kept."""
        self.opening = connection
        if self.state == FRESH:
            self.state = OPENING
            self.front.heads.remove(self)
            if self.unfed:
                self._hold_early()
                self.count_bytes()

    def refuse_first(self, message: RawRequestMessage, answer: HttpResponse) -> None:
        """Answers the first request, an upgrade, with this instead of the 101."""
        self.refusal = answer
        self.is_deaf = True
        self.drop_unfed()
        self._serve([(message, aiohttp_private.NO_BODY)])

    def detach_transport(self) -> tuple[asyncio.Transport, bytes]:
        """See `HttpProtocol.detach_transport`."""
        self.state = GONE
        self.opening = None
        if self.head_costs or self.rest_bytes:
            self.release_bytes()
        return super().detach_transport()

    # Answers. -------------------------------------------------------------------------------------------------------

    def end_with(self, answer: HttpResponse, method: str = "GET") -> web.StreamResponse:
        """Returns the answer that ends the connection, whatever else was asked or is still being sent."""
        self.is_deaf = True
        last = response_of(answer, method, is_last=True)
        last.on_written = self._written_last
        return cast(web.StreamResponse, last)

    def _written_last(self) -> None:
        if self.state == SERVING:
            self.leave()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what could not be parsed (and what failed inside aiohttp). Never repeats what the peer sent."""
        if status >= 500:
            if status == 503:  # `_shed` has said why
                return self.end_with(too_busy())
            log.error("cannot answer remote=%s", self.remote, exc_info=exc)
        else:
            if aiohttp_private.is_about_size(exc):
                status = 431
            problem = type(exc).__name__
            self.front.rate_limited_log.warn("bad request remote=%s status=%d problem=%s", self.remote, status, problem)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        aiohttp_private.answer_in_1_1(request)
        return self.end_with(error_answer(status))

    async def start(self) -> None:
        """aiohttp's task for this connection."""
        try:
            await super().start()
        finally:
            if self.state == SERVING and self.wire is not None:
                # It is closing: what is still unsent has `write_timeout` for each bit of progress.
                self.front.watch_writing(self)

    def _turn_away(self) -> None:
        assert self.wire is not None
        self.wire.write(RAW_OVERLOADED)
        self.leave()

    def leave(self) -> None:
        """The last answer is written. Closing now would reset the connection under bytes that nobody has read, and the
        answer with it: half-close, and discard what comes until the peer is done or a time is over."""
        self.state = LEAVING
        wire = self.wire
        assert wire is not None
        self.end_serving()
        if self.is_half_closed:
            wire.close()
        else:
            try:
                wire.write_eof()
            except (OSError, RuntimeError):  # closing already
                wire.close()
        self.front.left(self)

    def broken(self) -> None:
        """Our own code has failed for this connection: called while that exception is handled."""
        state = self.state
        wire = self.wire
        if wire is not None and not wire.is_closing():
            if state in (FRESH, OPENING):
                wire.write(RAW_INTERNAL_ERROR)
                wire.close()
            else:
                wire.abort()
        log.error("connection failed remote=%s state=%s", self.remote, STATE_NAMES[state], exc_info=True)


def _is_error(message: Message) -> bool:
    return not isinstance(message[0], RawRequestMessage)
