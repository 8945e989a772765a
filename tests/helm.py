"""The programs `helm` and `kubectl`, and the chart of this checkout."""

from __future__ import annotations

import functools
import pathlib
import shutil
import subprocess

from tests.integration.conftest import unreachable

CHART = pathlib.Path(__file__).parents[1] / "charts" / "tes-server"
USUAL = pathlib.Path("~/.cache/tes-cluster/current")


@functools.cache
def program(name: str) -> str:
    """Its path; skips, or fails, where it is not there."""
    usual = USUAL.expanduser() / name
    found = shutil.which(name) or (str(usual) if usual.is_file() else "")
    if not found:
        unreachable(name, "there is no such program (../shared/cluster/up makes it)")
    return found


def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`helm WORDS`. Where it fails and `check` is set, its words are the error."""
    return _run("helm", words, "", check)


def kubectl(*words: str, given: str = "") -> str:
    """What `kubectl WORDS` prints."""
    return _run("kubectl", words, given, check=True).stdout


def _run(name: str, words: tuple[str, ...], given: str, check: bool) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program(name), *words], input=given, capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, f"{name} {' '.join(words)}: {done.stderr}{done.stdout}"
    return done
