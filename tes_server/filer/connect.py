"""Connections for http(s) and ftp(s): they never reach a closed network, and they end when the step is stopped.

Addresses are checked after the name is resolved and are the ones connected to, so that no name can answer one address to
the check and another to the connection. This module must never read or send a request itself.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import weakref
from collections.abc import Iterable

import msgspec
import urllib3

from tes_server import errors
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.wording import Side

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""This machine: what listens here often trusts whoever reaches it."""


class Dialer:
    """Makes the connections of one stage step and remembers those that are open."""

    def __init__(self, access: Access, control: Control, side: Side) -> None:
        self._access = access
        self._side = side
        self._closed = tuple(ipaddress.ip_network(network) for network in access.closed)
        self._own: set[str] = set()
        self._timeout = access.connect_timeout
        self._control = control
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        control.on_end(self._abort)

    def dial(self, host: str, port: int) -> socket.socket:
        """A connection to the first address of `host` that answers.

        Raises OSError if none does, StagingError (denied) if all are in closed networks, or Canceled.
        """
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        open_to_us = [item for item in found if not self._is_closed(str(item[4][0]))]
        if not open_to_us:
            raise errors.StagingError("the address of the host is in a network that transfers may not reach", self._side.denied)
        last = OSError("no address")
        for family, kind, protocol, _, address in open_to_us:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self._timeout)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.watch(connection)
                connection.connect(address)
                if _within(str(address[0]), tuple(map(ipaddress.ip_network, LOOPBACK))):
                    self._own.add(host.strip("[]"))
            except OSError as cause:
                connection.close()
                last = cause
            except errors.Canceled:
                connection.close()
                raise
            else:
                return connection
        raise last

    def away(self) -> Dialer:
        """A dialer of the same step that does not connect to this machine either."""
        closed = (*self._access.closed, *LOOPBACK)
        return Dialer(msgspec.structs.replace(self._access, closed=closed), self._control, self._side)

    def is_own(self, host: str) -> bool:
        """True if `host`, which was connected to, is this machine's loopback."""
        return host in self._own

    def watch(self, connection: socket.socket) -> None:
        """End `connection` when the step is stopped. Raises Canceled if it was."""
        with self._lock:
            self._open.add(connection)
        self._control.check()

    def _abort(self) -> None:
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            # Not close: a thread may be reading. It wakes with an end of file; TLS must not get a say.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _is_closed(self, text: str) -> bool:
        return _within(text, self._closed)


def _within(text: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    """True if an address lies in one of `networks`, also if it is one of IPv4 written as IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def pools(dialer: Dialer, access: Access) -> urllib3.PoolManager:
    """A pool of connections that `dialer` makes. Follows no redirect and repeats nothing unless told to."""
    timeout = urllib3.Timeout(connect=access.connect_timeout, read=access.read_timeout)
    return dialed(urllib3.PoolManager(maxsize=access.workers * access.parts, timeout=timeout), dialer)


def dialed(manager: urllib3.PoolManager, dialer: Dialer) -> urllib3.PoolManager:
    """`manager`, its connections made by `dialer` from now on."""

    class Plain(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return dialer.dial(self._dns_host, self.port)

    class Secure(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return dialer.dial(self._dns_host, self.port)

        def connect(self) -> None:
            super().connect()
            if self.sock is not None:
                # TLS has put its own socket in the place of the one that we made.
                dialer.watch(self.sock)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager
