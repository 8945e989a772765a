"""What the emulated AWS Batch takes and refuses, asked by boto3."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.parse
from typing import Any

import botocore.exceptions
import pytest

from tests.emulators.aws_batch import protocol
from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.protocol import AwsError
from tests.unit.emulators.conftest import Define


def refusal(call: Any, **given: Any) -> tuple[str, int, str]:
    """Code, HTTP status and words of the error that a call ends with."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**given)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def submit(batch: Any, definition: str, name: str = "job", queue: str = "spot", **given: Any) -> str:
    return str(batch.submit_job(jobName=name, jobQueue=queue, jobDefinition=definition, **given)["jobId"])


# -- shapes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "given", "words"),
    [
        ("SubmitJob", {"jobName": "a", "jobQueue": "b"}, "jobDefinition"),
        ("SubmitJob", {"jobName": "a", "jobQueue": "b", "jobDefinition": "c", "image": "d"}, "image"),
        ("SubmitJob", {"jobName": 1, "jobQueue": "b", "jobDefinition": "c"}, "jobName"),
        (
            "SubmitJob",
            {"jobName": "a", "jobQueue": "b", "jobDefinition": "c", "containerOverrides": {"resourceRequirements": [{"type": "CPU", "value": "1"}]}},
            "CPU",
        ),
        ("DescribeJobs", {"jobs": "a"}, "jobs"),
        ("ListJobs", {"jobStatus": "QUEUED"}, "QUEUED"),
        ("DescribeJobs", [], "dict"),
    ],
)
def test_a_request_that_the_service_model_does_not_describe_is_refused(operation: str, given: Any, words: str) -> None:
    with pytest.raises(AwsError, match=words) as caught:
        protocol.service("batch").read(operation, json.dumps(given).encode())
    assert (caught.value.code, caught.value.status) == ("ClientException", 400)


@pytest.mark.parametrize(
    "answer",
    [
        {"jobs": [{"jobName": "a"}]},
        {"jobs": [{"jobId": "a", "jobName": "a", "jobQueue": "q", "jobDefinition": "d", "status": "QUEUED"}]},
        {"jobs": [{"jobId": "a", "jobName": "a", "jobQueue": "q", "jobDefinition": "d", "status": "RUNNING", "exitCode": 1}]},
    ],
)
def test_an_answer_that_the_service_could_not_give_is_a_defect(answer: Any) -> None:
    service = protocol.service("batch")
    good = {"jobs": [{"jobId": "a", "jobName": "a", "jobQueue": "q", "jobDefinition": "d", "status": "RUNNABLE"}]}
    assert json.loads(service.write("DescribeJobs", good)) == good
    with pytest.raises(AssertionError, match="DescribeJobs"):
        service.write("DescribeJobs", answer)


# -- who asks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [("NOBODY", "x", "UnrecognizedClientException"), ("EMULATOR", "wrong", "InvalidSignatureException")],
)
def test_a_wrong_key_or_signature_is_403(emulator: Emulator, key: str, secret: str, code: str) -> None:
    with contextlib.closing(emulator.client("batch", key, secret)) as client:
        assert refusal(client.describe_jobs, jobs=["a"])[:2] == (code, 403)
    assert emulator.calls.refused == {f"batch.DescribeJobs {code}": 1}


def test_a_request_without_a_signature_is_403(emulator: Emulator) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(emulator.url).netloc)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/describejobs", b'{"jobs": ["a"]}')
        answer = connection.getresponse()
        assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "MissingAuthenticationTokenException")


def test_a_denied_action_is_told_in_the_words_of_aws(emulator: Emulator, define: Define) -> None:
    definition = define()
    emulator.bad_days.deny("LIMITED", ["batch:Submit*", "sqs:ReceiveMessage"], "secret")
    with contextlib.closing(emulator.client("batch", "LIMITED", "secret")) as client:
        assert client.describe_jobs(jobs=["a"])["jobs"] == []
        code, status, words = refusal(client.submit_job, jobName="a", jobQueue="spot", jobDefinition=definition)
        assert (code, status) == ("AccessDeniedException", 403)
        assert words.startswith(f"User: arn:aws:iam::123456789012:user/limited is not authorized to perform: batch:SubmitJob on resource: {definition}")
    with contextlib.closing(emulator.client("sqs", "LIMITED", "secret")) as client:
        code, _, words = refusal(client.receive_message, QueueUrl=emulator.events_url)
        assert (code, "on resource: arn:aws:sqs:us-east-1:123456789012:tes-events" in words) == ("AccessDeniedException", True)


