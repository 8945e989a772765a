"""Image scans on a scripted platform: one scan for a crowd, what verdicts do, what happens when they expire, are taken back, or cannot be had."""

from __future__ import annotations

import datetime
import pathlib
from collections.abc import Iterator

import msgspec
import pytest

from tes_server.control import desk
from tes_server.control.reconciler import Reconciler
from tes_server.control.scans import scan_id
from tes_server.control.service import ListRequest
from tes_server.digests.base import Resolved, Unresolved
from tes_server.model.principal import ANONYMOUS, Principal, Role
from tes_server.model.run import Observation, Phase, Room
from tes_server.model.states import State
from tes_server.model.verdict import Outcome
from tes_server.scan.gate import Mode, Modes, OnError
from tes_server.telemetry import ADVICE, Code
from tests.scripted import T0, digest_of, good, resolved
from tests.unit.control.scan_case import BAD, CLEAN, Faulty, ScanWorld, Shards, broken, told
from tests.unit.control.test_reconciler import Killed, Killer, one_at_a_time


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[ScanWorld]:
    made = ScanWorld(tmp_path / "tasks.sqlite")
    yield made
    made.store.close()


def test_a_crowd_with_one_new_image_is_scanned_once_and_runs_what_was_scanned(world: ScanWorld) -> None:
    ids = [world.create() for _ in range(35)]
    backend = world.backend()
    loop = world.reconciler(backend)
    loop.tick()
    assert world.platform.scanned == [f"tool@{digest_of('tool:1')}"]
    assert world.submitted == []
    assert world.lines(min(ids))[-1].startswith(f"WAITING_SCAN: the image tool:1 ({digest_of('tool:1')}) is being scanned")
    world.settle(loop, lambda: world.ended(*ids))
    assert len(world.scans()) == 1
    assert {world.record(each).state for each in ids} == {State.COMPLETE}
    assert {step.image for plan in world.submitted for step in plan.executors} == {f"tool@{digest_of('tool:1')}"}
    assert world.unproven == []
    end = world.record(ids[0])
    assert end.status.metadata["digest_tool:1"] == digest_of("tool:1")
    assert [line for line in world.lines(ids[0]) if line.startswith("SCANNED: tool:1 is sha256:")]
    verdict = world.verdict()
    assert verdict is not None
    assert (verdict.outcome, verdict.image, verdict.scanner_version) == (Outcome.PASS, "tool:1", "0.66")


def test_a_verdict_that_is_there_costs_nothing(world: ScanWorld) -> None:
    world.keep("tool:1")
    task_id = world.create()
    world.reconciler().tick()
    assert [plan.task_id for plan in world.submitted] == [task_id]
    assert world.scans() == []
    assert world.record(task_id).revision <= 2, "no write more than without scans"


def test_with_a_second_lock_tasks_scan_their_own_images_first(world: ScanWorld) -> None:
    """Each image once, by what the verdict was about; only in mode ENFORCE, and never scans themselves."""
    world.again = 60.0
    for image in ("a:1", "b:1"):
        world.keep(image)
    world.create("a:1", "b:1", "a:1")
    world.reconciler().tick()
    [plan] = world.submitted
    assert plan.gate is not None
    assert [(check.image, check.digest, check.scan.argv[1]) for check in plan.gate.checks] == [
        (name, digest_of(name), f"{name.partition(':')[0]}@{digest_of(name)}") for name in ("a:1", "b:1")
    ]
    assert (plan.gate.policy, plan.gate.on_error, plan.gate.timeout) == (world.policy, world.on_error, 60.0)
    world.modes = Modes(default=Mode.WARN)
    world.create("a:1")
    world.reconciler().tick()
    assert world.submitted[1].gate is None


def test_off_resolves_nothing(world: ScanWorld) -> None:
    world.modes = Modes(default=Mode.ENFORCE, owners={"ann": Mode.OFF})
    world.create()
    world.reconciler().tick()
    assert [step.image for plan in world.submitted for step in plan.executors] == ["tool:1"]
    assert world.resolver.asked == {}


