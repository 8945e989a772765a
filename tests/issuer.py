"""An issuer of tokens on loopback: real keys, real signatures, discovery and introspection over HTTP; it rotates, forgets and goes away."""

from __future__ import annotations

import base64
import functools
import json
import time
from collections.abc import Mapping
from typing import Any

import joserfc.jwk
import joserfc.jws
import joserfc.jwt
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

AUDIENCE = "tes"


@functools.cache
def rsa(kid: str, bits: int = 2048) -> joserfc.jwk.RSAKey:
    """A key of this name, made once for all tests."""
    return joserfc.jwk.RSAKey.generate_key(bits, {"kid": kid, "use": "sig"})


@functools.cache
def elliptic(kid: str, curve: str = "P-256") -> joserfc.jwk.ECKey:
    return joserfc.jwk.ECKey.generate_key(curve, {"kid": kid, "use": "sig"})


def part(value: Any) -> str:
    """A part of a token, written by hand."""
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).decode().rstrip("=")


class TokenIssuer:
    """`keys` are those that it shows. `asked` are the paths of requests so far; `status` other than 200 is what all are answered."""

    def __init__(self, server: HTTPServer, path: str = "") -> None:
        self.url = server.url_for(path).rstrip("/")
        self.keys: list[joserfc.jwk.Key] = [rsa("one")]
        self.opaque: dict[str, dict[str, Any]] = {}
        self.secret = "s3cret/of:tes"
        self.asked: list[str] = []
        self.status = 200
        self.configuration: dict[str, Any] = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "introspection_endpoint": f"{self.url}/introspect",
            "userinfo_endpoint": f"{self.url}/userinfo",
        }
        server.expect_request(f"{path}/.well-known/openid-configuration").respond_with_handler(lambda request: self._answer(request, self.configuration))
        server.expect_request(f"{path}/keys").respond_with_handler(lambda request: self._answer(request, self.shown()))
        self.users: dict[str, dict[str, Any]] = {}
        server.expect_request(f"{path}/userinfo").respond_with_handler(self._userinfo)
        server.expect_request(f"{path}/introspect", method="POST").respond_with_handler(self._introspect)

    def shown(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False) for key in self.keys]}

    def _answer(self, request: Request, document: Mapping[str, Any]) -> Response:
        self.asked.append(request.path)
        return Response(json.dumps(document), self.status, content_type="application/json")

    def _userinfo(self, request: Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        return self._answer(request, self.users[token]) if token in self.users else Response("{}", 401)

    def _introspect(self, request: Request) -> Response:
        given = request.authorization
        if given is None or (given.username, given.password) != ("tes-server", "s3cret%2Fof%3Ates"):
            self.asked.append("refused")
            return Response("{}", 401)
        return self._answer(request, self.opaque.get(request.form["token"], {"active": False}))

    def claims(self, **more: Any) -> dict[str, Any]:
        """Of a good token; None leaves a claim out."""
        now = int(time.time())
        found = {"iss": self.url, "sub": "alice", "aud": AUDIENCE, "iat": now, "exp": now + 600, **more}
        return {name: value for name, value in found.items() if value is not None}

    def token(self, key: joserfc.jwk.Key | None = None, header: Mapping[str, Any] | None = None, **more: Any) -> str:
        """A token that one of its keys has signed, or `key`."""
        key = key or self.keys[0]
        algorithm = "RS256" if key.key_type == "RSA" else "ES256"
        head = {"alg": algorithm, "kid": key.kid, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        registry = joserfc.jws.JWSRegistry(algorithms=[head["alg"]], strict_check_header=False)
        registry.max_header_length = 8192
        return joserfc.jwt.encode(head, self.claims(**more), key, registry=registry)


def bearer(token: str) -> dict[str, str]:
    """The headers of a request with this token."""
    return {"host": "127.0.0.1:8000", "authorization": f"Bearer {token}"}
