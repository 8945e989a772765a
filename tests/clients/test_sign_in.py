"""Two users, a viewer and an admin through py-tes and `tes`: by password, and by tokens of a real OpenID provider."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping

import pytest

from tests.acceptance.server import BIN, Server, served
from tests.clients import packages

pytestmark = [pytest.mark.clients, pytest.mark.sandbox]

OTHERS = """
import sys, tes
url, user, password, token = sys.argv[1:5]
client = tes.HTTPClient(url, timeout=30, **({"token": token} if token else {"user": user, "password": password}))
task = tes.Task(executors=[tes.Executor(image="host", command=["true"])], resources=tes.Resources(cpu_cores=1, ram_gb=0.1))
assert client.get_service_info().name
def status(call, *args):
    try:
        call(*args)
    except Exception as error:
        return error.response.status_code if getattr(error, "response", None) is not None else str(error)
    return 200
if user == "vera":
    print(status(client.create_task, task))
else:
    mine = client.create_task(task)
    assert client.wait(mine, timeout=120).state == "COMPLETE"
    print(mine)
print(*sorted(found.id for found in client.list_tasks(page_size=1000).tasks))
for other in sys.argv[5:]:
    print(status(client.get_task, other), status(client.cancel_task, other))
"""


def py_tes(server: Server, user: str, secret: Mapping[str, str], *others: str) -> list[str]:
    """What one user sees: the task that was made, all that are listed, and the status of a look at each of the others' and of its cancel."""
    words = [server.url, user, secret.get("TES_PASSWORD", ""), secret.get("TES_TOKEN", ""), *others]
    client = packages.environment("py-tes", "py-tes==1.1.4")
    done = subprocess.run([client / "python", "-c", OTHERS, *words], capture_output=True, text=True, check=False, env={**os.environ, "no_proxy": "*"})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def tes(server: Server, secret: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TES_")}
    environment |= {"no_proxy": "*", "TES_URL": server.url, **secret}
    return subprocess.run([BIN / "tes", *words], capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL)


def by_password(name: str) -> dict[str, str]:
    return {"TES_USER": name, "TES_PASSWORD": f"{name}-secret"}


def four(server: Server, secrets: Mapping[str, Mapping[str, str]]) -> None:
    """The same story for both ways to sign in."""
    ran = tes(server, secrets["alice"], "run", "--image", "host", "--cpu", "0.1", "--ram", "100M", "--", "echo", "hello")
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran.stderr
    (alices,) = tes(server, secrets["alice"], "list", "--quiet").stdout.split()
    bobs, *seen = py_tes(server, "bob", secrets["bob"], alices)
    assert seen == [bobs, "404 404"]
    assert py_tes(server, "vera", secrets["vera"], alices) == ["403", " ".join(sorted((alices, bobs))), "200 403"]
    admins, *seen = py_tes(server, "root", secrets["root"], alices, bobs)
    assert seen == [" ".join(sorted((alices, bobs, admins))), "200 200", "200 200"]
    assert "404" in tes(server, secrets["bob"], "get", alices).stderr
    assert tes(server, secrets["alice"], "get", alices).returncode == 0
    for nobody in ({}, {"TES_TOKEN": "x.y.z"}, {"TES_USER": "alice", "TES_PASSWORD": "wrong-secret"}):
        refused = tes(server, nobody, "list")
        assert refused.returncode != 0
        assert "401" in refused.stderr
        assert "wrong-secret" not in refused.stderr


@pytest.mark.usefixtures("sandbox_works")
def test_by_password(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "users"
    for name, role in (("alice", "user"), ("bob", "user"), ("vera", "viewer"), ("root", "admin")):
        words: list[str | pathlib.Path] = [BIN / "tes-server", "users", "add", name, "--role", role, "--file", file]
        subprocess.run(words, input=f"{name}-secret\n", text=True, check=True, capture_output=True)
    config = tmp_path / "site.toml"
    audit = tmp_path / "audit.jsonl"
    config.write_text(f'[auth]\nmodes = ["basic"]\nusers_file = "{file}"\n[log]\naudit = "{audit}"\n')
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--config", str(config)) as server:
        four(server, {name: by_password(name) for name in ("alice", "bob", "vera", "root")})
        subprocess.run([BIN / "tes-server", "users", "remove", "bob", "--file", file], check=True, capture_output=True)
        deadline = time.monotonic() + 60
        while "401" not in tes(server, by_password("bob"), "list").stderr:  # a try takes its time
            assert time.monotonic() < deadline
        assert "secret" not in server.log.read_text() + audit.read_text()
    did = [(line["action"], line.get("owner")) for line in map(json.loads, audit.read_text().splitlines())]
    created = [owner for action, owner in did if action == "task.create"]
    assert created == ["alice", "bob", "root"]
    assert ("task.cancel", "root") in did
    assert ("sign_in.refused", None) in did


@pytest.fixture
def issuer() -> Iterator[str]:
    home = packages.modules("oidc-provider", "oidc-provider@9.13.3")
    program = pathlib.Path(__file__).with_name("provider.mjs")
    provider = subprocess.Popen(["node", program, home], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert provider.stdout is not None
    with provider:
        yield provider.stdout.readline().strip()
        provider.kill()


def token(issuer: str, who: str, resource: str = "urn:tes") -> str:
    """An access token, as a program gets one."""
    secrets = urllib.request.HTTPPasswordMgrWithPriorAuth()
    secrets.add_password(None, issuer, who, f"{who}-secret", is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(secrets))
    form = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": "tes", "resource": resource}).encode()
    with opener.open(f"{issuer}/token", form, timeout=30) as answer:
        return str(json.load(answer)["access_token"])


@pytest.mark.oidc
@pytest.mark.usefixtures("sandbox_works")
def test_by_tokens_of_an_openid_provider(tmp_path: pathlib.Path, issuer: str) -> None:
    config = tmp_path / "site.toml"
    config.write_text(
        f"""
[auth]
modes = ["oidc"]
[[auth.issuers]]
issuer = "{issuer}"
audience = ["urn:tes", "urn:tes-opaque"]
scopes = ["tes"]
owner = "client_id"
introspection = "discovery"
client_id = "tes-server"
client_secret_variable = "OUR_SECRET"
roles = [
  {{role = "admin", claim = "groups", value = "admins"}},
  {{role = "viewer", claim = "groups", value = "auditors"}},
  {{role = "user", claim = "groups", value = "staff"}},
]
"""
    )
    arguments = ("--engine", "sandbox", "--allow-host", "--config", str(config))
    with served(tmp_path / "data", *arguments, environment={"OUR_SECRET": "tes-server-secret", "no_proxy": "*"}) as server:
        tokens = {name: token(issuer, name) for name in ("alice", "bob", "vera", "root", "mallory")}
        four(server, {name: {"TES_TOKEN": text} for name, text in tokens.items()})
        # The same people by tokens that only the issuer can read.
        opaque = token(issuer, "alice", "urn:tes-opaque")
        assert "." not in opaque
        mine, theirs = (tes(server, {"TES_TOKEN": text}, "list", "--quiet").stdout for text in (opaque, tokens["alice"]))
        assert mine == theirs != ""
        assert "403" in tes(server, {"TES_TOKEN": tokens["mallory"]}, "list").stderr
        assert "not for this server" in tes(server, {"TES_TOKEN": token(issuer, "alice", "urn:other")}, "list").stderr
        log = server.log.read_text()
        assert '"audit.line"' in log
        assert not [secret for secret in (*tokens.values(), opaque, "tes-server-secret") if secret in log]
