"""Images that a running server pulls for its tasks: once for all that wait, and gone when others need the room."""

from __future__ import annotations

import concurrent.futures
import pathlib
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests import image_registry
from tests.acceptance.server import BIN, Server, served
from tests.contract.web_server import Answer, Request
from tests.image_case import Entry, Packed, entry, layer, pack
from tests.image_registry import Registry
from tests.integration import sandbox_images
from tests.integration.conftest import unreachable

pytestmark = pytest.mark.sandbox

SMALL = {"cpu_cores": 0.2, "ram_gb": 0.1}


@pytest.fixture
def registry() -> Iterator[Registry]:
    if why := sandbox_images.usable():
        unreachable("a busybox image", why)
    with image_registry.registry() as running:
        yield running


def busybox(*more: Entry) -> tuple[Packed, int]:
    """An image with `more` in it, and its size once unpacked."""
    data = layer(*sandbox_images.usual(), *more)
    return pack([data], config={"Env": sandbox_images.ENV}), len(data)


def create(server: Server, image: str, script: str) -> str:
    return server.create({"image": image, "command": ["sh", "-c", script], "workdir": "/work"}, resources=SMALL)


def test_two_tasks_at_once_pull_their_image_once(registry: Registry, tmp_path: pathlib.Path, sandbox_works: None) -> None:
    image, _ = busybox()
    name = registry.push(image, "team/tool", "1")
    go = threading.Event()

    def wait(request: Request) -> Answer | None:
        if "/blobs/" in request.path:
            go.wait(60)
        return None

    registry.lie = wait
    with served(tmp_path / "data", "--engine", "sandbox") as server, concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            ids = list(pool.map(lambda script: create(server, name, script), ["exit 0", "test $FROM_IMAGE = yes"]))
            for task_id in ids:
                server.until(task_id, "INITIALIZING")
        finally:
            go.set()
        ends: list[Any] = [server.until(task_id) for task_id in ids]
        assert [task["state"] for task in ends] == ["COMPLETE"] * 2, ends
    assert sorted(registry.asked("/blobs/")) == sorted(f"GET /v2/team/tool/blobs/{digest}" for digest in image.blobs)
    assert [line for line in registry.asked("/manifests/") if line.startswith("GET")] == [f"GET /v2/team/tool/manifests/{image.digest}"]


def test_an_image_makes_way_when_its_task_has_ended(registry: Registry, tmp_path: pathlib.Path, sandbox_works: None) -> None:
    names, size = [], 0
    for number in range(3):
        image, size = busybox(entry("number", str(number).encode()))
        names.append(registry.push(image, f"team/tool{number}", "1"))
    room_for_one = {"TES_SERVER__SANDBOX__IMAGES_GB": str(size * 1.5 / 1e9)}

    def there() -> dict[str, bool]:
        """As people see it: the images, and whether they are in use."""
        listed = subprocess.run([BIN / "tes-server", "images", "list", "--data", tmp_path / "data"], check=True, capture_output=True, text=True).stdout
        return {line.split()[0]: line.endswith("in use") for line in listed.splitlines()[1:-1]}

    with served(tmp_path / "data", "--engine", "sandbox", environment=room_for_one) as server:
        long = create(server, names[0], "while [ ! -e stop ]; do sleep 0.05; done; test $(cat /number) = 0")
        server.until(long, "RUNNING")
        for number in (1, 2):
            assert server.until(create(server, names[number], f"test $(cat /number) = {number}"))["state"] == "COMPLETE"
            assert there() == {names[0]: True, names[number]: False}
        (server.data / "attempts" / f"{long}-1" / "volume" / "work" / "stop").touch()
        assert server.until(long)["state"] == "COMPLETE"
        assert server.until(create(server, names[1], "exit 0"))["state"] == "COMPLETE"
        assert there() == {names[1]: False}