def test_a_bad_image_is_refused_and_nothing_of_the_task_runs(world: ScanWorld) -> None:
    world.platform.ends = {"tool": told(BAD)}
    ids = [world.create() for _ in range(12)]
    loop = world.reconciler()
    world.settle(loop, lambda: world.ended(*ids))
    assert {world.record(each).state for each in ids} == {State.SYSTEM_ERROR}
    lines = world.lines(ids[0])
    assert lines[0].startswith("SCAN_REFUSED: image tool:1: 1 CRITICAL finding (1 with a fix)")
    assert [ADVICE[Code.SCAN_REFUSED] in line for line in lines if line.startswith("SCAN_REFUSED")] == [False, False, True]
    assert any("CVE-1 (openssl 1, fixed in 2)" in line for line in lines)
    assert world.submitted == []
    late = world.create()
    loop.tick()
    assert world.record(late).state is State.SYSTEM_ERROR
    assert len(world.scans()) == 1


def test_warn_runs_a_bad_image_and_says_so_once(world: ScanWorld) -> None:
    world.modes = Modes(default=Mode.WARN)
    world.platform.ends = {"tool": told(BAD)}
    task_id = world.create()
    loop = world.reconciler()
    loop.tick()
    assert world.submitted == [], "it waits, so that the words are there"
    world.settle(loop, lambda: world.ended(task_id))
    assert world.record(task_id).state is State.COMPLETE
    lines = world.lines(task_id)
    assert "SCANNED" not in [line.partition(":")[0] for line in lines], "which is said of what passed"
    assert any(f"image tool:1 is {resolved('tool:1').digest}, refused by the scan of " in line for line in lines)
    assert lines[0].startswith("SCAN_WARNING: image tool:1: 1 CRITICAL finding")
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    ("mode", "on_error", "state"),
    [
        (Mode.ENFORCE, OnError.BLOCK, State.SYSTEM_ERROR),
        (Mode.ENFORCE, OnError.ALLOW, State.COMPLETE),
        (Mode.WARN, OnError.BLOCK, State.COMPLETE),
    ],
)
def test_a_scan_that_failed(world: ScanWorld, mode: Mode, on_error: OnError, state: State) -> None:
    world.modes, world.on_error = Modes(default=mode), on_error
    world.platform.ends = {"tool": broken()}
    task_id = world.create()
    loop = world.reconciler()
    world.settle(loop, lambda: world.ended(task_id))
    assert world.record(task_id).state is state
    assert any("the scanner crashed" in line for line in world.lines(task_id))
    verdict = world.verdict()
    assert verdict is not None
    assert verdict.outcome is Outcome.ERROR
    # It is tried again, but not for each task.
    world.create()
    loop.tick()
    assert len(world.scans()) == 1
    world.clock.forward(700)
    world.platform.ends = {}
    after = world.create()
    world.settle(loop, lambda: world.ended(after))
    assert world.record(after).state is State.COMPLETE
    assert len(world.scans()) == 2


@pytest.mark.parametrize("on_error", list(OnError))
def test_a_scan_that_fails_at_another_registry_says_nothing_of_an_image(world: ScanWorld, on_error: OnError) -> None:
    """Somebody has a registry that knows the manifest of an image that others use, and has none of its layers."""
    world.on_error = on_error
    world.resolver.answers["evil.example/tool:1"] = Resolved("evil.example/tool:1", digest_of("tool:1"), f"evil.example/tool@{digest_of('tool:1')}")
    world.platform.ends = {"evil.example": broken("layers are missing"), "tool@": told(BAD) if on_error is OnError.ALLOW else told(CLEAN)}
    loop = world.reconciler()
    theirs = world.create("evil.example/tool:1", owner="eve")
    world.settle(loop, lambda: world.ended(theirs))
    ours = world.create()
    world.settle(loop, lambda: world.ended(ours))
    passes = State.COMPLETE if on_error is OnError.BLOCK else State.SYSTEM_ERROR
    assert world.record(ours).state is passes, world.lines(ours)
    assert world.platform.scanned == [f"evil.example/tool@{digest_of('tool:1')}", f"tool@{digest_of('tool:1')}"]


