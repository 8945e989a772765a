"""Settings of the control plane for these tests."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from tes_server.control.decide import Rules
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.control.service import About, Service
from tes_server.model.run import Reason
from tes_server.plan.policy import Policy, Target
from tes_server.store.base import Store
from tes_server.store.sqlite import SqliteStore
from tests.scripted import Clock, Platform, ScriptedBackend

ABOUT = About(id="i", name="n", organization="o", organization_url="https://example.org", version="1", description="d", storage=(), parameters=())
RULES = Rules(budgets={Reason.LOST: 2, Reason.PREEMPTED: 2, Reason.STAGING: 1, Reason.BACKEND: 1, Reason.IMAGE: 1})


class World:
    """One store, one platform, one clock; reconcilers come and go."""

    def __init__(self, path: pathlib.Path) -> None:
        self.clock = Clock()
        self.platform = Platform()
        self.path = path
        self.store: Store = SqliteStore(path)

    def service(self, compat: str = "clients", running: int = 0) -> Service:
        backend = ScriptedBackend(self.platform)
        targets = {"local": Target(policy=Policy(), capabilities=backend.capabilities)}
        return Service(self.store, targets, [], ABOUT, compat, self.clock, running=running)

    def reconciler(self, backend: ScriptedBackend, store: Store | None = None, who: str = "me", clock: Clock | None = None, running: int = 0) -> Reconciler:
        target = Target(policy=Policy(), capabilities=backend.capabilities)
        pace = Pace(batch=10)
        clock = clock or self.clock
        monotonic = lambda: self.clock().timestamp()  # noqa: E731
        kept, backends, targets = store or self.store, {"local": backend}, {"local": target}
        return Reconciler(kept, backends, targets, RULES, pace, who, clock, lambda: 0.5, monotonic=monotonic, running=running)

    def settle(self, loop: Reconciler, until: Callable[[], bool], passes: int = 200) -> None:
        """Passes of the loop, the clock moving, until `until` holds."""
        for _ in range(passes):
            if until():
                return
            loop.tick()
            self.clock.forward(5)
        raise AssertionError("the tasks did not settle")


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    made = World(tmp_path / "tasks.sqlite")
    yield made
    made.store.close()
