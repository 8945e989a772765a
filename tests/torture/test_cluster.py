"""A real cluster that is hard to reach, under a stream of tasks: each ends once, right, and its command has run once."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tes_server.store import mongo_account
from tests import cluster as clusters
from tests import mongo_server
from tests.acceptance import cluster_site
from tests.acceptance.cluster_site import sh
from tests.acceptance.replicas import LEASE, Reconciler
from tests.acceptance.server import Server, served
from tests.cluster import Cluster
from tests.relay import Relay
from tests.torture.conftest import Tell
from tests.torture.crowd import Crowd
from tests.torture.test_clock import SOURCE, jump

pytestmark = pytest.mark.cluster

RATE = 0.8
"""Tasks a second that a cluster of two cores runs beside whatever else it does."""

LONGEST = 4.0
"""Seconds that a task sleeps at most: some outlast a cut."""

PATIENCE = 300.0

Blow = Callable[[], None]


class Field(NamedTuple):
    """A namespace, reached through a relay. Tasks leave marks in `marks` and results in `results`."""

    cluster: Cluster
    namespace: str
    relay: Relay
    flags: tuple[str, ...]
    home: pathlib.Path

    @property
    def marks(self) -> pathlib.Path:
        return self.home / "shared" / "marks"

    @property
    def results(self) -> pathlib.Path:
        return self.home / "shared" / "results"

    def crowd(self, server: Server) -> Crowd:
        """Tasks of a server."""
        return Crowd(server, clusters.BUSYBOX, self.marks, self.results)

    def check(self, crowd: Crowd) -> dict[str, object]:
        """All is well, and nothing runs or is kept any more; each attempt that was told of is one Job."""
        counted = crowd.check(PATIENCE)
        self.cluster.until(lambda: not cluster_site.running(self.cluster, self.namespace), "no pod runs")
        assert cluster_site.secrets(self.cluster, self.namespace) == []
        jobs = cluster_site.jobs(self.cluster, self.namespace)
        assert len(jobs) == sum(attempts * tasks for attempts, tasks in counted["attempts"].items())
        return counted


@pytest.fixture
def field(cluster: Cluster, tmp_path: pathlib.Path) -> Iterator[Field]:
    shared = tmp_path / "shared"
    for path in (shared, shared / "marks", shared / "results"):
        path.mkdir()
        path.chmod(0o777)
    with (
        clusters.namespace(cluster) as namespace,
        clusters.claim(cluster, namespace, shared) as claim,
        contextlib.closing(cluster_site.relay(cluster)) as relay,
    ):
        kubeconfig = cluster_site.kubeconfig(cluster, tmp_path / "kubeconfig", port=relay.port)
        more = f'[files]\nlive_mounts = ["{shared}/marks"]\n'
        table = cluster_site.claim(claim, shared)
        flags = cluster_site.settings(cluster, namespace, tmp_path / "site.toml", kubeconfig=kubeconfig, cluster_more=table, more=more)
        yield Field(cluster, namespace, relay, flags, tmp_path)


def stream(crowd: Crowd, seconds: float, pause: Callable[[], float], blow: Blow, chance: random.Random) -> int:
    """Tasks come in evenly for `seconds`, and a blow after every `pause`; how many blows there were."""
    total = max(8, int(RATE * seconds))
    begin, blows = time.monotonic(), 0
    next_blow = begin + pause()
    while time.monotonic() < begin + seconds or len(crowd.ids) < total:
        now = time.monotonic()
        if now >= next_blow:
            blow()
            blows += 1
            next_blow = now + pause()
        if len(crowd.ids) < total * min(1.0, (now - begin) / seconds):
            crowd.create([chance.uniform(0, LONGEST)])
        time.sleep(0.05)
    return blows


def test_watches_are_cut_every_five_seconds(field: Field, seconds: float, chance: random.Random, tell: Tell) -> None:
    """For three minutes (TORTURE_SECONDS 300); nothing is given up, so that no attempt costs a second one."""
    every = min(5.0, seconds / 10)
    with served(field.home / "data", *field.flags) as server:
        crowd = field.crowd(server)
        cuts = stream(crowd, min(180.0, 0.6 * seconds), lambda: every, field.relay.cut, chance)
        counted = field.check(crowd)
        assert counted["attempts"] == {1: len(crowd.ids)}
        tell(cuts=cuts, **counted)


@pytest.mark.parametrize("kind", ["refuses", "freezes"])
def test_the_cluster_is_away_for_two_minutes(field: Field, seconds: float, kind: str, tell: Tell) -> None:
    """Our API goes on answering; what ended meanwhile is seen as soon as the cluster is back, what came meanwhile runs then."""
    away = min(120.0, 0.4 * seconds)
    with served(field.home / "data", *field.flags) as server:
        crowd = field.crowd(server)
        crowd.create([1.0, away / 4, 2.0])
        for task in crowd.ids:
            server.until(task, "RUNNING", "COMPLETE")
        slowest = 0.0
        with field.relay.away() if kind == "refuses" else field.relay.frozen():
            end = time.monotonic() + away
            crowd.create([0.0, 0.0])
            while time.monotonic() < end:
                begun = time.monotonic()
                assert server.ask("/v1/tasks?view=FULL")[0] == 200
                assert server.ask("/readyz")[0] == 200
                slowest = max(slowest, time.monotonic() - begun)
                time.sleep(0.5)
        back = time.monotonic()
        server.until_all(crowd.ids[:3], PATIENCE)
        seen = time.monotonic() - back
        counted = field.check(crowd)
        assert counted["attempts"] == {1: len(crowd.ids)}
        assert slowest < 2.0
        # A frozen watch is known to be dead when nothing was heard for a while; one that was refused is tried again after five seconds at most.
        assert seen < 60.0
        tell(away=round(away), ended_seen_after=round(seen, 1), slowest_answer=round(slowest, 2), **counted)


def test_kills_while_the_way_is_bad(field: Field, seconds: float, chance: random.Random, tell: Tell) -> None:
    """Reconciler and server killed at any time; the way to the cluster cut, or frozen for a moment, so that kills meet calls of every kind."""
    struck: Counter[str] = Counter()
    with served(field.home / "data", *field.flags) as server:
        crowd = field.crowd(server)

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):  # it is just being started again
                os.kill(server.part("reconciler"), signal.SIGKILL)

        def kill_all() -> None:
            server.stop(signal.SIGKILL)
            server.start()

        def kill_frozen(*, requests: bool) -> None:
            with field.relay.frozen(requests=requests):
                crowd.create([chance.uniform(0, LONGEST)])
                time.sleep(chance.uniform(0, 1.5))
                kill()

        blows: dict[str, Blow] = {
            "reconciler": kill,
            "server": kill_all,
            "cut": field.relay.cut,
            "frozen": lambda: kill_frozen(requests=True),
            "answers-frozen": lambda: kill_frozen(requests=False),
        }

        def blow() -> None:
            name = chance.choice(sorted(blows))
            blows[name]()
            struck[name] += 1

        stream(crowd, 0.6 * seconds, lambda: chance.uniform(0.3, 4.0), blow, chance)
        counted = field.check(crowd)
        assert counted["attempts"] == {1: len(crowd.ids)}
        tell(blows=dict(struck), **counted)


@pytest.mark.mongo
def test_a_reconciler_sleeps_for_longer_than_its_lease_in_the_midst_of_a_submit(field: Field, seconds: float, tell: Tell) -> None:
    """Another one takes over and runs the tasks; what the sleeper sent, and sends when it wakes, finds its names taken."""
    with mongo_server.database(mongo_server.url()) as account:
        environment = shared_store(account)
        with served(field.home / "api", *field.flags, "--api-only", environment=environment) as server, two(field, environment) as (first, second):
            crowd = field.crowd(server)
            rounds = 0
            for asleep in (first, second, first)[: 3 if seconds >= 100 else 2]:
                with field.relay.frozen():
                    crowd.create([0.5] * 6)
                    time.sleep(1.0)  # for the creates to be sent: nobody can see that
                    asleep.send(signal.SIGSTOP)
                time.sleep(2 * LEASE)
                server.until_all(crowd.ids, PATIENCE)
                asleep.send(signal.SIGCONT)
                rounds += 1
            counted = field.check(crowd)
            assert counted["attempts"] == {1: len(crowd.ids)}
            tell(rounds=rounds, **counted)


def shared_store(account: mongo_account.Account) -> dict[str, str]:
    """Settings of a store with short leases."""
    return {
        "TES_SERVER__STORE__URL": account.url,
        "TES_SERVER__STORE__DATABASE": account.database,
        "TES_SERVER__STORE__LEASE": str(LEASE),
        "TES_SERVER__CONTROL__INTERVAL": "2",
    }


@contextlib.contextmanager
def two(field: Field, environment: dict[str, str]) -> Iterator[tuple[Reconciler, Reconciler]]:
    """Reconcilers of one store."""
    first, second = (Reconciler(field.home / name, field.flags, environment) for name in ("one", "two"))
    try:
        for each in (first, second):
            each.start()
        yield first, second
    finally:
        for each in (first, second):
            if not each.stopped:
                each.send(signal.SIGCONT)
                each.stop()


def test_a_clock_that_is_not_the_cluster_s(field: Field, tell: Tell) -> None:
    """The server's clock is ten minutes ahead, then behind, then jumps: no bound is over too early, nothing is lost."""
    library, clock = field.home / "jumping_clock.so", field.home / "clock"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True)
    jump(clock, 600)
    fake = {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(clock)}
    with served(field.home / "data", *field.flags, environment=fake) as server:
        crowd = field.crowd(server)
        crowd.create([0.0, 8.0])
        waits = server.create(sh("true"), resources={"cpu_cores": 900})
        for offset in (600, -600, 86_400, 0):
            jump(clock, offset)
            crowd.create([0.5])
            server.until(crowd.ids[-1])
        assert server.get(waits)["state"] == "QUEUED"
        assert server.ask(f"/v1/tasks/{waits}:cancel", b"")[0] == 200
        assert server.until(waits)["state"] == "CANCELED"
        states = server.until_all(crowd.ids, PATIENCE)
        assert states == {"COMPLETE": len(crowd.ids)}
        assert all((field.marks / str(number)).read_text().count("\n") == 1 for number in range(len(crowd.ids)))
        tell(tasks=len(crowd.ids))
