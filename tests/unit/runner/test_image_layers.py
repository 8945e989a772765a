"""Layers are put together as the OCI image specification has it, and nothing lands outside of the tree."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import pathlib
import stat
import subprocess
import tarfile
from collections.abc import Iterator

import pytest
import zstandard

from tes_server import errors
from tes_server.runner import image_cache, image_layers, image_manifest, image_tree
from tes_server.telemetry import Code
from tests.image_case import Entry, directory, entry, hard_link, layer, link

PLENTY = 1 << 30


@pytest.fixture
def root(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    where = tmp_path / "tree"
    where.mkdir(mode=0o700)
    yield where
    image_cache.wipe(where)  # pytest cannot delete what has no modes


def unpack(root: pathlib.Path, *layers: bytes, ids: tuple[int, int] | None = None) -> pathlib.Path:
    tree = image_tree.Tree(root, image_tree.Owners(ids))
    for data in layers:
        image_layers.unpack(io.BytesIO(data), image_manifest.digest_of(data), tree, PLENTY)
    tree.finish()
    return root


def names(root: pathlib.Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def refused(root: pathlib.Path, *layers: bytes) -> str:
    with pytest.raises(errors.EngineError) as caught:
        unpack(root, *layers)
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_ERROR, False)
    return caught.value.public


def test_files_directories_and_links_have_what_the_archive_says(root: pathlib.Path) -> None:
    unpack(
        root,
        layer(
            directory("./", mode=0o751, mtime=5),
            directory("bin", mode=0o555, mtime=7),
            entry("bin/sh", b"#!", mode=0o755, mtime=9.5),
            entry("tmp/made/by/name", b"x"),
            directory("open", mode=0o1777),
            link("sh", "/bin/sh"),
            link("up", "../../../etc/passwd"),
            hard_link("bin/ash", "bin/sh"),
            entry("pipe", type=tarfile.FIFOTYPE, mode=0o640),
            entry("absolute", b"a"),
        ),
    )
    assert stat.S_IMODE(root.stat().st_mode) == 0o751
    assert root.stat().st_mtime == 5
    assert stat.S_IMODE((root / "bin").stat().st_mode) == 0o555
    assert (root / "bin").stat().st_mtime == 7
    assert stat.S_IMODE((root / "open").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o755
    shell = (root / "bin/sh").stat()
    assert (stat.S_IMODE(shell.st_mode), shell.st_mtime, shell.st_nlink, shell.st_ino) == (0o755, 9.5, 2, (root / "bin/ash").stat().st_ino)
    assert (root / "sh").readlink() == pathlib.Path("/bin/sh")
    assert (root / "up").readlink() == pathlib.Path("../../../etc/passwd")
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)


def test_set_id_bits_devices_and_attributes_are_left_out(root: pathlib.Path) -> None:
    device = entry("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    capable = entry("ping", b"x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": "\1\0\0\2\0\x20\0\0" + "\0" * 12})
    unpack(root, layer(entry("su", b"x", mode=0o6755), directory("var", mode=0o2775), device, capable))
    assert stat.S_IMODE((root / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "var").stat().st_mode) == 0o775
    assert names(root) == {"su", "var", "ping"}
    assert os.listxattr(root / "ping") == []


def test_whiteouts_take_away_what_is_below(root: pathlib.Path) -> None:
    below = layer(entry("a/old", b""), entry("a/kept", b""), entry("b/old/deep/er", b""), entry("c", b""), link("l", "c"))
    above = layer(entry("a/.wh.old"), entry("b/new", b""), entry("b/.wh..wh..opq"), entry(".wh.c"), entry(".wh.l"), entry(".wh.never"), entry(".wh..wh.plnk"))
    unpack(root, below, above)
    assert names(root) == {"a", "a/kept", "b", "b/new"}


def test_a_whiteout_spares_its_own_layer_in_any_order(root: pathlib.Path) -> None:
    below = layer(entry("d/lower/x", b""), entry("d/both/lower", b""))
    unpack(root, below, layer(directory("d"), entry("d/both/upper", b""), entry(".wh.d")))
    assert names(root) == {"d", "d/both", "d/both/upper"}


def test_a_whiteout_of_what_is_not_there_makes_nothing(root: pathlib.Path) -> None:
    unpack(root, layer(entry("no/where/.wh.x"), entry("none/.wh..wh..opq")))
    assert names(root) == set()


def test_kinds_may_change_from_layer_to_layer(root: pathlib.Path) -> None:
    below = layer(entry("dir/in/it", b""), entry("file", b"1"), link("link", "file"), hard_link("twin", "file"), directory("kept", mode=0o700), entry("kept/x"))
    above = layer(entry("dir", b"now a file"), directory("file"), directory("link"), entry("twin", b"2"), directory("kept", mode=0o755))
    unpack(root, below, above)
    assert names(root) == {"dir", "file", "link", "twin", "kept", "kept/x"}
    assert (root / "dir").read_bytes() == b"now a file"
    assert (root / "file").is_dir()
    assert not (root / "link").is_symlink()
    assert stat.S_IMODE((root / "kept").stat().st_mode) == 0o755


def test_a_file_written_anew_leaves_its_other_names_alone(root: pathlib.Path) -> None:
    unpack(root, layer(entry("a", b"one"), hard_link("b", "a")), layer(entry("a", b"two")))
    assert (root / "b").read_bytes() == b"one"


def test_links_in_a_path_are_followed_inside_of_the_image(root: pathlib.Path) -> None:
    """Debian has /lib as a link since 12; archives made by hand still name lib/x."""
    unpack(root, layer(directory("usr/lib"), link("lib", "usr/lib"), link("run", "/usr/../../var/run")), layer(entry("lib/x", b"1"), entry("run/pid", b"2")))
    assert (root / "usr/lib/x").read_bytes() == b"1"
    assert (root / "var/run/pid").read_bytes() == b"2"
    assert (root / "lib").is_symlink()


def test_traps_lead_nowhere_else(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Each of these writes outside of the tree if a single link is followed."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("safe")
    up = f"../../../../../../../../..{victim}"
    unpack(
        root,
        layer(link("root", "/"), link("abs", str(victim)), link("rel", up), link("file", str(victim / "file")), directory("d"), link("d/again", "../rel")),
        layer(
            entry("root/etc/passwd", b"evil"),
            entry("abs/file", b"evil"),
            entry("rel/other", b"evil"),
            entry("d/again/third", b"evil"),
            entry("file", b"evil"),
            directory("abs", mode=0o777),
            entry("rel/.wh.file"),
            entry("rel/.wh..wh..opq"),
        ),
    )
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"file": "safe"}
    assert stat.S_IMODE(victim.stat().st_mode) & 0o022 == 0
    assert (root / "etc/passwd").read_bytes() == b"evil"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((entry("../x", b""),), "leads upwards"),
        ((entry("a/../../x", b""),), "leads upwards"),
        ((entry("a/../x", b""),), "leads upwards"),
        ((hard_link("x", "../../etc/passwd"),), "leads upwards"),
        ((hard_link("x", "etc/passwd"),), "not there"),
        ((hard_link("x", "x"),), "not there"),
        ((entry("x", b""), hard_link("x", "x")), "itself"),
        ((directory("d"), hard_link("x", "d")), "no file"),
        ((entry("d/f", b""), hard_link("d", "d/f")), "itself"),
        ((hard_link("x", "/"),), "no file"),
        ((link("/", "/etc"),), "root"),
        ((entry("./", b"x"),), "root"),
        ((entry("f", b""), entry("f/g", b"")), "no directory"),
        ((link("l", "l"), entry("l/g", b"")), "leads nowhere"),
        ((link("l", "a" * 4096),), "link to nothing"),
        ((link("l", ""),), "link to nothing"),
        ((entry("a/" * 200 + "f", b""),), "too deep"),
        ((entry("a" * 5000, b""),), "name"),
        ((entry("a/.wh.", b""),), "takes nothing away"),
        ((entry("a/.wh...", b""),), "takes nothing away"),
        ((entry("x", type=b"Z"),), "kind"),
    ],
    ids=itertools.count(),  # an entry's own word holds its address, and xdist wants the same ids of every process
)
def test_what_cannot_be_fails_the_pull(root: pathlib.Path, tmp_path: pathlib.Path, bad: tuple[Entry, ...], words: str) -> None:
    assert words in refused(root, layer(*bad))
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_name_too_long_for_the_disk_is_an_error_of_the_disk(root: pathlib.Path) -> None:
    with pytest.raises(OSError, match="too long"):
        unpack(root, layer(entry("a" * 300, b"")))


def test_a_layer_is_what_its_config_says(root: pathlib.Path) -> None:
    tree = image_tree.Tree(root, image_tree.Owners(None))
    with pytest.raises(errors.EngineError, match="another than its config"):
        image_layers.unpack(io.BytesIO(layer(entry("x", b"1"))), image_manifest.digest_of(layer(entry("x", b"2"))), tree, PLENTY)


@pytest.mark.parametrize("size", [10, 300, 511, 512, 700, 1500])
def test_an_archive_that_is_cut_or_spoiled_is_refused(root: pathlib.Path, size: int) -> None:
    whole = layer(entry("a", b"x" * 100), entry("b", b"y" * 1000))
    if size not in (512,):
        refused(root, whole[:size])
    spoiled = bytearray(whole)
    spoiled[1024 + 5] ^= 0xFF  # the second header, whose sum is wrong now
    assert "damaged" in refused(root, bytes(spoiled))


def test_compressions_are_told_by_their_bytes(root: pathlib.Path) -> None:
    plain = layer(entry("x", b"x" * 3_000_000))
    pressed = [plain, gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]) + b"\0" * 512]
    pressed += [zstandard.compress(plain), zstandard.compress(plain[:5000]) + zstandard.compress(plain[5000:])]
    tree = image_tree.Tree(root, image_tree.Owners(None))
    for data in pressed:
        assert image_layers.unpack(io.BytesIO(data), image_manifest.digest_of(plain), tree, PLENTY) == len(plain)
        assert (root / "x").stat().st_size == 3_000_000


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_damaged_compression_is_told(root: pathlib.Path, compress: object) -> None:
    plain = layer(entry("x", os.urandom(100_000)))
    data = compress(plain)  # type: ignore[operator]
    for spoiled in (data[: len(data) // 2], data[:5000] + b"\xff" * 50 + data[5050:]):
        tree = image_tree.Tree(root, image_tree.Owners(None))
        with pytest.raises(errors.EngineError) as caught:
            image_layers.unpack(io.BytesIO(spoiled), image_manifest.digest_of(plain), tree, PLENTY)
        assert caught.value.code == Code.IMAGE_ERROR


def test_a_bomb_is_stopped_by_its_size(root: pathlib.Path) -> None:
    bomb = gzip.compress(layer(entry("zeros", b"\0" * 50_000_000)))
    tree = image_tree.Tree(root, image_tree.Owners(None))
    with pytest.raises(errors.EngineError, match="larger"):
        image_layers.unpack(io.BytesIO(bomb), "", tree, 1_000_000)
    assert sum(path.stat().st_size for path in root.rglob("*")) <= 2_000_000


def test_headers_beyond_measure_are_refused(root: pathlib.Path) -> None:
    assert "beyond measure" in refused(root, layer(entry("x", pax_headers={"comment": "c" * 9_000_000})))


def test_sparse_files_are_whole(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    holes = tmp_path / "holes"
    with holes.open("wb") as out:
        out.seek(9_000_000)
        out.write(b"end")
    for form in ("gnu", "pax"):
        data = subprocess.run(["tar", "--sparse", f"--format={form}", "-C", tmp_path, "-c", "holes"], stdout=subprocess.PIPE, check=True).stdout
        assert len(data) < 100_000
        unpack(root, data)
        assert (root / "holes").read_bytes() == holes.read_bytes()
        (root / "holes").unlink()


def test_names_need_not_be_text(root: pathlib.Path) -> None:
    """Tar knows bytes only; Latin-1 names are in many old archives."""
    odd = os.fsdecode(b"caf\xe9")
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        unpack(root, layer(entry(odd, b"x"), entry("ü/ß", b"y"), form=form))
        assert names(root) == {odd, "ü", "ü/ß"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_owners_are_shifted_into_the_range(root: pathlib.Path) -> None:
    made = (entry("root", b""), entry("nobody", b"", uid=65534, gid=65534), entry("far", b"", uid=4_000_000_000, gid=70_000), link("l", "x"))
    unpack(root, layer(directory(".", uid=3, gid=4), directory("d", uid=1, gid=2), *made, entry("f", type=tarfile.FIFOTYPE, uid=9)), ids=(200_000, 65_536))
    found = {path.name: (path.lstat().st_uid - 200_000, path.lstat().st_gid - 200_000) for path in (root, *root.iterdir())}
    everybody = {"tree": (3, 4), "d": (1, 2), "root": (0, 0), "nobody": (65534, 65534), "far": (65534, 65534), "l": (0, 0), "f": (9, 0)}
    assert found == everybody
