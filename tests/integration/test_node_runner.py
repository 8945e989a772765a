"""The runner of a node on a real Docker: processes of `node_main`, killed and stopped at every stage of an attempt."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socketserver
import stat
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from pytest_httpserver import HTTPServer

from tes_server.filer.manifest import Access
from tes_server.model.run import Reason
from tes_server.plan.steps import Findings
from tes_server.runner import node, node_engine, node_sweep
from tes_server.runner.node_place import Place
from tes_server.scan import base, report
from tests import gates
from tests.contract import object_servers
from tests.integration.node_lab import RUN, Node, shell, until

pytestmark = pytest.mark.docker


@pytest.fixture
def home(docker_client: Any, tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path


@pytest.fixture
def lab(home: pathlib.Path) -> Iterator[Node]:
    lab = Node(home, uuid.uuid4().hex[:26])
    yield lab
    lab.clear()


def running(lab: Node, script: str = "echo up; exec sleep 1000", **fields: Any) -> None:
    """A plan whose command is under way in a runner just started."""
    lab.plan(shell(script, workdir="/work"), **fields)
    lab.start()
    until(lambda: any(path.read_bytes() for path in lab.work.glob("attempts/*/steps/0/start")), "the command runs")


def test_a_plan_is_run_and_reported_and_nothing_is_left(lab: Node) -> None:
    lab.plan(
        shell("cat in; echo one > log; echo err >&2; id -u > /work/id", env={"A": "$B"}, workdir="/work"),
        shell('echo "$A" >> log', workdir="/work", env={"A": "$(B) $$"}),
        inputs=[{"path": "/work/in", "content": "given\n"}],
        outputs=[{"path": "/work/log", "url": f"{lab.files}/log"}],
    )
    report = lab.run()
    assert report.reason is None, report
    assert [(log.exit_code, log.stdout, log.stderr) for log in report.executors] == [(0, "given\n", "err\n"), (0, "", "")]
    assert (lab.files / "log").read_text() == "one\n$(B) $$\n"
    assert lab.leftovers() == []
    assert lab.spool.attempts() == {lab.attempt()}


def test_a_command_that_fails_is_told_with_exit_code_zero(lab: Node) -> None:
    lab.plan(shell("exit 3"))
    report = lab.run()
    assert (report.reason, report.executors[0].exit_code) == (Reason.EXIT, 3)
    assert lab.leftovers() == []


def test_one_of_two_runs_takes_it_and_the_other_does_nothing(lab: Node) -> None:
    lab.plan(shell("echo done", workdir="/work"))
    runners = [lab.start("run-1"), lab.start("run-2")]
    assert sorted(runner.code() for runner in runners) == [node.DONE, node.TAKEN], [runner.log for runner in runners]
    assert lab.leftovers() == []


def test_an_attempt_that_was_swept_is_not_run(lab: Node) -> None:
    assert lab.start().code() == node.NOTHING
    assert lab.spool.attempts() == set(), "its mark is of no use to anybody"
    assert lab.leftovers() == []


def test_other_users_of_the_node_see_nothing(lab: Node) -> None:
    running(lab)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in lab.work.iterdir()}
    assert set(modes.values()) == {0o700}, modes


def test_term_ends_it_in_order_and_takes_nothing(lab: Node) -> None:
    running(
        lab,
        "trap 'echo asked; echo half > out; exit 0' TERM; echo up; while :; do sleep 0.1; done",
        outputs=[{"path": "/work/out", "url": f"{lab.files}/out"}],
    )
    lab.runners[0].signal(signal.SIGTERM)
    assert lab.runners[0].code() == node.DONE
    report = lab.spool.report(lab.attempt())
    assert report is not None
    assert (report.reason, report.transient) == (Reason.LOST, True)
    assert report.executors[0].stdout == "up\nasked\n"
    assert not (lab.files / "out").exists()
    assert lab.leftovers() == []


def test_what_ignores_term_is_killed_after_the_grace(lab: Node) -> None:
    running(lab, "trap '' TERM; while :; do sleep 0.1; done")
    lab.runners[0].signal(signal.SIGTERM)
    assert lab.runners[0].code() == node.DONE
    report = lab.spool.report(lab.attempt())
    assert report is not None
    assert (report.reason, report.executors[0].exit_code) == (Reason.LOST, 137)
    assert lab.leftovers() == []


# -- runners that die ---------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_input() -> Iterator[str]:
    """A url whose bytes never come; stage-in hangs on it."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x"
        Silent.over.set()
        server.shutdown()


class Silent(socketserver.BaseRequestHandler):
    over = threading.Event()

    def handle(self) -> None:
        self.over.wait()


