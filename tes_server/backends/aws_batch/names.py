"""Names that this backend gives on AWS: jobs, job definitions, tags, and the words of a stop. Pure."""

from __future__ import annotations

import re

import msgspec

from tes_server.model.run import Reason

ATTEMPT = re.compile(r"[a-z0-9]{1,40}-[1-9][0-9]{0,8}")
"""Names of attempts (`run.job_name`)."""

SERVER_TAG = "tes-server"
TASK_TAG = "tes-task"
OWNER_TAG = "tes-owner"

LONGEST_SERVER = 48
"""Letters of a server's id in a job's name, which has up to 128."""

LONGEST_TAG = 256
"""Letters of a tag's value."""

MOST_TAGS = 50 - 3
"""Tags of a job beside the three above."""

_STOPPED = re.compile(r"tes-server (?P<reason>[A-Z]+) (?P<code>[A-Z_]+)(?P<transient> transient)?: (?P<message>.*)", re.DOTALL)

LONGEST_REASON = 900
"""Letters of the reason of a TerminateJob: AWS Batch keeps 1,024 of a status reason."""


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Why we end an attempt. It travels as the reason of TerminateJob and comes back as the job's status reason."""

    reason: Reason
    code: str
    message: str
    transient: bool = False


def server(text: str) -> str:
    """A server's id as part of names (AWS Batch: letters, digits, `-` and `_`); "" if nothing of it can be."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:LONGEST_SERVER]


def job(server_name: str, attempt: str) -> str:
    """The name of an attempt's job."""
    return f"{server_name}_{attempt}"


def attempt(server_name: str, job_name: str) -> str:
    """The inverse of `job`; "" for a job that is no attempt of this server."""
    own, _, name = job_name.partition("_")
    return name if own == server_name and ATTEMPT.fullmatch(name) else ""


def tag_value(text: str) -> str:
    """Any text as the value of a tag: AWS takes letters, digits, spaces and `_.:/=+-@`."""
    return re.sub(r"[^\w\s.:/=+@-]", "-", text)[:LONGEST_TAG].strip()


def is_tag(text: str) -> bool:
    """True for what can be the key of a tag."""
    return re.fullmatch(r"(?!aws:)[\w\s.:/=+@-]{1,128}", text, re.IGNORECASE) is not None


def told(stop: Stop) -> str:
    """The reason of a TerminateJob."""
    return f"tes-server {stop.reason} {stop.code}{' transient' if stop.transient else ''}: {stop.message}"[:LONGEST_REASON]


def stop_of(status_reason: str) -> Stop | None:
    """Why we ended a job; None if it was not us."""
    match = _STOPPED.fullmatch(status_reason)
    if match is None or match["reason"] not in Reason.__members__:
        return None
    return Stop(reason=Reason(match["reason"]), code=match["code"], message=match["message"], transient=bool(match["transient"]))
