"""Every reason code, log event and metric, declared once.

Codes start the lines of system_logs and are stable: people grep for them and docs/operations.md explains each.
This module knows prometheus_client, and of the package only `redaction`: no line of system_logs or of the log leaves without it.
"""

from __future__ import annotations

import enum
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import prometheus_client as prometheus

from tes_server import redaction


class Code(enum.StrEnum):
    """Stable codes; each says what happened, `ADVICE` says what to do."""

    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    IMAGE_DENIED = "IMAGE_DENIED"
    IMAGE_ERROR = "IMAGE_ERROR"
    INPUT_NOT_FOUND = "INPUT_NOT_FOUND"
    INPUT_DENIED = "INPUT_DENIED"
    INPUT_ARCHIVED = "INPUT_ARCHIVED"
    INPUT_TOO_LARGE = "INPUT_TOO_LARGE"
    INPUT_ERROR = "INPUT_ERROR"
    OUTPUT_MISSING = "OUTPUT_MISSING"
    OUTPUT_DENIED = "OUTPUT_DENIED"
    OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
    OUTPUT_ERROR = "OUTPUT_ERROR"
    TRANSFER = "TRANSFER"
    STORAGE_NOT_FOUND = "STORAGE_NOT_FOUND"
    STORAGE_REGION = "STORAGE_REGION"
    STORAGE_CREDENTIALS = "STORAGE_CREDENTIALS"
    STORAGE_REQUESTER_PAYS = "STORAGE_REQUESTER_PAYS"
    SECRET_NOT_FOUND = "SECRET_NOT_FOUND"
    SECRET_DENIED = "SECRET_DENIED"
    SECRET_ERROR = "SECRET_ERROR"
    SCAN_FAILED = "SCAN_FAILED"
    DISK_FULL = "DISK_FULL"
    EXECUTOR_FAILED = "EXECUTOR_FAILED"
    COMMAND_NOT_FOUND = "COMMAND_NOT_FOUND"
    OOM = "OOM"
    TIMEOUT = "TIMEOUT"
    LOST = "LOST"
    PREEMPTED = "PREEMPTED"
    REJECTED = "REJECTED"
    ENGINE_ERROR = "ENGINE_ERROR"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    WAITING_TURN = "WAITING_TURN"
    WAITING_CAPACITY = "WAITING_CAPACITY"
    WAITING_BACKEND = "WAITING_BACKEND"
    WAITING_IMAGE = "WAITING_IMAGE"
    WAITING_SCAN = "WAITING_SCAN"
    SCANNED = "SCANNED"
    SCAN_WARNING = "SCAN_WARNING"
    SCAN_REFUSED = "SCAN_REFUSED"
    MACHINE_SILENT = "MACHINE_SILENT"
    CANCELED = "CANCELED"
    RETRY = "RETRY"
    PARAMETER_UNKNOWN = "PARAMETER_UNKNOWN"


ADVICE: dict[Code, str] = {
    Code.IMAGE_NOT_FOUND: "check the name and tag of the image, and that this server can reach its registry",
    Code.IMAGE_DENIED: "check the name of the image; or its registry wants a login that this server does not have",
    Code.IMAGE_ERROR: "read the words before; check the name, the network to its registry, and for which machines the image is",
    Code.INPUT_NOT_FOUND: "check the url of the input",
    Code.INPUT_DENIED: "the server may not read that url; ask who runs it to allow it",
    Code.INPUT_ARCHIVED: "restore the object to a readable tier first, then submit again",
    Code.INPUT_TOO_LARGE: "take fewer or smaller files, or ask who runs the server to allow more",
    Code.INPUT_ERROR: "the transfer was tried several times; check that its source answers",
    Code.OUTPUT_MISSING: "the command did not make this file; optional outputs may be missing",
    Code.OUTPUT_DENIED: "the server may not write to that url; ask who runs it to allow it",
    Code.OUTPUT_TOO_LARGE: "write fewer or smaller files",
    Code.OUTPUT_ERROR: "the transfer was tried several times; check that its target answers and has space",
    Code.TRANSFER: "goes on; the rate is that of all files together",
    Code.STORAGE_NOT_FOUND: "check the name of the bucket or container; this server makes none",
    Code.STORAGE_REGION: "ask who runs the server to name the region of the bucket",
    Code.STORAGE_CREDENTIALS: "ask who runs the server to mend its credentials",
    Code.STORAGE_REQUESTER_PAYS: "ask who runs the server whether it may pay",
    Code.SECRET_NOT_FOUND: "check the name of the secret, or its key; ask who runs the server what it leads to",
    Code.SECRET_DENIED: "ask who runs the server to let tasks' nodes read the secret",
    Code.SECRET_ERROR: "read the words before; where the store of secrets did not answer, it is asked again",
    Code.SCAN_FAILED: "nothing is known of the image; who runs the server sees more by `tes-server scan show`",
    Code.DISK_FULL: "ask for more disk_gb, or ask who runs the server for a larger disk",
    Code.EXECUTOR_FAILED: "look at the command's stderr",
    Code.COMMAND_NOT_FOUND: "the command is run without a shell; check that its first word is in the image",
    Code.OOM: "out of memory: ask for more ram_gb",
    Code.TIMEOUT: "ask for a longer max_runtime in backend_parameters",
    Code.LOST: "the machine or the supervisor of the task died; tried again as often as the settings allow",
    Code.PREEMPTED: "the platform took the machine back; tried again as often as spot_attempts allows",
    Code.REJECTED: "the platform will never take this task as it is",
    Code.ENGINE_ERROR: "look at the engine's own words; `tes-server doctor` tries the engine",
    Code.ENGINE_UNAVAILABLE: "the engine does not answer; it is asked again",
    Code.WAITING_TURN: "tasks of one owner start oldest first, owners take turns",
    Code.WAITING_CAPACITY: "starts as soon as enough of the site is free",
    Code.WAITING_BACKEND: "the platform does not take it now; it is asked again",
    Code.WAITING_IMAGE: "the registry is asked again",
    Code.WAITING_SCAN: "starts as soon as the scan says that it may",
    Code.SCAN_REFUSED: "use an image that the site's policy takes, or ask who runs the server",
    Code.MACHINE_SILENT: "wait; if it does not come back the task is tried again elsewhere",
    Code.CANCELED: "canceled on request",
    Code.RETRY: "a new attempt was made",
    Code.PARAMETER_UNKNOWN: "this key of backend_parameters is not known here and was dropped",
}


