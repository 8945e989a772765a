"""Logins are found where `docker login` put them."""

from __future__ import annotations

import base64
import json
import pathlib

import pytest

from tes_server import errors
from tes_server.runner import image_credentials
from tes_server.runner.image_credentials import Login
from tes_server.telemetry import Code

ENTRY = {"auth": base64.b64encode(b"me:pass:word").decode()}


def written(tmp_path: pathlib.Path, **content: object) -> pathlib.Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def helper(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A directory on the path, for docker-credential-*."""
    where = tmp_path / "bin"
    where.mkdir()
    monkeypatch.setenv("PATH", f"{where}:/usr/bin:/bin")
    return where


def program(where: pathlib.Path, name: str, script: str) -> None:
    file = where / f"docker-credential-{name}"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.mark.parametrize("key", ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v1/", "r.example:5000/v2"])
def test_an_entry_is_for_its_host(tmp_path: pathlib.Path, key: str) -> None:
    config = written(tmp_path, auths={"other.example": {"auth": "b3RoZXI6eA=="}, key: ENTRY}, HttpHeaders={"x": "y"})
    assert image_credentials.find(config, "r.example:5000") == Login(user="me", password="pass:word")
    assert image_credentials.find(config, "r.example") is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "https://registry-1.docker.io"])
def test_docker_hub_has_a_key_of_its_own(tmp_path: pathlib.Path, key: str) -> None:
    assert image_credentials.find(written(tmp_path, auths={key: ENTRY}), "docker.io") == Login(user="me", password="pass:word")


def test_other_forms_of_an_entry(tmp_path: pathlib.Path) -> None:
    entries = {"plain": {"username": "u", "password": "p"}, "identity": {"auth": "MDA6", "identitytoken": "t"}, "empty": {}}
    config = written(tmp_path, auths=entries)
    assert image_credentials.find(config, "plain") == Login(user="u", password="p")
    assert image_credentials.find(config, "identity") == Login(user="00", identity="t")
    assert image_credentials.find(config, "empty") is None


def test_without_a_file_we_are_anybody(tmp_path: pathlib.Path) -> None:
    assert image_credentials.find(None, "x") is None
    assert image_credentials.find(tmp_path / "none", "x") is None


def test_a_helper_is_asked(tmp_path: pathlib.Path, helper: pathlib.Path) -> None:
    program(helper, "one", 'read key; test "$1" = get && printf \'{"ServerURL":"%s","Username":"u","Secret":"%s"}\' "$key" "$key"')
    program(helper, "token", 'printf \'{"Username":"<token>","Secret":"t"}\'')
    config = written(tmp_path, auths={"stored.example": {}, "own.example": ENTRY}, credsStore="one", credHelpers={"gcr.example": "token"})
    assert image_credentials.find(config, "stored.example") == Login(user="u", password="stored.example")
    assert image_credentials.find(config, "docker.io") == Login(user="u", password="https://index.docker.io/v1/")
    assert image_credentials.find(config, "gcr.example") == Login(identity="t")
    assert image_credentials.find(config, "own.example") == Login(user="me", password="pass:word")


def test_a_helper_that_has_none(tmp_path: pathlib.Path, helper: pathlib.Path) -> None:
    program(helper, "none", "echo credentials not found in native keychain; exit 1")
    assert image_credentials.find(written(tmp_path, credsStore="none"), "x.example") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"auths": {"x": {"auth": "not base64!"}}}, "base64"),
        ({"auths": [ENTRY]}, "cannot be read"),
        ({"credsStore": "absent"}, "does not work"),
        ({"credsStore": "../../bin/sh"}, "no name of a program"),
        ({"credsStore": "broken"}, "exit code 3"),
        ({"credsStore": "chatty"}, "something else than a login"),
    ],
)
def test_what_is_broken_is_told_without_secrets(tmp_path: pathlib.Path, helper: pathlib.Path, content: dict[str, object], words: str) -> None:
    program(helper, "broken", "echo my-secret >&2; exit 3")
    program(helper, "chatty", "echo my-secret")
    with pytest.raises(errors.EngineError, match=words) as caught:
        image_credentials.find(written(tmp_path, **content), "x")
    assert caught.value.code == Code.IMAGE_DENIED
    assert "secret" not in caught.value.public
    assert str(tmp_path) not in caught.value.public


def test_a_file_that_is_no_text_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"auths": {"\xff": {}}}')
    with pytest.raises(errors.EngineError, match="cannot be read"):
        image_credentials.find(tmp_path / "config.json", "x")


def test_a_login_does_not_show_itself() -> None:
    assert "word" not in repr(Login(user="me", password="pass:word"))