# -- job definitions ---------------------------------------------------------------------------------------------------


def test_a_definition_gets_revisions_and_can_be_retired(batch: Any, define: Define) -> None:
    first, second = define(), define()
    assert (first, second) == tuple(f"arn:aws:batch:us-east-1:123456789012:job-definition/runner:{number}" for number in (1, 2))
    found = batch.describe_job_definitions(jobDefinitionName="runner", status="ACTIVE")["jobDefinitions"]
    assert [definition["revision"] for definition in found] == [2, 1]
    batch.deregister_job_definition(jobDefinition="runner:2")
    assert [one["revision"] for one in batch.describe_job_definitions(jobDefinitionName="runner", status="ACTIVE")["jobDefinitions"]] == [1]
    job = submit(batch, "runner")
    assert batch.describe_jobs(jobs=[job])["jobs"][0]["jobDefinition"] == first
    assert refusal(batch.submit_job, jobName="a", jobQueue="spot", jobDefinition=second)[0] == "ClientException"
    assert refusal(batch.submit_job, jobName="a", jobQueue="spot", jobDefinition="other")[0] == "ClientException"


@pytest.mark.parametrize(
    ("container", "given", "words"),
    [
        ({"image": ""}, {}, "image"),
        ({"environment": [{"name": "AWS_BATCH_JOB_ID", "value": "x"}]}, {}, "AWS_BATCH"),
        ({"resourceRequirements": [{"type": "MEMORY", "value": "64"}]}, {}, "VCPU must be given"),
        ({"resourceRequirements": [{"type": "VCPU", "value": "0.5"}, {"type": "MEMORY", "value": "64"}]}, {}, "0.5 is no valid value"),
        ({"resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "3"}]}, {}, "3 is no valid value"),
        ({"mountPoints": [{"sourceVolume": "none", "containerPath": "/x"}]}, {}, "no volume none"),
        ({"environment": [{"name": f"V{number}", "value": "x" * 1000} for number in range(25)]}, {}, "size"),
        ({"fargatePlatformConfiguration": {"platformVersion": "LATEST"}}, {}, "Fargate"),
        ({}, {"retryStrategy": {"attempts": 11}}, "attempts"),
        ({}, {"retryStrategy": {"evaluateOnExit": [{"onReason": "*", "action": "EXIT"}] * 6}}, "5 entries"),
        ({}, {"timeout": {"attemptDurationSeconds": 59}}, "60"),
        ({}, {"tags": {f"t{number}": "x" for number in range(51)}}, "50"),
        ({}, {"jobDefinitionName": "a.b"}, "jobDefinitionName"),
        ({}, {"type": "multinode"}, "single-container"),
    ],
)
def test_a_definition_that_aws_would_refuse(define: Define, container: dict[str, Any], given: dict[str, Any], words: str) -> None:
    code, status, message = refusal(lambda: define(container=container, **given))
    assert (code, status) == ("ClientException", 400)
    assert words in message


# -- jobs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"jobName": "a b"}, "jobName"),
        ({"jobName": "a" * 129}, "jobName"),
        ({"jobQueue": "none"}, "Job Queue none does not exist"),
        ({"containerOverrides": {"environment": [{"name": "A", "value": "x" * 31000}]}}, "30720"),
        ({"containerOverrides": {"environment": [{"name": "AWS_BATCH_X", "value": "x"}]}}, "AWS_BATCH"),
        ({"containerOverrides": {"resourceRequirements": [{"type": "VCPU", "value": "1.5"}]}}, "1.5"),
        ({"timeout": {"attemptDurationSeconds": 1}}, "60"),
        ({"tags": {"aws:x": "y"}}, "aws:x"),
        ({"shareIdentifier": "a"}, "shareIdentifier"),
        ({"jobQueue": "fair"}, "shareIdentifier"),
        ({"jobQueue": "fair", "shareIdentifier": "a", "schedulingPriorityOverride": 10000}, "9999"),
        ({"dependsOn": [{"jobId": "x"}] * 21}, "20"),
        ({"arrayProperties": {"size": 2}}, "arrayProperties"),
    ],
)
def test_a_job_that_aws_would_refuse(batch: Any, define: Define, given: dict[str, Any], words: str) -> None:
    code, status, message = refusal(batch.submit_job, **{"jobName": "a", "jobQueue": "spot", "jobDefinition": define(), **given})
    assert (code, status) == ("ClientException", 400)
    assert words in message


