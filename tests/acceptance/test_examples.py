"""Every folder of examples/ is run as its README says, on the sandbox and on Docker."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from tests.acceptance.server import BIN, served
from tests.integration.conftest import unreachable

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
TOOLS = ("bwa", "samtools", "bcftools")


class Site(msgspec.Struct, frozen=True):
    """A running server: its engine, where it is, and a directory whose files its tasks may use."""

    engine: str
    url: str
    files: pathlib.Path

    def run(self, image: str, program: str, *arguments: str | pathlib.Path) -> str:
        """Run a script of examples/ that must end well; its output."""
        done = subprocess.run(
            [EXAMPLES / program, *arguments],
            check=False,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TES_URL": self.url, "TES_IMAGE": image},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("examples")
    files = home / "files"
    files.mkdir()
    if request.param == "docker":
        needs_image("tes-test/busybox")
    else:
        request.getfixturevalue("sandbox_works")
    allow = ["--allow-host"] if request.param == "sandbox" else []
    with served(home / "data", "--engine", request.param, "--root", str(files), *allow) as server:
        yield Site(request.param, server.url, files)


def needs_image(image: str) -> None:
    found = shutil.which("docker")
    if found is None or subprocess.run([found, "image", "inspect", image], check=False, capture_output=True).returncode != 0:
        unreachable("Docker", f"no image {image}")


def test_every_example_has_a_test() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == {"hello", "curl", "scatter", "alignment"}


def test_hello(site: Site) -> None:
    assert site.run("host" if site.engine == "sandbox" else "tes-test/busybox", "hello/run") == "Hello from a task!\n"


def test_curl(site: Site) -> None:
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            unreachable(tool, "it is not installed")
    image = "host" if site.engine == "sandbox" else "tes-test/busybox"
    assert site.run(image, "curl/run") == "COMPLETE\nexit code 0: Hello from curl\n\nCANCELED\n"


def test_scatter(site: Site) -> None:
    directory = site.files / "scatter"
    directory.mkdir()
    assert site.run("host" if site.engine == "sandbox" else "tes-test/busybox", "scatter/run", directory) == "3 files, 9 words\n"
    assert (directory / "counts" / "with space.txt").read_text().strip() == "3"


def test_alignment_equals_the_same_tools_by_hand(site: Site) -> None:
    directory = site.files / "alignment"
    directory.mkdir()
    by_hand: tuple[str | pathlib.Path, ...] = ()
    if site.engine == "docker":
        needs_image("tes-test/genomics")
        by_hand = ("docker", "run", "--rm", "-v", f"{directory}:{directory}", "tes-test/genomics")
    elif not all(shutil.which(tool) for tool in TOOLS):
        unreachable("this machine's genomics tools", f"{', '.join(TOOLS)} are not all installed")
    data = subprocess.run([EXAMPLES / "alignment" / "get-data", directory], check=False, capture_output=True, text=True)
    if data.returncode != 0:
        unreachable("Debian's package bowtie2-examples", data.stderr)
    said = site.run("host" if site.engine == "sandbox" else "tes-test/genomics", "alignment/run", directory)
    assert "variants" in said
    same = site.run("", "alignment/by-hand", directory, *by_hand)
    assert same.startswith("the same ")
    assert int(same.split()[2]) > 50
