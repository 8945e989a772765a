"""The program that each node runs beside its runners: `python -m tes_server.runner.node_reaper [DIRECTORY]`. Ends, within seconds, the containers of
runners that died, and deletes their files.

It needs the node's Docker socket and the runners' directory (`node.WORK`, or the one given), at the same path as on the node, and no credential. This
module must never import on top what takes time: see `node_main`.
"""

from __future__ import annotations

import signal
import sys
import threading

from tes_server import signals

ENDING = 2.0
"""Seconds between two looks for containers whose runner is dead: one call of the daemon."""

DELETING = 30.0
"""Seconds between two looks for files that dead runners left."""


def main(arguments: list[str]) -> int:
    """Until TERM."""
    stop = threading.Event()
    signals.hear(stop.set, signal.SIGTERM)
    from tes_server import telemetry
    from tes_server.runner import node, node_sweep

    telemetry.set_up_logging("INFO")
    work = arguments[0] if arguments else node.WORK
    # Deleting takes long at times, and no container is to live on meanwhile.
    threading.Thread(target=node_sweep.repeat, args=(node_sweep.sweep, work, DELETING, stop), name="files", daemon=True).start()
    node_sweep.repeat(node_sweep.end, work, ENDING, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
