"""Names of images as Docker reads them: `debian` is `docker.io/library/debian:latest`.

Pure text. This module must never ask a registry, nor know which images there are.
"""

from __future__ import annotations

import re
import urllib.parse

import msgspec

from tes_server import errors
from tes_server.telemetry import Code

HUB = "docker.io"
"""The registry of names that say none."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")

LONGEST = 255
"""Characters of registry and repository together, as Docker and registries have it."""


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a registry. Of tag and digest one is given; where a name has both, the digest says which image it is."""

    registry: str
    """host[:port]"""
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def reference(self) -> str:
        """What a registry is asked for: the digest or the tag."""
        return self.digest or self.tag

    def at(self, digest: str) -> Name:
        """The image `digest` of the same repository."""
        return Name(registry=self.registry, repository=self.repository, digest=digest)


def parse(text: str) -> Name:
    """The image that `text` names. `errors.EngineError` (IMAGE_ERROR) says what is wrong with it."""
    if "://" in text:
        raise _bad(text, "it begins with the host of its registry, without a scheme")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _bad(text, "after @ must come sha256: and 64 hexadecimal digits")
    path, tag = rest, ""
    if ":" in rest.rpartition("/")[2]:
        path, _, tag = rest.rpartition(":")
        if not _TAG.fullmatch(tag):
            raise _bad(text, "after the last : must come a tag of up to 128 letters, digits, '_', '.', '-'")
    registry, repository = _split(path)
    if not _is_host(registry):
        raise _bad(text, f"{registry!r} is no host[:port]")
    if not _REPOSITORY.fullmatch(repository):
        raise _bad(text, "its path must be lower-case letters and digits, with single '.', '_', '-' and '/' between them")
    if len(f"{registry}/{repository}") > LONGEST:
        raise _bad(text, f"it is longer than {LONGEST} characters")
    if not at and not tag and _HEX.fullmatch(path):
        raise _bad(text, "64 hexadecimal digits are an image's id, not its name")
    return Name(registry=registry, repository=repository, tag="" if at else tag or "latest", digest=digest)


def is_digest(text: str) -> bool:
    """True for `sha256:` and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _is_host(registry: str) -> bool:
    try:
        return _REGISTRY.fullmatch(registry) is not None and urllib.parse.urlsplit(f"//{registry}").port != 0
    except ValueError:  # the address in the brackets, or a port above 65535
        return False


def _split(path: str) -> tuple[str, str]:
    """Docker's rule: what is before the first / is a host if it could be nothing else."""
    first, slash, rest = path.partition("/")
    if not slash or not (set(".:") & set(first) or first == "localhost" or first != first.lower()):
        first, rest = HUB, path
    if first == "index.docker.io":  # its former name
        first = HUB
    if first == HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _bad(text: str, why: str) -> errors.EngineError:
    shown = text if len(text) <= 100 else f"{text[:97]}..."
    return errors.EngineError(f"{shown!r} is not the name of an image: {why}", Code.IMAGE_ERROR)
