"""The program `helm`, and the chart of this checkout."""

from __future__ import annotations

import functools
import pathlib
import shutil
import subprocess

from tests.integration.conftest import unreachable

CHART = pathlib.Path(__file__).parents[1] / "charts" / "tes-server"
USUAL = pathlib.Path("~/.cache/tes-cluster/current/helm")


@functools.cache
def program() -> str:
    """Its path; skips, or fails, where it is not there."""
    usual = USUAL.expanduser()
    found = shutil.which("helm") or (str(usual) if usual.is_file() else "")
    if not found:
        unreachable("helm", "there is no such program (../shared/cluster/up makes it)")
    return found


def run(*words: str, check: bool = True, patience: float = 300.0) -> subprocess.CompletedProcess[str]:
    """`helm WORDS`. Where it fails and `check` is set, its words are the error."""
    done = subprocess.run([program(), *words], capture_output=True, text=True, check=False, timeout=patience)
    assert not check or done.returncode == 0, f"helm {' '.join(words)}: {done.stderr}{done.stdout}"
    return done
