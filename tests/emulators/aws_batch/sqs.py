"""SQS: standard queues with visibility time-outs, receipt handles and long polls."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from tests.emulators.aws_batch.protocol import AwsError, Json
from tests.emulators.aws_batch.world import ACCOUNT, REGION

ENTRY = re.compile("[A-Za-z0-9_-]{1,80}")
LARGEST = 1024 * 1024
"""bytes of a message"""
LONGEST = 43200
"""seconds of visibility time-out"""


@dataclasses.dataclass
class Message:
    body: str
    sent: float
    """wall clock, seconds"""
    visible: float
    """monotonic clock, seconds: who asks before it does not see the message"""
    id: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    received: int = 0
    first: float = 0.0
    handle: str = ""
    """the newest; older ones delete nothing"""

    @property
    def digest(self) -> str:
        return hashlib.md5(self.body.encode()).hexdigest()


class Queue:
    """One queue. Safe for threads."""

    def __init__(self, name: str, visibility: float) -> None:
        self.name = name
        self.visibility = visibility
        self._messages: list[Message] = []
        self._handles: dict[str, Message] = {}
        """every handle that was ever given out"""
        self._changed = threading.Condition()
        self._closed = False

    def put(self, body: str, delay: float = 0.0) -> Message:
        message = Message(body, time.time(), time.monotonic() + delay)
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        return message

    def receive(self, most: int, wait: float, visibility: float) -> list[tuple[Message, str]]:
        """Up to `most` messages that are visible within `wait` seconds, each with a new receipt handle."""
        end = time.monotonic() + wait
        with self._changed:
            while True:
                now = time.monotonic()
                found = [message for message in self._messages if message.visible <= now][:most]
                if found or now >= end or self._closed:
                    return [(message, self._take(message, now + visibility)) for message in found]
                self._changed.wait(min([end, *(message.visible for message in self._messages)]) - now)

    def _take(self, message: Message, until: float) -> str:
        message.visible = until
        message.received += 1
        message.first = message.first or time.time()
        message.handle = uuid.uuid4().hex
        self._handles[message.handle] = message
        return message.handle

    def delete(self, handle: str) -> None:
        with self._changed:
            message = self._of(handle)
            if message.handle == handle and message in self._messages:
                self._messages.remove(message)

    def change(self, handle: str, visibility: float) -> None:
        with self._changed:
            message = self._of(handle)
            if message not in self._messages or message.visible <= time.monotonic():
                raise AwsError("MessageNotInflight", f"The message referred to isn't in flight: {message.id}")
            message.visible = time.monotonic() + visibility
            self._changed.notify_all()

    def _of(self, handle: str) -> Message:
        if handle not in self._handles:
            raise AwsError("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not a valid receipt handle.')
        return self._handles[handle]

    def counts(self) -> tuple[int, int]:
        """Messages that are visible, and those in flight."""
        with self._changed:
            now = time.monotonic()
            visible = sum(message.visible <= now for message in self._messages)
            return visible, len(self._messages) - visible

    def purge(self) -> None:
        with self._changed:
            self._messages.clear()

    def close(self) -> None:
        """Long polls end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Sqs:
    """The operations; `url` is the endpoint's."""

    def __init__(self, url: str, queues: Sequence[Queue]) -> None:
        self._url = url
        self._queues = {queue.name: queue for queue in queues}

    def url(self, name: str) -> str:
        return f"{self._url}/{ACCOUNT}/{name}"

    def resource(self, operation: str, given: Json) -> str:
        """What an operation is about, as in messages of denied access."""
        name = given.get("QueueName") or given.get("QueueUrl", "").rpartition("/")[2]
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"

    def get_queue_url(self, given: Json) -> Json:
        return {"QueueUrl": self.url(self._named(given["QueueName"]).name)}

    def get_queue_attributes(self, given: Json) -> Json:
        queue = self._queue(given)
        visible, flying = queue.counts()
        every = {
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(flying),
            "ApproximateNumberOfMessagesDelayed": "0",
            "VisibilityTimeout": f"{queue.visibility:.0f}",
            "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue.name}",
            "MessageRetentionPeriod": "345600",
            "ReceiveMessageWaitTimeSeconds": "0",
            "MaximumMessageSize": str(LARGEST),
        }
        asked = given.get("AttributeNames", [])
        found = {name: value for name, value in every.items() if "All" in asked or name in asked}
        return {"Attributes": found} if found else {}

    def send_message(self, given: Json) -> Json:
        if not 0 < len(given["MessageBody"].encode()) <= LARGEST:
            raise _value("MessageBody", "...", f"Message must be shorter than {LARGEST} bytes, and not empty.")
        message = self._queue(given).put(given["MessageBody"], _within(given, "DelaySeconds", 0, 900, 0))
        return {"MessageId": message.id, "MD5OfMessageBody": message.digest}

    def receive_message(self, given: Json) -> Json:
        queue = self._queue(given)
        most = _within(given, "MaxNumberOfMessages", 1, 10, 1)
        wait = _within(given, "WaitTimeSeconds", 0, 20, 0)
        taken = queue.receive(most, wait, _within(given, "VisibilityTimeout", 0, LONGEST, queue.visibility))
        asked = {*given.get("AttributeNames", []), *given.get("MessageSystemAttributeNames", [])}
        return {"Messages": [_told(message, handle, asked) for message, handle in taken]} if taken else {}

    def delete_message(self, given: Json) -> Json:
        self._queue(given).delete(given["ReceiptHandle"])
        return {}

    def delete_message_batch(self, given: Json) -> Json:
        queue = self._queue(given)
        return _each(given["Entries"], lambda entry: queue.delete(entry["ReceiptHandle"]))

    def change_message_visibility(self, given: Json) -> Json:
        self._queue(given).change(given["ReceiptHandle"], _within(given, "VisibilityTimeout", 0, LONGEST, 0))
        return {}

    def change_message_visibility_batch(self, given: Json) -> Json:
        queue = self._queue(given)
        return _each(given["Entries"], lambda entry: queue.change(entry["ReceiptHandle"], _within(entry, "VisibilityTimeout", 0, LONGEST, 0)))

    def _queue(self, given: Json) -> Queue:
        return self._named(given["QueueUrl"].rpartition("/")[2])

    def _named(self, name: str) -> Queue:
        if name not in self._queues:
            raise AwsError("QueueDoesNotExist", "The specified queue does not exist.")
        return self._queues[name]


