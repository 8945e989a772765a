"""What every store promises (`tes_server/store/base.py`): one abstract suite, run on every implementation.

A subclass gives two fixtures: `store`, empty, and `peer`, a second store on the same data as another process would open it.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import threading
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tes_server import errors
from tes_server.model import record as model
from tes_server.model import run, task
from tes_server.model.principal import ALL, Scope
from tes_server.model.states import ENDS, LIVE, State
from tes_server.model.verdict import Finding, Outcome, ScanKey, Verdict
from tes_server.store.base import VERDICTS_KEPT, Restored, Seen, Store

NOW = datetime.datetime(2025, 6, 1, 12, 0, 0, 123457, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
ALICE = Scope("alice")


def a_task(**fields: Any) -> task.Task:
    return task.Task(executors=(task.Executor(image="alpine", command=("true", "", "$x")),), **fields)


def a_record(task_id: str, **fields: Any) -> model.Record:
    """A new record as `control.service` makes it, with some fields otherwise."""
    return model.Record(
        **{
            "id": task_id,
            "owner": "alice",
            "created": NOW,
            "state": State.QUEUED,
            "lane": model.Lane.WAITING,
            "due": NOW,
            "status": model.Status(backend="local", rule="default"),
            "task": a_task(),
            **fields,
        }
    )


def a_change(record: model.Record, **fields: Any) -> model.Change:
    """A save of `record` that changes nothing but what is named."""
    same = {name: getattr(record, name) for name in ("id", "revision", "state", "canceling", "lane", "due", "status")}
    return model.Change(**{**same, **fields})


def a_verdict(number: int, late: float = 0, **fields: Any) -> Verdict:
    """About image `number`, scanned `late` seconds after `NOW`; with something in every field."""
    scanned = NOW + late * SECOND
    return Verdict(
        **{
            "key": ScanKey(f"sha256:{number:064x}", "0123456789abcdef"),
            "outcome": Outcome.FAIL,
            "image": f"127.0.0.1:5000/é/{number}:latest",
            "scanner": "trivy",
            "scanner_version": "0.69.3",
            "database": "2025-06-01T00:00:00Z",
            "scanned_at": scanned,
            "expires_at": scanned + datetime.timedelta(hours=24),
            "counts": {"CRITICAL": 1, "LOW": 70},
            "reasons": ("1 CRITICAL finding that has a fix",),
            "scan": "s" * 26,
            "top": (Finding(id="CVE-2025-1", severity="CRITICAL", package="zlib", installed="1", fixed="2", title="\x00", url="https://x/1"),),
            "message": "no",
            **fields,
        }
    )


def ids_of(found: Sequence[model.Brief]) -> list[str]:
    return [each.id for each in found]


def listed(store: Store, **fields: Any) -> list[str]:
    """All ids of a list, page by page."""
    query = model.Query(**{"scope": ALL, **fields})
    found: list[str] = []
    while True:
        page = store.page(query)
        assert len(page.tasks) <= query.size
        assert page.tasks or query.after is None, "a page after the first one is never empty"
        found += ids_of(page.tasks)
        if page.after is None:
            return found
        query = model.Query(**{"scope": ALL, **fields, "after": page.after})


def an_end(task_id: str, **fields: Any) -> model.Record:
    """A record at rest: nothing of it is left on any platform."""
    return a_record(task_id, **{"state": State.COMPLETE, "lane": None, "due": None, "revision": 3, **fields})


def rested(store: Store, shards: frozenset[int] = model.ALL_SHARDS, late: int = 1, limit: int = 3) -> list[model.Record]:
    """All records of `at_rest`, page by page."""
    found: list[model.Record] = []
    after = ""
    while True:
        page, after = store.at_rest(shards, NOW + late * SECOND, after, limit)
        assert len(page) <= limit
        found += page
        if not after:
            return found


def whole(store: Store, *ids: str) -> list[model.Record]:
    """All portions of `whole`."""
    portions = list(store.whole(ids))
    assert all(portions)
    return [record for portion in portions for record in portion]


LARGE = model.Record(
    id="large",
    owner="alice",
    created=NOW,
    revision=4,
    state=State.EXECUTOR_ERROR,
    status=model.Status(backend="local", rule="default", end_time=NOW),
    task=a_task(
        name="n" * 300,
        inputs=(task.Input(path="/c", content="x" * 3_000_000), task.Input(path="/d", url="file:///d")),
        tags={"k": "v", "long": "v" * 100},
    ),
    logs=model.Logs(executors=(task.ExecutorLog(exit_code=1, stdout="y" * 9000),)),
    detail=model.Detail(system_logs=("z" * 9000,), streams=(("out", "err"),)),
)
"""With something in every table and collection there is."""


def passes(record: model.Record, query: model.Query) -> bool:
    """The plain words of `Query`: the model that `page` is held to."""
    assert record.task is not None
    tags = record.task.tags or {}
    return (
        query.scope.owner in (None, record.owner)
        and (not query.name_prefix or (record.task.name or "").startswith(query.name_prefix))
        and (query.state is None or (record.state in query.state.states and query.state.canceling in (None, record.canceling)))
        and all(key in tags and value in ("", tags[key]) for key, value in query.tags)
    )


def model_page(records: Sequence[model.Record], query: model.Query) -> list[str]:
    """What a list holds from its first page to its last."""
    newest = sorted(records, key=lambda record: (record.created, record.id), reverse=True)
    return [record.id for record in newest if passes(record, query)]


# Few distinct values, so that filters meet tasks; all that some database treats as special.
NAMES = st.sampled_from(["ab", "aB", "a_", "a%", "a*", "a?", "a[b]", "a\x00b", "å", "日本", "\U0010ffff", "x" * 99, "x" * 100 + "y", "x" * 300, "é" * 60])
PREFIXES = st.builds(lambda name, length: name[:length], NAMES, st.sampled_from([0, 1, 2, 50, 99, 100, 101, 300]))
KEYS = st.sampled_from(["k", "k\x00", "K" * 70])
VALUES = st.sampled_from(["", "v", "V", "v" * 70])
STATES = st.sampled_from(sorted(LIVE | ENDS))
NEW = st.fixed_dictionaries(
    {
        "owner": st.sampled_from(["alice", "bob"]),
        "created": st.integers(0, 5).map(lambda late: NOW + late * datetime.timedelta(microseconds=1)),
        "state": STATES,
        "canceling": st.booleans(),
        "name": st.one_of(st.none(), NAMES),
        "tags": st.dictionaries(KEYS, VALUES, max_size=3),
    }
)
QUERIES = st.builds(
    model.Query,
    scope=st.sampled_from([ALICE, ALL]),
    view=st.sampled_from(list(model.View)),
    size=st.integers(1, 12),
    name_prefix=PREFIXES,
    state=st.one_of(st.none(), st.builds(model.StateFilter, st.frozensets(STATES, min_size=2), st.sampled_from([None, None, True, False]))),
    tags=st.sampled_from([0, 0, 1, 1, 2, 3]).flatmap(lambda count: st.tuples(*[st.tuples(KEYS, VALUES)] * count)),
)


def hold_pages_to_the_model(store: Store, examples: int) -> None:
    """Fill `store` bit by bit with random tasks and compare random lists, walked page by page, with the model."""
    records: list[model.Record] = []

    # The tasks of all examples stay in the store: later lists are long ones, and to shrink an example would mean nothing.
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None, phases=[Phase.generate])
    @given(st.lists(NEW, min_size=1, max_size=8), st.lists(QUERIES, min_size=4, max_size=8))
    def compare(news: list[dict[str, Any]], queries: list[model.Query]) -> None:
        made = [
            a_record(f"t{(len(records) + number) * 7919 % 100_003:06d}", task=a_task(name=new.pop("name"), tags=new.pop("tags")), **new)
            for number, new in enumerate(map(dict, news))
        ]
        store.insert(made).result()
        records.extend(made)
        for query in queries:
            fields = {name: getattr(query, name) for name in query.__struct_fields__ if name != "after"}
            assert listed(store, **fields) == model_page(records, query)

    compare()


class StoreContract:
    """Subclass it as `Test...` with the fixtures `store` and `peer`."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def peer(self, store: Store) -> Store:
        raise NotImplementedError

    # -- insert and get

    def test_a_full_record_comes_back_as_it_was(self, store: Store) -> None:
        whole = a_record(
            "a",
            created=NOW.astimezone(datetime.timezone(datetime.timedelta(hours=5))),
            revision=3,
            canceling=True,
            status=model.Status(
                backend="k", rule="r", attempt=2, submitting=NOW, handle=run.Handle("k", "a-2", "x"), failures={"LOST": 1}, metadata={"node": "\x00n"}
            ),
            task=a_task(
                name="n\x00m",
                inputs=(task.Input(path="/a", content=""), task.Input(path="/b", url="file:///b"), task.Input(path="/c", content="日\x00\n" * 50_000)),
                tags={"": "", "k\x00": "v" * 10_000},
            ),
            logs=model.Logs(executors=(task.ExecutorLog(exit_code=0),)),
            detail=model.Detail(system_logs=("OOM: x",), streams=(("out", "err\x00"),)),
        )
        store.insert([whole]).result()
        assert store.get(ALICE, "a", model.View.FULL) == whole

    def test_each_view_reads_its_parts(self, store: Store) -> None:
        inputs = (task.Input(path="/a", url="file:///a"), task.Input(path="/b", content="secret"))
        store.insert([a_record("a", task=a_task(inputs=inputs), logs=model.Logs(), detail=model.Detail())]).result()
        minimal = store.get(ALICE, "a", model.View.MINIMAL)
        assert minimal is not None
        assert (minimal.id, minimal.state, minimal.canceling) == ("a", State.QUEUED, False)
        basic = store.get(ALICE, "a", model.View.BASIC)
        assert isinstance(basic, model.Record)
        assert basic.task == a_task(inputs=(inputs[0], task.Input(path="/b")))
        assert (basic.logs, basic.detail) == (model.Logs(), None)
        full = store.get(ALICE, "a", model.View.FULL)
        assert isinstance(full, model.Record)
        assert full.task == a_task(inputs=inputs)
        assert (full.logs, full.detail) == (model.Logs(), model.Detail())

    def test_a_page_has_the_same_views(self, store: Store) -> None:
        store.insert([a_record("a", task=a_task(inputs=(task.Input(path="/b", content="x"),)))]).result()
        for view in (model.View.BASIC, model.View.FULL):
            assert store.page(model.Query(scope=ALICE, view=view)).tasks == [store.get(ALICE, "a", view)]

    @pytest.mark.parametrize("view", list(model.View))
    def test_other_owners_and_unknown_ids_are_none(self, store: Store, view: model.View) -> None:
        store.insert([a_record("a")]).result()
        assert store.get(Scope("bob"), "a", view) is None
        assert store.get(ALICE, "a\x00", view) is None
        assert store.get(ALL, "b", view) is None
        assert store.get(ALL, "a", view) is not None

    def test_a_taken_id_is_a_conflict_and_nothing_of_the_call_is_kept(self, store: Store) -> None:
        store.insert([a_record("a", owner="bob")]).result()
        calls = [store.insert([a_record("b")]), store.insert([a_record("c"), a_record("a")]), store.insert([a_record("d")])]
        calls[0].result()
        with pytest.raises(errors.Conflict):
            calls[1].result()
        calls[2].result()
        assert store.get(ALL, "c", model.View.MINIMAL) is None
        assert listed(store) == ["d", "b", "a"]
        first = store.get(ALL, "a", model.View.FULL)
        assert isinstance(first, model.Record)
        assert first.owner == "bob"

    def test_one_id_twice_in_one_call_is_a_conflict(self, store: Store) -> None:
        with pytest.raises(errors.Conflict):
            store.insert([a_record("a"), a_record("a")]).result()
        assert listed(store) == []

    def test_of_many_that_insert_one_id_one_wins(self, store: Store, peer: Store) -> None:
        calls: list[concurrent.futures.Future[None]] = [each.insert([a_record("a")]) for each in (store, peer) * 10]
        outcomes = [call.exception() for call in calls]
        assert outcomes.count(None) == 1
        assert {type(outcome) for outcome in outcomes} == {type(None), errors.Conflict}

    def test_nothing_to_insert_is_fine(self, store: Store) -> None:
        store.insert([]).result()
        assert store.save([]) == set()

    def test_what_is_done_is_seen_by_others(self, store: Store, peer: Store) -> None:
        store.insert([a_record("a")]).result()
        assert listed(peer) == ["a"]
        assert peer.save([a_change(a_record("a"), state=State.RUNNING)]) == set()
        seen = store.get(ALL, "a", model.View.MINIMAL)
        assert seen is not None
        assert seen.state == State.RUNNING

    # -- save

    def test_save_compares_the_revision_of_each_change_by_itself(self, store: Store) -> None:
        records = [a_record(name) for name in "abc"]
        store.insert(records).result()
        assert store.save([a_change(records[0], state=State.RUNNING)]) == set()
        stale = a_change(records[0], state=State.COMPLETE)
        assert store.save([stale, a_change(records[1], canceling=True), a_change(a_record("zz"))]) == {"a", "zz"}
        found = {each.id: each for each in store.page(model.Query(scope=ALL, view=model.View.BASIC)).tasks}
        assert {name: (each.state, each.canceling, each.revision) for name, each in found.items() if isinstance(each, model.Record)} == {
            "a": (State.RUNNING, False, 1),
            "b": (State.QUEUED, True, 1),
            "c": (State.QUEUED, False, 0),
        }

    def test_of_two_saves_of_one_revision_one_loses(self, store: Store, peer: Store) -> None:
        record = a_record("a")
        store.insert([record]).result()
        lost: list[set[str]] = []
        barrier = threading.Barrier(2)

        def save(side: Store) -> None:
            barrier.wait()
            lost.append(side.save([a_change(record)]))

        threads = [threading.Thread(target=save, args=(side,)) for side in (store, peer)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(lost, key=len) == [set(), {"a"}]

    def test_a_save_changes_what_it_names_and_no_more(self, store: Store) -> None:
        record = a_record("a", task=a_task(inputs=(task.Input(path="/b", content="x"),)))
        store.insert([record]).result()
        logs, detail = model.Logs(executors=(task.ExecutorLog(exit_code=3),)), model.Detail(system_logs=("LOST: x",))
        status = model.Status(backend="local", rule="default", attempt=2)
        steps = [
            a_change(record, lane=model.Lane.ACTIVE, due=NOW + SECOND, status=status, detail=detail),
            a_change(record, revision=1, state=State.COMPLETE, lane=None, due=None, status=status, logs=logs),
        ]
        for step in steps:
            assert store.save([step]) == set()
        expected = a_record("a", task=record.task, revision=2, state=State.COMPLETE, lane=None, due=None, status=status, logs=logs, detail=detail)
        assert store.get(ALICE, "a", model.View.FULL) == expected

    # -- lists

    def test_newest_first_then_by_id(self, store: Store) -> None:
        store.insert([a_record("b"), a_record("c", created=NOW - SECOND), a_record("a", created=NOW + SECOND), a_record("d")]).result()
        assert listed(store) == ["a", "d", "b", "c"]
        assert listed(store, size=1) == ["a", "d", "b", "c"]

    def test_the_last_page_is_full_and_has_no_successor(self, store: Store) -> None:
        store.insert([a_record(name) for name in "abcd"]).result()
        first = store.page(model.Query(scope=ALL, size=2))
        assert first.after == (NOW, "c")
        assert store.page(model.Query(scope=ALL, size=2, after=first.after)).after is None
        assert store.page(model.Query(scope=ALL, size=4)).after is None
        assert store.page(model.Query(scope=Scope("bob"))) == model.Page([], None)

    def test_a_walk_meets_each_task_once_while_others_are_inserted(self, store: Store) -> None:
        store.insert([a_record(f"{number:03d}", created=NOW + number * SECOND) for number in range(10)]).result()
        seen: list[str] = []
        after = None
        for turn in range(5):
            page = store.page(model.Query(scope=ALICE, size=2, after=after))
            seen += ids_of(page.tasks)
            after = page.after
            store.insert([a_record(f"new-{turn}", created=NOW + (100 + turn) * SECOND)]).result()
        assert seen == [f"{number:03d}" for number in range(9, -1, -1)]

    @pytest.mark.parametrize("name", ["a_b", "a%b", "a*b", "a?b", "a[b", "a\\b", "a.b", "^ab", "a\x00b", "aB", "日本", "x" * 5000])
    def test_a_name_prefix_is_literal(self, store: Store, name: str) -> None:
        names = [name, name[:-1] + "Z", "axb", "ab", "x" * 4999, name.swapcase() + "!"]
        store.insert([a_record(f"{number}", task=a_task(name=each)) for number, each in enumerate(names)] + [a_record("unnamed")]).result()
        assert listed(store, name_prefix=name) == [f"{number}" for number in reversed(range(len(names))) if names[number].startswith(name)]
        assert "0" in listed(store, name_prefix=name[:-1] or name)

    def test_names_that_differ_late_are_told_apart(self, store: Store) -> None:
        long = "é" * 1_000_000
        store.insert(
            [a_record("a", task=a_task(name=f"{long}a")), a_record("b", task=a_task(name=f"{long}b")), a_record("c", task=a_task(name=long[:100]))]
        ).result()
        assert listed(store, name_prefix=f"{long}b") == ["b"]
        assert listed(store, name_prefix=long) == ["b", "a"]
        assert listed(store, name_prefix=long[:100]) == ["c", "b", "a"]

    def test_tags_must_all_hold_and_an_empty_value_means_any(self, store: Store) -> None:
        long = "v" * 10_000
        tags = {
            "a": {"k": "v", "l": "w"},
            "b": {"k": "v"},
            "c": {"k": "x", "l": ""},
            "d": {},
            "e": {"K": "v", "k\x00": "v"},
            "f": {long: long, "m": f"{long}2"},
        }
        store.insert([a_record(name, task=a_task(tags=each)) for name, each in tags.items()]).result()
        assert listed(store, tags=(("k", "v"),)) == ["b", "a"]
        assert listed(store, tags=(("k", ""),)) == ["c", "b", "a"]
        assert listed(store, tags=(("k", "v"), ("l", ""))) == ["a"]
        assert listed(store, tags=(("k", "x"), ("l", "w"))) == []
        assert listed(store, tags=((long, long),)) == ["f"]
        assert listed(store, tags=(("m", long),)) == []
        assert listed(store, tags=(("k\x00", "v"),)) == ["e"]

    def test_state_filter(self, store: Store) -> None:
        store.insert(
            [a_record("a"), a_record("b", canceling=True), a_record("c", state=State.RUNNING, canceling=True), a_record("d", state=State.COMPLETE)]
        ).result()
        queued = frozenset({State.QUEUED})
        assert listed(store, state=model.StateFilter(queued)) == ["b", "a"]
        assert listed(store, state=model.StateFilter(queued, canceling=False)) == ["a"]
        assert listed(store, state=model.StateFilter(LIVE, canceling=True)) == ["c", "b"]
        assert listed(store, state=model.StateFilter(frozenset(State))) == ["d", "c", "b", "a"]
        assert listed(store, state=model.StateFilter(frozenset())) == []
        store.save([a_change(a_record("a"), state=State.COMPLETE, lane=None, due=None)])
        assert listed(store, state=model.StateFilter(frozenset({State.COMPLETE}))) == ["d", "a"]

    examples = 100
    """Of random lists; fewer where each costs a network."""

    def test_pages_equal_the_model(self, store: Store) -> None:
        hold_pages_to_the_model(store, self.examples)

    # -- the reconciler's reads

    def test_one_holds_all_work_until_it_lets_go(self, store: Store, peer: Store) -> None:
        assert store.hold("first", NOW) == model.ALL_SHARDS
        assert store.hold("first", NOW + SECOND) == model.ALL_SHARDS
        assert store.alive() == {"first"}
        assert peer.hold("second", NOW + SECOND) == frozenset()
        assert "second" in peer.alive()
        store.close()
        assert peer.hold("second", NOW + 3600 * SECOND) == model.ALL_SHARDS

    def test_active_by_due_time_with_status_and_detail(self, store: Store) -> None:
        detail = model.Detail(system_logs=("x",))
        active = [
            a_record(name, lane=model.Lane.ACTIVE, due=NOW + late * SECOND, detail=detail, logs=model.Logs())
            for name, late in (("a", 3), ("b", 1), ("c", 2), ("d", 9))
        ]
        store.insert([*active, a_record("w"), a_record("rest", state=State.COMPLETE, lane=None, due=None)]).result()
        due = store.due(model.Lane.ACTIVE, model.ALL_SHARDS, NOW + 3 * SECOND, 10)
        assert ids_of(due) == ["b", "c", "a"]
        assert all((each.task, each.logs, each.detail) == (None, None, detail) for each in due)
        assert ids_of(store.due(model.Lane.ACTIVE, model.ALL_SHARDS, NOW + 3 * SECOND, 2)) == ["b", "c"]
        assert ids_of(store.sweep(model.ALL_SHARDS, "", 3)) == ["a", "b", "c"]
        assert ids_of(store.sweep(model.ALL_SHARDS, "c", 3)) == ["d"]
        assert store.sweep(model.ALL_SHARDS, "a", 1) == [due[0]]

    def test_waiting_is_shared_fairly_between_owners(self, store: Store) -> None:
        late = a_record("late", owner="alice", created=NOW - 10 * SECOND, due=NOW + 100 * SECOND)
        alice = [a_record(f"a{number:02d}", created=NOW + number * SECOND, due=NOW) for number in range(40)]
        bob = [a_record(f"b{number}", owner="bob", created=NOW + (100 + number) * SECOND, due=NOW) for number in range(2)]
        carol = [a_record("c0", owner="carol", created=NOW - SECOND, due=NOW)]
        store.insert([late, *alice, *bob, *carol]).result()
        now = NOW + 50 * SECOND
        assert ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, now, 7)) == ["c0", "a00", "b0", "a01", "b1", "a02", "a03"]
        assert ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, now, 2)) == ["c0", "a00"]
        assert len(store.due(model.Lane.WAITING, model.ALL_SHARDS, now, 100)) == 43
        assert len(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW + 100 * SECOND, 100)) == 44

    def test_what_waits_does_not_wait_for_a_clock_that_was_set_back(self, store: Store) -> None:
        new = a_record("new", created=NOW + 60 * SECOND, due=NOW + 60 * SECOND)
        put_off = a_record("off", created=NOW + 1800 * SECOND, due=NOW + 3600 * SECOND)
        by_a_wrong_clock = a_record("wrong", created=NOW + 10**8 * SECOND, due=NOW + (10**8 + 60) * SECOND)
        store.insert([new, put_off, by_a_wrong_clock]).result()
        assert ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 10)) == ["new", "wrong"]

    def test_waiting_has_the_whole_task(self, store: Store) -> None:
        whole = a_record("a", task=a_task(inputs=(task.Input(path="/b", content="x"),)), detail=model.Detail(system_logs=("x",)))
        store.insert([whole]).result()
        assert store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 1) == [whole]

    def test_work_of_other_shards_is_left_alone(self, store: Store) -> None:
        names = [f"t{number}" for number in range(50)]
        store.insert([a_record(name, lane=lane, due=NOW) for name, lane in zip(names, (model.Lane.ACTIVE, model.Lane.WAITING) * 25, strict=True)]).result()
        half = frozenset(range(32))
        for lane, mine in ((model.Lane.ACTIVE, names[::2]), (model.Lane.WAITING, names[1::2])):
            expected = {name for name in mine if model.shard_of(name) in half}
            assert set(ids_of(store.due(lane, half, NOW, 100))) == expected
            assert store.due(lane, frozenset(), NOW, 100) == []
        assert ids_of(store.sweep(half, "", 100)) == sorted(name for name in names[::2] if model.shard_of(name) in half)

    def test_what_is_here_is_found_in_every_one_of_our_shards(self, store: Store) -> None:
        there = {name: model.Status(backend="local", rule="r", handle=run.Handle("local", f"{name}-1", place="here")) for name in ("a", "b")}
        intended = model.Status(backend="local", rule="r", submitting=NOW, place="here")
        old = model.Status(backend="local", rule="r", attempt=2, release=(run.Handle("local", "d-1", place="here"),))
        for name, status in {**there, "c": intended, "d": old, "e": model.Status(backend="k", rule="r")}.items():
            store.insert([a_record(name, lane=model.Lane.ACTIVE, due=NOW, status=status)]).result()
        assert sorted(ids_of(store.due(model.Lane.ACTIVE, model.ALL_SHARDS, NOW, 10, "here"))) == ["a", "b", "c", "d", "e"]
        assert ids_of(store.sweep(model.ALL_SHARDS, "", 10, "here")) == ["a", "b", "c", "d", "e"]

    def test_load_reads_any_lane(self, store: Store) -> None:
        detail = model.Detail(system_logs=("x",))
        store.insert([a_record("a", detail=detail), a_record("b", state=State.COMPLETE, lane=None, due=None)]).result()
        found = store.load(["b", "nobody", "a"])
        assert sorted(ids_of(found)) == ["a", "b"]
        assert {each.id: (each.task, each.detail) for each in found} == {"a": (None, detail), "b": (None, None)}
        assert store.load([]) == []

    def test_of_each_owner_no_more_is_due_than_its_share(self, store: Store) -> None:
        asked: list[list[str]] = []

        def shares(owners: Collection[str]) -> dict[str, int]:
            asked.append(sorted(owners))
            return {"alice": 2, "bob": 100, "carol": 0}

        alice = [a_record(f"a{number:02d}", created=NOW + number * SECOND, due=NOW) for number in range(40)]
        bob = [a_record(f"b{number}", owner="bob", created=NOW + (100 + number) * SECOND, due=NOW) for number in range(3)]
        carol = [a_record("c0", owner="carol", created=NOW - SECOND, due=NOW)]
        runs = a_record("d0", owner="dora", lane=model.Lane.ACTIVE)
        store.insert([*alice, *bob, *carol, runs]).result()
        for limit in (100, 20, 5):
            assert ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, limit, shares=shares)) == ["a00", "b0", "a01", "b1", "b2"]
        assert ids_of(store.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 3, shares=shares)) == ["a00", "b0", "a01"]
        assert asked == [["alice", "bob", "carol"]] * 4

    def test_under_way_is_what_is_active_and_has_not_ended(self, store: Store, peer: Store) -> None:
        active, ended = {"lane": model.Lane.ACTIVE}, {"state": State.COMPLETE}
        waits, again, runs = a_record("a"), a_record("b", **active), a_record("c", state=State.RUNNING, **active)
        store.insert([waits, again, runs, a_record("d", **active, **ended), a_record("e", lane=None, due=None, **ended)]).result()
        store.insert([a_record("f", owner="bob", state=State.INITIALIZING, canceling=True, **active)]).result()
        assert peer.under_way(["alice", "bob", "nobody"]) == {"alice": 2, "bob": 1, "nobody": 0}
        assert peer.under_way(["bob"]) == {"bob": 1}
        assert peer.under_way([]) == {}
        store.save([a_change(waits, lane=model.Lane.ACTIVE), a_change(runs, state=State.COMPLETE), a_change(again, lane=model.Lane.WAITING)])
        assert peer.under_way(["alice"]) == {"alice": 1}

    def test_census_counts_what_has_not_ended(self, store: Store) -> None:
        assert store.census() == dict.fromkeys(LIVE, 0)
        store.insert(
            [a_record("a"), a_record("b", owner="bob", canceling=True), a_record("c", state=State.RUNNING), a_record("d", state=State.COMPLETE)]
        ).result()
        assert store.census() == {State.QUEUED: 2, State.INITIALIZING: 0, State.RUNNING: 1}
        assert store.census(Scope("bob")) == {State.QUEUED: 1, State.INITIALIZING: 0, State.RUNNING: 0}
        assert store.census(Scope("nobody")) == dict.fromkeys(LIVE, 0)

    # -- verdicts of image scans

    def test_verdicts_are_kept_for_everybody(self, store: Store, peer: Store) -> None:
        mine = [a_verdict(number) for number in range(3)]
        other = msgspec.structs.replace(mine[0], key=ScanKey(mine[0].key.digest, "f" * 16), outcome=Outcome.PASS)
        assert store.verdicts([verdict.key for verdict in mine]) == {}
        for verdict in (*mine, other):
            store.keep(verdict)
        assert peer.verdicts([mine[0].key, mine[2].key, a_verdict(9).key]) == {mine[0].key: mine[0], mine[2].key: mine[2]}
        assert peer.verdicts({other.key}) == {other.key: other}
        assert peer.verdicts([]) == {}
        assert peer.walk("", 10) == [], "no tasks"
        assert peer.verdicts([a_verdict(number).key for number in range(1200)]) == {verdict.key: verdict for verdict in mine}

    def test_an_older_verdict_never_takes_the_place_of_a_newer_one(self, store: Store, peer: Store) -> None:
        passing, failing = a_verdict(1, outcome=Outcome.PASS), a_verdict(1, late=0.000001)
        store.keep(passing)
        store.keep(failing)
        peer.keep(passing)
        assert store.verdicts([passing.key]) == {passing.key: failing}
        same = a_verdict(1, late=0.000001, outcome=Outcome.FORGOTTEN)
        peer.keep(same)
        assert store.verdicts([passing.key]) == {passing.key: same}, "of the same moment: the last"

    def test_the_newest_of_many_verdicts_at_once_is_there_at_the_end(self, store: Store, peer: Store) -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            made = [pool.submit((store, peer)[late % 2].keep, a_verdict(1, late=late * 7 % 20)) for late in range(20)]
            assert [each.result() for each in made] == [None] * 20
        assert store.verdicts([a_verdict(1).key]) == {a_verdict(1).key: a_verdict(1, late=19)}

    def test_all_verdicts_page_by_page(self, store: Store) -> None:
        assert store.all_verdicts(None, 10) == []
        made = [a_verdict(number, key=ScanKey(f"sha256:{number:064x}", policy)) for number in (3, 0, 300, 17) for policy in ("b" * 16, "0" * 16)]
        for verdict in made:
            store.keep(verdict)
        found: list[Verdict] = []
        while page := store.all_verdicts(found[-1].key if found else None, 3):
            found += page
        assert found == sorted(made, key=lambda verdict: verdict.key)

    def test_verdicts_that_expired_long_ago_go(self, store: Store) -> None:
        old = [a_verdict(number, late=number) for number in range(3)]
        for verdict in old:
            store.keep(verdict)
        late = (old[1].expires_at + VERDICTS_KEPT - NOW).total_seconds()
        store.keep(a_verdict(8, late=late))
        assert store.all_verdicts(None, 10) == [*old[1:], a_verdict(8, late=late)]

    # -- live output

    def test_tails_live_until_the_end(self, store: Store, peer: Store) -> None:
        record = a_record("a", state=State.RUNNING)
        store.insert([record]).result()
        assert store.tail("a") is None
        for text in ("one\x00", "two"):
            tails = run.Tails(1, (task.ExecutorLog(stdout=text),))
            store.tail("a", tails)
            assert peer.tail("a") == tails
        assert store.save([a_change(record, state=State.COMPLETE, lane=None, due=None)]) == set()
        assert peer.tail("a") is None
        store.tail("a", run.Tails(1))
        store.tail("nobody", run.Tails(1))
        assert peer.tail("a") is None
        assert peer.tail("nobody") is None

    def test_a_save_that_lost_ends_no_tail(self, store: Store) -> None:
        record = a_record("a", state=State.RUNNING)
        store.insert([record]).result()
        store.tail("a", run.Tails(1))
        assert store.save([a_change(record, revision=7, state=State.COMPLETE)]) == {"a"}
        assert store.tail("a") == run.Tails(1)

    def test_watches_run_out_and_end_with_the_task(self, store: Store, peer: Store) -> None:
        records = [a_record("a", state=State.RUNNING), a_record("b", state=State.RUNNING), a_record("c", state=State.COMPLETE, lane=None, due=None)]
        store.insert(records).result()
        for name, late in (("a", 10), ("b", 20), ("c", 20), ("nobody", 20)):
            store.watch(name, NOW + late * SECOND)
        store.tail("a", run.Tails(1))  # a later write of the same store
        assert peer.watched(NOW) == {"a", "b"}
        assert peer.watched(NOW + 15 * SECOND) == {"b"}
        store.watch("a", NOW + 60 * SECOND)
        store.tail("a", run.Tails(1))
        assert peer.watched(NOW + 15 * SECOND) == {"a", "b"}
        store.save([a_change(records[1], state=State.CANCELED, lane=None, due=None)])
        assert peer.watched(NOW) == {"a"}

    # -- records that go, and come from elsewhere

    def test_at_rest_are_ended_tasks_in_no_lane_of_these_shards(self, store: Store) -> None:
        ends = [an_end(f"e{number}", owner=f"o{number % 3}", created=NOW - number * SECOND, state=sorted(ENDS)[number % 4]) for number in range(11)]
        others = [
            a_record("waits", created=NOW - 9 * SECOND),
            a_record("runs", created=NOW - 9 * SECOND, state=State.RUNNING, lane=model.Lane.ACTIVE),
            an_end("releases", created=NOW - 9 * SECOND, lane=model.Lane.ACTIVE, due=NOW),
            an_end("young", created=NOW + SECOND),
        ]
        store.insert([*ends, *others]).result()
        for limit in (1, 3, 100):
            found = rested(store, limit=limit)
            assert sorted(found, key=lambda record: record.id) == [msgspec.structs.replace(record, task=None) for record in sorted(ends, key=lambda e: e.id)]
        half = frozenset(range(32))
        assert {each.id for each in rested(store, half)} == {each.id for each in ends if model.shard_of(each.id) in half}
        assert rested(store, frozenset()) == []
        assert {each.id for each in rested(store, late=-5)} == {f"e{number}" for number in range(6, 11)}

    def test_what_is_expired_is_gone_with_all_that_was_kept_of_it(self, store: Store, peer: Store) -> None:
        running = a_record("small", state=State.RUNNING, lane=model.Lane.ACTIVE)
        store.insert([LARGE, running, an_end("stays")]).result()
        store.tail("small", run.Tails(1))
        store.watch("small", NOW + 60 * SECOND)
        assert store.save([a_change(running, state=State.COMPLETE, lane=None, due=None)]) == set()
        assert peer.expire([each for each in rested(peer) if each.id != "stays"]) == 2
        assert listed(store) == ["stays"]
        assert store.get(ALL, "large", model.View.FULL) is None
        assert store.load(["large", "small"]) == []
        assert whole(store, "large", "small") == []
        assert listed(store, tags=(("k", "v"),)) == listed(store, name_prefix="n") == []
        assert store.tail("small") is None
        assert store.watched(NOW) == set()
        assert store.count() == 1
        # What is left of neither lies in the way of a new one.
        store.insert([LARGE]).result()
        assert whole(store, "large") == [LARGE]
        assert listed(store, tags=(("k", "v"),)) == ["large"]

    def test_what_was_changed_since_does_not_go(self, store: Store) -> None:
        seen = [an_end("a"), an_end("b"), an_end("nobody")]
        store.insert(seen[:2]).result()
        assert store.save([a_change(seen[0], detail=model.Detail(("x" * 9000,)))]) == set()
        assert store.expire(seen) == 1
        assert store.expire(seen) == 0
        assert store.expire([]) == 0
        left = whole(store, "a", "b")
        assert [(each.id, each.revision, each.detail) for each in left] == [("a", 4, model.Detail(("x" * 9000,)))]
        assert store.save([a_change(seen[1])]) == {"b"}

    def test_a_walk_meets_every_record_with_its_revision(self, store: Store) -> None:
        records = [a_record(f"t{number * 37 % 100:02d}", owner=f"o{number % 2}", created=NOW + number * SECOND, revision=number) for number in range(20)]
        store.insert(records).result()
        found: list[Seen] = []
        while page := store.walk(found[-1].id if found else "", 7):
            assert len(page) <= 7
            found += page
        assert found == sorted(Seen(record.id, record.created, record.revision) for record in records)
        assert store.count() == 20

    def test_whole_records_come_in_order_and_in_portions(self, store: Store) -> None:
        large = [a_record(f"l{number}", task=a_task(inputs=(task.Input(path="/c", content="x" * 3_000_000),))) for number in range(5)]
        store.insert([*large, LARGE, a_record("a")]).result()
        wanted = ["l4", "nobody", "a", "large", "l0", "l1", "l2", "l3"]
        portions = list(store.whole(wanted))
        assert [record for portion in portions for record in portion] == [large[4], a_record("a"), LARGE, *large[:4]]
        assert len(portions) >= 3, "no more than some MB at once"
        assert whole(store) == whole(store, "nobody") == []

    def test_a_restored_record_is_as_it_was(self, store: Store, peer: Store) -> None:
        running = a_record(
            "runs",
            owner="bob",
            state=State.RUNNING,
            canceling=True,
            revision=7,
            lane=model.Lane.ACTIVE,
            due=None,
            status=model.Status(backend="local", rule="r", attempt=2, handle=run.Handle("local", "runs-2", "/data")),
        )
        records = [LARGE, running, a_record("waits")]
        assert store.restore(records) == dict.fromkeys(["large", "runs", "waits"], Restored.MADE)
        assert peer.restore(records) == dict.fromkeys(["large", "runs", "waits"], Restored.THERE)
        assert whole(peer, "large", "runs", "waits") == records
        assert listed(peer, tags=(("k", "v"),)) == listed(peer, name_prefix="n" * 200) == ["large"]
        assert ids_of(peer.sweep(model.ALL_SHARDS, "", 10)) == ["runs"]
        assert ids_of(peer.due(model.Lane.WAITING, model.ALL_SHARDS, NOW, 10)) == ["waits"]
        assert peer.save([a_change(running, canceling=False)]) == set()
        assert store.restore([]) == {}

    def test_a_restored_record_brings_an_older_one_up_and_never_back(self, store: Store) -> None:
        first = a_record("a", detail=model.Detail(("1" * 9000,)), task=LARGE.task)
        status = model.Status(backend="local", rule="default", end_time=NOW)
        last = an_end("a", revision=5, task=LARGE.task, status=status, logs=LARGE.logs, detail=LARGE.detail)
        assert store.restore([first]) == {"a": Restored.MADE}
        assert store.restore([last]) == {"a": Restored.CHANGED}
        assert store.restore([first]) == {"a": Restored.THERE}
        assert whole(store, "a") == [last]
        assert store.restore([a_record("a", revision=9, owner="bob")]) == {"a": Restored.OTHER}
        assert store.restore([a_record("a", revision=9, created=NOW + SECOND)]) == {"a": Restored.OTHER}
        assert whole(store, "a") == [last]
        assert store.expire([last]) == 1

    def test_who_moves_tasks_is_seen_by_others(self, store: Store, peer: Store) -> None:
        assert store.hold("somebody", NOW) == model.ALL_SHARDS
        beating = threading.Event()

        def beat() -> None:
            while not beating.wait(0.05):
                store.hold("somebody", NOW)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            assert peer.at_work()
        finally:
            beating.set()
            thread.join()
        store.close()
        assert peer.at_work() == ""

    # -- waiting, health, end

    def test_wait_ends_early_after_a_write_of_another(self, store: Store, peer: Store) -> None:
        store.wait(0)
        waiter = threading.Thread(target=store.wait, args=(60,))
        waiter.start()
        peer.insert([a_record("a")]).result()
        waiter.join(10)
        assert not waiter.is_alive()

    def test_wait_without_news_takes_its_time(self, store: Store) -> None:
        waiter = threading.Thread(target=store.wait, args=(0.2,))
        waiter.start()
        waiter.join(0.1)
        assert waiter.is_alive()
        waiter.join(10)
        assert not waiter.is_alive()

    def test_it_serves_many_threads(self, store: Store) -> None:
        def work(name: int) -> list[str]:
            for number in range(10):
                store.insert([a_record(f"{name}-{number}", owner=f"owner-{name}")]).result()
            return listed(store, scope=Scope(f"owner-{name}"), size=3)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for name, found in enumerate(pool.map(work, range(8))):
                assert found == [f"{name}-{number}" for number in range(9, -1, -1)]

    def test_closed_is_unavailable(self, store: Store) -> None:
        store.check()
        last = store.insert([a_record("a")])
        store.close()
        store.close()
        last.result()
        for call in (
            store.check,
            lambda: store.insert([]).result(),
            lambda: store.get(ALL, "a", model.View.MINIMAL),
            lambda: store.save([]),
            lambda: store.keep(a_verdict(1)),
        ):
            with pytest.raises(errors.Unavailable):
                call()
