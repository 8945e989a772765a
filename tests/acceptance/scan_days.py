"""Bad days of image scans that each platform has in its own way: one suite, of which every platform's file has a class.

The commands of tasks tell a server of the test that they run: what was never heard of has never run.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import pathlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.acceptance import scan_site
from tests.acceptance.batch_site import SMALL, Site
from tests.acceptance.scan_site import Images
from tests.acceptance.server import Server
from tests.contract import web_server
from tests.contract.web_server import Answer, Request
from tests.relay import Relay

TIMEOUT = 25
"""Seconds of a scan, where one hangs: good ones take two on an idle machine."""

DAYS = {
    "crash": "exit code 139|Segmentation fault",
    "garbage": "the report of trivy cannot be read",
    "hang": "stopped after max_runtime|time .*was over|was given up",
    "greedy": "memory",
}
"""What a scanner does, and what is said of it."""


class World:
    """What is reached at `address` from where tasks run: a registry, a Trivy server, and who hears of commands that run."""

    def __init__(self, images: Images, registry: str, trivy: web_server.WebServer) -> None:
        self.images = images
        self.registry = registry
        self.trivy = trivy
        self.known: dict[str, str] = {}
        """Repository -> findings, as the label of an image has them, that became known after it was made."""
        self.ran: Counter[str] = Counter()
        self._guard = threading.Lock()
        trivy.script = self._answer

    def _answer(self, request: Request) -> Answer:
        _, what, name = f"{request.path}/".split("/", 2)
        if what == "ran":
            with self._guard:
                self.ran[name.strip("/")] += 1
        now = datetime.datetime.now(datetime.UTC)
        told = {"Version": "0.72.0", "VulnerabilityDB": {"Version": 2, "UpdatedAt": f"{now:%Y-%m-%dT%H:%M:%SZ}"}, "Findings": self.known}
        return Answer(200, json.dumps(told).encode())

    def table(self, scanner: str, timeout: float = 120) -> str:
        """The settings of scans: twice for each task, once by a job and once in the task."""
        return scan_site.scans(self.images.host, self.registry, scanner, "enforce", timeout=timeout, place="task", server=self.trivy.url)


@contextlib.contextmanager
def world(client: Any, directory: pathlib.Path, address: str) -> Iterator[World]:
    """`address`: this machine's, as scanners and tasks reach it. The registry's name is on loopback, by which images are pulled."""
    with (
        scan_site.images(client, directory) as images,
        contextlib.closing(Relay(address, ("127.0.0.1", int(images.host.rpartition(":")[2])))) as relay,
        web_server.serving(host=address) as trivy,
    ):
        yield World(images, f"http://{address}:{relay.port}", trivy)


def bridge(client: Any) -> str:
    """This machine's address in the network of Docker's containers."""
    [config] = client.inspect_network("bridge")["IPAM"]["Config"]
    return str(config["Gateway"])


class Place:
    """A server whose tasks and scans run on one platform. `write` its settings for a scanner. `scanner`: a good one. `resources`: a small task's."""

    def __init__(self, world: World, server: Server, write: Callable[[str], object], scanner: str, resources: Mapping[str, Any]) -> None:
        self.world = world
        self.server = server
        self._write = write
        self._scanner = scanner
        self._resources = resources

    def create(self, name: str, says: str = "") -> str:
        """A task with a new image of this name."""
        self.world.images.push(name, says)
        return self.again(name)

    def again(self, name: str) -> str:
        """A task with an image that there is."""
        tell = ["wget", "-q", "-O", "/dev/null", f"{self.world.trivy.url}/ran/{name}"]
        return self.server.create({"image": f"{self.world.images.host}/{name}:1", "command": tell}, resources=self._resources)

    def refused(self, task_id: str) -> str:
        """What the log says of a task that may not run, at its end."""
        done = self.server.until(task_id)
        assert done["state"] == "SYSTEM_ERROR", done
        assert not any(log.get("logs") for log in done["logs"]), done
        return "\n".join(line for log in done["logs"] for line in log.get("system_logs") or ())

    @contextlib.contextmanager
    def other_scanner(self, image: str) -> Iterator[None]:
        """The same server with another one."""
        for each in (image, self._scanner):
            self.server.stop()
            self._write(each)
            self.server.start()
            if each == image:
                yield


@contextlib.contextmanager
def on_batch(serving: Callable[..., contextlib.AbstractContextManager[Site]], lab: Any, home: pathlib.Path, client: Any) -> Iterator[Place]:
    """On a batch service whose servers `serving` makes."""
    with world(client, home, bridge(client)) as made:
        scanner = made.images.scanner()
        with serving("scan", lab, home, client, more=made.table(scanner), retries=0) as site:

            def write(image: str) -> object:
                return site.flags_of(home / "scan.toml", "scan", more=made.table(image), retries=0)

            yield Place(made, site.server, write, scanner, SMALL)


class ScanDays:
    """The suite. `place` is a fixture of each platform, for all of these."""

    hangs = False
    """Scanners that hang, too; they are given up after `TIMEOUT`. Runners do that alike, wherever they are."""

    def test_what_passes_runs_and_what_does_not_never_does(self, place: Place) -> None:
        good, bad = place.create("good", "low=3"), place.create("bad", "critical=2")
        done = place.server.until(good)
        assert done["state"] == "COMPLETE", done
        assert any("passed the scan of" in line for line in done["logs"][-1]["system_logs"]), done
        assert "2 CRITICAL findings" in (told := place.refused(bad)), told
        assert (place.world.ran["good"], place.world.ran["bad"]) == (1, 0), place.world.ran

    def test_a_scan_that_cannot_be_made_lets_nothing_run_and_never_hangs(self, place: Place) -> None:
        """Neither the one before the task, nor the one in it: the verdict is there and passes, and the scanner sees what became known since, or dies."""
        days = {mode: words for mode, words in DAYS.items() if self.hangs or mode != "hang"}
        early = {mode: place.create(mode, f"mode={mode}") for mode in days}
        news = {"later": "critical=1", "later-greedy": "mode=greedy", **({"later-hang": "mode=hang"} if self.hangs else {})}
        for task in [place.create(name) for name in news]:
            done = place.server.until(task)
            assert done["state"] == "COMPLETE", done
        place.world.known.update(news)
        late = {name: place.again(name) for name in news}
        told = {name: place.refused(task) for name, task in {**early, **late}.items()}
        expected = {**days, "later": "SCAN_REFUSED.* 1 CRITICAL finding", "later-greedy": DAYS["greedy"], "later-hang": DAYS["hang"]}
        unlike = {name: words for name, words in told.items() if "SCAN_" not in words or not re.search(expected[name], words)}
        assert unlike == {}, unlike
        assert {name: place.world.ran[name] for name in told} == {**dict.fromkeys(days, 0), **dict.fromkeys(news, 1)}, place.world.ran

    def test_a_scanner_that_is_not_there(self, place: Place) -> None:
        nowhere = f"{place.world.images.host}/nowhere@sha256:{'0' * 64}"
        with place.other_scanner(nowhere):
            told = place.refused(place.create("unseen"))
        assert "SCAN_FAILED" in told, told
        assert nowhere in told, told
        assert not place.world.ran["unseen"]
