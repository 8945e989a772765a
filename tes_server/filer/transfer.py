"""Stage-in and stage-out of one attempt, as the runner and the stage containers call them.

What happens to one input or output is for `inward` and `outward`; here is only what they do together: in which order,
with how many hands, and how it all ends. This module must never open a file.
"""

from __future__ import annotations

import pathlib
import types
from collections.abc import Callable, Iterable, Mapping

from tes_server.filer import wording
from tes_server.filer.control import Control
from tes_server.filer.crew import Crew
from tes_server.filer.inward import Inward
from tes_server.filer.manifest import Access, Collected
from tes_server.filer.outward import Outward, View
from tes_server.filer.progress import Progress
from tes_server.filer.rooted import Realm
from tes_server.filer.wording import INPUT, OUTPUT, Side
from tes_server.plan.steps import StageIn, StageOut

_NONE: Mapping[str, str] = types.MappingProxyType({})


def stage_in(step: StageIn, volume: pathlib.Path, access: Access, stopped: Callable[[], bool], progress: Progress | None = None) -> tuple[str, ...]:
    """Make the directories and place the inputs below `volume`; returns lines for system_logs.

    May be run again over what an earlier run left. Raises StagingError at the first input that cannot be placed, and
    Canceled soon after `stopped` answers True. Nothing is synced: the volume does not outlive its machine.
    """
    progress = progress or Progress("in")
    control = Control(stopped, progress.moved)
    access = access.narrowed(step.reach)
    inward = Inward(_opened(volume, INPUT), access, control, str(volume), progress)
    try:
        with control.watched(), Crew(control, _hands(access, [fetch.url for fetch in step.inputs if fetch.content is None]), "tes-in") as crew:
            for path in step.directories:
                inward.directory(path)
            claims = _Claims()
            for fetch in step.inputs:
                claims.claim(fetch.path, crew)
                inward.fetch(fetch, crew)
    finally:
        inward.close()
    return (*progress.lines(), *inward.notices.lines())


def stage_out(
    step: StageOut, volume: pathlib.Path, access: Access, stopped: Callable[[], bool], live: Mapping[str, str] = _NONE, progress: Progress | None = None
) -> Collected:
    """Take the outputs from `volume` to their urls, as many as can be taken; durable when it returns.

    `live`: container directories that were not in the volume, and where they are on this machine. They are shared with
    other tasks, so links in them, and on the way to them, may not lead out.

    May be run again, also after it was done. Missing outputs are notices, everything else that goes wrong is in the
    answer's `error`. Raises Canceled soon after `stopped` answers True, and StagingError if there is no volume.
    """
    progress = progress or Progress("out")
    control = Control(stopped, progress.moved)
    views = [View(_opened_live(shown, source), shown) for shown, source in sorted(live.items(), reverse=True)]  # inner ones first
    access = access.narrowed(step.reach)
    outward = Outward([*views, View(_opened(volume, OUTPUT))], access, control, str(volume), progress)
    try:
        with control.watched(), Crew(control, _hands(access, [collect.url for collect in step.outputs]), "tes-out") as crew:
            claims = _Claims()
            for order, collect in enumerate(step.outputs):
                claims.claim(collect.url, crew)
                outward.collect(order, collect, crew)
        outward.finish()
    finally:
        outward.close()
    return outward.collected()


def _hands(access: Access, urls: Iterable[str]) -> int:
    """Threads for a step: more of them where other machines take part."""
    return access.workers if all(url.startswith("file:") for url in urls) else access.remote_workers


def _opened(volume: pathlib.Path, side: Side) -> Realm:
    try:
        return Realm(str(volume))
    except OSError as cause:
        raise wording.failure(cause, side, "/", "the task's volume") from cause


def _opened_live(shown: str, source: str) -> Realm:
    """Not through a link: whoever shares the directory may have put one in its place."""
    try:
        return Realm("/", [source]).inner(source)
    except OSError as cause:
        raise wording.failure(cause, OUTPUT, shown, "the directory mounted there") from cause


class _Claims:
    """Keeps transfers to one place in the order in which the task names them; those to different places go side by side."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._above: set[str] = set()

    def claim(self, place: str, crew: Crew) -> None:
        """Wait for all jobs if `place` is, holds, or lies in a place that was claimed since the last wait."""
        place = place.rstrip("/")
        above = set[str]()
        head = place
        while head := head.rpartition("/")[0]:
            above.add(head)
        if place in self._taken or place in self._above or not above.isdisjoint(self._taken):
            crew.drain()
            self._taken.clear()
            self._above.clear()
        self._taken.add(place)
        self._above |= above
