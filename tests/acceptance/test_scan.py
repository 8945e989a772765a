"""Image scans through a whole server: a real registry, real containers, a stand-in of the scanner."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance import scan_site
from tests.acceptance.scan_site import Images, events
from tests.acceptance.server import BIN, PATIENCE, Server, served

pytestmark = [pytest.mark.docker, pytest.mark.registry]

SMALL = {"cpu_cores": 0.1, "ram_gb": 0.05}


@pytest.fixture(scope="module")
def images(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    with scan_site.images(docker_client, tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def scanner(images: Images) -> str:
    return images.scanner()


@pytest.fixture(scope="module")
def server(images: Images, scanner: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In mode ENFORCE; what cannot be scanned may not run."""
    with scan_site.server(tmp_path_factory.mktemp("enforce") / "server", images.host, scanner, "enforce") as running:
        yield running


def task(images: Images, name: str, tag: str = "1") -> dict[str, Any]:
    return {"image": f"{images.host}/{name}:{tag}", "command": ["cat", "/is"]}


def create(server: Server, *executors: dict[str, Any]) -> str:
    return server.create(*executors, resources=SMALL)


def system_logs(done: Any) -> list[str]:
    lines: list[str] = done["logs"][0]["system_logs"]
    return lines


def begun(server: Server, images: Images, name: str) -> list[dict[str, Any]]:
    return [each for each in events(server, "scan.begun") if each["image"].startswith(f"{images.host}/{name}:")]


def test_a_burst_on_a_new_image_is_one_scan_even_where_the_reconciler_is_killed(server: Server, images: Images) -> None:
    digest = images.push("good", "low=3&mode=late", content="good")
    ids = [create(server, task(images, "good")) for _ in range(12)]
    waiting = until_waiting(server, ids[0], "WAITING_SCAN")
    assert digest in waiting
    os.kill(server.part("reconciler"), signal.SIGKILL)
    done = [server.until(each) for each in ids]
    assert {each["state"] for each in done} == {"COMPLETE"}, done[0]
    assert len(begun(server, images, "good")) == 1
    log = done[0]["logs"][0]
    assert log["logs"][0]["stdout"] == "good"
    assert log["metadata"][f"digest_{images.host}/good:1"] == digest
    assert any(line.startswith(f"SCANNED: {images.host}/good:1 is {digest}, passed the scan of") for line in system_logs(done[0]))
    assert server.until(create(server, task(images, "good")))["state"] == "COMPLETE"
    assert len(begun(server, images, "good")) == 1


