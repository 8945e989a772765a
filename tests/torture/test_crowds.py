"""Very many tasks at once: one owner's are nobody else's delay, and the server's end while they run loses none."""

from __future__ import annotations

import pathlib
import time

import pytest

from tes_server import app, configuration
from tes_server.model.principal import Principal
from tes_server.model.record import View
from tes_server.model.states import State
from tes_server.model.task import Executor, Resources, Task
from tests.acceptance.server import served
from tests.torture import leftovers
from tests.torture.conftest import Tell
from tests.torture.crowd import Crowd

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("sandbox_works")]


def test_sigterm_while_fifty_tasks_run(tmp_path: pathlib.Path, tell: Tell) -> None:
    """The server ends soon, its tasks go on without it, and a later one takes their results: each ran once."""
    marks, results = tmp_path / "marks", tmp_path / "results"
    for path in (marks, results):
        path.mkdir()
        path.chmod(0o777)
    settings = {"TES_SERVER__FILES__LIVE_MOUNTS": f'["{marks}"]', "TES_SERVER__LOCAL__CPUS": "50", "TES_SERVER__LOCAL__RAM_GB": "10"}
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(results), environment=settings) as server:
        crowd = Crowd(server, "host", marks, results)
        crowd.create([20] * 50)
        deadline = time.monotonic() + 60
        while list(server.states().values()).count("RUNNING") < 50:
            assert time.monotonic() < deadline, server.states()
            time.sleep(0.1)
        began = time.monotonic()
        assert server.stop() == 0
        stopped = time.monotonic() - began
        assert stopped < 15
        server.start()
        counted = crowd.check(120)
        assert counted["attempts"] == {1: 50}
        leftovers.check(server)
        tell(seconds_to_stop=round(stopped, 2), **counted)


def test_one_task_behind_ten_thousand_of_somebody_else(tmp_path: pathlib.Path, share: float, tell: Tell) -> None:
    count = int(10_000 * share)
    settings = configuration.load(None, {}, {"data": str(tmp_path / "data"), "local.engine": "sandbox", "sandbox.allow_host": True})
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host") as server:
        kept = app.store(settings)
        try:
            service = app.service(settings, kept)  # sign-in is not there yet: owners come by the API's door, one step further in
            greedy, modest = Principal("greedy"), Principal("modest")
            began = time.monotonic()
            many = [service.create(greedy, task("sleep 1")) for _ in range(count)]
            ids = [made.result(60) for made in many]
            created = time.monotonic()
            mine = service.create(modest, task("echo fine")).result(60)
            while b'"COMPLETE"' not in (seen := service.get_json(modest, mine, View.MINIMAL)):
                assert time.monotonic() < created + 30, seen
                time.sleep(0.02)
            ended = time.monotonic()
            queued = kept.census()[State.QUEUED]
            assert queued > count / 2, "they were not waiting"
            for task_id in ids:
                service.cancel(greedy, task_id)
            leftovers.until(lambda: not any(kept.census().values()), "all canceled")
        finally:
            kept.close()
        leftovers.check(server)
        tell(seconds_to_create=round(created - began, 1), queued=queued, seconds_of_the_other=round(ended - created, 2))


def task(script: str) -> Task:
    return Task(executors=(Executor(image="host", command=("/bin/sh", "-c", script)),), resources=Resources(cpu_cores=0.5, ram_gb=0.05))
