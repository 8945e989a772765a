"""Connections for http(s) and ftp(s): they reach no address that the guard refuses, and they end when the step is stopped.

Addresses are checked after the name is resolved and are the ones connected to, so that no name can answer one address to
the check and another to the connection. This module must never read or send a request itself, nor ask a proxy: whoever
connects in our place would resolve the name anew.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref

import urllib3

from tes_server import errors
from tes_server.filer import wording
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.wording import Side
from tes_server.plan import guard


class Dialer:
    """Makes the connections of one stage step and remembers those that are open. `own`: this machine's loopback may be among them."""

    def __init__(self, access: Access, control: Control, side: Side, *, own: bool = True) -> None:
        self._access = access
        self._side = side
        self._may_be_own = own
        self._own: set[str] = set()
        self._control = control
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        control.on_end(self._abort)

    def dial(self, host: str, port: int) -> socket.socket:
        """A connection to the first address of `host` that answers.

        Raises OSError if none does, StagingError (denied, not worth another try) if none may be connected to, or Canceled.
        """
        host = host.strip("[]")
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        refusal = ""
        for family, _, _, _, address in found:
            why = self._refusal(str(address[0]), host, port)
            if why:
                refusal = refusal or why
                continue
            try:
                connection = self._connected(family, address)
            except OSError as cause:
                failure = cause
            else:
                if guard.is_own(str(address[0])):
                    self._own.add(host)
                return connection
        if failure is None and refusal:
            raise errors.StagingError(f"{wording.printable(host)[:100]} {refusal}", self._side.denied)
        raise failure or OSError("no address")

    def beside(self, connection: socket.socket, port: int) -> socket.socket:
        """Another connection to where `connection`, which `dial` made, leads: whoever is there may name a port, never an address."""
        address = connection.getpeername()
        return self._connected(connection.family, (address[0], port, *address[2:]))

    def _connected(self, family: int, address: tuple[object, ...]) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._access.connect_timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.watch(connection)
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refusal(self, address: str, host: str, port: int) -> str:
        """As `Guard.refusal`."""
        if not self._may_be_own and guard.is_own(address):
            return "is this very machine (loopback), and a server elsewhere has named it"
        return self._access.guard.refusal(address, host, port)

    def away(self) -> Dialer:
        """A dialer of the same step that does not connect to this machine, whatever the guard opens."""
        return Dialer(self._access, self._control, self._side, own=False)

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
