"""What every url scheme of the filer must do. A scheme's test inherits ReaderContract, WriterContract or both."""

from __future__ import annotations

import abc
import os
import pathlib
import tempfile
import urllib.parse
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.filer import rooted, tree
from tes_server.filer.control import Control
from tes_server.filer.schemes import Directory, Entry, Failed, File, Left, Link, Reader, Writer
from tes_server.filer.wording import INPUT, OUTPUT, failure

SECRET = "hunter2"


def fetched(file: File, control: Control) -> bytes:
    """The bytes that a file fills in, checked against the size that it reports."""
    with tempfile.TemporaryFile() as target:
        assert file.fill(target.fileno(), control) == os.fstat(target.fileno()).st_size
        return os.pread(target.fileno(), os.fstat(target.fileno()).st_size, 0)


def local_file(path: pathlib.Path, data: bytes) -> tree.TreeFile:
    """A new file of this machine, as uploads take it."""
    path.write_bytes(data)
    [file] = tree.walk(rooted.Realm(str(path.parent)), path.name, keep_links=False)
    assert isinstance(file, tree.TreeFile)
    return file


class ReaderContract(abc.ABC):
    """Set up a source by `publish`, give a reader for it."""

    large = 5 * 1024 * 1024 + 3
    """bytes of a file that is not moved in one go"""

    @abc.abstractmethod
    def publish(self, name: str, data: bytes) -> str:
        """Make a file readable; returns its url."""

    @abc.abstractmethod
    def publish_denied(self) -> str:
        """The url of a file that may not be read."""

    @abc.abstractmethod
    def reader(self, control: Control) -> Reader:
        """A reader for what was published."""

    def only(self, url: str, control: Control) -> File:
        [entry] = self.reader(control).source(url)
        assert not isinstance(entry, Directory | Link | Left | Failed)
        assert entry.name == ""
        return entry

    def code(self, url: str) -> str:
        with pytest.raises((OSError, errors.StagingError)) as caught:
            fetched(self.only(url, self.control), self.control)
        assert SECRET not in str(caught.value)
        assert isinstance(caught.value, OSError | errors.StagingError)
        return failure(caught.value, INPUT, "/inputs/0", "").code

    @pytest.fixture(autouse=True)
    def _control(self) -> None:
        self.control = Control(lambda: False)

    def test_bytes_arrive(self) -> None:
        data = os.urandom(70_001)
        assert fetched(self.only(self.publish("plain", data), self.control), self.control) == data

    def test_empty_file(self) -> None:
        assert fetched(self.only(self.publish("empty", b""), self.control), self.control) == b""

    def test_large_file(self) -> None:
        data = os.urandom(self.large)
        assert fetched(self.only(self.publish("large", data), self.control), self.control) == data

    @pytest.mark.parametrize("name", ["with space", "tür % ü", "日本", "a+b&c=d", "quo'te\"s"])
    def test_names(self, name: str) -> None:
        assert fetched(self.only(self.publish(name, name.encode()), self.control), self.control) == name.encode()

    def test_missing(self) -> None:
        assert self.code(self.publish("there", b"x") + "-not") == "INPUT_NOT_FOUND"

    def test_denied(self) -> None:
        assert self.code(self.publish_denied()) == "INPUT_DENIED"

    def test_stops_in_the_middle(self) -> None:
        with tempfile.TemporaryFile() as target:
            control = Control(lambda: os.fstat(target.fileno()).st_size > 0)
            url = self.publish("large", os.urandom(self.large))
            file = self.only(url, control)
            with pytest.raises(errors.Canceled):
                file.fill(target.fileno(), control)
            assert 0 < os.fstat(target.fileno()).st_size < self.large


class WriterContract(abc.ABC):
    """Give a place to write to; say what arrived there."""

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: pathlib.Path) -> None:
        self.control = Control(lambda: False)
        self.local = tmp_path / "local"
        self.local.mkdir()

    @abc.abstractmethod
    def writer(self) -> Writer:
        """A writer for `url`."""

    @abc.abstractmethod
    def url(self) -> str:
        """A directory url, without trailing slash, that may be written to and is empty."""

    @abc.abstractmethod
    def denied_url(self) -> str:
        """A directory url that may not be written to."""

    @abc.abstractmethod
    def arrived(self) -> dict[str, bytes]:
        """Files below `url` by relative path."""

    def made(self, name: str, data: bytes) -> tree.TreeFile:
        return local_file(self.local / name, data)

    def test_put(self) -> None:
        writer = self.writer()
        data = os.urandom(70_001)
        assert writer.target(self.url()).put("some/where/x", self.made("x", data)) == len(data)
        writer.finish()
        writer.close()
        assert self.arrived() == {"some/where/x": data}

    def test_replaces(self) -> None:
        target = self.writer().target(self.url())
        for data in (b"before", b"after, longer", b"", b"again", b"again"):
            target.put("x", self.made("x", data))
            assert self.arrived() == {"x": data}

    @pytest.mark.parametrize("name", ["with space", "tür % ü", "日本", "a+b&c=d", "quo'te\"s", "%41"])
    def test_names(self, name: str) -> None:
        self.writer().target(self.url()).put(name, self.made("x", b"x"))
        assert self.arrived() == {name: b"x"}

    def spelled(self, name: str) -> str:
        """How a name stands in a url: percent-encoded where urls of the scheme are."""
        return urllib.parse.quote(name)

    def test_split(self) -> None:
        writer = self.writer()
        folder, name = writer.split(f"{self.url()}/one/{self.spelled('a b')}")
        assert name == "a b"
        writer.target(folder).put(name, self.made("x", b"x"))
        assert self.arrived() == {"one/a b": b"x"}
        assert writer.split(f"{self.url()}/one/") == (f"{self.url()}/one/", "")

    def test_whole_or_not_at_all(self) -> None:
        target = self.writer().target(self.url())
        file = self.made("gone", b"x")
        (self.local / "gone").unlink()
        with pytest.raises(FileNotFoundError):
            target.put("x", file)
        assert self.arrived() == {}

    def test_denied(self) -> None:
        with pytest.raises((OSError, errors.StagingError)) as caught:
            self.writer().target(self.denied_url()).put("x", self.made("x", b"x"))
        assert isinstance(caught.value, OSError | errors.StagingError)
        assert failure(caught.value, OUTPUT, "/outputs/0", "").code == "OUTPUT_DENIED"


def tree_of(entries: Iterator[File | Entry], control: Control) -> dict[str, object]:
    """A source by relative path: bytes of files, None for directories, the target of links, words for the rest."""
    found: dict[str, object] = {}
    for entry in entries:
        if isinstance(entry, Directory):
            found[entry.name] = None
        elif isinstance(entry, Link):
            found[entry.name] = ("link", entry.target)
        elif isinstance(entry, Left):
            found[entry.name] = ("left", entry.why)
        elif isinstance(entry, Failed):
            found[entry.name] = ("failed", str(entry.cause.strerror))
        else:
            found[entry.name] = fetched(entry, control)
    return found
