"""A person's order of a verdict: what is waited for, for how long, and what they hear of it."""

from __future__ import annotations

import datetime
import pathlib
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tes_server.control.orders import Answer, Clocks, Orders
from tes_server.control.scans import scan_id
from tes_server.digests.base import Unresolved
from tes_server.model.verdict import Outcome
from tes_server.scan.policy import Entry
from tests.unit.control.scan_case import BAD, HARD, ScanWorld, broken, told


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[ScanWorld]:
    made = ScanWorld(tmp_path / "tasks.sqlite")
    yield made
    made.store.close()


class Person:
    """Asks, and hears; a reconciler's pass, and what `meanwhile` does, lie between two looks. `works`: whether there is a reconciler."""

    def __init__(self, world: ScanWorld, *, works: bool = True) -> None:
        self.world = world
        self.heard: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.loop = world.reconciler() if works else None

    def asks(self, image: str = "tool:1", patience: float = 600.0, *, anew: bool = False) -> Answer:
        clocks = Clocks(self.world.clock, lambda: self.world.clock().timestamp(), self._wait)
        return Orders(self.world.store, self.world.resolver, self.world.scanning, self.heard.append, clocks).ask(image, "local", patience, anew=anew)

    def _wait(self, news: threading.Event, seconds: float) -> None:
        assert 0 < seconds <= 1
        if self.loop is not None:
            self.loop.tick()
        self.meanwhile()
        self.world.clock.forward(seconds)


def test_an_image_is_scanned_and_judged(world: ScanWorld) -> None:
    person = Person(world)
    answer = person.asks()
    assert answer.verdict is not None
    assert answer.verdict.outcome is Outcome.PASS
    assert answer.verdict == world.verdict()
    (scan,) = world.scans()
    assert person.heard[0] == f"tool:1 is {world.key('tool:1').digest}"
    assert person.heard[1] == f"the scan {scan.id} is begun on local: a running server, or `tes-server reconcile`, makes it"
    assert f"the scan {scan.id} is RUNNING on local" in person.heard
    assert len(person.heard) == len(set(person.heard)), "each step once"


@pytest.mark.parametrize(("ends", "outcome"), [(told(BAD), Outcome.FAIL), (broken("the scanner crashed"), Outcome.ERROR)])
def test_what_does_not_pass_is_an_answer_too(world: ScanWorld, ends: object, outcome: Outcome) -> None:
    world.platform.ends["tool"] = ends  # type: ignore[assignment]
    answer = Person(world).asks()
    assert answer.verdict is not None
    assert answer.verdict.outcome is outcome


def test_a_verdict_that_holds_is_the_answer_at_once(world: ScanWorld) -> None:
    world.keep("tool:1", Outcome.FAIL)
    assert Person(world, works=False).asks(patience=0).verdict == world.verdict()
    assert world.scans() == []


def test_one_that_expired_is_scanned_anew(world: ScanWorld) -> None:
    world.keep("tool:1", Outcome.FAIL, seconds=-1)
    answer = Person(world).asks()
    assert answer.verdict is not None
    assert answer.verdict.outcome is Outcome.PASS


def test_anew_takes_the_verdict_back_and_scans_once(world: ScanWorld) -> None:
    first = Person(world).asks().verdict
    again = Person(world).asks(anew=True).verdict
    assert first is not None
    assert again is not None
    assert again.scanned_at > first.scanned_at
    assert len(world.scans()) == 2
    assert Person(world).asks().verdict == again
    assert len(world.scans()) == 2


def test_anew_joins_a_scan_that_is_under_way(world: ScanWorld) -> None:
    world.keep("tool:1", seconds=-1)
    assert Person(world, works=False).asks(patience=0).failed
    assert Person(world).asks(anew=True).verdict
    assert len(world.scans()) == 1


def test_a_task_and_a_person_wait_for_one_scan(world: ScanWorld) -> None:
    task_id = world.create("tool:1")
    person = Person(world)
    person.loop.tick()  # type: ignore[union-attr]
    assert person.asks().verdict
    world.settle(person.loop, lambda: world.ended(task_id))  # type: ignore[arg-type]
    assert len(world.scans()) == 1
    assert world.unproven == []


def test_the_name_alone_may_settle_it(world: ScanWorld) -> None:
    world.policy = msgspec.structs.replace(HARD, exempt=("host",), deny=("evil.example",))
    named = [Person(world).asks(image).named for image in ("host", "evil.example/tool:1")]
    assert [each.entry for each in named if each] == [Entry.EXEMPT, Entry.REFUSED]
    assert world.resolver.asked == {}


def test_a_name_that_leads_nowhere(world: ScanWorld) -> None:
    world.resolver.answers["tool:1"] = Unresolved("IMAGE_NOT_FOUND", "tool:1: there is none", passing=False)
    assert Person(world).asks() == Answer(failed="tool:1: there is none")
    assert world.scans() == []


def test_a_registry_that_is_away_is_waited_for(world: ScanWorld) -> None:
    world.resolver.answers["tool:1"] = Unresolved("IMAGE_ERROR", "tool:1: the registry is away", passing=True)
    person = Person(world)
    began = world.clock()
    assert person.asks(patience=30) == Answer(failed="tool:1: the registry is away")
    assert world.clock() - began == datetime.timedelta(seconds=30)
    assert person.heard == ["tool:1: the registry is away"]
    person.meanwhile = world.resolver.answers.clear
    assert person.asks(patience=30).verdict


def test_patience_ends_where_nobody_works(world: ScanWorld) -> None:
    answer = Person(world, works=False).asks(patience=10)
    (scan,) = world.scans()
    assert answer.failed.startswith(f"no verdict yet: the scan {scan.id} is QUEUED on local (in the queue of the backend local)")
    assert Person(world).asks().verdict, "whoever asks next finds the same scan"
    assert len(world.scans()) == 1


def test_a_verdict_that_is_taken_back_meanwhile_is_no_answer(world: ScanWorld) -> None:
    person = Person(world)
    taken: list[str] = []

    def forget() -> None:
        kept = world.verdict()
        if kept is not None and not taken:
            taken.append(scan_id(kept.key, kept))
            world.store.keep(kept.taken_back(world.clock()))

    person.meanwhile = forget
    world.create("tool:1")  # its reconciler judges before the person looks
    assert person.asks().verdict
    assert len(world.scans()) == 1 + len(taken)
