"""What an owner is granted holds where the bytes are moved: links, directories, wildcards, and a root that is a link itself."""

from __future__ import annotations

import pathlib
import urllib.parse

import msgspec
import pytest

from tes_server import errors
from tes_server.filer import schemes, transfer
from tes_server.filer.manifest import Access, Collected, Storage
from tes_server.model.task import FileType
from tes_server.plan.objects import Place
from tes_server.plan.reach import Reach
from tes_server.plan.steps import Fetch, Mount, MountKind, StageIn, StageOut
from tes_server.runner import site
from tes_server.runner.site import Site
from tests.unit.filer.conftest import Stage, contents, never
from tests.unit.plan.test_compiler import plan


def prefix(path: pathlib.Path) -> str:
    return "file://" + urllib.parse.quote(str(path))


@pytest.fixture
def homes(stage: Stage) -> Stage:
    for name in ("alice", "bob", "alicex"):
        (stage.root / name / "deep").mkdir(parents=True)
        (stage.root / name / "file").write_text(name)
        (stage.root / name / "deep" / "file").write_text(name)
    return stage


def read(stage: Stage, source: str, *prefixes: str, kind: FileType = FileType.FILE) -> tuple[str, ...]:
    reach = Reach("alice", prefixes or (prefix(stage.root / "alice"),))
    fetch = Fetch(path="/work/in", url=stage.url(source), type=kind, field="/inputs/0")
    return transfer.stage_in(StageIn(inputs=(fetch,), reach=reach), stage.volume, stage.access, never)


def write(stage: Stage, target: str, path: str = "/work/out", wild: str = "") -> Collected:
    stage.make("/work/out/file", b"evil")
    reach = Reach("alice", (prefix(stage.root / "alice"),))
    return transfer.stage_out(StageOut(outputs=(stage.collect(path, target, wild),), reach=reach), stage.volume, stage.access, never)


def test_what_is_granted(homes: Stage) -> None:
    read(homes, "alice/file")
    assert (homes.volume / "work/in").read_text() == "alice"
    assert write(homes, "alice/new/out").error is None
    assert (homes.root / "alice/new/out/file").read_bytes() == b"evil"


@pytest.mark.parametrize("source", ["bob/file", "alicex/file", "alice/../bob/file", "alice/to-bob/file", "alice/file-of-bob", "alice/up/bob/file", "bob/none"])
def test_nobody_reads_another_s(homes: Stage, source: str) -> None:
    (homes.root / "alice/to-bob").symlink_to("../bob")
    (homes.root / "alice/up").symlink_to(homes.root)
    (homes.root / "alice/file-of-bob").symlink_to(homes.root / "bob/file")
    with pytest.raises(errors.StagingError) as caught:
        read(homes, source)
    assert caught.value.code == "INPUT_DENIED"
    assert not (homes.volume / "work/in").exists()


def test_whether_another_s_is_there_is_not_told(homes: Stage) -> None:
    """All that a link of one's own can find out about somebody else's tree is the same word."""
    (homes.root / "alice/to-bob").symlink_to("../bob")
    for number, there in enumerate(("file/x", "none/x", "none/../file", "deep/../file", "deep", "file")):
        (homes.root / f"alice/link{number}").symlink_to(f"../bob/{there}")
        with pytest.raises(errors.StagingError) as caught:
            read(homes, f"alice/link{number}")
        assert (caught.value.code, "outside" in caught.value.public) == ("INPUT_DENIED", True), there


def test_a_directory_leaves_out_what_leads_to_another(homes: Stage) -> None:
    (homes.root / "alice/to-bob").symlink_to("../bob")
    with pytest.raises(errors.StagingError) as caught:
        read(homes, "alice", kind=FileType.DIRECTORY)
    assert caught.value.code == "INPUT_DENIED"
    assert "bob" not in [path for path, held in contents(homes.volume).items() if held == b"bob"]


@pytest.mark.parametrize("target", ["bob/out", "alicex/out", "alice/to-bob/out", "alice/up/bob/out", "out", "alice/../bob/out"])
@pytest.mark.parametrize("path", ["/work/out", "/work/out/*"])
def test_nobody_writes_another_s(homes: Stage, target: str, path: str) -> None:
    before = {name: contents(homes.root / name) for name in ("bob", "alicex")}
    (homes.root / "alice/to-bob").symlink_to("../bob")
    (homes.root / "alice/up").symlink_to(homes.root)
    done = write(homes, target, path, "/work/out" if "*" in path else "")
    assert done.error is not None
    assert done.error.code == "OUTPUT_DENIED"
    assert {name: contents(homes.root / name) for name in before} == before
    assert not (homes.root / "out").exists()


