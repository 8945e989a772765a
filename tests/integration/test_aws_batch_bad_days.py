"""What goes wrong on AWS Batch, with real runners and containers: each fault is made by the emulator, on command."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tes_server.backends.aws_batch.driver import Times
from tes_server.backends.aws_batch.site import Site
from tes_server.control.service import new_id
from tes_server.model import run
from tes_server.model.run import Handle, Observation, Phase, Reason, Report
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Policy
from tes_server.runner import node
from tests import server_image
from tests.clock import utc
from tests.contract.backend_contract import Driven
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import World
from tests.guards import LOOPBACK
from tests.integration import aws_lab
from tests.integration.aws_lab import Lab
from tests.integration.conftest import unreachable
from tests.integration.doors import doors

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker, pytest.mark.s3]

IMAGE = "tes-test/busybox"
SMALL = {"cpu_cores": 0.5, "ram_gb": 0.05}
SPOT = {**SMALL, "preemptible": True}
UP = "echo up; exec sleep 1000"
DEAF = "trap '' TERM; echo up; while :; do sleep 0.2; done"
PASSWORD = "correct-horse-battery"  # of nothing
WORLD = World(boot=0.0, stop=10.0, second=0.05, secrets={"db": f'{{"password": "{PASSWORD}"}}', "plain": PASSWORD})


@pytest.fixture(scope="module")
def lab(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with aws_lab.lab(tmp_path_factory.mktemp("host"), server_image.find(), WORLD, reaper=True, metadata="loopback") as made:
        yield made
        assert made.emulator.endpoint.defects == []


class Bench:
    """A backend with a site of its own on the lab, and what tests look at behind its back."""

    def __init__(self, lab: Lab, files: pathlib.Path, docker: Any, **options: Any) -> None:
        self.lab = lab
        self.files = files
        self.docker = docker
        (files / "live").mkdir()
        (files / "live").chmod(0o777)
        site: Callable[[Site], Site] = options.pop("site", lambda site: site)
        secrets = {name: lab.emulator.secrets.arn(name) for name in (*WORLD.secrets, "missing")}
        self.site = site(lab.site(files, secrets=secrets))
        self.backend = lab.backend(self.site, **{"times": Times(poll=0.3, sweep=600.0), **options})
        self.driven = Driven(self.backend, Policy(sites=Sites(roots=(str(files),), guard=LOOPBACK), live_mounts=(str(files / "live"),)), IMAGE)

    def start(self, *scripts: str | dict[str, Any], **fields: Any) -> Handle:
        """A task that asks for little."""
        executors = [self.driven.executor(script) if isinstance(script, str) else script for script in scripts]
        return self.driven.start(*executors, **{"resources": SMALL, **fields})

    @property
    def live(self) -> list[dict[str, Any]]:
        """An input by which commands write to `files/live` at once."""
        return [{"path": "/live", "url": f"file://{self.files}/live", "type": "DIRECTORY"}]

    def up(self, handle: Handle, number: int = 0) -> None:
        """Until an executor has said so."""

        def said(_: Observation) -> bool:
            tails = self.backend.tail([handle]).get(handle)
            return tails is not None and len(tails.executors) > number and (tails.executors[number].stdout or "").startswith("up\n")

        self.driven.until(handle, said)

    def ended(self, handle: Handle) -> Observation | Report:
        """The end of an attempt: its report, or what is known without one. Nothing of it runs any more."""
        seen = self.driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
        assert self.containers(handle) == [], "the end was told before it was one"
        return seen.report or seen

    def containers(self, handle: Handle) -> list[Any]:
        """Of the attempt's executors."""
        return list(self.docker.containers(all=True, filters={"label": f"{node.LABEL}={handle.name}"}))

    def jobs(self, handle: Handle) -> list[Job]:
        """All of an attempt, in the order of their submission."""
        with self.lab.emulator.account.lock:
            return [job for job in self.lab.emulator.account.jobs.values() if job.name.endswith(f"_{handle.name}")]

    def runner(self, handle: Handle) -> dict[str, Any]:
        """Of the attempt's one job, as Docker tells of it."""
        (found,) = [one for one in self.docker.containers() if any(f"-{handle.ref}-" in name for name in one["Names"])]
        inspected: dict[str, Any] = self.docker.inspect_container(found["Id"])
        return inspected

    def spooled(self, handle: Handle) -> bytes:
        """All that the spool holds of an attempt."""
        return b"\n".join(self.lab.s3.objects(f"spool/{run.task_of(handle.name)}/").values())

    def close(self) -> None:
        self.lab.emulator.bad_days.mend()
        self.backend.cancel(list(self.backend.survey()))
        for handle in self.backend.survey():
            self.driven.until(handle, lambda seen: seen.phase in (Phase.ENDED, Phase.GONE))
        self.backend.close()


