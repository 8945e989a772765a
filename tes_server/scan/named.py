"""Which verdicts, and which scans, a person means by the name of an image or a digest. Pure.

It must never decide anything about a task: what a task names is looked up in its registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tes_server import errors
from tes_server.model import image_names
from tes_server.model.verdict import Verdict
from tes_server.scan import patterns

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")

_SCAN = re.compile(r"[a-z2-7]{26}")


def is_scan(name: str) -> bool:
    """True for what may be the id of a scan's record."""
    return _SCAN.fullmatch(name) is not None


def meant(name: str, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that a name means: those about the image that a task would get by it; else those about an image of any registry that is called so."""
    found = list(verdicts)
    for means in (exactly, loosely):
        if some := [one for one in found if means(name, one.image, one.key.digest)]:
            return some
    return []


def exactly(name: str, image: str, digest: str) -> bool:
    """The image under the name by which it was asked for, however that is written; or by its digest, whose first 12 digits do."""
    digits = _DIGEST.fullmatch(name)
    if digits and digest.removeprefix("sha256:").startswith(digits[1]):
        return True
    return name == image or whole(name) in (whole(image), f"{_repository(image)}@{digest}")


def loosely(name: str, image: str, digest: str) -> bool:
    """The same, where the name says no registry: `team/tool:1`, or `tool:1`, of `ghcr.io/team/tool:1`."""
    path = _path(name)
    end = whole(name).partition("@")[2]
    if not path or (end and end != digest):
        return False
    return _below(image, path) and (bool(end) or whole(name).rpartition(":")[2] == whole(image).rpartition(":")[2])


def alike(name: str, verdicts: Iterable[Verdict]) -> list[str]:
    """Images of the same repository, or the same last part of a path: what somebody may have meant who meant nothing that there is."""
    last = _repository(name).rpartition("/")[2]
    return sorted({one.image for one in verdicts if _repository(one.image).rpartition("/")[2] == last})


def about(name: str, pinned: str) -> bool:
    """Whether a scan of `pinned` (`repository@sha256:...`, or a local image's id) may be of what a name means: which tag led there is not known any more."""
    path = _path(name)
    return exactly(name, pinned, pinned.rpartition("@")[2]) or _repository(name) == _repository(pinned) or (bool(path) and _below(pinned, path))


def whole(name: str) -> str:
    """The name with all that it leaves out, as registries have it: `debian` is `docker.io/library/debian:latest`. As it is where it names nothing in one."""
    try:
        parsed = image_names.parse(name)
    except errors.EngineError:  # an image of a local engine alone
        return name
    return patterns.repository(name) + (f"@{parsed.digest}" if parsed.digest else f":{parsed.tag}")


def _repository(name: str) -> str:
    return patterns.repository(name) or name


def _path(name: str) -> str:
    """The path of a name that says no registry; "" for one that does."""
    try:
        parsed = image_names.parse(name)
    except errors.EngineError:
        return ""
    plain = name.partition("@")[0]
    if parsed.registry != image_names.HUB or plain.startswith((f"{image_names.HUB}/", "index.")):
        return ""
    return parsed.repository if "/" in plain else parsed.repository.rpartition("/")[2]


def _below(image: str, path: str) -> bool:
    return f"/{_repository(image)}".endswith(f"/{path}")
