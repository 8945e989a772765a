"""Checksums that web servers state of a file: Repr-Digest (RFC 9530), Digest (RFC 3230), Content-MD5 (RFC 1864).

Only what is one of the whole file counts: an ETag is none, and Content-MD5 is one of the bytes in its own answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from tes_server.filer import copying
from tes_server.filer.control import Control

_SIZES = {"sha-512": 64, "sha-256": 32, "md5": 16}
"""What we know, strongest first, with the bytes that each has."""


class Digest(NamedTuple):
    """A checksum by its registered name."""

    name: str
    value: bytes

    @classmethod
    def stated(cls, headers: Mapping[str, str], *, whole: bool) -> Self | None:
        """The strongest that an answer states, or None. `whole`: its body is the file, not a part of one."""
        found: dict[str, bytes] = {}
        if whole:
            found |= _decoded("md5", headers.get("Content-MD5", ""))
        for name, value in re.findall(r"([A-Za-z0-9-]+)=([A-Za-z0-9+/]+={0,2})", headers.get("Digest", "")):
            found |= _decoded(name.lower(), value)
        for name, value in re.findall(r"([a-z0-9-]+)=:([A-Za-z0-9+/]+={0,2}):", headers.get("Repr-Digest", "")):
            found |= _decoded(name, value)
        return next((cls(name, found[name]) for name in _SIZES if name in found), None)

    def matches(self, fd: int, control: Control) -> bool:
        """Reads the whole file. True if it has this checksum."""
        sum_ = hashlib.new(self.name.replace("-", ""), usedforsecurity=False)
        position = 0
        while data := os.pread(fd, copying.BUFFER, position):
            control.check()
            sum_.update(data)
            position += len(data)
        return sum_.digest() == self.value


def _decoded(name: str, text: str) -> dict[str, bytes]:
    """The value by its name; nothing if it cannot be one: what a server says badly it may mean otherwise."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return {}
    return {name: value} if len(value) == _SIZES.get(name) else {}
