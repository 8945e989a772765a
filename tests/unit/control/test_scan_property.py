"""The promise of mode ENFORCE, over random lives: no task is submitted without a verdict for each of its digests that passes and is fresh at that moment.

Two reconcilers share a store. Tags move, scans fail, verdicts expire, are taken back or turn bad, clocks jump within a pass, processes die at any step.
"""

from __future__ import annotations

import pathlib
import random
import shutil
import tempfile

import hypothesis
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tes_server.control.reconciler import Reconciler
from tes_server.digests.base import Unresolved
from tes_server.model import run
from tes_server.model.principal import Principal, Role
from tes_server.model.run import Observation, Phase
from tes_server.model.states import ENDS
from tes_server.model.verdict import Outcome
from tes_server.scan.gate import Mode, Modes
from tests.scripted import good, resolved
from tests.unit.control.scan_case import BAD, CLEAN, Faulty, ScanWorld, Shards, broken, told
from tests.unit.control.test_reconciler import Killed

IMAGES = ("a:1", "b:1")
HALVES = (frozenset(range(32)), frozenset(range(32, 64)))

ENDS_OF_SCANS = (told(CLEAN), told(CLEAN), told(BAD), broken(), Observation(phase=Phase.ENDED, report=good()), Observation(phase=Phase.GONE))

INTENT = 0
"""The step that comes after an intent was saved and before it is acted upon."""

Happening = tuple[object, ...]


def happening(chance: random.Random) -> Happening:
    """What may come between any two steps, of a pass, too."""
    name = chance.choice(IMAGES)
    return chance.choice(
        (
            ("forward", chance.choice((0.3, 2.0, 5.0, 15.0, 20.0))),
            ("forward", chance.choice((0.3, 2.0, 20.0, 700.0, 4000.0))),
            ("forget", name),
            ("keep", name, Outcome.PASS, chance.choice((1.0, 10.0, 3600.0))),
            ("keep", name, Outcome.PASS, 10.0),
            ("keep", name, chance.choice((Outcome.PASS, Outcome.FAIL, Outcome.ERROR)), 10.0),
            ("move", name, chance.choice(("", "x"))),
            ("move", name, ""),
            ("gone", name, chance.random() < 0.5),
            ("scans", name, chance.choice(ENDS_OF_SCANS)),
            ("lose",),
            ("expire",),
        )
    )


def step(chance: random.Random) -> Happening:
    """The next thing in a life: mostly a pass of both reconcilers, in which something else may come at one of its steps."""
    luck = chance.random()
    if luck < 0.55:
        return "pass", *({chance.choice((1, 2, 3, 4, 5, 6, INTENT, INTENT)): within(chance)} if chance.random() < 0.3 else {} for _ in range(2))
    if luck < 0.8:
        return "create", chance.sample(IMAGES, chance.choice((1, 1, 2))), chance.choice(("ann", "ann", "ann", "free"))
    return ("cancel",) if luck < 0.82 else happening(chance)


def within(chance: random.Random) -> Happening:
    return chance.choice((("kill",), ("other", chance.randint(0, 1)), *(happening(chance) for _ in range(4))))


class Life:
    """Two reconcilers, each of half of the shards, and what happens to them."""

    def __init__(self, path: pathlib.Path) -> None:
        self.world = ScanWorld(path)
        self.world.modes = Modes(default=Mode.ENFORCE, owners={"free": Mode.OFF})
        self.tasks: list[str] = []
        self.loops: list[Reconciler] = []
        self.within: dict[int, Happening] = {}
        self.points = 0
        self.deep = False
        self.loops = [self.born(0), self.born(1)]

    def born(self, number: int) -> Reconciler:
        store = Faulty(Shards(self.world.store, HALVES[number]), self.point, self.point)
        return self.world.reconciler(self.world.backend(fault=self.point), store, who=str(number), batch=4)

    def point(self, label: str) -> None:
        """Between two steps of a pass."""
        self.points += 1
        for number in (self.points, *([INTENT] if label == "intent" else [])):
            if (now := self.within.pop(number, None)) is not None:
                self.live(now)

    def live(self, one: Happening) -> None:
        world = self.world
        match one:
            case ("create", list(images), str(owner)):
                self.tasks.append(world.create(*images, owner=owner, key=str(len(self.tasks))))
            case ("forward", float(span)):
                world.clock.forward(span)
            case ("forget", str(name)):
                world.keep(name, Outcome.FORGOTTEN, 0)
            case ("keep", str(name), Outcome() as outcome, float(span)):
                world.keep(name, outcome, span)
            case ("move", str(name), str(version)):
                world.resolver.answers[name] = resolved(name, version)
            case ("gone", str(name), bool(passing)):
                world.resolver.answers[name] = Unresolved("IMAGE_ERROR", f"{name}: no", passing)
            case ("scans", str(name), Observation() as end):
                world.platform.ends[name.partition(":")[0] + "@"] = end
            case ("lose",):
                for job in world.platform.jobs.values():
                    job.script = [Observation(phase=Phase.GONE)]
            case ("cancel",) if self.tasks:
                world.service().cancel(Principal("root", Role.ADMIN), self.tasks[-1])
            case ("expire",):
                world.store.expire([scan for scan in world.scans() if scan.state in ENDS and not scan.status.release])
            case ("kill",):
                raise Killed
            case ("other", int(number)) if not self.deep:
                self.tick(number, {})
            case ("pass", dict(first), dict(second)):
                self.tick(0, first)
                self.tick(1, second)

    def tick(self, number: int, within: dict[int, Happening]) -> None:
        before = self.within, self.points, self.deep
        self.within, self.points, self.deep = dict(within), 0, bool(before[0]) or self.deep
        try:
            self.loops[number].tick()
        except Killed:
            self.loops[number] = self.born(number)
        finally:
            self.within, self.points, self.deep = before

    def ended(self) -> bool:
        return self.world.ended(*self.tasks, *(scan.id for scan in self.world.scans()))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[hypothesis.Phase.generate])
def test_nothing_starts_without_a_verdict_that_passes_and_is_fresh(seed: int) -> None:
    """Lives are made from a seed: drawn one by one, most of them would hardly get a task started."""
    chance = random.Random(seed)
    directory = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None))
    life = Life(directory / "tasks.sqlite")
    try:
        for _ in range(60):
            life.live(step(chance))
        assert life.world.unproven == []
        event(f"attempts submitted: {min(5, len(life.world.submitted))}")
        # And when all is well again, each task comes to an end, and nothing was started twice.
        life.world.resolver.answers.clear()
        life.world.platform.ends.clear()
        for _ in range(200):
            if life.ended():
                break
            for number in (0, 1):
                life.tick(number, {})
            life.world.clock.forward(20)
        assert life.ended()
        assert life.world.unproven == []
        # A scan whose record and verdict are both gone is made again, under the same name.
        assert {count for name, count in life.world.platform.started.items() if run.task_of(name) in life.tasks} <= {1}
        assert life.world.platform.jobs == {}
    finally:
        life.world.store.close()
        shutil.rmtree(directory)
