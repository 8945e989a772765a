"""Secrets that this machine keeps, and what is said of those that it does not."""

from __future__ import annotations

import os
import pathlib

import pytest

from tes_server import errors
from tes_server.plan.steps import Execute
from tes_server.runner import local_secrets
from tes_server.runner.vault import LONGEST, Vault
from tes_server.telemetry import Code


def test_files_directories_and_variables(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t0k3n\n")
    mounted = tmp_path / "portal"
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..2026" / "user").write_text("u")
    (mounted / "..data").symlink_to("..2026")
    (mounted / "user").symlink_to("..data/user")
    monkeypatch.setenv("PORTAL", "from the server")
    references = {"token": str(tmp_path / "token"), "portal": str(mounted), "variable": "env:PORTAL"}
    env = {"A": "secret://token", "B": "secret://portal/user", "C": "secret://variable", "D": "secret://portal"}
    opened = Vault(references, local_secrets.look).opened(Execute(index=0, image="i", argv=("x",), env=env)).env
    assert opened == {"A": "t0k3n", "B": "u", "C": "from the server", "D": '{"user": "u"}'}


@pytest.mark.parametrize(
    ("kept", "code"),
    [("missing", Code.SECRET_NOT_FOUND), ("env:TES_TEST_NOT_SET", Code.SECRET_NOT_FOUND), ("binary", Code.SECRET_ERROR), ("file/below", Code.SECRET_ERROR)],
)
def test_what_cannot_be_had_is_told_without_a_path(tmp_path: pathlib.Path, kept: str, code: Code) -> None:
    (tmp_path / "binary").write_bytes(b"s3cr3t\xff")
    (tmp_path / "file").write_text("s3cr3t")
    with pytest.raises(errors.StagingError) as raised:
        local_secrets.look(kept if kept.startswith("env:") else str(tmp_path / kept))
    assert raised.value.code == code
    assert "s3cr3t" not in raised.value.public
    assert str(tmp_path) not in raised.value.public


def test_a_file_that_is_too_long_is_refused_and_not_cut(tmp_path: pathlib.Path) -> None:
    (tmp_path / "long").write_text("x" * (LONGEST + 1000))
    with pytest.raises(errors.StagingError, match="more than"):
        Vault({"long": str(tmp_path / "long")}, local_secrets.look).opened(Execute(index=0, image="i", argv=("x",), env={"A": "secret://long"}))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_of_others(tmp_path: pathlib.Path) -> None:
    (tmp_path / "theirs").touch(mode=0)
    with pytest.raises(errors.StagingError) as raised:
        local_secrets.look(str(tmp_path / "theirs"))
    assert raised.value.code == Code.SECRET_DENIED
