"""What all attempts on this machine share, and what follows from it for one: its cells, and the live directories it may see."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import msgspec

from tes_server import errors
from tes_server.filer.manifest import Access
from tes_server.model import run
from tes_server.plan.paths import below
from tes_server.plan.steps import Mount, MountKind, Plan
from tes_server.runner import vault
from tes_server.runner.attempt import Attempt
from tes_server.runner.engine import Cell
from tes_server.runner.vault import Look, Vault
from tes_server.telemetry import Code


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What every attempt on this machine shares: `grace` in seconds between TERM and KILL, bounds, file access."""

    access: Access
    live_roots: tuple[str, ...] = ()
    tail_bytes: int = 10240
    grace: float = 10.0
    labels: dict[str, str] = {}
    secrets: Mapping[str, str] = {}
    """what executors may name as `secret://NAME`, and where it is kept: references for `look`"""
    scan_secrets: Mapping[str, str] = {}
    """the same for scanners of images, who have no other, and nobody else has these"""
    look: Look = vault.nothing


def cells(attempt: Attempt, plan: Plan, site: Site) -> list[Cell]:
    """The cells of an attempt, in order. Named after the plan, so that they are found wherever its directory was moved."""
    name = run.job_name(plan.task_id, plan.attempt)
    return [
        Cell(
            name=f"{name}-{step.index}",
            step=step,
            mounts=plan.mounts,
            limits=plan.limits,
            volume=attempt.volume,
            record=attempt.record(step.index),
            labels=site.labels,
            tail_bytes=site.tail_bytes,
        )
        for step in plan.executors
    ]


def all_cells(attempt: Attempt, plan: Plan, site: Site) -> list[Cell]:
    """All that there may be of an attempt in an engine."""
    return [*checks(attempt, plan, site), *cells(attempt, plan, site)]


def vault_of(plan: Plan, site: Site) -> Vault:
    """The secrets that an attempt may have."""
    return Vault(site.scan_secrets, site.look, table="scan_secrets") if plan.stage_out.findings else Vault(site.secrets, site.look)


def checks(attempt: Attempt, plan: Plan, site: Site) -> list[Cell]:
    """The cells of the scanners that come first, each with a volume of its own."""
    name = run.job_name(plan.task_id, plan.attempt)
    limits = msgspec.structs.replace(plan.limits, gpus=0, gpu_type="")
    return [
        Cell(
            name=f"{name}-s{number}",
            step=check.scan,
            mounts=check.mounts,
            limits=limits,
            volume=attempt.scan(number) / "volume",
            record=attempt.scan(number) / "record",
            labels=site.labels,
            tail_bytes=site.tail_bytes,
        )
        for number, check in enumerate(plan.gate.checks if plan.gate else ())
    ]


def attempt_of(cell: str) -> str:
    """The attempt (`<task>-<attempt>`) that a cell belongs to, by its name; the inverse of `cells`."""
    return cell.rpartition("-")[0]


def live(plan: Plan) -> tuple[Mount, ...]:
    """The live mounts of a plan."""
    return tuple(mount for mount in plan.mounts if mount.kind is MountKind.LIVE)


def check_live(plan: Plan, site: Site) -> None:
    """A live mount is read-write: another task may have put a link in its way that leads out of the allowed directories.

    Raises `errors.StagingError`. Called before every executor, since that may happen at any time.
    """
    for mount in live(plan):
        real = os.path.realpath(mount.source)
        reach = plan.stage_out.reach
        if real != mount.source or not any(below(real, root) for root in site.live_roots) or not (reach is None or reach.covers_path(real)):
            raise errors.StagingError(f"{mount.source} leads out of the directories that may be mounted live", Code.INPUT_DENIED)
        if not pathlib.Path(real).is_dir():
            raise errors.StagingError(f"{mount.source} is not a directory on this machine", Code.INPUT_NOT_FOUND)
