"""A real scanner, made from its Go module, whose database knows a few findings: its image, a registry, and servers whose tasks and scans run in Docker."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.acceptance import scan_site
from tests.acceptance.scan_site import Images
from tests.acceptance.server import Server

MARKS = [
    pytest.mark.scanner,
    pytest.mark.docker,
    pytest.mark.registry,
    pytest.mark.skipif(not os.environ.get("REAL_SCANNERS"), reason="makes scanners for a quarter of an hour: `make scanners`"),
]

SOURCES = pathlib.Path(__file__).parents[1] / "scanners"
DEBIAN = "tes-test/debian"
SMALL = {"cpu_cores": 0.1, "ram_gb": 0.05}
ROOM = {"timeout": 120, "cpus": 0.5, "ram_gb": 1}

FINDINGS = [
    {"ID": "CVE-2199-0001", "Severity": "CRITICAL", "Package": "bash", "Title": "a shell that obeys strangers"},
    {"ID": "CVE-2199-0002", "Severity": "HIGH", "Package": "apt", "Fixed": "99:1.0", "Title": "packages of anybody"},
    {"ID": "CVE-2199-0003", "Severity": "LOW", "Package": "grep", "Title": "finds nothing"},
    {"ID": "CVE-2199-0004", "Severity": "CRITICAL", "Package": "tar", "Fixed": "0.1", "Title": "was mended long ago"},
]
"""What the database knows of Debian 12, by source package: two binary ones of `apt` are in the image."""


class Site(NamedTuple):
    """`programs` has the scanner, and `database`, which writes what it reads."""

    programs: pathlib.Path
    images: Images
    scanner: str
    name: str

    def database(self, directory: pathlib.Path, *arguments: str) -> bytes:
        """What the program makes of FINDINGS, packed."""
        subprocess.run([self.programs / "database", directory, *arguments], input=json.dumps(FINDINGS), text=True, check=True)
        return packed(directory)

    @contextlib.contextmanager
    def server(self, directory: pathlib.Path, **settings: Any) -> Iterator[Server]:
        """In mode ENFORCE."""
        with scan_site.server(directory, self.images.host, self.scanner, "enforce", **{**ROOM, "scanner": self.name, **settings}) as running:
            yield running

    def run(self, server: Server, image: str) -> tuple[str, str]:
        """How a task ended, and what its log says. An image without a registry is asked for as it is."""
        named = image if "/" in image else f"{self.images.host}/{image}:1"
        done = server.until(server.create({"image": named, "command": ["cat", "/is"]}, resources=SMALL))
        return done["state"], "\n".join(done["logs"][0]["system_logs"])


@contextlib.contextmanager
def site(client: Any, directory: pathlib.Path, name: str, programs: pathlib.Path) -> Iterator[Site]:
    """A registry, and the image of the scanner."""
    with scan_site.images(client, directory) as images:
        yield Site(programs, images, images.scanner(programs / name, name), name)


def packed(directory: pathlib.Path) -> bytes:
    """All files of a directory as tar.gz."""
    with io.BytesIO() as data:
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for file in directory.iterdir():
                archive.add(file, file.name)
        return data.getvalue()


def runs_clean(site: Site, server: Server, version: str, name: str = "small") -> None:
    """An image in which there is nothing to find; the task's log has its digest, and who says so."""
    digest = site.images.push(name)
    state, said = site.run(server, name)
    assert state == "COMPLETE", said
    assert f"{digest}, passed the scan of" in said
    assert f"({site.name} {version}, database of" in said


def refused(state: str, said: str) -> None:
    """As an image of Debian is, whatever the way in which the scanner came to see it."""
    assert state == "SYSTEM_ERROR", said
    assert "1 CRITICAL finding (0 with a fix)" in said
    assert "2 HIGH findings (2 with a fix)" in said
    assert "CVE-2199-0001 (bash 5.2" in said
    assert "CVE-2199-0002 (libapt-pkg6.0 2.6.1, fixed in 99:1.0)" in said
    assert "CVE-2199-0004" not in said
