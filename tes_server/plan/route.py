"""Which backend takes a task, and by which rule. Pure; the rule is kept with the record and shown by `tes-server plan`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import msgspec

from tes_server.errors import Invalid
from tes_server.model.task import Task
from tes_server.plan import parameters
from tes_server.plan.paths import Sites


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One ordered rule; every condition given must hold. Patterns are shell patterns; bounds of 0 are open; ram in 10^9 bytes."""

    backend: str
    owner: str = ""
    tags: dict[str, str] = {}
    parameters: dict[str, str] = {}
    schemes: tuple[str, ...] = ()
    min_cpus: float = 0.0
    max_cpus: float = 0.0
    min_ram_gb: float = 0.0
    max_ram_gb: float = 0.0
    gpus: bool | None = None

    def words(self) -> str:
        """The rule's conditions, for people."""
        given = {name: value for name, value in msgspec.to_builtins(self).items() if name != "backend" and (value or value is False)}
        return ", ".join(f"{name}={value}" for name, value in given.items()) or "always"


class Route(msgspec.Struct, frozen=True):
    """The backend that takes the task and the rule that decided, in words."""

    backend: str
    rule: str
    default: bool = False
    """nothing decided: it is the first"""


def route(task: Task, owner: str, rules: Sequence[Rule], backends: Mapping[str, Sites]) -> Route:
    """The first rule that holds, after `backend_parameters.backend`; else the first of `backends`, each with the sites it knows.

    Raises Invalid for an unknown name.
    """
    given = parameters.lower_keys(task.resources)
    wanted = given.get("backend")
    if wanted:
        if wanted not in backends:
            raise Invalid(f"there is no backend {wanted[:60]!r}; this server has {', '.join(backends)}", f"{parameters.POINTER}/backend")
        return Route(wanted, "backend_parameters.backend")
    for number, rule in enumerate(rules):
        if _holds(rule, task, owner, given, backends[rule.backend]):
            return Route(rule.backend, f"routes[{number}]: {rule.words()}")
    return Route(next(iter(backends)), "default: the first backend", default=True)


def _holds(rule: Rule, task: Task, owner: str, given: dict[str, str], sites: Sites) -> bool:
    resources = task.resources
    cpus = (resources.cpu_cores if resources else None) or 0.0
    ram = (resources.ram_gb if resources else None) or 0.0
    return (
        (not rule.owner or fnmatch.fnmatchcase(owner, rule.owner))
        and _match_all(rule.tags, task.tags or {})
        and _match_all({key.lower(): value for key, value in rule.parameters.items()}, given)
        and (not rule.schemes or any(sites.scheme(item.url or "") in rule.schemes for item in task.inputs or ()))
        and cpus >= rule.min_cpus
        and (not rule.max_cpus or cpus <= rule.max_cpus)
        and ram >= rule.min_ram_gb
        and (not rule.max_ram_gb or ram <= rule.max_ram_gb)
        and (rule.gpus is None or rule.gpus == (given.get("gpus", "0").strip() not in ("", "0")))
    )


def _match_all(patterns: dict[str, str], values: dict[str, str]) -> bool:
    return all(key in values and fnmatch.fnmatchcase(values[key], pattern) for key, pattern in patterns.items())
