"""The program of a runner's container on a node: `python -m tes_server.runner.node_main`. Hears TERM from its first moment on, and only then loads what
it takes to do anything.

The first process of a container gets no signal that it does not handle: one that came while modules were loaded would be lost, and containers be left
behind. This module must never import on top what takes time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from tes_server import signals


def main() -> int:
    """One attempt; the exit code (see `node`)."""
    stop = threading.Event()
    signals.hear(stop.set, signal.SIGTERM)
    from tes_server import telemetry
    from tes_server.runner import node_run

    telemetry.set_up_logging("INFO")
    return node_run.run(os.environ, stop)


if __name__ == "__main__":
    sys.exit(main())
