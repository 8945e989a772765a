"""What system_logs say of transfers: which code, which words. Messages name the field and the url, never a secret in it.

Pure text.
"""

from __future__ import annotations

import errno
import urllib.parse
from typing import NamedTuple

from tes_server import errors, redaction, telemetry
from tes_server.plan import paths
from tes_server.telemetry import Code

NOTICES = 100
"""Notices kept of one stage step: a directory may hold a million FIFOs."""


class Side(NamedTuple):
    """The codes of one direction."""

    missing: Code
    denied: Code
    error: Code


INPUT = Side(Code.INPUT_NOT_FOUND, Code.INPUT_DENIED, Code.INPUT_ERROR)
OUTPUT = Side(Code.OUTPUT_ERROR, Code.OUTPUT_DENIED, Code.OUTPUT_ERROR)

_QUOTED = paths.NET | {"file"}
"""Schemes in whose urls names are percent-encoded; keys of object stores and plain paths are written as they are."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})


class Failure(errors.StagingError):
    """A StagingError that already says which input or output it was."""


def failure(cause: OSError | errors.StagingError, side: Side, field: str, where: str) -> Failure:
    """The error to report for `cause`, met while `where` (already `redacted`) of the task's `field` was moved.

    A Failure stays what it is: a thread that hands over work may meet the failure of another thread's input.
    """
    if isinstance(cause, Failure):
        return cause
    if isinstance(cause, errors.StagingError):
        return Failure(f"{field}: {where}: {cause.public}", cause.code, cause.transient)
    code, transient = side.error, cause.errno in _PASSING
    if cause.errno in FULL:
        code = Code.DISK_FULL
    elif cause.errno in _DENIED:
        code = side.denied
    elif cause.errno == errno.ENOENT:
        code = side.missing
    return Failure(f"{field}: {where}: {reason(cause)}", code, transient)


def reason(cause: OSError) -> str:
    """The words of an OSError without the file names in it: those may be paths of this machine."""
    words = cause.strerror or type(cause).__name__
    return words[:1].lower() + words[1:]


def redacted(url: str) -> str:
    """A url for messages: without user, password, query (signatures live there) and fragment, and always valid text."""
    return redaction.brief(printable(url))


def printable(text: str) -> str:
    r"""Names as JSON can carry them: bytes that are no UTF-8 are written `\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def join(url: str, name: str) -> str:
    """A relative path behind that of a directory, for messages."""
    return printable(url.rstrip("/") + "/" + name) if name else printable(url)


def below(url: str, name: str) -> str:
    """What lies at a relative path below the url (or absolute path) of a directory, in the form in which a task could name it."""
    scheme = url.partition(":")[0].lower()
    if not name or scheme not in _QUOTED:
        return join(url, name)
    path, mark, query = url.partition("?") if scheme in ("http", "https") else (url, "", "")
    return join(path, quoted(name)) + mark + query


def quoted(text: str) -> str:
    """Text as it stands in a resolved `file://` url (plan.paths)."""
    return urllib.parse.quote(text, errors="surrogateescape")


def unquoted(text: str) -> str:
    """The other way."""
    return urllib.parse.unquote(text, errors="surrogateescape")


class Notices:
    """Lines for system_logs in the order in which they come, bounded."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = 0

    def add(self, code: Code, message: str, *, advice: bool = False) -> None:
        """One line; with the code's general advice where it fits."""
        if len(self._lines) < NOTICES:
            self._lines.append(telemetry.line(code, message) if advice else f"{code}: {message}")
        else:
            self._more += 1

    def lines(self) -> tuple[str, ...]:
        """All lines, the last one saying how many were left out."""
        more = (f"{self._more} more lines of this kind were left out",) if self._more else ()
        return (*self._lines, *more)
