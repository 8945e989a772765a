"""A task, the backend that takes it, and its plan there. Pure.

A rule, or the task itself, binds: what that backend refuses no other gets, or it would run where nobody meant it to. Where nothing decides, the first
backend that can take the task does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tes_server import errors
from tes_server.model.task import Task
from tes_server.plan import compiler, route
from tes_server.plan.compiler import Compiled
from tes_server.plan.policy import Target
from tes_server.plan.route import Route, Rule


class Placed(msgspec.Struct, frozen=True):
    """Where a task runs, why there, and as what."""

    route: Route
    compiled: Compiled


def place(task: Task, task_id: str, owner: str, rules: Sequence[Rule], targets: Mapping[str, Target]) -> Placed:
    """Route and compile. Raises Invalid, or TooLarge, with the words of each backend that was asked."""
    chosen = route.route(task, owner, rules, {name: target.policy.sites for name, target in targets.items()})
    if not chosen.default or len(targets) == 1:
        return Placed(chosen, _compiled(task, task_id, owner, targets[chosen.backend]))
    refusals: dict[str, errors.Invalid | errors.TooLarge] = {}
    for name, target in targets.items():
        try:
            compiled = _compiled(task, task_id, owner, target)
        except (errors.Invalid, errors.TooLarge) as cause:
            refusals[name] = cause
            continue
        return Placed(Route(name, f"default: the first backend that can take it, after {', '.join(refusals)}") if refusals else chosen, compiled)
    raise _all_refuse(refusals)


def _compiled(task: Task, task_id: str, owner: str, target: Target) -> Compiled:
    return compiler.compile_task(task, task_id, 1, owner, target.policy, target.capabilities)


def _all_refuse(refusals: Mapping[str, errors.Invalid | errors.TooLarge]) -> errors.TesServerError:
    """One error of all: what they agree on is said once, and of what they do not each says its own."""
    told = list(refusals.values())
    first = told[0]
    if all((type(other), str(other)) == (type(first), str(first)) for other in told):
        return first
    pointers = {other.pointer for other in told}
    pointer = first.pointer if len(pointers) == 1 else ""
    words = "; ".join(f"{name}: {other.public if pointer else str(other)}" for name, other in refusals.items())
    kind = errors.TooLarge if all(isinstance(other, errors.TooLarge) for other in told) else errors.Invalid
    return kind(f"no backend can take it: {words}", pointer)
