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
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from wsbroker.front import aiohttp_private
from wsbroker.front.aiohttp_private import HttpProtocol, Message
from wsbroker.front.exchange import RAW_INTERNAL_ERROR, RAW_OVERLOADED, error_answer, response_of
from wsbroker.front.parts import Admitted
from wsbroker.guarded_log import GuardedLog
from wsbroker.wire.http import HttpResponse

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

END_OF_HEAD: Final = b"\r\n\r\n"
MAX_EARLY_BYTES: Final = aiohttp_private.READ_BUFFER_BYTES
"""What a client may send behind its upgrade request before our 101; then reading stops until the socket is open."""

_LINE_OVERHEAD: Final = len("  HTTP/1.1\r\n") + len("\r\n")
_FIELD_OVERHEAD: Final = len(": \r\n")


class Door(HttpProtocol):
    """See the module.

    Args:
        front: whose connection it is.
    """

    __slots__ = (
        "answers",
        "body",
        "body_bytes",
        "early",
        "front",
        "is_deaf",
        "is_half_closed",
        "is_last",
        "opening",
        "refusal",
        "state",
        "unfinished_bytes",
        "unsent_bytes",
    )

    def __init__(self, front: "Front[Any]") -> None:
        super().__init__(front.server, front.loop, front.config.keepalive_timeout, front.config.max_head_size)
        self.front: Front[Any] = front
        self.state = FRESH
        self.answers = 0
        """Requests that were answered, or are being answered."""
        self.unfinished_bytes = 0
        """Bytes of a head that is not complete yet; within a body, bytes since the body last grew."""
        self.body: StreamReader | None = None
        """The newest request's body, for as long as it is incomplete."""
        self.body_bytes = 0
        """What `body` had grown to."""
        self.opening: Admitted | None = None
        """The socket that an open handler is being asked about."""
        self.early: bytearray | None = None
        """What the client sent behind its upgrade request, while OPENING."""
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

    def __repr__(self) -> str:
        return f"<Door {self.remote or 'unix'} {STATE_NAMES[self.state]}>"

    @property
    def remote(self) -> str:
        """The peer's address; ``""`` for a Unix socket, or when it is gone."""
        wire = self.wire
        peer = None if wire is None else wire.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

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
            if state == FRESH:
                self._read_first(data)
            elif state == SERVING:
                self._read_more(data)
            elif state == OPENING:
                self._read_early(data)
            elif state == TURNED_AWAY:
                self._turn_away()
        except Exception:
            self.broken()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp never keeps a half-closed connection
        """The peer has closed its side. It may still read: what it has asked for completely is answered first."""
        if self.state != SERVING or self.is_idle or self.has_upgrade or self._awaits_body():
            return False
        self.is_half_closed = self.is_last = True
        self.front.heads.add(self)  # ends it in case the last answer is being written already
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport is gone, whoever ended it."""
        if self.state == GONE:
            return
        self.state = GONE
        self.early = None
        try:
            self.front.lost(self)
        except Exception:
            log.exception("cannot forget a lost connection")
        self.wire = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer does not take what it asked for."""
        super().pause_writing()
        self.front.watch_writing(self)

    def resume_writing(self) -> None:
        """It does now."""
        super().resume_writing()
        self.front.unwatch_writing(self)

    # Reading. -------------------------------------------------------------------------------------------------------

    def _read_first(self, data: bytes) -> None:
        messages, is_upgrade, tail = self.parse(data)
        front = self.front
        if not messages:
            self.unfinished_bytes += len(data)
            if self.unfinished_bytes > front.config.max_head_size:
                self._serve([aiohttp_private.error_message(431)])
            return
        if is_upgrade and len(messages) == 1 and self.unfinished_bytes + len(data) <= front.config.max_head_size:
            message, body = messages[0]
            if isinstance(message, RawRequestMessage) and not aiohttp_private.has_body(body):
                front.upgrade_first(self, message, tail)
                return
        too_long = self._first_too_long(messages, len(data))
        if too_long is not None:
            messages = [*messages[:too_long], aiohttp_private.error_message(431)]
        self._serve(messages, is_upgrade, tail, data)

    def _read_more(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if self.has_upgrade:
            super().data_received(data)  # it keeps, and bounds, what comes behind an upgrade request
            return
        before = self.request_count
        super().data_received(data)
        newest = self.newest(self.request_count - before)
        if newest:
            too_long = self._first_too_long(newest, len(data))
            if too_long is not None:
                self.refuse(431, len(newest) - too_long)
                newest = self.newest(1)
            self.front.heads.remove(self)
            self._note(newest, self.has_upgrade, data)
        elif data:
            self._note_part(data)

    def _read_early(self, data: bytes) -> None:
        early = self.early
        if early is None:
            early = self.early = bytearray()
        early += data
        if len(early) >= MAX_EARLY_BYTES:
            self.pause_reading_here()

    def _serve(
        self, messages: Sequence[Message], is_upgrade: bool = False, tail: bytes = b"", data: bytes = END_OF_HEAD
    ) -> None:
        """Lets aiohttp serve: these requests first, the last of which ended somewhere in `data`."""
        self.state = SERVING
        self.front.heads.remove(self)
        self._note(messages, is_upgrade, data)
        self.begin(messages, is_upgrade, tail)

    def _first_too_long(self, messages: Sequence[Message], data_bytes: int) -> int | None:
        """Returns the index of the first whose head is over `max_head_size`, or None.

        aiohttp limits the fields of a head, not their sum. Counted only when enough came to be too long.
        """
        limit = self.front.config.max_head_size
        if self.unfinished_bytes + data_bytes > limit:
            for index, (message, _) in enumerate(messages):
                if isinstance(message, RawRequestMessage) and _head_bytes(message) > limit:
                    return index
        return None

    def _note(self, messages: Sequence[Message], is_upgrade: bool, data: bytes) -> None:
        """Remembers what follows the newest of these requests, which ended somewhere in `data`."""
        self.unfinished_bytes = 0
        message, body = messages[-1]
        if not isinstance(message, RawRequestMessage):
            self.is_deaf = True
            if self._awaits_body():
                assert self.body is not None
                aiohttp_private.break_body(self.body)
        elif aiohttp_private.has_body(body):
            self.body = body
            self.body_bytes = body.total_bytes
        else:
            self.body = None
            if data[-4:] != END_OF_HEAD and not is_upgrade:
                self.front.heads.add(self)  # the next head has begun already
        if isinstance(message, RawRequestMessage) and message.upgrade and not is_upgrade:
            # An upgrade that we do not know is ignored, but aiohttp has dropped what came behind it in its segment: if
            # there may have been something, the connection ends with the answer.
            is_whole = self.body is None and data[-4:] == END_OF_HEAD and data.count(END_OF_HEAD) == len(messages)
            if not is_whole:
                self.is_last = self.is_deaf = True

    def _note_part(self, data: bytes) -> None:
        """Bytes that completed no head: of a body, or of the next head."""
        self.unfinished_bytes += len(data)
        is_too_much = self.unfinished_bytes > self.front.config.max_head_size
        body = self.body
        if self._awaits_body():
            assert body is not None
            if body.total_bytes != self.body_bytes:
                self.body_bytes = body.total_bytes
                self.unfinished_bytes = 0
            elif is_too_much:  # chunk extensions or trailers without end
                self.is_deaf = True
                aiohttp_private.break_body(body)
        elif body is not None:
            # The end of a body. A head that began behind it in the same segment is not told apart: its time starts
            # with its next bytes, and until then the connection is as good as idle.
            self.body = None
            self.unfinished_bytes = 0
        elif is_too_much:
            self.is_deaf = True
            self.refuse(431)
        else:
            self.front.heads.add(self)

    def _awaits_body(self) -> bool:
        body = self.body
        return body is not None and not body.is_eof() and body.exception() is None

    # Upgrades. ------------------------------------------------------------------------------------------------------

    def begin_opening(self, connection: Admitted, early: bytes = b"") -> None:
        """An open handler is asked about this connection; what the client sends meanwhile is kept."""
        self.opening = connection
        if self.state == FRESH:
            self.state = OPENING
            self.front.heads.remove(self)
            if early:
                self._read_early(early)

    def refuse_first(self, message: RawRequestMessage, answer: HttpResponse) -> None:
        """Answers the first request, an upgrade, with this instead of the 101."""
        self.refusal = answer
        self.early = None
        self._serve([(message, aiohttp_private.NO_BODY)])

    def let_go(self) -> tuple[asyncio.Transport, bytes]:
        """See `HttpProtocol.let_go`."""
        early, self.early = self.early, None
        self.state = GONE
        self.opening = None
        transport, tail = super().let_go()
        return transport, tail if early is None else bytes(early)

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
            log.error("cannot answer remote=%s", self.remote, exc_info=exc)
        else:
            if aiohttp_private.is_about_size(exc):
                status = 431
            problem = type(exc).__name__
            self.front.complaints.warn("bad request remote=%s status=%d problem=%s", self.remote, status, problem)
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


def _head_bytes(message: RawRequestMessage) -> int:
    """What a head took on the wire, but for white space around its values."""
    fields = sum([len(name) + len(value) + _FIELD_OVERHEAD for name, value in message.raw_headers])
    return len(message.method) + len(message.path) + _LINE_OVERHEAD + fields