def test_garbage_in_place_of_a_report_is_an_error(world: ScanWorld) -> None:
    world.platform.ends = {"tool": Observation(phase=Phase.ENDED, report=good())}
    task_id = world.create()
    world.settle(world.reconciler(), lambda: world.ended(task_id))
    assert world.record(task_id).state is State.SYSTEM_ERROR
    assert any("damaged" in line for line in world.lines(task_id))


def test_each_image_of_a_task_counts(world: ScanWorld) -> None:
    world.platform.ends = {"bad": told(BAD)}
    both, good = world.create("good:1", "bad:1"), world.create("good:1", "good:2", "good:1")
    world.settle(world.reconciler(), lambda: world.ended(both, good))
    assert world.record(both).state is State.SYSTEM_ERROR
    assert world.record(good).state is State.COMPLETE
    assert len(world.scans()) == 3
    assert all("bad:1" in line for line in world.lines(both) if line.startswith("SCAN_REFUSED"))


def test_a_tag_that_moves_is_scanned_again(world: ScanWorld) -> None:
    world.keep("tool:1")
    loop = world.reconciler()
    world.resolver.answers["tool:1"] = resolved("tool:1", "moved")
    task_id = world.create()
    world.settle(loop, lambda: world.ended(task_id))
    assert [step.image for step in world.submitted[0].executors] == [f"tool@{digest_of('tool:1moved')}"]
    assert world.unproven == []


def test_a_verdict_that_expires_while_tasks_queue(world: ScanWorld) -> None:
    world.keep("tool:1", seconds=60)
    cores = [0.0]
    loop = world.reconciler(world.backend(room=lambda _: Room(cores[0], 10**11, 10**12, 1.0, 10**11, 10**12)))
    task_id = world.create()
    loop.tick()
    assert world.record(task_id).status.waiting.startswith("WAITING_CAPACITY")
    world.clock.forward(61)
    cores[0] = 1.0
    loop.tick()
    assert world.submitted == []
    world.settle(loop, lambda: world.ended(task_id))
    assert world.record(task_id).state is State.COMPLETE
    assert world.unproven == []
    assert len(world.scans()) == 1


def test_a_verdict_that_expires_between_intent_and_call(world: ScanWorld) -> None:
    world.keep("tool:1", seconds=5)

    task_id = world.create()
    world.reconciler(store=Faulty(world.store, after=lambda _: world.clock.forward(6))).tick()
    assert world.submitted == []
    there = world.record(task_id)
    assert there.status.submitting is None, "it is known that nothing was sent"
    assert there.status.waiting.startswith("WAITING_SCAN: the verdict on one of its images has just expired")
    world.settle(world.reconciler(), lambda: world.ended(task_id))
    assert world.record(task_id).status.attempt == 1
    assert world.unproven == []


def test_enforce_turned_on_while_tasks_run(world: ScanWorld) -> None:
    world.modes = Modes()
    world.platform.ends = {"tool": told(BAD)}
    world.platform.task_script = [Observation(phase=Phase.RUNNING, start_time=T0)]
    running, lost = world.create(command="a"), world.create(command="b")
    loop = world.reconciler()
    world.settle(loop, lambda: world.record(running).state is State.RUNNING and world.record(lost).state is State.RUNNING)
    world.modes = Modes(default=Mode.ENFORCE)
    loop = world.reconciler()
    world.platform.jobs[f"{lost}-1"].script = [Observation(phase=Phase.GONE)]
    world.settle(loop, lambda: world.ended(lost))
    assert world.record(lost).state is State.SYSTEM_ERROR
    assert world.record(running).state is State.RUNNING


