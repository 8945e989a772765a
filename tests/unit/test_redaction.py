"""Credentials in urls: none survives, and nothing else is touched."""

from __future__ import annotations

import io
import json
import logging
import time
import urllib.parse
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server import redaction, telemetry


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        # Azure, AWS (versions 4 and 2), Google, CloudFront.
        ("https://a.blob.core.windows.net/c/x?sv=2024&sp=r&sig=Zm9v%2Bz%3D&se=1", "https://a.blob.core.windows.net/c/x?sv=2024&sp=r&sig=***&se=1"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Credential=AKIA%2F1&X-Amz-Security-Token=t&X-Amz-Signature=0a",
            "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Credential=***&X-Amz-Security-Token=***&X-Amz-Signature=***",
        ),
        (
            "https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIA&Expires=1&Signature=a%3D",
            "https://b.s3.amazonaws.com/k?AWSAccessKeyId=***&Expires=1&Signature=***",
        ),
        (
            "https://storage.googleapis.com/b?X-Goog-Credential=a&X-Goog-Signature=b",
            "https://storage.googleapis.com/b?X-Goog-Credential=***&X-Goog-Signature=***",
        ),
        ("https://d.cloudfront.net/k?Policy=p&Signature=s&Key-Pair-Id=K", "https://d.cloudfront.net/k?Policy=p&Signature=***&Key-Pair-Id=K"),
        # Tokens and logins.
        ("https://h/x?access_token=a.b-c#id_token=d", "https://h/x?access_token=***#id_token=***"),
        ("https://user:pass@h:8/x", "https://***@h:8/x"),
        ("https://ghp_token@h/x", "https://***@h/x"),
        ("ftp://u:p@ss@h/x@y", "ftp://***@h/x@y"),
        ("ftp://u:p/w@h/x", "ftp://***@h/x"),
        ("ftp://u:p/w@h/x?sig=a@b&x=1", "ftp://***@***&x=1"),
        ("mongodb://u:p@h1:27017,h2:27017/?w=1", "mongodb://***@h1:27017,h2:27017/?w=1"),
        # In the words of libraries and people.
        (
            "Max retries exceeded with url: /b?x=1&X-Amz-Signature=0a (Caused by x)",
            "Max retries exceeded with url: /b?x=1&X-Amz-Signature=*** (Caused by x)",
        ),
        ("see 'https://h/?sig=a', (https://h/?token=b).", "see 'https://h/?sig=***', (https://h/?token=***)."),
        ("EndpointsProtocol=https;AccountName=n;AccountKey=Zm9v==;EndpointSuffix=x", "EndpointsProtocol=https;AccountName=n;AccountKey=***"),
        # In other urls, written in other ways.
        ("https://h/?to=https%3A%2F%2Fu%3Ap%40h%2F%3Fsig%3Dabc%26se%3D1&b=2", "https://h/?to=https%3A%2F%2F***%40h%2F%3Fsig%3D***&b=2"),
        ("https://h/?s%69g=abc", "https://h/?s%69g=***"),
        ("https://h/?SIG=abc&amp;Token=x", "https://h/?SIG=***&amp;Token=***"),
    ],
)
def test_credentials(told: str, shown: str) -> None:
    assert redaction.text(told) == shown
    assert redaction.text(shown) == shown
    assert redaction.text(f"{told}\n{told}") == f"{shown}\n{shown}"


@pytest.mark.parametrize(
    "text",
    [
        "abfss://container@account.dfs.core.windows.net/d/x.bam",
        "sftp://user@host/x",
        "http://[::1]:80/a@b",
        "http://h:80/a:b@c?d=@e",
        "docker://ubuntu:22.04@sha256:0a",
        "ubuntu:22.04@sha256:0a",
        "s3://bucket/a=b&c=d/x?y@z",
        "https://h/?page_token=abc&continuation-token=x&sig=&design=1&pass_rate=2",
        "mail me@example.org: x=1; y=2 && z?",
        "100%",
    ],
)
def test_what_is_none(text: str) -> None:
    assert redaction.text(text) == redaction.url(text) == text


# -- whatever a url is made of ---------------------------------------------------------------------------------------

NAMES = [
    "sig",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Goog-Signature",
    "AWSAccessKeyId",
    "Signature",
    "token",
    "access_token",
    "password",
]
HARMLESS = ["sv", "se", "versionId", "prefix", "x", "Expires", "response-content-type", "page_token"]

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
credentials = words.map(lambda text: f"CANARY{text}CANARY")
plain_words = st.text("abcxyz0189-_~.", max_size=10)


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


@st.composite
def urls(draw: st.DrawFn, *, secret: bool) -> str:
    """A url with credentials (percent-encoded, as urls are), or with none."""
    login = ""
    if secret and draw(st.booleans()):
        login = draw(st.sampled_from(["", "user"])) + f":{quoted(draw(credentials))}@"
    path = "/".join(quoted(each) for each in draw(st.lists(words, max_size=3)))
    pairs = [f"{draw(st.sampled_from(HARMLESS))}={quoted(draw(plain_words))}" for _ in range(draw(st.integers(0, 3)))]
    if secret:
        pairs += [f"{draw(st.sampled_from(NAMES))}={quoted(draw(credentials))}" for _ in range(draw(st.integers(0 if login else 1, 3)))]
    query = "&".join(draw(st.permutations(pairs)))
    scheme, host = draw(st.sampled_from(["https", "http", "ftp", "s3"])), draw(st.sampled_from(["h", "h.example.org:8080", "[2001:db8::1]", "127.0.0.1"]))
    return f"{scheme}://{login}{host}/{path}" + (f"?{query}" if query else "")


