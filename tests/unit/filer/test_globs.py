"""Patterns as data, against the definition tried out in every way."""

from __future__ import annotations

import contextlib
import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server.filer import globs


def matches(pattern: str, path: str) -> bool:
    return any(alternative.matches(path) for alternative in globs.alternatives(pattern))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/w/*.txt", ["/w/a.txt"], ["/w/.a.txt", "/w/d/a.txt", "/w/a.txt/b", "/a.txt", "/w/.txt"]),
        ("/w/.*", ["/w/.a"], ["/w/a"]),
        ("/w/?", ["/w/a", "/w/ü"], ["/w/.", "/w/ab", "/w/"]),
        ("/w/[a-c]", ["/w/a", "/w/c"], ["/w/d", "/w/ab"]),
        ("/w/[!a-c]", ["/w/d"], ["/w/a", "/w/."]),
        ("/w/[^a-c]", ["/w/d"], ["/w/a"]),
        ("/w/[]x]", ["/w/]", "/w/x"], ["/w/y"]),
        ("/w/[!]x]", ["/w/y"], ["/w/]", "/w/x"]),
        ("/w/[.]a", [], ["/w/.a"]),
        ("/w/[[:digit:]_]x", ["/w/7x", "/w/_x"], ["/w/ax"]),
        ("/w/[[:punct:]]", ["/w/!", "/w/-", "/w/~", "/w/]"], ["/w/a"]),
        ("/w/[[:nonsense:]]", [], ["/w/a", "/w/:"]),
        ("/w/[z-a]", [], ["/w/a", "/w/z"]),
        ("/w/[abc", ["/w/[abc"], ["/w/a"]),
        ("/w/[]a[", ["/w/[]a["], ["/w/a", "/w/]"]),
        ("/w/[!]", ["/w/[!]"], ["/w/a"]),
        (r"/w/\*", ["/w/*"], ["/w/a"]),
        (r"/w/\[a]\!", ["/w/[a]!"], ["/w/a"]),
        (r"/w/\**", ["/w/*a"], ["/w/a"]),
        ("/w/**", ["/w/a", "/w/a/b"], ["/w", "/w/.a", "/w/a/.b", "/w/.a/b"]),
        ("/w/**/x", ["/w/x", "/w/a/x", "/w/a/b/x"], ["/w/ax", "/w/.a/x"]),
        ("/w/**.bam", ["/w/a.bam", "/w/a/b.bam"], ["/w/.bam", "/w/a/.bam", "/w/.a/b.bam"]),
        ("/w/a**b", ["/w/ab", "/w/axb", "/w/a/b", "/w/ax/y/zb"], ["/w/a", "/w/b", "/w/a/bc"]),
        ("/w/**/**/x", ["/w/x", "/w/a/x"], ["/w/a"]),
        ("/w/**/", ["/w/a"], ["/w"]),
        ("/w/***", ["/w/a/b"], []),
        ("/w/{a,b}.txt", ["/w/a.txt", "/w/b.txt"], ["/w/c.txt", "/w/{a,b}.txt"]),
        ("/w/{a,b{c,d}}{,x}", ["/w/a", "/w/ax", "/w/bcx", "/w/bd"], ["/w/b", "/w/bx"]),
        ("/w/{a/x,b}", ["/w/a/x", "/w/b"], ["/w/a"]),
        ("/w/{a}{b", ["/w/{a}{b"], ["/w/ab"]),
        (r"/w/\{a,b}", ["/w/{a,b}"], ["/w/a"]),
        ("/w/{*.a,**.b}", ["/w/x.a", "/w/x.b", "/w/y/x.b"], ["/w/y/x.a"]),
    ],
)
def test_examples(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not matches(pattern, path)] == []
    assert [path for path in no if matches(pattern, path)] == []


@given(st.from_regex(r"[ab*?.\[\]!-]{1,8}", fullmatch=True).filter(lambda text: "**" not in text), st.from_regex(r"[ab.]{1,8}", fullmatch=True))
def test_one_name_is_what_fnmatch_says_but_for_leading_dots(pattern: str, name: str) -> None:
    expected = fnmatch.fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
    assert matches(pattern, name) == expected


NAME = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
SEGMENT = st.one_of(st.text("ab*?.", min_size=1, max_size=4), st.just("**"), st.sampled_from(["a**", "**b", "a**b", "*.**a"]))


def by_words(pattern: list[str], path: list[str]) -> bool:
    """The definition, name by name: `**` is any number of names that are not hidden, at least one at the end of the pattern."""
    if not pattern:
        return not path
    head, *tail = pattern
    if head == "**":
        if tail and by_words(tail, path):
            return True
        return bool(path) and not path[0].startswith(".") and (by_words(pattern, path[1:]) or (not tail and len(path) == 1))
    if "**" in head:
        before, _, after = head.partition("**")
        one = [f"{before}*{after}", *tail]
        several = [*([f"{before}*"] if before else []), "**", *([f"*{after}"] if after else []), *tail]
        return by_words(one, path) or by_words(several, path)
    return bool(path) and fits(head, path[0]) and by_words(tail, path[1:])


def fits(pattern: str, name: str) -> bool:
    return (pattern.startswith(".") or not name.startswith(".")) and by_letters(pattern, name)


def by_letters(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(by_letters(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and by_letters(pattern[1:], name[1:])


@given(st.lists(SEGMENT, min_size=1, max_size=4), st.lists(NAME, min_size=1, max_size=5))
def test_paths_are_what_the_definition_says(pattern: list[str], path: list[str]) -> None:
    expected = by_words([segment if segment.strip("*") or len(segment) < 2 else "**" for segment in pattern], path)
    assert matches("/" + "/".join(pattern), "/" + "/".join(path)) == expected


@given(st.lists(SEGMENT, min_size=1, max_size=4), st.lists(NAME, min_size=1, max_size=5))
def test_states_never_give_up_too_early(pattern: list[str], path: list[str]) -> None:
    """The walk over directories prunes by `goes_on` and `next_names`: both must hold for every prefix of a match."""
    for alternative in globs.alternatives("/" + "/".join(pattern)):
        if alternative.matches("/" + "/".join(path)):
            states = alternative.start()
            for name in path:
                assert alternative.goes_on(states)
                assert alternative.next_names(states) is None or name in (alternative.next_names(states) or ())
                states = alternative.step(states, name)


@pytest.mark.parametrize("pattern", ["/" + "{a,b}" * 10, "/" + "{" * 2000 + "a,b" + "}" * 2000, "/" + "a" * 5000, "/" + "a**" * 20])
def test_bombs_are_refused_or_quick(pattern: str) -> None:
    begun = time.process_time()
    with contextlib.suppress(globs.TooMany):
        globs.alternatives(pattern)
    assert time.process_time() - begun < 3


@pytest.mark.parametrize("pattern", ["/" + "*a" * 100 + "b", "/" + "**/" * 60 + "b", "/" + "[" * 4000])
def test_long_matches_are_quick(pattern: str) -> None:
    begun = time.process_time()
    assert not matches(pattern, "/" + "a" * 250 + "/a" * 100)
    assert time.process_time() - begun < 2
