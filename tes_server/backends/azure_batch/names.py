"""Names that this backend gives on Azure Batch: jobs and their metadata. A task's name there is that of its attempt. Pure.

Ids have up to 64 letters, digits, `-` and `_`, and are told apart whatever their letters' case (Azure Batch REST reference, "Add Job").
"""

from __future__ import annotations

import hashlib
import re

ATTEMPT = re.compile(r"[a-z0-9]{1,40}-[1-9][0-9]{0,8}")
"""Names of attempts (`run.job_name`)."""

SERVER = "tes-server"
"""Name of the metadata item of jobs and pools that holds the server's name."""

LONGEST_SERVER = 28
"""Letters of a server's id in a job's name."""

LONGEST_POOL = 12
"""Letters of a pool's id in a job's name; what tells pools of longer ones apart is the hash after it."""

HASH = 10
"""Digits of that hash."""

_JOB = re.compile(rf"(?P<series>(?P<server>[a-z0-9-]+)_[a-z0-9_-]+_[0-9a-f]{{{HASH}}})_(?P<serial>[1-9][0-9]{{0,7}})")


def server(text: str) -> str:
    """A server's id as part of names; "" if nothing of it can be.

    A hash is a part of a long one's: two servers must never take each other's tasks for their own.
    """
    whole = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if len(whole) <= LONGEST_SERVER:
        return whole
    return f"{whole[: LONGEST_SERVER - HASH - 1].strip('-')}-{hashlib.sha256(whole.encode()).hexdigest()[:HASH]}"


def series(server_name: str, pool: str, digest: str) -> str:
    """What the names of all jobs for the same thing begin with. `digest`: hexadecimal, of all that jobs of it have in common."""
    return f"{server_name}_{pool.lower()[:LONGEST_POOL]}_{digest[:HASH]}"


def job(series_name: str, serial: int) -> str:
    """The name of a series' job; serials begin at 1."""
    return f"{series_name}_{serial}"


def mine(server_name: str) -> str:
    """What the names of all jobs of a server begin with."""
    return f"{server_name}_"


def parsed(server_name: str, job_id: str) -> tuple[str, int] | None:
    """The series and the serial of a job; None if it is none of this server."""
    match = _JOB.fullmatch(job_id)
    return (match["series"], int(match["serial"])) if match and match["server"] == server_name else None
