"""The layers of DESIGN are held by import-linter, and the checker itself is held by planted errors."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LINTER = pathlib.Path(sys.executable).with_name("lint-imports")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("model/planted.py", "from tes_server.control import decide"),
        ("plan/planted.py", "import socket"),
        ("api/planted.py", "from tes_server.store import sqlite"),
        ("runner/planted.py", "import flask"),
    ],
)
def test_a_planted_import_is_found(tmp_path: pathlib.Path, module: str, line: str) -> None:
    shutil.copytree(ROOT / "tes_server", tmp_path / "tes_server", ignore=shutil.ignore_patterns("bin", "__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    (tmp_path / "tes_server" / module).write_text(f'"""Planted."""\n\n{line}  # noqa: F401\n')
    done = subprocess.run([LINTER, "--no-cache"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
    assert "planted" in done.stdout


def test_no_module_outgrows_its_bound() -> None:
    """One idea a module: 400 lines are the very most (CONTRIBUTING)."""
    long = {str(path.relative_to(ROOT)): lines for path in (ROOT / "tes_server").rglob("*.py") if (lines := path.read_text().count("\n")) > 400}
    assert long == {}