def test_tasks_of_a_backend_that_is_gone_begin_no_scan_that_others_would_wait_for(world: ScanWorld) -> None:
    task_id = world.create()
    there = world.record(task_id)
    gone = msgspec.structs.replace(there, id="0" * 26, status=msgspec.structs.replace(there.status, backend="gone"))
    world.store.insert([gone]).result()
    world.settle(world.reconciler(), lambda: world.ended(task_id))
    assert world.record(task_id).state is State.COMPLETE
    assert [scan.status.backend for scan in world.scans()] == ["local"]
    assert world.record(gone.id).state is State.QUEUED


def test_a_scan_of_a_server_that_scans_no_more_is_ended(world: ScanWorld) -> None:
    task_id = world.create()
    world.reconciler(world.backend(room=lambda _: Room(0.0, 10**11, 10**12, 1.0, 10**11, 10**12))).tick()
    assert [scan.state for scan in world.scans()] == [State.QUEUED]
    world.modes = Modes()
    world.settle(world.reconciler(), lambda: world.ended(task_id))
    assert [scan.state for scan in world.scans()] == [State.SYSTEM_ERROR]
    assert world.platform.scanned == []


def test_forgotten_is_scanned_anew(world: ScanWorld) -> None:
    world.keep("tool:1")
    world.clock.forward(1)
    world.keep("tool:1", Outcome.FORGOTTEN)
    task_id = world.create()
    loop = world.reconciler()
    loop.tick()
    assert len(world.scans()) == 1
    world.settle(loop, lambda: world.ended(task_id))
    assert world.record(task_id).state is State.COMPLETE
    assert world.unproven == []


def test_a_scan_that_an_admin_cancels_is_a_failed_one(world: ScanWorld) -> None:
    world.platform.looks = 1000
    task_id = world.create()
    loop = world.reconciler()
    loop.tick()
    (scan,) = world.scans()
    world.service().cancel(Principal("root", Role.ADMIN), scan.id)
    world.settle(loop, lambda: world.ended(task_id))
    assert world.record(task_id).state is State.SYSTEM_ERROR
    assert any(line.startswith("SCAN_FAILED: image tool:1 could not be scanned: while it ran") for line in world.lines(task_id))
    assert len(world.scans()) == 1


def test_scans_are_nobodys_tasks(world: ScanWorld) -> None:
    world.create(owner="anonymous")
    world.reconciler().tick()
    (scan,) = world.scans()
    assert scan.id.encode() not in world.service().list_json(ANONYMOUS, ListRequest())
    assert scan.id.encode() in world.service().list_json(Principal("root", Role.ADMIN), ListRequest())


def test_a_waiting_task_is_canceled_at_once_and_the_scan_goes_on(world: ScanWorld) -> None:
    world.platform.looks = 3
    task_id = world.create()
    loop = world.reconciler()
    loop.tick()
    world.service().cancel(Principal("ann"), task_id)
    assert world.record(task_id).state is State.CANCELED
    world.settle(loop, lambda: world.ended(world.scans()[0].id))
    assert world.scans()[0].state is State.COMPLETE
    after = world.create()
    world.settle(loop, lambda: world.ended(after))
    assert len(world.scans()) == 1, "its verdict is used"


def test_the_same_round_has_the_same_id_whoever_asks(world: ScanWorld) -> None:
    key = world.key("tool:1")
    assert scan_id(key, None) == scan_id(key, None)
    world.keep("tool:1")
    assert scan_id(key, world.verdict()) != scan_id(key, None)
    assert len(scan_id(key, None)) == 26


# -- names that lead to no digest ----------------------------------------------------------------------------------------


