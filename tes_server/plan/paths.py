"""From what a task calls a file to a URL that the filer understands.

Lexical and pure: whether a path is really inside its root, links followed, is the filer's to check at transfer time.
"""

from __future__ import annotations

import posixpath
import re
import urllib.parse
from typing import Literal

import msgspec

from tes_server import redaction
from tes_server.errors import Invalid
from tes_server.plan import objects
from tes_server.plan.guard import Guard

Direction = Literal["in", "out"]

NET = frozenset({"ftp", "ftps", "http", "https"})
"""Schemes whose urls are those of RFC 3986, with paths percent-encoded."""

PORTS = {"ftp": 21, "ftps": 990, "http": 80, "https": 443}
"""Where they lead without a port."""

FTP_TYPE = re.compile(r";type=[aid]$", re.IGNORECASE)
"""How an ftp url may end (RFC 1738, 3.2.2). We move bytes, whatever it says."""

LONGEST_PATH = 4000
"""Bytes: Linux takes 4095 (PATH_MAX), of which the place of a task's volume needs some."""


class SitePath(msgspec.Struct, frozen=True):
    """A path prefix that engines name files by, and the URL prefix that stands for it (no trailing slash in either)."""

    path: str
    url: str


class Sites(msgspec.Struct, frozen=True, kw_only=True):
    """Which URLs this site takes. `roots` are absolute directories, normalised; schemes are lower case without `:`."""

    paths: tuple[SitePath, ...] = ()
    roots: tuple[str, ...] = ()
    readable: frozenset[str] = frozenset({"file", "http", "https", "ftp", "ftps"})
    stores: tuple[objects.Rule, ...] = ()
    writable: frozenset[str] = frozenset({"file"})
    guard: Guard = Guard()

    def prefixes(self) -> str:
        """The path prefixes that there are, in words."""
        known = sorted({site.path for site in self.paths} | set(self.roots))
        return f"this server {'knows ' + ', '.join(known) if known else 'allows none'} (see the settings `files.roots` and `paths`)"

    def stored(self, direction: Direction) -> list[str]:
        """The object stores that may be used, as urls."""
        return [rule.place.url() for rule in self.stores if rule.write or direction == "in"]

    def covering(self, path: str) -> SitePath | None:
        """The deepest site path that is `path` (normalised) or above it."""
        return max((site for site in self.paths if below(path, site.path)), key=lambda site: len(site.path), default=None)

    def scheme(self, url: str) -> str:
        """The scheme that `url` has once site paths are replaced, lower case; never raises, also for what `resolve` refuses."""
        path = named_path(url)
        if path is None:
            return url.partition(":")[0].lower()
        site = self.covering(path)
        return site.url.partition(":")[0].lower() if site else "file"


def named_path(url: str) -> str | None:
    """The path, normalised, by which a task names a file; None for urls of other kinds. Never raises, also for what `resolve` refuses."""
    if url.startswith("/"):
        return _normal(url)
    scheme, _, rest = url.partition(":")
    return _normal(urllib.parse.unquote(rest.removeprefix("//").removeprefix("localhost"))) if scheme.lower() == "file" else None


def container_path(path: str, pointer: str) -> str:
    """A normalised absolute container path without trailing slash. Raises Invalid at `pointer`."""
    if not path.startswith("/"):
        raise Invalid(f"must be an absolute path, not {shorten(path)}", pointer)
    if "\0" in path:
        raise Invalid("must not hold a NUL character", pointer)
    if len(path.encode()) > LONGEST_PATH:
        raise Invalid(f"is longer than the {LONGEST_PATH} bytes that a path may have: {shorten(path)}", pointer)
    if "/.." in path and ".." in path.split("/"):
        raise Invalid(f"must not hold '..': {shorten(path)}", pointer)
    return _normal(path)


def _normal(path: str) -> str:
    # normpath keeps two leading slashes (POSIX lets them differ); no container does.
    return "/" + posixpath.normpath(path).lstrip("/")


def file_name(path: str, pointer: str) -> str:
    """As `container_path`, for what cannot be the root directory itself."""
    normal = container_path(path, pointer)
    if normal == "/":
        raise Invalid("names the root directory; name a file or directory below it", pointer)
    return normal