@pytest.fixture
def benches(lab: Lab, docker_client: Any, tmp_path: pathlib.Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        files = tmp_path / f"files-{len(made)}"
        files.mkdir()
        made.append(Bench(lab, files, docker_client, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(benches: Callable[..., Bench]) -> Bench:
    return benches()


class TestHosts:
    @pytest.mark.parametrize("notice", [{}, {"notice": 8.0, "drain": True}])
    def test_reclaimed_while_a_command_runs(self, bench: Bench, lab: Lab, notice: dict[str, Any]) -> None:
        """The next attempt of the task goes to hosts that nobody reclaims."""
        task = new_id(utc())
        first = bench.start("echo up; echo ran >> /live/ran; sleep 1000", inputs=bench.live, resources=SPOT, task_id=task)
        bench.up(first)
        host = lab.emulator.bad_days.reclaim(**notice)
        seen = bench.ended(first)
        assert (seen.reason, seen.code, seen.transient) == (Reason.PREEMPTED, "PREEMPTED", True)
        assert host in seen.message
        if notice:
            assert isinstance(seen, Report), "there was time for one"
            assert [(log.stdout, log.exit_code) for log in seen.executors] == [("up\n", 143)]
        second = bench.start("echo ran >> /live/ran", inputs=bench.live, resources=SPOT, task_id=task, attempt=2)
        assert bench.driven.end(second).reason is None
        assert [job.queue for handle in (first, second) for job in bench.jobs(handle)] == ["spot", "regular"]
        assert (bench.files / "live" / "ran").read_text() == "ran\nran\n"

    def test_gone_without_a_word(self, bench: Bench, lab: Lab) -> None:
        """AWS Batch notices later; until then it is said to run."""
        handle = bench.start(UP, resources=SPOT)
        bench.up(handle)
        lab.emulator.bad_days.vanish(told=2.0)
        assert bench.backend.observe([handle])[handle].phase is Phase.RUNNING
        seen = bench.ended(handle)
        assert (seen.reason, seen.transient) == (Reason.PREEMPTED, True)


class TestTwoJobs:
    def test_the_command_runs_once(self, bench: Bench, lab: Lab) -> None:
        """The answer of SubmitJob was lost, and botocore sent it again."""
        lab.emulator.bad_days.lose_answers()
        handle = bench.start("echo ran >> /live/ran", inputs=bench.live)
        report = bench.driven.end(handle)
        assert [log.exit_code for log in report.executors] == [0]
        ends = [lab.emulator.wait(job.id, "SUCCEEDED", "FAILED").now["exitCode"] for job in bench.jobs(handle)]
        assert sorted(ends) == [node.DONE, node.TAKEN]
        assert (bench.files / "live" / "ran").read_text() == "ran\n"

    def test_both_are_ended(self, bench: Bench, lab: Lab) -> None:
        lab.emulator.bad_days.lose_answers()
        handle = bench.start(UP)
        bench.up(handle)
        bench.backend.cancel([handle])
        assert bench.ended(handle).reason is Reason.CANCELED
        for job in bench.jobs(handle):
            assert lab.emulator.wait(job.id, "FAILED").now.get("exitCode") in (None, node.DONE, node.TAKEN, node.FAILED, 143)


class TestRunner:
    @pytest.mark.parametrize("canceled", [False, True])
    def test_killed_while_a_command_runs(self, bench: Bench, lab: Lab, canceled: bool) -> None:
        """The host's reaper ends the command; only then is the end told."""
        handle = bench.start(DEAF)
        bench.up(handle)
        if canceled:
            lab.emulator.bad_days.slow_terminate(60.0)
            bench.backend.cancel([handle])
        lab.emulator.bad_days.kill_runner(handle.ref)
        lab.emulator.wait(handle.ref, "FAILED")
        seen = bench.ended(handle)
        assert seen.reason is (Reason.CANCELED if canceled else Reason.LOST)
        if not canceled:
            assert seen.transient
            assert "exit code 137" in seen.message
            assert "/aws/batch/job" in seen.message

    def test_its_image_cannot_be_pulled(self, benches: Callable[..., Bench]) -> None:
        bench = benches(site=lambda site: msgspec.structs.replace(site, image="localhost:1/none:1"))
        seen = bench.ended(bench.start("true"))
        assert (seen.reason, seen.code, seen.transient) == (Reason.BACKEND, "ENGINE_ERROR", True)
        assert "the host cannot pull this server's own image: CannotPullContainerError" in seen.message

    def test_it_hangs(self, benches: Callable[..., Bench], lab: Lab) -> None:
        """AWS Batch's own time-out ends a job whose outputs never come to an end. 60 s of it are 3 here."""
        bench = benches(site=lambda site: msgspec.structs.replace(site, save_seconds=1.0))
        with doors("127.0.0.1") as sink:
            url = f"http://127.0.0.1:{sink.server_port}/slow"
            handle = bench.start(
                {**bench.driven.executor("echo out > /work/out"), "workdir": "/work"},
                inputs=[{"path": "/work/in", "url": url}],
                resources={**SMALL, "backend_parameters": {"max_runtime": "10s"}},
            )
            seen = bench.ended(handle)
        assert (seen.reason, seen.code) == (Reason.TIMEOUT, "TIMEOUT")
        assert "Job attempt duration exceeded timeout" in seen.message


class TestCanceled:
    """In each phase; when it is told, nothing runs any more."""

    def test_while_it_waits_for_a_host(self, bench: Bench, lab: Lab) -> None:
        lab.emulator.bad_days.hold("regular")
        handle = bench.start("true")
        lab.emulator.wait(handle.ref, "RUNNABLE")
        bench.backend.cancel([handle])
        seen = bench.ended(handle)
        assert (seen.reason, seen.code) == (Reason.CANCELED, "CANCELED")
        assert bench.jobs(handle)[0].started is None

    def test_while_its_runner_is_started(self, bench: Bench, lab: Lab) -> None:
        handle = bench.start(UP)
        lab.emulator.wait(handle.ref, "STARTING", "RUNNING")
        bench.backend.cancel([handle])
        assert bench.ended(handle).reason is Reason.CANCELED

    def test_while_inputs_come(self, bench: Bench) -> None:
        with doors("127.0.0.1") as source:
            handle = bench.start("true", inputs=[{"path": "/work/in", "url": f"http://127.0.0.1:{source.server_port}/slow"}])
            assert source.knocked.wait(60)
            bench.backend.cancel([handle])
            seen = bench.ended(handle)
        assert seen.reason is Reason.CANCELED

    def test_while_a_command_runs_that_does_not_listen(self, bench: Bench) -> None:
        handle = bench.start(DEAF, "echo never")
        bench.up(handle)
        bench.backend.cancel([handle])
        seen = bench.ended(handle)
        assert isinstance(seen, Report)
        assert (seen.reason, [(log.stdout, log.exit_code) for log in seen.executors]) == (Reason.CANCELED, [("up\n", 137)])


class TestTasks:
    def test_an_image_that_is_nowhere(self, bench: Bench) -> None:
        """Nothing is begun of which the end cannot come."""
        handle = bench.start("echo ran", {"image": "localhost:1/none:1", "command": ["true"]})
        report = bench.driven.end(handle)
        assert (report.reason, report.executors) == (Reason.IMAGE, ())
        assert "localhost:1/none:1" in report.message

    def test_more_disk_than_the_host_has(self, bench: Bench) -> None:
        report = bench.driven.end(bench.start("true", resources={**SMALL, "disk_gb": 1e6}))
        assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "DISK_FULL", True)
        assert "the task asks for 1e+06" in report.message

    def test_more_memory_than_it_asked_for(self, bench: Bench) -> None:
        report = bench.driven.end(bench.start("echo before; exec tail /dev/zero"))
        assert (report.reason, report.executors[0].exit_code, report.executors[0].stdout) == (Reason.OOM, 137, "before\n")


class TestSecrets:
    def test_only_the_command_sees_them(self, bench: Bench, lab: Lab) -> None:
        script = 'test "$PASSWORD" = "$(echo correct)-horse-battery" && test "$WHOLE" = "$PASSWORD" && echo up; exec sleep 1000'
        handle = bench.start({**bench.driven.executor(script), "env": {"PASSWORD": "secret://db/password", "WHOLE": "secret://plain"}})
        bench.up(handle)
        seen = [str(bench.runner(handle)), *(path.read_text(errors="replace") for path in lab.work.rglob("*") if path.is_file() and "bin" not in path.parts)]
        bench.backend.cancel([handle])
        report = bench.ended(handle)
        (job,) = bench.jobs(handle)
        seen += [str(report), str(job.describe()), str(job.definition), lab.emulator.log(job), bench.spooled(handle).decode()]
        assert all(seen[-5:]), "there was something to look at"
        assert not any(PASSWORD in text for text in seen)

    def test_one_that_is_missing(self, bench: Bench) -> None:
        handle = bench.start({**bench.driven.executor("true"), "env": {"A": "secret://missing"}})
        report = bench.driven.end(handle)
        assert (report.code, report.executors) == ("SECRET_NOT_FOUND", ())
        assert report.message.startswith("/executors/0/env/A: the secret missing: ")


class TestCredentials:
    """On a host of AWS each runner has its role, and each executor nothing."""

    ASK = "printf '%s %s HTTP/1.0\\r\\n%s\\r\\n\\r\\n' {method} {path} '{header}' | nc -w 2 {address} 80 2>/dev/null | head -n 1 || true"

    @pytest.fixture
    def lab(self, docker_client: Any, tmp_path: pathlib.Path) -> Iterator[Lab]:
        """With the real addresses: there is one place of them on a machine."""
        if os.geteuid() != 0:
            unreachable("a network namespace", "this user is not root")
        with aws_lab.lab(tmp_path / "host", server_image.find(), WORLD, metadata="network") as made:
            yield made

    def test_executors_reach_neither_the_role_nor_the_host(self, bench: Bench, lab: Lab) -> None:
        token = self.ASK.format(method="PUT", path="/latest/api/token", header="X-aws-ec2-metadata-token-ttl-seconds: 60", address="169.254.169.254")
        guess = self.ASK.format(method="GET", path="/v2/credentials/", header="Accept: */*", address="169.254.170.2")
        script = f"echo up; env; cat /proc/*/environ; {token}; echo asked; {guess}; ls /var/run/docker.sock; exec sleep 1000"
        handle = bench.start(script)
        bench.driven.until(handle, lambda _: bool(tails := bench.backend.tail([handle])) and "404" in (tails[handle].executors[0].stdout or ""))
        told = bench.backend.tail([handle])[handle].executors[0].stdout or ""
        variables = bench.runner(handle)["Config"]["Env"]
        (path,) = [value.partition("=")[2] for value in variables if value.startswith("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=")]
        assert path not in told
        assert "AWS_" not in told
        assert "TES_NODE" not in told
        assert "docker.sock" not in told
        assert "HTTP/1.0 200" not in told
        assert "404 Not Found" in told.partition("asked")[2], "the endpoint of roles answers, and knows no such path"
        assert aws_lab.ROLE in lab.emulator.roles.given, "the runner has its role by it"
