"""The protocol by which names of images become digests: what control sees of registries and of local engines.

What is judged by a digest is run by that digest, so that a tag that moves meanwhile changes nothing. This module must
never know who is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import msgspec


class Resolved(msgspec.Struct, frozen=True):
    """What a name leads to now."""

    name: str
    """as it was asked for"""
    digest: str
    """`sha256:<64 hex digits>`: the manifest for the architecture that the task will run on, or a local engine's image id"""
    pinned: str
    """what executors run in place of the name: `registry/repository@sha256:...`, or the id"""
    local: bool = False
    """no registry says so: the engine of this machine has it"""


class Unresolved(msgspec.Struct, frozen=True):
    """Why a name leads to no digest."""

    code: str
    """IMAGE_NOT_FOUND, IMAGE_DENIED or IMAGE_ERROR of telemetry.Code"""
    message: str
    """one sentence for people, which begins with the name"""
    passing: bool
    """True where a later try may have one: nobody answered, or was too busy"""
    after: float = 0.0
    """seconds to wait before that, where the registry said so"""


Answer = Resolved | Unresolved


class Resolver(Protocol):
    """Thread-safe. An answer is given again for a while, so that a crowd of tasks with one image asks once."""

    def ask(self, images: Collection[str], backend: str) -> Mapping[str, Answer]:
        """What is known now of images that tasks on `backend` name. Never waits, never raises.

        A name that is absent is being looked up: ask again once `listen` is called, or some seconds later.
        """

    def listen(self, done: Callable[[], None]) -> None:
        """Call `done`, from any thread, each time that something was looked up: a hint to ask again. It must not wait."""

    def close(self) -> None:
        """Stop looking up. Idempotent."""
