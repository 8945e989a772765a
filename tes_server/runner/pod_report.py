"""A report as a container's termination message: readable where it fits, packed where it does not, else where it is to be found. Pure.

A message is at most 4,096 bytes, less in a pod of many containers, and valid UTF-8 (Kubernetes cuts and mends others).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Literal

import msgspec

from tes_server.model.run import Report
from tes_server.runner import pod

LARGEST = 64 * 1024 * 1024
"""Bytes of a report that are unpacked: far above any, and what a process may hold."""


OPENINGS = ('{"report":{', '{"packed":"', '{"elsewhere":{')
"""How messages of ours begin."""


class Elsewhere(msgspec.Struct, frozen=True):
    """The report is too long for a message: where it is, and the hash by which it is known to be whole; "" where that was cut off, too."""

    place: Literal["log", "spool"]
    sha256: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A termination message: one of three ways to tell a report."""

    report: Report | None = None
    packed: str = ""
    elsewhere: Elsewhere | None = None


def body(report: Report) -> bytes:
    """A report as it lies in a log or spool: one line."""
    return msgspec.json.encode(report)


def message(report: Report, place: Literal["log", "spool"], most: int = pod.MESSAGE_BYTES) -> bytes:
    """What to write as termination message, of which `most` bytes are kept; `place` is where the body is put if it cannot hold it."""
    text = msgspec.json.encode(Message(report=report))
    if len(text) <= most:
        return text
    whole = body(report)
    text = msgspec.json.encode(Message(packed=base64.b85encode(zlib.compress(whole, 9)).decode()))
    if len(text) <= most:
        return text
    return msgspec.json.encode(Message(elsewhere=Elsewhere(place, hashlib.sha256(whole).hexdigest())))


def read(text: str) -> Report | Elsewhere | None:
    """What a message tells; None if it is none of ours. Of one that was cut off, as others' containers in the pod do it, the body is in the log."""
    try:
        told = msgspec.json.decode(text, type=Message)
        if told.packed:
            unpacked = zlib.decompressobj()
            whole = unpacked.decompress(base64.b85decode(told.packed), LARGEST)
            return msgspec.json.decode(whole, type=Report) if unpacked.eof else None
    except (msgspec.MsgspecError, ValueError, zlib.error, RecursionError):
        return Elsewhere("log", "") if text.startswith(OPENINGS) and not text.endswith("}") else None
    return told.report or told.elsewhere


def read_body(data: bytes, elsewhere: Elsewhere) -> Report | None:
    """The report from where it was put: the last line of a log, or an object. None unless it is whole."""
    lines = [line for line in data.splitlines() if line.strip()]
    if not elsewhere.sha256:
        found = _decoded(lines[-1]) if lines else None
        return found if found and found.end_time else None  # the output up to now, a line before it, has none
    for whole in (data, *lines[-1:]):
        if hashlib.sha256(whole).hexdigest() == elsewhere.sha256:
            return _decoded(whole)
    return None


def _decoded(body: bytes) -> Report | None:
    try:
        return msgspec.json.decode(body, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
