"""Image scans by a real Trivy, through a whole server. `make scanners` runs it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import cluster_site, real_scanner, scan_site
from tests.acceptance.real_scanner import DEBIAN, Site, refused, runs_clean
from tests.acceptance.server import BIN, PATIENCE, Server, served
from tests.clients import packages
from tests.cluster import Cluster
from tests.relay import Relay

pytestmark = real_scanner.MARKS

PACKAGE = "github.com/aquasecurity/trivy"
VERSION = "0.72.0"
KINDS = ("application/vnd.aquasec.trivy.config.v1+json", "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip")
KEY = "MIIEpAIBAAKCAQEA" + "cafe" * 60
SECRET = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----\n"


@pytest.fixture(scope="module")
def site(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    flags = f"-X {PACKAGE}/pkg/version/app.ver={VERSION}"
    programs = packages.programs("trivy", f"{PACKAGE}/cmd/trivy", f"v{VERSION}", real_scanner.SOURCES / "trivy" / "database.go", flags=flags)
    with real_scanner.site(docker_client, tmp_path_factory.mktemp("registry"), "trivy", programs) as made:
        yield made


def database(site: Site, name: str, hours: float, directory: pathlib.Path) -> dict[str, str]:
    """Puts a database of that age into the registry, as Trivy fetches it; the variable that leads there."""
    site.images.artifact(name, "2", *KINDS, site.database(directory / name, "debian 12", str(hours)), "db.tar.gz")
    return {"TRIVY_DB_REPOSITORY": f"{site.images.host}/{name}:2"}


@pytest.fixture(scope="module")
def fresh(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return database(site, "trivy-db", 3, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def server(site: Site, fresh: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each scan fetches the database."""
    with site.server(tmp_path_factory.mktemp("enforce") / "server", env=fresh) as running:
        yield running


def test_what_is_found_is_refused(server: Server, site: Site) -> None:
    digest = site.images.push("old", base=DEBIAN)
    refused(*site.run(server, "old"))
    words: list[str | pathlib.Path] = [BIN / "tes-server", "scan", "show", digest, "--json", "--config", server.data.parent / "settings.toml"]
    told = json.loads(subprocess.run([*words, "--data", server.data], capture_output=True, text=True, check=True).stdout)
    assert (told["outcome"], told["scanner"], told["scanner_version"]) == ("FAIL", "trivy", VERSION)


def test_what_is_clean_runs(server: Server, site: Site) -> None:
    runs_clean(site, server, VERSION)


def test_an_image_that_only_the_engine_has(server: Server, site: Site) -> None:
    refused(*site.run(server, DEBIAN))


def test_a_system_that_nobody_cares_for(server: Server, site: Site) -> None:
    site.images.push("dead", base=DEBIAN, **{"etc/debian_version": "9.13\n"})
    state, said = site.run(server, "dead")
    assert state == "SYSTEM_ERROR", said
    assert "debian 9.13" in said
    assert "end of life" in said


def test_in_the_task_itself_and_with_secrets(site: Site, fresh: dict[str, str], tmp_path: pathlib.Path) -> None:
    site.images.push("plain")
    site.images.push("key", **{"root/id_rsa": SECRET})
    with site.server(tmp_path / "server", env=fresh, place="task", arguments=["--scanners", "vuln,secret"]) as server:
        clean = site.run(server, "plain")
        state, said = site.run(server, "key")
        assert KEY not in server.log.read_text() + said
    assert clean[0] == "COMPLETE", clean
    assert state == "SYSTEM_ERROR", said
    assert "secret:private-key" in said


def test_in_the_sandbox(site: Site, fresh: dict[str, str], tmp_path: pathlib.Path) -> None:
    """Which fetches Trivy's image itself, and is root in it for no more than its files."""
    table = scan_site.scans(site.images.host, f"http://{site.images.host}", pushed(site), "enforce", env=fresh, **real_scanner.ROOM)
    (tmp_path / "site.toml").write_text(f'[local]\nengine = "sandbox"\n{table}')
    with served(tmp_path / "data", "--config", str(tmp_path / "site.toml")) as server:
        tried(server, site, "sandbox")


@pytest.mark.cluster
def test_in_pods(site: Site, fresh: dict[str, str], cluster: Cluster, namespace: str, tmp_path: pathlib.Path) -> None:
    """Before the task, and once more in its init container."""
    host = site.images.host
    with contextlib.closing(Relay(cluster.address, ("127.0.0.1", int(host.rpartition(":")[2])))) as relay:
        away = f"{cluster.address}:{relay.port}"
        env = {name: text.replace(host, away) for name, text in fresh.items()}
        table = scan_site.scans(host, f"http://{away}", pushed(site), "enforce", env=env, place="task", **real_scanner.ROOM)
        with served(tmp_path / "data", *cluster_site.settings(cluster, namespace, tmp_path / "site.toml", more=table)) as server:
            tried(server, site, "pods")
        cluster.until(lambda: not cluster_site.running(cluster, namespace), "no pod is left")


def pushed(site: Site) -> str:
    return site.images.pushed_scanner(site.programs / "trivy")


def tried(server: Server, site: Site, name: str) -> None:
    """One image that passes and one that does not, of that name."""
    runs_clean(site, server, VERSION, name)
    site.images.push(f"{name}-old", base=DEBIAN)
    refused(*site.run(server, f"{name}-old"))


def test_without_a_database_nothing_runs(site: Site, tmp_path: pathlib.Path) -> None:
    site.images.push("any")
    with site.server(tmp_path / "server", env={"TRIVY_DB_REPOSITORY": f"{site.images.host}/nowhere:2"}) as server:
        state, said = site.run(server, "any")
    assert state == "SYSTEM_ERROR"
    assert "trivy ended with exit code 1" in said
    assert "MANIFEST_UNKNOWN" in said


def test_an_old_database_is_not_believed(site: Site, tmp_path: pathlib.Path) -> None:
    site.images.push("any")
    with site.server(tmp_path / "server", env=database(site, "old-db", 24 * 30, tmp_path)) as server:
        state, said = site.run(server, "any")
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
            refused(*site.run(server, "served"))
            clean = site.run(server, "any")
            assert "canary" not in server.log.read_text()
        with site.server(tmp_path / "no", server=url) as server:
            state, said = site.run(server, "any")
    assert clean[0] == "COMPLETE", clean
    assert "database of" in clean[1]
    assert state == "SYSTEM_ERROR"
    assert "invalid token" in said


@contextlib.contextmanager
def trivy_server(site: Site, env: dict[str, str], directory: pathlib.Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words: list[str | pathlib.Path] = [site.programs / "trivy", "server", "--listen", f"127.0.0.1:{port}", "--token", "canary"]
    words += ["--cache-dir", directory / "cache"]
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
