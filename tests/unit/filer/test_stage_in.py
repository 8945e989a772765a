"""Stage-in: what lands in the volume, and what never does."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import stat
import threading
import time

import pytest

from tes_server import errors
from tes_server.filer import schemes
from tes_server.filer.manifest import Access
from tes_server.filer.schemes import Directory, Entry, File, Left
from tes_server.model.task import FileType
from tes_server.plan.steps import Fetch
from tests.contract import web_server
from tests.guards import LOOPBACK
from tests.unit.filer.conftest import Stage, contents, count

DIRECTORY = FileType.DIRECTORY


def refused(stage: Stage, *inputs: Fetch) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        stage.into(*inputs)
    return caught.value


def modes(base: pathlib.Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in base.rglob("*")}


# -- what lands ----------------------------------------------------------------------------------------------------


def test_directories_and_content(stage: Stage) -> None:
    assert stage.into(Fetch(path="/work/ü", content="grüße", field="/inputs/0"), directories=("/work/a/b", "/tmp")) == ()
    assert contents(stage.volume) == {"work": None, "work/a": None, "work/a/b": None, "tmp": None, "work/ü": "grüße".encode()}


def test_modes_whatever_the_umask(stage: Stage) -> None:
    (stage.root / "in").mkdir(0o700)
    (stage.root / "in" / "private").write_text("x")
    (stage.root / "in" / "private").chmod(0o600)
    (stage.root / "in" / "tool").write_text("x")
    (stage.root / "in" / "tool").chmod(0o500)
    before = os.umask(0o077)
    try:
        stage.into(stage.fetch("in", kind=DIRECTORY), Fetch(path="/other/deep/x", content="x"), directories=("/made/deep",))
    finally:
        os.umask(before)
    assert modes(stage.volume) == {(True, 0o777), (False, 0o666), (False, 0o777)}
    assert (stage.volume / "work/in/tool").stat().st_mode & 0o777 == 0o777


def test_directory_that_exists_keeps_what_it_holds(stage: Stage) -> None:
    stage.make("/work/a/kept")
    (stage.volume / "work" / "a").chmod(0o700)
    stage.into(directories=("/work/a",))
    assert contents(stage.volume / "work") == {"a": None, "a/kept": b"x"}
    assert (stage.volume / "work" / "a").stat().st_mode & 0o777 == 0o777


def test_inputs_are_private_copies(stage: Stage) -> None:
    (stage.root / "x").write_text("source")
    stage.into(stage.fetch("x"))
    staged = stage.volume / "work" / "in"
    assert staged.stat().st_nlink == 1
    staged.write_text("changed by the task")
    assert (stage.root / "x").read_text() == "source"


def test_directory_typed_file(stage: Stage) -> None:
    (stage.root / "d" / "empty").mkdir(parents=True)
    (stage.root / "d" / "x").write_text("x")
    stage.into(stage.fetch("d"))
    assert contents(stage.volume) == {"work": None, "work/in": None, "work/in/empty": None, "work/in/x": b"x"}


def test_file_typed_directory_is_refused(stage: Stage) -> None:
    (stage.root / "x").write_text("x")
    error = refused(stage, stage.fetch("x", kind=DIRECTORY))
    assert error.code == "INPUT_ERROR"
    assert error.public == f"/inputs/0: {stage.url('x')}: is a file, and the input's type is DIRECTORY"


def test_later_inputs_win_over_earlier_ones(stage: Stage) -> None:
    (stage.root / "d").mkdir()
    for number in range(200):
        (stage.root / "d" / str(number)).write_text("directory")
    stage.into(stage.fetch("d", "/work/d"), *(Fetch(path=f"/work/d/{number}", content="file") for number in range(0, 200, 50)))
    assert sum(path.read_text() == "file" for path in (stage.volume / "work" / "d").iterdir()) == 4


def test_over_the_leftovers_of_a_crash(stage: Stage) -> None:
    (stage.root / "d" / "sub").mkdir(parents=True)
    (stage.root / "d" / "sub" / "x").write_text("whole")
    (stage.root / "d" / "link").symlink_to("sub/x")
    inputs = (stage.fetch("d"), Fetch(path="/work/y", content="whole"))
    stage.into(*inputs)
    expected = contents(stage.volume)
    (stage.volume / "work/in/sub/x").write_text("wh")
    (stage.volume / "work/in/link").unlink()
    (stage.volume / "work/in/link").write_text("")
    (stage.volume / "work/y").unlink()
    stage.into(*inputs)
    assert contents(stage.volume) == expected


def test_many_files(stage: Stage) -> None:
    (stage.root / "d").mkdir()
    for number in range(3000):
        (stage.root / "d" / f"{number:05}").write_bytes(b"%d" % number)
    stage.into(stage.fetch("d"))
    assert contents(stage.volume / "work" / "in") == contents(stage.root / "d")


@pytest.mark.parametrize("name", ["日本 語", "a%b?c#d", "quo'te\"s\n", "-rf *", os.fsdecode(b"caf\xe9")])
def test_names(stage: Stage, name: str) -> None:
    (stage.root / "d").mkdir()
    (stage.root / "d" / name).write_text("x")
    stage.into(stage.fetch("d"))
    assert contents(stage.volume / "work" / "in") == {name: b"x"}


def test_sparse_source_stays_sparse(stage: Stage) -> None:
    with (stage.root / "x").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 30)
        file.write(b"island")
    stage.into(stage.fetch("x"))
    staged = stage.volume / "work" / "in"
    assert (staged.stat().st_size, staged.stat().st_blocks * 512 < 1 << 20) == (1 << 40, True)
    with staged.open("rb") as file:
        file.seek(1 << 30)
        assert file.read(6) == b"island"


# -- links and special files of the source -------------------------------------------------------------------------


def test_links_inside_the_source_are_kept(stage: Stage) -> None:
    (stage.root / "d" / "sub").mkdir(parents=True)
    (stage.root / "d" / "x").write_text("x")
    links = {"here": "x", "sub/up": "../x", "dir": "sub", "dangling": "not-there", "self": "."}
    for name, target in links.items():
        (stage.root / "d" / name).symlink_to(target)
    assert stage.into(stage.fetch("d")) == ()
    staged = contents(stage.volume / "work" / "in")
    assert {name: staged[name] for name in links} == {name: ("link", target) for name, target in links.items()}


def test_links_within_the_roots_are_followed(stage: Stage) -> None:
    (stage.root / "d").mkdir()
    (stage.root / "shared" / "deep").mkdir(parents=True)
    (stage.root / "shared" / "x").write_text("x")
    (stage.root / "shared" / "deep" / "up").symlink_to("../x")
    (stage.root / "d" / "file").symlink_to(stage.root / "shared" / "x")
    (stage.root / "d" / "dir").symlink_to("../shared/deep")
    stage.into(stage.fetch("d"))
    assert contents(stage.volume / "work" / "in") == {"file": b"x", "dir": None, "dir/up": b"x"}


@pytest.mark.parametrize("target", ["{outside}/secret", "../../outside/secret", "/etc/passwd", "/etc/no-such-file", "{outside}", "hop"])
def test_links_out_of_the_roots_are_refused(stage: Stage, target: str) -> None:
    (stage.root / "d").mkdir()
    (stage.root / "hop").symlink_to(stage.outside / "secret")
    (stage.root / "d" / "x").symlink_to("../hop" if target == "hop" else target.format(outside=stage.outside))
    error = refused(stage, stage.fetch("d", kind=DIRECTORY))
    assert (error.code, error.transient) == ("INPUT_DENIED", False)
    assert error.public == f"/inputs/0: {stage.url('d')}/x: is outside of the directories that this server may use"
    assert "in/x" not in contents(stage.volume / "work")


def test_input_that_is_itself_a_link_out(stage: Stage) -> None:
    (stage.root / "x").symlink_to(stage.outside / "secret")
    assert refused(stage, stage.fetch("x")).code == "INPUT_DENIED"


def test_loops_and_dangling_links_are_left_out(stage: Stage) -> None:
    (stage.root / "d" / "sub").mkdir(parents=True)
    (stage.root / "d" / "sub" / "back").symlink_to(stage.root / "d")
    (stage.root / "d" / "nowhere").symlink_to(stage.root / "not-there")
    (stage.root / "d" / "round").symlink_to(stage.root / "d" / "round")
    notices = stage.into(stage.fetch("d"))
    assert sorted(line.partition(" is a link")[0].rpartition("/")[2] for line in notices) == ["back", "nowhere", "round"]
    assert all(line.startswith("INPUT_DENIED: /inputs/0: file://") for line in notices)
    assert contents(stage.volume / "work" / "in") == {"sub": None}


def test_links_that_unfold_without_end_are_cut_off(stage: Stage) -> None:
    for number in range(12):
        (stage.root / "d" / str(number)).mkdir(parents=True)
        if number:
            for name in ("a", "b"):
                (stage.root / "d" / str(number) / name).symlink_to(stage.root / "d" / str(number - 1))
    notices = stage.into(stage.fetch("d/11"))
    assert any("behind more than" in line for line in notices)


def test_special_files_are_left_out(stage: Stage) -> None:
    (stage.root / "d").mkdir()
    os.mkfifo(stage.root / "d" / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = pathlib.Path.cwd()
        os.chdir(stage.root / "d")  # a socket's path is short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        notices = stage.into(stage.fetch("d"))
    assert sorted(line.rpartition("/")[2] for line in notices) == ["fifo is a FIFO; it was left out", "socket is a socket; it was left out"]
    assert contents(stage.volume / "work" / "in") == {}


def test_notices_are_bounded(stage: Stage) -> None:
    (stage.root / "d").mkdir()
    for number in range(150):
        os.mkfifo(stage.root / "d" / str(number))
    notices = stage.into(stage.fetch("d"))
    assert len(notices) == 101
    assert notices[-1].startswith("50 more")


# -- the volume ----------------------------------------------------------------------------------------------------


def test_links_in_the_volume_stay_in_the_volume(stage: Stage) -> None:
    """An input may lie below a link that another input brought: in the containers it means a place in the volume."""
    (stage.volume / "work").mkdir()
    (stage.volume / "work" / "abs").symlink_to("/real")
    (stage.volume / "work" / "up").symlink_to("../../../../../../real")
    (stage.volume / "real").mkdir()
    stage.into(Fetch(path="/work/abs/a", content="a"), Fetch(path="/work/up/b", content="b"), directories=("/work/abs/c",))
    assert contents(stage.volume / "real") == {"a": b"a", "b": b"b", "c": None}


def test_link_at_the_place_of_a_file_is_replaced(stage: Stage) -> None:
    (stage.volume / "work").mkdir()
    (stage.volume / "work" / "x").symlink_to(stage.outside / "secret")
    stage.into(Fetch(path="/work/x", content="new"))
    assert contents(stage.volume / "work") == {"x": b"new"}
    assert (stage.outside / "secret").read_text() == "secret"


# -- failures ------------------------------------------------------------------------------------------------------


def test_missing_source(stage: Stage) -> None:
    error = refused(stage, stage.fetch("a b"))
    assert (error.code, error.public) == ("INPUT_NOT_FOUND", f"/inputs/0: {stage.url('a b')}: does not exist")


@pytest.mark.parametrize("url", ["irods://bucket/key?X-Sig=secret", "gopher://user:secret@host/x", "nonsense"])
def test_unknown_scheme(stage: Stage, url: str) -> None:
    error = refused(stage, Fetch(path="/work/x", url=url, field="/inputs/7"))
    assert error.code == "INPUT_ERROR"
    assert error.public.startswith("/inputs/7: ")
    assert "secret" not in error.public


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_source(stage: Stage) -> None:
    (stage.root / "x").write_text("x")
    (stage.root / "x").chmod(0)
    assert refused(stage, stage.fetch("x")).code == "INPUT_DENIED"


def test_no_volume(stage: Stage) -> None:
    stage.volume.rmdir()
    assert refused(stage).public == "/: the task's volume: no such file or directory"


class Listing:
    """A source that lists what a test wants (schemes.Reader)."""

    def __init__(self, *entries: File | Entry) -> None:
        self.entries = entries

    def source(self, url: str, directory: bool = False) -> list[File | Entry]:
        return list(self.entries)

    def close(self) -> None:
        """Nothing is open."""


class Failing:
    """A file whose bytes do not come (schemes.File)."""

    executable = False
    size = 10

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number

    def fill(self, fd: int, control: object) -> int:
        os.pwrite(fd, b"half", 0)
        raise OSError(self.number, os.strerror(self.number))


def staging(monkeypatch: pytest.MonkeyPatch, *entries: File | Entry) -> Fetch:
    monkeypatch.setitem(schemes.READERS, "test", lambda *_: Listing(*entries))
    return Fetch(path="/work/in", url="test://listing?secret", field="/inputs/0")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", "./x", "a/.", "..", "nul\0"])
def test_listed_names_that_lead_elsewhere(stage: Stage, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    entries: list[File | Entry] = [Left(name, "is odd"), Directory(name), schemes.Link(name, "x"), Failing(name, errno.EIO)]
    for entry in entries:
        error = refused(stage, staging(monkeypatch, Directory(""), entry))
        assert error.code == "INPUT_ERROR"
        assert "leads out of it" in error.public
        assert "secret" not in error.public
    assert contents(stage.volume) in ({"work": None, "work/in": None}, {})


@pytest.mark.parametrize(
    ("number", "code", "transient"),
    [(errno.ENOSPC, "DISK_FULL", False), (errno.EDQUOT, "DISK_FULL", False), (errno.EACCES, "INPUT_DENIED", False), (errno.ENOENT, "INPUT_NOT_FOUND", False),
     (errno.EIO, "INPUT_ERROR", True), (errno.ESTALE, "INPUT_ERROR", True), (errno.ENAMETOOLONG, "INPUT_ERROR", False)],
)  # fmt: skip
def test_codes(stage: Stage, monkeypatch: pytest.MonkeyPatch, number: int, code: str, transient: bool) -> None:
    error = refused(stage, staging(monkeypatch, Directory(""), Failing("x", number)))
    assert (error.code, error.transient) == (code, transient)
    assert error.public.startswith("/inputs/0: test://listing?.../x: ")
    assert contents(stage.volume) == {"work": None, "work/in": None}


def test_stopped_before_and_in_the_middle(stage: Stage) -> None:
    (stage.root / "d").mkdir()
    for number in range(500):
        (stage.root / "d" / str(number)).write_text("x")
    before = set(threading.enumerate())
    with pytest.raises(errors.Canceled):
        stage.into(stage.fetch("d"), stopped=lambda: True)
    staged = stage.volume / "work" / "in"
    with pytest.raises(errors.Canceled):
        stage.into(stage.fetch("d"), stopped=lambda: staged.exists() and count(staged) > 10)
    assert 0 < count(staged) < 500
    assert set(threading.enumerate()) <= before


# -- http(s) through the whole of it -------------------------------------------------------------------------------


def test_web_inputs_side_by_side(stage: Stage) -> None:
    with web_server.serving() as server:
        server.script = lambda request: web_server.ranged(request.path.encode(), request)
        stage.access = Access(guard=LOOPBACK)
        stage.into(*(Fetch(path=f"/work/{number}", url=f"{server.url}/{number}?q", field=f"/inputs/{number}") for number in range(50)))
    assert contents(stage.volume / "work") == {str(number): f"/{number}?q".encode() for number in range(50)}


def test_web_failure_names_the_field_and_hides_the_query(stage: Stage) -> None:
    with web_server.serving() as server:
        stage.access = Access(guard=LOOPBACK)
        error = refused(stage, Fetch(path="/work/x", url=f"{server.url.replace('//', '//me:secret@')}/x?sig=secret", field="/inputs/3"))
        assert error.public == f"/inputs/3: {server.url}/x?...: the server answered 404 (Not Found)"
    assert contents(stage.volume) == {"work": None}


def test_stalled_web_input_does_not_hold_up_a_stop(stage: Stage) -> None:
    hold, stop = threading.Event(), threading.Event()
    with web_server.serving() as server:

        def stall(request: web_server.Request) -> web_server.Answer:
            stop.set()
            return web_server.Answer(200, b"some", length=1000, hold=hold)

        server.script = stall
        stage.access = Access(guard=LOOPBACK)
        try:
            begun = time.monotonic()
            with pytest.raises(errors.Canceled):
                stage.into(Fetch(path="/work/x", url=server.url, field="/inputs/0"), stopped=stop.is_set)
            assert time.monotonic() - begun < 1.0
        finally:
            hold.set()
    assert contents(stage.volume) == {"work": None}
