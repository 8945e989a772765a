"""Who asks, and how far they may see."""

from __future__ import annotations

import msgspec


class Scope(msgspec.Struct, frozen=True):
    """What a query may touch: one owner's tasks, or with `owner=None` everybody's (admin, reconciler)."""

    owner: str | None


ALL = Scope(owner=None)


class Principal(msgspec.Struct, frozen=True):
    """The caller of a request. Until sign-in exists every HTTP request is `ANONYMOUS`."""

    owner: str
    admin: bool = False

    @property
    def scope(self) -> Scope:
        """The part of the store that this caller may see."""
        return ALL if self.admin else Scope(owner=self.owner)


ANONYMOUS = Principal(owner="anonymous")

SCANS = Principal(owner="tes-server.scan")
"""The owner of the records that scan images: no sign-in may ever give it, so that no user's list shows them. Admins see them."""
