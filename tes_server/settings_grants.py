"""The settings of grants: what an owner may name of the site's. Data only."""

from __future__ import annotations

from tes_server.settings_parts import Part


class GrantSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What some owners' tasks may use of what is the site's. With sign-in nothing else may be used; several tables add up, admins are owners like all others.

    `{owner}` stands for the owner's name, as one part of a path; for an owner whose name is none (it has a slash) what has it grants nothing.
    """

    owners: tuple[str, ...]
    """Who: names of owners, or shell patterns (`lab-*`); "*" is everybody who is signed in."""
    read: tuple[str, ...] = ()
    """What inputs may name, and all below it: `file:///data/{owner}`, `s3://bucket/{owner}`, `az://account/container`, `gs://bucket`, or a path (`/data`;
    below one of [[paths]] it is what that stands for)."""
    write: tuple[str, ...] = ()
    """The same for outputs and live mounts; inputs may name it too."""
    secrets: tuple[str, ...] = ()
    """What `executors[].env` may name as `secret://NAME`, e.g. `ena` or `{owner}-token`; "*" is every secret for tasks."""
