"""The settings of sign-in: who may ask, and as whom."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tes_server.settings_parts import Amount, Count, Part

Leeway = Annotated[float, msgspec.Meta(ge=0, le=300)]

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
"""Signatures by public keys. None of them can be forged by who knows the key that checks them, as those of HS256 could."""


class ClaimRoleSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A role that a claim gives."""

    role: Literal["user", "viewer", "admin"]
    """"user": create; see and cancel the owner's tasks. "viewer": see everybody's, change nothing. "admin": create; see and cancel everybody's."""
    claim: str
    """Name of the claim; `a.b` is also `b` in `a` (`realm_access.roles`)."""
    value: str
    """The claim is this, or, where it is a list, has this. Of `scope` and `scp` each word counts."""


class IssuerSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An issuer of tokens that is trusted. No other one is, whatever a token says."""

    issuer: str
    """Its name, exactly as `iss` in its tokens has it."""
    audience: tuple[str, ...]
    """A token must be for one of these (`aud`): what the issuer calls this server, never what it calls other ones."""
    audience_claim: str = "aud"
    """Where the token says that. Access tokens of Amazon Cognito: `client_id`."""
    discovery: str = ""
    """URL of its OpenID configuration. Empty = `issuer` and `/.well-known/openid-configuration`."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "PS256", "ES256")
    """Signatures that are taken."""
    scopes: tuple[str, ...] = ()
    """Scopes that a token must have, all of them (`scope` or `scp`)."""
    leeway: Leeway = 30.0
    """Seconds that this machine's clock and the issuer's may differ."""
    owner: str = "sub"
    """The claim whose value owns the tasks: a person (`sub`, `oid`), or what people share (`groups`). It must never be somebody's to choose."""
    owner_pattern: str = "*"
    """Where the claim is a list: shell pattern that exactly one of its values must match (`tes-*`)."""
    prefix: str = ""
    """Put before the owner, e.g. `ls:`; needed where there are several ways to sign in, so that nobody is taken for another one's user."""
    roles: tuple[ClaimRoleSettings, ...] = ()
    """What claims give, e.g. `[[auth.issuers.roles]]` tables; the first that fits."""
    default_role: Literal["none", "user", "viewer"] = "none"
    """The role of those to whom no claim gives one. "user" lets in everybody who gets a token for this server from the issuer."""
    userinfo: bool = False
    """Ask the issuer's userinfo endpoint, too, for claims that its tokens do not have (groups at LS Login). Costs a request a minute for each token."""
    introspection: str = ""
    """Where tokens that are not JWTs are asked about (RFC 7662): a URL, or "discovery" for the one that the issuer names. Empty = they are refused."""
    client_id: str = ""
    """This server's name at the introspection endpoint."""
    client_secret_variable: str = ""
    """Name of the environment variable that holds its password there."""
    client_secret_file: str = ""
    """File that holds it instead."""


class AuthSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may ask. Without `modes` there is no sign-in: the server trusts whoever reaches it, and any Authorization header is ignored."""

    modes: tuple[Literal["basic", "oidc"], ...] = ()
    """How users sign in: "basic" = name and password (`users_file`), "oidc" = bearer tokens of `issuers`."""
    users_file: str = ""
    """File of users and their passwords' hashes for "basic", kept by `tes-server users`. A change of it holds within two seconds."""
    issuers: tuple[IssuerSettings, ...] = ()
    """Issuers of tokens for "oidc", e.g. `[[auth.issuers]]` tables."""
    open_metrics: bool = True
    """/metrics answers without sign-in, as the probes do. False: only those who may see everybody's tasks (viewers, admins)."""
    hosts: tuple[str, ...] = ()
    """Host names (without port) by which clients may call this server, beside loopback names. Others get 403. Sign-in makes it needless."""
    allow_open: bool = False
    """Allow listening on other than loopback addresses without sign-in. Everybody who reaches the port can run programs."""


class LimitSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one owner may have at a time, and ask for; 0 = any. Beyond it creates (and lists) get 429 with Retry-After, nothing else ever; beyond
    `running` tasks wait."""

    queued: Count = 0
    """Tasks that have not begun. Several API processes count every five seconds what the others let in."""
    tasks: Count = 0
    """Tasks that have not ended."""
    cores: Amount = 0.0
    """Cores that tasks which have not ended ask for together."""
    running: Count = 0
    """Tasks that are under way: being submitted, in a platform's queue, running. Others wait in the state QUEUED, and in nobody else's way."""
    creates_per_minute: Count = 0
    """New tasks; a minute's worth may come at once. Each API process counts for itself."""
    lists_per_minute: Count = 0
    """Lists of tasks, those of /ui too; as above."""
