"""Several machines that run the tasks of one database: killed, stopped, lost and back. The long storm is tests/torture/test_replicas.py."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tes_server.store import mongo_account
from tests import mongo_proxy, mongo_server
from tests.acceptance.replicas import LEASE, Reconciler, fleet, until
from tests.acceptance.server import BIN, PATIENCE

pytestmark = [pytest.mark.mongo, pytest.mark.sandbox, pytest.mark.usefixtures("sandbox_works")]

CLOCK = pathlib.Path(__file__).parents[1] / "torture" / "jumping_clock.c"
STOPPED = 2 * LEASE


@pytest.fixture
def account() -> Iterator[mongo_account.Account]:
    with mongo_server.database(mongo_server.url()) as made:
        yield made


def test_a_storm_of_kills_loses_nothing_and_runs_nothing_twice(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    with fleet(tmp_path, account, 3, 2) as made:
        struck = made.storm(10, 60, random.Random(os.environ.get("TORTURE_SEED")))
        assert struck.total() == 5
        counted = made.crowd.check(PATIENCE)
        assert counted["attempts"] == {1: 60}, made.crowd.retries
        made.left()


def test_without_kills_hardly_a_save_loses_its_race(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    with fleet(tmp_path, account, 3) as made:
        made.crowd.create(0.3 for _ in range(40))
        assert made.crowd.check(PATIENCE)["attempts"] == {1: 40}
        made.left()
        saves, lost = (sum(reconciler.counted(metric) for reconciler in made.reconcilers) for metric in ("tes_saves", "tes_saves_lost"))
        assert saves >= 40 * 4
        assert lost <= saves / 100, f"{lost} of {saves}"
        assert all(reconciler.counted("tes_attempts") for reconciler in made.reconcilers), "one of them did nothing"


def test_several_machines_together_run_no_more_of_an_owner_than_may_be(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    with fleet(tmp_path, account, 3, limits__running=2) as made:
        ids = [made.front.create({"image": "host", "command": ["sleep", "0.3"]}) for _ in range(12)]
        assert made.front.until_all(ids, PATIENCE) == {"COMPLETE": 12}
        logs = [made.front.get(task_id)["logs"][0] for task_id in ids]
        steps = sorted((log[when], step) for each in logs for log in each["logs"] for when, step in (("start_time", 1), ("end_time", -1)))
        at_once = list(itertools.accumulate(step for _, step in steps))
        assert max(at_once) == 2, at_once
        assert sum(bool(reconciler.counted("tes_attempts")) for reconciler in made.reconcilers) > 1, "one of them did all"


def test_one_that_is_stopped_and_goes_on_does_no_harm(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    """For twice the lease, with tasks that run, wait and end meanwhile."""
    with fleet(tmp_path, account, 2) as made:
        one, _ = made.reconcilers
        made.crowd.create([4.0] * 4 + [0.2] * 8)
        until(lambda: one.counted("tes_attempts"), "the first one runs something")
        one.send(signal.SIGSTOP)
        made.crowd.create([0.2] * 12)
        time.sleep(STOPPED)
        one.send(signal.SIGCONT)
        made.crowd.create([0.2] * 6)
        assert made.crowd.check(PATIENCE)["attempts"] == {1: 30}
        made.left()
        assert made.events("reconciler.step.failed") == []


def test_stopped_in_the_midst_of_a_submit(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    """Between the intent and the call. Its shards are another's when it goes on."""
    proxy = mongo_proxy.Proxy(account.url)
    try:
        with fleet(tmp_path, account, 0) as made:
            one, two = made.reconciler("slow", store__url=proxy.url), made.reconciler("quick")
            made.reconcilers += [one, two]
            one.start()
            until(lambda: one.events("reconciler.started"), "it is up")
            with proxy.held("update", "tasks") as came:
                made.crowd.create([0.5] * 4)
                assert came.wait(PATIENCE), "the intents were saved"
                one.send(signal.SIGSTOP)
            two.start()
            until(lambda: two.events("reconciler.started"), "the other one is up")
            time.sleep(STOPPED)
            made.crowd.create([0.5] * 2)
            one.send(signal.SIGCONT)
            assert made.crowd.check(PATIENCE)["attempts"] == {1: 6}
            assert one.events("submit.late"), "it saw that it was late"
            made.left()
    finally:
        proxy.close()


