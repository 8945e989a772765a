"""`tes-server users`: who may sign in with a password.

Heavy imports stay inside the commands, as in `cli`. A password is never an argument: those show in lists of processes.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from tes_server import cli_options, errors, users_file
from tes_server.model.principal import Role
from tes_server.users_file import User

SHORTEST = 8
"""Characters of a password (NIST SP 800-63B, 5.1.1.1)."""


LONGEST = 1024
"""What more there is sign-in refuses unread (`api.passwords.LONGEST`)."""


@click.group(short_help="Users who sign in with a password.")
def users() -> None:
    """Keep the file of users who sign in with a password (auth.users_file). A running server heeds changes within two seconds."""


def _file(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--config", type=click.Path(path_type=pathlib.Path), help="TOML file with settings (or TES_SERVER_CONFIG)."),
        click.option("--file", type=click.Path(path_type=pathlib.Path), help="The file, instead of the one that auth.users_file names."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _place(config: pathlib.Path | None, file: pathlib.Path | None) -> pathlib.Path:
    if file is not None:
        return file
    named = cli_options.load(config, {}).auth.users_file
    if not named:
        raise errors.SettingsError("names no file: set it, or give --file", "auth.users_file")
    return pathlib.Path(named)


@users.command(short_help="Add a user, or change one.")
@click.argument("name")
@click.option("--role", type=click.Choice([role.value for role in users_file.ROLES]), default="user", show_default=True, help="What the user may do.")
@click.option("--owner", default="", help="Whose tasks the user's are: users of one owner share them. Default: the user's own.")
@click.option("--replace", is_flag=True, help="Change a user who is there: password, role, owner.")
@click.option("--generate", is_flag=True, help="Make a password, and print it.")
@_file
def add(name: str, role: str, owner: str, replace: bool, generate: bool, config: pathlib.Path | None, file: pathlib.Path | None) -> None:
    """Add a user. The password is asked for at a terminal, else read from standard input (one line)."""
    import argon2

    path = _place(config, file)
    fault = users_file.fault_of(User(name, Role(role), owner or name))
    if fault:
        raise errors.SettingsError(fault, name)

    def check(known: dict[str, User]) -> None:
        if name in known and not replace:
            raise errors.SettingsError("is there already; --replace changes it", name)

    if path.exists():
        check(users_file.read(path))  # before a password is asked for
    password = secrets.token_urlsafe(18) if generate else _password()
    user = User(name, Role(role), owner or name, argon2.PasswordHasher().hash(password))

    there: set[str] = set()

    def put(known: dict[str, User]) -> None:
        check(known)  # somebody else may have added one meanwhile
        there.update(known)
        known[name] = user

    users_file.change(path, put)
    _audited(config, "users.change" if name in there else "users.add", path, [name], user_role=role, user_owner=owner or name)
    if generate:
        click.echo(password)
    click.echo(f"{name} may sign in as {role}, {path} has it", err=True)


def _audited(config: pathlib.Path | None, action: str, path: pathlib.Path, names: Sequence[str], **fields: str) -> None:
    """Say so in the audit log, if the settings want one. What is done is done, whether or not the settings can be read."""
    from tes_server import app, audit_rules

    with contextlib.suppress(errors.SettingsError):
        tell = audit_rules.of_command(cli_options.load(config, {}), app.clock)
        for name in names:
            tell(action, user=name, file=str(path), **fields)


def _password() -> str:
    if sys.stdin.isatty():
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not SHORTEST <= len(password) <= LONGEST:
        raise errors.SettingsError(f"the password needs {SHORTEST} characters or more, and {LONGEST} at most", "")
    return password


@users.command(name="list", short_help="List the users.")
@_file
def list_users(config: pathlib.Path | None, file: pathlib.Path | None) -> None:
    """List users with role and owner, one a line, separated by tabs."""
    for user in users_file.read(_place(config, file)).values():
        click.echo(f"{user.name}\t{user.role}\t{user.owner}")


@users.command(short_help="Remove users.")
@click.argument("names", nargs=-1, required=True)
@_file
def remove(names: tuple[str, ...], config: pathlib.Path | None, file: pathlib.Path | None) -> None:
    """Remove users. Their tasks stay; whoever gets the same owner later has them."""
    path = _place(config, file)
    users_file.read(path)  # a file that is not there has nobody to remove, and is none of ours to make

    def drop(there: dict[str, User]) -> None:
        for name in names:
            if name not in there:
                raise errors.SettingsError(f"there is no such user in {path}", name)
        for name in names:
            there.pop(name, None)

    users_file.change(path, drop)
    _audited(config, "users.remove", path, names)
    click.echo(f"{', '.join(names)} may not sign in any more", err=True)
