"""The CloudFormation template of AWS Batch: what cfn-lint says of it, and what must hold whatever its parameters are."""

from __future__ import annotations

import inspect
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

from tes_server.backends.aws_batch import events
from tes_server.backends.aws_batch import rights as doctor
from tests import aws_template
from tests.aws_template import of_type, resource, several, statements, template

LINTER = pathlib.Path(sys.executable).with_name("cfn-lint")
PAGE = aws_template.FILE.parents[2] / "docs" / "aws-batch.md"

REGIONS = ("us-east-1", "eu-central-1", "ap-southeast-2", "us-gov-west-1")

LARGEST = 51_200
"""Bytes of a template that CloudFormation takes without a bucket."""

WITHOUT_RESOURCE = {
    "batch:DescribeComputeEnvironments",
    "batch:DescribeJobDefinitions",
    "batch:DescribeJobQueues",
    "batch:DescribeJobs",
    "batch:ListJobs",
    "ecr:GetAuthorizationToken",
    "ecs:DiscoverPollEndpoint",
}
"""Actions that take no resource (service authorization reference), so that a policy has to say `*`."""

METRICS = {
    "AWS/Batch": {
        "JobsSubmitted",
        "JobsMovedToRunning",
        "JobsMovedToSucceeded",
        "JobsMovedToFailed",
        "JobsCancelled",
        "JobsTerminated",
        "JobAttemptRunnableToStartingDuration",
        "JobAttemptExecutionDuration",
    },
    "AWS/SQS": {"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"},
}
"""Of those that AWS has: AWS Batch user guide, "Using CloudWatch metrics"; SQS developer guide."""


def lint(path: pathlib.Path, *regions: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINTER, "--regions", *regions, "--", path], capture_output=True, text=True, check=False)


def test_lint() -> None:
    done = lint(aws_template.FILE, *REGIONS)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_linter_finds_a_planted_error(tmp_path: pathlib.Path) -> None:
    spoiled = tmp_path / "spoiled.yaml"
    text = aws_template.FILE.read_text()
    spoiled.write_text(text.replace("HttpPutResponseHopLimit: 1", "HttpPutResponseHopLimit: one"))
    done = lint(spoiled, "us-east-1")
    assert done.returncode != 0
    assert "'one' is not of type 'integer'" in done.stdout


def test_it_is_not_too_large() -> None:
    assert aws_template.FILE.stat().st_size < LARGEST


def test_each_parameter_has_a_place_and_is_explained() -> None:
    groups = template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(template()["Parameters"])
    page = PAGE.read_text()
    assert [name for name in template()["Parameters"] if f"`{name}`" not in page] == []


# -- hosts --------------------------------------------------------------------------------------------------------------


def test_executors_cannot_reach_the_metadata_of_a_host() -> None:
    [host] = of_type("AWS::EC2::LaunchTemplate").values()
    metadata = host["LaunchTemplateData"]["MetadataOptions"]
    assert metadata["HttpTokens"] == "required"
    assert metadata["HttpPutResponseHopLimit"] == 1


def test_disks_are_encrypted() -> None:
    [host] = of_type("AWS::EC2::LaunchTemplate").values()
    disks = host["LaunchTemplateData"]["BlockDeviceMappings"]
    assert len(disks) == 2
    assert all(disk["Ebs"]["Encrypted"] is True and disk["Ebs"]["DeleteOnTermination"] is True for disk in disks)


def test_nothing_comes_in() -> None:
    assert "SecurityGroupIngress" not in resource("HostGroup")
    assert of_type("AWS::EC2::SecurityGroupIngress") == {}


