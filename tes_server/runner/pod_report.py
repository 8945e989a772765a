"""A report as a container's termination message: readable where it fits, packed where it does not, else where it is to be found. Pure.

A message is at most 4,096 bytes and valid UTF-8 (Kubernetes cuts and mends others).
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


class Elsewhere(msgspec.Struct, frozen=True):
    """The report is too long for a message: where it is, and the hash by which it is known to be whole."""

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


def message(report: Report, place: Literal["log", "spool"]) -> bytes:
    """What to write as termination message; `place` is where the body is put if the message cannot hold it."""
    text = msgspec.json.encode(Message(report=report))
    if len(text) <= pod.MESSAGE_BYTES:
        return text
    whole = body(report)
    text = msgspec.json.encode(Message(packed=base64.b85encode(zlib.compress(whole, 9)).decode()))
    if len(text) <= pod.MESSAGE_BYTES:
        return text
    return msgspec.json.encode(Message(elsewhere=Elsewhere(place, hashlib.sha256(whole).hexdigest())))


def read(text: str) -> Report | Elsewhere | None:
    """What a message tells; None if it is none of ours."""
    try:
        told = msgspec.json.decode(text, type=Message)
        if told.packed:
            unpacked = zlib.decompressobj()
            whole = unpacked.decompress(base64.b85decode(told.packed), LARGEST)
            return msgspec.json.decode(whole, type=Report) if unpacked.eof else None
    except (msgspec.MsgspecError, ValueError, zlib.error, RecursionError):
        return None
    return told.report or told.elsewhere


def read_body(data: bytes, elsewhere: Elsewhere) -> Report | None:
    """The report from where it was put: the last line of a log, or an object. None unless it is whole."""
    lines = [line for line in data.splitlines() if line.strip()]
    for whole in (data, *lines[-1:]):
        if hashlib.sha256(whole).hexdigest() == elsewhere.sha256:
            try:
                return msgspec.json.decode(whole, type=Report)
            except (msgspec.MsgspecError, RecursionError):
                return None
    return None
