"""The emulator: all parts put together, started and stopped."""

from __future__ import annotations

import contextlib
import pathlib
import ssl
import tempfile
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any, Self

import azure.batch
import azure.core.credentials
import azure.identity
import trustme

from tests.emulators import leftovers
from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.agents import Agents
from tests.emulators.azure_batch.bad_days import BadDays
from tests.emulators.azure_batch.docker_agents import DockerAgents
from tests.emulators.azure_batch.endpoint import Endpoint
from tests.emulators.azure_batch.identities import Identities
from tests.emulators.azure_batch.job_calls import JobCalls
from tests.emulators.azure_batch.management import Management
from tests.emulators.azure_batch.metadata import Metadata
from tests.emulators.azure_batch.node_calls import NodeCalls
from tests.emulators.azure_batch.pool_calls import PoolCalls
from tests.emulators.azure_batch.pretence import Pretence
from tests.emulators.azure_batch.protocol import Json
from tests.emulators.azure_batch.records import Node, Task
from tests.emulators.azure_batch.scaling import Scaling
from tests.emulators.azure_batch.scheduler import Scheduler
from tests.emulators.azure_batch.small_services import NAMES, SmallServices
from tests.emulators.azure_batch.task_calls import TaskCalls
from tests.emulators.azure_batch.world import ACCOUNT, CLIENT, KEY, KIND, SECRET, TENANT, World
from tests.emulators.containers import Containers
from tests.emulators.faults import Calls
from tests.emulators.reaper import Reaper


