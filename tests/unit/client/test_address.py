import base64
import pathlib

import pytest

from tes_server import errors
from tes_server.client import address


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://tes.example.org/", "https://tes.example.org"),
        ("https://tes.example.org/ga4gh/tes/v1/", "https://tes.example.org/ga4gh/tes/v1"),
        ("http://[::1]:80/v1?x=y#z", "http://[::1]:80/v1"),
        ("https://ann:p%40ss@tes.example.org:8443/tes", "https://tes.example.org:8443/tes"),
    ],
)
def test_url_is_kept_without_secrets_query_and_last_slash(url: str, plain: str) -> None:
    assert address.find(url, None, {}).url == plain


@pytest.mark.parametrize("url", ["tes.example.org:8000", "ftp://tes.example.org", "http://", "http://host:port/", "http://[::1"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(errors.Invalid, match="URL"):
        address.find(url, None, {})


def test_a_refused_url_does_not_show_its_password() -> None:
    with pytest.raises(errors.Invalid) as caught:
        address.find("htp://ann:secret@host", None, {})
    assert "secret" not in str(caught.value)


def test_first_credentials_given_win(tmp_path: pathlib.Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("from-file\n")
    environment = {"TES_TOKEN": "from-env", "TES_USER": "eve", "TES_PASSWORD": "pw"}
    with_user = "http://ann:p%40ss@host"
    assert address.find(with_user, token_file, environment).authorization == "Bearer from-file"
    assert address.find(with_user, None, environment).authorization == basic("ann:p@ss")
    assert address.find("http://host", None, environment).authorization == "Bearer from-env"
    del environment["TES_TOKEN"]
    assert address.find("http://host", None, environment).authorization == basic("eve:pw")
    assert address.find("http://host", None, {}).authorization == ""


@pytest.mark.parametrize("token", ["", "two\nlines", "t\u00f6ken"])
def test_a_token_that_cannot_be_a_header_is_refused_and_not_shown(tmp_path: pathlib.Path, token: str) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(token, encoding="utf-8")
    with pytest.raises(errors.Invalid, match="printable ASCII") as caught:
        address.find("http://host", token_file, {})
    assert not token or token not in str(caught.value)


def test_a_token_file_that_is_missing_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.Invalid, match="absent"):
        address.find("http://host", tmp_path / "absent", {})
