"""Events of jobs on their way into the SQS queue, and that queue's manners."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import botocore.exceptions
import pytest

from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.events import Bridge, Trouble
from tests.emulators.aws_batch.sqs import Queue
from tests.unit.emulators.conftest import Define


def received(queue: Queue, most: int = 10) -> list[Any]:
    return [json.loads(message.body) for message, _ in queue.receive(most, 0.0, 30.0)]


# -- events ------------------------------------------------------------------------------------------------------------


def publish(bridge: Bridge, *statuses: str) -> None:
    for status in statuses:
        bridge.publish({"jobArn": "arn", "jobId": "j", "status": status})


@pytest.mark.parametrize(
    ("trouble", "seen"),
    [
        (Trouble(), ["RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED"]),
        (Trouble(duplicate=2), ["RUNNABLE", "RUNNABLE", "STARTING", "STARTING", "RUNNING", "SUCCEEDED"]),
        (Trouble(swap=1), ["STARTING", "RUNNABLE", "RUNNING", "SUCCEEDED"]),
        (Trouble(swap=-1), ["STARTING", "RUNNABLE", "SUCCEEDED", "RUNNING"]),
        (Trouble(drop=3), ["SUCCEEDED"]),
        (Trouble(drop=-1, statuses=("SUCCEEDED", "FAILED")), ["RUNNABLE", "STARTING", "RUNNING"]),
        (Trouble(delay=60.0), []),
    ],
)
def test_events_are_told_as_the_day_is(trouble: Trouble, seen: list[str]) -> None:
    queue = Queue("events", 30.0)
    bridge = Bridge(queue)
    bridge.trouble(trouble)
    publish(bridge, "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED")
    assert [event["detail"]["status"] for event in received(queue)] == seen


def test_the_last_event_of_all_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.emulators.aws_batch.events.SWAPPED", 0.0)
    queue = Queue("events", 30.0)
    bridge = Bridge(queue)
    bridge.trouble(Trouble(swap=-1))
    publish(bridge, "SUCCEEDED")
    assert received(queue) == []
    bridge.tick()
    assert [event["detail"]["status"] for event in received(queue)] == ["SUCCEEDED"]


def test_events_have_the_documented_shape(emulator: Emulator, batch: Any, sqs: Any, define: Define) -> None:
    job = batch.submit_job(jobName="job", jobQueue="spot", jobDefinition=define())["jobId"]
    emulator.account.wait(lambda: emulator.job(job).reason)
    batch.terminate_job(jobId=job, reason="enough")
    messages = sqs.receive_message(QueueUrl=emulator.events_url, MaxNumberOfMessages=10, WaitTimeSeconds=5)["Messages"]
    events = [json.loads(message["Body"]) for message in messages]
    assert [event["detail"]["status"] for event in events] == ["PENDING", "RUNNABLE", "RUNNABLE", "FAILED"]
    blocked = events.pop(2)
    assert (blocked["detail-type"], blocked["resources"]) == ("Batch Job Queue Blocked", [blocked["detail"]["jobArn"], blocked["detail"]["jobQueue"]])
    assert blocked["detail"]["statusReason"].startswith("MISCONFIGURATION:")
    assert "statusReason" not in events[1]["detail"]
    last = events[-1]
    assert (last["source"], last["detail-type"], last["resources"]) == (
        "aws.batch",
        "Batch Job State Change",
        [f"arn:aws:batch:us-east-1:123456789012:job/{job}"],
    )
    (described,) = batch.describe_jobs(jobs=[job])["jobs"]
    assert last["detail"] == described
    assert [(sent.job, sent.status) for sent in emulator.bridge.sent if not sent.blocked] == [(job, status) for status in ("PENDING", "RUNNABLE", "FAILED")]


# -- SQS ---------------------------------------------------------------------------------------------------------------


def failing(call: Any, **given: Any) -> str:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**given)
    return str(caught.value.response["Error"]["Code"])


def test_a_message_is_hidden_once_received_and_comes_again(emulator: Emulator, sqs: Any) -> None:
    url = sqs.get_queue_url(QueueName="tes-events")["QueueUrl"]
    assert url == emulator.events_url
    sqs.send_message(QueueUrl=url, MessageBody="one")
    (first,) = sqs.receive_message(QueueUrl=url, VisibilityTimeout=43200, AttributeNames=["All"])["Messages"]
    assert (first["Body"], first["Attributes"]["ApproximateReceiveCount"]) == ("one", "1")
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    assert counts(sqs, url) == (0, 1)
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
    assert counts(sqs, url) == (1, 0)
    (second,) = sqs.receive_message(QueueUrl=url, MessageSystemAttributeNames=["ApproximateReceiveCount"])["Messages"]
    assert second["Attributes"] == {"ApproximateReceiveCount": "2"}
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])  # an old handle deletes nothing
    assert counts(sqs, url) == (0, 1)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=second["ReceiptHandle"])
    assert counts(sqs, url) == (0, 0)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=second["ReceiptHandle"])


def counts(sqs: Any, url: str) -> tuple[int, int]:
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])


def test_a_long_poll_ends_when_a_message_comes(emulator: Emulator, sqs: Any) -> None:
    timer = threading.Timer(0.1, emulator.events.put, ["late"])
    timer.start()
    began = time.monotonic()
    (message,) = sqs.receive_message(QueueUrl=emulator.events_url, WaitTimeSeconds=20)["Messages"]
    timer.join()
    assert message["Body"] == "late"
    assert time.monotonic() - began < 10


def test_batches_are_of_ten_and_each_entry_has_its_own_end(emulator: Emulator, sqs: Any) -> None:
    url = emulator.events_url
    for number in range(12):
        sqs.send_message(QueueUrl=url, MessageBody=str(number))
    taken = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert len(taken) == 10
    entries = [{"Id": f"m{number}", "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(taken)]
    answer = sqs.change_message_visibility_batch(QueueUrl=url, Entries=[{**entry, "VisibilityTimeout": 100} for entry in entries])
    assert len(answer["Successful"]) == 10
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=[*entries[:9], {"Id": "bad", "ReceiptHandle": "none"}])
    assert [entry["Id"] for entry in answer["Successful"]] == [entry["Id"] for entry in entries[:9]]
    assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("bad", "ReceiptHandleIsInvalid")]
    assert counts(sqs, url) == (2, 1)


@pytest.mark.parametrize(
    ("operation", "given", "code"),
    [
        ("receive_message", {"MaxNumberOfMessages": 11}, "InvalidParameterValue"),
        ("receive_message", {"WaitTimeSeconds": 21}, "InvalidParameterValue"),
        ("receive_message", {"VisibilityTimeout": 43201}, "InvalidParameterValue"),
        ("receive_message", {"QueueUrl": "http://127.0.0.1/123456789012/none"}, "AWS.SimpleQueueService.NonExistentQueue"),
        ("delete_message", {"ReceiptHandle": "none"}, "ReceiptHandleIsInvalid"),
        ("delete_message_batch", {"Entries": []}, "EmptyBatchRequest"),
        ("delete_message_batch", {"Entries": [{"Id": f"m{n}", "ReceiptHandle": "x"} for n in range(11)]}, "TooManyEntriesInBatchRequest"),
        ("delete_message_batch", {"Entries": [{"Id": "m", "ReceiptHandle": "x"}] * 2}, "BatchEntryIdsNotDistinct"),
        ("change_message_visibility", {"ReceiptHandle": "none", "VisibilityTimeout": 1}, "ReceiptHandleIsInvalid"),
    ],
)
def test_what_sqs_refuses(emulator: Emulator, sqs: Any, operation: str, given: dict[str, Any], code: str) -> None:
    assert failing(getattr(sqs, operation), **{"QueueUrl": emulator.events_url, **given}) == code
