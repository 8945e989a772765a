"""The door of the API: ids, keys, filters, tokens, watches. Lives of tasks are in test_reconciler."""

from __future__ import annotations

import base64
import concurrent.futures
import datetime
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tes_server import errors
from tes_server.control import service
from tes_server.control.service import ListRequest, Service
from tes_server.model.principal import ANONYMOUS, Principal, Role, Scope
from tes_server.model.record import Query, Record, View
from tes_server.model.run import Tails
from tes_server.model.states import ENDS, LIVE, State
from tes_server.model.task import Executor, ExecutorLog, FileType, Input, Resources, Task
from tests.scripted import T0
from tests.unit.control.conftest import World

TASK = Task(executors=(Executor(image="i", command=("c",)),))
ALICE, BOB, ADMIN = Principal("alice"), Principal("bob"), Principal("root", Role.ADMIN)


@pytest.fixture
def door(world: World) -> Service:
    return world.service()


def create(world: World, door: Service, who: Principal = ANONYMOUS, **fields: Any) -> str:
    world.clock.forward(1)
    return door.create(who, msgspec.structs.replace(TASK, **fields)).result()


def listed(door: Service, who: Principal = ANONYMOUS, **filters: Any) -> list[str]:
    return [task["id"] for task in msgspec.json.decode(door.list_json(who, ListRequest(**filters)))["tasks"]]


def shown(door: Service, task_id: str, view: View = View.FULL, who: Principal = ANONYMOUS) -> Any:
    return msgspec.json.decode(door.get_json(who, task_id, view))


class TestIds:
    def test_26_letters_and_digits_that_sort_by_time(self) -> None:
        ids = [service.new_id(T0 + datetime.timedelta(milliseconds=step)) for step in range(50)]
        assert ids == sorted(ids)
        for made in (*ids, service.key_id("o", "k"), service.new_id(datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))):
            assert len(made) == 26
            assert set(made) <= {*string.ascii_lowercase, *string.digits}

    def test_ids_of_one_moment_differ(self) -> None:
        assert len({service.new_id(T0) for _ in range(1000)}) == 1000

    def test_a_child_process_makes_others(self) -> None:
        made = "print(*(service.new_id(now) for _ in range(300)), flush=True)"
        begin = "import datetime, os; from tes_server.control import service; now = datetime.datetime.now(datetime.UTC)"
        script = f"{begin}; {made}; os.fork() and os.wait(); {made}"
        printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
        assert len(printed) == len(set(printed)) == 900

    def test_a_key_is_its_owners(self) -> None:
        assert service.key_id("alice", "k") == service.key_id("alice", "k")
        # Where owner ends and key begins must count: they are not joined as text.
        assert len({service.key_id(*pair) for pair in (("alice", "k"), ("bob", "k"), ("alic", "ek"), ("alicek", ""), ("", "alicek"))}) == 5


class TestIdempotency:
    def test_the_same_task_again_is_the_same_id_and_one_task(self, world: World, door: Service) -> None:
        ids = set()
        for _ in range(3):
            world.clock.forward(60)
            ids.add(door.create(ANONYMOUS, TASK, "key").result())
        assert [*ids] == listed(door)

    def test_many_at_once(self, door: Service) -> None:
        ids: list[str] = []
        threads = [threading.Thread(target=lambda: ids.append(door.create(ANONYMOUS, TASK, "key").result())) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ids) == 16
        assert listed(door) == [*set(ids)]

    def test_another_task_is_a_conflict_and_keeps_the_first(self, door: Service) -> None:
        first = door.create(ANONYMOUS, TASK, "key").result()
        for other in ({"name": "x"}, {"inputs": (Input(path="/a", content="a"),)}, {"tags": {"a": "b"}}):
            with pytest.raises(errors.Conflict, match="another task"):
                door.create(ANONYMOUS, msgspec.structs.replace(TASK, **other), "key").result()
        assert listed(door) == [first]

    def test_contents_count(self, door: Service) -> None:
        one, other = (msgspec.structs.replace(TASK, inputs=(Input(path="/a", content=text),)) for text in ("a", "b"))
        assert door.create(ANONYMOUS, one, "key").result() == door.create(ANONYMOUS, one, "key").result()
        with pytest.raises(errors.Conflict):
            door.create(ANONYMOUS, other, "key").result()

    def test_what_is_dropped_or_filled_in_does_not_make_it_another_task(self, door: Service) -> None:
        task = msgspec.structs.replace(
            TASK, inputs=(Input(path="/a", content=""),), resources=Resources(backend_parameters={"vm_size": "big", "max_runtime": "1h"})
        )
        assert door.create(ANONYMOUS, task, "key").result() == door.create(ANONYMOUS, task, "key").result()

    def test_it_lives_through_a_restart(self, world: World, door: Service) -> None:
        first = door.create(ANONYMOUS, TASK, "key").result()
        world.store.close()
        again = World(world.path)
        assert again.service().create(ANONYMOUS, TASK, "key").result() == first
        again.store.close()

    def test_owners_share_no_keys(self, door: Service) -> None:
        assert door.create(ALICE, TASK, "key").result() != door.create(BOB, msgspec.structs.replace(TASK, name="x"), "key").result()


