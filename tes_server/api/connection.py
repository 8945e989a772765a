"""One connection of a client: uvicorn's protocol, with the bounds that it has not.

uvicorn with httptools waits for ever for the rest of a request, takes headers of any size, answers a pipeline of any length and
adds trailers to the headers. Here each stage of a request has a time, each part of it a size, and requests come one after the
other. What does not keep the grammar of RFC 9112 the parser refuses, in strict mode. Must never know what a request is about.
"""

from __future__ import annotations

import enum
import http
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http import httptools_impl

from tes_server.api import answers, crowd, problems

HELD = 8
"""Reads of bytes that are held back; reading is paused meanwhile, so that there are seldom two."""

HEADERS = 100
"""Most headers of a request; browsers behind three proxies send some 40."""

TARGET = 16 * 1024
"""Longest request target (414): a list that filters by a hundred tags has 8 KB."""

FRAMING = 8
"""Bytes of framing that a byte of a chunked body may have: chunks of one byte have five."""

FAREWELL = 2.0
"""Seconds for which the rest of a refused request is read and dropped, or TLS's goodbye waited for: a client that still sends when the
connection is closed would lose the answer (RFC 9112, 9.6)."""


class Stage(enum.IntEnum):
    """What is awaited of the client."""

    HEAD = 0
    BODY = 1
    ANSWER = 2  # nothing: it is our turn
    IDLE = 3  # the next request, if it likes
    LEAVING = 4  # it was told to go


class Refused(Exception):
    """Raised inside the parser's callbacks; the parser turns it into one of its own errors."""


