"""What the compiler is told about the site and the backend: plain data."""

from __future__ import annotations

import msgspec

from tes_server.plan.bounds import Bounds
from tes_server.plan.grants import Grant
from tes_server.plan.paths import Sites

HOST_IMAGE = "host"
"""The image name that means this machine's own programs (sandbox engine only)."""


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """What a platform's own parameter may say: one of `choices` if there are any, else whatever the whole of `pattern` takes."""

    choices: tuple[str, ...] = ()
    pattern: str = ".*"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend can take, all of it together for one task. Sizes in bytes; 0 = no bound known."""

    cpus: float = 0.0
    ram_bytes: int = 0
    disk_bytes: int = 0
    gpus: int | None = None
    """None = no bound known"""
    parameters: dict[str, Values] = {}
    """platform-specific backend_parameters that it takes, by lower-case key"""
    secrets: tuple[str, ...] = ()
    """what tasks may name as `secret://NAME` in `executors[].env`"""
    scan_secrets: tuple[str, ...] = ()
    """what scans may name so, and nobody else"""
    secret_keys: dict[str, bool] = {}
    """of some of both lists: whether a key of it must be named, or may not be"""
    engine_socket: bool = False
    """a scanner can be given the socket of the container engine"""
    host_image: bool = False
    """the image `host` is allowed"""
    plan_bytes: int = 0
    """largest plan, as JSON, that it can carry to where the task runs"""
    submit_window: float = 30.0
    """seconds within which a submit call has ended, one way or the other"""
    names_last: bool = False
    """a name is taken once, and stays so for longer than a submit may be late: one whose outcome is not known may be sent again at once"""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults and bounds of tasks at this site."""

    sites: Sites = Sites()
    grants: tuple[Grant, ...] | None = None
    """what owners may use of all this, and which secrets; None: there are no owners, and everybody may use everything"""
    live_mounts: tuple[str, ...] = ()
    """host directories, normalised: a DIRECTORY input at or below one is mounted live"""
    default_cpus: float = 1.0
    default_ram_gb: float = 1.0
    least_cpus: float = 0.0
    least_ram_bytes: int = 0
    """every task reserves at least so much: what a scanner needs that runs first in it"""
    default_max_runtime: float = 0.0
    bounds: Bounds = Bounds()


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A backend as tasks are checked against it before anything runs."""

    policy: Policy
    capabilities: Capabilities
