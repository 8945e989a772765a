"""JSON Web Tokens: what one says of itself before it is believed, and whether its signature holds.

joserfc does the cryptography: its keys have kinds, so that a public key is never the secret of an HMAC. Must never use a key,
or the address of one, that a token brings along (RFC 8725, 3.1, 3.2 and 3.10).
"""

from __future__ import annotations

import base64
import binascii
import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import joserfc.errors
import joserfc.jwk
import joserfc.jws
import joserfc.jwt
import msgspec

from tes_server import errors

TYPES = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})
"""`typ` of access tokens (RFC 9068) and of those of issuers that came before it. Others (logout tokens, requests) let nobody in."""

LONGEST_HEADER = 8 * 1024
"""Bytes: some issuers put their certificates there, which nobody here reads."""

SHORTEST = 2048
"""Bits of an RSA key (RFC 7518, 3.3)."""

_PUBLIC = frozenset({"kty", "use", "key_ops", "alg", "kid", "n", "e", "crv", "x", "y"})
"""What is read of a key."""

_KINDS = {"R": "RSA", "P": "RSA", "E": "EC"}
"""The kind of key that goes with an algorithm, by its first letter."""


class Unverified(msgspec.Struct, frozen=True):
    """What a token says of itself; good for choosing a key, and for nothing else."""

    algorithm: str
    kid: str | None
    issuer: str
    type: str
    critical: bool


def peek(token: str) -> Unverified | None:
    """What the token says of itself, None if it is no signed JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    header, claims = _object(parts[0]), _object(parts[1])
    if header is None or claims is None or not isinstance(header.get("alg"), str):
        return None
    kid, kind, issuer = header.get("kid"), header.get("typ", ""), claims.get("iss")
    return Unverified(
        algorithm=header["alg"],
        kid=kid if isinstance(kid, str) else None,
        issuer=issuer if isinstance(issuer, str) else "",
        type=kind.lower() if isinstance(kind, str) else "?",
        critical="crit" in header,
    )


def _object(part: str) -> dict[str, Any] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def keys(document: Any) -> list[joserfc.jwk.Key]:
    """The public signature keys of a JWK Set (RFC 7517, 5); what is of another kind, for encryption or broken is left out."""
    found: list[joserfc.jwk.Key] = []
    for entry in document.get("keys", ()) if isinstance(document, dict) else ():
        if not isinstance(entry, dict) or entry.get("kty") not in _KINDS.values() or entry.get("use", "sig") != "sig":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of keys that are too short, which we leave out
                key = joserfc.jwk.import_key({name: value for name, value in entry.items() if name in _PUBLIC})
        except (joserfc.errors.JoseError, ValueError, TypeError, KeyError):
            continue
        if not isinstance(key, joserfc.jwk.RSAKey) or key.raw_value.key_size >= SHORTEST:
            found.append(key)
    return found


def fitting(known: Iterable[joserfc.jwk.Key], said: Unverified) -> list[joserfc.jwk.Key]:
    """Those of the keys that the token may be signed by: its kid, if it names one, and the kind of its algorithm."""
    return [
        key
        for key in known
        if (said.kid is None or key.get("kid") == said.kid) and key.key_type == _KINDS.get(said.algorithm[:1]) and key.get("alg") in (None, said.algorithm)
    ]


def check_header(said: Unverified, algorithms: Sequence[str]) -> None:
    """Raise Unauthorized for a token that is not to be looked at any further."""
    if said.algorithm not in algorithms:
        raise errors.Unauthorized("the token's signature is of a kind that is not taken here", "algorithm")
    if said.type not in TYPES:
        raise errors.Unauthorized("the token is no access token", "type")
    if said.critical:
        raise errors.Unauthorized("the token wants what is not known here (crit)", "malformed")


def verified(token: str, candidates: Sequence[joserfc.jwk.Key], algorithms: Sequence[str]) -> dict[str, Any]:
    """The claims of a token that one of the keys has signed. Raises Unauthorized."""
    registry = joserfc.jws.JWSRegistry(algorithms=list(algorithms), strict_check_header=False)
    registry.max_header_length = LONGEST_HEADER
    for key in candidates:
        try:
            return dict(joserfc.jwt.decode(token, key, registry=registry).claims)
        except (joserfc.errors.JoseError, ValueError, TypeError):
            continue
    raise errors.Unauthorized("the token's signature does not hold", "signature")
