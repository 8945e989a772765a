"""What a whole server on any batch service does: first steps with it, and days that are not like others. Modules of one service give `site`."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess

import pytest

from tests import mongo_server
from tests.acceptance.batch_site import IMAGE, SMALL, Site, sh, until
from tests.acceptance.server import BIN, served
from tests.integration.conftest import unreachable

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

LOCAL = '[local]\nengine = "sandbox"\n'


class FirstSteps:
    def test_a_command_and_its_output(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", IMAGE, "--wait", "--", "echo", "hi")
        assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr

    def test_a_command_that_fails(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", IMAGE, "--", "sh", "-c", "echo out; echo wrong >&2; exit 3")
        assert (done.returncode, done.stdout) == (3, "out\n")
        assert "wrong\n" in done.stderr
        assert "exit code 3" in done.stderr

    def test_from_the_store_to_the_store(self, site: Site) -> None:
        store = site.store
        store.put("data/first/in", b"b\na\n")
        task = site.server.create(
            {**sh("sort in > out; mkdir all; cp out all/1; cp in all/2"), "workdir": "/work"},
            inputs=[{"path": "/work/in", "url": f"{store.url}/data/first/in"}],
            outputs=[
                {"path": "/work/out", "url": f"{store.url}/data/first/out"},
                {"path": "/work/all", "url": f"{store.url}/data/first/all", "type": "DIRECTORY"},
            ],
            resources=SMALL,
        )
        ended = site.server.until(task)
        assert ended["state"] == "COMPLETE", ended
        assert store.objects("data/first/") == {"in": b"b\na\n", "out": b"a\nb\n", "all/1": b"a\nb\n", "all/2": b"b\na\n"}
        assert sorted(output["url"].removeprefix(f"{store.url}/data/first/") for output in ended["logs"][0]["outputs"]) == ["all/1", "all/2", "out"]

    def test_logs_of_what_runs_and_its_cancel(self, site: Site) -> None:
        task = site.server.create(sh("trap '' TERM; echo up; while :; do sleep 0.2; done"), resources=SMALL)
        with subprocess.Popen(
            [BIN / "tes", "logs", "-f", task], env={**os.environ, "TES_URL": site.server.url}, stdout=subprocess.PIPE, text=True
        ) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "up\n"
            assert site.server.get(task)["state"] == "RUNNING"
            assert site.run("tes", "cancel", task).returncode == 0
            following.wait(60)
        ended = site.server.until(task)
        assert ended["state"] == "CANCELED"
        assert ended["logs"][0]["logs"][0]["stdout"] == "up\n", ended
        assert not site.containers_of(task), "CANCELED means gone"

    def test_alignment_with_data_in_a_store_equals_the_same_tools_by_hand(self, site: Site, tmp_path: pathlib.Path) -> None:
        data = site.run(EXAMPLES / "alignment" / "get-data", tmp_path)
        if data.returncode != 0:
            unreachable("Debian's package bowtie2-examples", data.stderr)
        store = site.store
        for name in ("lambda.fa", "reads_1.fq.gz", "reads_2.fq.gz"):
            store.put(f"data/lambda/{name}", (tmp_path / name).read_bytes())
        done = site.run(EXAMPLES / "alignment" / "run", f"{store.url}/data/lambda", seconds=180, environment={"TES_IMAGE": "tes-test/genomics"})
        assert done.returncode == 0, done.stderr
        results = store.objects("data/lambda/")
        (tmp_path / "calls.vcf").write_bytes(results["calls.vcf"])
        assert results["aligned.bam"].startswith(b"\x1f\x8b")
        inside = ("docker", "run", "--rm", "-v", f"{tmp_path}:{tmp_path}", "tes-test/genomics")
        same = site.run(EXAMPLES / "alignment" / "by-hand", tmp_path, *inside, seconds=180)
        assert same.stdout.startswith("the same "), same.stdout + same.stderr
        assert int(same.stdout.split()[2]) > 50


class BesideThisMachine:
    """A server that runs tasks on its own machine, too."""

    def test_plan_says_where_and_why(self, site: Site, tmp_path: pathlib.Path) -> None:
        flags = site.flags_of(tmp_path / "both.toml", "planner", more=f"{LOCAL}cpus = 2\n", **site.bounded)
        (tmp_path / "task.json").write_text(json.dumps({"executors": [sh("true")], "resources": {"cpu_cores": 7}}))
        shown = json.loads(site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json").stdout)
        assert (shown["backend"], shown["rule"]) == (site.backend, "default: the first backend that can take it, after local")
        (tmp_path / "task.json").write_text(json.dumps({"executors": [sh("true")], "resources": {"cpu_cores": 70}}))
        done = site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json")
        assert done.returncode != 0
        assert "no backend can take it: local: " in done.stderr
        assert f"; {site.backend}: " in done.stderr

    def test_here_or_there_by_a_rule(self, site: Site, tmp_path: pathlib.Path, sandbox_works: None) -> None:
        tables = f'{LOCAL}[sandbox]\nallow_host = true\n[[routes]]\nbackend = "{site.backend}"\ntags = {{ where = "cloud" }}\n'
        with site.another("both", tmp_path, more=tables) as both:
            there = both.server.create(sh("cat /proc/1/comm >/dev/null; echo there"), resources=SMALL, tags={"where": "cloud"})
            here = both.server.create({"image": "host", "command": ["/bin/echo", "here"]}, resources=SMALL)
            for task, output in ((here, "here\n"), (there, "there\n")):
                assert both.server.until(task)["logs"][0]["logs"][0]["stdout"] == output
            assert (len(both.attempts()), len(both.attempts(f"{there}-1"))) == (1, 1)


class Killed:
    def test_the_reconciler_while_a_command_runs(self, site: Site) -> None:
        task = site.marked("runs", "sleep 3; echo done")
        until(lambda: site.runs("runs"), "the command runs")
        site.kill_reconciler()
        assert site.server.until(task)["logs"][0]["logs"][0]["stdout"] == "done\n"
        assert (site.runs("runs"), len(site.attempts(f"{task}-1"))) == (1, 1)

    def test_the_whole_server_while_commands_run_and_wait(self, site: Site) -> None:
        """What ends meanwhile has told nobody: the spool has it."""
        site.hold_spot()
        waits = site.marked("waits", resources={**SMALL, "preemptible": True})
        ends = site.marked("ends", "echo done")
        until(lambda: site.runs("ends"), "the command runs")
        until(lambda: site.attempts(f"{waits}-1"), "the other one is there")
        site.server.stop(signal.SIGKILL)
        site.wait_end(f"{ends}-1")
        site.server.start()
        assert site.server.until(ends)["logs"][0]["logs"][0]["stdout"] == "done\n"
        site.release_spot()
        assert site.server.until(waits)["state"] == "COMPLETE"
        assert [(site.runs(name), len(site.attempts(f"{task}-1"))) for name, task in (("waits", waits), ("ends", ends))] == [(1, 1), (1, 1)]

    def test_the_reconciler_while_answers_of_submits_are_lost(self, site: Site) -> None:
        """However often the service has it then, the command runs once."""
        site.lab.emulator.bad_days.lose_answers(times=2)
        tasks = [site.marked(f"lost-{number}", "sleep 1") for number in range(3)]
        until(lambda: all(site.attempts(f"{task}-1") for task in tasks), "all are there")
        site.kill_reconciler()
        assert {site.server.until(task)["state"] for task in tasks} == {"COMPLETE"}
        assert [site.runs(f"lost-{number}") for number in range(3)] == [1, 1, 1]
        assert not [found for task in tasks for found in site.attempts(f"{task}-2")]

    def test_the_reconciler_before_it_has_canceled(self, site: Site) -> None:
        task = site.marked("canceled", "trap '' TERM; while :; do sleep 0.2; done")
        until(lambda: site.runs("canceled"), "the command runs")
        site.lab.emulator.bad_days.throttle(site.stops)
        assert site.server.ask(f"/v1/tasks/{task}:cancel", b"")[0] == 200
        site.kill_reconciler()
        site.lab.emulator.bad_days.mend()
        assert site.server.until(task)["state"] == "CANCELED"
        assert not site.containers_of(task), "CANCELED means gone"

    @pytest.mark.mongo
    def test_one_of_two_servers_of_one_store(self, site: Site, tmp_path: pathlib.Path) -> None:
        """The other one looks after its tasks; both hear of the same ends."""
        with mongo_server.database(mongo_server.url()) as account:
            shared = {"TES_SERVER__STORE__URL": account.url, "TES_SERVER__STORE__DATABASE": account.database, "TES_SERVER__STORE__LEASE": "3"}
            with site.another("replicas", tmp_path, environment=shared) as first:
                with served(tmp_path / "second", *first.flags, environment=first.environment) as second:
                    tasks = [first.marked(f"task-{number}", "sleep 2") for number in range(10)]
                    until(lambda: first.runs("task-0"), "the first command runs")
                    second.stop(signal.SIGKILL)
                    assert first.server.until_all(tasks, 120) == {"COMPLETE": 10}
                assert [first.runs(f"task-{number}") for number in range(10)] == [1] * 10
                assert len(first.attempts()) == 10


class Throttled:
    def test_every_second_call_of_each_kind(self, site: Site) -> None:
        """It takes longer, and nothing is lost or doubled."""
        for call in site.calls:
            site.lab.emulator.bad_days.throttle(call, every=2)
        tasks = [site.marked(f"throttled-{number}") for number in range(5)]
        assert {site.server.until(task)["state"] for task in tasks} == {"COMPLETE"}
        site.lab.emulator.bad_days.mend()
        assert [site.runs(f"throttled-{number}") for number in range(5)] == [1] * 5
