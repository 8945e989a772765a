import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server.client import compose
from tes_server.errors import Invalid


@pytest.fixture(autouse=True)
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reads.fq").write_text("ACGT")
    (tmp_path / "a b.txt").write_text("x")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "url", "path", "kind"),
    [
        ("s3://bucket/key:/in/key", "s3://bucket/key", "/in/key", "FILE"),
        ("s3://bucket/key", "s3://bucket/key", "/in/key", "FILE"),
        ("s3://bucket/dir/:/in/dir", "s3://bucket/dir/", "/in/dir", "DIRECTORY"),
        ("https://host:8080/a:/in/a", "https://host:8080/a", "/in/a", "FILE"),
        ("https://host:8080/a/b%20c.txt?sig=x/y", "https://host:8080/a/b%20c.txt?sig=x/y", "/in/b c.txt", "FILE"),
        ("https://host/odd:/path:/in/a", "https://host/odd:/path", "/in/a", "FILE"),
        ("/not/here/ref.fa", "file:///not/here/ref.fa", "/in/ref.fa", "FILE"),
        ("/not/here/refs/:/refs/", "file:///not/here/refs", "/refs", "DIRECTORY"),
        ("file:///site/x:/y", "file:///site/x", "/y", "FILE"),
    ],
)
def test_inputs_of_other_machines(text: str, url: str, path: str, kind: str) -> None:
    assert compose.file_input(text) == {"url": url, "path": path, "type": kind}


@pytest.mark.parametrize(
    ("text", "name", "path", "kind"),
    [
        ("reads.fq", "reads.fq", "/in/reads.fq", "FILE"),
        ("./data/../reads.fq:/work/r1.fq", "reads.fq", "/work/r1.fq", "FILE"),
        ("a b.txt", "a%20b.txt", "/in/a b.txt", "FILE"),
        ("data", "data", "/in/data", "DIRECTORY"),
        ("data/:/work/data", "data", "/work/data", "DIRECTORY"),
    ],
)
def test_local_inputs_become_absolute_urls(here: pathlib.Path, text: str, name: str, path: str, kind: str) -> None:
    assert compose.file_input(text) == {"url": f"{here.as_uri()}/{name}", "path": path, "type": kind}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (":/in/a", "form"),
        ("", "form"),
        ("absent.txt", "no 'absent.txt' here"),
        ("reads.fq:/", "something below it"),
        ("reads.fq:/in/", "name the file, as in /in/name"),
        ("https://host:8080", "no file name"),
        ("reads.fq:in/reads.fq", "no 'reads.fq:in/reads.fq' here"),
    ],
)
def test_wrong_inputs_are_told(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        compose.file_input(text)


def test_content_travels_in_the_task(here: pathlib.Path) -> None:
    assert compose.literal_input("reads.fq:/x/r.fq") == {"content": "ACGT", "path": "/x/r.fq", "type": "FILE"}
    assert compose.literal_input("reads.fq")["path"] == "/in/reads.fq"


@pytest.mark.parametrize(("data", "message"), [(b"\xff\xfe", "UTF-8"), (b"", "empty"), (None, "cannot be read")])
def test_content_that_cannot_travel_is_told(here: pathlib.Path, data: bytes | None, message: str) -> None:
    if data is not None:
        (here / "file").write_bytes(data)
    with pytest.raises(Invalid, match=message):
        compose.literal_input("file:/x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/out/a.bam:s3://b/k/a.bam", {"path": "/out/a.bam", "url": "s3://b/k/a.bam", "type": "FILE"}),
        ("/out/a.bam:s3://b/k/", {"path": "/out/a.bam", "url": "s3://b/k/a.bam", "type": "FILE"}),
        ("/out/:s3://b/k", {"path": "/out", "url": "s3://b/k", "type": "DIRECTORY"}),
        ("/out/*.bam:s3://b/k/", {"path": "/out/*.bam", "url": "s3://b/k/", "type": "FILE", "path_prefix": "/out"}),
        ("/o/c??/x.[ab]:https://h:1/a:b", {"path": "/o/c??/x.[ab]", "url": "https://h:1/a:b", "type": "FILE", "path_prefix": "/o"}),
        ("/out/a:/abs/res", {"path": "/out/a", "url": "file:///abs/res", "type": "FILE"}),
        ("/out/a b:/abs/", {"path": "/out/a b", "url": "file:///abs/a%20b", "type": "FILE"}),
    ],
)
def test_outputs(text: str, expected: dict[str, str]) -> None:
    assert compose.output(text) == expected


