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
from tes_server.plan.steps import Execute, Plan
from tes_server.telemetry import Code

LONGEST = 64 * 1024
"""Bytes of one value: what Secrets Manager holds, and less than Linux takes in one variable."""

Look = Callable[[str], str]
"""From a reference (`node.NodeSite.secrets`) to the secret. StagingError SECRET_NOT_FOUND, SECRET_DENIED, SECRET_ERROR, in words without the value."""


def wanted(plan: Plan) -> bool:
    """Whether any executor asks for a secret."""
    return any(secret_names.read(value) is not None for executor in plan.executors for value in executor.env.values())


def resolve(plan: Plan, references: Mapping[str, str], look: Look) -> Plan:
    """The plan with the values in place. Each secret is asked for once. Raises StagingError that names field and secret."""
    found: dict[str, str] = {}

    def value(text: str, field: str) -> str:
        name = secret_names.read(text)
        if name is None:
            return text
        try:
            if name.name not in references:
                raise errors.StagingError("this site has none of that name for tasks", Code.SECRET_NOT_FOUND)
            if name.name not in found:
                found[name.name] = look(references[name.name])
            return _usable(_part(found[name.name], name))
        except errors.StagingError as cause:
            raise errors.StagingError(f"{field}: the secret {name.name}: {cause.public}", cause.code, cause.transient) from None

    def executor(step: Execute) -> Execute:
        env = {key: value(text, f"/executors/{step.index}/env/{paths.pointer_part(key)}") for key, text in step.env.items()}
        return msgspec.structs.replace(step, env=env)

    return msgspec.structs.replace(plan, executors=tuple(executor(step) for step in plan.executors))


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
