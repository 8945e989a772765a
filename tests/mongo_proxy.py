"""A TCP proxy before a MongoDB server that misbehaves on demand: away, frozen, slow, cut, or answering in the server's place.

It reads the driver's messages (OP_MSG), so that a rule may name the command that it is for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import bson

HEADER = struct.Struct("<iiii")
OP_MSG = 2013
FLAGS_AND_KIND = 5


def failure(code: int, message: str = "") -> dict[str, Any]:
    """The answer of a server that refuses a command."""
    return {"ok": 0.0, "code": code, "codeName": f"Code{code}", "errmsg": message or f"error {code}"}


def throttled(milliseconds: int) -> dict[str, Any]:
    """Cosmos DB's answer where the request units of this second are used up."""
    return failure(16500, f"Error=16500, RetryAfterMs={milliseconds}, Details='Response status code does not indicate success'")


class Rule:
    """What happens to the next `times` commands of one name. `answer`: sent instead of the server's; None: the connection is cut."""

    def __init__(self, command: str, collection: str, answer: dict[str, Any] | None, times: int, reaches: bool) -> None:
        self.command = command
        self.collection = collection
        self.answer = answer
        self.left = times
        self.reaches = reaches
        self.met = 0
        self.came = threading.Event()
        self.hold: threading.Event | None = None


class Proxy:
    """Listens on a port of its own. `delay`: seconds before each command is passed on."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 27017)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        self.url = parts._replace(netloc=f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}").geturl()
        self.delay = 0.0
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._away = False
        self._rules: list[Rule] = []
        self._pairs: set[_Pair] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    # -- misbehaviour

    def rule(self, command: str, answer: dict[str, Any] | None = None, *, collection: str = "", times: int = 1, reaches: bool = False) -> Rule:
        """The next `times` such commands are answered so (None: cut); with `reaches` only after the server has carried them out."""
        made = Rule(command, collection, answer, times, reaches)
        with self._lock:
            self._rules.append(made)
        return made

    def cut(self) -> None:
        """Every connection there is ends."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.end()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The server is not there, until the end of the block or `back`."""
        self._away = True
        self.cut()
        yield
        self.back()

    def back(self) -> None:
        """The server is there again."""
        self._away = False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing passes, and nobody is told."""
        self._flowing.clear()
        yield
        self._flowing.set()

    @contextlib.contextmanager
    def held(self, command: str, collection: str) -> Iterator[threading.Event]:
        """The next such command is carried out, but its answer kept until the end of the block. The event tells when it came."""
        rule = self.rule(command, collection=collection, reaches=True)
        rule.hold = threading.Event()
        try:
            yield rule.came
        finally:
            rule.hold.set()

    # -- the rest

    def close(self) -> None:
        """Stop; no thread and no socket is left."""
        self._away = True
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._away:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            self._start(self._upwards, pair)
            self._start(self._downwards, pair)

    def _upwards(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while (message := _message(pair.client)) is not None:
                self._flowing.wait()
                if self.delay:
                    threading.Event().wait(self.delay)
                rule = self._matching(message)
                if rule is None:
                    pair.server.sendall(message)
                elif rule.reaches:
                    pair.replies[_request_of(message)] = rule
                    pair.server.sendall(message)
                elif rule.answer is None:
                    break
                else:
                    pair.client.sendall(_reply(rule.answer, _request_of(message)))
        self._end(pair)

    def _downwards(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while (message := _message(pair.server)) is not None:
                self._flowing.wait()
                answered = HEADER.unpack_from(message)[2]
                rule = pair.replies.pop(answered, None)
                if rule is not None and rule.hold is not None:
                    rule.came.set()
                    rule.hold.wait()
                if rule is None or rule.hold is not None:
                    pair.client.sendall(message)
                elif rule.answer is None:
                    break
                else:
                    pair.client.sendall(_reply(rule.answer, answered))
        self._end(pair)

    def _matching(self, message: bytes) -> Rule | None:
        if HEADER.unpack_from(message)[3] != OP_MSG or message[HEADER.size + FLAGS_AND_KIND - 1] != 0:
            return None
        command = bson.decode(message[HEADER.size + FLAGS_AND_KIND :][: struct.unpack_from("<i", message, HEADER.size + FLAGS_AND_KIND)[0]])
        name = next(iter(command))
        with self._lock:
            for rule in self._rules:
                if rule.left and rule.command == name and rule.collection in ("", command[name]):
                    rule.left -= 1
                    rule.met += 1
                    return rule
        return None

    def _end(self, pair: _Pair) -> None:
        if pair.leave():
            with self._lock:
                self._pairs.discard(pair)


class _Pair:
    """A client's connection and ours to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.replies: dict[int, Rule] = {}
        self._gate = threading.Lock()
        self._users = 2

    def end(self) -> None:
        """Both threads find their connection ended."""
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def leave(self) -> bool:
        """One of the two threads is done; True for the second one, which closes."""
        self.end()
        with self._gate:
            self._users -= 1
            last = self._users == 0
        if last:
            self.client.close()
            self.server.close()
        return last


def _message(source: socket.socket) -> bytes | None:
    head = _exactly(source, HEADER.size)
    if head is None:
        return None
    body = _exactly(source, HEADER.unpack(head)[0] - HEADER.size)
    return None if body is None else head + body


def _exactly(source: socket.socket, count: int) -> bytes | None:
    taken = bytearray()
    while len(taken) < count:
        more = source.recv(count - len(taken))
        if not more:
            return None
        taken += more
    return bytes(taken)


def _request_of(message: bytes) -> int:
    return int(HEADER.unpack_from(message)[1])


def _reply(document: dict[str, Any], request: int) -> bytes:
    body = b"\0\0\0\0\0" + bson.encode(document)
    return HEADER.pack(HEADER.size + len(body), 0, request, OP_MSG) + body
