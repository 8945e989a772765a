"""Sign-in by bearer tokens (RFC 6750) of pinned issuers: JWTs by their signature, others by the issuer's word.

Which issuer is asked follows from the settings alone: a token only chooses among them. Must never log or keep a token.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from tes_server import errors
from tes_server.api import claims, signatures
from tes_server.api.issuers import Issuer
from tes_server.api.methods import Verified
from tes_server.settings_auth import IssuerSettings

KEPT = 60.0
"""Seconds for which a good token is not looked at again: so long it may outlive its withdrawal, or that of its key."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""b64token of RFC 6750, 2.1."""


def _epoch() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()


class Tokens:
    """The method "oidc". `verify` may be called from several threads. `clock` gives seconds since 1970."""

    scheme = "bearer"
    threads = 8  # they mostly wait: for an issuer's answer

    def __init__(self, issuers: Sequence[IssuerSettings], clock: Callable[[], float] = _epoch) -> None:
        self._issuers = {issuer.issuer: Issuer(issuer) for issuer in issuers}
        self._clock = clock

    def challenge(self, fault: errors.Unauthorized | None) -> str:
        """The value of WWW-Authenticate (RFC 6750, 3)."""
        plain = 'Bearer realm="tes-server"'
        return plain if fault is None else f'{plain}, error="invalid_token", error_description="{fault.public}"'

    def version(self, now: float) -> object:  # noqa: ARG002 - what the settings say does not change
        """Always the same: what was found out holds until its time is over."""
        return None

    def verify(self, credentials: str) -> Verified:
        """Whose token this is. Raises Unauthorized, Forbidden, Unavailable."""
        if not _TOKEN.fullmatch(credentials):
            raise errors.Unauthorized("what follows Bearer is no token", "malformed")
        said = signatures.peek(credentials)
        return self._by_word(credentials) if said is None else self._by_signature(credentials, said)

    def _by_signature(self, token: str, said: signatures.Unverified) -> Verified:
        issuer = self._issuers.get(said.issuer)
        if issuer is None:
            raise errors.Unauthorized("the token is of an issuer that is not trusted here", "issuer")
        algorithms = issuer.settings.algorithms
        signatures.check_header(said, algorithms)
        found = signatures.verified(token, issuer.keys(said), algorithms)
        return self._verified(token, found, issuer, must_end=True)

    def _by_word(self, token: str) -> Verified:
        asked = [issuer for issuer in self._issuers.values() if issuer.settings.introspection]
        for issuer in asked:
            found = issuer.introspected(token)
            if found is not None:
                return self._verified(token, found, issuer, must_end=False)
        raise errors.Unauthorized("the token does not hold any more, or never did" if asked else "the token is no JWT", "inactive" if asked else "malformed")

    def _verified(self, token: str, found: dict[str, Any], issuer: Issuer, *, must_end: bool) -> Verified:
        now = self._clock()
        try:
            claims.check(found, issuer.settings, now, must_end=must_end)
            if issuer.settings.userinfo:
                found = claims.joined(found, issuer.userinfo(token))
            principal = claims.principal_of(found, issuer.settings)
        except (errors.Unauthorized, errors.Forbidden) as fault:
            fault.who = claims.subject(found)  # its issuer has said so
            raise
        left = float(found["exp"]) + issuer.settings.leeway - now if "exp" in found else KEPT
        return Verified(principal, time.monotonic() + min(KEPT, left))
