"""The audit log: what it has, that it survives logrotate and full disks, and that floods do not fill it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pathlib
from typing import Any

import pytest

from tes_server import errors
from tes_server.control import audit
from tes_server.control.audit import Audit, AuditFile
from tes_server.model.principal import Principal, Role
from tests.unit.control.conftest import World
from tests.unit.control.test_service import TASK

ALICE = Principal("lab", Role.USER, who="alice", address="192.0.2.7")


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_creates_and_cancels_of_a_real_service(world: World, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "audit.jsonl"
    service = world.service()
    service.audit = Audit(AuditFile(path), world.clock)
    task_id = service.create(ALICE, TASK, "key").result()
    assert service.create(ALICE, TASK, "key").result() == task_id  # nothing new
    service.cancel(ALICE, task_id)
    for wrong in (lambda: service.cancel(Principal("bob"), task_id), lambda: service.create(Principal("v", Role.VIEWER), TASK)):
        with pytest.raises(errors.TesServerError):
            wrong()
    who = {"owner": "lab", "role": "user", "who": "alice", "address": "192.0.2.7", "task": task_id}
    lines = read(path)
    assert [line.pop("at")[:4] for line in lines] == [str(world.clock().year)] * 2
    assert lines == [{"action": "task.create", **who}, {"action": "task.cancel", **who}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_admin_who_cancels_somebody_elses_task_is_marked(world: World, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "audit.jsonl"
    service = world.service()
    mine, others = service.create(Principal("root", Role.ADMIN), TASK).result(), service.create(ALICE, TASK).result()
    service.audit = Audit(AuditFile(path), world.clock)
    for task_id in (mine, others):
        service.cancel(Principal("root", Role.ADMIN), task_id)
    assert [(line["owner"], line["role"], line["task"], line.get("of")) for line in read(path)] == [
        ("root", "admin", mine, None),
        ("root", "admin", others, "lab"),
    ]


def test_a_commands_line_and_the_file_that_it_makes(world: World, tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o777)
    if os.getuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        Audit(AuditFile(path, follow=True), world.clock).operated("users.remove", "mia as root", user="bob", file="https://u:CANARY@h/x")
    (line, again) = read(path)
    assert line == again
    assert line.pop("at")
    assert line == {"action": "users.remove", "role": "operator", "who": "mia as root", "user": "bob", "file": "https://***@h/x"}
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, tmp_path.stat().st_uid)


def test_a_file_that_is_moved_away_is_begun_anew(world: World, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "audit.jsonl"
    made = Audit(AuditFile(path), world.clock)
    made.did("task.create", ALICE, task="1")
    path.rename(tmp_path / "audit.jsonl.1")
    made.did("task.create", ALICE, task="2")
    assert [line["task"] for file in ("audit.jsonl.1", "audit.jsonl") for line in read(tmp_path / file)] == ["1", "2"]


def test_a_file_that_cannot_be_written_is_told_and_fails_nobody(world: World, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "none"
    made = Audit(AuditFile(place / "audit.jsonl"), world.clock)
    for _ in range(3):
        made.did("task.create", ALICE)
    assert [record.getMessage() for record in caplog.records] == ["audit.failed"]
    place.mkdir()
    made.did("task.create", ALICE)
    assert len(read(place / "audit.jsonl")) == 1


def _many(path: pathlib.Path, name: str) -> None:
    from tests.clock import utc

    made = Audit(AuditFile(path), utc)
    for number in range(300):
        made.did("task.create", Principal(name), task=f"{number}" * 40)


def test_lines_of_several_processes_stay_apart(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_many, args=(path, name)) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = read(path)
    assert [sum(line["owner"] == name for line in lines) for name in ("a", "b")] == [300, 300]


def test_a_flood_of_refused_sign_ins_is_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "REFUSED_PER_MINUTE", 5)
    lines: list[bytes] = []
    made = Audit(lines.append, world.clock)
    made._refused._per_minute, made._refused._left[""] = 5, (5.0, float("inf"))
    for _ in range(9):
        made.refused("192.0.2.7", "basic", "password", "alice")
    assert len(lines) == 5
    assert json.loads(lines[0]) == {
        "at": json.loads(lines[0])["at"], "action": "sign_in.refused", "method": "basic", "reason": "password", "who": "alice", "address": "192.0.2.7"
    }  # fmt: skip
    made._refused._left[""] = (5.0, float("inf"))
    made.refused("192.0.2.7", "basic", "password", "")
    assert json.loads(lines[-1])["omitted"] == "4"
    assert "who" not in json.loads(lines[-1])


def test_the_log_may_have_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Audit(audit.to_log, world.clock).did("task.create", ALICE, task="1")
    (record,) = caplog.records
    assert record.getMessage() == "audit.line"
    assert vars(record)["fields"]["task"] == "1"
