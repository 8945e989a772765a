"""What is known of tasks, in whatever order jobs show them; and the names of jobs."""

from __future__ import annotations

import re

import msgspec
import pytest

from tes_server.backends.azure_batch import definition, names
from tes_server.backends.azure_batch.board import Board
from tes_server.backends.azure_batch.objects import Task
from tes_server.backends.azure_batch.site import Pool, Site
from tes_server.runner.node import NodeSite
from tests.unit.backends.azure_objects import EXITED, at, task

JOB = "tes_spot_0123456789_1"


def site(server: str = "tes", pool: str = "spot", **fields: object) -> Site:
    node = NodeSite(spool="az://spool", spool_stores=(), run=("AZ_BATCH_JOB_ID",))
    return Site(**{"server": names.server(server), "pools": (Pool(id=pool, vm_size="s"),), "node": node, "image": "server:1", **fields})  # type: ignore[arg-type]


@pytest.fixture
def board() -> Board:
    made = Board()
    made.expect("abc-1", JOB, 10.0, "spot")
    return made


class TestBoard:
    def test_what_is_news(self, board: Board) -> None:
        assert board.put(JOB, task("active"))
        assert not board.put(JOB, task("active"))
        assert board.put(JOB, task("running", transition=-50))
        assert not board.put(JOB, task("active", transition=-55)), "a page that was made before"
        assert board.put(JOB, task("completed", transition=-40))

    def test_what_is_of_others(self, board: Board) -> None:
        assert not board.put("tes_spot_0123456789_2", task())
        board.drop("abc-1")
        assert not board.put(JOB, task())
        assert board.get("abc-1") is None

    def test_its_job_is_another_one(self, board: Board) -> None:
        board.put(JOB, task())
        board.expect("abc-1", JOB, 11.0)
        entry = board.get("abc-1")
        assert entry is not None
        assert entry.detail == task(), "what is known stays"
        board.expect("abc-1", "tes_spot_0123456789_2", 11.0)
        entry = board.get("abc-1")
        assert entry is not None
        assert entry.detail is None

    @pytest.mark.parametrize("after", [task("active", previous="running"), task("running", node="tvm-2"), task("preparing", node="tvm-2")])
    def test_where_it_was_before(self, board: Board, after: Task) -> None:
        board.put(JOB, task("running", startTime=at(-90)))
        board.put(JOB, after)
        entry = board.get("abc-1")
        assert entry is not None
        assert (entry.was_on, entry.was_at) == ("tvm-1", task(startTime=at(-90)).execution_info.start_time)

    @pytest.mark.parametrize("after", [task("running", startTime=at(-59)), task("completed"), task("completed", node="tvm-2", exitCode=75, **EXITED)])
    def test_it_was_nowhere_else(self, board: Board, after: Task) -> None:
        """As far as can be seen: a runner that finds the attempt taken says so."""
        board.put(JOB, task("preparing"))
        board.put(JOB, after)
        entry = board.get("abc-1")
        assert entry is not None
        assert entry.was_on == ""

    def test_jobs_that_are_of_interest(self, board: Board) -> None:
        assert board.jobs() == {JOB}
        board.put(JOB, task())
        assert board.jobs() == {JOB}
        board.put(JOB, task("completed", transition=0))
        assert board.jobs() == set()
        assert board.over() == [("abc-1", JOB)]

    def test_pools_on_which_tasks_wait(self, board: Board) -> None:
        assert board.waiting(10.0) == set(), "nobody knows whether it waits"
        board.put(JOB, task("active"))
        assert (board.waiting(9.9), board.waiting(10.0)) == (set(), {"spot"})
        board.put(JOB, task("running"))
        assert board.waiting(10.0) == set()

    def test_what_a_whole_look_does_not_show(self, board: Board) -> None:
        for name in ("shown-1", "young-1", "over-1", "other-1"):
            board.expect(name, "elsewhere" if name == "other-1" else JOB, 30.0 if name == "young-1" else 10.0)
            board.put("elsewhere" if name == "other-1" else JOB, _named(name, "completed" if name == "over-1" else "running"))
        board.put(JOB, task())
        assert board.missed(JOB, {"shown-1"}, 20.0) == ["abc-1"]
        entry = board.get("abc-1")
        assert entry is not None
        assert entry.detail is None
        assert board.missed(JOB, {"shown-1"}, 20.0) == [], "once"


