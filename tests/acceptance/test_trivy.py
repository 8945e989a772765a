"""Image scans by a real Trivy, made from its Go module, with a database of a few findings: a whole server, a real registry, tasks and scans in Docker.

`make trivy` runs it: to make a Trivy takes ten minutes of two processors, once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.acceptance import scan_site
from tests.acceptance.scan_site import Images
from tests.acceptance.server import BIN, PATIENCE, Server
from tests.clients import packages

pytestmark = [
    pytest.mark.scanner,
    pytest.mark.docker,
    pytest.mark.registry,
    pytest.mark.skipif(not os.environ.get("REAL_TRIVY"), reason="makes a Trivy for ten minutes: `make trivy`"),
]

PACKAGE = "github.com/aquasecurity/trivy"
VERSION = "0.72.0"
DATABASE = pathlib.Path(__file__).parents[1] / "scanners" / "trivy" / "database.go"
SMALL = {"cpu_cores": 0.1, "ram_gb": 0.05}
ROOM = {"timeout": 120, "cpus": 0.5, "ram_gb": 1}
DEBIAN = "tes-test/debian"

FINDINGS = [
    {"ID": "CVE-2199-0001", "Severity": "CRITICAL", "Package": "bash", "Title": "a shell that obeys strangers"},
    {"ID": "CVE-2199-0002", "Severity": "HIGH", "Package": "apt", "Fixed": "99:1.0", "Title": "packages of anybody"},
    {"ID": "CVE-2199-0003", "Severity": "LOW", "Package": "grep", "Title": "finds nothing"},
    {"ID": "CVE-2199-0004", "Severity": "CRITICAL", "Package": "tar", "Fixed": "0.1", "Title": "was mended long ago"},
]
"""What the database knows of Debian 12, by source package: two binary ones of `apt` are in the image."""

KEY = "MIIEpAIBAAKCAQEA" + "cafe" * 60
SECRET = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----\n"


class Site(NamedTuple):
    """Trivy, its image, and a registry with its database."""

    programs: pathlib.Path
    images: Images
    scanner: str

    def database(self, name: str, hours: float, directory: pathlib.Path) -> dict[str, str]:
        """Puts a database of that age into the registry, as Trivy fetches it; the variable that leads there."""
        made = directory / name
        subprocess.run([self.programs / "database", made, "debian 12", str(hours)], input=json.dumps(FINDINGS), text=True, check=True)
        with io.BytesIO() as data:
            with tarfile.open(fileobj=data, mode="w:gz") as archive:
                for file in made.iterdir():
                    archive.add(file, file.name)
            kinds = ("application/vnd.aquasec.trivy.config.v1+json", "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip")
            self.images.artifact(name, "2", *kinds, data.getvalue(), "db.tar.gz")
        return {"TRIVY_DB_REPOSITORY": f"{self.images.host}/{name}:2"}

    @contextlib.contextmanager
    def server(self, directory: pathlib.Path, **settings: Any) -> Iterator[Server]:
        with scan_site.server(directory, self.images.host, self.scanner, "enforce", **{**ROOM, **settings}) as running:
            yield running

    def run(self, server: Server, name: str) -> tuple[str, str]:
        """How a task with this image ended, and what its log says."""
        done = server.until(server.create({"image": name, "command": ["cat", "/is"]}, resources=SMALL))
        return done["state"], "\n".join(done["logs"][0]["system_logs"])


@pytest.fixture(scope="module")
def site(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    programs = packages.programs("trivy", f"{PACKAGE}/cmd/trivy", f"v{VERSION}", DATABASE, flags=f"-X {PACKAGE}/pkg/version/app.ver={VERSION}")
    with scan_site.images(docker_client, tmp_path_factory.mktemp("registry")) as images:
        yield Site(programs, images, images.scanner(programs / "trivy"))


@pytest.fixture(scope="module")
def fresh(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return site.database("trivy-db", 3, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def server(site: Site, fresh: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each scan fetches the database."""
    with site.server(tmp_path_factory.mktemp("enforce") / "server", env=fresh) as running:
        yield running


def refused(state: str, said: str) -> None:
    """As an image of Debian is, whatever the way in which Trivy came to see it."""
    assert state == "SYSTEM_ERROR", said
    assert "1 CRITICAL finding (0 with a fix)" in said
    assert "2 HIGH findings (2 with a fix)" in said
    assert "CVE-2199-0001 (bash 5.2" in said
    assert "CVE-2199-0002 (libapt-pkg6.0 2.6.1, fixed in 99:1.0)" in said
    assert "CVE-2199-0004" not in said


