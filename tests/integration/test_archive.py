"""Old tasks go to real object stores before they are removed, with the server's own settings."""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from tes_server import app, errors
from tes_server.control.retention import Retention
from tes_server.model import record as model
from tes_server.settings import RetentionSettings, Settings, StorageSettings
from tes_server.store.base import Store
from tes_server.store.sqlite import SqliteStore
from tests.contract import object_servers
from tests.contract.object_servers import Server
from tests.contract.store_contract import NOW, an_end, listed

YEAR = datetime.timedelta(days=365)


@pytest.fixture(
    scope="module",
    params=[pytest.param(object_servers.s3, id="s3", marks=pytest.mark.s3), pytest.param(object_servers.azurite, id="azurite", marks=pytest.mark.azurite)],
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with request.param() as made:
        yield made


@pytest.fixture
def settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    storage = msgspec.convert({**msgspec.structs.asdict(server.settings), "tasks": False}, StorageSettings)
    yield Settings(storage=(storage,), retention=RetentionSettings(days=30, archive=f"{server.url}/our archive"))
    server.remove()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    made = SqliteStore(tmp_path / "tasks.sqlite")
    made.insert([an_end(f"o{number:03d}") for number in range(150)]).result()
    yield made
    made.close()


def archived(server: Server) -> dict[str, list[str]]:
    return {name: [json.loads(line)["id"] for line in body.splitlines()] for name, body in server.objects("our archive/").items()}


def test_old_tasks_are_in_the_archive_when_they_are_gone(settings: Settings, store: Store, server: Server) -> None:
    app.check(settings)
    rules = Retention(store, datetime.timedelta(days=30), lambda: app.archive(settings))
    assert rules.batch(model.ALL_SHARDS, NOW + YEAR) == 100
    assert len(listed(store)) == 50
    assert rules.batch(model.ALL_SHARDS, NOW + YEAR) == 50
    found = archived(server)
    assert sorted(map(len, found.values())) == [50, 100]
    assert sorted(task_id for ids in found.values() for task_id in ids) == [f"o{number:03d}" for number in range(150)]
    assert all(name.startswith("2026-06-01/20260601T12") for name in found)


def test_a_bucket_that_is_not_there_removes_nothing(settings: Settings, store: Store, server: Server) -> None:
    storage = msgspec.structs.replace(settings.storage[0], url=f"{server.url}-none")
    wrong = msgspec.structs.replace(settings, storage=(storage,), retention=RetentionSettings(days=30, archive=f"{server.url}-none/x"))
    rules = Retention(store, datetime.timedelta(days=30), lambda: app.archive(wrong))
    with pytest.raises(errors.Unavailable, match="the archive cannot be used"):
        rules.batch(model.ALL_SHARDS, NOW + YEAR)
    assert len(listed(store)) == 150


def test_the_doctor_tries_the_archive(settings: Settings, server: Server, tmp_path: pathlib.Path) -> None:
    config = tmp_path / "config.toml"
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in msgspec.to_builtins(settings.storage[0]).items())
    config.write_text(f'[retention]\ndays = 30\narchive = "{settings.retention.archive}"\n[[storage]]\n{table}\n')

    def said() -> str:
        words = ["doctor", "--engine", "sandbox", "--data", tmp_path / "data", "--config", config]
        command = [str(word) for word in (pathlib.Path(sys.executable).with_name("tes-server"), *words)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    text = said()
    assert f"ok    archive {settings.retention.archive}: can be written to\n" in text
    assert "tasks may read and write the archive" not in text
    assert server.objects() == {}
    config.write_text(config.read_text().replace("tasks = false", "tasks = true"))
    assert "note  tasks may read and write the archive" in said()
    config.write_text(config.read_text().replace(f"{server.url}/our archive", f"{server.url}-none").replace(f'"{server.url}"', f'"{server.url}-none"'))
    assert f"no    archive {server.url}-none: the archive cannot be used: " in said()
