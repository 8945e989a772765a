"""What the tests of tes-step share: the type of the fixture `run`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
"""`run("--tee", "--", "true", umask=0o77)`: words of the command line, then options of subprocess.run."""
