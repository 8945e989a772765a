"""The AWS Batch emulator with Docker and boto3: jobs really run, and really are lost."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from tests.contract import object_servers
from tests.emulators.aws_batch import roles
from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.aws_batch.world import Environment, Queue, Size, World

pytestmark = [pytest.mark.aws_batch, pytest.mark.docker]
ROOT = pathlib.Path(__file__).parents[2]
IMAGE = "tes-test/busybox"
SLEEP = "trap 'echo stopped; exit 9' TERM; echo started; sleep 600 & wait"
WORLD = World(
    environments=(
        Environment(name="spot-hosts", spot=True, hosts=1),
        Environment(name="regular-hosts", hosts=1, size=Size(vcpus=2, memory=1024, gpus=3)),
    ),
    queues=(Queue(name="spot", environments=("spot-hosts",)), Queue(name="regular", environments=("regular-hosts",))),
    stop=1.0,
    boot=0.0,
    second=0.01,
)
Submit = Callable[..., str]


@pytest.fixture
def emulator(docker_client: Any) -> Iterator[Emulator]:
    with Emulator(WORLD) as emulator:
        yield emulator
        assert emulator.endpoint.defects == []
    assert docker_client.containers(all=True, filters={"label": f"tes-emulator.aws-batch={emulator.id}"}) == []


@pytest.fixture
def batch(emulator: Emulator) -> Iterator[Any]:
    with contextlib.closing(emulator.client("batch")) as client:
        yield client


@pytest.fixture
def submit(batch: Any) -> Submit:
    return lambda command, **given: submitted(batch, command, **given)


def submitted(batch: Any, command: str, *, queue: str = "regular", image: str = IMAGE, properties: Any = None, **given: Any) -> str:
    """Registers a definition for a shell command, and submits a job of it; its id."""
    needs = {"VCPU": "1", "MEMORY": "64", **given.pop("needs", {})}
    container = {
        "image": image,
        "command": ["/bin/sh", "-c", command],
        "resourceRequirements": [{"type": kind, "value": value} for kind, value in needs.items()],
        **(properties or {}),
    }
    made = batch.register_job_definition(jobDefinitionName="runner", type="container", containerProperties=container)
    return str(batch.submit_job(jobName="job", jobQueue=queue, jobDefinition=made["jobDefinitionArn"], **given)["jobId"])


def described(batch: Any, job: str) -> Any:
    (found,) = batch.describe_jobs(jobs=[job])["jobs"]
    return found


def ended(emulator: Emulator, job: str) -> Job:
    return emulator.wait(job, "SUCCEEDED", "FAILED")


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_a_job_runs_and_every_state_after_the_first_is_told(emulator: Emulator, batch: Any, submit: Submit) -> None:
    overrides = {"environment": [{"name": "GREETING", "value": "hello"}]}
    job = submit("echo $GREETING $AWS_BATCH_JQ_NAME $AWS_BATCH_JOB_ID $AWS_BATCH_CE_NAME $AWS_BATCH_JOB_ATTEMPT; exit 3", containerOverrides=overrides)
    log = emulator.log(ended(emulator, job))
    assert log == f"hello regular {job} regular-hosts 1\n"
    found = described(batch, job)
    assert (found["status"], found["statusReason"], found["container"]["exitCode"]) == ("FAILED", "Essential container in task exited", 3)
    assert found["createdAt"] <= found["startedAt"] <= found["stoppedAt"]
    assert [attempt["container"]["exitCode"] for attempt in found["attempts"]] == [3]
    with contextlib.closing(emulator.client("sqs")) as sqs:
        events = [json.loads(message["Body"]) for message in sqs.receive_message(QueueUrl=emulator.events_url, MaxNumberOfMessages=10)["Messages"]]
    assert [event["detail"]["status"] for event in events] == ["PENDING", "RUNNABLE", "STARTING", "RUNNING", "FAILED"]
    assert events[-1]["detail"] == found


def test_volumes_of_the_host_are_mounted(emulator: Emulator, submit: Submit, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    volumes = [{"name": "work", "host": {"sourcePath": str(tmp_path)}}, {"name": "read", "host": {"sourcePath": str(tmp_path / "in")}}]
    points = [{"sourceVolume": "work", "containerPath": "/w"}, {"sourceVolume": "read", "containerPath": "/r", "readOnly": True}]
    job = submit("echo $$ > /w/out; ! touch /r/no", properties={"volumes": volumes, "mountPoints": points})
    assert ended(emulator, job).status == "SUCCEEDED"
    assert (tmp_path / "out").read_text() == "1\n"


def test_memory_is_limited_and_its_end_has_a_name(emulator: Emulator, batch: Any, submit: Submit) -> None:
    job = submit("tail /dev/zero", needs={"MEMORY": "16"})
    ended(emulator, job)
    container = described(batch, job)["container"]
    assert (container["exitCode"], container["reason"]) == (137, "OutOfMemoryError: Container killed due to memory usage")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"image": "localhost:1/none:1"}, "CannotPullContainerError: Error response from daemon: "),
        ({"properties": {"command": ["/no/such/program"]}}, "CannotStartContainerError: Error response from daemon: "),
    ],
)
def test_a_container_that_never_starts(emulator: Emulator, batch: Any, submit: Submit, given: dict[str, Any], reason: str) -> None:
    job = submit("true", **given)
    ended(emulator, job)
    found = described(batch, job)
    assert (found["status"], found["statusReason"], "exitCode" in found["container"]) == ("FAILED", "Task failed to start", False)
    assert found["container"]["reason"].startswith(reason)
    assert "startedAt" not in found


def test_a_host_takes_what_it_has_room_for(emulator: Emulator, submit: Submit) -> None:
    """Two cores, 1024 MiB."""
    first, second = submit(SLEEP), submit(SLEEP, needs={"MEMORY": "900"})
    third, fourth = submit(SLEEP, needs={"VCPU": "2"}), submit("true")
    emulator.wait(first, "RUNNING")
    emulator.wait(second, "RUNNING")
    emulator.wait(third, "RUNNABLE")
    emulator.wait(fourth, "RUNNABLE")
    emulator.bad_days.kill_runner(first)
    assert ended(emulator, first).now["exitCode"] == 137
    assert (emulator.job(third).status, emulator.job(fourth).status) == ("RUNNABLE", "RUNNABLE")  # the head of the queue holds up the rest
    emulator.bad_days.kill_runner(second)
    emulator.wait(third, "RUNNING")


def test_gpus_are_given_out_by_their_names(emulator: Emulator, submit: Submit) -> None:
    jobs = [submit("echo $NVIDIA_VISIBLE_DEVICES", needs={"GPU": str(number)}) for number in (1, 2)] + [submit("echo ${NVIDIA_VISIBLE_DEVICES-none}")]
    one, two, none = (emulator.log(ended(emulator, job)).strip().split(",") for job in jobs)
    assert (len(one), len(two), none) == (1, 2, ["none"])
    assert all(name.startswith("GPU-") for name in one + two)


def test_a_retry_strategy_is_followed(emulator: Emulator, batch: Any, submit: Submit) -> None:
    again = {"attempts": 3, "evaluateOnExit": [{"onExitCode": "4*", "action": "EXIT"}, {"onReason": "*", "action": "RETRY"}]}
    job = submit("exit 4$AWS_BATCH_JOB_ATTEMPT", retryStrategy=again)
    ended(emulator, job)
    assert [attempt["container"]["exitCode"] for attempt in described(batch, job)["attempts"]] == [41]
    job = submit("exit $AWS_BATCH_JOB_ATTEMPT", retryStrategy=again)
    ended(emulator, job)
    found = described(batch, job)
    assert [attempt["container"]["exitCode"] for attempt in found["attempts"]] == [1, 2, 3]
    assert found["container"]["exitCode"] == 3


# -- stopped -----------------------------------------------------------------------------------------------------------


def test_terminate_is_term_and_then_kill(emulator: Emulator, batch: Any, submit: Submit) -> None:
    hearing, deaf = submit(SLEEP), submit("echo started; trap '' TERM; while :; do sleep 1; done")
    for job in (hearing, deaf):
        emulator.wait(job, "RUNNING")
    assert batch.cancel_jobs(jobs=[hearing], reason="too late")["successful"] == [hearing]
    batch.terminate_jobs(jobs=[hearing, deaf], reason="by its owner")
    codes = [ended(emulator, job).now["exitCode"] for job in (hearing, deaf)]
    assert codes[1] == 137
    assert codes[0] in (9, 143, 137)  # TERM may come before the shell's trap
    for job in (hearing, deaf):
        found = described(batch, job)
        assert (found["status"], found["statusReason"], found["isTerminated"], found["isCancelled"]) == ("FAILED", "by its owner", True, False)


def test_an_attempt_that_takes_too_long_is_ended(emulator: Emulator, batch: Any, submit: Submit) -> None:
    job = submit(SLEEP, timeout={"attemptDurationSeconds": 60})  # 0.6 s of this world
    ended(emulator, job)
    found = described(batch, job)
    assert (found["status"], found["statusReason"], found["isTerminated"]) == ("FAILED", "Job attempt duration exceeded timeout", False)


# -- hosts -------------------------------------------------------------------------------------------------------------


def test_a_reclaimed_host_takes_everything_along(emulator: Emulator, docker_client: Any, batch: Any, submit: Submit, tmp_path: pathlib.Path) -> None:
    """What its jobs have started beside them, and their directories; a new host takes its place."""
    attempts = tmp_path / "attempts"
    (attempts / "t1-2" / "volume").mkdir(parents=True)
    (attempts / "t1-20").mkdir()
    siblings = []
    for directory in ("t1-2/volume", "t1-20"):
        made = docker_client.create_container(
            IMAGE, ["sleep", "600"], host_config=docker_client.create_host_config(binds=[f"{attempts / directory}:/v"], network_mode="none")
        )
        siblings.append(made["Id"])
        docker_client.start(made["Id"])
    try:
        variables = [{"name": "TES_NODE", "value": json.dumps({"work": str(tmp_path)})}, {"name": "TES_ATTEMPT", "value": "t1/2"}]
        job = submit(SLEEP, queue="spot", containerOverrides={"environment": variables})
        emulator.wait(job, "RUNNING")
        host = emulator.bad_days.reclaim()
        ended(emulator, job)
        found = described(batch, job)
        assert (found["status"], found["statusReason"]) == ("FAILED", f"Host EC2 (instance {host}) terminated.")
        assert "exitCode" not in found["container"]
        assert not (attempts / "t1-2").exists()
        left = [container["Id"] for container in docker_client.containers(all=True) if container["Id"] in siblings]
        assert left == siblings[1:]
        assert ended(emulator, submit("true", queue="spot")).status == "SUCCEEDED"
        assert host not in emulator.account.fleet.hosts
    finally:
        for sibling in siblings:
            with contextlib.suppress(Exception):
                docker_client.remove_container(sibling, force=True)


def test_a_notice_lets_jobs_end_in_peace_or_be_told(emulator: Emulator, submit: Submit, tmp_path: pathlib.Path) -> None:
    volumes = {"volumes": [{"name": "v", "host": {"sourcePath": str(tmp_path)}}], "mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]}
    peaceful = submit("while [ ! -e /v/go ]; do sleep 0.05; done", queue="spot", properties=volumes)
    emulator.wait(peaceful, "RUNNING")
    host = emulator.bad_days.reclaim(notice=3600.0)
    (tmp_path / "go").touch()
    assert ended(emulator, peaceful).status == "SUCCEEDED"
    assert emulator.account.fleet.hosts[host].draining


def test_a_host_that_is_shut_down_sends_term_first(emulator: Emulator, submit: Submit, tmp_path: pathlib.Path) -> None:
    volumes = {"volumes": [{"name": "v", "host": {"sourcePath": str(tmp_path)}}], "mountPoints": [{"sourceVolume": "v", "containerPath": "/v"}]}
    job = submit("trap 'echo heard > /v/term; exit 0' TERM; touch /v/ready; sleep 600 & wait", queue="spot", properties=volumes)
    emulator.wait(job, "RUNNING")
    emulator.account.wait((tmp_path / "ready").exists)
    host = emulator.bad_days.reclaim(notice=0.5, drain=True)
    assert ended(emulator, job).reason == f"Host EC2 (instance {host}) terminated."
    assert (tmp_path / "term").read_text() == "heard\n"


def test_a_host_that_vanishes_is_noticed_late(emulator: Emulator, docker_client: Any, submit: Submit) -> None:
    job = submit(SLEEP, queue="spot")
    emulator.wait(job, "RUNNING")
    emulator.bad_days.vanish(told=1.0)
    assert docker_client.containers(filters={"label": f"tes-emulator.aws-batch={emulator.id}"}) == []
    assert emulator.job(job).status == "RUNNING"
    assert "Host EC2" in ended(emulator, job).reason


def test_the_hosts_reaper_runs_beside_the_jobs(tmp_path: pathlib.Path) -> None:
    """The real one: an attempt whose runner does not live is removed."""
    left = tmp_path / "attempts" / "t1-2"
    left.mkdir(parents=True)
    with Emulator(WORLD, reaper=str(tmp_path)) as emulator:
        emulator.account.wait(lambda: not left.exists())
        assert emulator._reaper._process is not None
    assert emulator._reaper._process.returncode == 0


def test_a_container_may_be_stopped_late(emulator: Emulator, batch: Any, submit: Submit) -> None:
    emulator.bad_days.slow_terminate(1.0)
    job = submit(SLEEP)
    emulator.wait(job, "RUNNING")
    batch.terminate_job(jobId=job, reason="stop")
    found = described(batch, job)
    assert (found["status"], found["isTerminated"]) == ("RUNNING", True)
    assert ended(emulator, job).reason == "stop"


# -- metadata ----------------------------------------------------------------------------------------------------------

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network namespace")
ASK = "printf '%s %s HTTP/1.0\\r\\n%s\\r\\n\\r\\n' {method} {path} \"{header}\" | nc -w 3 {address} {port} 2>/dev/null || echo nothing"
TTL = "X-aws-ec2-metadata-token-ttl-seconds: 60"


def asking(address: str, path: str, method: str = "GET", header: str = "Accept: */*", port: str = "80") -> str:
    """A shell command; busybox's wget needs a resolver, its nc does not."""
    return ASK.format(address=address, path=path, method=method, header=header, port=port)