def test_a_look_up_that_takes_a_moment_costs_no_write(world: ScanWorld) -> None:
    world.keep("tool:1")
    world.resolver.slow.add("tool:1")
    task_id = world.create()
    loop = world.reconciler()
    for _ in range(5):
        loop.tick()
        world.clock.forward(0.1)
    assert world.record(task_id).revision == 0
    world.resolver.found("tool:1")
    loop.tick()
    assert [plan.task_id for plan in world.submitted] == [task_id]


def test_a_long_look_up_is_told_and_its_end_wakes(world: ScanWorld) -> None:
    world.keep("tool:1")
    world.resolver.slow.add("tool:1")
    task_id = world.create()
    loop = world.reconciler()
    for _ in range(4):
        loop.tick()
        world.clock.forward(1)
    assert world.lines(task_id)[-1].startswith("WAITING_IMAGE: the digest of the image tool:1 is being looked up")
    assert world.record(task_id).revision == 1
    world.resolver.found("tool:1")
    loop.tick()
    assert [plan.task_id for plan in world.submitted] == [task_id]


@pytest.mark.parametrize(
    ("mode", "on_error", "state"),
    [
        (Mode.ENFORCE, OnError.BLOCK, State.SYSTEM_ERROR),
        (Mode.ENFORCE, OnError.ALLOW, State.COMPLETE),
        (Mode.WARN, OnError.BLOCK, State.COMPLETE),
    ],
)
@pytest.mark.parametrize("passing", [False, True])
def test_an_image_that_cannot_be_found(world: ScanWorld, mode: Mode, on_error: OnError, state: State, passing: bool) -> None:
    world.modes, world.on_error = Modes(default=mode), on_error
    world.resolver.answers["tool:1"] = Unresolved("IMAGE_ERROR", "tool:1: its registry does not answer", passing)
    task_id = world.create()
    loop = world.reconciler()
    loop.tick()
    if passing and mode is Mode.ENFORCE:
        assert world.lines(task_id)[-1].startswith("WAITING_IMAGE: tool:1: its registry does not answer")
        for _ in range(30):
            loop.tick()
            world.clock.forward(15)
        assert world.record(task_id).state is State.QUEUED
        assert world.record(task_id).revision <= 12, "one write each time"
    world.settle(loop, lambda: world.ended(task_id))
    assert world.record(task_id).state is state
    (said,) = [line for line in world.lines(task_id) if "its registry does not answer" in line]
    assert said.count("tool:1") == 1
    assert ("; that was waited for 1" in said, f'scan.on_error = "{on_error}"' in said) == (passing and mode is Mode.ENFORCE, mode is Mode.ENFORCE)
    assert world.scans() == []


def test_a_registry_that_comes_back(world: ScanWorld) -> None:
    world.resolver.answers["tool:1"] = Unresolved("IMAGE_ERROR", "tool:1: its registry does not answer", True)
    task_id = world.create()
    loop = world.reconciler()
    loop.tick()
    world.clock.forward(1)
    world.resolver.answers.clear()
    world.resolver.found("tool:1")
    loop.tick()
    assert len(world.scans()) == 1, "not only when it is due"
    world.settle(loop, lambda: world.ended(task_id))
    assert world.unproven == []


def test_exempt_and_denied_images_are_looked_up_by_nobody(world: ScanWorld) -> None:
    world.policy = msgspec.structs.replace(world.policy, exempt=("docker.io/ours",), deny=("docker.io/evil",))
    ours, evil = world.create("ours/tool:1"), world.create("evil/tool:1")
    world.reconciler().tick()
    assert [(plan.task_id, plan.executors[0].image) for plan in world.submitted] == [(ours, "ours/tool:1")]
    assert world.record(evil).state is State.SYSTEM_ERROR
    assert "SCANNED: image ours/tool:1 is exempt from scans (docker.io/ours)" in world.lines(ours)
    assert world.lines(evil)[0].startswith("SCAN_REFUSED: image evil/tool:1 is denied by the site")
    assert world.resolver.asked == {}