def resolve(url: str, sites: Sites, direction: Direction, pointer: str) -> str:
    """The URL of an input or output with site paths replaced: `file:///abs` (percent-encoded) or `scheme://...` as given.

    Raises Invalid at `pointer` for a path that no prefix covers, an unknown scheme, or one that cannot be written to.
    """
    if "\0" in url:
        raise Invalid("must not hold a NUL character", pointer)
    if url.startswith("/"):
        return _site_url(url, sites, direction, pointer)
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if not colon or not rest.startswith("/"):
        raise Invalid(f"is neither an absolute path nor a URL: {shorten(url)}", pointer)
    if scheme == "file":
        # Not urlsplit: a file has no query, and clients that put `file://` before a path leave `?` and `#` as they are.
        host, slash, path = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", rest)
        if host not in ("", "localhost"):
            raise Invalid(f"names another host; file URLs start with file:///: {shorten(url)}", pointer)
        return _site_url(urllib.parse.unquote(slash + path), sites, direction, pointer)
    if not rest.startswith("//"):
        raise Invalid(f"must begin with {scheme}://: {shorten(url)}", pointer)
    parts = _split(url, pointer)
    if _stored(url, sites, direction, pointer):
        return url
    allowed = sites.readable if direction == "in" else sites.writable
    if scheme not in allowed:
        verb, key = ("read from", f"`files.{scheme.removesuffix('s')}`") if direction == "in" else ("write to", "`files.uploads`")
        way = f" ({key} allows it)" if scheme in NET else ""
        known = ", ".join((*sorted(allowed), *sites.stored(direction)))
        raise Invalid(f"this server cannot {verb} '{scheme}://'{way}; it knows {known} and absolute paths", pointer)
    if not parts.hostname:
        raise Invalid(f"has no host: {shorten(url)}", pointer)
    if why := sites.guard.literal(parts.hostname, parts.port or PORTS[scheme]):
        raise Invalid(f"{shorten(parts.hostname)} {why}", pointer)
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in url):
        raise Invalid(f"holds a control character, which a URL writes as %0A and the like: {shorten(url)}", pointer)
    if scheme in ("ftp", "ftps"):
        try:
            ftp_path(parts)
        except ValueError as cause:
            raise Invalid(f"{cause}: {shorten(url)}", pointer) from None
    return url


def ftp_path(parts: urllib.parse.SplitResult) -> str:
    """The path of an ftp(s) url, decoded, without the slash after the host and without `;type=`. ValueError says why it has none.

    There is no query: `?` belongs to the name, as curl and wget have it.
    """
    path = FTP_TYPE.sub("", f"{parts.path}?{parts.query}" if parts.query else parts.path)
    path = urllib.parse.unquote(path, errors="surrogateescape").removeprefix("/")
    login = urllib.parse.unquote(f"{parts.username or ''}{parts.password or ''}")
    # FTP's commands are lines.
    if any(sign in path + login for sign in "\r\n\0"):
        raise ValueError("holds a line break or NUL, which FTP cannot carry")
    if ".." in path.split("/"):
        raise ValueError("must not hold '..'")
    return path


def _stored(url: str, sites: Sites, direction: Direction, pointer: str) -> bool:
    """True if a url names an object that may be used. Raises Invalid if it names one that may not."""
    if not url.lower().startswith(_STORED):
        return False
    try:
        place = objects.place_of(url)
    except objects.Malformed as cause:
        raise Invalid(f"{cause}: {shorten(url)}", pointer) from None
    number = None if place is None else objects.covering(sites.stores, place)
    if place is None or number is None:
        # A blob that anybody, or who has its signature, may read over plain https.
        if url.lower().startswith("https:"):
            return False
        known = ", ".join(sites.stored(direction))
        raise Invalid(
            f"is in no store that may be used here: {shorten(url)}; {f'this server knows {known}' if known else 'see the setting `storage`'}", pointer
        )
    if direction == "out" and not sites.stores[number].write:
        raise Invalid(f"this server may read there, not write: {shorten(url)}", pointer)
    if fault := objects.fault(place.key.rstrip("/")):
        raise Invalid(f"{fault}: {shorten(url)}", pointer)
    return True


_STORED = tuple(f"{scheme}:" for scheme in (*sorted(objects.SCHEMES), "https"))


def _split(url: str, pointer: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # read for its check: a port beyond 65535, or one that is no number
    except ValueError:
        raise Invalid(f"is no URL: its host or port cannot be read: {shorten(url)}", pointer) from None
    return parts


def _site_url(path: str, sites: Sites, direction: Direction, pointer: str) -> str:
    slash = "/" if path.endswith("/") else ""
    path = container_path(path, pointer)
    best = sites.covering(path)
    if best is not None:
        rest = path.removeprefix(best.path.rstrip("/"))
        scheme = best.url.partition(":")[0].lower()
        if scheme != "file":
            # Keys of object stores are written as they are (clients.md section 2); on the net a path is percent-encoded.
            rest = urllib.parse.quote(rest) if scheme in NET else rest
            return resolve(best.url + rest + slash, sites, direction, pointer)
        path = container_path(urllib.parse.unquote(urllib.parse.urlsplit(best.url).path) + rest, pointer)
    if not any(below(path, root) for root in sites.roots):
        raise Invalid(f"{shorten(path)} is under no path that may be used here; {sites.prefixes()}", pointer)
    return "file://" + urllib.parse.quote(path) + slash


def below(path: str, directory: str) -> bool:
    """True if `path` is `directory` or lies below it (both normalised)."""
    return path == directory or directory == "/" or path.startswith(directory + "/")


def parent(path: str) -> str:
    """The directory of a normalised absolute path."""
    return path.rpartition("/")[0] or "/"


def shorten(text: str, limit: int = 120) -> str:
    """For messages: the text in quotes, bounded, without the login and the query of a URL (signatures live there)."""
    text = redaction.url(text).partition("?")[0]
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def file_path(url: str) -> str:
    """The absolute path of a resolved `file://` URL, without trailing slash."""
    return container_path(urllib.parse.unquote(urllib.parse.urlsplit(url).path), "")


def is_one_file(url: str) -> bool:
    """True if a resolved url can only be one file: http(s) knows no directories, Azure's blob stores apart."""
    if url[:4].lower() != "http":
        return False
    return ".blob." not in (urllib.parse.urlsplit(url).hostname or "")


def pointer_part(name: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901), bounded."""
    return name[:60].replace("~", "~0").replace("/", "~1")
