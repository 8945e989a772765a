"""What a stage step is given beside its plan step, and what stage-out gives back.

`Access` is plain data: it travels as JSON to stage containers. It must never hold a credential.
"""

from __future__ import annotations

import msgspec

from tes_server.errors import StagingError
from tes_server.model.task import OutputFileLog

MiB = 1024 * 1024


class Access(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the filer may reach, and how hard it tries."""

    roots: tuple[str, ...] = ()
    """Absolute directories under which `file://` urls may be read and written, links followed. None by default."""
    http: bool = True
    """Allow http:// and https:// inputs."""
    ftp: bool = True
    """Allow ftp:// and ftps:// inputs."""
    uploads: tuple[str, ...] = ()
    """Schemes of the net (`ftp`, `ftps`, `http`, `https`) that outputs may go to."""
    closed: tuple[str, ...] = ("169.254.0.0/16", "fe80::/10", "168.63.129.16/32", "fd00:ec2::254/128", "0.0.0.0/8", "::/128")
    """Networks that http(s) and ftp(s) never connect to: link-local and the metadata services of clouds, which hand out credentials."""
    workers: int = 8
    """Files moved at once. More helps on network file systems, not on a local disk."""
    parts: int = 4
    """Ranges of one http(s) file fetched at once, where the server supports them; connections to one ftp(s) server."""
    part_bytes: int = 64 * MiB
    """Size of such a range: large enough that its extra request is free."""
    tries: int = 5
    """Failures in a row, without a whole part of progress between them, after which a transfer is given up."""
    first_delay: float = 0.5
    """Seconds before the first repeat; doubled each time."""
    longest_delay: float = 30.0
    """Bound of that delay, and of a server's Retry-After."""
    connect_timeout: float = 10.0
    """Seconds for one connection to be made."""
    read_timeout: float = 60.0
    """Seconds without a byte after which a connection counts as dead."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What stage-out did. `error` is the first failure, in the order of the outputs; everything else was still collected."""

    outputs: tuple[OutputFileLog, ...]
    """every file, in the order of the task's outputs, then by path"""
    notices: tuple[str, ...]
    """lines for system_logs, each starting with its code"""
    error: StagingError | None
