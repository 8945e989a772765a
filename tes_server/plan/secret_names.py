"""How tasks name secrets: `secret://NAME`, or `secret://NAME/KEY` for one key of a secret that is a JSON object, as a value of `executors[].env`.

A plan holds only these names; the runner looks them up where the task runs. Pure. This module must never see a secret.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from typing import NamedTuple

SCHEME = "secret://"

_NONE: Mapping[str, bool] = types.MappingProxyType({})


class SecretName(NamedTuple):
    """A secret of the site, and which part of it; key "" = all of it."""

    name: str
    key: str


def read(value: str) -> SecretName | None:
    """What a value of `env` names; None for one that is meant as it stands."""
    if not value.startswith(SCHEME):
        return None
    name, _, key = value.removeprefix(SCHEME).partition("/")
    return SecretName(name, key)


def refusal(value: str, known: Collection[str], keys: Mapping[str, bool] = _NONE, *, owner: str = "") -> str:
    """Why a task may not have a value in its `env`, where `known` are the secrets that there are for it; "" if it may.

    `keys`: of which of them a key must be named, and of which none may be. `owner`: for whom alone these are; what others have is told by no word.
    """
    wanted = read(value)
    if wanted is None:
        return ""
    if wanted.name in known:
        if keys.get(wanted.name, bool(wanted.key)) == bool(wanted.key):
            return ""
        return f"must name a key of the secret: secret://{wanted.name}/KEY" if keys[wanted.name] else f"must not name a key: the secret {wanted.name} has none"
    if owner:
        mine = ", ".join(sorted(known)) or "no secret"
        return f"asks for a secret that {owner} is not granted; granted is {mine} (see the setting `grants`)"
    if not known:
        return "asks for a secret, and this backend has none for tasks"
    # Who wrote the secret itself here by mistake must not find it in a log.
    return f"asks for a secret that is not there for tasks; there is {', '.join(sorted(known))}"
