"""How much one task may name: bounds on what a request asks this server to keep and to look at. Pure.

What its files come to when they are moved is bounded elsewhere (`filer.allowance`): here nobody has seen them.
"""

from __future__ import annotations

import msgspec

from tes_server.errors import Invalid
from tes_server.model.task import Task


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The most of each that one task may have."""

    files: int = 100_000
    """inputs, outputs and volumes together"""
    executors: int = 1000
    tags: int = 1000
    content: int = 16 * 1024 * 1024
    """bytes of all inputs' content together"""


def check(task: Task, most: Bounds) -> None:
    """Raises Invalid with the field that has too much, and the setting that says so."""
    inputs = task.inputs or ()
    named = len(inputs) + len(task.outputs or ()) + len(task.volumes or ())
    if named > most.files:
        raise Invalid(f"a task may name {most.files} inputs, outputs and volumes together (`tasks.max_inputs`), this one has {named}", "/inputs")
    if len(task.executors) > most.executors:
        raise Invalid(f"a task may have {most.executors} executors (`tasks.max_executors`), this one has {len(task.executors)}", "/executors")
    if len(task.tags or ()) > most.tags:
        raise Invalid(f"a task may have {most.tags} tags (`tasks.max_tags`), this one has {len(task.tags or ())}", "/tags")
    content = 0
    for number, item in enumerate(inputs):
        content += len(item.content.encode()) if item.content else 0
        if content > most.content:
            raise Invalid(f"the contents of a task's inputs may be {most.content} bytes together (`tasks.max_content`)", f"/inputs/{number}/content")
