"""The addresses at which a host's own services are found, real on this machine's network.

They are in a network namespace of their own behind a pair of virtual interfaces, so that this machine, and containers on its network, are one hop away
and containers on Docker's bridge two. What listens there sends packets that live for as many hops as its place says. The namespace belongs to this process: it,
its interfaces and the routes to it are gone when the process is, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

OURS = "169.254.171.1"
"""this machine, as seen from in there"""
OUTSIDE, INSIDE = "tes-host0", "tes-host1"
CLONE_NEWNET = 0x40000000
ONE = "\0tes-aws-batch-metadata"
"""Bound by the emulator that has the addresses, of whatever kind and age: there is one place of them on a machine."""


class Place(NamedTuple):
    """Where a service listens; `hops`: how far its packets get."""

    address: str
    port: int = 80
    hops: int = 64


class NoNetwork(Exception):
    """Why the addresses cannot be had."""


class Namespace:
    """`sockets`: what listens, by place. NoNetwork: not here, or not now."""

    def __init__(self, places: Iterable[Place], patience: float = 0.0) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise NoNetwork("a network namespace needs root and the program ip")
        self._places = tuple(places)
        self._addresses = sorted({place.address for place in self._places})
        self._only = _take(patience)
        self.sockets: dict[Place, socket.socket] = {}
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        failed: list[BaseException] = []
        entered, linked = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._inside, args=(entered, linked, failed), name="namespace")
        thread.start()
        entered.wait()
        try:
            if not failed:
                # Of a process that ended just now: its namespace takes the kernel a moment.
                with contextlib.suppress(subprocess.CalledProcessError):
                    _ip("link", "del", OUTSIDE)
                _ip("link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", str(thread.native_id))
                _ip("addr", "add", f"{OURS}/32", "dev", OUTSIDE)
                _ip("link", "set", OUTSIDE, "up")
                for address in self._addresses:
                    _ip("route", "add", address, "dev", OUTSIDE)
        except subprocess.CalledProcessError as error:
            failed.append(error)
        linked.set()
        thread.join()
        if failed:
            raise NoNetwork(_words(failed[0])) from failed[0]

    def _inside(self, entered: threading.Event, linked: threading.Event, failed: list[BaseException]) -> None:
        """The namespace is this thread's; its sockets keep it when the thread has ended."""
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                failed.append(OSError(ctypes.get_errno(), "unshare"))
            entered.set()
            linked.wait()
            if failed:
                return
            _ip("link", "set", INSIDE, "up")
            for address in self._addresses:
                _ip("addr", "add", f"{address}/32", "dev", INSIDE)
            _ip("route", "add", OURS, "dev", INSIDE)
            _ip("route", "add", "default", "via", OURS)
            for place in self._places:
                self.sockets[place] = _listener(place)
        except (OSError, subprocess.CalledProcessError) as error:
            failed.append(error)
            entered.set()

    def close(self) -> None:
        for listener in self.sockets.values():
            listener.close()
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", OUTSIDE)
        self._only.close()


def _take(patience: float) -> socket.socket:
    end = time.monotonic() + patience
    one = socket.socket(socket.AF_UNIX)
    while True:
        try:
            one.bind(ONE)
        except OSError as error:
            if time.monotonic() >= end:
                one.close()
                raise NoNetwork("another emulator on this machine has the addresses") from error
            time.sleep(0.1)
        else:
            return one


def _listener(place: Place) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it.
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, place.hops)
    listener.bind((place.address, place.port))
    listener.listen(64)
    return listener


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _words(error: BaseException) -> str:
    return f"{error} {error.stderr}".strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
