"""A registry with images that a stand-in of Trivy finds fault with as their label says, and servers whose tasks run in Docker."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pathlib
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO, Any

import docker.errors
import urllib3

from tests.acceptance.server import Server, served
from tests.integration import registry_server
from tests.scanners.standin import LABEL

SCRIPT = pathlib.Path(__file__).parents[1] / "scanners" / "standin.py"
BASE = "tes-test/python"


class Images:
    """Makes images, and takes them away again. Names are below the registry `host`."""

    def __init__(self, client: Any, host: str) -> None:
        self.host = host
        self._client = client
        self._made: list[str] = []

    def scanner(self, program: pathlib.Path = SCRIPT, name: str = "trivy") -> str:
        """The id of an image with the stand-in, or with a real scanner."""
        with tempfile.TemporaryFile() as data:
            with tarfile.open(fileobj=data, mode="w") as archive, program.open("rb") as content:
                info = archive.gettarinfo(arcname=name, fileobj=content)
                info.mode, info.uid, info.gid = 0o755, 0, 0
                archive.addfile(info, content)
            data.seek(0)
            return self._commit(BASE, "scanner", data, "/usr/local/bin")

    def pushed_scanner(self, program: pathlib.Path = SCRIPT, name: str = "trivy") -> str:
        """The same in the registry, for who has no Docker engine: its name by digest. Layers as they are: packing so many bytes takes half a minute."""
        made = self.scanner(program, name)
        with tempfile.TemporaryFile() as file, urllib3.PoolManager() as registry:
            file.writelines(self._client.get_image(made))
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                [found] = json.loads(_content(archive, "manifest.json").read())
                config = _content(archive, found["Config"]).read()
                layers = [
                    self._blob(registry, "scanner", "application/vnd.oci.image.layer.v1.tar", digest, archive.getmember(name).size, _content(archive, name))
                    for name, digest in zip(found["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True)
                ]
            whole = self._blob(registry, "scanner", "application/vnd.oci.image.config.v1+json", made, len(config), io.BytesIO(config))
            return self._manifest(registry, "scanner", "1", whole, layers)

    def artifact(self, name: str, tag: str, config: str, layer: str, content: bytes, title: str) -> str:
        """What is no image, as one layer: its name by digest. `config` and `layer` are media types."""
        with urllib3.PoolManager() as registry:
            blobs = [
                self._blob(registry, name, kind, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), io.BytesIO(data))
                for kind, data in ((config, b"{}"), (layer, content))
            ]
            return self._manifest(registry, name, tag, blobs[0], [blobs[1] | {"annotations": {"org.opencontainers.image.title": title}}])

    def _manifest(self, registry: urllib3.PoolManager, name: str, tag: str, config: dict[str, Any], layers: list[dict[str, Any]]) -> str:
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers})
        answer = registry.request("PUT", f"http://{self.host}/v2/{name}/manifests/{tag}", body=manifest, headers={"Content-Type": kind})
        assert answer.status == 201, answer.data
        return f"{self.host}/{name}@{answer.headers['Docker-Content-Digest']}"

    def _blob(self, registry: urllib3.PoolManager, name: str, kind: str, digest: str, size: int, content: IO[bytes]) -> dict[str, Any]:
        begun = registry.request("POST", f"http://{self.host}/v2/{name}/blobs/uploads/")
        where = f"{begun.headers['Location']}&digest={digest}"
        answer = registry.request("PUT", where, body=content, headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"})
        assert answer.status == 201, answer.data
        return {"mediaType": kind, "digest": digest, "size": size}

    def push(self, name: str, says: str = "", tag: str = "1", content: str = "", base: str = "tes-test/busybox", **files: str) -> str:
        """An image that runs, in which the stand-in finds what `says` says; its digest. `content` is in its file /is, `files` beside it."""
        with io.BytesIO() as data:
            with tarfile.open(fileobj=data, mode="w") as archive:
                for path, text in {"is": content or uuid.uuid4().hex, **files}.items():
                    info = tarfile.TarInfo(path)
                    info.size, info.mode = len(text.encode()), 0o644
                    archive.addfile(info, io.BytesIO(text.encode()))
            self._commit(base, name, data.getvalue(), "/", tag, [f'LABEL {LABEL}="{says}"'] if says else [])
        told = [json.loads(line) for line in self._client.push(f"{self.host}/{name}", tag).splitlines()]
        assert not [line for line in told if "error" in line], told
        return str(next(line["aux"]["Digest"] for line in told if "aux" in line))

    def _commit(self, base: str, name: str, archive: bytes | IO[bytes], where: str, tag: str = "1", changes: list[str] | None = None) -> str:
        container = self._client.create_container(base, ["/bin/true"])["Id"]
        try:
            assert self._client.put_archive(container, where, archive)
            made = self._client.commit(container, repository=f"{self.host}/{name}", tag=tag, changes=changes)["Id"]
        finally:
            self._client.remove_container(container)
        self._made.append(made)
        return str(made)

    def remove(self) -> None:
        for image in reversed(self._made):
            with contextlib.suppress(docker.errors.NotFound):
                self._client.remove_image(image, force=True)


@contextlib.contextmanager
def images(client: Any, directory: pathlib.Path) -> Iterator[Images]:
    """A registry, and who fills it."""
    with registry_server.running(directory) as host:
        made = Images(client, host)
        try:
            yield made
        finally:
            made.remove()


@contextlib.contextmanager
def server(directory: pathlib.Path, registry: str, scanner: str, mode: str, /, local: str = "", **settings: Any) -> Iterator[Server]:
    """`serve`, with tasks in Docker and scans as `mode` says. `settings`: further ones of `[scan]`, `local`: of `[local]`."""
    directory.mkdir()
    write(directory / "settings.toml", scans(registry, f"http://{registry}", scanner, mode, **settings), local)
    with served(directory / "data", "--config", str(directory / "settings.toml")) as running:
        yield running


def write(path: pathlib.Path, table: str, local: str = "") -> None:
    """Settings of a server with tasks in Docker. `local`: further ones of `[local]`."""
    path.write_text(f'[local]\nengine = "docker"\n{local}\n[docker]\nnetwork = "host"\n{table}')


def scans(registry: str, url: str, scanner: str, mode: str, /, **settings: Any) -> str:
    """The table of scans with the stand-in of Trivy. `url`: where server and scanner reach the registry. `settings`: further keys, or others' values."""
    scan = {
        "mode": mode,
        "image": scanner,
        "timeout": 15,
        "cpus": 0.2,
        "ram_gb": 0.2,
        "disk_gb": 0,
        "env": {"STANDIN_SECONDS": "2"},
        "registries": {registry: url},
        **settings,
    }
    return "\n".join(["[scan]", *(f"{key} = {_toml(value)}" for key, value in scan.items()), ""])


def _content(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    content = archive.extractfile(name)
    assert content is not None, name
    return content


def _toml(value: Any) -> str:
    return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(one)}" for key, one in value.items()) + "}" if isinstance(value, dict) else json.dumps(value)


def events(running: Server, name: str) -> list[dict[str, Any]]:
    """The events of this name in the server's log."""
    return [json.loads(line) for line in running.log.read_text().splitlines() if f'"{name}"' in line]
