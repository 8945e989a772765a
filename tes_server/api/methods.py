"""What a way to sign in is: the protocol that `sign_in` asks, and what it answers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from tes_server import errors
from tes_server.model.principal import Principal


class Verified(msgspec.Struct, frozen=True):
    """Somebody who is known. `until` (`time.monotonic`) is when the credentials must be checked anew; a use before puts that off by `renews` seconds."""

    principal: Principal
    until: float
    renews: float = 0.0


class Method(Protocol):
    """One way to sign in."""

    scheme: str
    """Of the Authorization header, lower case."""
    threads: int
    """Credentials that are checked at a time in one process."""

    def challenge(self, fault: errors.Unauthorized | None) -> str:
        """The value of WWW-Authenticate; `fault` is what was wrong with credentials of this scheme, None if there were none."""

    def version(self, now: float) -> object:
        """Changes when what was found out before no longer holds. Called for each request: quick."""

    def verify(self, credentials: str) -> Verified:
        """Who has these credentials (what follows the scheme). May block; called in threads.

        Raises Unauthorized, Forbidden (known, but may not be here), or Unavailable where that cannot be found out.
        """
