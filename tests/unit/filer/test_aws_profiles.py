"""Keys of AWS configuration files, and which credentials a store's words name."""

from __future__ import annotations

import pathlib

import pytest

from tes_server import errors
from tes_server.filer import aws_profiles, stores
from tes_server.filer.aws_profiles import Profile
from tes_server.filer.manifest import Access, Storage
from tes_server.plan.objects import Place

CREDENTIALS = """
[default]
aws_access_key_id = D
aws_secret_access_key = d%s

[lab]
aws_access_key_id = L
aws_secret_access_key = l
aws_session_token = t
"""
CONFIG = """
[default]
region = eu-west-1
[profile lab]
region = eu-central-1
[profile sso]
sso_start_url = https://example.org
"""


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(CREDENTIALS)
    (folder / "config").write_text(CONFIG)
    return {"HOME": str(tmp_path)}


def test_profiles(environment: dict[str, str]) -> None:
    assert aws_profiles.read("", environment) == Profile("D", "d%s", "", "eu-west-1")
    assert aws_profiles.read("lab", environment) == Profile("L", "l", "t", "eu-central-1")
    assert aws_profiles.read("", {**environment, "AWS_PROFILE": "lab"}) == Profile("L", "l", "t", "eu-central-1")
    assert aws_profiles.read("sso", environment) == Profile()
    assert aws_profiles.read("none", environment) is None


def test_other_places_and_no_places(environment: dict[str, str], tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine").write_text("[default]\naws_access_key_id = M\naws_secret_access_key = m\n")
    found = aws_profiles.read("", {**environment, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "mine")})
    assert found == Profile("M", "m", "", "eu-west-1")
    assert aws_profiles.read("", {"HOME": str(tmp_path / "nobody")}) is None
    (tmp_path / "mine").write_text("no ini")
    assert aws_profiles.read("", {"HOME": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "mine")}) is None


@pytest.mark.parametrize(
    ("store", "variables", "words"),
    [
        (Storage(url="s3://b", credentials="anonymous"), {}, "none (credentials = anonymous)"),
        (Storage(url="s3://b", key_variable="K", secret_variable="S"), {}, "the environment variables K, S"),
        (Storage(url="s3://b", profile="lab"), {}, "the AWS profile 'lab'"),
        (Storage(url="s3://b"), {"AWS_ACCESS_KEY_ID": "x"}, "the environment variable AWS_ACCESS_KEY_ID"),
        (Storage(url="s3://b"), {}, "the identity of this machine"),
        (Storage(url="s3://b", credentials="identity"), {"AWS_ACCESS_KEY_ID": "x"}, "the identity of this machine"),
    ],
)
def test_words(store: Storage, variables: dict[str, str], words: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert stores.credentials(store, Place("s3", "", "b", "k")) == words


def test_a_profile_without_keys_is_told(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", environment["HOME"])
    with pytest.raises(errors.StagingError, match="'sso' is missing or holds no keys"):
        stores.opened(Storage(url="s3://b", profile="sso"), Place("s3", "", "b", "k"), Access())