# -- crowds --------------------------------------------------------------------------------------------------------------


def test_tasks_that_wait_do_not_hide_those_behind_them(world: ScanWorld) -> None:
    """A batch is ten: thirty wait for a scan that takes minutes, one behind them may start."""
    world.keep("ready:1")
    world.platform.looks = 10**6
    waiting = [world.create() for _ in range(30)]
    behind = world.create("ready:1")
    loop = world.reconciler()
    passes = 0
    while not world.submitted:
        loop.tick()
        world.clock.forward(0.3)
        passes += 1
        assert passes < 10
    assert [plan.task_id for plan in world.submitted] == [behind]
    begin = world.clock()
    while world.clock() - begin < datetime.timedelta(minutes=5):
        loop.tick()
        world.clock.forward(1)
    writes = max(world.record(each).revision for each in waiting)
    assert writes <= 8, "about one a minute"


def test_a_crowd_is_put_off_without_a_pause(world: ScanWorld) -> None:
    """What is behind it need not wait for as many passes as it has batches."""
    world.keep("ready:1")
    world.platform.looks = 10**6
    for _ in range(60):
        world.create()
    world.create("ready:1")
    loop = world.reconciler()
    while loop.tick():
        assert world.clock() == T0, "no clock has moved"
    assert len(world.submitted) == 1


def the_scan_ends(world: ScanWorld, loop: Reconciler) -> None:
    (scan,) = world.platform.jobs.values()
    scan.script = [told(CLEAN)]
    loop.hear([world.scans()[0].id])


def test_all_that_waited_start_as_soon_as_the_verdict_is_there(world: ScanWorld) -> None:
    world.platform.looks = 10**6
    ids = [world.create() for _ in range(30)]
    loop = world.reconciler()
    for _ in range(10):
        loop.tick()
        world.clock.forward(1)
    the_scan_ends(world, loop)
    for _ in range(4):
        loop.tick()
    assert len(world.submitted) == len(ids), "no clock has moved"


def test_who_wakes_in_a_crowd_goes_on_before_most_of_it(world: ScanWorld) -> None:
    """A batch is ten, and another owner's task waits for the same scan behind sixty."""
    world.platform.looks = 10**6
    for _ in range(60):
        world.create()
    loop = world.reconciler()
    for _ in range(8):
        loop.tick()
    bob = world.create(owner="bob")
    loop.tick()
    the_scan_ends(world, loop)
    for _ in range(2):
        loop.tick()
    assert bob in {plan.task_id for plan in world.submitted}
    assert len(world.submitted) < 60


def test_of_a_crowd_each_is_written_to_less_often(world: ScanWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "RATE", 0.2)
    world.platform.looks = 10**6
    ids = [world.create() for _ in range(30)]
    loop = world.reconciler()
    for _ in range(600):
        loop.tick()
        world.clock.forward(1)
    written = sum(world.record(each).revision for each in ids)
    assert 30 < written <= 0.2 * 600 + 2 * 30, "the first batches knew of no crowd"
    the_scan_ends(world, loop)
    for _ in range(4):
        loop.tick()
    assert len(world.submitted) == len(ids), "no clock has moved"


def test_a_scan_starts_before_the_tasks_of_a_full_site(world: ScanWorld) -> None:
    world.keep("ready:1")
    world.platform.task_script = [Observation(phase=Phase.RUNNING, start_time=T0)]
    for number in range(8):
        world.create("ready:1", owner=f"o{number}")
    loop = world.reconciler(world.backend(room=one_at_a_time))
    loop.tick()
    world.create("tool:1")
    loop.tick()
    assert len(world.scans()) == 1
    assert world.platform.scanned == []
    (running,) = world.submitted
    world.platform.jobs[f"{running.task_id}-1"].script = [Observation(phase=Phase.ENDED, report=good())]
    world.clock.forward(16)
    loop.tick()
    assert len(world.platform.scanned) == 1, "it does not wait for the eight"
    assert len(world.submitted) == 1


