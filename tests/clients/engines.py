"""What replays of workflow engines share: a server with a site path, the engine's own view of that path, and strict decoding.

The engine knows its files by absolute paths only. Behind the path lies a directory or an object store, and nothing in what
the engine sends or reads may depend on which.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import pathlib
import types
import typing
import urllib.request
from typing import Any, TypeVar

from tests.acceptance.server import Server
from tests.contract import object_servers

T = TypeVar("T")


class Share(abc.ABC):
    """What an engine sees of its work directory."""

    @abc.abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Put a file there."""

    @abc.abstractmethod
    def read(self, path: str) -> bytes | None:
        """What a file holds at this moment; None if there is none."""

    @abc.abstractmethod
    def names(self, path: str) -> set[str]:
        """Files below a directory, by relative path."""

    def text(self, path: str) -> str:
        data = self.read(path)
        assert data is not None, f"{path} is missing"
        return data.decode()


class SharedDirectory(Share):
    """A directory of this machine."""

    def __init__(self, top: str, home: pathlib.Path) -> None:
        self._top = top
        self._home = home

    def _at(self, path: str) -> pathlib.Path:
        return self._home / path.removeprefix(self._top).lstrip("/")

    def write(self, path: str, data: bytes) -> None:
        self._at(path).parent.mkdir(parents=True, exist_ok=True)
        self._at(path).write_bytes(data)

    def read(self, path: str) -> bytes | None:
        try:
            return self._at(path).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, path: str) -> set[str]:
        base = self._at(path)
        return {str(file.relative_to(base)) for file in base.rglob("*") if file.is_file()}


class SharedObjects(Share):
    """A prefix of an object store, seen with the cloud's own SDK."""

    def __init__(self, top: str, store: object_servers.Server, prefix: str) -> None:
        self._top = top
        self._store = store
        self._prefix = prefix

    def _key(self, path: str) -> str:
        return self._prefix + path.removeprefix(self._top)

    def write(self, path: str, data: bytes) -> None:
        self._store.put(self._key(path), data)

    def read(self, path: str) -> bytes | None:
        return self._store.objects(self._key(path)).get("")

    def names(self, path: str) -> set[str]:
        return set(self._store.objects(self._key(path) + "/"))


@dataclasses.dataclass(frozen=True)
class Installation:
    """A running server whose tasks know `top` as their engine does."""

    server: Server
    share: Share
    top: str
    image: str


def decode(kind: type[T], value: Any) -> T:
    """JSON as spray-json makes a case class of it: unknown keys pass, a missing or null Option is None, all else must be as it says."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return typing.cast("T", None if value is None else decode(arguments[0], value))
    if kind is float and type(value) is int:
        value = float(value)
    if origin is list:
        assert isinstance(value, list), f"a list is needed, not {value!r}"
        return typing.cast("T", [decode(arguments[0], item) for item in value])
    if origin is dict:
        assert isinstance(value, dict), f"an object is needed, not {value!r}"
        return typing.cast("T", {key: decode(arguments[1], item) for key, item in value.items()})
    if dataclasses.is_dataclass(kind):
        assert isinstance(value, dict), f"an object is needed, not {value!r}"
        hints = typing.get_type_hints(kind)
        return typing.cast("T", kind(**{name: decode(hint, value.get(name)) for name, hint in hints.items()}))
    assert type(value) is kind, f"{kind} is needed, not {value!r}"
    return value


def ask(url: str, body: Any = None) -> Any:
    """A request as Akka's and OkHttp's clients make it; the answer must be JSON and say so."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Accept": "application/json", "Content-Type": "application/json"} if data else {"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
        assert answer.headers.get_content_type() == "application/json"
        return json.load(answer)
