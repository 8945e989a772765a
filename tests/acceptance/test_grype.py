"""Image scans by a real Grype, through a whole server. `make scanners` runs it."""

from __future__ import annotations

import datetime
import hashlib
import logging
import pathlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from tests.acceptance import real_scanner
from tests.acceptance.real_scanner import DEBIAN, Site, refused, runs_clean
from tests.acceptance.server import Server
from tests.clients import packages

pytestmark = real_scanner.MARKS

PACKAGE = "github.com/anchore/grype"
VERSION = "0.121.2"
MISSING = {"github.com/docker/cli@v29.9.2+incompatible": "v29.9.1+incompatible", "github.com/github/go-spdx/v2@v2.8.0": "v2.7.0"}
"""Go's module proxy does not always have them."""


@pytest.fixture(scope="module")
def site(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    source = real_scanner.SOURCES / "grype" / "database.go"
    programs = packages.programs("grype", f"{PACKAGE}/cmd/grype", f"v{VERSION}", source, flags=f"-X main.version={VERSION}", instead=MISSING)
    with real_scanner.site(docker_client, tmp_path_factory.mktemp("registry"), "grype", programs) as made:
        yield made


class Distribution:
    """Where Grype fetches its database: several, each below a path."""

    def __init__(self, web: HTTPServer, site: Site) -> None:
        self._web = web
        self._site = site

    def offer(self, days: float, directory: pathlib.Path) -> dict[str, str]:
        """A database of that age; the variable that leads there."""
        self._site.database(directory)
        built = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
        with sqlite3.connect(directory / "vulnerability.db") as file:
            file.execute("UPDATE db_metadata SET build_timestamp = ?", (built.isoformat(" "),))
        file.close()
        archive = real_scanner.packed(directory)
        latest = {
            "status": "active",
            "schemaVersion": "v6.1.10",
            "built": built.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "path": "database.tar.gz",
            "checksum": f"sha256:{hashlib.sha256(archive).hexdigest()}",
        }
        where = f"/{directory.name}/v6"
        self._web.expect_request(f"{where}/latest.json").respond_with_json(latest)
        self._web.expect_request(f"{where}/database.tar.gz").respond_with_data(archive)
        return {"GRYPE_DB_UPDATE_URL": self._web.url_for(f"/{directory.name}")}


@pytest.fixture(scope="module")
def distribution(site: Site) -> Iterator[Distribution]:
    logging.getLogger("werkzeug").disabled = True
    with HTTPServer(threaded=True) as web:
        yield Distribution(web, site)
    logging.getLogger("werkzeug").disabled = False


@pytest.fixture(scope="module")
def server(site: Site, distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = distribution.offer(0.5, tmp_path_factory.mktemp("database"))
    with site.server(tmp_path_factory.mktemp("enforce") / "server", env=env) as running:
        yield running


def test_what_is_found_is_refused(server: Server, site: Site) -> None:
    site.images.push("old", base=DEBIAN)
    refused(*site.run(server, "old"))


def test_what_is_clean_runs(server: Server, site: Site) -> None:
    runs_clean(site, server, VERSION)


def test_an_image_that_only_the_engine_has(server: Server, site: Site) -> None:
    refused(*site.run(server, DEBIAN))


def test_without_a_database_nothing_runs(site: Site, distribution: Distribution, tmp_path: pathlib.Path) -> None:
    site.images.push("any")
    with site.server(tmp_path / "server", env={"GRYPE_DB_UPDATE_URL": "http://127.0.0.1:1"}) as server:
        state, said = site.run(server, "any")
    assert state == "SYSTEM_ERROR"
    assert "grype ended with exit code 1" in said


@pytest.mark.parametrize(
    ("env", "words"), [({}, "grype ended with exit code 1"), ({"GRYPE_DB_VALIDATE_AGE": "false"}, "the database of grype is 30.0 days old")]
)
def test_an_old_database_is_not_believed(site: Site, distribution: Distribution, tmp_path: pathlib.Path, env: dict[str, str], words: str) -> None:
    """Grype does not, and where it is told to, we do not."""
    site.images.push("any")
    with site.server(tmp_path / "server", env={**distribution.offer(30, tmp_path / "old"), **env}) as server:
        state, said = site.run(server, "any")
    assert state == "SYSTEM_ERROR"
    assert words in said
