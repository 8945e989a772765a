"""Patterns that images are named by in a policy: a registry, a part of one, or images, with wildcards that stay between two slashes.

`docker.io/library`, `*.azurecr.io`, `ghcr.io/team/tool:1.*`. A pattern holds for the image that it names and for all that lie below it. Pure.
This module must never let a `*` cross a slash: `*.azurecr.io` as a prefix of what somebody else's registry holds would open the gate to it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from tes_server import errors
from tes_server.model import image_names

HOST = "host"
"""The image that is this machine's own programs (sandbox engine)."""

_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
"""A local engine's image id, which no registry has to do with."""

_WILD = frozenset("*?[")


def fault(pattern: str) -> str:
    """What is wrong with a pattern; "" if nothing is."""
    parts = pattern.split("/")
    first = parts[0]
    if pattern == HOST:
        return ""
    if not pattern or not all(parts) or "://" in pattern or pattern != pattern.strip():
        return "must be registry[/path][:tag], e.g. docker.io/library or *.azurecr.io"
    if "**" in pattern:
        return "must do with single *: a pattern holds for all that lies below it"
    if not (set(".:") & set(first) or first == "localhost" or _WILD & set(first)):
        return f"must begin with a registry, e.g. docker.io/{pattern if len(parts) > 1 else f'library/{pattern}'}"
    if len(parts) == 2 and _registry(first) == image_names.HUB and set(":@") & set(parts[1]):
        return f"holds for nothing, since images of {image_names.HUB} have a path of two parts at least: {image_names.HUB}/library/{parts[1]}"
    return ""


def matches(pattern: str, image: str) -> bool:
    """True if `pattern` holds for the image that a task names so."""
    parts, names = pattern.split("/"), _parts(image)
    if names is None or len(parts) > len(names[0]):
        return False
    parts[0] = _registry(parts[0])
    segments, tag, digest = names
    whole = len(parts) == len(segments)
    for part, segment in zip(parts[:-1], segments, strict=False):
        if not _holds(part, segment):
            return False
    last = segments[len(parts) - 1]
    ends = (last, f"{last}:{tag}", f"{last}@{digest}") if whole else (last,)
    return any(_holds(parts[-1], end) for end in ends)


def first(patterns: Iterable[str], image: str) -> str:
    """The first pattern that holds; "" if none does."""
    return next((pattern for pattern in patterns if matches(pattern, image)), "")


def pinned(image: str) -> bool:
    """True if a name says by a digest which image it is, and so can mean no other one tomorrow."""
    return bool(_ID.fullmatch(image)) or image_names.is_digest(image.partition("@")[2])


def readable(image: str) -> bool:
    """True if patterns can tell what a name names: a place in a registry, a local engine's id, or this machine."""
    return _parts(image) is not None or _ID.fullmatch(image) is not None


def repository(image: str) -> str:
    """The registry and path of a name, the same for all names that lead there; "" for what is in no registry."""
    names = _parts(image)
    return "" if names is None or image == HOST else "/".join(names[0])


def _holds(part: str, text: str) -> bool:
    # As it stands as well: the brackets of an IPv6 address are no choice of letters.
    return part == text or fnmatch.fnmatchcase(text, part)


def _registry(part: str) -> str:
    """As names have it: a host is the same in capitals, and the Hub by its former name."""
    lower = part.lower()
    return image_names.HUB if lower == "index.docker.io" else lower


def _parts(image: str) -> tuple[list[str], str, str] | None:
    """Registry and path in their parts, tag, digest; None for a name that names nothing in a registry."""
    if image == HOST:
        return [HOST], "", ""
    if _ID.fullmatch(image):
        return None
    try:
        name = image_names.parse(image)
    except errors.EngineError:
        return None
    return [_registry(name.registry), *name.repository.split("/")], name.tag, name.digest
