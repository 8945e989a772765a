"""Who we are to a registry, from the configuration of `docker login`: its `auths`, or the helper programs that it names.

It is read anew for each sign-in, so that a `docker login` counts at once. This module must never write it, log what is in
it, or speak to a registry.
"""

from __future__ import annotations

import base64
import binascii
import pathlib
import re
import subprocess

import msgspec

from tes_server import errors
from tes_server.model import image_names
from tes_server.runner import image_manifest
from tes_server.telemetry import Code

_HUB_KEYS = ("https://index.docker.io/v1/", image_names.HUB, "registry-1.docker.io", "index.docker.io")
"""Docker keeps the login of its own registry by the first of these; people write the others."""

_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_HELPER_TIMEOUT = 30.0
"""Seconds: a helper may ask a cloud's metadata service, or a key ring that waits for nobody."""
_TOKEN_USER = "<token>"  # noqa: S105 - the user name by which a helper says that the secret is an identity token


class Login(msgspec.Struct, frozen=True):
    """A user and a password, or an identity token, which is exchanged for others. Shown nowhere."""

    user: str = ""
    password: str = ""
    identity: str = ""

    def __repr__(self) -> str:
        return "Login(...)"


class _Auth(msgspec.Struct, frozen=True, rename={"identity": "identitytoken"}):
    auth: str = ""
    username: str = ""
    password: str = ""
    identity: str = ""


class _File(msgspec.Struct, frozen=True, rename={"store": "credsStore", "helpers": "credHelpers"}):
    auths: dict[str, _Auth] = {}
    store: str = ""
    helpers: dict[str, str] = {}


def find(config: pathlib.Path | None, registry: str) -> Login | None:
    """The login for `registry` (host[:port]) in Docker's `config.json`; None = ask as anybody.

    `errors.EngineError` (IMAGE_DENIED) where the file or a helper is broken: to go on as anybody would hide why.
    """
    if config is None:
        return None
    try:
        file = msgspec.json.decode(config.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except (OSError, *image_manifest.UNDECODABLE) as cause:
        raise errors.EngineError(f"the logins in Docker's {config.name} cannot be read ({type(cause).__name__})", Code.IMAGE_DENIED) from cause
    keys = _HUB_KEYS if registry == image_names.HUB else (registry,)
    for key in keys:
        if key in file.helpers:
            return _ask(file.helpers[key], key)
    found = next((auth for wanted in keys for key, auth in file.auths.items() if key == wanted or _host(key) == wanted), None)
    login = found and _login(found)
    # An entry without a secret in it says that the secret is in the store.
    return login or (_ask(file.store, keys[0]) if file.store else None)


def _host(key: str) -> str:
    """Keys of old logins are urls: https://host/v1/."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _login(entry: _Auth) -> Login | None:
    user, password = entry.username, entry.password
    if entry.auth:
        try:
            user, _, password = base64.b64decode(entry.auth).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as cause:
            raise errors.EngineError("a login in Docker's config.json is no base64 text", Code.IMAGE_DENIED) from cause
    if entry.identity:
        return Login(user=user, identity=entry.identity)
    return Login(user=user, password=password) if user else None


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    username: str
    secret: str


def _ask(helper: str, key: str) -> Login | None:
    """Docker's protocol of credential helpers: the key on stdin, JSON on stdout; a failure means that it has none."""
    if not _HELPER.fullmatch(helper):
        raise errors.EngineError("the name of a credential helper in Docker's config.json is no name of a program", Code.IMAGE_DENIED)
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run([program, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise errors.EngineError(f"{program}, which Docker's config.json names, does not work ({type(cause).__name__})", Code.IMAGE_DENIED) from cause
    if done.returncode:
        if b"credentials not found" in done.stdout + done.stderr:
            return None
        raise errors.EngineError(f"{program} failed with exit code {done.returncode}", Code.IMAGE_DENIED)
    try:
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except image_manifest.UNDECODABLE as cause:
        raise errors.EngineError(f"{program} gave something else than a login", Code.IMAGE_DENIED) from cause
    return Login(identity=answer.secret) if answer.username == _TOKEN_USER else Login(user=answer.username, password=answer.secret)
