"""The settings of sign-in: who may ask, and as whom."""

from __future__ import annotations

from typing import Literal

from tes_server.settings_parts import Part


class AuthSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may ask. Without `modes` there is no sign-in: the server trusts whoever reaches it, and any Authorization header is ignored."""

    modes: tuple[Literal["basic"], ...] = ()
    """How users sign in: "basic" = name and password (`users_file`)."""
    users_file: str = ""
    """File of users and their passwords' hashes for "basic", kept by `tes-server users`. A change of it holds within two seconds."""
    open_metrics: bool = True
    """/metrics answers without sign-in, as the probes do. False: only those who may see everybody's tasks (viewers, admins)."""
    hosts: tuple[str, ...] = ()
    """Host names (without port) by which clients may call this server, beside loopback names. Others get 403. Sign-in makes it needless."""
    allow_open: bool = False
    """Allow listening on other than loopback addresses without sign-in. Everybody who reaches the port can run programs."""
