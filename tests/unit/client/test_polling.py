import threading

import pytest

from tes_server.client import polling
from tes_server.client.answers import Task
from tes_server.errors import NotFound


class Site:
    """Tasks that end at given times, on a clock that only moves when somebody sleeps."""

    def __init__(self, ends: dict[str, float]) -> None:
        self.ends = ends
        self.now = 1000.0
        self.looks = dict.fromkeys(ends, 0)
        self.lock = threading.Lock()

    def look(self, task_id: str) -> Task:
        with self.lock:
            self.looks[task_id] += 1
        return Task(id=task_id, state="COMPLETE" if self.now - 1000 >= self.ends[task_id] else "RUNNING")

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def changes(self, timeout: float | None = None) -> list[tuple[str, Task]]:
        return list(polling.changes(self.look, list(self.ends), timeout, clock=lambda: self.now, sleep=self.sleep))


def test_every_change_is_told_once() -> None:
    told = [(task_id, task.state) for task_id, task in Site({"a": 0, "b": 3}).changes()]
    assert sorted(told) == [("a", "COMPLETE"), ("b", "COMPLETE"), ("b", "RUNNING")]


def test_a_task_that_goes_on_is_asked_ever_more_rarely() -> None:
    site = Site({"long": 600, "short": 0.5})
    site.changes()
    assert site.looks["long"] < 600 / polling.LONGEST_DELAY + 15
    assert site.looks["short"] < 8
    assert site.now - 1000 < 600 + polling.LONGEST_DELAY + 0.01


def test_a_thousand_tasks_end() -> None:
    site = Site({f"t{number}": number % 50 for number in range(1000)})
    told = site.changes()
    assert {task_id for task_id, task in told if task.state == "COMPLETE"} == set(site.ends)
    assert sum(site.looks.values()) < 25_000


def test_the_timeout_ends_the_wait() -> None:
    site = Site({"a": 1, "b": 1e9})
    told = [task_id for task_id, task in site.changes(timeout=30) if task.ended]
    assert told == ["a"]
    assert 1030 <= site.now < 1031


def test_the_first_end_is_told_before_the_last_look_is_taken() -> None:
    site = Site({f"t{number}": 0 for number in range(100)})
    looks = polling.changes(site.look, list(site.ends), workers=4, clock=lambda: site.now, sleep=site.sleep)
    next(looks)
    assert sum(site.looks.values()) <= 4


def test_an_error_of_a_look_is_raised() -> None:
    def look(_: str) -> Task:
        raise NotFound("no such task")

    with pytest.raises(NotFound):
        list(polling.changes(look, ["a"]))


def test_pace() -> None:
    pace = polling.Pace(1, 2)
    assert [pace.delay(False), pace.delay(False), pace.delay(False), pace.delay(True), pace.delay(False)] == [1, 1.5, 2, 1, 1.5]
