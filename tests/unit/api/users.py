"""Users with passwords, cheap to check."""

from __future__ import annotations

import base64
import pathlib

import argon2

from tes_server import users_file
from tes_server.model.principal import Role
from tes_server.users_file import User

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

PASSWORD = "correct horse"


def write(path: pathlib.Path, *users: tuple[str, Role] | tuple[str, Role, str]) -> None:
    """The file of exactly these (name, role, owner), whose password is their name and PASSWORD."""

    def put(known: dict[str, User]) -> None:
        known.clear()
        for name, role, *owner in users:
            known[name] = User(name, role, owner[0] if owner else name, CHEAP.hash(name + PASSWORD))

    users_file.change(path, put)


def basic(name: str, password: str | None = None) -> dict[str, str]:
    """The headers of a request of this user."""
    text = f"{name}:{name + PASSWORD if password is None else password}"
    return {"host": "127.0.0.1:8000", "authorization": "Basic " + base64.b64encode(text.encode()).decode()}
