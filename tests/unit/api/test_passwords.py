"""Sign-in by password: work that does not tell who exists, changes that count at once, failures that let nobody in."""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Callable

import argon2
import pytest

from tes_server import errors
from tes_server.api import passwords
from tes_server.api.passwords import Passwords
from tes_server.model.principal import Principal, Role
from tests.unit.api import users
from tests.unit.api.users import PASSWORD


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    users.write(tmp_path / "users", ("alice", Role.USER), ("bob", Role.ADMIN), ("carol", Role.USER, "lab"), ("Ümit", Role.VIEWER))
    return tmp_path / "users"


def credentials(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("name", "principal"),
    [
        ("alice", Principal("alice")),
        ("bob", Principal("bob", Role.ADMIN)),
        ("carol", Principal("lab", who="carol")),
        ("Ümit", Principal("Ümit", Role.VIEWER)),
    ],
)
def test_who_is_who(path: pathlib.Path, name: str, principal: Principal) -> None:
    assert Passwords(path).verify(credentials(name, name + PASSWORD)).principal == principal


@pytest.mark.parametrize(
    ("name", "password"),
    [("alice", ""), ("alice", "wrong"), ("alice", f"bob{PASSWORD}"), ("ALICE", f"alice{PASSWORD}"), ("mallory", f"mallory{PASSWORD}"), ("", ""), ("lab", "x")],
)
def test_wrong_is_wrong_and_told_alike(path: pathlib.Path, name: str, password: str) -> None:
    with pytest.raises(errors.Unauthorized) as refused:
        Passwords(path).verify(credentials(name, password))
    assert (refused.value.public, refused.value.reason) == (passwords.WRONG, "password")


@pytest.mark.parametrize("given", ["", "x", "====", base64.b64encode(b"no colon").decode(), base64.b64encode(b"\xff:\xff").decode(), "ä"])
def test_credentials_that_are_none(path: pathlib.Path, given: str) -> None:
    with pytest.raises(errors.Unauthorized) as refused:
        Passwords(path).verify(given)
    assert refused.value.reason == "malformed"


def test_an_unknown_name_costs_the_work_of_a_known_one(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[argon2.Parameters] = []
    real: Callable[[str, str], bool] = passwords._fits

    def counted(hashed: str, password: str) -> bool:
        work.append(argon2.extract_parameters(hashed))
        return real(hashed, password)

    monkeypatch.setattr(passwords, "_fits", counted)
    door = Passwords(path)
    for name in ("alice", "mallory"):
        with pytest.raises(errors.Unauthorized):
            door.verify(credentials(name, "wrong"))
    assert len(work) == 2
    assert work[0] == work[1] == argon2.extract_parameters(users.CHEAP.hash("x"))


def test_the_work_for_unknown_names_follows_the_file(path: pathlib.Path) -> None:
    door = Passwords(path)
    dearer = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    path.write_text(f"alice:user::{dearer.hash('x')}\n")
    door.version(1e9)
    assert argon2.extract_parameters(door._nobody) == argon2.extract_parameters(dearer.hash("x"))


def test_no_password_fits_the_hash_of_nobody(path: pathlib.Path) -> None:
    door = Passwords(path)
    assert not any(passwords._fits(door._nobody, guess) for guess in ("", "x", PASSWORD, door._nobody))


def test_a_change_of_the_file_is_another_version(path: pathlib.Path) -> None:
    door = Passwords(path)
    before = door.version(100.0)
    users.write(path, ("bob", Role.USER))
    assert door.version(100.5) == before  # it is not looked at for each request
    assert door.version(101.5) != before
    with pytest.raises(errors.Unauthorized):
        door.verify(credentials("alice", f"alice{PASSWORD}"))
    assert door.verify(credentials("bob", f"bob{PASSWORD}")).principal.role is Role.USER


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("nonsense\n"), lambda path: path.chmod(0o666)])
def test_without_a_usable_file_nobody_is_let_in_until_it_is_back(
    path: pathlib.Path, spoil: Callable[[pathlib.Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    door = Passwords(path)
    spoil(path)
    for now in (1e9, 1e9 + 10):
        door.version(now)
        with pytest.raises(errors.Unavailable) as told:
            door.verify(credentials("alice", f"alice{PASSWORD}"))
    assert [record.__dict__["fields"] for record in caplog.records] == [{"error": told.value.why}]  # once
    path.unlink(missing_ok=True)
    users.write(path, ("alice", Role.USER))
    door.version(2e9)
    assert door.verify(credentials("alice", f"alice{PASSWORD}")).principal == Principal("alice")


def test_what_is_longer_than_any_password_is_not_looked_at(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(credentials("\U0010ffff" * 200, "\U0010ffff" * 1024)) <= passwords.LONGEST
    monkeypatch.setattr(passwords, "_fits", lambda *_: pytest.fail("it was looked at"))
    with pytest.raises(errors.Unauthorized) as refused:
        Passwords(path).verify(credentials("alice", "x" * passwords.LONGEST))
    assert refused.value.reason == "malformed"
