"""The protocol of an image scanner: what it is told, and what its report says. A further scanner is one small module of this shape.

An adapter is pure: the scanner runs elsewhere, as a task of its own, and its raw report is read where that task ends. It must never see a secret:
credentials are `secret://` references in `Options.env`, which only the scanner's container is given.
"""

from __future__ import annotations

import datetime
import types
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from tes_server import errors
from tes_server.model import image_names
from tes_server.scan.report import ScanReport

REPORT = "/scan/report.json"
"""Where a scanner puts its raw report: a path of the scan's volume."""

IMAGE_TAG = "image"
"""Tag of a scan's task: the image that is scanned, by digest or by its id in a local engine."""

LARGEST_RAW = 64_000_000
"""Bytes of a raw report that are read. A Trivy report of a very large image has some 20 MB."""


NOTHING: Mapping[str, str] = types.MappingProxyType({})

HIDES = "would hide findings from the policy: use {}"
"""Why a site may not have its scanner choose what counts (`Scanner.instead`)."""

SHOWS = "would show a secret to whoever reads settings or lists processes: use {} in scan.env, as secret://NAME"
"""Why a site may not sign in by an argument."""

LOGINS: Mapping[str, str] = types.MappingProxyType(
    dict.fromkeys(("--user", "-u", "--password", "-p", "--token"), SHOWS.format("TWISTLOCK_USER and TWISTLOCK_PASSWORD"))
)
"""Of who signs in to a Console."""


class Options(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the site tells its scanner."""

    server: str = ""
    """url of a Trivy server that holds the database; "" = the scanner has its own"""
    console: str = ""
    """url of a Prisma Cloud Compute Console"""
    program: str = ""
    """path of the scanner's program in its image; "" = by its usual name on the PATH"""
    timeout: float = 600.0
    """seconds after which a scanner that knows how is to give up by itself"""
    arguments: tuple[str, ...] = ()
    """further arguments of the site, before the image's name"""
    env: dict[str, str] = {}
    """environment of the site, over the adapter's own; values may be secret:// references"""
    registries: dict[str, str] = {}
    """registry as images name it -> url at which the scanner reaches it"""


class Scanner(Protocol):
    """One scanner."""

    name: str
    exits: frozenset[int]
    """exit codes with which there may be a whole report; with any other the scan failed, whatever was written"""
    reserved: frozenset[str]
    """arguments that the adapter gives itself, and a site may not: it would not find or not believe the report"""
    instead: Mapping[str, str]
    """arguments and variables that a site may not give either, and what it sets in their place"""
    needs: Mapping[str, str]
    """arguments whose value must name this"""
    dates: bool
    """its reports tell how old its database is"""

    def engine(self, image: str) -> bool:
        """True if it looks at this image in a container engine, which must have it, and whose socket its container then needs."""
        ...

    def argv(self, image: str, options: Options) -> tuple[str, ...]:
        """The command that scans `image` (`repository@sha256:...`, or a local image id) and writes REPORT."""
        ...

    def env(self, options: Options) -> dict[str, str]:
        """The whole environment of that command."""
        ...

    def read(self, raw: bytes) -> ScanReport:
        """What the raw report says. `errors.ScanError`, in words: it says nothing that can be believed."""
        ...


def is_local(image: str) -> bool:
    """True for the id of an image that a local engine has: no registry knows it by that."""
    return image_names.is_digest(image)


def host(url: str) -> str:
    """The host of a url, for people; logins and paths are not."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def moment(time: datetime.datetime | None) -> datetime.datetime | None:
    """In UTC; Go's zero time is none."""
    if time is None or time.year < 1970:
        return None
    return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)


FIXED = "fixed in "
"""How twistcli and the Console begin the status of a finding that a version mends."""


def fixed_in(status: str) -> str:
    """The versions that mend a finding, by its status of Prisma's; "" = there is none."""
    return status.removeprefix(FIXED).strip() if status.startswith(FIXED) else ""


def unreadable(what: str, raw: bytes, cause: msgspec.MsgspecError) -> errors.ScanError:
    """Why a scanner's document (`what`) says nothing, in words."""
    if not raw.strip():
        why = "it is empty"
    elif isinstance(cause, msgspec.ValidationError):
        why = f"it is no such report ({cause})"
    elif "truncated" in str(cause):
        why = "it ends in the middle, as when the scanner dies or its disk is full"
    else:
        why = "it is no JSON"
    return errors.ScanError(f"{what} cannot be read: {why}")


def known(image_id: str, *digests: str) -> tuple[str, ...]:
    """`ScanReport.digests` of what a scanner knows an image by: an engine's image is asked for by its id. The id alone tells nothing of a registry's."""
    found = tuple(filter(None, digests))
    return (*found, image_id) if found and image_id else found


def flags(argument: str) -> tuple[str, ...]:
    """The options that one word of a command line may be, by all ways in which scanners read them: `-token` is `--token` for some, and `-fjson` is `-f`."""
    name = argument.partition("=")[0]
    if name.startswith("--"):
        return (name,)
    if not name.startswith("-") or len(name) < 2:
        return ()
    return (name,) if len(name) == 2 else (name[:2], f"-{name}")


def lacking(arguments: Sequence[str], needs: Mapping[str, str]) -> int | None:
    """The place of the first of a site's arguments whose value does not name what it must; None if there is none."""
    for number, argument in enumerate(arguments):
        following = arguments[number + 1] if number + 1 < len(arguments) else ""
        name, equals, value = argument.partition("=")
        if name in needs and needs[name] not in (value if equals else following).split(","):
            return number
    return None


def reached(image: str, registries: dict[str, str]) -> tuple[str, bool]:
    """The image's name as a scanner asks for it, and whether its registry is to be asked without TLS.

    The registry is replaced by the host of its url, whose path comes before the repository.
    """
    registry, slash, path = image.partition("/")
    url = registries.get(registry, "")
    if not slash or not url:
        return image, False
    scheme, _, place = url.partition("://")
    return f"{place.rstrip('/')}/{path}", scheme == "http"
