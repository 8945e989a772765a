"""The token server of a registry (Docker's token specification): who signs in may pull and push, anybody else may nothing."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import pathlib
import ssl
import subprocess
import urllib.parse
import uuid
from collections.abc import Iterator

from tests.contract.web_server import Answer, Request, serving
from tests.integration.conftest import unreachable

ISSUER, SERVICE = "tes-test", "the registry"


class TokenServer:
    """`url` is its realm. `certificate` (a file) is what a registry trusts its tokens by."""

    def __init__(self, directory: pathlib.Path, url: str, user: str, password: str) -> None:
        self.url = f"{url}/token"
        self.certificate = directory / "tokens.pem"
        self.scopes: list[str] = []
        """asked for so far"""
        self._key = directory / "tokens.key"
        self._basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "1", "-keyout", str(self._key)]
        _openssl(*words, "-out", str(self.certificate))

    def answer(self, request: Request) -> Answer:
        """A token for the scopes that are asked for."""
        if request.headers.get("authorization") != self._basic:
            return Answer(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}')
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        assert asked["service"] == [SERVICE]
        scopes = " ".join(asked.get("scope", [])).split()
        self.scopes += scopes
        return Answer(200, json.dumps({"token": self._signed(scopes)}).encode())

    def _signed(self, scopes: list[str]) -> str:
        now = int(datetime.datetime.now(datetime.UTC).timestamp())
        access = [dict(zip(("type", "name"), scope.split(":")[:2], strict=True), actions=scope.split(":")[2].split(",")) for scope in scopes]
        claims = {"iss": ISSUER, "aud": SERVICE, "sub": "x", "iat": now - 60, "nbf": now - 60, "exp": now + 600, "jti": uuid.uuid4().hex, "access": access}
        chain = [base64.b64encode(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).decode()]
        text = f"{_text({'typ': 'JWT', 'alg': 'RS256', 'x5c': chain})}.{_text(claims)}"
        return f"{text}.{_url64(_openssl('dgst', '-sha256', '-sign', str(self._key), data=text.encode()))}"


@contextlib.contextmanager
def running(directory: pathlib.Path, user: str, password: str) -> Iterator[TokenServer]:
    """A token server that knows one user; its key and certificate are made in `directory`."""
    with serving() as server:
        tokens = TokenServer(directory, server.url, user, password)
        server.script = tokens.answer
        yield tokens


def _text(content: dict[str, object]) -> str:
    return _url64(json.dumps(content).encode())


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _openssl(*words: str, data: bytes = b"") -> bytes:
    try:
        return subprocess.run(["openssl", *words], input=data, check=True, capture_output=True).stdout
    except FileNotFoundError as cause:
        unreachable("openssl", cause)
