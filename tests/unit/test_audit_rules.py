"""What the audit log is told of image scans at a start."""

from __future__ import annotations

import pathlib

import pytest

from tes_server import audit_rules, configuration
from tes_server.settings import Settings

TABLE = """
[scan]
mode = "warn"
scanner = "trivy"
image = "registry.example/trivy@sha256:0a"
exempt = ["registry.example/base/*"]
owners = {"lab-*" = "off"}
[scan.policy]
ignore = [{id = "CVE-2026-1", reason = "looked at", expires = 2026-12-31, package = "zlib"}]
"""


def settings(tmp_path: pathlib.Path, text: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return configuration.load(file, {}, {})


def test_scans(tmp_path: pathlib.Path) -> None:
    told = audit_rules.scans(settings(tmp_path, TABLE))
    hashed = told.pop("policy")
    assert len(hashed) == 16
    assert told == {
        "mode": "warn, owner lab-*: off",
        "place": "job",
        "on_error": "block",
        "exempt": "registry.example/base/*",
        "ignore": "CVE-2026-1 of zlib until 2026-12-31",
    }
    assert audit_rules.scans(settings(tmp_path, TABLE.replace("2026-12-31", "2027-12-31")))["policy"] != hashed
    assert audit_rules.scans(settings(tmp_path, TABLE.replace("base", "other")))["policy"] != hashed
    assert audit_rules.scans(Settings()) == {"mode": "off"}


@pytest.mark.parametrize(("audit", "modes", "place"), [("", [], "none"), ("", ["basic"], "log"), ("/var/x", [], "/var/x"), ("none", ["basic"], "none")])
def test_where_it_is(tmp_path: pathlib.Path, audit: str, modes: list[str], place: str) -> None:
    assert audit_rules.place(settings(tmp_path, f"[log]\naudit = '{audit}'\n[auth]\nmodes = {modes}\n")) == place
