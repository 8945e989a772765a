"""The parts of `mongo` and `reconcile` that decide what their figures mean."""

from __future__ import annotations

import pytest

from benchmarks import mongo, mongo_server, reconcile
from tes_server.model import record as model
from tes_server.model.run import Handle, Phase
from tes_server.store.leases import Board, renewed


def test_steps_one_after_the_other_are_slower_than_each() -> None:
    assert mongo.together(1000, 1000) == pytest.approx(500)
    assert mongo.together(3000, 1500) == pytest.approx(1000)


def test_reconcilers_start_once_each_has_its_share() -> None:
    board = renewed(Board(), "a", frozenset())
    assert reconcile.shared(board, 1)
    assert not reconcile.shared(board, 2)
    both = renewed(board, "b", frozenset())
    assert not reconcile.shared(both, 2), "the first one has not given anything up yet"
    both = renewed(renewed(both, "a", frozenset()), "b", frozenset())
    assert reconcile.shared(both, 2)
    assert len(both.of("a")) == model.SHARDS // 2


def test_an_attempt_that_runs_nothing_goes_through_its_phases_with_news() -> None:
    backend = reconcile.Idle("here")
    heard: list[set[str]] = []
    backend.listen(lambda ids: heard.append(set(ids)))
    handle = Handle("local", "a-1", place="here")
    assert [backend.observe([handle])[handle].phase for _ in range(3)] == [Phase.STAGING, Phase.RUNNING, Phase.ENDED]
    assert heard == [{"a"}, {"a"}, set()]
    assert list(backend.find(["a-1"])) == ["a-1"]


def test_without_a_server_it_is_said_how_to_name_one() -> None:
    with pytest.raises(SystemExit, match="MONGO_TEST_URL"), mongo_server.database(""):
        pass