def until_waiting(server: Server, task_id: str, code: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = server.get(task_id)
        lines = (found.get("logs") or [{}])[0].get("system_logs") or [""]
        if lines[-1].startswith(code):
            assert found["state"] == "QUEUED"
            return str(lines[-1])
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def until_warned(server: Server, task_id: str, words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not any(line.startswith("SCAN_WARNING") and words in line for log in server.get(task_id).get("logs") or () for line in log.get("system_logs") or ()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_bad_image_is_refused_whole_and_in_words(server: Server, images: Images) -> None:
    images.push("fine")
    images.push("bad", "critical=2&high=1&medium=7")
    done = server.until(create(server, task(images, "fine"), task(images, "bad")))
    assert done["state"] == "SYSTEM_ERROR"
    assert not done["logs"][0]["logs"], "nothing of it ran"
    refused = [line for line in system_logs(done) if line.startswith("SCAN_REFUSED")]
    assert any("2 CRITICAL findings" in line for line in refused)
    assert any("1 HIGH finding" in line for line in refused)
    assert any("CVE-2199-00000" in line for line in refused)


BAD_DAYS = {
    "crash": "Segmentation fault",
    "fail": "something went wrong inside",
    "none": "the report of trivy cannot be read: it is empty",
    "garbage": "it is no JSON",
    "cut": "it ends in the middle",
    "huge": "has more than|max_runtime",  # whichever comes first
    "old": "days old",
    "hang": "stopped after max_runtime",
}


def test_what_cannot_be_scanned_does_not_run(server: Server, images: Images) -> None:
    for mode in BAD_DAYS:
        images.push(f"day-{mode}", f"mode={mode}")
    ids = {mode: create(server, task(images, f"day-{mode}")) for mode in BAD_DAYS}
    done = {mode: server.until(each) for mode, each in ids.items()}
    assert {mode: each["state"] for mode, each in done.items()} == dict.fromkeys(BAD_DAYS, "SYSTEM_ERROR")
    said = {mode: " ".join(system_logs(each)) for mode, each in done.items()}
    assert {mode: words for mode, words in said.items() if not words.startswith("SCAN_FAILED: image") or "could not be scanned" not in words} == {}
    assert {mode: said[mode] for mode, words in BAD_DAYS.items() if not re.search(words, said[mode])} == {}


def test_what_runs_is_what_was_scanned_though_its_tag_moves(server: Server, images: Images) -> None:
    scanned = images.push("moves", "mode=late", content="as scanned")
    first = create(server, task(images, "moves"))
    until_waiting(server, first, "WAITING_SCAN")
    moved = images.push("moves", "critical=1", content="moved")
    assert moved != scanned
    done = server.until(first)
    assert done["state"] == "COMPLETE"
    assert done["logs"][0]["logs"][0]["stdout"] == "as scanned"
    pinned = {"image": f"{images.host}/moves@{moved}", "command": ["cat", "/is"]}
    assert server.until(create(server, pinned))["state"] == "SYSTEM_ERROR"


def test_names_that_lead_nowhere(server: Server, images: Images) -> None:
    gone = server.until(create(server, {"image": f"{images.host}/fine@sha256:{'0' * 64}", "command": ["true"]}))
    assert gone["state"] == "SYSTEM_ERROR"
    assert system_logs(gone)[0].startswith("IMAGE_NOT_FOUND: image"), system_logs(gone)
    assert "its digest could not be found" in system_logs(gone)[0]
    silent = create(server, {"image": "127.0.0.1:1/x:1", "command": ["true"]})
    assert "127.0.0.1:1" in until_waiting(server, silent, "WAITING_IMAGE")
    server.ask(f"/v1/tasks/{silent}:cancel", method="POST")
    assert server.until(silent)["state"] == "CANCELED"


def test_an_image_that_only_this_engine_has_is_scanned_there(server: Server) -> None:
    done = server.until(create(server, {"image": "tes-test/static:latest", "command": ["/echo", "hello"]}))
    assert done["state"] == "COMPLETE", done
    assert done["logs"][0]["logs"][0]["stdout"] == "hello\n"
    assert any(line.startswith("SCANNED: tes-test/static:latest is sha256:") for line in system_logs(done))


def test_a_person_has_an_image_scanned(server: Server, images: Images) -> None:
    images.push("asked", "critical=1")
    name = f"{images.host}/asked:1"
    code, text, told = said(server, name)
    assert (code, "outcome   FAIL" in text) == (1, True), (text, told)
    assert " is RUNNING on local" in told
    code, text, told = said(server, "refresh", name)
    assert code == 1, (text, told)
    assert len(set(re.findall(r"the scan (\S+) is begun", told))) == 1
    assert server.until(create(server, task(images, "asked")))["state"] == "SYSTEM_ERROR"
    assert begun(server, images, "asked") == [], "by those commands alone"


def said(server: Server, *words: str) -> tuple[int, str, str]:
    """What `tes-server scan` says beside this server."""
    command: list[str | pathlib.Path] = [BIN / "tes-server", "scan", *words, "--data", server.data, "--config", server.data.parent / "settings.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.returncode, done.stdout, done.stderr


def test_warn_and_allow(images: Images, scanner: str, tmp_path: pathlib.Path) -> None:
    images.push("poor", "critical=1")
    images.push("broken", "mode=fail")
    images.push("sound", "low=1")
    with scan_site.server(tmp_path / "warn", images.host, scanner, "warn") as warns:
        poor, broken = (create(warns, task(images, name)) for name in ("poor", "broken"))
        silent = create(warns, {"image": "127.0.0.1:1/x:1", "command": ["true"]})
        found = warns.until(poor)
        assert found["state"] == "COMPLETE"
        assert any(line.startswith("SCAN_WARNING") and "1 CRITICAL finding" in line for line in system_logs(found))
        assert any(line.startswith("SCAN_WARNING") and "something went wrong" in line for line in system_logs(warns.until(broken)))
        until_warned(warns, silent, "was not scanned")
        warns.ask(f"/v1/tasks/{silent}:cancel", method="POST")
    with scan_site.server(tmp_path / "allow", images.host, scanner, "enforce", on_error="allow", place="task") as allows:
        poor, broken, good = (create(allows, task(images, name)) for name in ("poor", "broken", "sound"))
        assert allows.until(poor)["state"] == "SYSTEM_ERROR"
        found = allows.until(broken)
        assert found["state"] == "COMPLETE"
        failed = [line for line in system_logs(found) if line.startswith("SCAN_WARNING") and "could not be scanned" in line]
        assert ["(scan " in line for line in failed] == [True, False], failed  # by a job of its own, and by the scanner in the task
        found = allows.until(good)
        assert found["state"] == "COMPLETE", "past the scanner in the task itself, too"
        passed = [line for line in system_logs(found) if line.startswith("SCANNED")]
        assert ["that came first in this task" in line for line in passed] == [False, True], passed


def test_enforce_turned_on_while_a_task_runs_and_a_verdict_that_expires_while_one_queues(images: Images, scanner: str, tmp_path: pathlib.Path) -> None:
    """What runs goes on; what waits for its cores passes the gate, and again when they are free after the verdict's time."""
    images.push("risky", "critical=1")
    images.push("sane")
    large = {"cpu_cores": 0.8, "ram_gb": 0.05}
    table = scan_site.scans(images.host, f"http://{images.host}", scanner, "off", verdict_hours=4 / 3600)
    settings = tmp_path / "settings.toml"
    scan_site.write(settings, table, "cpus = 1\n")
    with served(tmp_path / "data", "--config", str(settings)) as server:
        holds = server.create({"image": f"{images.host}/risky:1", "command": ["sleep", "15"]}, resources=large)
        server.until(holds, "RUNNING")
        risky, sane = (server.create(task(images, name), resources=large) for name in ("risky", "sane"))
        until_waiting(server, risky, "WAITING_CAPACITY")
        server.stop()
        scan_site.write(settings, table.replace('"off"', '"enforce"'), "cpus = 1\n")
        server.start()
        refused = server.until(risky)
        assert (refused["state"], refused["logs"][0]["logs"]) == ("SYSTEM_ERROR", []), refused
        until_waiting(server, sane, "WAITING_CAPACITY")
        assert server.get(holds)["state"] == "RUNNING"
        ended = server.until(holds)
        assert ended["state"] == "COMPLETE", ended
        assert "SCAN" not in str(ended["logs"])
        done = server.until(sane)
        assert done["state"] == "COMPLETE", done
        assert len(begun(server, images, "sane")) >= 2, "the first verdict had expired"
        assert len([line for line in system_logs(done) if line.startswith("SCANNED")]) == 1, "it has run on the last one"