class TestDoubts:
    def test_what_ran_though_its_create_failed_is_canceled(self, world: World, door: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """Unless the client has a key to meet it again by."""
        undone: list[Callable[[str], None] | None] = []
        keep = world.store.insert

        def insert(records: Sequence[Record], *, undo: Callable[[str], None] | None = None) -> concurrent.futures.Future[None]:
            undone.append(undo)
            return keep(records)

        monkeypatch.setattr(world.store, "insert", insert)
        task_id = create(world, door)
        door.create(ANONYMOUS, TASK, "key").result()
        undo, none = undone
        assert none is None
        assert undo is not None
        undo(task_id)
        undo("gone-meanwhile")
        assert shown(door, task_id)["state"] == "CANCELED"


class TestOwners:
    @pytest.fixture
    def theirs(self, world: World, door: Service) -> tuple[str, str]:
        return create(world, door, ALICE), create(world, door, BOB)

    def test_each_sees_and_cancels_its_own(self, door: Service, theirs: tuple[str, str]) -> None:
        of_alice, of_bob = theirs
        assert (listed(door, ALICE), listed(door, BOB), listed(door, ADMIN)) == ([of_alice], [of_bob], [of_bob, of_alice])
        for view in View:
            with pytest.raises(errors.NotFound):
                door.get_json(ALICE, of_bob, view)
        with pytest.raises(errors.NotFound):
            door.cancel(ALICE, of_bob)
        assert shown(door, of_bob, View.MINIMAL, BOB)["state"] == "QUEUED"
        door.cancel(ADMIN, of_bob)
        assert shown(door, of_bob, View.MINIMAL, BOB)["state"] == "CANCELED"


class TestCancel:
    def test_a_waiting_task_is_canceled_at_once_and_again_is_nothing(self, world: World, door: Service) -> None:
        task_id = create(world, door, inputs=(Input(path="/a", content="a"),))
        door.cancel(ANONYMOUS, task_id)
        once = world.store.get(ANONYMOUS.scope, task_id, View.FULL)
        door.cancel(ANONYMOUS, task_id)
        assert world.store.get(ANONYMOUS.scope, task_id, View.FULL) == once
        assert shown(door, task_id)["state"] == "CANCELED"

    @pytest.mark.parametrize("task_id", ["", "x", "\0", "é", "x" * 100_000])
    def test_an_id_that_never_was(self, door: Service, task_id: str) -> None:
        with pytest.raises(errors.NotFound) as caught:
            door.cancel(ANONYMOUS, task_id)
        assert len(caught.value.public) < 400


class TestFilters:
    TABLE = (
        {"foo": "bar"},
        {"foo": "bat"},
        {"foo": ""},
        {"foo": "bar", "baz": "bat"},
        None,
    )

    @pytest.mark.parametrize(
        ("keys", "values", "found"),
        [
            (("foo",), ("bar",), [3, 0]),
            (("foo",), (), [3, 2, 1, 0]),
            (("foo",), ("",), [3, 2, 1, 0]),
            (("foo", "baz"), ("bar", "bat"), [3]),
            (("baz", "foo"), ("bat",), [3]),
            (("foo", "foo"), ("bar", "bat"), []),
            (("Foo",), (), []),
            (("",), (), []),
            (("\ud800",), ("\udfff",), []),
        ],
    )
    def test_the_table_of_tes_1_1(self, world: World, door: Service, keys: tuple[str, ...], values: tuple[str, ...], found: list[int]) -> None:
        ids = [create(world, door, tags=tags) for tags in self.TABLE]
        assert listed(door, tag_key=keys, tag_value=values) == [ids[index] for index in found]

    def test_more_values_than_keys_pair_with_nothing(self, door: Service) -> None:
        with pytest.raises(errors.Invalid) as caught:
            door.list_json(ANONYMOUS, ListRequest(tag_key=("a",), tag_value=("b", "c")))
        assert caught.value.pointer == "tag_value"

    def test_as_many_tags_as_a_list_takes_and_one_more(self, world: World, door: Service) -> None:
        keys = tuple(f"k{number}" for number in range(service.MOST_TAGS + 1))
        task_id = create(world, door, tags=dict.fromkeys(keys, "v"))
        assert listed(door, tag_key=keys[1:], state=State.QUEUED, name_prefix="") == [task_id]
        with pytest.raises(errors.Invalid) as caught:
            door.list_json(ANONYMOUS, ListRequest(tag_key=keys))
        assert caught.value.pointer == "tag_key"

    @pytest.mark.parametrize("state", [*State])
    def test_a_filter_agrees_with_what_is_shown(self, state: State) -> None:
        for compat in ("clients", "1.1"):
            wanted = service.state_filter(state, compat)
            assert wanted is not None
            for stored in LIVE | ENDS:
                for canceling in (False, True):
                    matches = stored in wanted.states and wanted.canceling in (None, canceling)
                    seen = State.CANCELING if canceling and compat == "1.1" and stored in LIVE else stored
                    assert matches == (seen is state), (compat, stored, canceling)


class TestTokens:
    def test_a_walk_with_inserts_between_the_pages_sees_what_was_there_once(self, world: World, door: Service) -> None:
        ids = [create(world, door) for _ in range(7)]
        seen: list[str] = []
        token = ""
        while True:
            page = msgspec.json.decode(door.list_json(ANONYMOUS, ListRequest(page_size=2, page_token=token)))
            seen += [task["id"] for task in page["tasks"]]
            create(world, door)
            if "next_page_token" not in page:
                break
            token = page["next_page_token"]
        assert seen == ids[::-1]

    @pytest.fixture
    def token(self, world: World, door: Service) -> str:
        for _ in range(3):
            create(world, door, name="pg", tags={"a": "b"})
        page = door.list_json(ANONYMOUS, ListRequest(page_size=1, name_prefix="p", tag_key=("a",)))
        token: str = msgspec.json.decode(page)["next_page_token"]
        return token

    def test_size_and_view_may_change_between_pages(self, door: Service, token: str) -> None:
        assert len(listed(door, page_token=token, name_prefix="p", tag_key=("a",), page_size=5, view=View.FULL)) == 2

    @pytest.mark.parametrize(
        "other",
        [
            {},
            {"name_prefix": "pg", "tag_key": ("a",)},
            {"name_prefix": "p"},
            {"name_prefix": "p", "tag_key": ("a",), "tag_value": ("b",)},
            {"name_prefix": "p", "tag_key": ("a",), "state": State.QUEUED},
            {"name_prefix": "p", "tag_key": ("a",), "state": State.PAUSED},
        ],
    )
    def test_another_filter_is_refused(self, door: Service, token: str, other: dict[str, Any]) -> None:
        with pytest.raises(errors.Invalid, match="other filters") as caught:
            door.list_json(ANONYMOUS, ListRequest(page_token=token, **other))
        assert caught.value.pointer == "page_token"

    def test_another_caller_is_refused(self, door: Service, token: str) -> None:
        with pytest.raises(errors.Invalid, match="other filters"):
            door.list_json(ALICE, ListRequest(page_token=token, name_prefix="p", tag_key=("a",)))

    @staticmethod
    def forged(*values: Any) -> str:
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(values)).decode().rstrip("=")

    def test_what_is_no_token_is_refused_and_never_breaks(self, door: Service) -> None:
        binding = service._binding(Query(scope=Scope("anonymous")))
        garbage = [
            *("A", "AA", "====", "\0", "é", "\ud800", "+/", "A" * 50_000),
            self.forged(),
            self.forged("x", "y", binding),
            self.forged("2026-03-01T09:30:00", "y", binding),  # no time zone
            self.forged(T0, 7, binding),
            self.forged(T0, "y", binding, 0),
        ]
        for token in garbage:
            with pytest.raises(errors.Invalid, match="not a page_token"):
                door.list_json(ANONYMOUS, ListRequest(page_token=token))

    @pytest.mark.parametrize(("moment", "found"), [("0001-01-01T00:00:00Z", 0), ("0001-01-01T00:00:00+14:00", 0), ("9999-12-31T23:59:59-14:00", 1)])
    def test_a_forged_position_is_only_a_position(self, world: World, door: Service, moment: str, found: int) -> None:
        create(world, door)
        token = self.forged(moment, "\0", service._binding(Query(scope=Scope("anonymous"))))
        assert len(listed(door, page_token=token)) == found


