"""Stage-out: what is saved of a volume in which the task may have left anything."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from tes_server import errors
from tes_server.model.task import OutputFileLog
from tes_server.plan.steps import Collect, Fetch
from tests.unit.filer.conftest import Stage, contents, count


def logged(outputs: tuple[OutputFileLog, ...]) -> list[tuple[str, str, str]]:
    return [(log.url, log.path, log.size_bytes) for log in outputs]


# -- files, directories, names -------------------------------------------------------------------------------------


def test_file(stage: Stage) -> None:
    stage.make("/work/a", b"hello")
    done = stage.out(stage.collect("/work/a", "new/dir/b"))
    assert (done.error, done.notices) == (None, ())
    assert logged(done.outputs) == [("/site/new/dir/b", "/work/a", "5")]
    assert contents(stage.root) == {"new": None, "new/dir": None, "new/dir/b": b"hello"}


def test_directory_typed_file_keeps_its_shape(stage: Stage) -> None:
    """clients.md row 34: subdirectories, empty ones too, empty files and relative links, and it can be staged in again."""
    stage.make("/work/d/sub/x", b"x")
    stage.make("/work/d/zero", b"")
    (stage.volume / "work/d/void").mkdir()
    (stage.volume / "work/d/link").symlink_to("sub/x")
    done = stage.out(stage.collect("/work/d", "out/"))
    assert logged(done.outputs) == [("/site/out/sub/x", "/work/d/sub/x", "1"), ("/site/out/zero", "/work/d/zero", "0")]
    shape = {"sub": None, "sub/x": b"x", "zero": b"", "void": None, "link": ("link", "sub/x")}
    assert contents(stage.root / "out") == shape
    stage.into(stage.fetch("out", "/again"))
    assert contents(stage.volume / "again") == shape


def test_file_for_a_url_with_a_slash_keeps_its_name(stage: Stage) -> None:
    stage.make("/work/a")
    done = stage.out(stage.collect("/work/a", "out/"))
    assert logged(done.outputs) == [("/site/out/a", "/work/a", "1")]
    assert contents(stage.root) == {"out": None, "out/a": b"x"}


@pytest.mark.parametrize("name", ["日本 語", "a%b?c#d", "quo'te\"s\n", "-rf *"])
def test_names(stage: Stage, name: str) -> None:
    stage.make(f"/work/{name}")
    done = stage.out(stage.collect(f"/work/{name}", f"one {name}"), stage.collect("/work", "all"))
    assert done.error is None
    assert contents(stage.root) == {f"one {name}": b"x", "all": None, f"all/{name}": b"x"}
    assert done.outputs[1].url == f"/site/all/{name}"


def test_name_that_is_no_utf8(stage: Stage) -> None:
    stage.make("/work/" + os.fsdecode(b"caf\xe9"))
    done = stage.out(stage.collect("/work"), stage.collect("/work/*", "stars", prefix="/work"))
    assert [log.path for log in done.outputs] == [r"/work/caf\xe9"] * 2
    assert contents(stage.root / "out") == contents(stage.root / "stars") == {os.fsdecode(b"caf\xe9"): b"x"}


@pytest.mark.parametrize("target", ["out", "out?#%20"])
def test_logged_urls_can_be_inputs(stage: Stage, target: str) -> None:
    names = ["100%", "p%20q", "a?b", "h#h", "a b", "\u00e4", "new\nline"]
    for name in names:
        stage.make(f"/work/d/{name}", name.encode())
    url = stage.url(target)
    done = stage.out(Collect(path="/work/d", url=url, shown=url, field=""), Collect(path="/work/d/*", prefix="/work/d", url=url, shown=url, field=""))
    assert (done.error, len(done.outputs)) == (None, 2 * len(names))
    for number, log in enumerate(done.outputs):
        stage.into(Fetch(path=f"/again/{number}", url=log.url, field=""))
        assert (stage.volume / "again" / str(number)).read_text() == log.path.removeprefix("/work/d/")


def test_executable_bits(stage: Stage) -> None:
    stage.make("/work/tool").chmod(0o700)
    stage.out(stage.collect("/work/tool"))
    assert (stage.root / "out").stat().st_mode & 0o100


def test_huge_directory(stage: Stage) -> None:
    for number in range(3000):
        stage.make(f"/work/{number % 7}/{number:05}", b"%d" % number)
    done = stage.out(stage.collect("/work"))
    assert contents(stage.root / "out") == contents(stage.volume / "work")
    assert [log.path for log in done.outputs] == sorted(f"/work/{number % 7}/{number:05}" for number in range(3000))


def test_very_deep_directory_is_cut_off(stage: Stage) -> None:
    here = os.open(stage.make("/work/x").parent, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    done = stage.out(stage.collect("/work"))
    assert done.error is None
    assert "is nested deeper than 200 directories; it was left out" in done.notices[0]


# -- the same place twice ------------------------------------------------------------------------------------------


def test_same_file_in_and_out(stage: Stage) -> None:
    (stage.root / "script").write_text("echo")
    before = (stage.root / "script").stat()
    stage.into(stage.fetch("script", "/work/script"))
    done = stage.out(stage.collect("/work/script", "script"))
    after = (stage.root / "script").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert done.outputs[0].size_bytes == "4"


def test_overlapping_outputs(stage: Stage) -> None:
    for number in range(100):
        stage.make(f"/work/d/{number}", b"directory")
    stage.make("/work/other", b"other")
    done = stage.out(stage.collect("/work/d", "out"), stage.collect("/work/other", "out/5"), stage.collect("/work/d/7", "out/7"))
    assert done.error is None
    assert len(done.outputs) == 102
    assert (stage.root / "out" / "5").read_bytes() == b"other"


def test_again_after_a_crash(stage: Stage) -> None:
    stage.make("/work/d/x", b"x")
    (stage.volume / "work/d/l").symlink_to("x")
    first = stage.out(stage.collect("/work/d"))
    assert stage.out(stage.collect("/work/d")) == first
    assert contents(stage.root / "out") == {"x": b"x", "l": ("link", "x")}


# -- wildcards -----------------------------------------------------------------------------------------------------


def test_wildcards_strip_the_prefix(stage: Stage) -> None:
    for path in ("/work/a/1.txt", "/work/a/.hidden.txt", "/work/b/2.txt", "/work/b/2.log", "/work/c.txt/inner"):
        stage.make(path)
    done = stage.out(stage.collect("/work/*/*.txt", prefix="/work"), stage.collect("/work/*.txt", prefix="/work"))
    assert logged(done.outputs) == [
        ("/site/out/a/1.txt", "/work/a/1.txt", "1"),
        ("/site/out/b/2.txt", "/work/b/2.txt", "1"),
        ("/site/out/c.txt/inner", "/work/c.txt/inner", "1"),
    ]
    assert contents(stage.root / "out") == {"a": None, "a/1.txt": b"x", "b": None, "b/2.txt": b"x", "c.txt": None, "c.txt/inner": b"x"}


def test_two_stars_cross_directories(stage: Stage) -> None:
    for path in ("/work/x.bam", "/work/a/b/y.bam", "/work/a/z.bai"):
        stage.make(path)
    done = stage.out(stage.collect("/work/**.bam", prefix="/work"))
    assert [log.url for log in done.outputs] == ["/site/out/a/b/y.bam", "/site/out/x.bam"]


def test_file_really_called_like_the_pattern(stage: Stage) -> None:
    for path in ("/work/a[1].txt", "/work/a1.txt"):
        stage.make(path)
    done = stage.out(stage.collect("/work/a[1].txt", prefix="/work"))
    assert [log.path for log in done.outputs] == ["/work/a1.txt", "/work/a[1].txt"]


def test_url_that_ends_with_the_pattern(stage: Stage) -> None:
    """clients.md row 22, last clause: without path_prefix the url's last part is the pattern."""
    for path in ("/work/a.txt", "/work/b.txt"):
        stage.make(path)
    done = stage.out(stage.collect("/work/{a,b}.txt", "out/{a,b}.txt", prefix="/work"))
    assert [log.url for log in done.outputs] == ["/site/out/a.txt", "/site/out/b.txt"]
    assert contents(stage.root / "out") == {"a.txt": b"x", "b.txt": b"x"}