@given(urls(secret=True), words, words)
def test_no_credential_survives(whole: str, before: str, behind: str) -> None:
    assert "CANARY" in whole
    for shown in (
        redaction.url(whole),
        redaction.text(f"{before} {whole} {behind}"),
        redaction.text(f'{before}"{whole}"{behind}'),
        redaction.text(f"GET https://h/?a=b&to={quoted(whole)}&c=d"),
        redaction.text(f"GET https://h/{quoted(quoted(whole))}"),
        redaction.brief(whole),
        redaction.json_text(json.dumps({"a": [f"{before} {whole}\n", {"url": whole}]})),
        redaction.json_bytes(json.dumps({"a": f"curl '{whole}' -o x"}, ensure_ascii=False).encode()).decode(),
    ):
        assert "CANARY" not in shown


@given(st.sampled_from(NAMES), credentials, credentials)
def test_none_of_a_url_that_is_written_badly(name: str, value: str, password: str) -> None:
    """As people paste them: a field that is a url as a whole may have any sign in it."""
    value = value.replace("&", "").replace("#", "")
    whole = f"ftp://u:{password.replace('@', '')}@h/x?{name}={value}"
    assert "CANARY" not in redaction.url(whole).replace(quoted("CANARY"), "CANARY")
    document = json.dumps({"inputs": [{"url": whole, "path": "/x"}]})
    shown = redaction.json_text(document)
    assert "CANARY" not in shown
    assert json.loads(shown)["inputs"][0]["path"] == "/x"


@given(urls(secret=False), words)
def test_a_url_without_credentials_stays_as_it_is(whole: str, around: str) -> None:
    for text in (whole, f"to {whole} from", f"https://h/?to={quoted(whole)}", json.dumps({"url": whole})):
        assert redaction.text(text) == text
    assert redaction.url(whole) == whole
    document = json.dumps({"url": whole, "a": around})
    if "=" not in around and "@" not in around:
        assert redaction.json_text(document) == document


@given(
    st.recursive(st.text() | urls(secret=True), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "x"]), inner, max_size=2))
)
def test_json_remains_json(value: object) -> None:
    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(inner) for inner in value] if isinstance(value, list) else type(value)

    shown = redaction.json_text(json.dumps(value))
    assert shape(json.loads(shown)) == shape(value)
    assert redaction.json_text(shown) == shown


def test_long_texts_take_no_time() -> None:
    """Whoever makes a task must not be able to keep an admin's page busy: the time grows with the length alone."""

    def seconds(text: str) -> float:
        begin = time.process_time()
        redaction.json_text(text)
        return time.process_time() - begin

    for unit in ("://a:", "://", "?sig=", "?sig=,", "%3A%2F%2Fa", "%25", "&a%25", '"url":"', "\\u0041", "://u:"):
        end = "@%40="
        short, long = (min(seconds(unit * times + end) for _ in range(3)) for times in (3_000, 30_000))
        assert long < 60 * max(short, 0.001), unit

    def nested(depths: int) -> str:
        """Urls in urls, none of which ends where another one does."""
        return "".join(f"%{'25' * depth}3A%{'25' * depth}2F%{'25' * depth}2Fa" for depth in range(depths)) + "%40"

    deep = nested(180)
    shallow = "%3A%2F%2Fa" * (len(deep) // 10) + "%40"
    short, long = (min(seconds(text) for _ in range(3)) for text in (shallow, deep))
    assert long < 40 * max(short, 0.001)


# -- where it is used ------------------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    telemetry.set_up_logging("debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_no_line_of_the_log_has_one(lines: io.StringIO) -> None:
    url = "https://user:CANARY@h/ä?X-Amz-Signature=CANARYä&x=1"
    try:
        raise OSError(f"HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: {url}")
    except OSError:
        logging.getLogger("urllib3").exception("failed at %s", url)
    telemetry.log(logging.getLogger("x"), logging.INFO, "event", url=url, nested={"url": [url]}, cause=ValueError(url))
    read = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["event"] for line in read] == ["failed at https://***@h/ä?X-Amz-Signature=***&x=1", "event"]
    assert "Max retries exceeded with url: https://***@h/" in read[0]["exception"]
    assert "CANARY" not in lines.getvalue()


def test_no_line_of_system_logs_has_one() -> None:
    line = telemetry.line(telemetry.Code.INPUT_ERROR, "GET https://h/?sig=CANARY was refused")
    assert line.startswith("INPUT_ERROR: GET https://h/?sig=*** was refused (")
    assert telemetry.message(line) == "GET https://h/?sig=*** was refused"