# -- several reconcilers, and kills ---------------------------------------------------------------------------------------


def test_two_reconcilers_and_one_new_image(world: ScanWorld) -> None:
    """Both look at the same moment: the second one's insert comes while the first one is at it."""
    ids = [world.create() for _ in range(8)]
    halves = {"one": frozenset(range(32)), "two": frozenset(range(32, 64))}
    stores = {who: Shards(world.store, shards) for who, shards in halves.items()}
    second = world.reconciler(store=stores["two"], who="two")
    stores["one"].before_insert = second.tick
    first = world.reconciler(store=stores["one"], who="one")

    def both() -> bool:
        second.tick()
        return world.ended(*ids)

    world.settle(first, both)
    assert len(world.scans()) == 1
    assert len(world.platform.scanned) == 1
    assert {world.record(each).state for each in ids} == {State.COMPLETE}
    assert world.unproven == []


def test_a_kill_at_every_step_scans_once_and_starts_nothing_unproven(tmp_path: pathlib.Path) -> None:
    points = _killed_at(tmp_path / "count.sqlite", 0)
    assert points > 20
    for point in range(1, points + 1):
        _killed_at(tmp_path / f"{point}.sqlite", point)


def _killed_at(path: pathlib.Path, point: int) -> int:
    """One task with a good image, one with a bad one; the reconciler is killed at one of its steps, and another one goes on."""
    world = ScanWorld(path)
    world.platform.ends = {"bad": told(BAD)}
    good_one, bad_one = world.create("good:1"), world.create("bad:1")
    killer = Killer(point)
    try:
        world.settle(world.reconciler(world.backend(fault=killer), Faulty(world.store, killer)), lambda: world.ended(good_one, bad_one))
    except Killed:
        world.settle(world.reconciler(), lambda: world.ended(good_one, bad_one))
    world.settle(world.reconciler(), lambda: world.ended(*(scan.id for scan in world.scans())))
    assert world.record(good_one).state is State.COMPLETE
    assert world.record(bad_one).state is State.SYSTEM_ERROR
    assert sorted(world.platform.scanned) == sorted([f"bad@{digest_of('bad:1')}", f"good@{digest_of('good:1')}"])
    assert set(world.platform.started.values()) == {1}
    assert world.platform.jobs == {}
    assert world.unproven == []
    world.store.close()
    return killer.points


def test_verdicts_outlive_the_records_of_their_scans_and_the_other_way_round(world: ScanWorld) -> None:
    first = world.create()
    loop = world.reconciler()
    world.settle(loop, lambda: world.ended(first, *(scan.id for scan in world.scans())))
    assert world.store.expire(world.scans()) == 1
    second = world.create()
    world.settle(loop, lambda: world.ended(second))
    assert world.scans() == [], "the verdict is enough"
    world.clock.forward(4000)
    third = world.create()
    world.settle(loop, lambda: world.ended(third))
    assert len(world.scans()) == 1
    assert world.unproven == []


def test_a_scan_that_ended_while_nobody_looked_is_judged_late(world: ScanWorld) -> None:
    """Its server was away: what it says is used while it holds, and passed over after that."""
    world.platform.looks = 0
    waiting = world.create()

    def killed(label: str) -> None:
        if label == "keep":
            raise Killed

    with pytest.raises(Killed):
        world.settle(world.reconciler(store=Faulty(world.store, killed)), lambda: False)
    assert world.scans()[0].state is State.COMPLETE
    assert world.verdict() is None
    world.service().cancel(Principal("ann"), waiting)
    world.clock.forward(5000)
    after = world.create()
    world.settle(world.reconciler(), lambda: world.ended(after))
    assert len(world.scans()) == 2
    assert world.record(after).state is State.COMPLETE
    assert world.unproven == []
