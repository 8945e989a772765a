"""Real images from a real registry, against what Docker makes of them."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import stat
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from typing import IO, Any, cast

import pytest

from tes_server import errors
from tes_server.runner import image_cache, userns
from tes_server.runner.images import Images, Options
from tes_server.telemetry import Code
from tests.integration import registry_server, token_server

pytestmark = [pytest.mark.registry, pytest.mark.docker]

IDS = userns.IDS
HOME = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry_server.running(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def where(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    yield tmp_path / "images"
    image_cache.wipe(tmp_path / "images")


def push(client: Any, image: str, registry: str, **auth: Any) -> str:
    """As `docker push` does; the name there."""
    name = f"{registry}/{image}:{uuid.uuid4().hex}"
    client.tag(image, name)
    try:
        for event in client.push(name, stream=True, decode=True, **auth):
            assert "error" not in event, event
    finally:
        client.remove_image(name, noprune=True)
    return name


def exported(client: Any, image: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The entries of `docker export`."""
    container = client.create_container(image, command=["x"])["Id"]
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", Stream(client.export(container))), mode="r|") as archive:
            for entry in archive:
                yield archive, entry
    finally:
        client.remove_container(container)


class Stream:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = iter(pieces)

    def read(self, _: int) -> bytes:
        return next(self._pieces, b"")


# What Docker puts over an image for a container: empty files and directories, seen in its export.
DOCKERS_OWN = {".dockerenv", "dev", "dev/console", "dev/pts", "dev/shm", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", "proc", "sys"}
DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)


@pytest.mark.parametrize("image", ["tes-test/busybox", "tes-test/static", "tes-test/debian"])
def test_a_tree_is_what_docker_makes_of_it(docker_client: Any, registry: str, where: pathlib.Path, image: str) -> None:
    ids = userns.ids()
    images, name = Images(where, Options(limit=10**10), ids=ids), push(docker_client, image, registry)
    compare(docker_client, image, images.prepare(name).root, ids)
    images.remove(name)
    assert [path.name for path in where.iterdir()] == ["names"], "directories that their owner may not write to are deleted too"


def compare(docker_client: Any, image: str, root: pathlib.Path, ids: tuple[int, int] | None) -> None:
    left = {str(path.relative_to(root)) for path in root.rglob("*")}
    compared = 0
    for archive, entry in exported(docker_client, image):
        name = entry.name.strip("/")
        if name in DOCKERS_OWN or entry.type in DEVICES or (name == "etc" and not (root / "etc").exists()):
            left.discard(name)
            continue
        path = root / name
        status = path.lstat()
        left.discard(name)
        compared += 1
        mode = stat.S_IMODE(status.st_mode)
        if ids is not None:
            assert (status.st_uid - IDS[0], status.st_gid - IDS[0]) == (entry.uid, entry.gid), name
        if entry.issym():
            assert str(path.readlink()) == os.path.normpath(entry.linkname) or os.readlink(path) == entry.linkname, name  # noqa: PTH115 - pathlib normalises
            continue
        assert mode == entry.mode & 0o1777, name
        assert int(status.st_mtime) == int(entry.mtime) or name == "etc", name  # Docker has put its own files there
        if entry.isdir():
            assert path.is_dir(), name
        elif entry.islnk():
            assert status.st_ino == (root / entry.linkname).lstat().st_ino, name
        elif entry.isfile():
            content = archive.extractfile(entry)
            assert content is not None
            assert path.read_bytes() == content.read(), name
        else:
            raise AssertionError(name)
    assert left <= DOCKERS_OWN
    assert compared > {"tes-test/busybox": 200, "tes-test/static": 0, "tes-test/debian": 5000}[image]


