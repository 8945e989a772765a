"""The server as users run it: one whole task through the API, kills in every place, limits, doors."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tes_server import metrics_files
from tests.acceptance.server import BIN, PATIENCE, Server, served

pytestmark = pytest.mark.sandbox

HOST = {"image": "host"}


def sh(script: str, **fields: object) -> dict[str, object]:
    return {"image": "host", "command": ["/bin/sh", "-c", script], **fields}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "files"
    path.mkdir()
    return path


@pytest.fixture
def server(tmp_path: pathlib.Path, root: pathlib.Path, sandbox_works: None) -> Iterator[Server]:
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(root)) as server:
        yield server


SMALL = {"cpu_cores": 0.2, "ram_gb": 0.1}


def test_a_whole_task(server: Server, root: pathlib.Path) -> None:
    (root / "in").write_text("b\na\n")
    task_id = server.create(
        sh("sort /work/in", stdout="/work/out"),
        inputs=[{"path": "/work/in", "url": f"{root}/in"}],
        outputs=[{"path": "/work/out", "url": f"file://{root}/deep/out"}],
        resources=SMALL,
        tags={"a": "b"},
    )
    task = server.until(task_id)
    assert task["state"] == "COMPLETE", task
    assert (root / "deep" / "out").read_text() == "a\nb\n"
    log = task["logs"][0]
    assert log["logs"][0]["exit_code"] == 0
    assert log["outputs"] == [{"url": f"file://{root}/deep/out", "path": "/work/out", "size_bytes": "4"}]
    assert log["metadata"]["engine"] == "sandbox"
    assert server.ask("/v1/tasks?tag_key=a&tag_value=b")[1] == {"tasks": [{"id": task_id, "state": "COMPLETE"}]}


def test_live_output_and_cancel(server: Server) -> None:
    task_id = server.create(sh("echo hello; exec sleep 1000"), resources=SMALL)
    server.until(task_id, "RUNNING")
    while not (server.get(task_id)["logs"][0]["logs"] or [{}])[0].get("stdout"):
        pass
    assert server.get(task_id)["logs"][0]["logs"][0]["stdout"] == "hello\n"
    assert server.ask(f"/v1/tasks/{task_id}:cancel", b"") == (200, {})
    assert server.until(task_id)["state"] == "CANCELED"
    assert server.ask(f"/v1/tasks/{task_id}:cancel", b"") == (200, {})
    assert server.ask("/v1/tasks/nobody:cancel", b"")[0] == 404


def test_max_runtime_ends_a_sleep_in_time(server: Server, root: pathlib.Path) -> None:
    task_id = server.create(
        sh("echo x > /work/x; exec sleep 1000", workdir="/work"),
        outputs=[{"path": "/work/x", "url": f"{root}/x"}],
        resources={**SMALL, "backend_parameters": {"max_runtime": "5s"}},
    )
    task = server.until(task_id)
    assert task["state"] == "SYSTEM_ERROR"
    assert any(line.startswith("TIMEOUT") for line in task["logs"][0]["system_logs"])
    assert (root / "x").read_text() == "x\n"


@pytest.mark.parametrize("victim", ["reconciler", "api", "serve"])
def test_a_kill_is_as_if_nothing_had_happened(server: Server, root: pathlib.Path, victim: str) -> None:
    """What runs goes on running, and runs once."""
    (root / "go").mkdir()
    task_id = server.create(
        sh("echo ran >> ran; while [ ! -e stop ]; do sleep 0.05; done", workdir="/work"),
        sh("echo second >> ran", workdir="/work"),
        outputs=[{"path": "/work/ran", "url": f"{root}/ran"}],
        resources=SMALL,
    )
    waiting = server.create(sh("true"), resources={"cpu_cores": os.cpu_count()})
    server.until(task_id, "RUNNING")
    volume = server.data / "attempts" / f"{task_id}-1" / "volume"
    if victim == "serve":
        server.stop(signal.SIGKILL)
        (volume / "work" / "stop").touch()
        server.start()
    else:
        os.kill(server.part(victim), signal.SIGKILL)
        (volume / "work" / "stop").touch()
    assert server.until(task_id)["state"] == "COMPLETE"
    assert (root / "ran").read_text() == "ran\nsecond\n"
    assert server.until(waiting)["state"] == "COMPLETE"


def test_many_tasks_survive_kills_and_each_runs_once(server: Server, root: pathlib.Path) -> None:
    ids = [
        server.create(
            sh("echo ran >> /work/ran; sleep 0.2", workdir="/work"),
            outputs=[{"path": "/work/ran", "url": f"{root}/{number}"}],
            resources={"cpu_cores": 0.1, "ram_gb": 0.05},
        )
        for number in range(60)
    ]
    server.until(ids[0], "RUNNING", "COMPLETE")
    os.kill(server.part("reconciler"), signal.SIGKILL)
    server.until(ids[20], "RUNNING", "COMPLETE")
    server.stop(signal.SIGKILL)
    server.start()
    assert server.until_all(ids, PATIENCE) == {"COMPLETE": 60}
    assert {(root / str(number)).read_text() for number in range(60)} == {"ran\n"}


def test_term_drains_and_a_restart_goes_on(server: Server, root: pathlib.Path) -> None:
    ids = [server.create(sh("sleep 1; echo $0"), resources={"cpu_cores": 0.1, "ram_gb": 0.05}) for _ in range(10)]
    server.until(ids[0], "RUNNING")
    assert server.stop() == 0
    server.start()
    assert server.until_all(ids, PATIENCE) == {"COMPLETE": 10}


def test_mistakes_are_explained(server: Server) -> None:
    status, answer = server.ask("/v1/tasks", {"executors": [{"image": "Ubuntu", "command": ["true"]}]})
    assert (status, answer["pointer"]) == (400, "/executors/0/image")
    assert "not the name of an image" in answer["detail"]
    status, answer = server.ask("/v1/tasks", {"executors": [{**HOST, "command": ["true"]}], "resources": {"cpu_cores": 4000}})
    assert (status, answer["pointer"]) == (400, "/resources/cpu_cores")
    status, answer = server.ask("/v1/tasks", b'{"executors": [{"image": "host", "command": "true"}]}')
    assert (status, answer["pointer"]) == (400, "/executors/0/command")


def test_urls_that_would_turn_this_server_against_its_site(server: Server) -> None:
    """Told at once where the url says it, else at the first attempt and for good."""

    def asked(url: str) -> dict[str, object]:
        return {"executors": [sh("true")], "inputs": [{"path": "/work/in", "url": url}], "resources": SMALL}

    status, answer = server.ask("/v1/tasks", asked("http://user:hunter2@169.254.169.254/latest/?sig=hunter2"))
    assert (status, answer["pointer"]) == (400, "/inputs/0/url")
    status, created = server.ask("/v1/tasks", asked("http://user:hunter2@0xa9fea9fe/latest/?sig=hunter2"))
    assert status == 200
    task = server.until(created["id"])
    assert (task["state"], len(task["logs"])) == ("SYSTEM_ERROR", 1)
    [line] = [line for line in task["logs"][0]["system_logs"] if line.startswith("INPUT_DENIED: ")]
    assert "/inputs/0: http://0xa9fea9fe/latest/?...: 0xa9fea9fe is at an address that transfers never connect to" in line
    assert "hunter2" not in line


def test_the_doors(server: Server) -> None:
    assert server.ask("/v1/tasks", headers={"Host": "evil.example"})[0] == 403
    assert server.ask("/v1/tasks", b"{}", headers={"Origin": "https://evil.example"})[0] == 403
    assert server.ask("/healthz", headers={"Host": "10.0.0.1"})[0] == 200
    assert server.ask("/readyz")[0] == 200


def test_metrics_count_over_all_processes(server: Server) -> None:
    server.until(server.create(sh("true"), resources=SMALL))
    with urllib.request.urlopen(f"{server.url}/metrics") as page:
        answer = page.read().decode()
    assert "tes_tasks_created_total 1.0" in answer
    assert 'tes_tasks_ended_total{reason="",state="COMPLETE"} 1.0' in answer


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["reconcile"]], ids=["serve", "reconcile"])
def test_a_second_server_on_the_same_data_is_refused(server: Server, command: list[str]) -> None:
    second = subprocess.run(
        [BIN / "tes-server", *command, "--data", server.data, "--engine", "sandbox", "--allow-host"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert second.returncode == 2
    assert "in use by another tes-server" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--host", "0.0.0.0"], "auth.allow_open"),
        (["serve", "--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (["plan", "/dev/null"], "empty"),
    ],
)
def test_wrong_starts_are_one_line(tmp_path: pathlib.Path, arguments: list[str], words: str) -> None:
    done = subprocess.run([BIN / "tes-server", *arguments, "--data", tmp_path / "d"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_plan_and_settings(tmp_path: pathlib.Path) -> None:
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"executors": [{"image": "host", "command": ["true"]}]}))
    shown = subprocess.run(
        [BIN / "tes-server", "plan", task, "--engine", "sandbox", "--allow-host", "--data", tmp_path / "d"], capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout)["backend"] == "local"
    config = tmp_path / "c.toml"
    config.write_text("[server]\nportt = 1\n")
    wrong = subprocess.run([BIN / "tes-server", "settings", "--config", config], capture_output=True, text=True, check=False)
    assert "server.portt" in wrong.stderr
    schema = subprocess.run([BIN / "tes-server", "settings", "--schema"], capture_output=True, text=True, check=True)
    assert json.loads(schema.stdout)["$defs"]


def test_a_reconciler_by_itself_shows_its_metrics(tmp_path: pathlib.Path, sandbox_works: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [str(BIN / "tes-server"), "reconcile", "--data", str(tmp_path / "data"), "--engine", "sandbox"]
        environment = {**os.environ, "TES_SERVER__CONTROL__METRICS_PORT": port}
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert refused.stderr == f"tes-server: control.metrics_port: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "reconciler.started" in process.stderr.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                assert b"tes_tick_seconds_count" in answer.read()
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["reconcile"]], ids=["serve", "reconcile"])
def test_a_server_that_is_stopped_while_it_starts_takes_along_what_it_shared(tmp_path: pathlib.Path, command: list[str], sandbox_works: None) -> None:
    data = tmp_path / "data"
    shared = metrics_files.directory(data)
    starting = subprocess.Popen([BIN / "tes-server", *command, "--data", data, "--engine", "sandbox"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while not shared.exists():
        assert starting.poll() is None
        assert time.monotonic() < until
        time.sleep(0.001)
    starting.terminate()
    assert starting.wait(PATIENCE) == 0
    assert not shared.exists()
