"""What of a text is a credential in a url, and the text without it: signatures, tokens, keys, passwords. Pure.

Everything that is told to others than the owner of a task goes through here: logs, errors, system_logs, the audit log, print-outs,
and tasks that somebody else looks at. What is in no url (an environment variable that holds a bare password) is not recognised:
that is what `secret://` is for. Must never change a text without such a credential.
"""

from __future__ import annotations

import functools
import json
import re
import urllib.parse
from collections.abc import Iterator

MARK = "***"
"""Stands for a credential. It is valid in a url, and in itself no credential: what is redacted twice is the same."""

NAME = 400
"""Signs before a `=` in which its name is looked for, whatever is percent-encoded in it."""

DEEP = 3
"""Times that a url is percent-encoded again in which a login is looked for. One that is deeper than its neighbours ends at none of their signs:
without a bound a text of all depths would take its length times the root of that."""

_NOT_IN_URLS = r'\s"<>`\\'
"""No url has these (RFC 3986, appendix C): in a text one ends there, also in one that is written as JSON."""

_SIGN = rf"(?:\\u[0-9a-fA-F]{{4}}|[^{_NOT_IN_URLS}])"
"""A sign of a url, or of one in ASCII JSON."""


def _signs(but: str) -> str:
    """Any number of signs that are none of `but`: unrolled, for a sign at a time would take three times as long."""
    plain = rf"[^{but}{_NOT_IN_URLS}]*"
    return rf"{plain}(?:\\u[0-9a-fA-F]{{4}}{plain})*"


# Each begins with a literal or a set of signs: the search for that is quick.
_LOGIN = re.compile(
    rf"://(?:(?P<login>{_signs('/?#')})@(?!sha\d\d\d:)"
    # Half of a password, of somebody who did not write its slash as %2F: what follows the first colon is no port.
    rf"|(?P<bad>[^{_NOT_IN_URLS}/?#@:\[]*:(?!\d*(?:[,/?#{_NOT_IN_URLS}]|$))(?:(?!://){_SIGN})*)@(?!sha\d\d\d:)(?P<rest>(?:(?!://|[&#]){_SIGN})*))",
    re.ASCII,
)
_NESTED = re.compile(
    rf"(?P<head>%(?P<depth>(?:25){{0,{DEEP}}})3[aA](?:%(?P=depth)2[fF]){{2}})(?P<login>(?:(?!%(?P=depth)(?:2[fF]|3[fF]|23|40)|[/?#&]){_SIGN})+)(?P<tail>%(?P=depth)40)",
    re.ASCII,
)
_PAIR = re.compile(
    r"[?&;#%](?:(?<!%)|(?<=%)(?:25)*(?:3[fFbB]|2[36]))"
    r"(?P<name>(?:[\w.~$\[\]-]|%(?!(?:25)*(?:3[bBdDfF]|26|23))[0-9a-fA-F]{2}){1,100})"
    r"(?:=|%(?:25)*3[dD])",
    re.ASCII,
)
_ENCODED = re.compile(r"%(?:25)*3[dD]")
_VALUE = re.compile(rf"{_signs('&#')}(?<![)\]',.;:!?*])|\*\*\*", re.ASCII)
"""Up to the next parameter; the sentence's own comma, bracket or quote behind it is none of the credential's."""

_SECRET = re.compile(
    r".*(?:signature|token|passw(?:or)?d|passphrase|secret|credentials?|(?:api|access|secret|account|subscription|private|shared|function|session)key"
    r"|accesskeyid|accessid|sessionid|authorization)|sig|sas|pass|pwd|pw|auth|jwt|bearer|skey"
)
_PLACE = re.compile(r".*(?:page|continuation|next|sync|resume|marker|start|cursor)token")
"""Where a list goes on: no credential."""

_IN_JSON = re.compile(r'"url":( ?)"([^"\\]*(?:\\.[^"\\]*)*)"')
_UNWRITTEN = re.compile(r"[ <>`\\]")
_ESCAPED = {ord(sign): urllib.parse.quote(sign) for sign in ' \t\n\r\f\v"<>`\\'}