def test_a_second_one_on_the_same_data_directory_stands_by(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    with fleet(tmp_path, account, 1) as made:
        [one] = made.reconcilers
        made.crowd.create([3.0] * 3)
        until(lambda: len(list(made.marks.iterdir())) >= 2, "commands run")
        second = Reconciler(one.data, one._arguments, one._environment)
        second.log = tmp_path / "second.log"
        second.start()
        try:
            until(lambda: second.events("reconciler.stands_by"), "it stands by")
            assert second.events("reconciler.started") == []
            assert one.stop(signal.SIGKILL) == -signal.SIGKILL
            until(lambda: second.events("reconciler.started"), "it takes over")
            one.start()
            until(lambda: one.events("reconciler.stands_by"), "the first one now stands by")
            assert one.stop() == 0
            assert made.crowd.check(PATIENCE)["attempts"] == {1: 3}
            made.left()
        finally:
            assert second.stop() == 0


def test_on_sqlite_a_second_one_is_refused(tmp_path: pathlib.Path) -> None:
    """There is nothing to take over: the store is in that directory as well."""
    command: list[str | pathlib.Path] = [BIN / "tes-server", "reconcile", "--data", tmp_path / "data", "--engine", "sandbox", "--allow-host"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as first:
        until(lambda: "reconciler.started" in (tmp_path / "log").read_text(), "it is up")
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        first.terminate()
    assert second.returncode == 2
    assert "is in use by another tes-server" in second.stderr


def test_a_machine_that_is_lost_is_told_and_made_good_and_may_come_back(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    with fleet(tmp_path, account, 2, local__lost_after=6) as made:
        one, two = made.reconcilers
        made.crowd.create([18.0] * 4)
        until(lambda: len(list(made.marks.iterdir())) == 4, "commands run")
        mine = [number for number, task_id in enumerate(made.crowd.ids) if (one.data / "attempts" / f"{task_id}-1").exists()]
        if not mine:
            one, two = two, one
            mine = list(range(4))
        one.stop(signal.SIGKILL)
        silent = made.crowd.ids[mine[0]]
        until(lambda: "MACHINE_SILENT" in str(made.front.get(silent)["logs"][0].get("system_logs")), "clients are told")
        until((two.data / "attempts" / f"{silent}-2").exists, "the other one runs it")
        assert any("LOST: nothing was heard of" in line for line in made.front.get(silent)["logs"][0]["system_logs"])
        one.start()
        until(lambda: not (one.data / "attempts" / f"{silent}-1").exists(), "it ends what it had")
        assert made.crowd.check(150)["attempts"] == {key: value for key, value in {1: 4 - len(mine), 2: len(mine)}.items() if value}
        made.left()


def test_clocks_that_differ_by_a_minute_are_harmless(account: mongo_account.Account, tmp_path: pathlib.Path) -> None:
    library = tmp_path / "jumping_clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, CLOCK], check=True)

    def off(reconciler: Reconciler) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), "JUMPING_CLOCK": str(tmp_path / f"{reconciler.data.name}.clock")}

    with fleet(tmp_path, account, 0) as made:
        for name, offset in (("ahead", 60), ("right", 0), ("behind", -60)):
            (tmp_path / f"{name}.clock").write_text(str(offset))
            made.reconcilers.append(made.reconciler(name))
            made.reconcilers[-1].start(**off(made.reconcilers[-1]))
        until(lambda: len(made.events("reconciler.started")) == 3, "all are up")
        began = time.monotonic()
        made.crowd.create([0.2] * 20)
        long = [made.front.create({"image": "host", "command": ["/bin/sleep", "600"]}, resources={"cpu_cores": 0.1, "ram_gb": 0.05}) for _ in range(4)]
        for task_id in long:
            made.front.until(task_id, "RUNNING")
            assert made.front.ask(f"/v1/tasks/{task_id}:cancel", b"")[0] == 200
        for reconciler in made.reconcilers[1:]:  # its shards go to the others, and come back
            reconciler.stop(signal.SIGKILL)
            reconciler.start(**off(reconciler))
        assert {made.front.until(task_id)["state"] for task_id in long} == {"CANCELED"}
        ended = made.front.until_all(made.crowd.ids, PATIENCE)
        assert ended == {"COMPLETE": 20}
        assert time.monotonic() - began < 50, "nobody waited for a clock"
        assert all((made.marks / str(number)).read_text().count("\n") == 1 for number in range(20))
        made.crowd.ids += long
        made.left()
