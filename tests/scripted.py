"""A platform in memory and a backend that drives it: for tests of the control plane, with faults on demand.

The platform outlives the backend object, as a real one outlives our process.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from tes_server import errors
from tes_server.backends.base import Job
from tes_server.digests.base import Answer, Resolved
from tes_server.model import run
from tes_server.model.run import Handle, Later, Observation, Phase, Refusal, Report, Room, Tails
from tes_server.model.task import ExecutorLog
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Plan

T0 = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> datetime.datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


@dataclasses.dataclass
class Running:
    """One attempt on the platform: the observations it will show, one a look; the last one stays."""

    plan: Plan
    script: list[Observation]
    canceled: bool = False


def good(code: int = 0) -> Report:
    return Report(executors=(ExecutorLog(exit_code=code, stdout="out", stderr="err", start_time=T0, end_time=T0),), start_time=T0, end_time=T0)


COMPLETE = [Observation(phase=Phase.STAGING), Observation(phase=Phase.RUNNING, start_time=T0), Observation(phase=Phase.ENDED, report=good())]


class Platform:
    """What there is. `started` counts real starts by job name; `script` gives the observations of a new attempt."""

    def __init__(self, script: Callable[[Plan], list[Observation]] = lambda _: list(COMPLETE)) -> None:
        self.script = script
        self.jobs: dict[str, Running] = {}
        self.started: collections.Counter[str] = collections.Counter()
        self.most = 0

    def alive(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job.script[0].phase is not Phase.ENDED and not job.canceled]


class ScriptedBackend:
    """A Backend over a Platform. `fault` is called before and after each effect with a label and may raise."""

    name = "local"

    def __init__(
        self,
        platform: Platform,
        room: Callable[[Platform], Room | None] = lambda _: None,
        fault: Callable[[str], None] = lambda _: None,
        place: str = "",
    ) -> None:
        self.place = place
        self.capabilities = Capabilities(cpus=8, ram_bytes=10**11, submit_window=10.0)
        self.platform = platform
        self.answers: dict[str, Refusal | Later] = {}
        self.down = False
        self.canceled: list[str] = []
        self.calls: collections.Counter[str] = collections.Counter()
        self._room = room
        self._fault = fault

    def _call(self, label: str) -> None:
        self.calls[label] += 1
        if self.down:
            raise errors.Unavailable("the platform is down")
        self._fault(label)

    def render(self, plan: Plan) -> Job:
        return Job(run.job_name(plan.task_id, plan.attempt), msgspec.json.encode(plan))

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        self._call("submit")
        answers: dict[str, Handle | Refusal | Later] = {}
        for job in jobs:
            if job.name in self.answers:
                answers[job.name] = self.answers.pop(job.name)
                continue
            if job.name not in self.platform.jobs:
                plan = msgspec.json.decode(job.body, type=Plan)
                self.platform.jobs[job.name] = Running(plan, self.platform.script(plan))
                self.platform.started[job.name] += 1
                self.platform.most = max(self.platform.most, len(self.platform.alive()))
            answers[job.name] = Handle(self.name, job.name, place=self.place)
        self._fault("submit done")
        return answers

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        self._call("find")
        return {name: Handle(self.name, name, place=self.place) for name in names if name in self.platform.jobs}

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        self._call("observe")
        seen: dict[Handle, Observation] = {}
        for handle in handles:
            job = self.platform.jobs.get(handle.name)
            if job is None:
                seen[handle] = Observation(phase=Phase.GONE)
            elif job.canceled:
                seen[handle] = Observation(phase=Phase.ENDED, report=Report(reason=run.Reason.CANCELED))
            else:
                seen[handle] = job.script.pop(0) if len(job.script) > 1 else job.script[0]
        return seen

    def tail(self, handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        self._call("tail")
        return {handle: Tails(1, (ExecutorLog(stdout="live"),)) for handle in handles if handle.name in self.platform.jobs}

    def cancel(self, handles: Sequence[Handle]) -> None:
        self._call("cancel")
        for handle in handles:
            self.canceled.append(handle.name)
            if handle.name in self.platform.jobs:
                self.platform.jobs[handle.name].canceled = True
        self._fault("cancel done")

    def release(self, handles: Sequence[Handle]) -> None:
        self._call("release")
        for handle in handles:
            self.platform.jobs.pop(handle.name, None)
        self._fault("release done")

    def survey(self) -> Iterator[Handle]:
        yield from [Handle(self.name, name, place=self.place) for name in self.platform.jobs]

    def room(self) -> Room | None:
        return self._room(self.platform)

    def listen(self, news: Callable[[Collection[str]], None]) -> None:
        self.news = news

    def close(self) -> None:
        pass


class ScriptedResolver:
    """Answers what `answers` holds; other names lead to a digest of their own. A name in `slow` is being looked up until `found` is called."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.slow: set[str] = set()
        self.asked: collections.Counter[str] = collections.Counter()
        self._done: Callable[[], None] = lambda: None

    def ask(self, images: Collection[str], backend: str) -> Mapping[str, Answer]:
        self.asked.update(images)
        return {name: self.answers.get(name) or resolved(name) for name in images if name not in self.slow}

    def found(self, name: str) -> None:
        self.slow.discard(name)
        self._done()

    def listen(self, done: Callable[[], None]) -> None:
        self._done = done

    def close(self) -> None:
        pass


def digest_of(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def resolved(name: str, version: str = "") -> Resolved:
    """The name at a digest; another `version` of it at another one."""
    digest = digest_of(name + version)
    return Resolved(name, digest, f"{name.partition(':')[0]}@{digest}")
