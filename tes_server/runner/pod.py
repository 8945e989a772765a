"""What the containers of one pod agree on: the order that stage-in gets, and where things lie on the volumes. Pure.

`backends.kubernetes.render` writes these paths into pods, `pod_stage` works in them. This module must never hold a credential.
"""

from __future__ import annotations

import msgspec

from tes_server.filer.manifest import Access, Storage
from tes_server.plan.steps import Plan

ORDER = "TES_ORDER"
"""Environment variable of stage-in with the order as JSON; where it is missing, the order is in files below `ORDER_PARTS`."""

ORDER_PARTS = "/tes/order"
"""Directory of stage-in with the order in parts: files `0`, `1`, ..."""

CONTROL = "/tes/control"
"""The control volume, as stage-in and stage-out see it."""

VOLUME = "/tes/volume"
"""The task's volume, as stage-in and stage-out see it."""

SHARED = "/tes/shared"
"""In its place where the task has but a directory of a shared volume (`shared_directory`): all of that volume."""

SCAN = "/tes/scan"
"""The scanners' volume, as whoever prepares it and stage-in see it."""

MESSAGE = "/dev/termination-log"
"""Where a container leaves its last words for its pod's status; Kubernetes' default."""

MESSAGE_BYTES = 4096
"""Bytes of a termination message that Kubernetes keeps."""

MESSAGES_BYTES = 12 * 1024
"""Bytes that all containers of a pod share for theirs: the kubelet cuts each off at its part, whether the others use theirs or not."""

KEPT_ORDER = "order.json"
"""File at the top of the control volume: the order, for stage-out. No executor sees it."""

STAGED = "staged.json"
"""File beside it: what stage-in found out (`pod_stage.Staged`)."""

BIN = "bin"
"""Directory of the control volume with tes-step and `until`; executors see it read-only at `BIN_MOUNT`."""

UNTIL = "until"
"""File in `BIN`: when the task's time is over, in nanoseconds of CLOCK_MONOTONIC, the same for all containers of a node."""

ARGV = "argv"
"""File of a step's directory: the command, NUL-terminated strings."""

ENV = "env"
"""File of a step's directory: what is added to the image's environment, NUL-terminated K=V."""

BIN_MOUNT = "/.tes/bin"
STEP_MOUNT = "/.tes/step"
BEFORE_MOUNT = "/.tes/before"
VOLUME_MOUNT = "/.tes/volume"
"""Where an executor sees `BIN`, its own step's directory, that of the step before, and, if it has copies to make, the task's volume."""


def step(index: int) -> str:
    """The directory of executor `index` on the control volume, relative to it."""
    return f"steps/{index}"


def scan_record(number: int) -> str:
    """The record of the scan of image `number` on the scanners' volume, relative to it."""
    return f"{number}/record"


def scan_files(number: int) -> str:
    """The files of that scanner, likewise."""
    return f"{number}/files"


def message_bytes(plan: Plan) -> int:
    """Bytes that are kept of a message in a plan's pod: of its executors, two stage steps, and where it scans first one more for each scan and one for all."""
    scans = len(plan.gate.checks) + 1 if plan.gate else 0
    return min(MESSAGE_BYTES, MESSAGES_BYTES // (len(plan.executors) + 2 + scans))


def shared_directory(task_id: str, attempt: int) -> str:
    """The directory of an attempt on a shared volume, relative to it."""
    return f"tes-tasks/{task_id}/{attempt}"


class PodSite(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What all pods of a site share."""

    access: Access = Access()
    live_roots: tuple[str, ...] = ()
    """directories of claims below which live mounts may lie"""
    tail_bytes: int = 10240
    """bytes of head, and as many of tail, kept of each stream"""
    spool: str = ""
    """url of the spool for reports that no termination message holds; "" = the container's log"""
    spool_stores: tuple[Storage, ...] = ()
    """the object store that it is in, which tasks may not name"""


class Order(msgspec.Struct, frozen=True):
    """What stage-in is told; it leaves it on the control volume for stage-out."""

    plan: Plan
    site: PodSite


def encode(order: Order) -> bytes:
    """As JSON; same order, same bytes."""
    return msgspec.json.encode(order, order="sorted")
