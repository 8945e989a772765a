"""What is known of jobs, whatever the order in which it is told; events as they lie in the queue; names."""

from __future__ import annotations

import itertools
import json

import pytest

from tes_server.backends.aws_batch import events, names
from tes_server.backends.aws_batch.board import Board
from tes_server.model.run import Reason
from tests.unit.backends.aws_objects import job

STATES = ("RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED")


class TestBoard:
    @pytest.mark.parametrize("order", [*itertools.permutations(STATES)])
    def test_order_does_not_matter(self, order: tuple[str, ...]) -> None:
        board = Board()
        for number, state in enumerate((*order, *order)):
            board.put("abc-1", job(state), number)
        known = board.job("j-1")
        assert known is not None
        assert known.job.status == "SUCCEEDED"

    def test_what_is_news(self) -> None:
        board = Board()
        assert board.put("abc-1", job("RUNNABLE"), 1)
        assert not board.put("abc-1", job("RUNNABLE"), 2)
        assert board.put("abc-1", job("RUNNABLE", statusReason="CAPACITY:X"), 3)
        assert board.put("abc-1", job("RUNNING"), 4)
        assert not board.put("abc-1", job("RUNNABLE"), 5)

    def test_since_when_it_is_blocked(self) -> None:
        board = Board()
        board.put("abc-1", job("RUNNABLE"), 1)
        board.put("abc-1", job("RUNNABLE", statusReason="CAPACITY:X"), 3)
        board.put("abc-1", job("RUNNABLE", statusReason="CAPACITY:Y"), 4)
        known = board.job("j-1")
        assert known is not None
        assert (known.blocked, known.seen) == (3, 4)
        board.put("abc-1", job("RUNNABLE"), 5)
        known = board.job("j-1")
        assert known is not None
        assert known.blocked == 0

    def test_several_jobs_of_one_attempt(self) -> None:
        board = Board()
        board.put("abc-1", job(job_id="a"), 1)
        board.put("abc-1", job(job_id="b"), 1)
        assert board.of("abc-1") == {"a", "b"}
        board.drop("abc-1")
        assert (board.of("abc-1"), board.job("a"), board.knows("abc-1")) == (set(), None, False)


class TestEvents:
    @pytest.mark.parametrize("kind", sorted(events.KINDS))
    def test_an_event(self, kind: str) -> None:
        detail = {"jobId": "j", "jobName": "tes_abc-1", "status": "FAILED", "container": {"exitCode": 3}, "attempts": [], "createdAt": 1.0}
        told = events.read(json.dumps({"source": "aws.batch", "detail-type": kind, "detail": detail}))
        assert told is not None
        assert (told.job_id, told.status, told.container.exit_code) == ("j", "FAILED", 3)

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{",
            "[]",
            "null",
            json.dumps({"detail-type": "Something else", "detail": {}}),
            json.dumps({"detail-type": "Batch Job State Change", "detail": {"jobId": 3}}),
        ],
    )
    def test_what_is_none_is_dropped(self, body: str) -> None:
        assert events.read(body) is None


class TestNames:
    def test_there_and_back(self) -> None:
        assert names.attempt("tes", names.job("tes", "abc-1")) == "abc-1"

    @pytest.mark.parametrize("name", ["", "tes", "tes_", "other_abc-1", "tes_abc", "tes_ABC-1", "tes_abc-0", "tes_abc-1_x", "_abc-1"])
    def test_what_is_of_others(self, name: str) -> None:
        assert names.attempt("tes", name) == ""

    @pytest.mark.parametrize(("text", "name"), [("org.example.tes", "org-example-tes"), ("---", ""), ("a_b", "a-b"), ("é", ""), ("x" * 99, "x" * 48)])
    def test_a_server(self, text: str, name: str) -> None:
        assert names.server(text) == name

    def test_every_reason_can_be_told(self) -> None:
        for reason in Reason:
            stop = names.Stop(reason=reason, code="CODE", message="m")
            assert names.stop_of(names.told(stop)) == stop
