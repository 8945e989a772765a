"""What the image is made of is pinned, by hash, and is what pyproject.toml asks for."""

from __future__ import annotations

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HOME = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())
EXTRAS = ("aws", "azure", "kubernetes", "mongo")
LOCKS = ("image", "build")


def lock(name: str) -> str:
    return (HOME / "requirements" / f"{name}.lock").read_text()


def pinned(name: str) -> dict[str, tuple[Version, int]]:
    """Version and number of hashes of each package of a lock file."""
    found: dict[str, tuple[Version, int]] = {}
    for entry in re.split(r"\n(?=\S)", lock(name).strip()):
        match = re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry)
        assert match, entry[:80]
        found[canonicalize_name(match[1])] = Version(match[2]), len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
    return found


def wanted() -> dict[str, list[str]]:
    parts = PROJECT["project"]
    image = [*parts["dependencies"], *(line for extra in EXTRAS for line in parts["optional-dependencies"][extra])]
    build = [line for line in (HOME / "requirements" / "build.in").read_text().splitlines() if line and not line.startswith("#")]
    return {"image": image, "build": build}


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_has_a_version_and_hashes(name: str) -> None:
    assert len(pinned(name)) > 5
    assert [package for package, (_, hashes) in pinned(name).items() if not hashes] == []


@pytest.mark.parametrize("name", LOCKS)
def test_it_is_what_is_asked_for(name: str) -> None:
    """Else: make lock."""
    there = pinned(name)
    for line in wanted()[name]:
        asked = Requirement(line)
        version = there.get(canonicalize_name(asked.name))
        assert version is not None, f"{asked.name} is not pinned: make lock"
        assert asked.specifier.contains(version[0]), f"{asked.name} {version[0]} is not {asked.specifier}: make lock"


@pytest.mark.parametrize("name", LOCKS)
def test_it_names_no_place(name: str) -> None:
    """Neither a package index nor a directory: another house has others."""
    assert not re.search(r"://|^-|^\s*/|@ |index|find-links", lock(name).replace("--hash=", ""), re.MULTILINE)


def test_the_build_system_is_pinned() -> None:
    assert PROJECT["build-system"]["requires"] == wanted()["build"][:2]
