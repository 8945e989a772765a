"""What there is in the emulated subscription: the Batch account with its quotas, VM sizes, who may sign in, and how fast things go. Data only."""

from __future__ import annotations

import base64
import dataclasses
from typing import NamedTuple

KIND = "azure-batch"
ACCOUNT = "tesbatch"
LOCATION = "westeurope"
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
TENANT = "99999999-8888-7777-6666-555555555555"
CLIENT = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
"""the application, or the user-assigned identity, that may do everything"""
SECRET = "emulator-secret"  # of an application that does not exist
KEY = base64.b64encode(b"the key of an account that does not exist").decode()
API_VERSION = "2025-06-01"
RESOURCE = "https://batch.core.windows.net/"
"""what tokens for the Batch service are for"""


class Machine(NamedTuple):
    """A size of virtual machines."""

    name: str
    cores: int
    memory_gib: float
    disk_mib: int = 0
    """of the temporary disk"""
    gpus: int = 0
    spot: bool = True
    retired: str = ""
    """the day from which Azure Batch makes no such nodes"""


MACHINES = (
    Machine("Standard_D2s_v3", 2, 8, 16384),
    Machine("Standard_D4s_v3", 4, 16, 32768),
    Machine("Standard_E8s_v5", 8, 64),
    Machine("Standard_D64s_v5", 64, 256),
    Machine("Standard_NC6s_v3", 6, 112, 753664, gpus=1),
    Machine("Standard_B2s", 2, 4, 8192, spot=False),
    Machine("Standard_D2_v2", 2, 7, 102400, retired="2028-05-01"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The account. Seconds throughout."""

    machines: tuple[Machine, ...] = MACHINES
    dedicated_cores: int = 100
    low_priority_cores: int = 100
    active_jobs: int = 300
    pools: int = 100
    boot: float = 0.2
    """until a new node has started"""
    restore: float | None = 1.0
    """until a preempted node is back, with the id that it had; None: never"""
    second: float = 1.0
    """how long a second of evaluation intervals, samples and wall clock limits takes: a test may not have the 5 minutes that are the least"""
    start_tasks: bool = True
    """False: start tasks succeed without being run. Nodes share this machine, so what a start task does to its node, it does to this machine."""
    images: tuple[str, ...] = ("microsoft-dsvm:ubuntu-hpc:2204:batch.node.ubuntu 22.04",)
    """publisher:offer:sku:node agent of images that take containers"""
    secrets: dict[str, str] = dataclasses.field(default_factory=dict)
    """of Key Vault: `VAULT/NAME` -> value"""

    def machine(self, name: str) -> Machine | None:
        """The size of that name, whatever its case."""
        return next((machine for machine in self.machines if machine.name.lower() == name.lower()), None)
