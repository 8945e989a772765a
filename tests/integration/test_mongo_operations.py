"""What tasks cost in MongoDB, counted at the driver: documents written, queries read, bytes that travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks.operations import Operations, counted
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.service import Service
from tes_server.model import record as model
from tes_server.model import task
from tes_server.model.principal import ALL, Principal
from tes_server.model.run import Observation, Phase
from tes_server.model.states import ENDS, State
from tes_server.plan.policy import Policy, Target
from tes_server.store import mongo
from tes_server.store.mongo_account import Account
from tests.contract.store_contract import NOW, a_record, a_task
from tests.scripted import T0, Clock, Platform, ScriptedBackend
from tests.unit.control.conftest import ABOUT, RULES

pytestmark = pytest.mark.mongo

MOST_WRITES = 6
"""Of a task that runs once: insert, intent, handle and INITIALIZING, RUNNING, end, released."""

OWNER = Principal("alice")


@pytest.fixture
def operations() -> Operations:
    return Operations(sizes=True)


@pytest.fixture
def store(mongo_account: Account, operations: Operations) -> Iterator[mongo.MongoStore]:
    made = mongo.MongoStore(mongo_account, listeners=[operations])
    made.check()
    yield made
    made.close()


class Site:
    """A service and a reconciler on one store, over a scripted platform."""

    def __init__(self, store: mongo.MongoStore) -> None:
        self.clock = Clock()
        self.platform = Platform()
        self.backend = ScriptedBackend(self.platform, place="here")
        target = {"local": Target(policy=Policy(), capabilities=self.backend.capabilities)}
        self.service = Service(store, target, [], ABOUT, "1.1", self.clock)
        self.loop = Reconciler(store, {"local": self.backend}, target, RULES, Pace(), "here", self.clock, lambda: 0.5)
        self.store = store

    def create(self, count: int) -> list[str]:
        made = [self.service.create(OWNER, a_task(name=f"n{number}", tags={"a": "b"})) for number in range(count)]
        return [each.result() for each in made]

    def run(self, ids: list[str], until: Callable[[list[model.Record]], bool]) -> None:
        """Passes, each with news of every task, as the local backend gives it."""
        for _ in range(50):
            self.loop.hear(ids)
            self.loop.tick()
            self.clock.forward(5)
            if until(self.store.load(ids)):
                return
        raise AssertionError("the tasks did not come so far")


@pytest.fixture
def site(store: mongo.MongoStore) -> Site:
    return Site(store)


def rested(records: list[model.Record]) -> bool:
    return all(record.state in ENDS and record.lane is None for record in records)


def test_a_task_is_written_a_few_times_over_its_life(site: Site, operations: Operations) -> None:
    operations.take()
    ids = site.create(20)
    assert counted(operations.take()) == (20, 0), "a create is one document, and no read"
    site.run(ids, rested)
    seen = [each for each in operations.take() if each.collection == "tasks"]
    assert counted(seen)[0] == (MOST_WRITES - 1) * len(ids)
    assert all(record.state is State.COMPLETE for record in site.store.load(ids))
    site.store.get(ALL, ids[0], model.View.FULL)
    assert [(each.kind, each.documents) for each in operations.take()][-1:] == [("find", 1)], "a look is one read"


def test_a_sweep_that_sees_no_change_writes_nothing_and_reads_a_page(site: Site, operations: Operations) -> None:
    site.platform.script = lambda _: [Observation(phase=Phase.RUNNING, start_time=T0)]
    ids = site.create(50)
    site.run(ids, lambda records: all(record.state is State.RUNNING for record in records))
    site.loop.tick()  # what the start left to be looked at
    site.clock.forward(20)
    operations.take()
    observed = site.backend.calls["observe"]
    site.loop.tick()
    assert site.backend.calls["observe"] == observed + 1, "all of them in one call"
    seen = operations.take()
    board = [each for each in seen if each.collection == "meta"]
    assert counted(seen)[0] == counted(board)[0]
    reads = [each for each in seen if each.collection != "meta"]
    assert sorted(each.kind for each in reads if each.documents >= len(ids)) == ["find"]
    assert len(reads) <= 6


def test_what_is_not_wanted_is_not_sent(store: mongo.MongoStore, operations: Operations) -> None:
    """The parts lie in the document that lists and the reconciler read: they must not travel with it."""
    part = "x" * 3000
    whole = a_record(
        "a", lane=model.Lane.ACTIVE, task=a_task(description=part), logs=model.Logs(outputs=(task.OutputFileLog(url=part, path="/", size_bytes="1"),))
    )
    store.insert([whole]).result()
    reads: dict[str, Callable[[], object]] = {
        "due": lambda: store.due(model.Lane.ACTIVE, model.ALL_SHARDS, NOW, 10),
        "load": lambda: store.load(["a"]),
        "sweep": lambda: store.sweep(model.ALL_SHARDS, "", 10),
        "minimal": lambda: store.get(ALL, "a", model.View.MINIMAL),
        "list": lambda: store.page(model.Query(scope=ALL)),
    }
    for name, read in reads.items():
        operations.take()
        assert read(), name
        (seen,) = operations.take()
        assert 0 < seen.size < 1000, name
    assert store.get(ALL, "a", model.View.FULL) == whole
    assert operations.take()[-1].size > 6000


def test_the_listener_follows_a_document_through_its_updates(store: mongo.MongoStore, operations: Operations) -> None:
    """What the estimate of request units is made of (`benchmarks.ru`)."""
    record = a_record("a")
    store.insert([record]).result()
    change = model.Change(
        id="a", revision=0, state=State.RUNNING, canceling=False, lane=None, due=None, status=record.status, detail=model.Detail(("x" * 1000,))
    )
    operations.take()
    assert store.save([change]) == set()
    (update,) = operations.take()
    store.get(ALL, "a", model.View.FULL)
    (read,) = operations.take()
    assert update.size == read.size > 1000