def staging(lab: Node, url: str) -> None:
    lab.plan(shell("true"), inputs=[{"path": "/work/in", "url": url}])
    lab.start()
    until(lambda: list(lab.work.glob("attempts/*/volume/work")), "stage-in has begun")


def reporting(lab: Node) -> None:
    """The executor has ended, and the spool is away."""
    lab.plan(shell("mkfifo gate; echo up > up; read line < gate", workdir="/work"), inputs=[{"path": "/work/in", "content": "x"}])
    lab.start()
    until(lambda: list(lab.work.glob("attempts/*/volume/work/up")), "the command runs")
    take_away(lab)
    volume = next(lab.work.glob("attempts/*/volume/work"))
    (volume / "gate").write_text("go\n")
    until(lambda: list(lab.work.glob("attempts/*/report.json")), "the report is there")


def take_away(lab: Node) -> None:
    (lab.home / "spool").rename(lab.home / "away")
    (lab.home / "spool").write_text("no directory")


def bring_back(lab: Node) -> None:
    (lab.home / "spool").unlink()
    (lab.home / "away").rename(lab.home / "spool")


class TestKilled:
    def sweep(self, lab: Node) -> None:
        assert lab.leftovers() != []
        assert node_sweep.sweep(Place(lab.work), lab.engine) == 1
        assert lab.leftovers() == []

    def test_while_it_stages(self, lab: Node, slow_input: str) -> None:
        staging(lab, slow_input)
        lab.runners[0].kill()
        self.sweep(lab)

    def test_while_a_command_runs(self, lab: Node) -> None:
        running(lab, "trap '' TERM; echo up; while :; do sleep 0.1; done")
        lab.runners[0].kill()
        assert len(lab.engine.survey()) == 1
        self.sweep(lab)

    def test_while_it_reports(self, lab: Node) -> None:
        reporting(lab)
        lab.runners[0].kill()
        self.sweep(lab)

    def test_the_next_runner_sweeps(self, lab: Node) -> None:
        running(lab)
        lab.runners[0].kill()
        lab.plan(shell("true"), number=2)
        assert lab.run("run-2", 2).reason is None
        assert lab.leftovers() == []

    def test_two_sweep_at_once_and_the_living_are_left_alone(self, lab: Node) -> None:
        running(lab)
        lab.plan(shell("echo up > /work/up; exec sleep 1000", workdir="/work"), number=2)
        lab.start("run-2", 2)
        until(lambda: list(lab.work.glob("attempts/*-2/volume/work/up")), "the second runs")
        lab.runners[0].kill()
        with ThreadPoolExecutor(4) as pool:
            swept = list(pool.map(lambda _: node_sweep.sweep(Place(lab.work), node_engine.connect(lab.site.work)), range(4)))
        assert sum(swept) == 1
        assert lab.engine.survey() == [f"{lab.task}-2-0"]
        assert lab.runners[1].process.poll() is None
        lab.runners[1].signal(signal.SIGTERM)
        assert lab.runners[1].code() == node.DONE
        assert lab.leftovers() == []

    def test_the_reaper_of_the_node_needs_nothing_but_docker(self, lab: Node) -> None:
        running(lab)
        reaper = lab.start(module="node_reaper", more={node.SITE: "", node.ATTEMPT: ""})
        lab.runners[0].kill()
        began = time.monotonic()
        until(lambda: lab.engine.survey() == [], "its containers are gone")
        assert time.monotonic() - began < 10
        reaper.signal(signal.SIGTERM)
        assert reaper.code() == 0
        lab.engine.wipe(lab.work)

    def test_a_container_that_its_daemon_made_too_late_goes_too(self, lab: Node) -> None:
        running(lab)
        lab.runners[0].kill()
        shutil.rmtree(next(lab.work.glob("attempts/*")))
        assert node_sweep.end(Place(lab.work), lab.engine) == 1
        assert lab.leftovers() == []

    def test_the_same_run_started_again_adopts_what_runs(self, lab: Node) -> None:
        lab.plan(
            shell("mkfifo gate; echo x >> count; echo up > up; read line < gate; cat count", workdir="/work"),
            outputs=[{"path": "/work/count", "url": f"{lab.files}/count"}],
        )
        lab.start()
        until(lambda: list(lab.work.glob("attempts/*/volume/work/up")), "the command runs")
        lab.runners[0].kill()
        cells = lab.engine.survey()
        again = lab.start()
        until(lambda: "node.began" in again.log, "the second begins")
        assert lab.engine.survey() == cells
        (next(lab.work.glob("attempts/*/volume/work")) / "gate").write_text("go\n")
        assert again.code() == node.DONE
        assert (lab.files / "count").read_text() == "x\n"
        assert lab.leftovers() == []

    def test_the_same_run_started_again_publishes_a_report_that_was_not_told(self, lab: Node) -> None:
        reporting(lab)
        lab.runners[0].kill()
        bring_back(lab)
        assert lab.run().reason is None
        assert lab.leftovers() == []

    def test_the_same_run_started_again_after_its_report_does_nothing(self, lab: Node) -> None:
        lab.plan(shell("echo x", workdir="/work"))
        report = lab.run()
        assert lab.run() == report
        assert lab.leftovers() == []


