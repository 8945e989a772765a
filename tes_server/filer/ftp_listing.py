"""What FTP servers say of a directory: the machine's form (MLSD, RFC 3659), and the two that are made for people.

Pure. A line that is not understood is an error: a file may never be passed over in silence.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from typing import NamedTuple

from tes_server.errors import StagingError
from tes_server.telemetry import Code


class Kind(enum.Enum):
    """What a name stands for."""

    FILE = enum.auto()
    DIRECTORY = enum.auto()
    LINK = enum.auto()
    OTHER = enum.auto()


class Item(NamedTuple):
    """One name in a directory. `size` in bytes, -1 if unknown. `unique` tells one directory from another where the server says so."""

    name: str
    kind: Kind
    size: int = -1
    executable: bool = False
    unique: str = ""


_UNIX = re.compile(
    r"(?P<kind>[-dlbcps])(?P<mode>[-rwxsStTl]{9})\S*\s+\d+\s+\S+\s+\S+(?:\s+\S+)??\s+(?P<size>\d+)\s+"
    r"(?:\w{3}\s+\d{1,2}|\d{1,2}\s+\w{3}|\d{4}-\d\d-\d\d)\s+\d[\d:]*\s(?P<name>.*)"
)
_DOS = re.compile(r"\d\d-\d\d-\d{2,4}\s+\d\d:\d\d\s?(?:[AP]M)?\s+(?P<size><DIR>|<JUNCTION>|<SYMLINKD?>|\d+)\s+(?P<name>.*)", re.IGNORECASE)
_KINDS = {"-": Kind.FILE, "d": Kind.DIRECTORY, "l": Kind.LINK}


def machine(lines: Iterable[str]) -> list[Item]:
    """Items of an MLSD listing: `type=file;size=5;unique=1g2; name`."""
    items = []
    for line in lines:
        facts_text, space, name = line.partition(" ")
        facts = {key.lower(): value for key, _, value in (fact.partition("=") for fact in facts_text.split(";"))}
        kind = facts.get("type", "").lower()
        if not space or not name or not kind:
            raise _strange(line)
        if kind in ("cdir", "pdir") or name in (".", ".."):
            continue
        size = facts.get("size", "")
        items.append(
            Item(
                # Some servers give whole paths.
                name=name.rpartition("/")[2],
                kind=_machine_kind(kind),
                size=int(size) if size.isascii() and size.isdigit() else -1,
                executable=_executable(facts.get("unix.mode", "")),
                unique=facts.get("unique", ""),
            )
        )
    return items


def _machine_kind(text: str) -> Kind:
    if text in ("file", "dir"):
        return Kind.FILE if text == "file" else Kind.DIRECTORY
    return Kind.LINK if text.startswith(("os.unix=slink", "os.unix=symlink")) else Kind.OTHER


def _executable(mode: str) -> bool:
    try:
        return bool(int(mode, 8) & 0o111)
    except ValueError:
        return False


def human(lines: Iterable[str]) -> list[Item]:
    """Items of a LIST listing, as `ls -l` or as DOS has it."""
    items = []
    for line in lines:
        if not line.strip() or re.fullmatch(r"total\s+\d+", line, re.IGNORECASE):
            continue
        found = _UNIX.fullmatch(line)
        if found:
            kind = _KINDS.get(found["kind"], Kind.OTHER)
            name = found["name"].partition(" -> ")[0] if kind is Kind.LINK else found["name"]
            item = Item(name, kind, int(found["size"]), executable=any(sign in "xst" for sign in found["mode"]))
        elif found := _DOS.fullmatch(line):
            size = found["size"].upper()
            # A junction or link is looked at by itself, as one on Unix.
            item = Item(found["name"], Kind.FILE, int(size)) if size.isdigit() else Item(found["name"], Kind.DIRECTORY if size == "<DIR>" else Kind.LINK)
        else:
            raise _strange(line)
        if not item.name:
            raise _strange(line)
        if item.name not in (".", ".."):
            items.append(item)
    return items


def _strange(line: str) -> StagingError:
    return StagingError(f"the server lists a directory in words that are not understood: {line[:100]!r}", Code.INPUT_ERROR)
