"""The CloudFormation template applied to moto, as far as moto knows its resources: what comes out is what the server and the hosts get.

moto knows no policies of buckets, queues and topics and no alarms, keeps `AWS::NoValue` in lists, and wants a service role. So this says that
references, conditions and texts come together, and not that AWS takes them.
"""

from __future__ import annotations

import base64
import email
import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3

from tes_server import aws_rules, configuration
from tes_server.runner import node
from tests import aws_template

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS:UserWarning")

STACK = "tes-template"

PARAMETERS = {
    "RunnerImage": "registry.example/tes-server:1",
    "InstanceTypes": "c5.xlarge,m5.xlarge",  # moto knows no families
    "DataBuckets": "arn:aws:s3:::reads,arn:aws:s3:::results",
    "ReadObjects": "arn:aws:s3:::reads/*",
    "WriteObjects": "arn:aws:s3:::results/*",
    "DataKeys": "arn:aws:kms:us-east-1:123456789012:key/1",
    "TaskSecrets": "arn:aws:secretsmanager:us-east-1:123456789012:secret:token-1",
    "FileSystemId": "fs-0123abcd",
    "OwnerName": "ada",
    "OwnerObjects": "arn:aws:s3:::results/ada/*",
    "FairShare": "yes",
}

Client = Callable[[str], Any]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    import boto3
    import moto.server

    server = moto.server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        session = boto3.session.Session(aws_access_key_id="a", aws_secret_access_key="s", region_name="us-east-1")
        yield lambda service: session.client(service, endpoint_url=f"http://{host}:{port}")
        urllib3.request("POST", f"http://{host}:{port}/moto-api/reset")  # what it keeps, it keeps for all of this process
    finally:
        server.stop()


@pytest.fixture(scope="module")
def outputs(client: Client) -> dict[str, str]:
    """Of the applied template."""
    document = json.loads(json.dumps(aws_template.template()))
    for name in ("SpotEnvironment", "OnDemandEnvironment"):
        document["Resources"][name]["Properties"]["ServiceRole"] = {"Fn::GetAtt": ["InstanceRole", "Arn"]}
    cloud = client("cloudformation")
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in PARAMETERS.items()]
    cloud.create_stack(StackName=STACK, TemplateBody=json.dumps(document), Parameters=given, Capabilities=["CAPABILITY_IAM"])
    [stack] = cloud.describe_stacks(StackName=STACK)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}


def test_the_server_takes_the_settings(client: Client, outputs: dict[str, str], tmp_path: pathlib.Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(outputs["Settings"])
    told = configuration.load(file, {}, {})
    aws_rules.check(told)
    batch = told.aws_batch
    queues = {each["jobQueueName"] for each in client("batch").describe_job_queues()["jobQueues"]}
    assert {batch.queue, batch.spot_queue} <= queues
    assert batch.queue != batch.spot_queue
    assert client("sqs").get_queue_attributes(QueueUrl=batch.events, AttributeNames=["All"])["Attributes"]["SqsManagedSseEnabled"] == "true"
    roles = {each["Arn"] for each in client("iam").list_roles()["Roles"]}
    assert {batch.job_role, batch.execution_role, batch.roles[0].role} <= roles
    assert batch.roles[0].owners == (PARAMETERS["OwnerName"],)
    assert batch.image == PARAMETERS["RunnerImage"]
    assert batch.share == "owner"
    assert [(each.path, each.read_only) for each in batch.mounts] == [("/reference", True)]
    assert batch.work == node.WORK
    assert {each["logGroupName"] for each in client("logs").describe_log_groups()["logGroups"]} >= {batch.log_group}
    [storage] = told.storage
    assert told.spool.url.startswith(f"{storage.url}/")
    assert (storage.write, storage.tasks) == (True, False)
    assert storage.url.removeprefix("s3://") in {each["Name"] for each in client("s3").list_buckets()["Buckets"]}


def test_events_of_our_queues_arrive(client: Client, outputs: dict[str, str]) -> None:
    batch = client("batch")
    ours, other = next(each["jobQueueArn"] for each in batch.describe_job_queues()["jobQueues"] if each["jobQueueName"] == f"{STACK}-spot"), "arn:other"

    def event(kind: str, queue: str, job: str) -> dict[str, str]:
        return {"Source": "aws.batch", "DetailType": kind, "Detail": json.dumps({"jobId": job, "jobQueue": queue, "status": "RUNNING"})}

    state = "Batch Job State Change"
    client("events").put_events(Entries=[event(state, other, "1"), event("Batch Service Job State Change", ours, "2"), event(state, ours, "3")])
    url = next(each for each in client("sqs").list_queues()["QueueUrls"] if f"{STACK}-EventQueue" in each)
    until = time.monotonic() + 20
    messages: list[dict[str, Any]] = []
    while not messages and time.monotonic() < until:
        messages = client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
    assert [json.loads(each["Body"])["detail"]["jobId"] for each in messages] == ["3"]


@pytest.fixture(scope="module")
def script(client: Client, outputs: dict[str, str]) -> str:
    """What a host runs as it starts."""
    assert outputs
    computer = client("ec2")
    versions = computer.describe_launch_template_versions(LaunchTemplateId=computer.describe_launch_templates()["LaunchTemplates"][0]["LaunchTemplateId"])
    data = base64.b64decode(versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["UserData"])
    message = email.message_from_bytes(data)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    parts = message.get_payload()
    assert isinstance(parts, list)
    [part] = parts
    assert isinstance(part, email.message.Message)
    assert part.get_content_type() == "text/x-shellscript"
    text = part.get_payload()
    assert isinstance(text, str)
    return text


def test_what_a_host_runs_is_a_script(script: str) -> None:
    assert script.startswith("#!/bin/bash\n")
    assert "${" not in script
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    "line",
    [
        "ECS_CONTAINER_STOP_TIMEOUT=90s",
        "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true",
        "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST=true",
        f"mount {node.WORK}",
        "echo 'fs-0123abcd:/ /reference efs _netdev,tls,ro 0 0' >>/etc/fstab",
        "systemctl enable tes-reaper.service",
    ],
)
def test_what_a_host_is_told(script: str, line: str) -> None:
    assert line in script.splitlines()


def test_the_reaper_sees_socket_and_files_and_nothing_else(script: str) -> None:
    unit = script.partition("/etc/systemd/system/tes-reaper.service <<'END'\n")[2].partition("\nEND\n")[0].replace("\\\n", " ")
    [command] = [line.removeprefix("ExecStart=").split() for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert [command[at + 1] for at, word in enumerate(command) if word == "--volume"] == [f"{node.SOCKET}:{node.SOCKET}", f"{node.WORK}:{node.WORK}"]
    assert command[command.index("--network") + 1] == "none"
    assert command[command.index("--entrypoint") :] == ["--entrypoint", "python", PARAMETERS["RunnerImage"], "-m", "tes_server.runner.node_reaper"]
    assert "--env" not in command