def text(words: str) -> str:
    """Any text, with what is a credential in the urls in it (whole ones, queries alone, percent-encoded ones in others) replaced by `MARK`.

    A text without one is returned as it is. Linear in the length of the text.
    """
    if "@" in words:
        words = _LOGIN.sub(_without_login, words)
    if "%" in words and "40" in words:
        words = _NESTED.sub(_without_nested, words)
    return _without_values(words) if "=" in words or "%" in words else words


def url(whole: str) -> str:
    """A text that is one url as a whole, however it is written: here spaces and quotes are parts of it."""
    written = whole.translate(_ESCAPED)
    shown = text(written)
    return whole if shown == written else shown


def json_text(document: str) -> str:
    """A JSON document (strings as `json` or `msgspec` write them) whose texts are `text`, and whose members named `url` are `url`. Remains JSON."""
    return text(_IN_JSON.sub(_member, document) if '"url":' in document else document)


def json_bytes(document: bytes) -> bytes:
    """The same of UTF-8."""
    return json_text(document.decode()).encode()


def brief(whole: str) -> str:
    """A url for messages, short: without user, password, query and fragment."""
    head, mark, _ = url(whole).partition("#")[0].partition("?")
    scheme, slashes, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    return scheme + slashes + authority.rpartition("@")[2] + slash + path + ("?..." if mark else "")


def _without_login(found: re.Match[str]) -> str:
    login = found["login"]
    # A user alone may be a token over http; elsewhere it is a name (abfss://container@account, sftp://user@host).
    if login is not None and (not login or (":" not in login and not _is_web(found.string, found.start()))):
        return found[0]
    # What looks like a password may have been the begin of a parameter, whose end is then behind it.
    rest = found["rest"] or ""
    return f"://{MARK}@" + (MARK if rest and any(_is_secret(name) for name, _ in _pairs(found["bad"])) else rest)


def _without_nested(found: re.Match[str]) -> str:
    if f"%{found['depth']}3a" not in found["login"].lower() and not _is_web(found.string, found.start()):
        return found[0]
    return f"{found['head']}{MARK}{found['tail']}"


def _is_web(words: str, end: int) -> bool:
    return words[max(0, end - 5) : end].lower().endswith(("http", "https"))


def _without_values(words: str) -> str:
    kept: list[str] = []
    done = 0
    for name, at in _pairs(words):
        if at > done and _is_secret(name):
            value = _VALUE.match(words, at)
            if value is not None and value.end() > at:
                kept += words[done:at], MARK
                done = value.end()
    return "".join((*kept, words[done:])) if done else words


def _pairs(words: str) -> Iterator[tuple[str, int]]:
    """Each `name=` that may be one of a query: the name, and where its value begins."""
    if "%" in words and _ENCODED.search(words):
        yield from ((found["name"], found.end()) for found in _PAIR.finditer(words))
        return
    at, equals = 0, words.find("=")
    while equals >= 0:  # most of a text is far from any: a search for one sign is forty times as fast as one for a set of them
        found = _PAIR.search(words, max(at, equals - NAME), equals + 1)
        if found is not None:
            yield found["name"], found.end()
        at, equals = equals + 1, words.find("=", equals + 1)


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    """Whether a parameter of this name holds a credential."""
    plain = re.sub(r"[^a-z0-9]", "", urllib.parse.unquote(name).lower())
    return bool(_SECRET.fullmatch(plain)) and not _PLACE.fullmatch(plain)


def _member(found: re.Match[str]) -> str:
    body = found[2]
    if not _UNWRITTEN.search(body):
        return found[0]  # as good as any other text
    whole = json.loads(f'"{body}"', strict=False)
    shown = url(whole)
    return found[0] if shown == whole else f'"url":{found[1]}{json.dumps(shown, ensure_ascii=False)}'
