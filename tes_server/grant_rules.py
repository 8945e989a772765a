"""From the settings to what owners are granted; whether that makes sense, and whether it can ever mean anything.

This module must never look who an owner is: sign-in says that.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator

import msgspec

from tes_server import errors
from tes_server.plan import grants as rules
from tes_server.plan import objects, paths, reach
from tes_server.plan.grants import ALL, OWNER, Grant
from tes_server.plan.policy import Target
from tes_server.settings import Settings

SCHEMES = ("s3", "az", "gs")

SAMPLE = "owner"
"""An owner like any other: what a prefix comes to for it, it comes to for others."""


def check(settings: Settings) -> None:
    """Refuse grants that make no sense: SettingsError with the key at fault."""
    if settings.grants and not settings.auth.modes:
        raise errors.SettingsError("are for owners, and without sign-in (auth.modes) there are none", "grants")
    for number, grant in enumerate(settings.grants):
        where = f"grants[{number}]"
        if not grant.owners or not all(grant.owners):
            raise errors.SettingsError('must name owners, or patterns such as "lab-*"; "*" is everybody who is signed in', f"{where}.owners")
        if not (grant.read or grant.write or grant.secrets):
            raise errors.SettingsError("grants nothing: name what may be read, written, or asked for as a secret", where)
        for key, prefixes in (("read", grant.read), ("write", grant.write)):
            for index, prefix in enumerate(prefixes):
                _check_prefix(prefix, f"{where}.{key}[{index}]")
        for index, name in enumerate(grant.secrets):
            if not name or "/" in name or (ALL in name and name != ALL):
                raise errors.SettingsError('must be the name of a secret, without a key; "*" alone is every secret for tasks', f"{where}.secrets[{index}]")
            _check_marks(name, f"{where}.secrets[{index}]")


def _check_prefix(prefix: str, where: str) -> None:
    scheme, mark, rest = prefix.partition("://")
    if scheme in paths.NET and mark:
        raise errors.SettingsError(
            "needs no grant: this server has no credentials there but what a url holds (see files.http, files.ftp and files.uploads)", where
        )
    if not (prefix.startswith(("/", "file:///")) or (mark and scheme in SCHEMES)):
        raise errors.SettingsError(f"must begin with /, file:/// or {', '.join(f'{one}://' for one in SCHEMES)}", where)
    given = urllib.parse.unquote(rest) if scheme == "file" else rest if mark else prefix
    if any(part in ("", ".", "..") for part in given.rstrip("/").split("/")[1:]):
        raise errors.SettingsError("must not hold '.', '..' or an empty part ('//')", where)
    if "*" in prefix or "?" in prefix:
        raise errors.SettingsError("is taken as it stands, with all below it: patterns are for owners", where)
    _check_marks(prefix, where)
    if scheme in SCHEMES:
        try:
            objects.rule_of(prefix.replace(OWNER, SAMPLE), write=True)
        except objects.Malformed as cause:
            raise errors.SettingsError(str(cause), where) from cause


def _check_marks(text: str, where: str) -> None:
    if other := re.search(r"[{}]", text.replace(OWNER, "")):
        raise errors.SettingsError(f"holds {other[0]!r}: {OWNER} is the only thing that is put in", where)


def grants(settings: Settings) -> tuple[Grant, ...] | None:
    """What is granted; None without sign-in: everybody may use everything."""
    return tuple(msgspec.convert(grant, Grant, from_attributes=True) for grant in settings.grants) if settings.auth.modes else None


def idle(settings: Settings, targets: Iterable[Target]) -> Iterator[tuple[str, str]]:
    """Grants that nothing comes of on any backend: the key, and why."""
    there = list(targets)
    for number, grant in enumerate(settings.grants):
        for key, prefixes in (("read", grant.read), ("write", grant.write)):
            for index, prefix in enumerate(prefixes):
                if not any(_meets(prefix, target.policy.sites, write=key == "write") for target in there):
                    store = "a [[storage]] table with write = true" if key == "write" else "a [[storage]] table"
                    why = f"{prefix} is neither in nor above a directory of files.roots (or a claim or mount of a backend), nor {store}"
                    yield f"grants[{number}].{key}[{index}]", why
        for index, name in enumerate(grant.secrets):
            if not any(_names(name, secret) for target in there for secret in target.capabilities.secrets):
                yield f"grants[{number}].secrets[{index}]", f"no backend has a secret {name} for tasks"


def unknown(settings: Settings, owners: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Owners whom grants name, and who are none of `owners`, all that there are: the key, and why."""
    there = tuple(owners)
    for number, grant in enumerate(settings.grants):
        for index, pattern in enumerate(grant.owners):
            if not any(reach.fits(owner, (pattern,)) for owner in there):
                yield f"grants[{number}].owners[{index}]", f"no user has the owner {pattern}"


def _names(name: str, secret: str) -> bool:
    return name == ALL or re.fullmatch(re.escape(name).replace(re.escape(OWNER), ".+"), secret) is not None


def _meets(prefix: str, sites: paths.Sites, *, write: bool) -> bool:
    """True if some place is below both a prefix and what the site allows."""
    try:
        found = rules.place_of(prefix, SAMPLE, sites)
        owned = rules.place_of(prefix, f"{SAMPLE}2", sites) != found
    except (errors.Invalid, objects.Malformed):
        return False
    if found.startswith("/"):
        return True
    if found.startswith("file://"):
        path = paths.file_path(found)
        # Roots may be some owners' own: what comes before the name is what can be compared.
        above = path.partition(f"/{SAMPLE}")[0] if owned else path
        return any(paths.below(path, root) or paths.below(root, above or "/") for root in sites.roots)
    place = objects.rule_of(found, write=True).place
    mine = objects.Rule(place)
    return any((rule.write or not write) and (rule.covers(place) or mine.covers(rule.place)) for rule in sites.stores)