class TestNames:
    @pytest.mark.parametrize(("text", "name"), [("org.example.tes", "org-example-tes"), ("---", ""), ("a_b", "a-b"), ("é", ""), ("TES", "tes")])
    def test_a_server(self, text: str, name: str) -> None:
        assert names.server(text) == name

    def test_long_ones_are_told_apart(self) -> None:
        """Else one server would end the tasks of the other as nobody's."""
        one, two = (names.server(f"tes-server-production-europe-{which}") for which in "ab")
        assert one != two
        assert {len(one), len(two)} == {names.LONGEST_SERVER}
        assert names.server("org.example.tes-server") == "org-example-tes-server", "that of the settings' default is whole"

    @pytest.mark.parametrize("server", ["t", "x" * 99, "a-" * 40])
    @pytest.mark.parametrize("pool", ["p", "P" * 64, "a_b-" * 16])
    def test_jobs_there_and_back(self, server: str, pool: str) -> None:
        series = definition.series(site(server, pool), pool, 0)
        for serial in (1, 99_999_999):
            job = str(series.job(serial)["id"])
            assert re.fullmatch(r"[a-z0-9_-]{1,64}", job), job
            assert names.parsed(names.server(server), job) == (series.name, serial)
            assert job.startswith(names.mine(names.server(server)))

    @pytest.mark.parametrize(
        "job", ["", "tes", "tes_spot_0123456789", "tes_spot_0123456789_0", "tes2_spot_0123456789_1", "tes_spot_012345678g_1", "TES_spot_0123456789_1"]
    )
    def test_what_is_of_others(self, job: str) -> None:
        assert names.parsed("tes", job) is None

    def test_an_attempt(self) -> None:
        assert names.ATTEMPT.fullmatch("01m814mpvrcf1phzpmr7c9qy3b-1")
        assert not names.ATTEMPT.fullmatch("job-manager")


class TestDefinition:
    def test_the_same_things_make_the_same_job(self) -> None:
        one, two = (definition.series(site(environment=dict(items)), "spot", 0) for items in ((("A", "1"), ("B", "2")), (("B", "2"), ("A", "1"))))
        assert one == two

    @pytest.mark.parametrize(
        "other",
        [
            definition.series(site(), "spot", 1),
            definition.series(site(pool="spot2"), "spot2", 0),
            definition.series(site(pool="x" * 20 + "a"), "x" * 20 + "a", 0),
            definition.series(site(environment={"A": "1"}), "spot", 0),
            definition.series(site(node=NodeSite(spool="az://other", spool_stores=(), run=("AZ_BATCH_JOB_ID",))), "spot", 0),
        ],
    )
    def test_other_settings_make_another_one(self, other: definition.Series) -> None:
        assert other.name != definition.series(site(), "spot", 0).name

    def test_pools_with_long_names_are_told_apart(self) -> None:
        one, two = (definition.series(site(pool=pool), pool, 0).name for pool in ("x" * 30 + "a", "x" * 30 + "b"))
        assert one != two

    def test_one_for_each_pool_and_priority(self) -> None:
        made = site(pools=(Pool(id="a", vm_size="s"), Pool(id="b", vm_size="s")), priorities={"high": 500, "urgent": 500})
        assert [(series.pool, series.body["priority"]) for series in definition.every(made)] == [("a", 0), ("a", 500), ("b", 0), ("b", 500)]

    def test_it_goes_on_when_it_is_empty(self) -> None:
        body = definition.series(site(), "spot", 0).job(1)
        assert body["onAllTasksComplete"] == "noaction"
        assert body["metadata"] == [{"name": "tes-server", "value": "tes"}]


def _named(name: str, state: str) -> Task:
    return msgspec.structs.replace(task(state), id=name)
