"""Settings of the HTTP side: what contradicts itself, and files of TLS that cannot be used, are refused with the key at fault."""

from __future__ import annotations

import datetime
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tes_server import configuration, errors, server_rules
from tes_server.settings_server import ServerSettings
from tests.tls_files import Authority

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def site(tmp_path: pathlib.Path, authority: Authority) -> pathlib.Path:
    authority.write(tmp_path)
    return tmp_path


def of(site: pathlib.Path, **more: Any) -> ServerSettings:
    flags = {"server.tls.certificate": str(site / "tls.crt"), "server.tls.key": str(site / "tls.key"), **more}
    return configuration.load(None, {}, flags).server


def refused(site: pathlib.Path, where: str, words: str) -> None:
    with pytest.raises(errors.SettingsError, match=words) as told:
        server_rules.certificate(of(site))
    assert told.value.where == where
    condition = server_rules.condition(of(site), NOW)
    assert condition is not None
    assert not condition[0]
    assert where in condition[1]


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        ({"server.tls.certificate": "/x"}, "server.tls.key"),
        ({"server.tls.key": "/x"}, "server.tls.certificate"),
        ({"server.cors_origins": ["*"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["https://a.example", "https://b.example/"]}, "server.cors_origins[1]"),
        ({"server.cors_origins": ["https://*.example"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["https://A.example"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["https://a.example:443"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["https://u@a.example"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["https://a.example:x"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["null"]}, "server.cors_origins[0]"),
        ({"server.cors_origins": ["portal.example"]}, "server.cors_origins[0]"),
    ],
)
def test_contradictions_are_refused(flags: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as told:
        server_rules.check(configuration.load(None, {}, flags).server)
    assert told.value.where == where


@pytest.mark.parametrize("origin", ["https://portal.example.org", "http://localhost:3000", "https://[2001:db8::1]:8443"])
def test_origins(origin: str) -> None:
    server_rules.check(configuration.load(None, {}, {"server.cors_origins": [origin]}).server)


def test_without_tls_there_is_nothing_to_say() -> None:
    assert server_rules.certificate(ServerSettings()) is None
    assert server_rules.condition(ServerSettings(), NOW) is None


def test_good_files(site: pathlib.Path) -> None:
    found = server_rules.certificate(of(site))
    assert found is not None
    assert found.context.minimum_version.name == "TLSv1_2"
    assert server_rules.condition(of(site), NOW) == (True, f"TLS 1.2 or newer with {site}/tls.crt, good until {found.until():%Y-%m-%d}")


def test_what_expires_soon_is_told(site: pathlib.Path, authority: Authority) -> None:
    authority.write(site, NOW + datetime.timedelta(days=5, hours=1))
    condition = server_rules.condition(of(site), NOW)
    assert condition is not None
    assert condition[0]
    assert condition[1].endswith("; that is in 5 days: renew it")


def test_a_file_that_is_not_there(site: pathlib.Path) -> None:
    (site / "tls.key").unlink()
    refused(site, "server.tls.key", "tls.key cannot be read: No such file")
    (site / "tls.crt").unlink()
    refused(site, "server.tls.certificate", "tls.crt cannot be read: No such file")


def test_a_file_that_is_something_else(site: pathlib.Path) -> None:
    key = (site / "tls.key").read_bytes()
    (site / "tls.key").write_bytes((site / "tls.crt").read_bytes())
    refused(site, "server.tls.key", "has no private key in PEM")
    (site / "tls.crt").write_bytes(key)
    (site / "tls.key").chmod(0o644)  # as certificates are
    refused(site, "server.tls.certificate", "has no certificate in PEM")


def test_a_key_that_everybody_can_read(site: pathlib.Path) -> None:
    (site / "tls.key").chmod(0o644)
    refused(site, "server.tls.key", "can be used by everybody")
    (site / "tls.key").chmod(0o640)  # as a mounted Secret's with fsGroup
    assert server_rules.certificate(of(site)) is not None


def test_a_key_of_another_certificate(site: pathlib.Path, authority: Authority) -> None:
    key = (site / "tls.key").read_bytes()
    authority.write(site)
    (site / "tls.key").write_bytes(key)
    refused(site, "server.tls.key", r"tls.key is not the key of .*tls.crt")


def test_a_key_with_a_password_asks_nobody(site: pathlib.Path) -> None:
    """A prompt would hold up the start for ever."""
    key = serialization.load_pem_private_key((site / "tls.key").read_bytes(), None)
    closed = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"canary"))
    (site / "tls.key").write_bytes(closed)
    refused(site, "server.tls.key", "has a password")


def test_what_expired_or_is_not_valid_yet(site: pathlib.Path, authority: Authority) -> None:
    authority.write(site, NOW - datetime.timedelta(days=1))
    refused(site, "server.tls.certificate", "expired at")


def test_renewed_files_are_taken_up_once_they_are_good(site: pathlib.Path, authority: Authority) -> None:
    found = server_rules.certificate(of(site))
    assert found is not None
    first = found.context
    found.renew(0.0)
    assert found.context is first
    key = (site / "tls.key").read_bytes()
    authority.write(site)
    good = (site / "tls.key").read_bytes()
    (site / "tls.key").write_bytes(key)  # one of two files is new
    found.renew(10.0)
    assert found.context is first
    (site / "tls.key").write_bytes(good)
    found.renew(11.0)
    assert found.context is first, "files were looked at a moment ago"
    found.renew(20.0)
    assert found.context is not first


def test_connections_leave_files_for_the_rest() -> None:
    program = (
        "import resource, tes_server.server_rules as rules, tes_server.settings_server as settings\n"
        "for files in (100, 4000, 8000):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "    print(rules.bounds(settings.ServerSettings()).connections)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["50", str(4000 - server_rules.SPARE), "4000"]
