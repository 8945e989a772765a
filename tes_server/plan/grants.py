"""What the site grants to owners, and what one of them has by it. Pure.

What nothing grants is refused in the same words whether it is there or not. This module must never look who is an admin: an owner's name is all that counts.
"""

from __future__ import annotations

import functools
import urllib.parse
from collections.abc import Collection, Iterable

import msgspec

from tes_server.errors import Invalid
from tes_server.plan import objects, paths, reach
from tes_server.plan.paths import Direction, Sites
from tes_server.plan.reach import Reach

OWNER = "{owner}"
"""In a prefix or the name of a secret: the owner's name."""

ALL = "*"
"""Every secret for tasks."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What the owners that `owners` fits may use: prefixes as the settings have them, names of secrets. What they may write they may read."""

    owners: tuple[str, ...]
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner has. `named_in`, `named_out`: paths that may be named though [[paths]] lead them to the net, with whatever the site's own url holds."""

    sites: Sites
    """with the stores of everybody, and the owner's own"""
    inward: Reach
    outward: Reach
    named_in: tuple[str, ...] = ()
    named_out: tuple[str, ...] = ()
    secrets: frozenset[str] = frozenset()
    all_secrets: bool = False

    def check(self, given: str, url: str, direction: Direction, pointer: str, *, one_file: bool = False) -> None:
        """Raise Invalid where a task may not use a url: `given` as it wrote it, `url` resolved. `one_file`: it is put into a directory, which counts then."""
        mine = self.inward if direction == "in" else self.outward
        if _is_of_net(url, self.sites, direction, mine):
            named = paths.named_path(given)
            # Who names a place of the net itself comes there with what that url holds, and with nothing of the site's.
            if named is None or any(paths.below(named, path) for path in (self.named_in if direction == "in" else self.named_out)):
                return
        elif mine.covers(url, parent=one_file):
            return
        verb, may = ("read from", self.named_in) if direction == "in" else ("write to", self.named_out)
        granted = ", ".join((*mine.prefixes, *may)) or "nothing"
        raise Invalid(f"{mine.owner} may not {verb} {paths.shorten(given)}; granted is {granted} (see the setting `grants`)", pointer)

    def check_live(self, source: str, roots: Iterable[str], pointer: str) -> None:
        """Raise Invalid where a directory may not be mounted live: only those directly below the outermost that is granted.

        It is bound by its path. A task with a live mount above it could replace it by a link at that moment, to anywhere on the machine.
        """
        above = [min((place for place in places if paths.below(source, place)), key=len, default="") for places in (self.outward.directories, roots)]
        base = max(above, key=len)
        if paths.parent(source) != base:
            raise Invalid(f"{paths.shorten(source)} may not be mounted live: only what lies directly in {base} may", pointer)

    def known(self, secrets: Collection[str]) -> tuple[str, ...]:
        """Those of the secrets that there are which the owner may name."""
        return tuple(name for name in secrets if self.all_secrets or name in self.secrets)


def _is_of_net(url: str, sites: Sites, direction: Direction, mine: Reach) -> bool:
    """True if a resolved url is fetched, or put, without the site's identity."""
    scheme = url.partition(":")[0].lower()
    if scheme not in paths.NET:
        return False
    place = objects.place_of(url)
    if place is None or objects.covering(sites.stores, place) is None:
        return True
    # A blob with a signature of its own is anybody's who has it, over plain https.
    return bool(place.signature) and not mine.covers_place(place) and scheme in (sites.readable if direction == "in" else sites.writable)


@functools.lru_cache(maxsize=1024)
def of(grants: tuple[Grant, ...], owner: str, sites: Sites) -> Granted:
    """All that an owner is granted."""
    mine = [grant for grant in grants if reach.fits(owner, grant.owners)]
    write, named_out = _split(prefix for grant in mine for prefix in _places(grant.write, owner, sites))
    read, named_in = _split(prefix for grant in mine for prefix in _places((*grant.read, *grant.write), owner, sites))
    secrets = [name for grant in mine for name in grant.secrets]
    return Granted(
        sites=msgspec.structs.replace(sites, stores=reach.theirs(sites.stores, owner)),
        inward=Reach(owner, read),
        outward=Reach(owner, write),
        named_in=named_in,
        named_out=named_out,
        secrets=frozenset(name.replace(OWNER, owner) for name in secrets),
        all_secrets=ALL in secrets,
    )


def _places(prefixes: Iterable[str], owner: str, sites: Sites) -> Iterable[str]:
    for prefix in prefixes:
        try:
            yield place_of(prefix, owner, sites)
        except (Invalid, objects.Malformed):
            continue  # of this owner's name nothing comes that could be there


def _split(places: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Urls of files and objects; paths that lead to the net."""
    found = tuple(dict.fromkeys(places))
    return tuple(place for place in found if not place.startswith("/")), tuple(place for place in found if place.startswith("/"))


def is_part(owner: str) -> bool:
    """True if an owner's name can be one part of a path."""
    return owner not in ("", ".", "..") and owner.isprintable() and not any(sign in owner for sign in "/\\")


def place_of(prefix: str, owner: str, sites: Sites) -> str:
    """What a prefix of the settings stands for: `file:///path` or an object's url; a path if it leads to the net. Raises Invalid and objects.Malformed."""
    named = paths.named_path(prefix)
    if OWNER in (named or prefix) and not is_part(owner):
        raise objects.Malformed("has a part that no name of a file can be")
    if named is None:
        scheme, _, rest = prefix.partition("://")
        # In names of hosts capitals are no difference.
        if OWNER in rest.partition("/")[0] and owner != owner.lower():
            raise objects.Malformed("names a bucket after an owner with capitals")
        place = objects.rule_of(f"{scheme}://{rest.replace(OWNER, owner)}", write=True).place
        if fault := objects.fault(place.key):
            raise objects.Malformed(fault)
        return place.url()
    path = paths.container_path(named.replace(OWNER, owner), "")
    site = sites.covering(path)
    if site is None:
        return "file://" + urllib.parse.quote(path)
    rest = path.removeprefix(site.path.rstrip("/"))
    scheme = site.url.partition(":")[0].lower()
    if scheme == "file":
        return "file://" + urllib.parse.quote(paths.file_path(site.url).rstrip("/") + rest)
    found = objects.place_of(site.url + (urllib.parse.quote(rest) if scheme in paths.NET else rest))
    return path if found is None or (scheme in paths.NET and objects.covering(sites.stores, found) is None) else found.url()
