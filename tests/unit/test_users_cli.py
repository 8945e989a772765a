"""`tes-server users`: a life of users."""

from __future__ import annotations

import json
import pathlib

import argon2
import click.testing
import pytest

from tes_server import cli, users_cli, users_file


@pytest.fixture
def path(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("TES_SERVER__AUTH__USERS_FILE", str(tmp_path / "users"))
    return tmp_path / "users"


def said(*words: str, stdin: str = "") -> tuple[int, str, str]:
    done = click.testing.CliRunner().invoke(cli.main, ["users", *words], input=stdin)
    return done.exit_code, done.stdout, done.stderr


def test_add_list_change_remove(path: pathlib.Path) -> None:
    assert said("add", "alice", stdin="correct horse\n")[0] == 0
    assert said("add", "bob", "--role", "viewer", "--owner", "lab", stdin="battery staple\n")[0] == 0
    assert said("list")[1] == "alice\tuser\talice\nbob\tviewer\tlab\n"
    users = users_file.read(path)
    assert argon2.PasswordHasher().verify(users["alice"].hash, "correct horse")
    assert users["alice"].hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    code, out, err = said("add", "alice", stdin="another one\n")
    assert (code, out) == (2, "")
    assert "--replace" in err
    assert users_file.read(path) == users
    code, password, _ = said("add", "alice", "--replace", "--role", "admin", "--generate")
    assert code == 0
    assert argon2.PasswordHasher().verify(users_file.read(path)["alice"].hash, password.strip())
    assert said("remove", "alice", "nobody")[0] == 2
    assert said("list")[1] == "alice\tadmin\talice\nbob\tviewer\tlab\n"
    assert said("remove", "alice", "bob")[0] == 0
    assert said("list")[1:] == ("", "")


def test_the_audit_log_has_who_was_added_changed_and_removed(path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "audit.jsonl"
    monkeypatch.setenv("TES_SERVER__LOG__AUDIT", str(log))
    monkeypatch.setenv("SUDO_USER", "mia")
    assert said("add", "alice", stdin="correct horse\n")[0] == 0
    assert said("add", "alice", "--replace", "--role", "admin", "--owner", "lab", stdin="correct horse\n")[0] == 0
    assert said("add", "bob", stdin="short\n")[0] == 2
    assert said("remove", "bob")[0] == 2
    assert said("remove", "alice")[0] == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line.pop("at") and line.pop("file") == str(path) and line.pop("role") == "operator" and line.pop("who").startswith("mia as ") for line in lines)
    assert lines == [
        {"action": "users.add", "user": "alice", "user_role": "user", "user_owner": "alice"},
        {"action": "users.change", "user": "alice", "user_role": "admin", "user_owner": "lab"},
        {"action": "users.remove", "user": "alice"},
    ]
    assert "correct horse" not in log.read_text()
    monkeypatch.setenv("TES_SERVER__LOG__AUDIT", "log")
    assert json.loads(said("add", "alice", stdin="correct horse\n")[2].splitlines()[0])["action"] == "users.add"
    monkeypatch.setenv("TES_SERVER__LOG__AUDIT", str(tmp_path / "none" / "audit.jsonl"))
    assert said("remove", "alice")[0] == 0, "a log that cannot be written keeps nobody in"
    assert users_file.read(path) == {}


@pytest.mark.parametrize(
    ("words", "stdin", "fault"),
    [
        (("add", "alice"), "x" * 1025 + "\n", "1024 at most"),
        (("add", "alice"), "short\n", "8 characters"),
        (("add", "tes-server.scan"), "correct horse\n", "reserved"),
        (("add", "a:b"), "correct horse\n", "colon"),
        (("add", "#a"), "correct horse\n", "comments"),
        (("add", "alice", "--owner", "anonymous"), "correct horse\n", "reserved"),
        (("add", "alice", "--role", "guest"), "correct horse\n", "guest"),
    ],
)
def test_what_is_refused(path: pathlib.Path, words: tuple[str, ...], stdin: str, fault: str) -> None:
    code, _, err = said(*words, stdin=stdin)
    assert code == 2
    assert fault in err
    assert not path.exists()


def test_of_two_who_add_a_name_at_once_one_is_told(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = users_cli._password

    def slow() -> str:  # somebody types, and meanwhile another one is done
        monkeypatch.setattr(users_cli, "_password", first)
        assert said("add", "alice", "--role", "viewer", "--generate")[0] == 0
        return "correct horse"

    monkeypatch.setattr(users_cli, "_password", slow)
    code, _, err = said("add", "alice", "--role", "admin")
    assert code == 2
    assert "--replace" in err
    assert said("list")[1] == "alice\tviewer\talice\n"


def test_nobody_is_removed_from_a_file_that_is_not_there(path: pathlib.Path) -> None:
    assert said("remove", "alice")[0] == 2
    assert not path.exists()


def test_a_file_has_to_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.delenv("TES_SERVER__AUTH__USERS_FILE", raising=False)
    monkeypatch.delenv("TES_SERVER_CONFIG", raising=False)
    assert "auth.users_file" in said("list")[2]
    assert said("add", "alice", "--file", str(tmp_path / "here"), stdin="correct horse\n")[0] == 0
    assert said("list", "--file", str(tmp_path / "here"))[1] == "alice\tuser\talice\n"
