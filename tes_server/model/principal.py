"""Who asks, and how far they may see."""

from __future__ import annotations

import enum

import msgspec

LONGEST = 200
"""Characters of an owner's name: room for any claim that identifies somebody, short enough for every store's index."""


class Scope(msgspec.Struct, frozen=True):
    """What a query may touch: one owner's tasks, or with `owner=None` everybody's (admin, viewer, reconciler)."""

    owner: str | None


ALL = Scope(owner=None)


class Role(enum.StrEnum):
    """What somebody who is signed in may do."""

    USER = "user"  #: create; see and cancel what the owner has
    VIEWER = "viewer"  #: see everybody's, change nothing
    ADMIN = "admin"  #: create; see and cancel everybody's
    GUEST = "guest"  #: not signed in, where sign-in is on: what is public about the server, and no task


class Principal(msgspec.Struct, frozen=True):
    """The caller of a request. Without sign-in every HTTP request is `ANONYMOUS`.

    `who` is the person or program that signed in, where the owner does not tell (a group's tasks); `address` is where the
    request came from. Both are for the audit log only: no right follows from them.
    """

    owner: str
    role: Role = Role.USER
    who: str = ""
    address: str = ""

    @property
    def scope(self) -> Scope:
        """The part of the store that this caller may see."""
        return ALL if self.role in (Role.ADMIN, Role.VIEWER) else Scope(owner=self.owner)

    @property
    def may_change(self) -> bool:
        """May create tasks, and cancel those in `scope`."""
        return self.role in (Role.USER, Role.ADMIN)


ANONYMOUS = Principal(owner="anonymous")

SCANS = Principal(owner="tes-server.scan")
"""The owner of the records that scan images: no sign-in may ever give it, so that no user's list shows them. Admins see them."""

GUEST = Principal(owner="", role=Role.GUEST)
"""Nobody in particular. No record has this owner."""


def fault_of(owner: str) -> str:
    """Why no sign-in may give this owner, as the end of a sentence; "" if it may.

    `anonymous` has the tasks of the time without sign-in, and what begins with `tes-server.` is the server's own.
    """
    if not owner or owner != owner.strip() or not owner.isprintable():
        return "is empty, or has a sign that cannot be printed or a space at an end"
    if len(owner) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if owner == ANONYMOUS.owner or owner.casefold().startswith("tes-server."):
        return "is reserved"
    return ""
