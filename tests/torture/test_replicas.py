"""Three machines and two APIs on one database, one of them killed every two seconds, for up to three minutes under two thousand tasks."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Iterator

import pytest

from tes_server.store import mongo_account
from tests import mongo_server
from tests.acceptance.replicas import fleet
from tests.torture.conftest import Tell

TASKS, SECONDS = 2000, 180.0


@pytest.fixture
def account() -> Iterator[mongo_account.Account]:
    with mongo_server.database(mongo_server.url()) as made:
        yield made


@pytest.mark.mongo
@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox_works")
def test_every_task_ends_once_and_runs_once(account: mongo_account.Account, tmp_path: pathlib.Path, share: float, chance: random.Random, tell: Tell) -> None:
    """Nothing is given up here: whoever is killed is back in seconds, so that no attempt costs a second one."""
    total = max(60, int(TASKS * share))
    with fleet(tmp_path, account, 3, 2) as made:
        struck = made.storm(SECONDS * share, total, chance)
        counted = made.crowd.check(600)
        assert counted["attempts"] == {1: total}
        made.left()
        saves, lost = (sum(reconciler.counted(metric) for reconciler in made.reconcilers) for metric in ("tes_saves", "tes_saves_lost"))
        tell(kills=dict(struck), **counted, saves=int(saves), lost=int(lost))
