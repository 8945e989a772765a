"""Image scans through a whole server with a real cluster: scans are pods, and the second lock is an init container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import cluster_site, scan_days
from tests.acceptance.scan_days import Place, ScanDays
from tests.acceptance.server import served
from tests.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.docker, pytest.mark.registry]


@pytest.fixture(scope="module")
def place(cluster: Cluster, namespace: str, docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("scan")
    with scan_days.world(docker_client, home, cluster.address) as world:
        scanner = world.images.pushed_scanner()

        def write(image: str) -> tuple[str, ...]:
            more = f"[retries]\nbackend = 0\nfirst_delay = 0.2\n{world.table(image, scan_days.TIMEOUT)}"
            return cluster_site.settings(cluster, namespace, home / "site.toml", cluster_more="wait_image = 3\n", more=more)

        with served(home / "data", *write(scanner)) as server:
            yield Place(world, server, write, scanner, cluster_site.SMALL)
            cluster.until(lambda: not cluster_site.running(cluster, namespace), "no pod is left")


class TestCluster(ScanDays):
    hangs = True
