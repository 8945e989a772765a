"""What an issuer says of somebody, as a principal. Pure: the signature, or the issuer's own answer, was checked before.

Must never take a claim for more than the settings say.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from tes_server import errors
from tes_server.model import principal
from tes_server.model.principal import Principal, Role
from tes_server.settings_auth import IssuerSettings

Claims = Mapping[str, Any]


def check(claims: Claims, issuer: IssuerSettings, now: float, *, must_end: bool = True) -> None:
    """Raise Unauthorized where these claims are not of this issuer, for this server and for now (seconds since 1970).

    `must_end`: there must be an end (RFC 7519's exp), as every JWT here must have one.
    """
    if claims.get("iss", None if must_end else issuer.issuer) != issuer.issuer:
        raise errors.Unauthorized("the token is of an issuer that is not trusted here", "issuer")
    # Each is asked as what must hold: comparisons with NaN, which JSON readers take, are false.
    end, begin, issued = (_time(claims.get(name)) for name in ("exp", "nbf", "iat"))
    if end is None and ("exp" in claims or must_end):
        raise errors.Unauthorized("the token does not say when it expires", "malformed")
    if end is not None and not now < end + issuer.leeway:
        raise errors.Unauthorized("the token has expired", "expired")
    for name, since in (("nbf", begin), ("iat", issued)):
        if name in claims and (since is None or not since <= now + issuer.leeway):
            raise errors.Unauthorized("the token does not hold yet", "early")
    if not set(_values(claims.get(issuer.audience_claim))) & set(issuer.audience):
        raise errors.Unauthorized("the token is not for this server", "audience")


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12 else None


def joined(claims: Claims, userinfo: Claims) -> dict[str, Any]:
    """A token's claims and what userinfo adds to them; what the token says holds. Raises Unauthorized where that is of somebody else.

    OpenID Connect Core, 5.3.2: the subjects must be compared, for a token may have been put in another one's place.
    """
    if not isinstance(claims.get("sub"), str) or userinfo.get("sub") != claims["sub"]:
        raise errors.Unauthorized("the token's issuer says that it is somebody else's", "subject")
    return {**userinfo, **claims}


def principal_of(claims: Claims, issuer: IssuerSettings) -> Principal:
    """Whom the claims are about. Raises Forbidden for those who are known and have nothing to do here."""
    granted = {*_words(claims.get("scope")), *_words(claims.get("scp"))}
    missing = [scope for scope in issuer.scopes if scope not in granted]
    if missing:
        raise errors.Forbidden(f"the token lacks the scope {missing[0]}")
    role = next((Role(rule.role) for rule in issuer.roles if _has(claims, rule.claim, rule.value)), None)
    if role is None:
        if issuer.default_role == "none":
            raise errors.Forbidden("the token gives you no role here")
        role = Role(issuer.default_role)
    owner = _owner(claims, issuer)
    who = subject(claims)
    return Principal(owner, role, who=who if issuer.prefix + who != owner else "")


def subject(claims: Claims) -> str:
    """Whom the claims are about, for the audit log: a line of it takes no half of a surrogate pair, and should not be longer than all others."""
    who = claims.get("sub")
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in who[: principal.LONGEST]) if isinstance(who, str) else ""


def _has(claims: Claims, name: str, value: str) -> bool:
    found = find(claims, name)
    return value in (_words(found) if name in ("scope", "scp") else _values(found))


def _owner(claims: Claims, issuer: IssuerSettings) -> str:
    found = [value for value in _values(find(claims, issuer.owner)) if fnmatch.fnmatchcase(value, issuer.owner_pattern)]
    if len(set(found)) != 1:
        many = "several values" if found else "no value"
        raise errors.Forbidden(f"the token's claim {issuer.owner}, which owns tasks here, has {many} that would do")
    if issuer.owner == "email" and claims.get("email_verified") not in (True, "true"):
        raise errors.Forbidden("the token's email is not verified")
    owner = issuer.prefix + found[0]
    fault = principal.fault_of(owner) or (principal.fault_of(found[0]) if issuer.prefix else "")
    if fault:
        raise errors.Forbidden(f"the token's claim {issuer.owner}, which owns tasks here, {fault}")
    return owner


def find(claims: Claims, name: str) -> Any:
    """The claim of this name, or the one that the parts between its dots lead to; names may have dots themselves. None if there is none."""
    if name in claims:
        return claims[name]
    for at, sign in enumerate(name):
        inner = claims.get(name[:at]) if sign == "." else None
        if isinstance(inner, Mapping):
            return find(inner, name[at + 1 :])
    return None


def _values(value: Any) -> list[str]:
    """The texts of a claim that is one, or a list of some."""
    return [value] if isinstance(value, str) else [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []


def _words(value: Any) -> list[str]:
    """Scopes: a list, or one text with spaces (RFC 8693, 4.2)."""
    return value.split(" ") if isinstance(value, str) else _values(value)
