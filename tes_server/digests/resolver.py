"""`base.Resolver` over look-ups that wait: a few threads, each name asked for once, answers kept for a while.

No registry holds up the images of another: each gets a part of the threads only, and so do all together that have not led anywhere
yet. This module must never know how a name is looked up.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from tes_server import errors, telemetry
from tes_server.digests.base import Answer, Resolved, Unresolved
from tes_server.model import image_names
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

LONGEST = 600
"""Letters of a name that is looked up: those of images are shorter, but anybody may send any text."""

Key = tuple[str, str]
"""image, backend"""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long answers are good, in seconds, and how many are looked up at once."""

    fresh: float = 60.0
    """a digest"""
    ahead: float = 40.0
    """the age from which it is looked up anew while it is still good, so that nobody waits for it"""
    failed: float = 8.0
    """why there is none; longer where the registry asks for that"""
    threads: int = 8
    of_one: int = 3
    """of these for one registry"""
    strangers: int = 5
    """of these for registries that have not led anywhere yet: anybody may name thousands that let one wait"""
    waiting: int = 2000
    """names that wait for a thread, half of them of one registry, and as many of strangers; more are left for the next time they are asked for"""
    kept: int = 20_000
    """answers"""


class _Known(msgspec.Struct, frozen=True):
    answer: Answer
    renew: float
    until: float


class LookupResolver:
    """`look` answers for an image and a backend, within some tens of seconds; `stop` makes it give up what it is at."""

    def __init__(
        self,
        look: Callable[[str, str], Answer],
        stop: Callable[[], None] = lambda: None,
        times: Times = Times(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._stop = stop
        self._times = times
        self._clock = clock
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[Key, _Known] = collections.OrderedDict()
        self._waiting: collections.OrderedDict[Key, str] = collections.OrderedDict()
        self._running: dict[Key, str] = {}
        self._proven: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._listeners: list[Callable[[], None]] = []
        self._closed = False

    def ask(self, images: Collection[str], backend: str) -> Mapping[str, Answer]:
        """See `base.Resolver`."""
        now, found = self._clock(), dict[str, Answer]()
        with self._lock:
            for image in images:
                if len(image) > LONGEST:
                    found[image] = Unresolved(Code.IMAGE_ERROR, f"{image[:80]}...: no name of an image is that long", passing=False)
                    continue
                key = image, backend
                known = self._known.get(key)
                if known is not None and now < known.until:
                    found[image] = known.answer
                if known is None or now >= known.renew:
                    self._want(key, again=known is not None and isinstance(known.answer, Resolved))
            self._start()
        return found

    def listen(self, done: Callable[[], None]) -> None:
        """See `base.Resolver`."""
        with self._lock:
            self._listeners.append(done)

    def close(self) -> None:
        """See `base.Resolver`. What is under way ends by itself, unheard."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._listeners.clear()
        self._stop()

    def _want(self, key: Key, *, again: bool) -> None:
        """`again`: it led somewhere a while ago. Such names come first and always have room: names that anybody makes up, of registries that let one
        wait, must not stop what runs here every day."""
        if self._closed or key in self._running or key in self._waiting:
            return
        lane = _lane(key[0])
        if again or self._has_room(lane):
            self._waiting[key] = lane
            self._waiting.move_to_end(key, last=not again)

    def _has_room(self, lane: str) -> bool:
        most = self._times.waiting
        if len(self._waiting) < most // 2:
            return True
        alike = [each for each in self._waiting.values() if (each in self._proven) == (lane in self._proven)]
        return len(alike) < most // 2 or (len(alike) < most and alike.count(lane) < most // 2)

    def _start(self) -> None:
        """Give threads to those that wait, oldest first, as far as their registries have some left."""
        busy = collections.Counter(self._running.values())
        strangers = sum(lane not in self._proven for lane in self._running.values())
        for key, lane in list(self._waiting.items()):
            if len(self._running) >= self._times.threads:
                return
            stranger = lane not in self._proven
            if busy[lane] < self._times.of_one and not (stranger and strangers >= self._times.strangers):
                busy[lane] += 1
                strangers += stranger
                del self._waiting[key]
                self._running[key] = lane
                try:
                    threading.Thread(target=self._run, args=key, name="tes-digest", daemon=True).start()
                except RuntimeError:  # this machine gives no more threads now: the next one who asks tries again
                    self._waiting[key] = self._running.pop(key)
                    return

    def _run(self, image: str, backend: str) -> None:
        try:
            answer = self._look(image, backend)
        except Exception:
            logger.exception("image.lookup.broken", extra={"fields": {"image": image, "backend": backend}})
            answer = Unresolved(Code.IMAGE_ERROR, f"{image}: looking it up failed by a fault of this server", passing=True)
        if isinstance(answer, Unresolved):
            telemetry.log(logger, logging.INFO, "image.unresolved", image=image, backend=backend, code=answer.code, error=answer.message)
        with self._lock:
            self._keep((image, backend), answer)
            del self._running[image, backend]
            self._start()
            listeners = list(self._listeners)
        for done in listeners:
            done()

    def _keep(self, key: Key, answer: Answer) -> None:
        now, times = self._clock(), self._times
        if isinstance(answer, Resolved):
            known = _Known(answer, now + times.ahead, now + times.fresh)
            self._proven[_lane(key[0])] = None
            self._proven.move_to_end(_lane(key[0]))
            while len(self._proven) > times.waiting:
                self._proven.popitem(last=False)
        else:
            until = now + max(times.failed, answer.after)
            known = _Known(answer, until, until)
            before = self._known.get(key)
            if answer.passing and before is not None and isinstance(before.answer, Resolved) and now < before.until:
                # Looked up ahead of time in a bad moment: what was found before is good for a while yet.
                known = _Known(before.answer, min(until, before.until), before.until)
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > times.kept:
            self._known.popitem(last=False)


def _lane(image: str) -> str:
    """The registry of a name; all that are none share one."""
    try:
        return image_names.parse(image).registry
    except errors.EngineError:
        return ""
