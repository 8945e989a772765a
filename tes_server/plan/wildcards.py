r"""Wildcards in output paths: `* ? [...]` of POSIX (TES 1.1, tesOutput.path), and leniently `**` and `{a,b}`.

Pure text. Matching against a file system is the filer's.
"""

from __future__ import annotations

import posixpath

SPECIAL = frozenset("*?[{")


def present(path: str) -> bool:
    """True if the path is a pattern. A lone `[` or `{` without its partner is an ordinary character."""
    if "*" in path or "?" in path:
        return True
    return _paired(path, "[", "]") or (_paired(path, "{", "}") and "," in path[path.index("{") : path.rindex("}")])


def literal_parent(path: str) -> str:
    """The deepest directory of a pattern that holds no wildcard: `/work/out` of `/work/out/*.bam`."""
    parent = "/"
    for part in path[1:].split("/")[:-1]:
        if SPECIAL & set(part) and present("/" + part):
            break
        parent = posixpath.join(parent, part)
    return parent


def _paired(path: str, opening: str, closing: str) -> bool:
    start = path.find(opening)
    return start >= 0 and path.find(closing, start + 2) >= 0
