"""One logged-in FTP connection, and the commands that the scheme `ftp` needs, over the standard library's ftplib.

Connections are passive only, and data connections go to the address of the server itself whatever it names: it may not
send us elsewhere. What a server says is bounded and checked. This module must never try anything twice.
"""

from __future__ import annotations

import contextlib
import ftplib
import io
import os
import posixpath
import re
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tes_server.errors import StagingError
from tes_server.filer import copying, ftp_listing, wording
from tes_server.filer.connect import Dialer
from tes_server.filer.control import Control
from tes_server.filer.ftp_listing import Item, Kind
from tes_server.filer.manifest import Access
from tes_server.filer.patience import Passing
from tes_server.filer.wording import Side
from tes_server.plan import paths
from tes_server.telemetry import Code

IMPLICIT = 990
"""The port on which TLS begins at once; on any other `ftps` asks for it (AUTH TLS, RFC 4217)."""

ABANDON = 2.0
"""Seconds to wait for a server while a transfer is being stopped."""

ANSWER = 1000
"""Lines of one answer; a welcome has some dozens."""

LISTING = 64 * 1024 * 1024
"""Bytes of one directory's listing, which is held in memory: some 600,000 names."""

FACTS = "type;size;unique;unix.mode;"
"""What a server is asked to say of each name (MLST); it tells those that it knows."""

_UNKNOWN = frozenset({"500", "501", "502", "504"})
"""How a server says that it does not know a command, or not in this form."""
_DENIED = frozenset({"430", "530", "532", "553"})
_FULL = frozenset({"452", "552"})
_DENIAL = re.compile(r"permission|denied|privilege|not allowed|forbidden|access|authoriz|read.?only", re.IGNORECASE)


class Server(NamedTuple):
    """Whom to talk to, as whom."""

    secure: bool
    host: str
    port: int
    user: str
    password: str


