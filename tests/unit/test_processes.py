"""The parent of a server's processes."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os
from tes_server import processes

def ended():
    pid = os.fork()
    if not pid:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

children = {ended(): "api", os.getppid(): "reconciler"}
ended()
print(processes._reaped(children), list(children.values()), processes._reaped(children))
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("none is left")
"""


def test_an_orphan_that_process_1_inherits_does_not_stay_a_zombie() -> None:
    """In a container without an init `serve` is process 1: a supervisor whose reconciler was killed ends as its child."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "['api'] ['reconciler'] []\nnone is left\n"
