"""Servers for the replays of engines: each engine of ours, with the work directory on each kind of store."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import msgspec
import pytest

from tests.acceptance.server import served
from tests.acceptance.test_examples import needs_image
from tests.clients.engines import Installation, Share, SharedDirectory, SharedObjects
from tests.contract import object_servers

TOP = "/engine-work"
IMAGE = "tes-test/debian"


@pytest.fixture(scope="module", params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def engine(request: pytest.FixtureRequest) -> str:
    """Runs the tasks."""
    if request.param == "docker":
        needs_image(IMAGE)
    else:
        request.getfixturevalue("sandbox_works")
    return str(request.param)


@pytest.fixture(scope="module", params=["file", pytest.param("s3", marks=pytest.mark.s3), pytest.param("az", marks=pytest.mark.azurite)])
def share(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Share, str, dict[str, str]]]:
    """The work directory as engines see it, the url that stands for it, and the environment of a server that allows that."""
    if request.param == "file":
        home = tmp_path_factory.mktemp("share")
        yield SharedDirectory(TOP, home), f"file://{home}", {"TES_SERVER__FILES__ROOTS": f'["{home}"]'}
        return
    with object_servers.s3() if request.param == "s3" else object_servers.azurite() as store:
        settings = ", ".join(f"{name} = {json.dumps(value)}" for name, value in msgspec.to_builtins(store.settings).items())
        yield SharedObjects(TOP, store, "exec"), f"{store.url}/exec", {**store.variables, "TES_SERVER__STORAGE": f"[{{{settings}}}]"}


@pytest.fixture(scope="module")
def site(engine: str, share: tuple[Share, str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A server that knows the work directory by a site path."""
    seen, url, settings = share
    data: pathlib.Path = tmp_path_factory.mktemp("site") / "data"
    allow = ["--allow-host"] if engine == "sandbox" else []
    environment = {**settings, "TES_SERVER__PATHS": f'[{{path = "{TOP}", url = "{url}"}}]'}
    with served(data, "--engine", engine, *allow, environment=environment) as server:
        yield Installation(server, seen, TOP, "host" if engine == "sandbox" else IMAGE)