def test_environments() -> None:
    environments = of_type("AWS::Batch::ComputeEnvironment")
    found = {name: (each["ComputeResources"]["Type"], each["ComputeResources"]["AllocationStrategy"]) for name, each in environments.items()}
    assert found == {"SpotEnvironment": ("SPOT", "SPOT_PRICE_CAPACITY_OPTIMIZED"), "OnDemandEnvironment": ("EC2", "BEST_FIT_PROGRESSIVE")}
    zones = {json.dumps(each["AvailabilityZone"], sort_keys=True) for name, each in of_type("AWS::EC2::Subnet").items() if re.fullmatch("Subnet[ABC]", name)}
    assert len(zones) == 3
    assert len(template()["Parameters"]["InstanceTypes"]["Default"].split(",")) > 4
    for each in environments.values():
        hosts = each["ComputeResources"]
        assert hosts["LaunchTemplate"]["LaunchTemplateId"] == {"Ref": "HostTemplate"}
        assert hosts["Subnets"] == {"Fn::If": ["MakesVpc", [{"Ref": "SubnetA"}, {"Ref": "SubnetB"}, {"Ref": "SubnetC"}], {"Ref": "SubnetIds"}]}
        assert hosts["InstanceTypes"] == {"Ref": "InstanceTypes"}
        assert hosts["MinvCpus"] == 0
        assert "ServiceRole" not in each, "hosts could not be changed in place"


def test_a_queue_has_one_class_of_capacity() -> None:
    found = {name: [order["ComputeEnvironment"] for order in each["ComputeEnvironmentOrder"]] for name, each in of_type("AWS::Batch::JobQueue").items()}
    assert found == {"SpotQueue": [{"Ref": "SpotEnvironment"}], "OnDemandQueue": [{"Ref": "OnDemandEnvironment"}]}


# -- rights -------------------------------------------------------------------------------------------------------------


def granted(value: Any) -> list[tuple[str, Any]]:
    return [(action, each["Resource"]) for each in statements(value) if each["Effect"] == "Allow" and "Resource" in each for action in several(each["Action"])]


def test_rights_name_actions_and_resources() -> None:
    found = granted(template()["Resources"])
    assert len(found) > 30
    assert [action for action, _ in found if "*" in action] == []
    assert {action for action, allowed in found if "*" in several(allowed)} == WITHOUT_RESOURCE


def test_who_may_be_what() -> None:
    trusted = {name: [each["Principal"] for each in statements(role["AssumeRolePolicyDocument"])] for name, role in of_type("AWS::IAM::Role").items()}
    containers, hosts = [{"Service": "ecs-tasks.amazonaws.com"}], [{"Service": "ec2.amazonaws.com"}]
    assert trusted == {
        "InstanceRole": hosts,
        "ExecutionRole": containers,
        "JobRole": containers,
        "OwnerRole": containers,
        "ServerRole": [{"Service": {"Ref": "ServerPrincipal"}}],
    }


def test_a_host_has_the_rights_of_its_agent_only() -> None:
    role = resource("InstanceRole")
    assert "ManagedPolicyArns" not in role
    assert {action.partition(":")[0] for action, _ in granted(role["Policies"])} == {"ecs"}


def test_the_server_passes_the_roles_of_jobs_only() -> None:
    passed = [allowed for action, allowed in granted(template()["Resources"]) if action == "iam:PassRole"]
    assert len(passed) == 1
    assert [each["Fn::GetAtt"] for each in aws_template.walk(passed) if "Fn::GetAtt" in each] == [
        ["JobRole", "Arn"],
        ["ExecutionRole", "Arn"],
        ["OwnerRole", "Arn"],
    ]


def test_the_server_touches_its_own_jobs_only() -> None:
    rights = {each["Sid"]: each for each in statements(resource("ServerPolicy"))}
    assert rights["End"]["Condition"] == {"StringEquals": {"aws:ResourceTag/tes-server": {"Ref": "ServerId"}}}
    assert {"Ref": "SpotQueue"} in rights["Submit"]["Resource"]
    assert {"Ref": "OnDemandQueue"} in rights["Submit"]["Resource"]
    for sid in ("Define", "Submit"):
        definitions = [each["Fn::Sub"] for each in rights[sid]["Resource"] if "Fn::Sub" in each]
        assert [each.rpartition("/")[2] for each in definitions] == ["${ServerId}-*", f"{doctor.NOTHING}*"]
    assert rights["Doctor"]["Resource"]["Fn::Sub"].endswith(f":job/{doctor.NOBODY}")