def test_names_are_not_unique_and_overrides_hold(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define(container={"environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}, tags={"of": "definition"})
    needs = [{"type": "VCPU", "value": "3"}, {"type": "MEMORY", "value": "2048"}, {"type": "GPU", "value": "1"}]
    overrides = {"environment": [{"name": "B", "value": "3"}], "resourceRequirements": needs}
    first = submit(batch, definition, containerOverrides=overrides, tags={"owner": "ann"}, timeout={"attemptDurationSeconds": 60})
    second = submit(batch, definition)
    assert first != second
    emulator.wait(first, "RUNNABLE")
    (found,) = batch.describe_jobs(jobs=[first])["jobs"]
    assert found["container"]["environment"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]
    assert sorted(found["container"]["resourceRequirements"], key=str) == sorted(needs, key=str)
    assert (found["tags"]["owner"], found["timeout"], found["jobName"]) == ("ann", {"attemptDurationSeconds": 60}, "job")
    assert "startedAt" not in found


def test_describe_jobs_takes_a_hundred_ids_and_leaves_out_what_is_unknown(batch: Any, define: Define) -> None:
    job = submit(batch, define())
    assert [found["jobId"] for found in batch.describe_jobs(jobs=[job, *(f"none{number}" for number in range(99))])["jobs"]] == [job]
    assert refusal(batch.describe_jobs, jobs=["x"] * 101)[0] == "ClientException"


def test_list_jobs_in_pages_and_by_filters(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define()
    jobs = [submit(batch, definition, f"Server_task-{number}") for number in range(5)] + [submit(batch, define("other"), "x")]
    for job in jobs:
        emulator.wait(job, "RUNNABLE")
    pages = batch.get_paginator("list_jobs").paginate(jobQueue="spot", jobStatus="RUNNABLE", PaginationConfig={"PageSize": 2})
    seen = [[found["jobId"] for found in page["jobSummaryList"]] for page in pages]
    assert [len(page) for page in seen] == [2, 2, 2]
    assert sorted(job for page in seen for job in page) == sorted(jobs)
    assert batch.list_jobs(jobQueue="spot")["jobSummaryList"] == []  # RUNNING, unless something else is said

    def named(name: str, *values: str, **given: Any) -> list[str]:
        return sorted(found["jobName"] for found in batch.list_jobs(jobQueue="spot", filters=[{"name": name, "values": values}], **given)["jobSummaryList"])

    assert named("JOB_NAME", "server_TASK-3") == ["Server_task-3"]
    assert named("JOB_NAME", "Server_task-*", jobStatus="FAILED") == [f"Server_task-{number}" for number in range(5)]
    assert named("JOB_DEFINITION", "other") == ["x"]
    assert named("AFTER_CREATED_AT", "0") == sorted([*(f"Server_task-{number}" for number in range(5)), "x"])
    assert named("BEFORE_CREATED_AT", "1000") == []
    assert refusal(batch.list_jobs, jobQueue="spot", filters=[{"name": "STATE", "values": ["x"]}])[0] == "ClientException"


def test_with_a_filter_a_page_has_a_hundred_jobs_at_most(batch: Any, define: Define) -> None:
    definition = define()
    for number in range(101):
        submit(batch, definition, f"a{number}")
    answer = batch.list_jobs(jobQueue="spot", filters=[{"name": "JOB_NAME", "values": ["a*"]}], maxResults=1000)
    assert len(answer["jobSummaryList"]) == 100
    rest = batch.list_jobs(jobQueue="spot", filters=[{"name": "JOB_NAME", "values": ["a*"]}], nextToken=answer["nextToken"])
    assert (len(rest["jobSummaryList"]), "nextToken" in rest) == (1, False)


def test_only_the_job_at_the_head_of_a_queue_has_the_reason_why_it_is_stuck(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define()
    first, second = submit(batch, definition), submit(batch, definition)
    emulator.account.wait(lambda: emulator.job(first).reason)
    emulator.wait(second, "RUNNABLE")
    reasons = {found["jobId"]: found.get("statusReason") for found in batch.describe_jobs(jobs=[first, second])["jobs"]}
    assert reasons == {first: "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS - held", second: None}


def test_a_job_that_fits_no_host_blocks_its_queue(emulator: Emulator, batch: Any, define: Define) -> None:
    emulator.bad_days.release("regular")
    job = submit(batch, define(), queue="regular", containerOverrides={"resourceRequirements": [{"type": "VCPU", "value": "5"}]})
    emulator.account.wait(lambda: emulator.job(job).reason)
    assert batch.describe_jobs(jobs=[job])["jobs"][0]["statusReason"].startswith("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - ")


def test_cancel_and_terminate_end_what_waits(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define()
    jobs = [submit(batch, definition) for _ in range(4)]
    for job in jobs:
        emulator.wait(job, "RUNNABLE")
    batch.cancel_job(jobId=jobs[0], reason="one")
    batch.terminate_job(jobId=jobs[1], reason="two")
    batch.terminate_job(jobId="none", reason="nobody knows it")
    answer = batch.terminate_jobs(jobs=[jobs[2], "none"], reason="three")
    assert (answer["successful"], answer["errors"]) == ([jobs[2], "none"], [])
    assert batch.cancel_jobs(jobs=[jobs[3]], reason="four")["successful"] == [jobs[3]]
    found = {one["jobId"]: one for one in batch.describe_jobs(jobs=jobs)["jobs"]}
    assert [found[job]["statusReason"] for job in jobs] == ["one", "two", "three", "four"]
    assert [(found[job]["status"], found[job]["isCancelled"], found[job]["isTerminated"]) for job in jobs[:2]] == [
        ("FAILED", True, False),
        ("FAILED", False, True),
    ]
    assert refusal(batch.terminate_jobs, jobs=["x"] * 51, reason="many")[0] == "ClientException"


def test_too_many_tags_of_job_and_definition_together_fail_the_job(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define(tags={f"d{number}": "x" for number in range(30)}, propagateTags=True)
    job = submit(batch, definition, tags={f"j{number}": "x" for number in range(30)})
    assert "tags" in emulator.wait(job, "FAILED").reason


def test_a_job_waits_for_those_that_it_depends_on(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define()
    first = submit(batch, definition)
    second = submit(batch, definition, dependsOn=[{"jobId": first}])
    emulator.wait(first, "RUNNABLE")
    assert emulator.job(second).status in ("SUBMITTED", "PENDING")
    batch.terminate_job(jobId=first, reason="x")
    assert emulator.wait(second, "FAILED").reason == "Dependent Job failed"


def test_queues_and_compute_environments_are_described(batch: Any) -> None:
    (queue,) = batch.describe_job_queues(jobQueues=["fair"])["jobQueues"]
    assert (queue["state"], queue["status"], "schedulingPolicyArn" in queue) == ("ENABLED", "VALID", True)
    names = [entry["computeEnvironment"] for entry in queue["computeEnvironmentOrder"]]
    (environment,) = batch.describe_compute_environments(computeEnvironments=names)["computeEnvironments"]
    assert (environment["computeEnvironmentName"], environment["computeResources"]["type"]) == ("regular-hosts", "EC2")
    assert batch.describe_job_queues(jobQueues=["none"])["jobQueues"] == []


# -- bad days of calls -------------------------------------------------------------------------------------------------


def test_a_lost_answer_was_an_answer_all_the_same(emulator: Emulator, batch: Any, define: Define) -> None:
    definition = define()
    emulator.bad_days.lose_answers(1)
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        submit(batch, definition, "lost")
    assert [found["jobName"] for found in batch.list_jobs(jobQueue="spot", filters=[{"name": "JOB_NAME", "values": ["lost"]}])["jobSummaryList"]] == ["lost"]
    submit(batch, definition, "lost")
    assert emulator.calls.seen["batch.SubmitJob"] == 2


def test_a_new_job_may_be_listed_late(emulator: Emulator, batch: Any, define: Define) -> None:
    def listed() -> list[str]:
        return [found["jobId"] for found in batch.list_jobs(jobQueue="spot", filters=[{"name": "JOB_NAME", "values": ["job"]}])["jobSummaryList"]]

    emulator.bad_days.lag(3600.0)
    job = submit(batch, define())
    assert listed() == []
    assert batch.describe_jobs(jobs=[job])["jobs"] != []
    emulator.bad_days.lag(0.0)
    assert listed() == [job]


def test_throttling_and_outages(emulator: Emulator, batch: Any) -> None:
    emulator.bad_days.throttle("batch.Describe*", every=2)
    assert batch.describe_jobs(jobs=["a"])["jobs"] == []
    assert refusal(batch.describe_jobs, jobs=["a"])[:2] == ("TooManyRequestsException", 429)
    emulator.bad_days.mend()
    emulator.bad_days.fail(times=2)
    assert [refusal(batch.describe_jobs, jobs=["a"])[:2] for _ in range(2)] == [("ServerException", 500)] * 2
    assert batch.describe_jobs(jobs=["a"])["jobs"] == []
    assert emulator.calls.seen == {"batch.DescribeJobs": 5}
    emulator.calls.reset()
    assert emulator.calls.seen == {}


def test_submit_job_is_throttled_beyond_its_rate(define: Define, emulator: Emulator, batch: Any) -> None:
    definition = define()
    emulator.submits._rate = emulator.submits._tokens = 3.0
    answers: list[object] = []
    for _ in range(20):
        try:
            answers.append(bool(submit(batch, definition)))
        except botocore.exceptions.ClientError as error:
            answers.append(error.response["Error"]["Code"])
    assert answers[:3] == [True] * 3
    assert "TooManyRequestsException" in answers


def test_by_hand(emulator: Emulator) -> None:
    """`curl` calls the same methods."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(emulator.url).netloc)

    def call(name: str, **given: Any) -> tuple[int, Any]:
        connection.request("POST", f"/_emulator/{name}", json.dumps(given))
        answer = connection.getresponse()
        return answer.status, answer.read()

    with contextlib.closing(connection):
        assert call("throttle", calls="batch.*", times=1) == (200, b"null\n")
        assert call("no_such_day")[0] == call("_lose")[0] == call("throttle", colour="red")[0] == call("reclaim", host="i-none")[0] == 400
        status, state = call("state")
        assert (status, len(json.loads(state)["hosts"])) == (200, 4)
        assert json.loads(call("calls")[1]) == {"seen": {}, "refused": {}, "messages": 0}


# -- other services ----------------------------------------------------------------------------------------------------


def test_secrets_and_tokens(emulator: Emulator) -> None:
    with contextlib.closing(emulator.client("secretsmanager")) as client:
        arn = emulator.secrets.arn("db")
        assert [client.get_secret_value(SecretId=name)["SecretString"] for name in ("db", arn)] == ['{"password": "x"}'] * 2
        assert refusal(client.get_secret_value, SecretId="none")[:2] == ("ResourceNotFoundException", 400)
    with contextlib.closing(emulator.client("ecr")) as client:
        (found,) = client.get_authorization_token()["authorizationData"]
        assert found["proxyEndpoint"] == "https://123456789012.dkr.ecr.us-east-1.amazonaws.com"
        assert found["expiresAt"].timestamp() > time.time() + 3600