def _told(message: Message, handle: str, asked: set[str]) -> Json:
    told: Json = {"MessageId": message.id, "ReceiptHandle": handle, "MD5OfBody": message.digest, "Body": message.body}
    every = {
        "ApproximateReceiveCount": str(message.received),
        "SentTimestamp": f"{message.sent * 1000:.0f}",
        "ApproximateFirstReceiveTimestamp": f"{message.first * 1000:.0f}",
        "SenderId": "AIDAEMULATEDEVENTBRIDGE",
    }
    if found := {name: value for name, value in every.items() if "All" in asked or name in asked}:
        told["Attributes"] = found
    return told


def _each(entries: Sequence[Json], act: Callable[[Json], None]) -> Json:
    if not entries:
        raise AwsError("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > 10:
        raise AwsError("TooManyEntriesInBatchRequest", f"Maximum number of entries per request are 10. You have sent {len(entries)}.")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise AwsError("BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id.")
    if not all(ENTRY.fullmatch(entry["Id"]) for entry in entries):
        raise AwsError("InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores.")
    done: Json = {"Successful": [], "Failed": []}
    for entry in entries:
        try:
            act(entry)
        except AwsError as error:
            done["Failed"].append({"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message})
        else:
            done["Successful"].append({"Id": entry["Id"]})
    return done


def _within(given: Json, name: str, least: int, most: int, usual: float) -> int:
    value = given.get(name, usual)
    if not least <= value <= most:
        raise _value(name, value, f"Must be between {least} and {most}, if provided.")
    return int(value) if name in given else value


def _value(name: str, value: object, why: str) -> AwsError:
    return AwsError("InvalidParameterValue", f"Value {value} for parameter {name} is invalid. Reason: {why}")