def parse(url: str, code: Code) -> tuple[Server, str]:
    """Server and path of an ftp(s) url; the path is relative to where a login begins unless it starts with a slash.

    Raises StagingError with `code`. RFC 1738, 3.2.2: the slash behind the host is no part of the path; `//` or `%2F` is.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port, path = parts.hostname, parts.port, paths.ftp_path(parts)
    except ValueError as cause:
        raise StagingError("is no valid url", code) from cause
    if not host:
        raise StagingError("is no valid url", code)
    secure = parts.scheme.lower() == "ftps"
    user, password = wording.unquoted(parts.username or ""), wording.unquoted(parts.password or "")
    return Server(secure, host, port or (IMPLICIT if secure else ftplib.FTP_PORT), user, password), path


class NoResume(Passing):
    """The server cannot begin in the middle of a file."""


class Connection(ftplib.FTP):
    """A connection, opened by `begin`. Every method raises Passing, StagingError or Canceled, and nothing else.

    Paths are absolute (`home` is where the login began), file names that are no UTF-8 have surrogates. Not thread-safe.
    """

    def __init__(self, server: Server, dialer: Dialer, access: Access, control: Control, side: Side) -> None:
        super().__init__(timeout=access.read_timeout)
        self.home = "/"
        self._server = server
        self._dialer = dialer
        self._control = control
        self._side = side
        self._tls = ssl.create_default_context() if server.secure else None
        self._lines = 0
        self._facts = False

    def begin(self) -> None:
        """Connect and log in."""
        with self._translated():
            self.host = self._server.host
            plain = self._dial(self.host, self._server.port)
            self.af = plain.family
            implicit = self._tls is not None and self._server.port == IMPLICIT
            self._talk_over(self._secured(plain, self._tls) if self._tls and implicit else plain)
            self.welcome = self.getresp()
            if self._tls is not None:
                if not implicit:
                    self.voidcmd("AUTH TLS")
                    self._talk_over(self._secured(plain, self._tls))
                self.voidcmd("PBSZ 0")
                self.voidcmd("PROT P")
            self.login(self._server.user, self._server.password)
            with contextlib.suppress(ftplib.error_perm):
                self.sendcmd("OPTS UTF8 ON")  # Windows servers want it; others need not know it
            self.voidcmd("TYPE I")
            self.home = self.pwd() or "/"

    def end(self) -> None:
        """Hang up without a word: a server that waits for nothing cannot hold us up."""
        with contextlib.suppress(OSError):
            self.close()

    # -- questions --------------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """The server still answers here."""
        try:
            self.voidcmd("NOOP")
        except (ftplib.Error, OSError, EOFError):
            return False
        return True

    def look(self, path: str) -> Item | None:
        """What is at `path`; None if nothing is. A file's size is -1 if the server cannot tell."""
        with self._translated():
            try:
                return Item(path, Kind.FILE, self._size(path))
            except ftplib.error_perm as cause:
                refusals = [cause]
            try:
                self.voidcmd(f"CWD {path}")
                return Item(path, Kind.DIRECTORY)
            except ftplib.error_perm as cause:
                refusals.append(cause)
            # A directory's size may be denied to everybody: only both answers together say that something is denied.
            for refusal in refusals:
                if _DENIAL.search(str(refusal)):
                    raise refusal
            return Item(path, Kind.FILE) if str(refusals[0])[:3] in _UNKNOWN else None

    def size_of(self, path: str) -> int:
        """Bytes of a file; -1 if the server cannot tell, or there is no file."""
        with self._translated():
            try:
                return self._size(path)
            except ftplib.error_perm:
                return -1

    def _size(self, path: str) -> int:
        size = self.size(path)
        return -1 if size is None else size

    def stamp_of(self, path: str) -> str:
        """When a file was changed, in the server's words, or ""."""
        with self._translated():
            try:
                return self.sendcmd(f"MDTM {path}")
            except ftplib.error_perm:
                return ""

    def items(self, path: str) -> list[Item]:
        """What the directory at `path` holds."""
        with self._translated():
            if not self._facts:
                with contextlib.suppress(ftplib.error_perm):
                    self.sendcmd(f"OPTS MLST {FACTS}")
                self._facts = True
            try:
                return ftp_listing.machine(self._listing(f"MLSD {path}"))
            except ftplib.error_perm as cause:
                if str(cause)[:3] not in _UNKNOWN:
                    raise
            # As argument of LIST a path may be taken for options.
            self.voidcmd(f"CWD {path}")
            lines = list[str]()
            with contextlib.suppress(ftplib.error_perm, ftplib.error_temp):
                lines = self._listing("LIST -a")
            if not any(line.endswith(" .") for line in lines):  # this server knows no -a, and may have looked for a file of that name
                lines = self._listing("LIST")
            return ftp_listing.human(lines)

    def _listing(self, command: str) -> list[str]:
        text = io.BytesIO()
        with self._data(command) as data:
            while chunk := data.recv(copying.BUFFER):
                self._control.check()
                if text.tell() + len(chunk) > LISTING:
                    raise StagingError(f"lists more than {LISTING} bytes of names", self._side.error)
                text.write(chunk)
        # Not splitlines: names may hold what it takes for the end of a line.
        return [line.removesuffix("\r") for line in text.getvalue().decode("utf-8", "surrogateescape").split("\n") if line]

    # -- changes ----------------------------------------------------------------------------------------------------

    def retrieve(self, path: str, fd: int, position: int, limit: int | None, moved: Callable[[int], None]) -> None:
        """Write the file from `position` on to `fd`, at most up to `limit`; `moved` is told each position reached."""
        with self._translated(), self._data(f"RETR {path}", position) as data:
            while chunk := data.recv(copying.BUFFER):
                self._control.check()
                if limit is not None and position + len(chunk) > limit:
                    raise Passing("the server sent more than the file's size")
                position += copying.write(fd, chunk, position)
                moved(position)

    def store(self, path: str, fd: int, position: int, moved: Callable[[int], None]) -> None:
        """Send what `fd` holds from `position` on; the file at `path` must have as many bytes already."""
        with self._translated(), self._data(f"STOR {path}", position) as data:
            while chunk := os.pread(fd, copying.BUFFER, position):
                self._control.check()
                data.sendall(chunk)
                position += len(chunk)
                self._control.moved(len(chunk))
                moved(position)

    def make(self, path: str) -> None:
        """Make one directory, or do nothing if there is one."""
        with self._translated():
            try:
                self.voidcmd(f"MKD {path}")
            except ftplib.error_perm as refusal:
                try:
                    self.voidcmd(f"CWD {path}")
                except ftplib.error_perm:
                    raise refusal from None

    def move(self, source: str, target: str) -> None:
        """Rename, in place of a file at `target`."""
        with self._translated():
            self.sendcmd(f"RNFR {source}")
            try:
                self.voidcmd(f"RNTO {target}")
                return
            except ftplib.error_perm:
                # Most servers replace what is there, and a few refuse to.
                if self.size_of(target) < 0:
                    raise
            self.voidcmd(f"DELE {target}")
            self.sendcmd(f"RNFR {source}")
            self.voidcmd(f"RNTO {target}")

    def remove(self, path: str) -> None:
        """Delete a file if there is one."""
        with self._translated(), contextlib.suppress(ftplib.error_perm):
            self.voidcmd(f"DELE {path}")

    def abandon(self, path: str) -> None:
        """Delete the file whose upload was broken off here, if that can be done at once."""
        with contextlib.suppress(ftplib.Error, OSError, EOFError):
            if self.sock is not None:
                self.sock.settimeout(ABANDON)
            with contextlib.suppress(ftplib.Error):
                self.getresp()
            self.voidcmd(f"DELE {path}")

    def absolute(self, path: str) -> str:
        """A path of a url as one that does not depend on where we are."""
        return posixpath.join(self.home, path).rstrip("/") or "/"

    # -- the wire ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _data(self, command: str, position: int = 0) -> Iterator[socket.socket]:
        """The data connection of one command, from `position` on; left normally, the server has said that all went well."""
        data = self._beside(self.makepasv()[1])
        try:
            if position:
                try:
                    self.sendcmd(f"REST {position}")
                except ftplib.error_perm as cause:
                    raise NoResume("the connection broke off, and the server cannot resume") from cause
            answer = self.sendcmd(command)
            if answer[0] == "2":  # some servers say so twice
                answer = self.getresp()
            if answer[0] != "1":
                raise ftplib.error_reply(answer)
            if self._tls is not None:
                data = self._secured(data, self._tls)
            yield data
            if isinstance(data, ssl.SSLSocket):
                with contextlib.suppress(OSError):  # the other side may just have closed
                    data.unwrap()
        finally:
            data.close()
        self.voidresp()

    def _dial(self, host: str, port: int) -> socket.socket:
        made = self._dialer.dial(host, port)
        made.settimeout(self.timeout)
        return made

    def _beside(self, port: int) -> socket.socket:
        """A data connection: to the address that the control connection has, whatever the server names."""
        if self.sock is None:
            raise EOFError
        made = self._dialer.beside(self.sock, port)
        made.settimeout(self.timeout)
        return made

    def _secured(self, plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        # Many servers take a data connection only in the TLS session of the control connection, to know whose it is.
        session = self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None
        made = tls.wrap_socket(plain, server_hostname=self.host, session=session)
        self._dialer.watch(made)
        return made

    def _talk_over(self, connection: socket.socket) -> None:
        self.sock = connection
        self.file = connection.makefile("r", encoding="utf-8", errors="surrogateescape", newline="\n")

    def putline(self, line: str) -> None:
        """As ftplib has it, for names that are no UTF-8."""
        if self.sock is None:
            raise EOFError
        if "\r" in line or "\n" in line or "\0" in line:
            raise StagingError("has a name with a line break, which FTP cannot carry", self._side.error)
        self.sock.sendall(line.encode("utf-8", "surrogateescape") + b"\r\n")

    def getresp(self) -> str:
        """As ftplib has it, with a bound."""
        self._lines = 0
        return super().getresp()

    def getline(self) -> str:
        """As ftplib has it, with a bound on the lines of one answer."""
        self._lines += 1
        if self._lines > ANSWER:
            raise ftplib.Error("an endless answer")
        return super().getline()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What ftplib and sockets raise, in our words."""
        try:
            yield
        except ssl.SSLCertVerificationError as cause:
            raise StagingError("the server's certificate is not trusted here", self._side.error) from cause
        except ftplib.Error as cause:
            self._control.check()
            raise self._failure(cause) from cause
        except ValueError as cause:
            raise Passing("the server's answer is not FTP") from cause
        except TimeoutError as cause:
            raise Passing("the server did not answer in time") from cause
        except (OSError, EOFError) as cause:
            # A socket that the control has shut down looks like a broken one.
            self._control.check()
            raise Passing("the connection failed or broke off") from cause

    def _failure(self, cause: ftplib.Error) -> Exception:
        if not isinstance(cause, ftplib.error_temp | ftplib.error_perm | ftplib.error_reply):
            return Passing("the server's answer is not FTP")
        code, words = str(cause)[:3], f"the server answered {self._shown(str(cause))}"
        if code in _FULL:
            return StagingError(words, Code.DISK_FULL)
        if code in _DENIED or (code[0] == "5" and _DENIAL.search(words)):
            return StagingError(words, self._side.denied)
        if isinstance(cause, ftplib.error_temp):
            return Passing(words)
        return StagingError(words, self._side.missing if code == "550" else self._side.error)

    def _shown(self, answer: str) -> str:
        """A server's answer for messages: one line, bounded, and without what we told it in confidence."""
        code, text = answer[:3], wording.printable(answer[4:].partition("\n")[0])
        secrets = [word for word in (self._server.user, self._server.password) if word]
        if not text or any(word in text for word in secrets):
            return code
        return f"{code} ({text[:100].strip()})"
