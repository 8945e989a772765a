"""The benchmarks of the shared store run as their documentation says, once and small."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pymongo
import pytest

from tests import mongo_server

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.mongo


def measured(name: str, *options: str) -> list[dict[str, Any]]:
    url = mongo_server.url()
    command = [sys.executable, "-m", f"benchmarks.{name}", "--url", url, "--json", "--rounds", "1", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        assert [each for each in client.list_database_names() if each.startswith("tes_benchmark_")] == []
    figures: list[dict[str, Any]] = json.loads(done.stdout)["figures"]
    return figures


@pytest.mark.usefixtures("sandbox_works")
def test_creates_and_lists_stand_beside_bare_calls(tmp_path: pathlib.Path) -> None:
    brief = ("--seconds", "3", "--clients", "4", "--data", str(tmp_path))
    (creates,) = measured("mongo", "--only", "create_2kb", *brief)
    assert creates["baseline"] < min(creates["notes"]["route_a_second"], creates["notes"]["inserts_a_second"])
    assert creates["ratio"] > 0.1
    (page,) = measured("mongo", "--only", "list", "--tasks", "300", *brief)
    assert page["figure"] > 0
    assert page["baseline_is"] == "bare find, p95"
    assert list(tmp_path.iterdir()) == []


def test_reconcilers_move_all_tasks_and_count_what_that_costs() -> None:
    one, two = measured("reconcile", "--tasks", "60", "--processes", "1,2")
    assert one["notes"]["writes_a_task"] == two["notes"]["writes_a_task"] <= 6
    assert one["notes"]["lost_saves_percent"] == 0
    assert two["baseline_is"] == "1 reconciler"


def test_request_units_are_counted() -> None:
    figures = measured("ru", "--tasks", "2", "--seconds", "2")
    tasks, waiting = figures[:4], figures[4:]
    assert all(6 <= each["notes"]["writes"] <= 9 for each in tasks)
    assert all(30 < each["figure"] < each["notes"]["with_updates_as_replaces"] for each in tasks)
    assert [each["unit"] for each in waiting] == ["RU an hour"] * 2
    assert waiting[0]["figure"] < waiting[1]["figure"]
