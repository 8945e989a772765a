"""Two users and their grants on a whole server; and a secret that is looked for everywhere while tasks have it, fail with it and are canceled with it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server.model.principal import Role
from tests.acceptance.server import BIN, Server, served
from tests.unit.api import users

pytestmark = pytest.mark.sandbox

CANARY = f"c4n4ry-{uuid.uuid4().hex}"

GRANTS = """
[[grants]]
owners = ["*"]
read = ["{base}/data/shared"]
write = ["{base}/data/users/{{owner}}"]
[[grants]]
owners = ["alice"]
secrets = ["token"]
"""

LIMITS = {"cpu_cores": 0.1, "ram_gb": 0.1}


class User:
    """What one user asks of a server."""

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self._headers = {"authorization": users.basic(name)["authorization"]}

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        return self._server.ask(path, body, "POST" if path.endswith(":cancel") else "", {**self._headers, **headers})

    def run(self, script: str, **fields: Any) -> str:
        env = fields.pop("env", {})
        status, said = self.ask("/v1/tasks", {"executors": [{"image": "host", "command": ["sh", "-c", script], "env": env}], "resources": LIMITS, **fields})
        assert status == 200, said
        return str(said["id"])

    def refused(self, headers: dict[str, str] | None = None, **fields: Any) -> str:
        task = {"executors": [{"image": "host", "command": ["true"], "env": fields.pop("env", {})}], **fields}
        status, said = self.ask("/v1/tasks", task, **(headers or {}))
        assert status == 400, said
        return json.dumps(said)

    def until(self, task_id: str, *states: str) -> Any:
        server = self._server
        asked = server.ask_again
        server.ask_again = lambda path, *_: asked(path, headers=self._headers)  # type: ignore[method-assign]
        try:
            return server.until(task_id, *states)
        finally:
            server.ask_again = asked  # type: ignore[method-assign]


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("users/alice", "users/bob", "shared"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "file").write_text(name)
    users.write(tmp_path / "users", ("alice", Role.USER), ("bob", Role.USER), ("root", Role.ADMIN))
    (tmp_path / "token").write_text(CANARY)
    return written(tmp_path, GRANTS.format(base=tmp_path))


def written(base: pathlib.Path, grants: str) -> pathlib.Path:
    file = base / "site.toml"
    head = f'[auth]\nmodes = ["basic"]\nusers_file = "{base}/users"\n[files]\nroots = ["{base}/data"]\n[local]\ncpus = 1\n[log]\nlevel = "debug"\n'
    file.write_text(f'{head}[local.secrets]\ntoken = "{base}/token"\nother = "{base}/token"\n{grants}')
    return file


@pytest.fixture
def server(tmp_path: pathlib.Path, config: pathlib.Path) -> Iterator[Server]:
    with served(tmp_path / "server", "--engine", "sandbox", "--allow-host", "--config", str(config)) as made:
        yield made


@pytest.mark.usefixtures("sandbox_works")
def test_two_users(tmp_path: pathlib.Path, server: Server) -> None:
    alice, bob = User(server, "alice"), User(server, "bob")
    data = tmp_path / "data"

    def put(owner: str, name: str = "out") -> list[dict[str, str]]:
        return [{"path": "/work/x", "url": f"{data}/users/{owner}/{name}"}]

    # What is one's own, by the task and by a link that stays there.
    (data / "users/bob/mine").symlink_to("file")
    (data / "users/bob/hers").symlink_to("../alice/file")
    (data / "users/bob/there").symlink_to("../alice")
    done = [
        alice.run("cat /work/in > /work/x", inputs=[{"path": "/work/in", "url": f"file://{data}/shared/file"}], outputs=put("alice")),
        bob.run("cat /work/in > /work/x", inputs=[{"path": "/work/in", "url": f"{data}/users/bob/mine"}], outputs=put("bob")),
    ]
    assert [user.until(task)["state"] for user, task in zip((alice, bob), done, strict=True)] == ["COMPLETE", "COMPLETE"]
    assert [(data / "users" / name / "out").read_text() for name in ("alice", "bob")] == ["shared", "users/bob"]
    # What is another's, and the admin's own are none.
    for user, name in ((bob, "alice"), (User(server, "root"), "bob")):
        for url in (f"{data}/users/{name}/file", f"file://{data}/users/x/%2e%2e/{name}/file", f"file://localhost{data}/users/%{ord(name[0]):x}{name[1:]}/file"):
            assert "/inputs/0/url" in user.refused(inputs=[{"path": "/work/in", "url": url}])
        assert "/outputs/0/url" in user.refused(outputs=put(name))
        assert "/outputs/0/url" in user.refused({"idempotency-key": "k"}, outputs=[{"path": "/w/*", "path_prefix": "/w", "url": f"{data}/users"}])
        assert "/executors/0/env/A" in user.refused(env={"A": "secret://token"}, tags={"owner": "alice"})
    said = {bob.refused(env={"A": f"secret://{name}"}) for name in ("token", "other", "nowhere")}
    assert len(said) == 1, "whether there is such a secret is told"
    # By a link, which only shows where the files are.
    for name in ("hers", "there/file"):
        ended = bob.until(bob.run("true", inputs=[{"path": "/work/in", "url": f"{data}/users/bob/{name}"}]))
        assert ended["state"] == "SYSTEM_ERROR"
        assert "INPUT_DENIED" in str(ended["logs"])
    ended = bob.until(bob.run("echo evil > /work/x", outputs=put("bob", "there/out2")))
    assert "OUTPUT_DENIED" in str(ended["logs"])
    assert sorted(path.name for path in (data / "users/alice").iterdir()) == ["file", "out"]


@pytest.mark.usefixtures("sandbox_works")
def test_a_grant_is_withdrawn_while_a_task_waits(tmp_path: pathlib.Path, server: Server) -> None:
    alice = User(server, "alice")
    first = alice.run("while [ ! -e /work/go ]; do sleep 0.1; done", resources={"cpu_cores": 1, "ram_gb": 0.1})
    alice.until(first, "RUNNING")
    waits = [
        alice.run("true", env={"A": "secret://token"}),
        alice.run("true", inputs=[{"path": "/work/in", "url": f"{tmp_path}/data/shared/file"}]),
    ]
    server.stop()
    written(tmp_path, "")
    server.start()
    assert alice.ask(f"/v1/tasks/{first}:cancel")[0] == 200
    words = [str(alice.until(task)["logs"]) for task in waits]
    assert "REJECTED: /executors/0/env/A: asks for a secret that alice is not granted" in words[0]
    assert "REJECTED: /inputs/0/url: alice may not read from" in words[1]


def seen(base: pathlib.Path, server: Server, *who: User) -> list[str]:
    """Where the canary is to be seen, beside the file that it is kept in."""
    found = subprocess.run(["grep", "-rlaF", "--devices=skip", "--exclude=token", CANARY, base], check=False, capture_output=True, text=True).stdout.split()
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:
            continue
        if CANARY.encode() in line and b"grep" not in line:
            found.append(str(process))
    for user in who:
        for path in ("/metrics", "/v1/service-info", "/ui/", *(f"/v1/tasks?view={view}" for view in ("MINIMAL", "BASIC", "FULL"))):
            asked = subprocess.run(
                ["curl", "-s", "-K-", server.url + path],
                input=f'header = "authorization: {user._headers["authorization"]}"',
                capture_output=True,
                text=True,
                check=True,
            )
            assert asked.stdout
            if CANARY in asked.stdout:
                found.append(path)
    return found


@pytest.mark.usefixtures("sandbox_works")
def test_a_secret_is_nowhere(tmp_path: pathlib.Path, server: Server, config: pathlib.Path) -> None:
    alice, root = User(server, "alice"), User(server, "root")
    env = {"TOKEN": "secret://token"}
    held = 'printf %s "$TOKEN" | md5sum; '
    going = alice.run(held + "sleep 1000", env=env)
    failed = alice.run(held + "exit 3", env=env)
    gone = alice.run(held, env=env, inputs=[{"path": "/work/in", "url": f"{tmp_path}/data/users/alice/none"}])
    assert [alice.until(task)["state"] for task in (failed, gone)] == ["EXECUTOR_ERROR", "SYSTEM_ERROR"]
    alice.until(going, "RUNNING")
    assert seen(tmp_path, server, alice, root) == []
    alice.ask(f"/v1/tasks/{going}:cancel")
    assert alice.until(going)["state"] == "CANCELED"
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"executors": [{"image": "host", "command": ["true"], "env": env}]}))
    words: list[str | pathlib.Path] = [BIN / "tes-server", "plan", "--owner", "alice", "--engine", "sandbox", "--allow-host", "--config", config, task]
    planned = subprocess.run([*words, "--data", tmp_path / "server"], capture_output=True, text=True, check=False)
    assert "secret://token" in planned.stdout, planned.stderr
    assert CANARY not in planned.stdout + planned.stderr
    assert seen(tmp_path, server, alice, root) == []
    # The look is one that finds: a task that prints it shows it, in its own stdout.
    printed = alice.until(alice.run('echo "$TOKEN"', env=env))
    assert CANARY in printed["logs"][0]["logs"][0].pop("stdout")
    assert CANARY not in json.dumps(printed)
    assert set(seen(tmp_path, server, alice)) & {"/v1/tasks?view=FULL"}