@pytest.mark.parametrize("pattern", ["/work/*.none", "/nowhere/*/x", "/work/x/*", "/work/[!x]"])
def test_no_match(stage: Stage, pattern: str) -> None:
    stage.make("/work/x")
    done = stage.out(stage.collect(pattern, prefix="/work"))
    assert (done.error, done.outputs) == (None, ())
    assert done.notices[0].startswith(f"OUTPUT_MISSING: /outputs/0: there is no {pattern} (")


def test_pattern_with_too_many_alternatives(stage: Stage) -> None:
    done = stage.out(stage.collect("/work/" + "{a,b}" * 12, prefix="/work"))
    assert done.error is not None
    assert "1000 alternatives" in done.error.public


def test_wildcards_through_links(stage: Stage) -> None:
    stage.make("/data/run/x.txt")
    (stage.volume / "work").mkdir()
    (stage.volume / "work/latest").symlink_to("/data/run")
    (stage.volume / "work/round").symlink_to(".")
    done = stage.out(stage.collect("/work/latest/*.txt", prefix="/work"), stage.collect("/work/*/x.txt", "second", prefix="/work"))
    assert [log.path for log in done.outputs] == ["/work/latest/x.txt"] * 2
    crossing = stage.out(stage.collect("/work/**/x.txt", prefix="/work"))
    assert (crossing.error, crossing.outputs) == (None, ())