def test_what_is_found_is_refused(server: Server, site: Site) -> None:
    digest = site.images.push("old", base=DEBIAN)
    refused(*site.run(server, f"{site.images.host}/old:1"))
    words: list[str | pathlib.Path] = [
        BIN / "tes-server",
        "scan",
        "show",
        digest,
        "--json",
        "--config",
        server.data.parent / "settings.toml",
        "--data",
        server.data,
    ]
    told = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert (told["outcome"], told["scanner"], told["scanner_version"]) == ("FAIL", "trivy", VERSION)


def test_what_is_clean_runs(server: Server, site: Site) -> None:
    digest = site.images.push("small")
    state, said = site.run(server, f"{site.images.host}/small:1")
    assert state == "COMPLETE", said
    assert f"{digest}, passed the scan of" in said
    assert f"(trivy {VERSION}, database of" in said


def test_an_image_that_only_the_engine_has(server: Server, site: Site) -> None:
    refused(*site.run(server, DEBIAN))


def test_a_system_that_nobody_cares_for(server: Server, site: Site) -> None:
    site.images.push("dead", base=DEBIAN, **{"etc/debian_version": "9.13\n"})
    state, said = site.run(server, f"{site.images.host}/dead:1")
    assert state == "SYSTEM_ERROR", said
    assert "debian 9.13" in said
    assert "end of life" in said


def test_in_the_task_itself_and_with_secrets(site: Site, fresh: dict[str, str], tmp_path: pathlib.Path) -> None:
    site.images.push("plain")
    site.images.push("key", **{"root/id_rsa": SECRET})
    with site.server(tmp_path / "server", env=fresh, place="task", arguments=["--scanners", "vuln,secret"]) as server:
        clean = site.run(server, f"{site.images.host}/plain:1")
        state, said = site.run(server, f"{site.images.host}/key:1")
        assert KEY not in server.log.read_text() + said
    assert clean[0] == "COMPLETE", clean
    assert state == "SYSTEM_ERROR", said
    assert "secret:private-key" in said


def test_without_a_database_nothing_runs(site: Site, tmp_path: pathlib.Path) -> None:
    site.images.push("any")
    with site.server(tmp_path / "server", env={"TRIVY_DB_REPOSITORY": f"{site.images.host}/nowhere:2"}) as server:
        state, said = site.run(server, f"{site.images.host}/any:1")
    assert state == "SYSTEM_ERROR"
    assert "trivy ended with exit code 1" in said
    assert "MANIFEST_UNKNOWN" in said


def test_an_old_database_is_not_believed(site: Site, tmp_path: pathlib.Path) -> None:
    site.images.push("any")
    with site.server(tmp_path / "server", env=site.database("old-db", 24 * 30, tmp_path)) as server:
        state, said = site.run(server, f"{site.images.host}/any:1")
    assert state == "SYSTEM_ERROR"
    assert "the database of trivy is 30.0 days old" in said


def test_a_trivy_server(site: Site, fresh: dict[str, str], tmp_path: pathlib.Path) -> None:
    """It has the database, tells its age, and wants a token."""
    site.images.push("served", base=DEBIAN)
    site.images.push("any")
    (tmp_path / "token").write_text("canary")
    with trivy_server(site, fresh, tmp_path) as url:
        secrets = f'scan_secrets = {{ token = "{tmp_path}/token" }}'
        with site.server(tmp_path / "yes", local=secrets, server=url, env={"TRIVY_TOKEN": "secret://token"}) as server:
            refused(*site.run(server, f"{site.images.host}/served:1"))
            clean = site.run(server, f"{site.images.host}/any:1")
            assert "canary" not in server.log.read_text()
        with site.server(tmp_path / "no", server=url) as server:
            state, said = site.run(server, f"{site.images.host}/any:1")
    assert clean[0] == "COMPLETE", clean
    assert "database of" in clean[1]
    assert state == "SYSTEM_ERROR"
    assert "invalid token" in said


@contextlib.contextmanager
def trivy_server(site: Site, env: dict[str, str], directory: pathlib.Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words: list[str | pathlib.Path] = [
        site.programs / "trivy",
        "server",
        "--listen",
        f"127.0.0.1:{port}",
        "--token",
        "canary",
        "--cache-dir",
        directory / "cache",
    ]
    environment = {**env, "TRIVY_INSECURE": "true", "TMPDIR": str(directory)}
    with (directory / "trivy.log").open("wb") as log, subprocess.Popen(words, env=environment, stdout=log, stderr=log) as trivy:
        try:
            deadline = time.monotonic() + PATIENCE
            while not listens(port):
                assert trivy.poll() is None, (directory / "trivy.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            trivy.terminate()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
