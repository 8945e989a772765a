"""From the settings to how users sign in; whether that makes sense. Must never look into a token or a password."""

from __future__ import annotations

import pathlib

from tes_server import errors, users_file
from tes_server.settings_auth import AuthSettings


def check(auth: AuthSettings) -> None:
    """Refuse settings that contradict each other: SettingsError with the key at fault. Asks no issuer and reads no file."""
    if len(set(auth.modes)) != len(auth.modes):
        raise errors.SettingsError("names a way to sign in twice", "auth.modes")
    if "basic" in auth.modes and not auth.users_file:
        raise errors.SettingsError('modes has "basic": name the file that `tes-server users` keeps', "auth.users_file")


def check_files(auth: AuthSettings) -> None:
    """Refuse to serve with a users file that nobody could sign in by."""
    if "basic" in auth.modes and not users_file.read(pathlib.Path(auth.users_file)):
        raise errors.SettingsError(f"{auth.users_file} has no user: `tes-server users add NAME` makes one", "auth.users_file")