def test_links_that_lead_round_in_circles(stage: Stage) -> None:
    for name in "abcdefghij":
        (stage.volume / name).symlink_to(".")
    stage.make("/x")
    done = stage.out(stage.collect("/*/*/*/*/*/*/y", prefix="/"))
    assert done.error is not None
    assert "too many links" in done.error.public


def test_matches_below_a_match_are_taken_once(stage: Stage) -> None:
    stage.make("/work/a/b/x")
    done = stage.out(stage.collect("/work/**", prefix="/work"))
    assert [log.path for log in done.outputs] == ["/work/a/b/x"]


# -- a hostile volume ----------------------------------------------------------------------------------------------


def test_missing_outputs_are_notices(stage: Stage) -> None:
    stage.make("/work/a")
    (stage.volume / "work/dangling").symlink_to("nowhere")
    (stage.volume / "work/round").symlink_to("round")
    paths = ("/work/b", "/work/a/c", "/work/dangling", "/work/round", "/no/where")
    done = stage.out(*(stage.collect(path, field=f"/outputs/{number}") for number, path in enumerate(paths)), stage.collect("/work/a"))
    assert [line.partition(" (")[0] for line in done.notices] == [f"OUTPUT_MISSING: /outputs/{number}: there is no {path}" for number, path in enumerate(paths)]
    assert (done.error, len(done.outputs)) == (None, 1)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../../../etc/passwd", "/proc/self/root/etc/passwd", "{outside}/secret"])
def test_links_to_the_host_read_the_volume(stage: Stage, target: str) -> None:
    """In the containers such a link means a file of the image, or of the volume; never one of this machine."""
    stage.make("/etc/passwd", b"the volume's own")
    stage.make("/work/d/x")
    (stage.volume / "work/d/link").symlink_to(target.format(outside=stage.outside))
    done = stage.out(stage.collect("/work/d/link", "single"), stage.collect("/work/d", "all"), stage.collect("/work/d/l*", "stars", prefix="/work/d"))
    for path in stage.root.rglob("*"):
        assert path.is_dir() or path.read_bytes() in (b"the volume's own", b"x")
    if target.startswith(("/etc", "..")):
        assert (stage.root / "single").read_bytes() == (stage.root / "all" / "link").read_bytes() == b"the volume's own"
    else:
        assert not (stage.root / "single").exists()
        assert any(line.startswith("OUTPUT_DENIED: /outputs/0: /work/d/link is a link to") for line in done.notices)
    assert done.error is None


def test_directories_that_are_links_to_the_host(stage: Stage) -> None:
    (stage.volume / "work").mkdir()
    (stage.volume / "work/d").symlink_to(stage.outside)
    (stage.volume / "work/up").symlink_to("../" * 20 + str(stage.outside).lstrip("/"))
    done = stage.out(*(stage.collect(path) for path in ("/work/d", "/work/d/secret", "/work/up/secret")), stage.collect("/work/*/secret", prefix="/work"))
    assert done.outputs == ()
    assert len(done.notices) == 4


def test_links_elsewhere_in_the_volume_are_followed(stage: Stage) -> None:
    stage.make("/data/f", b"f")
    stage.make("/data/dir/g", b"g")
    (stage.volume / "data/dir/up").symlink_to("../f")
    (stage.volume / "work").mkdir()
    (stage.volume / "work/f").symlink_to("/data/f")
    (stage.volume / "work/dir").symlink_to("../data/dir")
    done = stage.out(stage.collect("/work"))
    assert contents(stage.root / "out") == {"f": b"f", "dir": None, "dir/g": b"g", "dir/up": b"f"}
    assert [log.path for log in done.outputs] == ["/work/dir/g", "/work/dir/up", "/work/f"]


def test_kept_links_never_lead_out_of_the_output(stage: Stage) -> None:
    """`s/..` is where the link s leads, less one: only leading `..` may be counted."""
    stage.make("/work/d/x")
    (stage.volume / "work/d/s").symlink_to(".")
    (stage.volume / "work/d/sly").symlink_to("s/../../secret")
    (stage.volume / "work/d/up").symlink_to("../secret")
    stage.make("/work/secret", b"of the volume")
    stage.make("/secret", b"of the volume, too")
    stage.out(stage.collect("/work/d"))
    for name in ("sly", "up"):
        assert not (stage.root / "out" / name).is_symlink()
    assert contents(stage.root / "out")["s"] == ("link", ".")


