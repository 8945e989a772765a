"""Plans -> AWS Batch jobs, as whole objects, each checked against the SDK's own model. `pytest tests/golden --update-golden` rewrites them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import botocore.session
import botocore.validate
import msgspec
import pytest

from tes_server.backends.aws_batch import definition, render
from tes_server.backends.aws_batch.site import Mount, Queues, Role, Site
from tes_server.filer.manifest import Access, Storage
from tes_server.model import views
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.objects import rule_of
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Capabilities, Policy, Values
from tes_server.plan.steps import Findings, Plan
from tes_server.runner.node import NodeSite

HERE = pathlib.Path(__file__).parent
SPOOL = Storage(url="s3://spool", write=True)
PLAIN = Site(
    server="golden",
    queues=Queues(regular="regular", spot="spot"),
    node=NodeSite(spool="s3://spool/tes", spool_stores=(SPOOL,), run=("AWS_BATCH_JOB_ID",)),
    image="registry.example/tes-server:1",
)
FULL = msgspec.structs.replace(
    PLAIN,
    node=msgspec.structs.replace(
        PLAIN.node, access=Access(roots=("/reference",)), secrets={"TOKEN": "arn:aws:secretsmanager:x:1:secret:token"}, grace=20.0, work="/scratch/tes"
    ),
    chosen={"big": Queues(regular="big-regular", spot="big-spot")},
    job_role="arn:aws:iam::123456789012:role/tasks",
    execution_role="arn:aws:iam::123456789012:role/execution",
    roles=(
        Role(arn="arn:aws:iam::123456789012:role/lab", owners=("* @ lab",)),
        Role(arn="arn:aws:iam::123456789012:role/cohort", outputs=("s3://data/cohort",)),
    ),
    environment={"AWS_REGION": "eu-central-1"},
    mounts=(Mount(path="/reference"), Mount(path="/efs", read_only=False)),
    share="owner",
    priorities={"urgent": 900},
    tag_tags=("project", "cost centre"),
    log_group="/tes/runners",
)
POLICY = Policy(sites=Sites(roots=("/reference",), stores=(rule_of("s3://data", write=True),)), default_max_runtime=0.0)
CAPABILITIES = Capabilities(parameters={"queue": Values(choices=("big",)), "priority": Values(choices=("urgent",))}, secrets=("TOKEN",))
WHOLE: dict[str, Any] = {
    "executors": [
        {"image": "a", "command": ["one"], "stdout": "/work/out", "env": {"KEY": "secret://TOKEN/key"}},
        {"image": "b@sha256:" + "0" * 64, "command": ["two"]},
        {"image": "a", "command": ["three"]},
    ],
    "inputs": [{"path": "/work/in", "url": "s3://data/in"}],
    "outputs": [{"path": "/work/out", "url": "s3://data/out"}],
    "tags": {"project": "Génome 7", "cost centre": "a/b", "other": "x"},
    "resources": {
        "cpu_cores": 16,
        "ram_gb": 64,
        "disk_gb": 500,
        "preemptible": True,
        "backend_parameters": {"gpus": "2", "queue": "big", "priority": "urgent", "max_runtime": "90m", "spot_attempts": "2"},
    },
}
MODEL = botocore.session.get_session().get_service_model("batch")


def plan_of(task: dict[str, Any], attempt: int = 1, owner: str = "Ann @ lab") -> Plan:
    decoded = views.with_types(msgspec.convert(task, Task))
    return compiler.compile_task(decoded, "0123456789abcdefghjkmnpqrs", attempt, owner, POLICY, CAPABILITIES).plan


def rendered(task: dict[str, Any], site: Site, attempt: int = 1, owner: str = "Ann @ lab") -> dict[str, Any]:
    body: dict[str, Any] = json.loads(render.render(plan_of(task, attempt, owner), site).body)
    return body


def compare(name: str, body: dict[str, Any], request: pytest.FixtureRequest) -> None:
    got = json.dumps(body, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    file = HERE / "aws_jobs" / f"{name}.json"
    if request.config.getoption("--update-golden"):
        file.write_text(got)
    assert got == file.read_text()


def check(body: dict[str, Any]) -> None:
    """The SDK itself would send it."""
    for operation, asked in (("RegisterJobDefinition", body["definition"]), ("SubmitJob", {**body["request"], "jobDefinition": "arn"})):
        shape = MODEL.operation_model(operation).input_shape
        faults = botocore.validate.ParamValidator().validate(asked, shape)
        assert not faults.has_errors(), faults.generate_report()


@pytest.mark.parametrize(
    ("name", "task", "site"),
    [
        ("hello", {"executors": [{"image": "alpine", "command": ["echo", "hello"]}]}, PLAIN),
        ("everything", WHOLE, FULL),
    ],
)
def test_job(name: str, task: dict[str, Any], site: Site, request: pytest.FixtureRequest) -> None:
    body = rendered(task, site)
    check(body)
    compare(name, body, request)


def test_a_scan(request: pytest.FixtureRequest) -> None:
    """What a task is, with a plan that says whose report there is to read, and secrets that tasks do not have."""
    site = msgspec.structs.replace(FULL, node=msgspec.structs.replace(FULL.node, scan_secrets={"CONSOLE": "arn:aws:secretsmanager:x:1:secret:prisma"}))
    capable = msgspec.structs.replace(CAPABILITIES, scan_secrets=("CONSOLE",), engine_socket=True)
    task = msgspec.convert({"executors": [{"image": "s@sha256:" + "1" * 64, "command": ["scan"], "env": {"P": "secret://CONSOLE/password"}}]}, Task)
    findings = Findings("twistcli", "/scan/report.json")
    plan = compiler.compile_task(task, "0123456789abcdefghjkmnpqrs", 1, "tes-server.scan", POLICY, capable, findings=findings).plan
    body = json.loads(render.render(plan, site).body)
    check(body)
    compare("scan", body, request)


def test_limits_of_the_service() -> None:
    body = rendered(WHOLE, FULL)
    assert len(json.dumps(body["definition"])) < definition.LARGEST
    assert len(json.dumps(body["request"])) < 30 * 1024


def test_many_tasks_have_one_definition() -> None:
    """One per role; nothing of a task is in it."""
    first = rendered(WHOLE, FULL)["definition"]
    other = {**WHOLE, "executors": [{"image": "z", "command": ["other"]}], "resources": {"cpu_cores": 1}, "tags": {}}
    assert rendered(other, FULL, attempt=7)["definition"] == first
    assert rendered(other, FULL, owner="Bob")["definition"]["jobDefinitionName"] != first["jobDefinitionName"]


def test_sixteen_cores_reserve_sixteen() -> None:
    """Whatever the number of executors: they run one after another within the same limits."""
    asked = rendered(WHOLE, FULL)["request"]["containerOverrides"]["resourceRequirements"]
    assert {part["type"]: int(part["value"]) for part in asked} == {"VCPU": 16, "MEMORY": 61036 + 256, "GPU": 2}


@pytest.mark.parametrize(
    ("resources", "attempt", "queue"),
    [
        ({}, 1, "regular"),
        ({"preemptible": True}, 1, "spot"),
        ({"preemptible": True}, 2, "regular"),
        ({"preemptible": True, "backend_parameters": {"spot_attempts": "2"}}, 2, "spot"),
        ({"preemptible": True, "backend_parameters": {"queue": "big"}}, 1, "big-spot"),
        ({"zones": ["nowhere", "big"]}, 1, "big-regular"),
    ],
)
def test_spot_first_then_on_demand(resources: dict[str, Any], attempt: int, queue: str) -> None:
    task = {"executors": [{"image": "a", "command": ["x"]}], "resources": resources}
    assert rendered(task, FULL, attempt)["request"]["jobQueue"] == queue


@pytest.mark.parametrize(
    ("owner", "urls", "role"),
    [
        ("Ann @ lab", (), "lab"),
        ("Bob", ("s3://data/cohort/1", "s3://data/cohort/2"), "cohort"),
        ("Bob", ("s3://data/cohort/1", "s3://data/other"), "tasks"),
        ("Bob", ("s3://data/cohorts/1",), "tasks"),
        ("Bob", (), "tasks"),
    ],
)
def test_roles(owner: str, urls: tuple[str, ...], role: str) -> None:
    outputs = [{"path": f"/work/{number}", "url": url} for number, url in enumerate(urls)]
    body = rendered({"executors": [{"image": "a", "command": ["x"]}], "outputs": outputs}, FULL, owner=owner)
    assert body["definition"]["containerProperties"]["jobRoleArn"].endswith(f"/{role}")


def test_a_secret_is_nowhere() -> None:
    """Only where it is kept, and in the plan its name."""
    text = json.dumps(rendered(WHOLE, FULL))
    assert "secret://TOKEN/key" in text
    assert "arn:aws:secretsmanager" in text
