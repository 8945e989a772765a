"""Two reconcilers on one database, and an image that is new to both; the one that scans it is killed."""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server.store import mongo_account
from tests import mongo_server
from tests.acceptance import replicas, scan_site
from tests.acceptance.replicas import Reconciler, until
from tests.acceptance.server import served
from tests.torture import leftovers

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.mongo]

TASKS = 10


@pytest.fixture
def account() -> Iterator[mongo_account.Account]:
    with mongo_server.database(mongo_server.url()) as made:
        yield made


def test_one_scan_for_both_which_outlives_who_runs_it(docker_client: Any, account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    settings = tmp_path / "settings.toml"
    environment = {
        "TES_SERVER__STORE__URL": account.url,
        "TES_SERVER__STORE__DATABASE": account.database,
        "TES_SERVER__STORE__LEASE": str(replicas.LEASE),
        "TES_SERVER__CONTROL__INTERVAL": "2",
        "TES_SERVER__RETRIES__FIRST_DELAY": "0.2",
    }
    flags = ("--config", str(settings))
    both = [Reconciler(tmp_path / f"machine-{number}", flags, environment) for number in range(2)]
    with scan_site.images(docker_client, tmp_path) as images:
        table = scan_site.scans(images.host, f"http://{images.host}", images.scanner(), "enforce", env={"STANDIN_SECONDS": "5"}, timeout=120)
        scan_site.write(settings, table, "lost_after = 6\n")
        with served(tmp_path / "api", *flags, "--api-only", environment=environment) as api:
            try:
                for each in both:
                    each.start()
                replicas.until_shared(account, 2)
                images.push("new", "mode=late")
                new = {"image": f"{images.host}/new:1", "command": ["cat", "/is"]}
                ids = [api.create(new, resources={"cpu_cores": 0.1, "ram_gb": 0.05}) for _ in range(TASKS)]
                until(lambda: begun(both), "a scan is begun")
                [scan] = begun(both)
                until(lambda: [each for each in both if attempt(each, scan).exists()], "it runs")
                [scans] = [each for each in both if attempt(each, scan).exists()]
                scans.stop(signal.SIGKILL)
                [other] = [each for each in both if each is not scans]
                done = [api.until(task_id) for task_id in ids]
                assert {each["state"] for each in done} == {"COMPLETE"}, done[0]
                assert begun(both) == [scan], "it was made again, and no other one"
                assert [event["outcome"] for event in other.events("scan.judged")] == ["PASS"]
                assert len({line for each in done for line in each["logs"][0]["system_logs"] if line.startswith("SCANNED")}) == 1, "one verdict for all"
                scans.start()
                for each in both:
                    leftovers.none(each.data)
            finally:
                for each in both:
                    if not each.stopped:
                        each.stop()


def begun(both: list[Reconciler]) -> list[str]:
    return [event["task"] for each in both for event in each.events("scan.begun")]


def attempt(reconciler: Reconciler, scan: str) -> pathlib.Path:
    return reconciler.data / "attempts" / f"{scan}-1"
