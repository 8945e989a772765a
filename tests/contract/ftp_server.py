"""A real FTP server (pyftpdlib) on loopback over a directory, with faults on demand."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

with warnings.catch_warnings():
    # On Python 3.11 it takes the standard library's asyncore, which says that it goes.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
    from pyftpdlib.ioloop import IOLoop
    from pyftpdlib.servers import FTPServer

READ = "elr"
WRITE = "elradfmwMT"


class Faults:
    """What goes wrong, until it is used up."""

    def __init__(self) -> None:
        self.cut_after: list[int] = []
        """data connections, in order, that break with the control connection after so many bytes"""
        self.stall_after: int | None = None
        """data connections stand still after so many bytes"""
        self.answers: dict[str, list[str]] = {}
        """by command: answers given instead of what it would do, in order"""
        self.always: dict[str, str] = {}
        """by command: the answer given each time"""
        self.strange_list: bytes | None = None
        """what LIST sends"""


class FtpServer:
    """`commands` are those that came, passwords apart."""

    def __init__(self, port: int, home: pathlib.Path, scheme: str) -> None:
        self.port = port
        self.home = home
        self.scheme = scheme
        self.commands: list[str] = []
        self.faults = Faults()
        self.connections = 0
        self.most = 0

    def url(self, path: str = "", login: str = "user:hunter2") -> str:
        return f"{self.scheme}://{login}@localhost:{self.port}/{path}" if login else f"{self.scheme}://localhost:{self.port}/{path}"

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the server's thread does."""
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def names(self) -> list[str]:
        """The commands that came, without arguments."""
        return [command.partition(" ")[0] for command in self.commands]


@contextlib.contextmanager
def serving(home: pathlib.Path, certificate: pathlib.Path | None = None, *, implicit: bool = False) -> Iterator[FtpServer]:
    """A server with the users `user` (writes), `reader` and `anonymous` (read), `listed` (lists only), all of password hunter2."""
    authorizer = DummyAuthorizer()
    authorizer.add_user("user", "hunter2", str(home), WRITE)
    authorizer.add_user("reader", "hunter2", str(home), READ)
    authorizer.add_user("listed", "hunter2", str(home), "el")
    authorizer.add_anonymous(str(home), perm=READ)
    handler = _handler(certificate, implicit)
    handler.authorizer = authorizer
    loop = IOLoop()
    listener = FTPServer(("127.0.0.1", 0), handler, ioloop=loop)
    server = handler.lab = FtpServer(listener.address[1], home, "ftps" if certificate else "ftp")
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            loop.loop(timeout=0.02, blocking=False)
        listener.close_all()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        ended.set()
        thread.join()


def _handler(certificate: pathlib.Path | None, implicit: bool) -> Any:
    """Handler classes of one server: pyftpdlib is configured by their attributes."""

    class Faulty:
        """A data connection with the faults."""

        sent = 0

        def send(self, data: bytes) -> int:
            faults = self.cmd_channel.lab.faults  # type: ignore[attr-defined]
            limit = faults.stall_after if faults.stall_after is not None else faults.cut_after[0] if faults.cut_after else None
            if limit is not None and self.sent + len(data) > limit:
                data = data[: limit - self.sent]
                if not data:
                    return self._over(faults)
            count = super().send(data)  # type: ignore[misc]
            self.sent += count
            return int(count)

        def recv(self, size: int) -> bytes:
            faults = self.cmd_channel.lab.faults  # type: ignore[attr-defined]
            data = bytes(super().recv(size))  # type: ignore[misc]
            self.sent += len(data)
            if faults.cut_after and self.sent > faults.cut_after[0]:
                self._over(faults)
            return data

        def _over(self, faults: Faults) -> int:
            if faults.stall_after is None:
                faults.cut_after.pop(0)
                self.cmd_channel.close()  # type: ignore[attr-defined]
            return 0

    data = type("Data", (Faulty, TLS_DTPHandler if certificate else DTPHandler), {"use_sendfile": lambda _: False})

    class Handler(TLS_FTPHandler if certificate else FTPHandler):  # type: ignore[misc]
        dtp_handler = data
        auth_failed_timeout = 0.05
        lab: FtpServer

        def handle(self) -> None:
            self.lab.connections += 1
            self.lab.most = max(self.lab.most, self.lab.connections)
            if implicit:
                self.secure_connection(self.ssl_context)
            super().handle()

        def close(self) -> None:
            if not self._closed:
                self.lab.connections -= 1
            super().close()

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            self.lab.commands.append(cmd if cmd == "PASS" else line)
            waiting = self.lab.faults.answers.get(cmd)
            if waiting:
                self.respond(waiting.pop(0))
            elif cmd in self.lab.faults.always:
                self.respond(self.lab.faults.always[cmd])
            else:
                super().pre_process_command(line, cmd, arg)

        def ftp_LIST(self, path: str) -> Any:  # noqa: N802
            if self.lab.faults.strange_list is None:
                return super().ftp_LIST(path)
            self.push_dtp_data(self.lab.faults.strange_list, cmd="LIST")
            return path

        def log(self, msg: str, logfun: Any = None) -> None:
            """Nothing: the test looks at `commands`."""

        logline = logerror = log

    if certificate:
        Handler.certfile = str(certificate)
        Handler.tls_control_required = True
        Handler.tls_data_required = True
    return Handler
