"""A whole server with TLS of its own and sign-in: as clients, browsers and enemies meet it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import socket
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from tes_server.model.principal import Role
from tests.acceptance import raw_clients
from tests.acceptance.raw_clients import CLOSE, HEALTH, HOST
from tests.acceptance.server import BIN, Server, served
from tests.tls_files import Authority
from tests.unit.api import users

SETTINGS = """
[server]
head_timeout = 1.5
connections = 50
trusted_proxies = ["127.0.0.2"]
[server.tls]
certificate = "{site}/tls.crt"
key = "{site}/tls.key"
[auth]
modes = ["basic"]
users_file = "{site}/users"
[log]
audit = "{site}/audit.jsonl"
"""

Address = tuple[str, int]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> pathlib.Path:
    made = tmp_path_factory.mktemp("tls")
    authority.write(made)
    users.write(made / "users", ("alice", Role.USER))
    (made / "settings.toml").write_text(SETTINGS.format(site=made))
    return made


@pytest.fixture(scope="module")
def server(site: pathlib.Path) -> Iterator[Server]:
    with served(site / "data", "--api-only", "--config", str(site / "settings.toml")) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def address(server: Server) -> Address:
    parts = urllib.parse.urlsplit(server.url)
    assert (parts.scheme, parts.hostname) == ("https", "127.0.0.1")
    return "127.0.0.1", int(parts.port or 0)


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return authority.context()


def signed(name: str = "alice", password: str | None = None) -> bytes:
    return b"Authorization: " + users.basic(name, password)["authorization"].encode() + b"\r\n"


def head(answer: bytes) -> dict[str, str]:
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def test_headers_of_answers(address: Address, context: ssl.SSLContext) -> None:
    for path in (b"/ui", b"/docs", b"/v1/tasks", b"/nothing", b"/v1/service-info"):
        for sign_in in (signed(), b""):
            found = head(raw_clients.exchange(address, [b"GET " + path + b" HTTP/1.1\r\n" + HOST + sign_in + CLOSE], context))
            assert found["strict-transport-security"] == "max-age=31536000"
            assert found["x-content-type-options"] == "nosniff"
            assert "server" not in found
            if path in (b"/ui", b"/docs") and ("www-authenticate" not in found):
                assert "frame-ancestors 'none'" in found["content-security-policy"]
                assert "script-src" not in found["content-security-policy"]  # default-src 'self'
                assert found["referrer-policy"] == "same-origin"
            if path != b"/docs":
                assert found["cache-control"] == "no-store"
    refused = head(raw_clients.exchange(address, [b"GET  /\r\n\r\n"], context))
    assert refused["strict-transport-security"] == "max-age=31536000"


def test_the_tes_command_signs_in_over_it(server: Server, site: pathlib.Path, authority: Authority) -> None:
    trusting = {**os.environ, "SSL_CERT_FILE": str(authority.file(site)), "TES_USER": "alice", "TES_PASSWORD": "alice" + users.PASSWORD}
    words: list[str | pathlib.Path] = [BIN / "tes", "create", "--url", server.url, "-"]
    task = json.dumps({"executors": [{"image": "a", "command": ["b"]}]})
    done = subprocess.run(words, input=task, env=trusting, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    trusting["SSL_CERT_FILE"] = os.devnull
    done = subprocess.run(words, input=task, env=trusting, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 69
    assert "certificate" in done.stderr.lower()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(address: Address, context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        raw_clients.asked(address, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert raw_clients.asked(address, context) < raw_clients.PATIENCE


def test_the_first_request_may_come_with_the_end_of_the_handshake(address: Address, context: ssl.SSLContext) -> None:
    for _ in range(50):
        assert raw_clients.asked(address, context) < raw_clients.PATIENCE


def test_plain_http_and_silence_keep_nobody_out(server: Server, address: Address, context: ssl.SSLContext) -> None:
    assert raw_clients.exchange(address, [HEALTH + CLOSE]) == b""
    with contextlib.ExitStack() as all_of_them:
        silent = [all_of_them.enter_context(socket.create_connection(address, timeout=raw_clients.PATIENCE)) for _ in range(200)]
        assert raw_clients.asked(address, context) < 10
        for each in silent:
            with contextlib.suppress(ConnectionError):
                assert each.recv(100) == b""


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(
    server: Server, address: Address, site: pathlib.Path, authority: Authority, context: ssl.SSLContext
) -> None:
    def serial() -> str:
        with raw_clients.connected(address, context) as client:
            assert isinstance(client, ssl.SSLSocket)
            return str((client.getpeercert() or {})["serialNumber"])

    def until(logged: str) -> None:
        deadline = time.monotonic() + raw_clients.PATIENCE
        while logged not in server.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    first = serial()
    with raw_clients.connected(address, context) as old:
        old.sendall(HEALTH + b"\r\n")
        assert old.recv(1) == b"H"  # from here on it is idle, which it may be for long
        (site / "tls.crt").write_text("half a file")
        until('"tls.not_renewed"')
        assert serial() == first
        authority.write(site, datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30))
        until('"tls.renewed"')
        assert serial() != first
        old.sendall(HEALTH + CLOSE)
        assert b"".join(iter(lambda: old.recv(1000), b"")).count(b'{"status":"ok"}') == 2


def test_who_is_no_proxy_of_ours_writes_no_address_into_the_audit_log(address: Address, site: pathlib.Path, context: ssl.SSLContext) -> None:
    forged = (
        b"X-Forwarded-For: 192.0.2.66\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: evil.example\r\nX-Real-IP: 192.0.2.66\r\n"
        b"Forwarded: for=192.0.2.66;host=evil.example\r\n"
    )
    for source, password in (("127.0.0.1", "one"), ("127.0.0.3", "two"), ("127.0.0.2", "three")):
        with (
            socket.create_connection(address, timeout=raw_clients.PATIENCE, source_address=(source, 0)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            # A proxy adds the address that it saw to what its client had written there.
            client.sendall(b"GET /v1/tasks HTTP/1.1\r\n" + HOST + signed("mallory", password) + forged + b"X-Forwarded-For: 198.51.100.7\r\n" + CLOSE)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert raw_clients.status(answer) == 401
            assert head(answer)["www-authenticate"].startswith("Basic ")
            assert b"evil.example" not in answer
    lines = [json.loads(line) for line in (site / "audit.jsonl").read_text().splitlines()]
    assert [line["address"] for line in lines[-3:]] == ["127.0.0.1", "127.0.0.3", "198.51.100.7"]
    assert "192.0.2.66" not in (site / "audit.jsonl").read_text()


def test_the_doctor_tells_how_long_the_certificate_holds(site: pathlib.Path, authority: Authority) -> None:
    authority.write(site, datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30))
    words: list[str | pathlib.Path] = [BIN / "tes-server", "doctor", "--config", str(site / "settings.toml"), "--data", str(site / "other")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert [line for line in done.stdout.splitlines() if line.startswith("ok    TLS 1.2 or newer with ") and "good until 20" in line], done


def test_a_server_whose_key_does_not_fit_does_not_start(site: pathlib.Path, tmp_path: pathlib.Path, authority: Authority) -> None:
    authority.write(tmp_path)
    words: list[str | pathlib.Path] = [BIN / "tes-server", "serve", "--config", str(site / "settings.toml"), "--data", str(tmp_path / "data"), "--port", "0"]
    done = subprocess.run(
        words, env={**os.environ, "TES_SERVER__SERVER__TLS__KEY": str(tmp_path / "tls.key")}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (2, f"tes-server: server.tls.key: {tmp_path}/tls.key is not the key of {site}/tls.crt\n")
