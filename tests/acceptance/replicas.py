"""Several reconcilers, each with a data directory of its own, and several APIs on one database; killed, stopped and started at will."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tes_server import metrics_files
from tes_server.store import leases, mongo_account, mongo_leases
from tests import mongo_server
from tests.acceptance.server import BIN, BROKEN, PATIENCE, Client, Server, ended
from tests.torture import leftovers
from tests.torture.crowd import Crowd

LEASE = 3.0
FLAGS = ("--engine", "sandbox", "--allow-host")


class Reconciler:
    """One `tes-server reconcile`."""

    def __init__(self, data: pathlib.Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        self._arguments = arguments
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        with self.log.open("a") as log:
            command: list[str | pathlib.Path] = [BIN / "tes-server", "reconcile", "--data", self.data, *self._arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env={**self._environment, **environment})

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        return ended(self._process, number)

    @property
    def stopped(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if f'"{name}"' in line]

    def counted(self, metric: str) -> float:
        """A counter of all its processes so far. Reads what they share in memory."""
        counted = metrics_files.Together(metrics_files.directory(self.data)).collect()
        return sum(sample.value for family in counted for sample in family.samples if sample.name == f"{metric}_total")


class Front(Client):
    """All APIs of one store: each request to the next one; one that was killed is passed over."""

    def __init__(self, apis: list[Server]) -> None:
        self._apis = itertools.cycle(apis)

    def ask(self, path: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        try:
            return next(self._apis).ask(path, body, method, headers)
        except BROKEN:
            return next(self._apis).ask(path, body, method, headers)


class Fleet:
    """Reconcilers and APIs. `marks` is a live directory of the tasks, `results` where their outputs go."""

    def __init__(self, directory: pathlib.Path, account: mongo_account.Account, reconcilers: int, apis: int, **settings: object) -> None:
        self.marks, self.results = directory / "marks", directory / "results"
        for path in (self.marks, self.results):
            path.mkdir()
            path.chmod(0o777)
        self._environment = {
            "TES_SERVER__STORE__URL": account.url,
            "TES_SERVER__STORE__DATABASE": account.database,
            "TES_SERVER__STORE__LEASE": str(LEASE),
            "TES_SERVER__CONTROL__INTERVAL": "2",
            "TES_SERVER__FILES__LIVE_MOUNTS": f'["{self.marks}"]',
            "TES_SERVER__RETRIES__FIRST_DELAY": "0.2",
            "TES_SERVER__LOCAL__CPUS": "2",
            **{f"TES_SERVER__{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._flags = (*FLAGS, "--root", str(self.results))
        self._directory = directory
        self.reconcilers = [self.reconciler(f"machine-{number}") for number in range(reconcilers)]
        self.apis = [Server(directory / f"api-{number}", *self._flags, "--api-only", environment=self._environment) for number in range(apis)]
        self.front = Front(self.apis)
        self.crowd = Crowd(self.front, "host", self.marks, self.results)

    def reconciler(self, name: str, **settings: object) -> Reconciler:
        """One more, not started."""
        more = {f"TES_SERVER__{key.upper()}": str(value) for key, value in settings.items()}
        return Reconciler(self._directory / name, self._flags, {**self._environment, **more})

    def left(self) -> None:
        """Nothing of any task is left on any machine."""
        for reconciler in self.reconcilers:
            leftovers.none(reconciler.data)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for reconciler in self.reconcilers for event in reconciler.events(name)]

    def storm(self, seconds: float, total: int, chance: random.Random, pause: float = 2.0) -> Counter[str]:
        """While tasks come in and run, one of all processes is killed and started again, every `pause` seconds."""
        struck: Counter[str] = Counter()
        starting: list[tuple[Reconciler | Server, concurrent.futures.Future[None]]] = []
        processes: list[Reconciler | Server] = [*self.reconcilers, *self.apis]
        lengths = [chance.uniform(0, 2) for _ in range(total)]
        begin = time.monotonic()

        def create() -> None:
            for number, length in enumerate(lengths):
                time.sleep(max(0.0, begin + 0.8 * seconds * number / total - time.monotonic()))
                self.crowd.create([length])

        with concurrent.futures.ThreadPoolExecutor(1 + len(processes)) as pool:
            creating = pool.submit(create)
            for blow in range(1, int(seconds / pause) + 1):
                time.sleep(max(0.0, begin + blow * pause - time.monotonic()))
                busy = [each for each, start in starting if not start.done()]
                victim = chance.choice([each for each in processes if each not in busy])
                victim.stop(signal.SIGKILL)
                starting.append((victim, pool.submit(victim.start)))
                struck["reconciler" if isinstance(victim, Reconciler) else "api"] += 1
            for _, start in starting:
                start.result()
            creating.result()
        return struck


@contextlib.contextmanager
def fleet(directory: pathlib.Path, account: mongo_account.Account, reconcilers: int, apis: int = 1, **settings: object) -> Iterator[Fleet]:
    """A fleet whose reconcilers run; all of it ends with the block."""
    made = Fleet(directory, account, reconcilers, apis, **settings)
    try:
        for reconciler in made.reconcilers:
            reconciler.start()
        until_shared(account, reconcilers)
        yield made
    finally:
        with contextlib.ExitStack() as ending:  # each of them, whatever becomes of the others
            for api in made.apis:
                ending.callback(api.stop)
            for reconciler in made.reconcilers:
                if not reconciler.stopped:
                    reconciler.send(signal.SIGCONT)
                    ending.callback(reconciler.stop)


def until_shared(account: mongo_account.Account, members: int) -> None:
    """Until each of so many reconcilers has its share."""
    with mongo_server.connected(account) as connection:
        shelf = mongo_leases.MongoShelf(connection)
        until(lambda: _shared(shelf.read(), members), "each has its share")


def _shared(board: leases.Board, members: int) -> bool:
    """Who comes first has all shards until the others have come."""
    return len(board.members) == members and all(len(board.of(member)) >= len(board.owners) // members for member in board.members)


def until(condition: Any, what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)
