"""Who may see and change what, and which owners no sign-in gives."""

import pytest

from tes_server.model import principal
from tes_server.model.principal import ALL, ANONYMOUS, GUEST, Principal, Role, Scope


@pytest.mark.parametrize(
    ("role", "scope", "changes"),
    [(Role.USER, Scope("a"), True), (Role.VIEWER, ALL, False), (Role.ADMIN, ALL, True), (Role.GUEST, Scope("a"), False)],
)
def test_roles(role: Role, scope: Scope, changes: bool) -> None:
    assert (Principal("a", role).scope, Principal("a", role).may_change) == (scope, changes)


def test_without_sign_in_everybody_is_one_owner() -> None:
    assert (ANONYMOUS.scope, ANONYMOUS.may_change) == (Scope("anonymous"), True)
    assert GUEST.scope != ALL


@pytest.mark.parametrize("owner", ["alice", "alice@example.org", "ls:abc@lifescience-ri.eu", "x" * 200, "Ärztin", "7", "tes-servers"])
def test_owners(owner: str) -> None:
    assert principal.fault_of(owner) == ""


@pytest.mark.parametrize(
    "owner", ["", " ", " alice", "alice ", "a\nb", "a\x00", "\u202ealice", "x" * 201, "anonymous", "tes-server.scan", "TES-Server.Scan", "tes-server."]
)
def test_owners_that_no_sign_in_gives(owner: str) -> None:
    assert principal.fault_of(owner)
