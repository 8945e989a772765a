"""The protocol of a backend. Implementations are held to `tests/contract/backend_contract.py`.

A backend starts, finds, observes and stops attempts. It must never decide a TES state (control.decide does), nor know
the store or another backend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from tes_server.model.run import Handle, Later, Observation, Refusal, Room, Tails
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Plan


class Job(msgspec.Struct, frozen=True):
    """A rendered attempt: `name` is ours (`run.job_name`), `body` what the platform gets (JSON bytes; same plan, same bytes)."""

    name: str
    body: bytes


class Backend(Protocol):
    """One platform. Safe to call from any thread; calls are bounded in time. Errors of the platform are
    `errors.EngineError` or `errors.Unavailable`, never an SDK's own."""

    name: str
    capabilities: Capabilities
    place: str
    """The one place from which attempts can be reached, as handles tell; "" where every process reaches them.

    A process that is not at a handle's place must conclude nothing from there: `observe` has no news of such a handle, the
    other calls leave it alone. Where there is a place, one process at a time has it, and `observe` costs next to nothing.
    """

    def render(self, plan: Plan) -> Job:
        """Pure: same plan, same bytes."""

    def submit(self, jobs: Sequence[Job]) -> Mapping[str, Handle | Refusal | Later]:
        """Start jobs; by job name. A name absent from the answer = outcome unknown: find it before trying again.
        Submitting a name that is there answers its handle and starts nothing."""

    def find(self, names: Collection[str]) -> Mapping[str, Handle]:
        """Those of `names` that the platform knows."""

    def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """One look at each. Phase UNKNOWN (or absence) = no news; GONE = the platform denies it."""

    def tail(self, handles: Sequence[Handle]) -> Mapping[Handle, Tails]:
        """Live output of running attempts, bounded."""

    def cancel(self, handles: Sequence[Handle]) -> None:
        """Stop attempts. Idempotent; returns before they have ended: `observe` tells."""

    def release(self, handles: Sequence[Handle]) -> None:
        """Clean up what submit made, after its results are saved. Idempotent."""

    def survey(self) -> Iterator[Handle]:
        """Everything there that bears our label: finds orphans."""

    def room(self) -> Room | None:
        """What may start now; None = the platform queues by itself."""

    def listen(self, news: Callable[[Collection[str]], None]) -> None:
        """Call `news` with task ids when something happened to them: only a hint, sweeps keep it right."""

    def close(self) -> None:
        """Stop threads and connections. What runs goes on running. Idempotent."""
