"""Kills of every part, in random order, under many tasks."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.acceptance.server import Server, served
from tests.contract.engine_contract import until
from tests.integration.sandbox_case import processes_with
from tests.torture import docker_service, leftovers
from tests.torture.conftest import Tell
from tests.torture.crowd import Crowd

SETTINGS = {
    "TES_SERVER__RETRIES__LOST": "1000",
    "TES_SERVER__RETRIES__BACKEND": "1000",
    "TES_SERVER__RETRIES__FIRST_DELAY": "0.2",
    "TES_SERVER__RETRIES__LONGEST_DELAY": "2",
}
IMAGE = "tes-test/busybox"
PAUSE = (0.2, 3.0)
"""Seconds between two kills: below what a server needs to come back, and above."""

LONGEST = 3.0
"""Seconds that a task sleeps at most."""

Blow = Callable[[], bool]
Places = tuple[pathlib.Path, pathlib.Path]


@pytest.fixture
def places(tmp_path: pathlib.Path) -> Places:
    marks, results = tmp_path / "marks", tmp_path / "results"
    for path in (marks, results):
        path.mkdir()
        path.chmod(0o777)
    return marks, results


def kill_part(server: Server, name: str) -> Blow:
    def blow() -> bool:
        try:
            os.kill(server.part(name), signal.SIGKILL)
        except (ProcessLookupError, StopIteration):
            return False  # it is just being started again
        return True

    return blow


def kill_both(server: Server) -> Blow:
    def blow() -> bool:
        server.stop(signal.SIGKILL)
        server.start()
        return True

    return blow


def restart(server: Server) -> Blow:
    def blow() -> bool:
        assert server.stop() == 0
        server.start()
        return True

    return blow


def kill_supervisor(server: Server, chance: random.Random) -> Blow:
    def blow() -> bool:
        victims = processes_with(f"{server.data}/attempts")
        if victims:
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                return False
        return bool(victims)

    return blow


def kill_container(daemon: docker_service.DockerService, chance: random.Random) -> Blow:
    """The first process of a container is tes-step."""

    def blow() -> bool:
        running = daemon.containers()
        return bool(running) and daemon.ask("kill", chance.choice(running)).returncode == 0

    return blow


def restart_daemon(daemon: docker_service.DockerService, number: signal.Signals) -> Blow:
    def blow() -> bool:
        daemon.stop(number)
        daemon.start()
        return True

    return blow


def torture(crowd: Crowd, chance: random.Random, seconds: float, blows: dict[str, Blow]) -> Counter[str]:
    """Blow after blow while tasks come in and run, for `seconds` or until all have ended."""
    struck: Counter[str] = Counter()
    end = time.monotonic() + seconds
    total = max(60, int(1000 * min(1.0, seconds / 300)))
    while time.monotonic() < end:
        if len(crowd.ids) < total:
            crowd.create(chance.uniform(0, LONGEST) for _ in range(min(total - len(crowd.ids), max(1, total // 20))))
        name = chance.choice(list(blows))
        struck[name] += blows[name]()
        time.sleep(chance.uniform(*PAUSE))
    crowd.create(chance.uniform(0, LONGEST) for _ in range(total - len(crowd.ids)))
    return struck


def server_blows(server: Server) -> dict[str, Blow]:
    return {"api": kill_part(server, "api"), "reconciler": kill_part(server, "reconciler"), "serve": kill_both(server), "term": restart(server)}


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox_works")
def test_the_sandbox_survives_kills_of_every_part(tmp_path: pathlib.Path, places: Places, seconds: float, chance: random.Random, tell: Tell) -> None:
    marks, results = places
    settings = {**SETTINGS, "TES_SERVER__FILES__LIVE_MOUNTS": f'["{marks}"]'}
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(results), environment=settings) as server:
        crowd = Crowd(server, "host", marks, results)
        blows = {**server_blows(server), "supervisor": kill_supervisor(server, chance)}
        struck = torture(crowd, chance, seconds, blows)
        tell(kills=dict(struck), **crowd.check(600))
        leftovers.check(server)


@pytest.mark.docker
@pytest.mark.usefixtures("docker_client")
def test_docker_and_its_daemon_too(tmp_path: pathlib.Path, places: Places, seconds: float, chance: random.Random, tell: Tell) -> None:
    marks, results = places
    with docker_service.running(IMAGE) as daemon:
        settings = {**SETTINGS, "TES_SERVER__FILES__LIVE_MOUNTS": f'["{marks}"]', "TES_SERVER__DOCKER__URL": daemon.url, "TES_SERVER__DOCKER__NETWORK": "none"}
        with served(tmp_path / "data", "--engine", "docker", "--root", str(results), environment=settings) as server:
            crowd = Crowd(server, IMAGE, marks, results)
            blows = {
                **server_blows(server),
                "supervisor": kill_container(daemon, chance),
                "dockerd-term": restart_daemon(daemon, signal.SIGTERM),
                "dockerd-kill": restart_daemon(daemon, signal.SIGKILL),
            }
            struck = torture(crowd, chance, seconds, blows)
            tell(kills=dict(struck), **crowd.check(900))
            leftovers.check(server)
            until(lambda: not daemon.containers("--all"), "containers removed")
