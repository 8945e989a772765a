"""What an owner may have and ask for, on a real store, with one process and with two."""

from __future__ import annotations

import concurrent.futures
import contextlib

import msgspec
import pytest

from tes_server import errors
from tes_server.control import limits
from tes_server.control.limits import Bounds, Limits
from tes_server.control.service import ListRequest, Service
from tes_server.model.principal import Principal, Role
from tes_server.model.record import View
from tes_server.model.task import Executor, Resources, Task
from tests.unit.control.conftest import World

ALICE, BOB, VIEWER = Principal("alice"), Principal("bob"), Principal("v", Role.VIEWER)
TASK = Task(executors=(Executor(image="i", command=("c",)),))


class Watch:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


def door(world: World, watch: Watch, **bounds: float) -> Service:
    made = world.service()
    made.limits = Limits(world.store, msgspec.convert(bounds, Bounds), watch)
    return made


def create(service: Service, who: Principal = ALICE, cores: float | None = None, key: str | None = None) -> str:
    task = TASK if cores is None else msgspec.structs.replace(TASK, resources=Resources(cpu_cores=cores))
    return service.create(who, task, key).result()


def refused(service: Service, who: Principal = ALICE, cores: float | None = None, key: str | None = None) -> errors.TooMany:
    with pytest.raises(errors.TooMany) as told:
        create(service, who, cores, key)
    assert told.value.retry_after > 0
    return told.value


@pytest.mark.parametrize("bound", ["queued", "tasks"])
def test_so_many_tasks(world: World, watch: Watch, bound: str) -> None:
    service = door(world, watch, **{bound: 3})
    ids = [create(service) for _ in range(3)]
    refused(service)
    create(service, BOB)
    for task_id in ids:  # what is there can be looked at and canceled all the while
        service.get_json(ALICE, task_id, View.FULL)
    service.list_json(ALICE, ListRequest())
    service.cancel(ALICE, ids[0])
    assert world.platform
    service.service_info(ALICE)


def test_room_is_seen_after_the_next_count(world: World, watch: Watch) -> None:
    service = door(world, watch, tasks=2)
    ids = [create(service) for _ in range(2)]
    refused(service)
    from tests.scripted import ScriptedBackend

    loop = world.reconciler(ScriptedBackend(world.platform))
    service.cancel(ALICE, ids[0])
    world.settle(loop, lambda: b"CANCELED" in service.get_json(ALICE, ids[0], View.MINIMAL))
    refused(service)
    watch.now += limits.LOOK
    create(service)
    refused(service)


def test_cores_of_tasks_that_name_some_and_of_those_that_do_not(world: World, watch: Watch) -> None:
    service = door(world, watch, cores=4, default_cores=1)
    create(service, cores=2.5)
    refused(service, cores=2)
    create(service)
    refused(service)
    create(service, cores=0.5)
    refused(service, cores=0.1)
    watch.now += limits.LOOK  # counted from the store: the same
    refused(service, cores=0.1)


def test_a_repeated_key_is_no_new_task(world: World, watch: Watch) -> None:
    service = door(world, watch, tasks=1)
    first = create(service, key="k")
    assert create(service, key="k") == first
    refused(service, key="other")
    refused(service)
    assert create(service, BOB, key="k") != first


def test_one_process_never_lets_in_too_many(world: World, watch: Watch) -> None:
    service = door(world, watch, tasks=10)

    def go(number: int) -> bool:
        if number % 7 == 0:
            watch.now += limits.LOOK  # counts in the midst of creates
        with contextlib.suppress(errors.TooMany):
            create(service)
            return True
        return False

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(go, range(60))) == 10


def test_two_processes_see_each_other_at_the_next_count(world: World, watch: Watch) -> None:
    one, two = door(world, watch, tasks=4), door(world, watch, tasks=4)
    create(one)
    create(two)
    create(two)
    for _ in range(3):
        create(one)  # six: two more than there should be, let in within a count's time
    refused(one)
    watch.now += limits.LOOK
    refused(two)


def test_a_refused_create_is_not_counted(world: World, watch: Watch) -> None:
    service = door(world, watch, tasks=2)
    for _ in range(5):
        with pytest.raises(errors.Invalid):
            service.create(ALICE, msgspec.structs.replace(TASK, executors=()))
    create(service)
    create(service)
    refused(service)


def test_rates_of_creates_and_lists(world: World, watch: Watch) -> None:
    service = door(world, watch, creates_per_minute=2, lists_per_minute=3)
    task_id = create(service)
    create(service)
    assert refused(service).retry_after == 30
    for _ in range(3):
        service.list_json(ALICE, ListRequest())
    with pytest.raises(errors.TooMany):
        service.list_json(ALICE, ListRequest())
    service.list_json(VIEWER, ListRequest())
    for _ in range(20):
        service.get_json(ALICE, task_id, View.MINIMAL)
        service.cancel(ALICE, task_id)
    watch.now += 30
    create(service)
    service.list_json(ALICE, ListRequest())
