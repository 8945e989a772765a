"""Sign-in: from the Authorization header to a principal, by the method that its scheme names.

Credentials are checked in threads, never on the event loop, and what comes of it is remembered for a while. Must never
tell why credentials are wrong beyond what the method says.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio
import anyio.to_thread

from tes_server import errors, telemetry
from tes_server.api.answers import Header
from tes_server.api.methods import Method, Verified
from tes_server.api.remembered import Remembered
from tes_server.control.audit import Audit
from tes_server.model.principal import Principal

WAITING = 64
"""Credentials that wait for a thread at most; beyond it 503: whoever guesses fast must not make all others wait."""

WRONG_KEPT = 10.0
"""Seconds for which wrong credentials are not looked at again: clients poll on with what they have."""

LONGEST = 32 * 1024
"""Bytes of an Authorization header: tokens with hundreds of groups have some 10,000."""


class SignIn:
    """All ways to sign in of one server. For one event loop. `audit` is told of credentials that are not good."""

    def __init__(self, methods: Sequence[Method], audit: Audit | None = None) -> None:
        self._audit = audit
        self._methods = {method.scheme: method for method in methods}
        self._desks = {method.scheme: anyio.Semaphore(method.threads) for method in methods}
        self._threads = anyio.CapacityLimiter(sum(method.threads for method in methods))
        # A table each: who has a token, and writes it in a thousand ways, crowds out nobody whose password is dear to check.
        self._known: dict[str, Remembered[Verified]] = {method.scheme: Remembered() for method in methods}
        self._wrong: Remembered[errors.TesServerError] = Remembered(1000)

    async def principal(self, headers: Sequence[Header], address: str = "") -> Principal | None:
        """Who asks (from `address`), None if the request has no credentials. Raises Unauthorized, Forbidden, Unavailable."""
        given = [value for name, value in headers if name == b"authorization"]
        if not given:
            return None
        if len(given) > 1:
            raise self.refusal("the request has more than one Authorization header", "malformed")
        if len(given[0]) > LONGEST:
            raise self.refusal("the Authorization header is too long", "malformed")
        scheme, _, credentials = given[0].decode("latin-1").partition(" ")
        method = self._methods.get(scheme.lower())
        if method is None:
            raise self.refusal(f"this server takes no sign-in by {scheme[:20]!r}", "scheme")
        now, credentials = time.monotonic(), credentials.strip()
        version, header = method.version(now), f"{method.scheme} {credentials}".encode("latin-1")
        known = self._known[method.scheme].get(header, version, now)
        if known is None:
            known = await self._found_out(method, header, credentials, version, address)
        elif known.renews:
            self._known[method.scheme].put(header, version, known, now + known.renews)
        return known.principal

    async def _found_out(self, method: Method, header: bytes, credentials: str, version: object, address: str) -> Verified:
        """`header` is what the credentials are remembered by."""
        wrong = self._wrong.get(header, version, time.monotonic())
        if wrong is not None:
            raise self._raised(wrong, method)
        desk = self._desks[method.scheme]
        if desk.statistics().tasks_waiting >= WAITING:
            raise errors.Unavailable("too many sign-ins at once; try again", 1.0)
        async with desk:
            # Clients begin with several connections at once: the first of them has found out for the others.
            known = self._known[method.scheme].get(header, version, time.monotonic())
            if known is not None:
                return known
            wrong = self._wrong.get(header, version, time.monotonic())
            if wrong is not None:
                raise self._raised(wrong, method)
            found = await anyio.to_thread.run_sync(_verified, method, credentials, limiter=self._threads)
        if isinstance(found, errors.TesServerError):
            reason = found.reason if isinstance(found, errors.Unauthorized) else "forbidden"
            telemetry.SIGN_INS_REFUSED.labels(method.scheme, reason).inc()
            if self._audit is not None:
                self._audit.refused(address, method.scheme, reason, found.who)
            self._wrong.put(header, version, found, time.monotonic() + WRONG_KEPT)
            raise self._raised(found, method)
        self._known[method.scheme].put(header, version, found, found.until)
        return found

    def refusal(self, public: str, reason: str) -> errors.Unauthorized:
        """What a request gets that has not signed in by any of the methods."""
        return errors.Unauthorized(public, reason, tuple(method.challenge(None) for method in self._methods.values()))

    def _raised(self, found: errors.TesServerError, method: Method) -> errors.TesServerError:
        if not isinstance(found, errors.Unauthorized):
            return type(found)(found.public)
        challenges = [other.challenge(found if other is method else None) for other in self._methods.values()]
        return errors.Unauthorized(found.public, found.reason, tuple(challenges))


def _verified(method: Method, credentials: str) -> Verified | errors.Unauthorized | errors.Forbidden:
    """As a value: what is raised in a thread bears its trace, and these are kept."""
    try:
        return method.verify(credentials)
    except (errors.Unauthorized, errors.Forbidden) as fault:
        return fault.with_traceback(None)
