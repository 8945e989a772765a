"""The sandbox on machines that give it less: one id (a rootless container), or no user namespaces at all.

Both are made by a user namespace of the test's own, in which everything but the refusal is real.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from tests.integration.sandbox_case import marks

pytestmark = marks

DOCTOR = "'{python}' -c 'from tes_server.cli import main; main()' doctor --engine sandbox --allow-host --data '{data}'"


@pytest.fixture
def doctor(tmp_path: pathlib.Path) -> str:
    """The command line."""
    return DOCTOR.format(python=sys.executable, data=tmp_path / "data")


def as_only_id(script: str) -> subprocess.CompletedProcess[str]:
    """Run as root of a user namespace that has no other id."""
    return subprocess.run(["unshare", "--user", "--map-root-user", "sh", "-c", script], capture_output=True, text=True, check=False)


def test_a_root_of_one_id_is_an_ordinary_user(doctor: str) -> None:
    done = as_only_id(doctor)
    assert done.returncode == 0, done.stdout
    assert re.search(r"ok    engine sandbox: bubblewrap [\d.]+, tasks as this user; .*; tasks share this machine's network", done.stdout)


def test_refused_user_namespaces_are_told_with_the_command_that_allows_them(doctor: str) -> None:
    done = as_only_id(f"echo 0 > /proc/sys/user/max_user_namespaces; {doctor}")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if "engine sandbox" in line)
    assert line.startswith("no ")
    advice = re.search(r"\(this machine refuses user namespaces; allow them: sudo (sysctl -w [\w.=]+)\)", line)
    assert advice is not None, line
    allowed = as_only_id(f"echo 0 > /proc/sys/user/max_user_namespaces; PATH=$PATH:/usr/sbin:/sbin; {advice[1]} > /dev/null; {doctor}")
    assert allowed.returncode == 0, allowed.stdout