# -- a spool that is away -----------------------------------------------------------------------------------------------


def test_a_report_waits_for_the_spool(lab: Node) -> None:
    reporting(lab)
    until(lambda: "node.spool.away" in lab.runners[0].log, "it is missed")
    bring_back(lab)
    assert lab.runners[0].code() == node.DONE
    assert lab.spool.report(lab.attempt()) is not None
    assert lab.leftovers() == []


def test_term_ends_that_wait_soon(lab: Node) -> None:
    reporting(lab)
    began = time.monotonic()
    lab.runners[0].signal(signal.SIGTERM)
    assert lab.runners[0].code() == node.FAILED
    assert time.monotonic() - began < 15
    assert lab.engine.survey() == []


def test_a_spool_that_is_away_at_the_start(lab: Node) -> None:
    lab.plan(shell("true"))
    take_away(lab)
    lab.start()
    until(lambda: "node.spool.away" in lab.runners[0].log, "it is missed")
    assert lab.leftovers() == []
    bring_back(lab)
    assert lab.runners[0].code() == node.DONE


# -- what executors get and what they do not ----------------------------------------------------------------------------


def test_nothing_of_the_runner_reaches_an_executor(lab: Node) -> None:
    lab.plan(shell("env; ls -a /var/run /run; mount | grep -v overlay; cat /proc/1/environ"))
    report = lab.run(more={"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/abc", "SOME_PROXY": "of-the-runner"})
    said = report.executors[0].stdout or ""
    assert "PATH=" in said
    for secret in ("v2/credentials", "of-the-runner", "TES_", "docker.sock", RUN):
        assert secret not in said


def test_live_output_can_be_seen(lab: Node) -> None:
    running(lab, "echo up; echo err >&2; exec sleep 1000")
    until(lambda: (tails := lab.spool.tail(lab.attempt())) and tails.executors[0].stdout == "up\n" and tails.executors[0].stderr == "err\n", "its output shows")


def test_a_disk_that_others_have_filled(lab: Node) -> None:
    lab.plan(shell("true"), resources={"disk_gb": 10**8})
    report = lab.run()
    assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "DISK_FULL", True)
    assert "asks for 1e+08" in report.message
    assert lab.leftovers() == []


def test_a_node_whose_directory_cannot_be_made(lab: Node) -> None:
    lab.plan(shell("true"))
    lab.work.write_text("a file")
    report = lab.run()
    assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "ENGINE_ERROR", True)
    assert "node's directory for tasks" in report.message