class TestWatch:
    def test_a_full_look_marks_a_running_task_and_renews_the_mark_sparingly(self, world: World, door: Service) -> None:
        task_id = create(world, door)
        world.store.tail(task_id, Tails(1, (ExecutorLog(stdout="so far"),)))
        for view in (View.MINIMAL, View.BASIC):
            shown(door, task_id, view)
        self.until_written(world)
        assert world.store.watched(world.clock()) == set()

        (log,) = shown(door, task_id)["logs"]
        assert log["logs"] == [{"stdout": "so far"}]
        self.until_written(world)
        until = world.clock.now + service.WATCH
        assert world.store.watched(until - datetime.timedelta(seconds=1)) == {task_id}
        assert world.store.watched(until) == set()

        world.clock.forward(1)
        shown(door, task_id)
        self.until_written(world)
        assert world.store.watched(until) == set(), "a look a second later costs no write"

        world.clock.forward(service.WATCH.total_seconds() / 3)
        shown(door, task_id)
        self.until_written(world)
        assert world.store.watched(until) == {task_id}

    @staticmethod
    def until_written(world: World) -> None:
        world.store.save([])  # what was handed in before is written first

    def test_an_ended_task_is_not_watched(self, world: World, door: Service) -> None:
        task_id = create(world, door)
        door.cancel(ANONYMOUS, task_id)
        shown(door, task_id)
        self.until_written(world)
        assert world.store.watched(world.clock()) == set()


def test_create_keeps_what_was_sent_with_types_and_says_what_it_dropped(world: World, door: Service) -> None:
    task_id = create(world, door, inputs=(Input(path="/a", content="a"),), resources=Resources(backend_parameters={"vm_size": "big", "Max_Runtime": "1h"}))
    record = world.store.get(ANONYMOUS.scope, task_id, View.FULL)
    assert isinstance(record, Record)
    assert record.task == msgspec.structs.replace(
        TASK, inputs=(Input(path="/a", content="a", type=FileType.FILE),), resources=Resources(backend_parameters={"Max_Runtime": "1h"})
    )
    assert (record.status.backend, record.status.rule) == ("local", "default: the first backend")
    assert [line.partition(":")[0] for line in shown(door, task_id)["logs"][0]["system_logs"]] == ["PARAMETER_UNKNOWN", "WAITING_TURN"]


def test_a_task_that_can_never_run_is_not_kept(world: World, door: Service) -> None:
    with pytest.raises(errors.Invalid) as caught:
        door.create(ANONYMOUS, Task(executors=()))
    assert caught.value.pointer == "/executors"
    assert listed(door) == []
