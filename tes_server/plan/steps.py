"""The Plan: what one attempt of a task does, step by step, on no particular platform.

Only `plan.compiler` makes steps. A plan is data: the same task, policy and limits give the same plan, and it travels
as JSON (`msgspec.json`) to runners and stage containers.

Where files are: every attempt has one volume. The container path P lies at VOLUME + P (`/work/a` at `<volume>/work/a`);
a `Mount` says which of those places the executors see. Paths outside all mounts are in the image's own file system.
"""

from __future__ import annotations

import enum

import msgspec

from tes_server.model.task import FileType
from tes_server.plan.reach import Reach
from tes_server.scan.gate import OnError
from tes_server.scan.policy import Policy


class MountKind(enum.StrEnum):
    """What a mount shows."""

    ROOT = "ROOT"  #: the directory VOLUME + path, read-write, shared by all executors
    FILE = "FILE"  #: the single input file VOLUME + path, read-only: an input directly in an image's own directory
    LIVE = "LIVE"  #: a directory of the site (`source`, an absolute host path) read-write, not copied (clients.md row 28)
    ENGINE = "ENGINE"  #: the API socket of the container engine that runs the executor: only ever for a scanner, who has it owns the machine


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mount at the container path `path`; the same in every executor."""

    path: str
    kind: MountKind = MountKind.ROOT
    source: str = ""


class Fetch(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One input to place at VOLUME + `path`: either `content` (literal UTF-8 text) or `url`.

    `url` is resolved: `file:///abs/path` or `scheme://...`. A FILE whose source is a directory is staged as one (row 20).
    """

    path: str
    url: str = ""
    content: str | None = None
    type: FileType = FileType.FILE
    field: str = ""
    """JSON pointer of the input in the task, for messages: `/inputs/0`"""


class Collect(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One output to take from `path` (a container path, perhaps with wildcards) to `url` (resolved as in `Fetch`).

    `prefix` is set exactly where `path` holds wildcards: the part stripped from each match before it is joined to `url`.
    `shown` is the url as the task wrote it, used in logs[].outputs. `inside` is False where the path lies in the image's
    own file system: the executors then copy it to VOLUME + path after they end.
    """

    path: str
    url: str
    shown: str
    type: FileType = FileType.FILE
    prefix: str = ""
    inside: bool = True
    field: str = ""


class StageIn(msgspec.Struct, frozen=True, omit_defaults=True, tag="STAGE_IN"):
    """Make `directories` (container paths, parents included, mode 0777) in the volume, then place `inputs` (files 0666).

    `reach`: what of the site inputs may come from; None = all that the site allows to anybody.
    """

    directories: tuple[str, ...] = ()
    inputs: tuple[Fetch, ...] = ()
    reach: Reach | None = None


class Execute(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag="EXECUTOR"):
    """Run argv in an image, without a shell. `workdir` "" = the image's own. `copies`: see `Collect.inside`.

    `image` is what runs: a digest where the name was looked up before. `named` is then what the task calls it.
    """

    index: int
    image: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    workdir: str = ""
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    ignore_error: bool = False
    copies: tuple[str, ...] = ()
    named: str = ""

    @property
    def shown_image(self) -> str:
        """The image as the task names it."""
        return self.named or self.image


class Findings(msgspec.Struct, frozen=True, omit_defaults=True):
    """The executor is a scanner of images: which one (a name of `scan.scanners`), and the file of the volume that it leaves its raw report in.

    `image`: what it looks at in the container engine that runs it, which must have it by then; "" = it fetches the image itself.
    """

    scanner: str
    path: str
    image: str = ""


class StageOut(msgspec.Struct, frozen=True, omit_defaults=True, tag="STAGE_OUT"):
    """Take `outputs` from the volume to their urls. Runs after every failure that leaves the volume alive.

    `findings`: this is no task of a user's but a scan. What the scanner found is told, in our own words (`scan.report`), as its stdout.
    `reach`: as in `StageIn`, of outputs and live mounts.
    """

    outputs: tuple[Collect, ...] = ()
    findings: Findings | None = None
    reach: Reach | None = None


Step = StageIn | Execute | StageOut


class Check(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One image of the task that is scanned before anything else happens: by a scanner, with a volume of its own and nothing of the task's."""

    scan: Execute
    """`index` counts down from -1: it is no executor of the task's"""
    findings: Findings
    mounts: tuple[Mount, ...]
    image: str
    """as the task names it"""
    digest: str
    """of what runs"""


class Gate(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The first step of a task whose images are scanned where it runs (`scan.place = "task"`): what does not pass the policy ends it, with words."""

    checks: tuple[Check, ...]
    policy: Policy
    on_error: OnError = OnError.BLOCK
    timeout: float = 900.0
    """seconds after which one scan is given up"""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one attempt reserves and may not exceed. Bytes, cores, seconds; 0 = not limited."""

    cpus: float
    ram_bytes: int
    disk_bytes: int = 0
    gpus: int = 0
    gpu_type: str = ""
    max_runtime: float = 0.0


class Placement(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Where the task wants to run. `parameters` are the platform-specific backend_parameters that the backend allows."""

    preemptible: bool = False
    zones: tuple[str, ...] = ()
    spot_attempts: int = 1
    parameters: dict[str, str] = {}


class Plan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt. After the gate, if there is one, `steps` are always StageIn, Execute x n (n >= 1), StageOut, in this order."""

    task_id: str
    attempt: int
    stage_in: StageIn
    executors: tuple[Execute, ...]
    stage_out: StageOut
    mounts: tuple[Mount, ...]
    limits: Limits
    placement: Placement = Placement()
    gate: Gate | None = None
    owner: str = ""
    tags: dict[str, str] = {}

    @property
    def on_spot(self) -> bool:
        """A task that may be interrupted runs on capacity that may be taken back at first; `spot_attempts` attempts later it stays on regular one."""
        return self.placement.preemptible and self.attempt <= self.placement.spot_attempts
