"""Real clients and tools, each from its registry package: virtual environments, jars, modules and Go programs, made once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import pytest

from tests.integration.conftest import unreachable

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tes-server-tests"
NO_ANSWER = re.compile(
    r"Connect(ion|Timeout)Error|ReadTimeout|Temporary failure in name resolution|Unknown host|Network is unreachable|dial tcp|proxy\.golang\.org.* 403 ",
    re.IGNORECASE,
)
"""What pip, Maven and Go say when no registry answers. Any other failure is the packages' own, and ours to mend."""


def environment(name: str, *requirements: str, tools: tuple[str, ...] = ()) -> pathlib.Path:
    """The `bin` directory of a virtual environment with these packages; skips where no registry answers.

    `tools` are installed first, for packages that build with tools as old as themselves instead of today's.
    """
    home = CACHE / f"{name}-{_key(sys.version, *requirements, *tools)}"
    done = home / "complete"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        if tools:
            _pip(home / "bin", "install", *tools)
        _pip(home / "bin", "install", *(["--no-build-isolation"] if tools else []), *requirements)
        done.touch()
    return home / "bin"


def wheels(bin_: pathlib.Path, *requirements: str) -> pathlib.Path:
    """A directory with wheels of these packages and all that they need."""
    target = bin_.parent / f"wheels-{_key(*requirements)}"
    if not (target / "complete").exists():
        _pip(bin_, "wheel", "--wheel-dir", str(target), *requirements)
        (target / "complete").touch()
    return target


def jars(name: str, *artifacts: str) -> str:
    """The class path of these Maven artifacts (`group:name:version`) and all that they need."""
    maven = shutil.which("mvn")
    if maven is None or shutil.which("java") is None:
        unreachable("Java with Maven", "mvn or java is not installed")
    home = CACHE / f"{name}-{_key(*artifacts)}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        wanted = "".join(
            "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(*one.split(":")) for one in artifacts
        )
        project = (
            f"<modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>test</artifactId><version>1</version><dependencies>{wanted}</dependencies>"
        )
        (home / "pom.xml").write_text(f"<project>{project}</project>")
        _fetch([maven, "-q", "-B", "-f", str(home / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={home}/jars"])
        (home / "complete").touch()
    return f"{home}/jars/*"


def modules(name: str, *packages: str) -> pathlib.Path:
    """A directory whose `node_modules` has these packages of npm (`name@version`)."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        unreachable("Node.js with npm", "npm or node is not installed")
    home = CACHE / f"{name}-{_key(*packages)}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "package.json").write_text("{}")
        _fetch([npm, "install", "--prefix", str(home), "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *packages])
        (home / "complete").touch()
    return home


def programs(name: str, tool: str, version: str, source: pathlib.Path, *, flags: str = "", instead: Mapping[str, str] | None = None) -> pathlib.Path:
    """A directory with a Go program (`tool` is its package) and that of `source`, a file, made of what that program's module needs.

    `flags`: further ones of the linker. `instead`: `module@version` that the proxy does not have -> the version to take.
    """
    go = shutil.which("go")
    if go is None:
        unreachable("Go", "go is not installed")
    replaced = [f"-replace={missing}={missing.partition('@')[0]}@{taken}" for missing, taken in (instead or {}).items()]
    home = CACHE / f"{name}-{_key(tool, version, flags, *replaced, source.read_text())}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copy(source, home)
        # Trivy needs the experiment. `go install` would ask for the list of all versions, which not every proxy has.
        where = {"cwd": home, "env": {**os.environ, "CGO_ENABLED": "0", "GOEXPERIMENT": "jsonv2", "GOFLAGS": "-mod=mod -trimpath"}}
        _fetch([go, "mod", "init", "tests"], **where)
        if replaced:
            _fetch([go, "mod", "edit", *replaced], **where)
        _fetch([go, "get", "-tool", f"{tool}@{version}"], **where)
        for package in (tool, source.name):
            _fetch([go, "build", "-ldflags", f"-s -w {flags}", "-o", pathlib.PurePath(package).stem, package], **where)
        (home / "complete").touch()
    return home


def _pip(bin_: pathlib.Path, *arguments: str) -> None:
    _fetch([str(bin_ / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments])


def _fetch(command: list[str], **where: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **where)
    if done.returncode:
        _not_to_be_had(" ".join(command), done.stdout + done.stderr)


def _not_to_be_had(command: str, said: str) -> NoReturn:
    if NO_ANSWER.search(said):
        pytest.skip(f"no package registry answers: {command}")
    unreachable(f"a package ({command})", said[-500:])


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