class Connection(httptools_impl.HttpToolsProtocol):
    """A `Guest` of the crowd. Arguments beside `guests` are uvicorn's."""

    def __init__(self, guests: crowd.Crowd, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._crowd = guests
        self._bounds = guests.bounds
        # What came after the last byte of an answer whose end was not seen yet.
        self._held: list[bytes] = []
        self._stage = Stage.HEAD
        self._deadline = self.loop.time() + self._bounds.head_time
        self._raw = 0  # bytes since the request began, less those of its body, at FRAMING + 1 each
        self._head = 0
        self._dropped = 0
        self._complete = False  # the request
        self._deaf = False
        self._refusal: tuple[int, str] | None = None
        self._unfetched = 0  # bytes of answers that the client has not taken, at the last look
        self._fetched_by = 0.0

    # -- the transport's calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take part in the crowd."""
        super().connection_made(transport)
        if self.client is not None and self.client[0].startswith("::ffff:") and "." in self.client[0]:
            self.client = self.client[0][7:], self.client[1]  # IPv4 on a socket of both: settings and logs name it so
        self._crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the crowd."""
        self._deaf = True
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless nothing more is heard of this client."""
        if self._deaf:
            return
        if self._held or self._stage is Stage.ANSWER:
            self._held.append(data)
            self.flow.pause_reading()
            if len(self._held) > HELD:
                self._stop()
        else:
            self._parse(data)

    def _feed_held(self) -> None:
        data = b"".join(self._held)
        self._held.clear()
        if data and not self._deaf:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._stage is Stage.IDLE:
            self._stage = Stage.HEAD
            self._deadline = self.loop.time() + self._bounds.head_time
            self._raw = 0
        self._raw += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stop()  # it is answered as if it had not asked for another protocol, and its next bytes are not HTTP
        except httptools.HttpParserError:
            self._refuse()
        else:
            if self._stage is Stage.HEAD and self._raw > self._bounds.head_size:
                self._refusal = 431, f"request line and headers are larger than {self._bounds.head_size} bytes"
                self._refuse()
            elif self._stage is Stage.BODY and self._raw > 2 * self._bounds.head_size:
                self._refusal = 400, "chunk extensions or trailers are too large"
                self._refuse()
            elif self._raw < 0:
                self._raw = 0  # a long body pays for its own framing, not for a trailer as long

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's says nothing, which closes
        """The client says no more; an answer that is awaited it still takes (RFC 9112, 9.6). TLS has no such state: there it is the end."""
        if self._stage is not Stage.ANSWER or self._held or not self.transport.can_write_eof():
            return False
        self._deaf = True
        self.cycle.keep_alive = False
        return True

    def resume_writing(self) -> None:
        """The client has fetched a part of its answer."""
        self._fetched_by = self.loop.time() + self._bounds.transfer_time
        super().resume_writing()

    # -- the parser's calls ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins: the first, or the next one after an answer."""
        if self._stage is Stage.ANSWER or self._stage is Stage.BODY:
            raise Refused  # it was sent together with the one before, which nobody has seen the answer of
        self._stage = Stage.HEAD
        self._head = self._dropped = 0
        self._complete = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._head += len(url)
        if self._head > min(TARGET, self._bounds.head_size):
            self._refusal = 414, f"the path and its query are longer than {min(TARGET, self._bounds.head_size)} bytes"
            raise Refused
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which is dropped (RFC 9110, 6.5.1): it comes after others have judged the headers."""
        if self._stage is not Stage.HEAD:
            return
        self._head += len(name) + len(value) + 4
        if self._head > self._bounds.head_size or len(self.headers) >= HEADERS:
            self._refusal = 431, f"there are more than {HEADERS} headers, or more than {self._bounds.head_size} bytes of them"
            raise Refused
        if name.lower() == b"transfer-encoding" and (value.lower() != b"chunked" or self.parser.get_http_version() == "1.0"):
            self._refusal = 501, "the one Transfer-Encoding that is taken is chunked, in HTTP/1.1"  # what a proxy before us took it for, nobody knows
            raise Refused
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is handed on; its body may be missing yet."""
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise Refused
        super().on_headers_complete()
        self._stage = Stage.BODY
        self._raw = 0
        self._deadline = self.loop.time() + self._bounds.transfer_time
        self._crowd.sends(self)

    def on_body(self, body: bytes) -> None:
        """A part of the body. Who keeps up with `slowest` has time; who was fast does not save it up."""
        now = self.loop.time()
        self._deadline = min(self._deadline + len(body) / self._bounds.slowest, now + self._bounds.transfer_time)
        self._raw -= (FRAMING + 1) * len(body)
        if self.cycle.response_complete:
            self._dropped += len(body)
            if self._dropped > self._bounds.body_size:
                raise Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._complete = True
        super().on_message_complete()
        if self.cycle.response_complete:
            self._rest()
        else:
            self._stage = Stage.ANSWER
            self._crowd.is_answered(self)

    # -- after the answer --------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The answer is written, though perhaps not fetched. In place of uvicorn's: there is no pipeline, and the crowd has the time."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._stage is Stage.LEAVING:
            return
        self.flow.resume_reading()
        if self._complete:
            self._rest()
        else:
            self._crowd.waits(self)  # what is left of its body nobody reads

    def _rest(self) -> None:
        self._stage = Stage.IDLE
        self._head = 0
        self._deadline = self.loop.time() + self._bounds.idle_time
        self._crowd.waits(self)
        if self._held:
            self.loop.call_soon(self._feed_held)

    def _stop(self) -> None:
        """Hear nothing more, answer what was asked, and close."""
        self._deaf = True
        if self.cycle is None or self.cycle.response_complete:
            self._farewell()
        else:
            self._stage = Stage.ANSWER
            self.cycle.keep_alive = False

    # -- clients that must go ----------------------------------------------------------------------------------

    def _refuse(self) -> None:
        if self._stage is Stage.ANSWER:
            self._stop()  # what came before is worth its answer
            return
        status, detail = self._refusal or (400, "this is no request of HTTP/1.1")
        crowd.count("bad")
        self._say(status, detail)

    def _say(self, status: int, detail: str) -> None:
        """An answer of this layer, and the end; without words where another answer has begun."""
        if self._stage is not Stage.BODY or not self.cycle.response_started:
            phrase = problems.TITLES.get(status) or http.HTTPStatus(status).phrase
            body = msgspec.json.encode(problems.Problem(status, phrase, detail))
            headers = [*self.server_state.default_headers, answers.JSON, *answers.ALWAYS, (b"connection", b"close"), (b"content-length", b"%d" % len(body))]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(httptools_impl.STATUS_LINE[status] + lines + b"\r\n" + body)
        if self._stage is Stage.BODY and not self.cycle.response_complete:
            self.cycle.disconnected = True  # whoever waits for the rest of it, waits no more
            self.cycle.message_event.set()
        self._farewell()

    def _farewell(self) -> None:
        """No more is said, and what is still sent is dropped for a moment."""
        self._deaf = True
        self._stage = Stage.LEAVING
        self._deadline = self.loop.time() + FAREWELL
        self.flow.resume_reading()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def overdue(self, now: float) -> str:
        """See `Guest`."""
        if self.transport.is_closing() and self._stage is not Stage.LEAVING:
            self._stage = Stage.LEAVING
            self._deadline = now + FAREWELL
            self._crowd.waits(self)
        before, self._unfetched = self._unfetched, self.transport.get_write_buffer_size()
        if self._unfetched and not before:
            self._fetched_by = now + self._bounds.transfer_time
        elif self._unfetched < before:
            self._fetched_by = min(self._fetched_by + (before - self._unfetched) / self._bounds.slowest, now + self._bounds.transfer_time)
        if self._unfetched and now > self._fetched_by:
            return "answer"
        if self._stage is Stage.ANSWER or (self._unfetched and self._stage is Stage.LEAVING):
            return ""
        if self._stage is Stage.BODY and self.flow.read_paused:
            self._deadline = now + self._bounds.transfer_time  # it is this server that is slow
        if now <= self._deadline:
            return ""
        return self._stage.name.lower()

    def dismiss(self, why: str) -> None:
        """See `Guest`. Who is late with a request is told so (RFC 9110, 15.5.9)."""
        if why in ("head", "body") and (self._stage is Stage.BODY or self._head):
            self._say(408, "the rest of the request did not come in time")
        elif why in ("head", "idle"):
            self._farewell()
        else:
            self._deaf = True
            self.transport.abort()

    def shutdown(self) -> None:
        """The server ends: who has no request under way is closed."""
        if self._stage is Stage.ANSWER or (self._stage is Stage.BODY and not self.cycle.response_complete):
            self.cycle.keep_alive = False
        elif self._stage is not Stage.LEAVING:
            self._farewell()