def test_a_link_in_the_place_of_one_s_own_directory_is_not_followed(homes: Stage) -> None:
    """Somebody who may write above it must not lend it to whoever it is granted to."""
    (homes.root / "carol").symlink_to("bob")
    with pytest.raises(errors.StagingError) as caught:
        read(homes, "carol/file", prefix(homes.root / "carol"))
    assert caught.value.code == "INPUT_DENIED"


def test_a_root_may_be_a_link(homes: Stage, tmp_path: pathlib.Path) -> None:
    (tmp_path / "mnt").symlink_to(homes.root)
    access = Access(roots=(str(tmp_path / "mnt"),))
    reach = Reach("alice", (prefix(tmp_path / "mnt/alice"),))
    for name, code in (("alice", ""), ("bob", "INPUT_DENIED")):
        fetch = Fetch(path="/work/in", url=prefix(tmp_path / "mnt" / name / "file"))
        found = ""
        try:
            transfer.stage_in(StageIn(inputs=(fetch,), reach=reach), homes.volume, access, never)
        except errors.StagingError as cause:
            found = cause.code
        assert found == code


def test_a_grant_is_never_more_than_a_root(homes: Stage) -> None:
    with pytest.raises(errors.StagingError):
        read(homes, "../outside/secret", prefix(homes.outside))
    read(homes, "bob/file", "file:///")
    assert (homes.volume / "work/in").read_text() == "bob"


@pytest.mark.parametrize(
    ("root", "directory", "allowed"), [("/", "/a", ["/r/a"]), ("/a", "/", ["/r"]), ("/a", "/ab", []), ("/a", "/a", ["/r"]), ("/a/b", "/a", ["/r"])]
)
def test_where_roots_and_prefixes_meet(root: str, directory: str, allowed: list[str]) -> None:
    assert list(Reach("o", (f"file://{directory}",)).within(root, "/r")) == allowed


def test_a_live_mount_is_looked_at_again_before_each_executor(tmp_path: pathlib.Path) -> None:
    for name in ("alice", "bob"):
        (tmp_path / name / "job").mkdir(parents=True)
    shared = Site(access=Access(), live_roots=(str(tmp_path),))

    def check(source: pathlib.Path) -> None:
        made = msgspec.structs.replace(
            plan(), mounts=(Mount("/job", MountKind.LIVE, str(source)),), stage_out=StageOut(reach=Reach("alice", (prefix(tmp_path / "alice"),)))
        )
        site.check_live(made, shared)

    check(tmp_path / "alice/job")
    for source in (tmp_path / "bob/job", tmp_path / "alice/link"):
        if source.name == "link":
            source.symlink_to("../bob/job")
        with pytest.raises(errors.StagingError):
            check(source)


# -- object stores -----------------------------------------------------------------------------------------------------

GENERAL = Storage(url="s3://lab", write=True, key_variable="A", secret_variable="B")
OWN = msgspec.structs.replace(GENERAL, owners=("lab-*",), profile="lab", key_variable="", secret_variable="")
ACCESS = Access(stores=(GENERAL, OWN, Storage(url="az://account", write=True)))


def test_an_owner_s_own_credentials_come_first() -> None:
    everything = ("s3://", "az://account")
    assert ACCESS.narrowed(Reach("lab-1", everything)).store_of("s3://lab/x") == OWN
    assert ACCESS.narrowed(Reach("bob", everything)).store_of("s3://lab/x") == GENERAL
    assert ACCESS.narrowed(None).store_of("s3://lab/x") == GENERAL
    longer = Storage(url="s3://lab/public")
    assert msgspec.structs.replace(ACCESS, stores=(*ACCESS.stores, longer)).narrowed(Reach("lab-1", everything)).store_of("s3://lab/public/x") == longer


def test_a_store_that_is_not_granted_is_not_there() -> None:
    mine = ACCESS.narrowed(Reach("alice", ("s3://lab/alice", "az://account/con/alice")))
    assert mine.store_of("s3://lab/alice/x") == GENERAL
    for url in ("s3://lab/bob/x", "s3://lab/alice/../bob/x", "s3://lab/alicex", "az://account/con/alice\\..\\bob", "az://account/con/bob"):
        assert mine.store_of(url) is None, url
    # With nothing of the site's, as anybody would fetch it.
    assert schemes.scheme_of("https://account.blob.core.windows.net/con/alice/x", mine) == "az"
    assert schemes.scheme_of("https://account.blob.core.windows.net/con/bob/x", mine) == "https"


@pytest.mark.parametrize("key", ["alice\\..\\bob", "alice/../bob", "alicex", "", "alice//x"])
def test_places(key: str) -> None:
    assert not Reach("alice", ("az://account/con/alice",)).covers_place(Place("az", "account", "con", key))