@pytest.fixture
def networked(docker_client: Any) -> Iterator[Emulator]:
    """An emulator whose metadata services have their real addresses."""
    with Emulator(WORLD, metadata="network") as emulator:
        yield emulator
        assert emulator.endpoint.defects == []


@root
def test_a_job_has_the_credentials_of_its_role(networked: Emulator) -> None:
    with contextlib.closing(networked.client("batch")) as batch:
        job = submitted(
            batch, asking("169.254.170.2", "$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), properties={"jobRoleArn": "arn:aws:iam::123456789012:role/tasks"}
        )
        answer = networked.log(ended(networked, job))
    given = json.loads(answer.partition("\r\n\r\n")[2])
    assert given["RoleArn"] == "arn:aws:iam::123456789012:role/tasks"
    assert given.keys() >= {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}


@pytest.mark.usefixtures("docker_client")
def test_where_the_address_cannot_be_had_the_credentials_are_on_loopback() -> None:
    """And a token file keeps others off."""
    with Emulator(WORLD, metadata="loopback") as emulator, contextlib.closing(emulator.client("batch")) as batch:
        port = emulator.roles.address.rpartition(":")[2]
        path = "${AWS_CONTAINER_CREDENTIALS_FULL_URI#http://*/}"
        header = "Authorization: $(cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)"
        command = "; ".join(asking("127.0.0.1", f"/{path}", header=one, port=port) for one in (header, "Authorization: guess"))
        log = emulator.log(ended(emulator, submitted(batch, command, properties={"jobRoleArn": "arn:aws:iam::123456789012:role/tasks"})))
        assert '"RoleArn": "arn:aws:iam::123456789012:role/tasks"' in log.partition("401 Unauthorized")[0]
        assert "401 Unauthorized" in log


@root
@pytest.mark.s3
def test_the_filers_library_takes_credentials_from_the_role_and_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """obstore reads AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, then asks instance metadata; the credentials are real ones of the S3 server."""
    import obstore
    from obstore.store import S3Store

    role = "arn:aws:iam::123456789012:role/tasks"
    with object_servers.s3() as server:
        keys = roles.S3(str(server.settings.endpoint), server.variables["TEST_S3_KEY"], server.variables["TEST_S3_SECRET"])
        with Emulator(WORLD, metadata="network", s3=keys) as emulator:
            variables = emulator.roles.variables(role)
            for name in variables:
                monkeypatch.setenv(name, variables[name])
            for given in (role, "arn:aws:iam::123456789012:role/tes-hosts"):
                store = S3Store(server.bucket, config={"endpoint": keys.endpoint, "region": "us-east-1"}, client_options={"allow_http": True})
                obstore.put(store, "key", b"value")
                assert bytes(obstore.get(store, "key").bytes()) == b"value"
                assert set(emulator.roles.given) == {given}
                emulator.roles.given.clear()
                monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", raising=False)


@root
def test_a_container_on_the_bridge_reaches_neither_instance_metadata_nor_the_role(networked: Emulator, docker_client: Any) -> None:
    """On the host's network both answer; on the bridge the endpoint of roles does, but nobody told its secret path, and instance metadata is too far."""

    def ask(network: str, command: str) -> str:
        container = docker_client.create_container(IMAGE, ["sh", "-c", command], host_config=docker_client.create_host_config(network_mode=network))["Id"]
        try:
            docker_client.start(container)
            docker_client.wait(container)
            return str(docker_client.logs(container).decode())
        finally:
            docker_client.remove_container(container, force=True)

    token = asking("169.254.169.254", "/latest/api/token", "PUT", TTL)
    assert "200 OK" in ask("host", token)
    assert ask("bridge", token) == "nothing\n"
    assert "401 Unauthorized" in ask("host", asking("169.254.169.254", "/latest/meta-data/instance-id"))
    guess = asking("169.254.170.2", "/v2/credentials/")
    assert "404 Not Found" in ask("host", guess)
    assert "404 Not Found" in ask("bridge", guess)
    assert networked.roles.given == []


@root
def test_nothing_of_the_network_is_left() -> None:
    for _ in range(2):
        with Emulator(WORLD, metadata="network"):
            assert pathlib.Path("/sys/class/net/tes-host0").exists()
        assert not pathlib.Path("/sys/class/net/tes-host0").exists()


# -- by hand -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_hand() -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`python -m tests.emulators.aws_batch`, and the environment that it prints."""
    command = [sys.executable, "-m", "tests.emulators.aws_batch", "--hosts", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        told: dict[str, str] = {}
        for line in process.stdout:
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                told[name] = value
            elif "/_emulator/mend" in line:
                break
        try:
            yield process, told
        finally:
            process.kill()


def started(told: dict[str, str]) -> str:
    """A job that runs in the emulator of this environment; its id."""
    keys = {"aws_access_key_id": told["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": told["AWS_SECRET_ACCESS_KEY"], "region_name": told["AWS_REGION"]}
    with contextlib.closing(boto3.client("batch", endpoint_url=told["AWS_ENDPOINT_URL_BATCH"], **keys)) as batch:
        job = submitted(batch, SLEEP)
        end = time.monotonic() + 60
        while described(batch, job)["status"] != "RUNNING":
            assert time.monotonic() < end
            time.sleep(0.05)
        return job


def containers_of(docker_client: Any, job: str) -> list[Any]:
    return [found for found in docker_client.containers(all=True) if any(job in name for name in found["Names"])]


def test_by_hand_it_prints_its_environment_and_stops_at_once(docker_client: Any) -> None:
    with by_hand() as (process, told):
        job = started(told)
        assert len(containers_of(docker_client, job)) == 1
        process.terminate()
        assert process.wait(60) == 0
    assert containers_of(docker_client, job) == []


def test_what_a_killed_emulator_left_the_next_one_removes(docker_client: Any) -> None:
    with by_hand() as (process, told):
        job = started(told)
        process.kill()
        process.wait(60)
    assert len(containers_of(docker_client, job)) == 1
    with Emulator(WORLD) as emulator, contextlib.closing(emulator.client("batch")) as batch:
        assert ended(emulator, submitted(batch, "true")).status == "SUCCEEDED"
        assert containers_of(docker_client, job) == []