def test_the_server_has_the_rights_that_the_doctor_asks_for() -> None:
    asked = set(re.findall(r'"((?:batch|sqs):[A-Z][A-Za-z]+)"', inspect.getsource(doctor)))
    assert len(asked) > 10
    given = {action for action, _ in granted(resource("ServerPolicy")) if action.startswith(("batch:", "sqs:"))}
    assert given == asked | {"batch:TagResource"}, "jobs are submitted with tags"


def test_an_owner_reaches_no_secret() -> None:
    assert "secretsmanager:GetSecretValue" in {action for action, _ in granted(resource("JobRole"))}
    for name in ("OwnerRole", "RunnerPolicy", "PullPolicy", "InstanceRole", "ExecutionRole", "ServerPolicy"):
        assert "secretsmanager:GetSecretValue" not in {action for action, _ in granted(resource(name))}, name


# -- events, spool, logs ------------------------------------------------------------------------------------------------


def test_events_come_from_the_rule_only() -> None:
    rule = resource("JobRule")
    assert rule["EventPattern"] == {
        "source": ["aws.batch"],
        "detail-type": sorted(events.KINDS, reverse=True),
        "detail": {"jobQueue": [{"Ref": "SpotQueue"}, {"Ref": "OnDemandQueue"}]},
    }
    [target] = rule["Targets"]
    assert target["Arn"] == {"Fn::GetAtt": ["EventQueue", "Arn"]}
    assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["DeadEvents", "Arn"]}}
    for name, queue in (("EventQueuePolicy", "EventQueue"), ("DeadEventsPolicy", "DeadEvents")):
        policy = resource(name)
        assert policy["Queues"] == [{"Ref": queue}]
        [allowed] = [each for each in statements(policy) if each["Effect"] == "Allow"]
        assert allowed["Principal"] == {"Service": "events.amazonaws.com"}
        assert allowed["Action"] == "sqs:SendMessage"
        assert allowed["Resource"] == {"Fn::GetAtt": [queue, "Arn"]}
        assert allowed["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["JobRule", "Arn"]}}}


def test_an_event_is_dropped_by_reconcilers_before_it_counts_as_dead() -> None:
    assert resource("EventQueue")["RedrivePolicy"]["maxReceiveCount"] > events.GIVEN_BACK


def test_queues_are_encrypted() -> None:
    queues = of_type("AWS::SQS::Queue")
    assert set(queues) == {"EventQueue", "DeadEvents"}
    assert all(each["SqsManagedSseEnabled"] is True for each in queues.values())


def test_queues_and_spool_are_reached_by_tls_only() -> None:
    for name in ("EventQueuePolicy", "DeadEventsPolicy", "SpoolPolicy"):
        [denied] = [each for each in statements(resource(name)) if each["Effect"] == "Deny"]
        assert denied["Principal"] == "*"
        assert denied["Condition"] == {"Bool": {"aws:SecureTransport": False}}


def test_the_spool_is_private_and_kept() -> None:
    bucket = resource("SpoolBucket")
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert "VersioningConfiguration" not in bucket
    assert bucket["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"] == {"Ref": "SpoolDays"}
    assert template()["Resources"]["SpoolBucket"]["DeletionPolicy"] == "Retain"


def test_logs_are_not_kept_for_ever() -> None:
    assert all("RetentionInDays" in each for each in of_type("AWS::Logs::LogGroup").values())


def test_alarms_and_dashboard_use_metrics_that_there_are() -> None:
    used: set[tuple[str, str]] = set()
    alarms = of_type("AWS::CloudWatch::Alarm")
    for alarm in alarms.values():
        assert alarm["TreatMissingData"] == "notBreaching", "most of these are only told when something happens"
        used |= {(each["Namespace"], each["MetricName"]) for each in aws_template.walk(alarm) if "MetricName" in each}
    body = resource("Dashboard")["DashboardBody"]["Fn::Sub"]
    for widget in json.loads(body)["widgets"]:
        space = name = ""
        for row in widget["properties"].get("metrics", []):
            space, name = (space if row[0] in (".", "...") else row[0]), (name if row[0] == "..." else row[1])
            used.add((space, name))
    assert len(alarms) == 4
    assert {(space, name) for space, name in used if name not in METRICS.get(space, ())} == set()
    assert {space: {name for its, name in used if its == space} for space in METRICS} == METRICS
