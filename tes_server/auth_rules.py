"""From the settings to how users sign in; whether that makes sense. Must never look into a token or a password."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import msgspec

from tes_server import errors, users_file
from tes_server.api import issuers
from tes_server.settings_auth import AuthSettings, IssuerSettings


def check(auth: AuthSettings) -> None:
    """Refuse settings that contradict each other: SettingsError with the key at fault. Asks no issuer and reads no file."""
    if len(set(auth.modes)) != len(auth.modes):
        raise errors.SettingsError("names a way to sign in twice", "auth.modes")
    if "basic" in auth.modes and not auth.users_file:
        raise errors.SettingsError('modes has "basic": name the file that `tes-server users` keeps', "auth.users_file")
    if "oidc" in auth.modes and not auth.issuers:
        raise errors.SettingsError('modes has "oidc": name an issuer, by an [[auth.issuers]] table', "auth.issuers")
    for number, issuer in enumerate(auth.issuers):
        _check_issuer(issuer, f"auth.issuers[{number}]")
    _check_prefixes(auth)


def _check_issuer(issuer: IssuerSettings, where: str) -> None:
    if not issuers.is_safe(issuer.issuer) or "?" in issuer.issuer or "#" in issuer.issuer:
        raise errors.SettingsError("must be an https url without ? and # (http only to this machine itself)", f"{where}.issuer")
    if issuer.discovery and not issuers.is_safe(issuer.discovery):
        raise errors.SettingsError("must be an https url (http only to this machine itself)", f"{where}.discovery")
    if not issuer.audience or not all(issuer.audience):
        raise errors.SettingsError("must name what the issuer calls this server: else tokens for any other one would do", f"{where}.audience")
    for name in ("algorithms", "owner", "owner_pattern", "audience_claim"):
        if not getattr(issuer, name):
            raise errors.SettingsError("must not be empty", f"{where}.{name}")
    if issuer.default_role == "none" and not issuer.roles:
        raise errors.SettingsError('nobody has a role: name some in roles, or set default_role = "user"', f"{where}.default_role")
    for number, rule in enumerate(issuer.roles):
        if not rule.claim or not rule.value:
            raise errors.SettingsError("claim and value must not be empty", f"{where}.roles[{number}]")
    _check_introspection(issuer, where)


def _check_introspection(issuer: IssuerSettings, where: str) -> None:
    named = bool(issuer.client_secret_variable) + bool(issuer.client_secret_file)
    if not issuer.introspection:
        if named or issuer.client_id:
            raise errors.SettingsError("client_id and its secret are for introspection, which is not set", f"{where}.introspection")
        return
    if issuer.introspection != "discovery" and not issuers.is_safe(issuer.introspection):
        raise errors.SettingsError('must be "discovery" or an https url (http only to this machine itself)', f"{where}.introspection")
    if not issuer.client_id:
        raise errors.SettingsError("must be given with introspection", f"{where}.client_id")
    if named != 1:
        raise errors.SettingsError("give one of client_secret_variable and client_secret_file", f"{where}.client_secret_variable")


def _check_prefixes(auth: AuthSettings) -> None:
    """No two ways to sign in may lead to one owner: a name of one issuer is not its namesake's at another one.

    Prefixes end with the only colon that they have, and names of the users file have none: so what comes before an owner's first
    colon tells where it is from.
    """
    ways = len(auth.issuers) + ("basic" in auth.modes)
    seen: dict[str, int] = {}
    for number, issuer in enumerate(auth.issuers):
        where = f"auth.issuers[{number}]"
        first = next((other for other in range(number) if auth.issuers[other].issuer == issuer.issuer), None)
        if first is not None:
            raise errors.SettingsError(f"is the issuer of auth.issuers[{first}] again", f"{where}.issuer")
        if issuer.prefix and (issuer.prefix.find(":") != len(issuer.prefix) - 1 or len(issuer.prefix) < 2):
            raise errors.SettingsError("must end with a colon and have no other one, e.g. ls:", f"{where}.prefix")
        if ways > 1 and "oidc" in auth.modes and not issuer.prefix:
            raise errors.SettingsError("must be set where there are several ways to sign in: owners must not meet", f"{where}.prefix")
        if issuer.prefix and issuer.prefix in seen:
            raise errors.SettingsError(f"is the one of auth.issuers[{seen[issuer.prefix]}]", f"{where}.prefix")
        seen[issuer.prefix] = number


def condition(auth: AuthSettings) -> Iterator[tuple[bool, str]]:
    """Whether each way to sign in works, in words; asks the issuers."""
    if "basic" in auth.modes:
        try:
            check_files(msgspec.structs.replace(auth, modes=("basic",)))
            yield True, f"sign-in by password: {len(users_file.read(pathlib.Path(auth.users_file)))} users"
        except errors.SettingsError as cause:
            yield False, f"sign-in by password: {cause}"
    for known in auth.issuers if "oidc" in auth.modes else ():
        try:
            yield True, f"sign-in by tokens of {known.issuer}: it has {issuers.Issuer(known).check()} keys"
        except errors.Unavailable as cause:
            yield False, f"sign-in by tokens of {known.issuer}: {cause.why}"


def owners(auth: AuthSettings) -> tuple[str, ...]:
    """All owners that there can be; () where nobody can tell: issuers know of others, the users file cannot be read."""
    if auth.modes != ("basic",):
        return ()
    try:
        return tuple(user.owner for user in users_file.read(pathlib.Path(auth.users_file)).values())
    except errors.SettingsError:
        return ()


def check_audit(place: str) -> None:
    """Refuse a place for the audit log that is none, or cannot be written."""
    if place in ("", "log", "none"):
        return
    if not os.path.isabs(place):  # noqa: PTH117 - a text of the settings
        raise errors.SettingsError('must be an absolute path, "log" or "none"', "log.audit")
    if fault := _unwritable(pathlib.Path(place)):
        raise errors.SettingsError(f"{place} cannot be written: {fault}", "log.audit")


def _unwritable(path: pathlib.Path) -> str:
    """Why this process cannot append to a file, or make it; or ""."""
    try:
        path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            return "there is no such directory"
        return "" if os.access(path.parent, os.W_OK) else "this user may make no file there"
    except OSError as cause:  # a directory above it may be closed to whoever asks
        return os.strerror(cause.errno or 0)
    if path.is_dir():
        return "it is a directory, name a file in it"
    return "" if os.access(path, os.W_OK) else "this user may not write to it"


def check_files(auth: AuthSettings) -> None:
    """Refuse to serve where nobody could sign in: a users file without users, an introspection without its secret."""
    if "basic" in auth.modes and not users_file.read(pathlib.Path(auth.users_file)):
        raise errors.SettingsError(f"{auth.users_file} has no user: `tes-server users add NAME` makes one", "auth.users_file")
    for number, issuer in enumerate(auth.issuers if "oidc" in auth.modes else ()):
        variable, file = issuer.client_secret_variable, issuer.client_secret_file
        if variable and not os.environ.get(variable):
            raise errors.SettingsError(f"the environment has no {variable}", f"auth.issuers[{number}].client_secret_variable")
        if file and not os.access(file, os.R_OK):
            raise errors.SettingsError(f"{file} cannot be read", f"auth.issuers[{number}].client_secret_file")