def test_a_local_directory_as_target_keeps_the_name(here: pathlib.Path) -> None:
    assert compose.output("/out/a.txt:data")["url"] == f"{here.as_uri()}/data/a.txt"
    assert compose.output("/out/a.txt:new")["url"] == f"{here.as_uri()}/new"


@pytest.mark.parametrize("text", ["/out/a", "/out/a:", "out/a:b", "s3://b/k:/out", "/:x", ""])
def test_wrong_outputs_are_told(text: str) -> None:
    with pytest.raises(Invalid, match="form /container/path:PATH_OR_URL"):
        compose.output(text)


@pytest.mark.parametrize(
    ("text", "size"), [("2", 2), ("2G", 2), ("2GB", 2), ("512M", 0.512), ("1.5g", 1.5), ("1Gi", 1.073741824), ("100K", 0.0001), ("1T", 1000), (".5", 0.5)]
)
def test_sizes(text: str, size: float) -> None:
    assert compose.gigabytes(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["", "0", "-1", "G", "2X", "1e3", "nan", "2 G B", "٣"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(Invalid, match="is not a size"):
        compose.gigabytes(text)


def test_pairs() -> None:
    assert compose.pair("a=b=c") == ("a", "b=c")
    assert compose.pair("a=") == ("a", "")
    for wrong in ("a", "=b", ""):
        with pytest.raises(Invalid, match="KEY=VALUE"):
            compose.pair(wrong)


def test_a_small_task_holds_nothing_that_was_not_given() -> None:
    assert compose.task(["echo", ""], image="i") == {"executors": [{"image": "i", "command": ["echo", ""]}]}


def test_whole_cores_are_whole_numbers() -> None:
    whole = compose.task(["x"], image="i", cpu=2.0)["resources"]["cpu_cores"]
    assert (whole, type(whole)) == (2, int)
    assert compose.task(["x"], image="i", cpu=0.5)["resources"]["cpu_cores"] == 0.5


def test_two_inputs_at_one_place_are_told() -> None:
    twice = [compose.file_input("s3://a/x"), compose.file_input("s3://b/x")]
    with pytest.raises(Invalid, match="/in/x"):
        compose.task(["x"], image="i", inputs=twice)


TASK = {"executors": [{"image": "i", "command": ["true"]}]}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (json.dumps(TASK), 1),
        (json.dumps(TASK, indent=2), 1),
        (json.dumps([TASK, TASK]), 2),
        (f"{json.dumps(TASK)}\n\n{json.dumps(TASK)}\n", 2),
    ],
)
def test_documents(text: str, count: int) -> None:
    assert compose.documents(text, "f") == [TASK] * count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f is not JSON"),
        ("{", "f is not JSON"),
        ("[]", "f must hold"),
        ("[1]", "f must hold"),
        ("3", "f must hold"),
        ("{}\n{", "f, line 2"),
        ("{}\n3", "f, line 2"),
    ],
)
def test_documents_that_hold_no_tasks(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        compose.documents(text, "f")


def test_ids_of_lines_and_objects() -> None:
    assert compose.ids('a\n\n{"id": "b", "state": "COMPLETE"}\n  c  \n') == ["a", "b", "c"]
    for wrong in ("{}", '{"id": 3}', "{"):
        with pytest.raises(Invalid, match="standard input"):
            compose.ids(wrong)


@given(st.text(alphabet="ab:/.*?[{é ", max_size=30))
def test_no_word_raises_anything_but_invalid(text: str) -> None:
    for parse in (compose.file_input, compose.output, compose.literal_input):
        try:
            document = parse(text)
        except Invalid:
            continue
        assert document["path"].startswith("/")
        assert not document["path"].endswith("/")
