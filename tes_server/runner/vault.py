"""Secrets of the site into the environment of executors, where the task runs: `secret://NAME[/KEY]` becomes what is kept under that name.

Values live in memory only: the plan on disk, reports and logs hold names. This module must never put a value, or a part of one, into an error or a log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import msgspec

from tes_server import errors
from tes_server.plan import paths, secret_names
from tes_server.plan.secret_names import SecretName
from tes_server.plan.steps import Execute
from tes_server.telemetry import Code

LONGEST = 64 * 1024
"""Bytes of one value: what Secrets Manager holds, and less than Linux takes in one variable."""

Look = Callable[[str], str]
"""From a reference (`site.Site.secrets`) to the secret. StagingError SECRET_NOT_FOUND, SECRET_DENIED, SECRET_ERROR, in words without the value."""


def nothing(_reference: str) -> str:
    """`Look` of a site without secrets."""
    raise errors.StagingError("this site has no secrets", Code.SECRET_NOT_FOUND)


def wanted(step: Execute) -> bool:
    """Whether an executor asks for a secret."""
    return any(secret_names.read(value) is not None for value in step.env.values())


class Vault:
    """The secrets that one attempt may have, each asked for once. For one thread at a time."""

    def __init__(self, references: Mapping[str, str], look: Look, *, table: str = "") -> None:
        """`table`: the setting that names them, if they are those of scanners: operators read of these, not who wrote a task."""
        self._table = table
        self._references = references
        self._look = look
        self._found: dict[str, str] = {}

    def opened(self, step: Execute) -> Execute:
        """The executor with the values in place. Raises StagingError that names field and secret."""
        fields = {key: f"scan.env.{key}" if self._table else f"/executors/{step.index}/env/{paths.pointer_part(key)}" for key in step.env}
        return msgspec.structs.replace(step, env={key: self._value(text, fields[key]) for key, text in step.env.items()})

    def _value(self, text: str, field: str) -> str:
        name = secret_names.read(text)
        if name is None:
            return text
        try:
            if name.name not in self._references:
                raise errors.StagingError(f"this site has none of that name for {'scans' if self._table else 'tasks'}", Code.SECRET_NOT_FOUND)
            if name.name not in self._found:
                self._found[name.name] = self._look(self._references[name.name])
            return _usable(_part(self._found[name.name], name))
        except errors.StagingError as cause:
            which = f"{self._table}.{name.name}" if self._table else f"the secret {name.name}"
            raise errors.StagingError(f"{field}: {which}: {cause.public}", cause.code, cause.transient) from None


def _part(secret: str, name: SecretName) -> str:
    if not name.key:
        return secret
    try:
        whole = json.loads(secret)
    except ValueError:
        raise errors.StagingError("it is no JSON object, so it has no keys", Code.SECRET_NOT_FOUND) from None
    part = whole.get(name.key) if isinstance(whole, dict) else None
    if part is None:
        raise errors.StagingError(f"it has no key {paths.shorten(name.key)}", Code.SECRET_NOT_FOUND)
    return part if isinstance(part, str) else json.dumps(part)


def _usable(value: str) -> str:
    if "\0" in value or len(value.encode()) > LONGEST:
        raise errors.StagingError(f"an environment variable cannot hold it: it has a NUL character, or more than {LONGEST} bytes", Code.SECRET_ERROR)
    return value