@contextlib.contextmanager
def disk_of(lab: Node, size: str) -> Iterator[None]:
    """The node's directory is a disk of its own, of so many bytes."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    lab.work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", lab.work], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", lab.work], check=True)


def test_a_disk_without_room_for_anything(lab: Node) -> None:
    lab.plan(shell("true"))
    with disk_of(lab, "32k"):
        report = lab.run()
        assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "DISK_FULL", True), report
        assert lab.leftovers() == []


def test_a_task_that_fills_the_disk_is_told_so(lab: Node) -> None:
    lab.plan(shell("cat /dev/zero > big", workdir="/work"), outputs=[{"path": "/work/none", "url": f"{lab.files}/none"}])
    with disk_of(lab, "4m"):
        report = lab.run()
        assert (report.reason, report.executors[0].exit_code) == (Reason.EXIT, 1), report
        assert "No space left" in (report.executors[0].stderr or "")
        assert lab.leftovers() == []


EMPTY = '{"SchemaVersion": 2, "ArtifactName": "i", "ArtifactType": "container_image"}'
"""The report of a scan that has found nothing."""

VALUE = f"s3cr3t-{uuid.uuid4().hex}"
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1B2c3"


@pytest.fixture
def vault(lab: Node, httpserver: HTTPServer) -> dict[str, str]:
    """Secrets Manager, as far as a runner asks it; what the runner needs to find it."""
    lab.site = msgspec.structs.replace(lab.site, secrets={"db": ARN, "other": ARN.replace("db", "other")})
    body = {"ARN": ARN, "Name": "db", "SecretString": json.dumps({"password": VALUE})}
    httpserver.expect_request("/", method="POST", data=json.dumps({"SecretId": ARN})).respond_with_json(body)
    httpserver.expect_request("/", method="POST").respond_with_json({"__type": "AccessDeniedException", "Message": VALUE}, status=400)
    return {"AWS_ENDPOINT_URL_SECRETS_MANAGER": httpserver.url_for("/"), "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


class TestSecrets:
    def test_only_the_command_sees_it(self, lab: Node, vault: dict[str, str], docker_client: Any) -> None:
        script = 'echo "$PASSWORD" | md5sum > sum; mkfifo gate; echo up > up; read line < gate'
        lab.plan(shell(script, workdir="/work", env={"PASSWORD": "secret://db/password", "B": "b"}), secrets=("db",))
        lab.start(more=vault)
        until(lambda: list(lab.work.glob("attempts/*/volume/work/up")), "the command runs")
        volume = next(lab.work.glob("attempts/*/volume/work"))
        assert (volume / "sum").read_text().split()[0] == hashlib.md5(f"{VALUE}\n".encode()).hexdigest()
        assert VALUE not in str(docker_client.inspect_container(f"{lab.task}-1-0"))
        everything = subprocess.run(["grep", "-rl", "--devices=skip", VALUE, lab.home], check=False, capture_output=True, text=True)
        assert everything.stdout == ""
        (volume / "gate").write_text("go\n")
        assert lab.runners[0].code() == node.DONE
        report = lab.spool.report(lab.attempt())
        assert report is not None
        assert report.reason is None, report
        assert VALUE not in str(report)
        assert VALUE not in lab.runners[0].log
        assert lab.leftovers() == []

    def test_a_scanner_has_its_own_and_the_nodes_engine(self, lab: Node, vault: dict[str, str], docker_client: Any) -> None:
        """And what it says in its own words stays there."""
        lab.site = msgspec.structs.replace(lab.site, secrets={}, scan_secrets={"console": ARN})
        image = docker_client.inspect_image("tes-test/busybox")["Id"]
        write = f"echo '{EMPTY}' > {base.REPORT}"
        script = f'test -S /var/run/docker.sock && test "$(id -u)" = 0 && test "$PASSWORD" = {VALUE} && {write}'
        lab.plan(shell(script, env={"PASSWORD": "secret://console/password"}), findings=Findings("trivy", base.REPORT), tags={base.IMAGE_TAG: image})
        told = lab.run(more=vault)
        assert told.reason is None, told
        assert report.decode(told.executors[0].stdout or "").scanner == "trivy"
        assert VALUE not in str(told) + lab.runners[0].log
        assert lab.leftovers() == []

    @pytest.mark.parametrize(
        ("name", "code", "words"),
        [("other", "SECRET_DENIED", "AccessDeniedException"), ("db/none", "SECRET_NOT_FOUND", "no key"), ("gone", "SECRET_NOT_FOUND", "this site has none")],
    )
    def test_one_that_cannot_be_had(self, lab: Node, vault: dict[str, str], name: str, code: str, words: str) -> None:
        lab.plan(shell("true", env={"A": f"secret://{name}"}), secrets=("db", "other", "gone"), inputs=[{"path": "/work/in", "content": "x"}])
        report = lab.run(more=vault)
        assert (report.reason, report.code, report.transient) == (Reason.STAGING, code, False)
        assert report.message.startswith(f"/executors/0/env/A: the secret {name.partition('/')[0]}: ")
        assert words in report.message
        assert VALUE not in report.message + lab.runners[0].log
        assert lab.leftovers() == []


def test_a_gate_is_passed_before_anything_else(lab: Node) -> None:
    lab.plan(shell("true"), inputs=[{"path": "/work/in", "content": "x"}], gate=gates.gate("tes-test/busybox", gates.leaves(gates.report("HIGH"))))
    told = lab.run()
    assert (told.reason, told.code, told.executors) == (Reason.REJECTED, "SCAN_REFUSED", ())
    assert lab.leftovers() == []


@pytest.mark.s3
def test_spool_and_files_in_an_object_store(home: pathlib.Path) -> None:
    with object_servers.s3() as server:
        store = msgspec.structs.replace(server.settings, write=True)
        task = uuid.uuid4().hex[:26]
        lab = Node(home, task, spool=f"{server.url}/spool", spool_stores=(store,), access=Access(tries=2, first_delay=0.01))
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in server.variables.items():
                    patch.setenv(name, value)
                lab.plan(shell("echo one; echo two >&2"))
                assert sorted(lab.start(run, more=server.variables).code() for run in ("run-1", "run-2")) == [node.DONE, node.TAKEN]
                report = lab.spool.report(lab.attempt())
            assert report is not None
            assert (report.executors[0].stdout, report.executors[0].stderr) == ("one\n", "two\n")
            assert lab.leftovers() == []
        finally:
            lab.clear()
            server.remove()