class Emulator(contextlib.AbstractContextManager["Emulator"]):
    """A context manager. Needs Docker once a task runs; `pretend`: none does, tasks are running until `bad_days.finish` says otherwise.

    `lifetime`: seconds for which tokens are good. `metadata`: see `Metadata`. `reaper`: a directory of the nodes that a reaper looks after.
    `ca`: a file with the certificate of the authority that the endpoint's own certificate is from.
    """

    def __init__(
        self, world: World | None = None, *, port: int = 0, lifetime: float = 86400.0, metadata: str = "auto", reaper: str = "", pretend: bool = False
    ) -> None:
        self.world = world or World()
        self.id = uuid.uuid4().hex[:12]
        self._wanted = metadata
        self._reaper = Reaper(reaper)
        self._exit = contextlib.ExitStack()
        self._exit.enter_context(contextlib.closing(leftovers.Alive(KIND, self.id)))
        leftovers.remove_directories(KIND)
        directory = pathlib.Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix=f"{leftovers.directory(KIND)}{self.id}-")))
        self.ca = directory / "ca.pem"
        self.calls = Calls()
        self.identities = Identities(lifetime)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        self.endpoint = Endpoint(self.calls, self.identities, _tls(authority, "127.0.0.1", "localhost"), port)
        self.small_services = SmallServices(self.identities, self.calls, self.world.secrets, _tls(authority, *NAMES))
        self.url = self.endpoint.url
        self.account = Account(self.world, self.url, directory / "nodes")
        self._containers = Containers(KIND, self.id)
        self.agents: Agents = Pretence(self.account) if pretend else DockerAgents(self.account, self._containers)
        self.bad_days = BadDays(self.account, self.agents, self.calls, self.identities)
        scaling = Scaling(self.account)
        jobs = JobCalls(self.account)
        pools = PoolCalls(self.account, scaling)
        self._management = Management(self.account, pools)
        self._operations = (pools, jobs, TaskCalls(self.account), NodeCalls(self.account, scaling, self.agents.refresh))
        self._scheduler = Scheduler(self.account, scaling, self.agents.start, jobs.settle)

    def __enter__(self) -> Self:
        """What is started first ends last."""
        with contextlib.ExitStack() as started:
            started.push(self._exit.pop_all())
            started.callback(self._containers.close)
            self.endpoint.start(self.account.lock, self._operations, self._management, self.administer)
            started.callback(self.endpoint.close)
            self.small_services.start()
            started.callback(self.small_services.close)
            self.metadata = Metadata(self.identities, self._node, self._wanted)
            self.metadata.start()
            started.callback(self.metadata.close)
            self._reaper.start()
            started.callback(self._reaper.close)
            self._scheduler.start()
            started.callback(self.agents.close)
            started.callback(self._scheduler.close)
            self._exit = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    # -- for clients -----------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs of the environment to sign in by azure-identity, and to trust the endpoint."""
        authority = {"AZURE_AUTHORITY_HOST": self.url, "AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
        return {"REQUESTS_CA_BUNDLE": str(self.ca), "AZURE_BATCH_ENDPOINT": self.url, **authority}

    @property
    def node_environment(self) -> dict[str, str]:
        """What a runner needs of the environment to reach Key Vault, registries, and, where it is not at its own address, the metadata service."""
        elsewhere = {} if self.metadata.where == "network" else {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self.metadata.url}
        return {"SSL_CERT_FILE": str(self.ca), "https_proxy": self.small_services.proxy, **elsewhere}

    def client(self, credential: Any = None, **options: Any) -> azure.batch.BatchClient:
        """A client of the SDK, by shared key unless another credential is given; it tries nothing twice unless told to."""
        key = azure.core.credentials.AzureNamedKeyCredential(ACCOUNT, KEY)
        return azure.batch.BatchClient(self.url, credential or key, **{"connection_verify": str(self.ca), "retry_total": 0, **options})

    def credential(self, client: str = CLIENT, secret: str = SECRET) -> azure.identity.ClientSecretCredential:
        """Of azure-identity, with this emulator as its authority."""
        authority = urllib.parse.urlsplit(self.url).netloc
        return azure.identity.ClientSecretCredential(
            TENANT, client, secret, authority=authority, disable_instance_discovery=True, connection_verify=str(self.ca), retry_total=0
        )

    # -- for tests -------------------------------------------------------------------------------------------------------

    def task(self, job: str, name: str) -> Task:
        return self.account.task(job, name)

    def wait(self, job: str, name: str, *states: str, seconds: float = 60.0) -> Task:
        """A task, once it has one of these states."""
        self.account.wait(lambda: self.account.task(job, name).state in states, seconds)
        return self.account.task(job, name)

    def nodes(self, pool: str, *states: str) -> list[Node]:
        """Those of a pool that have one of these states; of all states if none is given."""
        with self.account.lock:
            return [node for node in self.account.pool(pool).nodes.values() if not states or node.state in states]

    def wait_nodes(self, pool: str, count: int, *states: str, seconds: float = 60.0) -> list[Node]:
        """So many nodes of a pool, once there are that many in these states."""
        self.account.wait(lambda: len(self.nodes(pool, *states)) == count, seconds)
        return self.nodes(pool, *states)

    def log(self, task: Task) -> str:
        """What a task that ran last wrote to its standard output, as long as its node lives."""
        assert task.last is not None, f"{task.id} has never run"
        self.agents.refresh(task.last)
        return (task.last.directory / "stdout.txt").read_text()

    def administer(self, name: str, given: Json) -> Any:
        """What `/_emulator/NAME` does: a bad day, or `state`, `calls`, `reset`, `log`."""
        own: dict[str, Callable[..., Any]] = {"state": self._state, "calls": self._calls, "reset": self.calls.reset, "log": self._log}
        if name.startswith("_"):
            raise AttributeError(name)
        return own[name](**given) if name in own else getattr(self.bad_days, name)(**given)

    def _state(self) -> Json:
        return {**self.account.summary(), "defects": self.endpoint.defects}

    def _calls(self) -> Json:
        return {"seen": dict(self.calls.seen), "refused": dict(self.calls.refused)}

    def _log(self, job: str, task: str) -> str:
        return self.log(self.task(job, task))

    def _node(self) -> Json:
        with self.account.lock:
            node = next((node for pool in self.account.pools.values() for node in pool.nodes.values()), None)
        return {} if node is None else {"name": node.id, "vmId": str(uuid.uuid5(uuid.NAMESPACE_URL, node.url)), "vmSize": node.pool.spec["vmSize"]}


def _tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Of a certificate for these hosts, by an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context
