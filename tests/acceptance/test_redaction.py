"""A whole server whose tasks name urls with credentials: only their owner sees them; and tasks of an owner that go one at a time."""

from __future__ import annotations

import http.server
import itertools
import json
import pathlib
import subprocess
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from tes_server.model.principal import Role
from tests.acceptance.server import BIN, Server, served
from tests.acceptance.test_grants import User
from tests.unit.api import users

pytestmark = pytest.mark.sandbox


class Nothing(http.server.BaseHTTPRequestHandler):
    """Has nothing at any address, and repeats it in its answer."""

    def do_GET(self) -> None:
        self.send_error(404, "nothing there", f"there is nothing at http://{self.headers['host']}{self.path}")

    do_HEAD = do_GET  # noqa: N815 - the name is theirs

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def nothing() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    users.write(tmp_path / "users", ("alice", Role.USER), ("eve", Role.VIEWER), ("root", Role.ADMIN))
    (tmp_path / "site.toml").write_text(f"""
[auth]
modes = ["basic"]
users_file = "{tmp_path}/users"
[files]
net_allow = ["127.0.0.1"]
[local]
cpus = 1
[limits]
running = 1
[log]
level = "debug"
audit = "{tmp_path}/audit.jsonl"
""")
    with served(tmp_path / "server", "--engine", "sandbox", "--allow-host", "--config", str(tmp_path / "site.toml")) as made:
        yield made


def page(server: Server, path: str, who: str) -> str:
    headers = {"authorization": users.basic(who)["authorization"]}
    with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers), timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.usefixtures("sandbox_works")
def test_credentials_in_urls_are_for_the_owner_alone(tmp_path: pathlib.Path, server: Server, nothing: str) -> None:
    alice = User(server, "alice")
    url = f"http://user:CANARY@{nothing}/x?versionId=7&X-Amz-Signature=CANARY%2B"
    failing = alice.run("true", inputs=[{"path": "/work/in", "url": url}], env={"SAS": url}, tags={"from": url}, name=url)
    printing = [alice.run('echo "$SAS"; echo got "$SAS" >&2', env={"SAS": url}) for _ in range(3)]
    failed = alice.until(failing, "SYSTEM_ERROR")
    assert (failed["inputs"][0]["url"], failed["executors"][0]["env"]["SAS"]) == (url, url)
    assert "INPUT_NOT_FOUND: /inputs/0: http://127.0.0.1" in json.dumps(failed["logs"])
    assert "CANARY" not in json.dumps(failed["logs"]), "the server's own words have none, not even for the owner"
    ended = [alice.until(task, "COMPLETE") for task in printing]
    assert [task["logs"][0]["logs"][0]["stdout"] for task in ended] == [f"{url}\n"] * 3
    # limits.running = 1: none began before the one before it had ended.
    times = sorted((log["start_time"], log["end_time"]) for task in ended for log in task["logs"][0]["logs"])
    assert all(before[1] <= behind[0] for before, behind in itertools.pairwise(times)), times

    seen = []
    for who in ("eve", "root"):
        user = User(server, who)
        seen += [json.dumps(user.ask(f"/v1/tasks?view={view}")[1]) for view in ("MINIMAL", "BASIC", "FULL")]
        seen += [json.dumps(user.ask(f"/v1/tasks/{task}?view={view}")[1]) for task in (failing, printing[0]) for view in ("BASIC", "FULL")]
        seen += [page(server, path, who) for path in ("/ui", f"/ui/tasks/{failing}", f"/ui/tasks/{printing[0]}")]
    assert sum(f"http://***@{nothing}/x?versionId=7&X-Amz-Signature=***" in text.replace("&amp;", "&") for text in seen) == 2 * 9
    assert alice.ask("/v1/tasks", {"executors": [{"image": "host", "command": ["true"]}], "inputs": [{"path": "/a", "url": f"x{url}"}]})[0] == 400
    User(server, "root").ask(f"/v1/tasks/{failing}:cancel", {})
    audit = (tmp_path / "audit.jsonl").read_text()
    assert [json.loads(line).get("of") for line in audit.splitlines() if '"task.cancel"' in line] == ["alice"]
    assert [json.loads(line)["mode"] for line in audit.splitlines() if '"scan.settings"' in line] == ["off"]
    for text in (*seen, server.log.read_text(), audit, page(server, "/metrics", "root")):
        assert "CANARY" not in text


def test_what_commands_print(tmp_path: pathlib.Path) -> None:
    (tmp_path / "task.json").write_text(
        json.dumps(
            {
                "executors": [{"image": "host", "command": ["true"], "env": {"X": "https://u:CANARY@h/"}}],
                "inputs": [{"path": "/a", "url": "https://h/?sig=CANARY"}],
            }
        )
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TES_SERVER__SERVER__ORGANIZATION_URL": "https://u:CANARY@h"}
    for command in (["plan", "--engine", "sandbox", "--allow-host", "--data", str(tmp_path), "task.json"], ["settings"]):
        done = subprocess.run([BIN / "tes-server", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "***" in done.stdout
        assert "CANARY" not in done.stdout + done.stderr
