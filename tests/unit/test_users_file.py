"""The file of users: what it may hold, and that it is changed whole or not at all."""

from __future__ import annotations

import fcntl
import os
import pathlib
import threading

import pytest

from tes_server import errors, users_file
from tes_server.model.principal import Role
from tes_server.users_file import User
from tests.unit.api.users import CHEAP

HASH = CHEAP.hash("password")


def test_what_was_put_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "users"
    alice, bob = User("alice", Role.ADMIN, "alice", HASH), User("bob", Role.USER, "lab", HASH)
    users_file.change(path, lambda known: known.update(alice=alice, bob=bob))
    assert users_file.read(path) == {"alice": alice, "bob": bob}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [line.rpartition(":")[0] for line in path.read_text().splitlines()] == ["alice:admin:", "bob:user:lab"]


def test_comments_order_mode_and_links_stay(tmp_path: pathlib.Path) -> None:
    path, link = tmp_path / "users", tmp_path / "link"
    path.write_text(f"# ours\n\nbob:user::{HASH}\nalice:user::{HASH}\n# end\n")
    path.chmod(0o640)
    link.symlink_to(path)
    users_file.change(link, lambda known: known.update(carol=User("carol", Role.VIEWER, "carol", HASH), alice=User("alice", Role.ADMIN, "alice", HASH)))
    assert path.read_text() == f"# ours\n\nbob:user::{HASH}\nalice:admin::{HASH}\n# end\ncarol:viewer::{HASH}\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    users_file.change(path, lambda known: known.clear())
    assert path.read_text() == "# ours\n\n# end\n"
    assert sorted(tmp_path.iterdir()) == [link, path]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice", "name:role:owner:hash"),
        (f"alice:user:{HASH}", "name:role:owner:hash"),
        (f"alice:guest::{HASH}", "role"),
        (f"alice:root::{HASH}", "role"),
        (f":user::{HASH}", "name"),
        (f"tes-server.scan:user::{HASH}", "reserved"),
        (f"alice:user:tes-server.scan:{HASH}", "reserved"),
        (f"alice:user:anonymous:{HASH}", "reserved"),
        ("alice:user::password", "argon2"),
        ("alice:user::$2y$05$abcdefghijklmnopqrstuv", "argon2"),
        (f"bob:user::{HASH}", "second time"),
    ],
    ids=lambda text: text.partition("$")[0],
)
def test_lines_that_are_refused_with_their_number(tmp_path: pathlib.Path, line: str, said: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"bob:user::{HASH}\n{line}\n")
    with pytest.raises(errors.SettingsError, match=f"line 2: .*{said}") as told:
        users_file.read(path)
    assert HASH not in str(told.value)
    assert "password" not in str(told.value).replace("users", "")


def test_a_file_that_everybody_may_write_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"bob:admin::{HASH}\n")
    path.chmod(0o666)
    with pytest.raises(errors.SettingsError, match="chmod"):
        users_file.read(path)


def test_a_change_that_fails_leaves_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "users"
    path.write_text("broken\n")
    with pytest.raises(errors.SettingsError):
        users_file.change(path, lambda known: known.clear())
    assert path.read_text() == "broken\n"
    with pytest.raises(errors.SettingsError, match="cannot be written"):
        users_file.change(tmp_path / "none" / "users", lambda _: None)


def test_changes_at_once_lose_nothing(tmp_path: pathlib.Path) -> None:
    """The second waits until the first is written; else it would bring back whom the first removed."""
    path = tmp_path / "users"
    path.write_text(f"alice:user::{HASH}\n")
    second = threading.Thread(target=users_file.change, args=(path, lambda known: known.update(bob=User("bob", Role.USER, "bob", HASH))))
    directory = os.open(tmp_path, os.O_RDONLY)

    def remove(known: dict[str, User]) -> None:
        second.start()
        with pytest.raises(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        del known["alice"]

    users_file.change(path, remove)
    second.join(30)
    os.close(directory)
    assert set(users_file.read(path)) == {"bob"}
    assert list(tmp_path.iterdir()) == [path]