def test_layers_of_a_built_image_are_put_together(docker_client: Any, registry: str, where: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Whiteouts and opaque directories as Docker's own builder writes them."""
    (tmp_path / "Dockerfile").write_text(
        "FROM tes-test/busybox\n"
        "RUN mkdir -p /a/b /c && echo 1 >/a/b/f && echo 1 >/c/f && ln /c/f /c/g && ln -s c /d\n"
        "RUN rm -r /a && mkdir /a && echo 2 >/a/new && rm /c/f && echo 3 >/d/h\n"
        "ENV A=b PATH=/bin:/c\nWORKDIR /c\nUSER 7:8\n"
    )
    name = f"tes-test-images-{uuid.uuid4().hex}"
    for event in docker_client.build(path=str(tmp_path), tag=name, rm=True, forcerm=True, decode=True, network_mode="none"):
        assert "error" not in event, event
    try:
        image = Images(where, Options(limit=10**10), ids=None).prepare(push(docker_client, name, registry))
    finally:
        docker_client.remove_image(name)
    assert {str(path.relative_to(image.root)) for top in "ac" for path in (image.root / top).rglob("*")} == {"a/new", "c/g", "c/h"}
    assert (image.root / "d").is_symlink()
    assert (image.env, image.workdir, image.user) == ({"A": "b", "PATH": "/bin:/c"}, "/c", "7:8")


def test_docker_save_is_loaded(docker_client: Any, where: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "saved.tar"
    with file.open("wb") as out:
        subprocess.run(["docker", "save", "tes-test/busybox", "tes-test/static"], stdout=out, check=True)
    images = Images(where, Options(limit=10**10), ids=None)
    with file.open("rb") as archive:
        found = {name.partition(":")[0]: image for name, image in images.load(archive)}
    assert set(found) == {"docker.io/tes-test/busybox", "docker.io/tes-test/static"}
    assert (found["docker.io/tes-test/busybox"].root / "bin/sh").is_symlink()
    if int(docker_client.version()["Version"].partition(".")[0]) < 25:
        assert found["docker.io/tes-test/static"].digest == docker_client.inspect_image("tes-test/static")["Id"]


LOGIN = {"username": registry_server.USER, "password": registry_server.PASSWORD}


def signed_in(directory: pathlib.Path, host: str, password: str) -> pathlib.Path:
    """Docker's config.json, as `docker login` leaves it."""
    file = directory / f"config-{password}.json"
    auth = base64.b64encode(f"{registry_server.USER}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return file


def refused(where: pathlib.Path, name: str, config: pathlib.Path | None) -> str:
    with pytest.raises(errors.EngineError) as caught:
        Images(where, Options(docker_config=config), ids=None).prepare(name)
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_DENIED, False)
    return caught.value.public


def test_a_registry_with_passwords(docker_client: Any, where: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with registry_server.running(tmp_path, htpasswd=registry_server.HTPASSWD) as host:
        name = push(docker_client, "tes-test/static", host, auth_config=LOGIN)
        assert "wants a user" in refused(where, name, None)
        assert "denies it" in refused(where, name, signed_in(tmp_path, host, "wrong"))
        images = Images(where, Options(docker_config=signed_in(tmp_path, host, registry_server.PASSWORD)), ids=None)
        assert (images.prepare(name).root / "echo").is_file()


def test_a_registry_with_tokens(docker_client: Any, where: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with (
        token_server.running(tmp_path, registry_server.USER, registry_server.PASSWORD) as tokens,
        registry_server.running(tmp_path, tokens=tokens) as host,
    ):
        name = push(docker_client, "tes-test/static", host, auth_config=LOGIN)
        assert "refuses a reader without a login" in refused(where, name, None)
        assert "refuses the login" in refused(where, name, signed_in(tmp_path, host, "wrong"))
        tokens.scopes.clear()
        images = Images(where, Options(docker_config=signed_in(tmp_path, host, registry_server.PASSWORD)), ids=None)
        assert (images.prepare(name).root / "echo").is_file()
        assert tokens.scopes == ["repository:tes-test/static:pull"], "one token, for what is pulled, and no more than that"


def test_what_a_registry_does_not_have(registry: str, where: pathlib.Path) -> None:
    images = Images(where, Options(), ids=None)
    for name in (f"{registry}/none", f"{registry}/none@sha256:{'0' * 64}"):
        with pytest.raises(errors.EngineError) as caught:
            images.prepare(name)
        assert (caught.value.code, caught.value.transient) == (Code.IMAGE_NOT_FOUND, False)
