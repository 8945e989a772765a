r"""Wildcards of output paths as data: a pattern becomes alternatives, an alternative a row of segments.

POSIX (IEEE 1003.1-2017, 2.13): `*` and `?` do not cross `/`, `[...]` with ranges, classes and `!`, `\` quotes, and a leading
dot is matched by a dot only. Leniently also `{a,b}`, and `**`, which crosses directories (`**/x` matches `x` as well;
`a**b` is `a*b` or `a*/**/*b`). Pure text: the walk over a file system is `finding`'s.
Matching takes time proportional to name times pattern, whatever the pattern: both come from strangers.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

MOST = 1000
"""Alternatives that braces may make: `{a,b}` ten times over is a mistake or an attack."""
LONGEST = 4096
"""Characters of a pattern: Linux has no longer paths (PATH_MAX)."""

States = frozenset[int]
"""Positions in a pattern after the names read so far: those segments may match the next name."""

_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "xdigit": "0-9A-Fa-f",
    "space": " \t\n\r\f\v",
    "blank": " \t",
    "punct": ":-@!-/[-`{-~",
}

_NOTHING = "b-a"
"""A range without members, for classes that nobody knows."""

_PIECE = re.compile(
    r"""
    \\.                                         # a quoted character
    | \[ [!^]?+ \]?+ (?: \[:\w+:\] | [^\]] )* \] # a bracket expression; a `]` that comes first is an ordinary member
    | \*\*+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)


class TooMany(ValueError):
    """The pattern is longer than `LONGEST` or has more than `MOST` alternatives."""


class Pattern:
    """One alternative of a pattern, matched name by name from the root of the volume."""

    def __init__(self, text: str) -> None:
        self._segments = tuple(_Segment(part) for part in text.split("/") if part)

    def start(self) -> States:
        """The states before the first name."""
        return self._closed({0})

    def step(self, states: States, name: str) -> States:
        """The states after one more name; empty if the path can match no more, however it goes on."""
        after = set[int]()
        for state in states:
            if state < len(self._segments) and self._segments[state].matches(name):
                after.add(state + 1)
                if self._segments[state].crosses:
                    after.add(state)
        return self._closed(after)

    def ends(self, states: States) -> bool:
        """True if the names read so far are a match."""
        return len(self._segments) in states

    def goes_on(self, states: States) -> bool:
        """True if more names may make a match."""
        return any(state < len(self._segments) for state in states)

    def crosses(self, states: States) -> bool:
        """True if `**` may match the next name: then links to directories are not followed, they may lead round in circles."""
        return any(state < len(self._segments) and self._segments[state].crosses for state in states)

    def next_names(self, states: States) -> frozenset[str] | None:
        """The only names that can come next, or None if a directory must be listed to know."""
        literals = {self._segments[state].literal for state in states if state < len(self._segments)}
        return None if None in literals else frozenset(literal for literal in literals if literal is not None)

    def matches(self, path: str) -> bool:
        """True if a whole path matches."""
        states = self.start()
        for name in path.split("/"):
            if name:
                states = self.step(states, name)
        return self.ends(states)

    def _closed(self, states: set[int]) -> States:
        # `**` may stand for no directory at all. At the very end it stands for at least one name: `a/**` is not `a`.
        for state in sorted(states):
            after = state
            while after < len(self._segments) - 1 and self._segments[after].crosses:
                after += 1
                states.add(after)
        return frozenset(states)


def alternatives(pattern: str) -> list[Pattern]:
    """A path with wildcards as the patterns that it stands for. Raises `TooMany`."""
    if len(pattern) > LONGEST:
        raise TooMany(pattern[:LONGEST])
    found = list[Pattern]()
    for text in _braces(pattern):
        for straight in _stars(text):
            found.append(Pattern(straight))
            if len(found) > MOST:
                raise TooMany(pattern)
    return found


class _Segment:
    """What one name must look like."""

    def __init__(self, text: str) -> None:
        pieces = _PIECE.findall(text)
        self.crosses = len(pieces) == 1 and text.startswith("**")
        self.literal = None if any(_special(piece) for piece in pieces) else "".join(piece[-1] for piece in pieces)
        self._dot = pieces[0] in (".", "\\.")
        self._fits = re.compile(fnmatch.translate("".join(map(_plain, pieces)))).match

    def matches(self, name: str) -> bool:
        return self._fits(name) is not None and (self._dot or not name.startswith("."))


def _special(piece: str) -> bool:
    return piece in ("*", "?") or piece.startswith("**") or (len(piece) > 1 and piece.startswith("["))


def _plain(piece: str) -> str:
    """A piece of a segment in the words of fnmatch, which has no quoting, no `[^...]` and no named classes."""
    if len(piece) > 1 and piece.startswith("["):
        body = re.sub(r"\[:(\w+):\]", lambda found: _CLASSES.get(found[1], _NOTHING), piece[1:-1])
        return "[" + ("!" + body[1:] if body.startswith("^") else body) + "]"
    if len(piece) == 2 and piece.startswith("\\"):
        piece = piece[1]
        return f"[{piece}]" if piece in "*?[" else piece
    return "[[]" if piece == "[" else piece


def _stars(text: str) -> Iterator[str]:
    """`**` made a segment of its own wherever it stands beside other characters."""
    waiting = [text]
    while waiting:
        parts = waiting.pop().split("/")
        for index, part in enumerate(parts):
            before, stars, after = _split_stars(part)
            if stars and (before or after):
                if before:
                    waiting.append("/".join([*parts[:index], f"{before}*{after}", *parts[index + 1 :]]))
                crossed = [f"{before}*", "**"] if before else ["**"]
                waiting.append("/".join([*parts[:index], *crossed, *([f"*{after}"] if after else []), *parts[index + 1 :]]))
                break
        else:
            yield "/".join(parts)


def _split_stars(part: str) -> tuple[str, str, str]:
    pieces = _PIECE.findall(part)
    for index, piece in enumerate(pieces):
        if piece.startswith("**"):
            return "".join(pieces[:index]), piece, "".join(pieces[index + 1 :])
    return part, "", ""


def _braces(text: str) -> Iterator[str]:
    """`{a,b}` written out, nested ones too; braces without a comma or a partner are ordinary characters, as in shells."""
    waiting = [(text, 0)]
    while waiting:
        text, position = waiting.pop()
        while position < len(text):
            if text[position] == "\\":
                position += 1
            elif text[position] == "{" and (group := _group(text, position)):
                words, end = group
                waiting.extend((text[:position] + word + text[end:], position) for word in reversed(words))
                break
            position += 1
        else:
            yield text


def _group(text: str, start: int) -> tuple[list[str], int] | None:
    """The words of the braces that open at `start`, and where the text goes on; None if they are ordinary characters."""
    words, depth, position, word = list[str](), 0, start, start + 1
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 1
        elif letter == "{":
            depth += 1
        elif letter in ",}" and depth == 1:
            words.append(text[word:position])
            word = position + 1
        if letter == "}":
            depth -= 1
            if depth == 0:
                return (words, position + 1) if len(words) > 1 else None
        position += 1
    return None