def line(code: Code | str, message: str) -> str:
    """A system_logs line: the code, the sentence without credentials of urls in it, and what to do."""
    advice = ADVICE.get(Code(code)) if code in Code.__members__ else None
    return f"{code}: {redaction.text(message)}" + (f" ({advice})" if advice else "")


def lines(code: Code | str, messages: Sequence[str]) -> tuple[str, ...]:
    """Several of one code: only the last says what to do."""
    *others, last = messages
    return (*(f"{code}: {one}" for one in others), line(code, last))


def message(text: str) -> str:
    """What a line says without its code and advice: the inverse of `line`."""
    code, _, rest = text.partition(": ")
    return rest.removesuffix(f" ({ADVICE.get(Code(code))})") if code in Code.__members__ else text


# -- log events: constant names with fields, one JSON object a line ------------------------------------------------


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, event, then the event's own fields. Words of libraries may hold urls: no credential of one gets out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return redaction.json_text(json.dumps(fields, default=str))


SDKS = ("boto3", "botocore", "azure", "msal")
"""Loggers whose words are no events of ours; at DEBUG they would tell headers and bodies of requests."""


def set_up_logging(level: str, stream: TextIO = sys.stderr) -> None:
    """JSON lines on `stream` at `level` and above."""
    import time

    handler = logging.StreamHandler(stream)
    formatter = JsonLines()
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in SDKS:
        logging.getLogger(name).setLevel(logging.WARNING)


def log(logger: logging.Logger, level: int, event: str, **fields: object) -> None:
    """One event with fields: `log(logger, logging.INFO, "task.ended", task=..., state=...)`."""
    logger.log(level, event, extra={"fields": fields})


# -- metrics -------------------------------------------------------------------------------------------------------

REQUESTS = prometheus.Counter("tes_requests", "API requests", ["operation", "status"])
REQUEST_SECONDS = prometheus.Histogram(
    "tes_request_seconds", "Time to answer an API request", ["operation"], buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10)
)
SIGN_INS_REFUSED = prometheus.Counter("tes_sign_ins_refused", "Credentials that were not good, looked at anew", ["method", "reason"])
CONNECTIONS_ENDED = prometheus.Counter("tes_connections_ended", "Connections that the server ended: too slow, too many, or no HTTP", ["why"])
TASKS_CREATED = prometheus.Counter("tes_tasks_created", "Tasks accepted")
TASKS_ENDED = prometheus.Counter("tes_tasks_ended", "Tasks ended", ["state", "reason"])
TASKS = prometheus.Gauge("tes_tasks", "Tasks that have not ended, by state", ["state"], multiprocess_mode="mostrecent")
ATTEMPTS = prometheus.Counter("tes_attempts", "Attempts of tasks submitted", ["backend"])
QUEUE_SECONDS = prometheus.Histogram("tes_queue_seconds", "From create to the submit of the first attempt", buckets=(0.01, 0.1, 1, 10, 60, 600, 3600, 36000))
TICK_SECONDS = prometheus.Histogram("tes_tick_seconds", "Time of one pass of the reconciler", buckets=(0.001, 0.01, 0.1, 1, 10))
SAVES = prometheus.Counter("tes_saves", "Saves of the reconciler")
SAVES_LOST = prometheus.Counter("tes_saves_lost", "Saves that met a newer revision")
TRANSFER_BYTES = prometheus.Counter("tes_transfer_bytes", "Bytes of files that were staged", ["scheme", "direction"])
TRANSFER_SECONDS = prometheus.Counter("tes_transfer_seconds", "Time of each of their transfers, summed up", ["scheme", "direction"])
TASKS_REMOVED = prometheus.Counter("tes_tasks_removed", "Ended tasks removed as `retention.days` says")
RETENTION_FAILED = prometheus.Counter("tes_retention_failed", "Batches of ended tasks that could not be archived or removed")
SCANS = prometheus.Counter("tes_scans", "Scans of images that were begun")
SCAN_ATTEMPTS = prometheus.Counter("tes_scan_attempts", "Attempts of scans submitted", ["backend"])
SCAN_VERDICTS = prometheus.Counter("tes_scan_verdicts", "Verdicts that scans came to, by outcome", ["outcome"])
SCAN_SECONDS = prometheus.Histogram("tes_scan_seconds", "From the begin of a scan, in the queue, to its end", buckets=(1, 3, 10, 30, 100, 300, 1000, 3000))
SCAN_HITS = prometheus.Counter("tes_scan_hits", "Images of attempts that started on a verdict of the store")
SCAN_WAITS = prometheus.Counter("tes_scan_waits", "Tasks that were held back for an image, by what they waited for", ["reason"])
BACKEND_CALLS = prometheus.Counter("tes_backend_calls", "Calls to backends", ["backend", "call", "outcome"])