def test_special_files_are_left_out_and_never_waited_for(stage: Stage) -> None:
    stage.make("/work/d/x")
    os.mkfifo(stage.volume / "work/d/fifo")
    os.mkfifo(stage.volume / "work/fifo")
    (stage.volume / "work/d/to-fifo").symlink_to("/work/fifo")
    done = stage.out(stage.collect("/work/d"), stage.collect("/work/fifo", "single"), stage.collect("/work/f*", "stars", prefix="/work"))
    assert contents(stage.root) == {"out": None, "out/x": b"x", "stars": None}
    assert sorted(line.partition(": /work")[2] for line in done.notices) == sorted(
        ["/d/fifo is a FIFO; it was left out", "/d/to-fifo is a link to '/work/fifo', which is a FIFO; it was left out"]
        + ["/fifo is a FIFO; it was left out"] * 2
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_devices_are_left_out(stage: Stage) -> None:
    stage.make("/work/x")
    os.mknod(stage.volume / "work/null", 0o20666, os.makedev(1, 3))
    assert "is a device" in stage.out(stage.collect("/work")).notices[0]


def test_sparse_file_fills_no_disk(stage: Stage) -> None:
    with stage.make("/work/x").open("wb") as file:
        file.truncate(1 << 42)
    stage.out(stage.collect("/work/x"))
    assert ((stage.root / "out").stat().st_size, (stage.root / "out").stat().st_blocks) == (1 << 42, 0)


# -- targets and failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["../outside/x", "way-out/x", "way-out/new/x", "../root-sibling/x"])
def test_targets_out_of_the_roots(stage: Stage, target: str) -> None:
    stage.make("/work/x")
    stage.make("/work/y")
    (stage.root / "way-out").symlink_to(stage.outside)
    done = stage.out(stage.collect("/work/x", target), stage.collect("/work", target), stage.collect("/work/y", "fine", field="/outputs/2"))
    assert done.error is not None
    assert done.error.code == "OUTPUT_DENIED"
    assert done.error.public == f"/outputs/0: /work/x to /site/{target}: is outside of the directories that this server may use"
    assert contents(stage.outside) == {"secret": b"secret"}
    assert [log.url for log in done.outputs] == ["/site/fine"]


def test_target_that_is_a_directory(stage: Stage) -> None:
    stage.make("/work/x")
    (stage.root / "out").mkdir()
    done = stage.out(stage.collect("/work/x", "out"))
    assert done.error is not None
    assert (done.error.code, done.error.transient) == ("OUTPUT_ERROR", False)
    assert done.error.public == "/outputs/0: /work/x to /site/out: the target is a directory, and what the task made is a file"


@pytest.mark.parametrize(("url", "code"), [("https://host/x?sig=secret", "OUTPUT_DENIED"), ("gopher://u:secret@host/x?y", "OUTPUT_ERROR")])
def test_urls_that_cannot_be_written(stage: Stage, url: str, code: str) -> None:
    stage.make("/work/x")
    done = stage.out(Collect(path="/work/x", url=url, shown=url, field="/outputs/0"))
    assert done.error is not None
    assert (done.error.code, "secret" in done.error.public) == (code, False)


def test_the_first_failure_is_reported_and_the_rest_collected(stage: Stage) -> None:
    for name in "abc":
        stage.make(f"/work/{name}")
        if name != "c":
            (stage.root / name).mkdir()
    done = stage.out(*(stage.collect(f"/work/{name}", name, field=f"/outputs/{number}") for number, name in enumerate("cba")))
    assert done.error is not None
    assert done.error.public.startswith("/outputs/1: /work/b")
    assert [log.path for log in done.outputs] == ["/work/c"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_parts_are_an_error_and_the_rest_is_collected(stage: Stage) -> None:
    stage.make("/work/d/closed").chmod(0)
    stage.make("/work/d/open")
    stage.make("/work/d/folder/x").parent.chmod(0)
    done = stage.out(stage.collect("/work/d"))
    (stage.volume / "work/d/folder").chmod(0o700)
    assert done.error is not None
    assert done.error.code == "OUTPUT_DENIED"
    assert [log.path for log in done.outputs] == ["/work/d/open"]


def test_all_is_synced_before_it_returns(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        synced.append(pathlib.Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    stage.make("/work/x")
    stage.out(stage.collect("/work/x", "new/out"))
    assert synced[0] == "out"
    assert set(synced[1:]) == {"root", "new"}


def test_sync_that_fails_is_the_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    stage.make("/work/x")
    (stage.root / "taken").mkdir()
    done = stage.out(stage.collect("/work/x", "taken"), stage.collect("/work/x"))
    assert done.error is not None
    assert (done.error.code, done.error.transient) == ("OUTPUT_ERROR", True)
    assert done.error.public == "/outputs: the sync at the end: input/output error"


def test_stopped(stage: Stage) -> None:
    for number in range(500):
        stage.make(f"/work/{number}")
    out = stage.root / "out"
    with pytest.raises(errors.Canceled):
        stage.out(stage.collect("/work"), stopped=lambda: out.exists() and count(out) > 10)
    assert 0 < count(out) < 500
