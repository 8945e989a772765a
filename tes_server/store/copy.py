"""All tasks and verdicts of one store into another one, of whichever kinds: what the target has is left alone, so that it may be repeated.

Both are walked side by side in the order of ids, by revision, and only what differs is read: a second run costs two walks.
Memory does not grow with the number of tasks. Must never decide whether a store may be used (`store_cli`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from tes_server.store.base import Restored, Seen, Store

PAGE = 2000
"""Entries of a walk that are read at once."""

VERDICTS = 200
"""Verdicts that are read at once."""

BATCH = 200
"""Tasks that are looked for at once; they are read and written some MB at a time."""

NAMED = 20
"""Ids of tasks that could not be copied, kept to be shown."""


class Some(msgspec.Struct):
    """How many tasks, and the first of them by id."""

    count: int = 0
    first: list[str] = []

    def add(self, task_id: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(task_id)


class Progress(msgspec.Struct):
    """How far a copy is, or how it went: of the source's tasks those that were looked at, and what became of them."""

    seen: int = 0
    copied: int = 0
    changed: int = 0
    """the target had an older revision"""
    there: int = 0
    other: Some = msgspec.field(default_factory=Some)
    """another task has the id in the target"""
    too_large: Some = msgspec.field(default_factory=Some)
    """the target cannot hold it"""
    verdicts: int = 0
    """of image scans, that were copied"""
    missing: Some = msgspec.field(default_factory=Some)
    """what the check at the end did not find in the target as it is in the source, or newer: for these reasons or any other"""


Told = Callable[[str, Progress], None]
"""Is told what is being done, "copied" or "checked", and how far it is; often."""


def copy(source: Store, target: Store, told: Told) -> Progress:
    """Copy, then check that all of it is there. Raises what the stores raise; what was copied by then stays, and is not copied again."""
    progress = Progress()
    batch: list[str] = []
    for mine, theirs in _side_by_side(source, target):
        progress.seen += 1
        if theirs is None or (theirs.created == mine.created and theirs.revision < mine.revision):
            batch.append(mine.id)
        elif theirs.created == mine.created:
            progress.there += 1
        else:
            progress.other.add(mine.id)
        if len(batch) == BATCH:
            _bring(batch, source, target, progress)
            batch = []
        told("copied", progress)
    _bring(batch, source, target, progress)
    _bring_verdicts(source, target, progress)
    _check(source, target, progress, told)
    return progress


def _bring(ids: Sequence[str], source: Store, target: Store, progress: Progress) -> None:
    for portion in source.whole(ids) if ids else ():
        for task_id, became in target.restore(portion).items():
            match became:
                case Restored.MADE:
                    progress.copied += 1
                case Restored.CHANGED:
                    progress.changed += 1
                case Restored.THERE:
                    progress.there += 1
                case Restored.OTHER:
                    progress.other.add(task_id)
                case Restored.TOO_LARGE:
                    progress.too_large.add(task_id)


def _bring_verdicts(source: Store, target: Store, progress: Progress) -> None:
    """Those that the target lacks or has an older one of. What is lost of them is scanned again: the check does not look for them."""
    after = None
    while page := source.all_verdicts(after, VERDICTS):
        there = target.verdicts([verdict.key for verdict in page])
        for verdict in page:
            found = there.get(verdict.key)
            if found is None or found.scanned_at < verdict.scanned_at:
                target.keep(verdict)
                progress.verdicts += 1
        after = page[-1].key


def _check(source: Store, target: Store, progress: Progress, told: Told) -> None:
    """Look at both once more: what the writes were answered is not taken on trust."""
    checked = Progress(missing=progress.missing)
    for mine, theirs in _side_by_side(source, target):
        checked.seen += 1
        if theirs is None or theirs.created != mine.created or theirs.revision < mine.revision:
            checked.missing.add(mine.id)
        told("checked", checked)


def _side_by_side(source: Store, target: Store) -> Iterator[tuple[Seen, Seen | None]]:
    """Every task of the source, with what the target has of it. What comes into the target behind the walk does not matter to it."""
    there = _all(target)
    theirs = next(there, None)
    for mine in _all(source):
        while theirs is not None and theirs.id < mine.id:
            theirs = next(there, None)
        yield mine, theirs if theirs is not None and theirs.id == mine.id else None


def _all(store: Store) -> Iterator[Seen]:
    after = ""
    while page := store.walk(after, PAGE):
        yield from page
        after = page[-1].id
