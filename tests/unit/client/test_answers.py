from typing import Any

import pytest

from tes_server.client import answers
from tes_server.client.answers import Task
from tes_server.errors import TesServerError


def ended(state: str, *codes: object) -> Task:
    return answers.read({"id": "t", "state": state, "logs": [{"logs": [{"exit_code": code} for code in codes]}]})


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (ended("COMPLETE"), 0),
        (ended("COMPLETE", 3), 0),  # an ignored error
        (ended("EXECUTOR_ERROR", 3), 3),
        (ended("EXECUTOR_ERROR", 0, 7), 7),
        (ended("EXECUTOR_ERROR", 4, 7), 7),
        (ended("EXECUTOR_ERROR", 137), 1),
        (ended("EXECUTOR_ERROR", -1), 1),
        (ended("EXECUTOR_ERROR"), 1),
        (ended("EXECUTOR_ERROR", "12"), 12),
        (ended("SYSTEM_ERROR", 3), 70),
        (ended("PREEMPTED"), 70),
        (ended("CANCELED"), 130),
        (Task(state="EXECUTOR_ERROR"), 1),
    ],
)
def test_exit_codes(task: Task, code: int) -> None:
    assert task.exit_code == code


def test_what_old_servers_send_is_read() -> None:
    task = answers.read(
        {
            "id": "t",
            "state": "COMPLETE",
            "unknown": 1,
            "tags": {"a": None},
            "executors": None,
            "logs": [{"logs": None, "outputs": [{"url": "u", "size_bytes": "3000000000"}], "system_logs": None}],
        }
    )
    assert task.ended
    assert task.last_log.outputs is not None
    assert task.last_log.outputs[0].size_bytes == 3_000_000_000
    assert not answers.read({}).ended


@pytest.mark.parametrize("answer", [{"logs": "x"}, {"id": 3}, {"logs": [{"logs": [{"exit_code": "a"}]}]}])
def test_what_is_no_task_is_told(answer: dict[str, Any]) -> None:
    with pytest.raises(TesServerError, match="not a TES task"):
        answers.read(answer)


def test_the_worst_of_many() -> None:
    complete, canceled, failed, broken = (Task(id=state, state=state) for state in ("COMPLETE", "CANCELED", "EXECUTOR_ERROR", "SYSTEM_ERROR"))
    assert answers.worst([complete, canceled]) is canceled
    assert answers.worst([failed, canceled, complete]) is failed
    assert answers.worst([complete, broken, failed]) is broken
