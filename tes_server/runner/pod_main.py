"""The program of stage containers: `python -m tes_server.runner.pod_main in|out [DIRECTORY]`, or `scan COUNT`. Hears TERM from its first moment on,
and only then loads what it takes to do anything.

The first process of a container gets no signal that it does not handle: one that came while modules were loaded would be lost, and the pod killed at
the end of its grace, without a report. This module must never import on top what takes time.
"""

from __future__ import annotations

import pathlib
import signal
import sys
import threading

from tes_server import signals


def main(arguments: list[str]) -> int:
    """One stage step. `arguments`: its name, and its directory of a shared volume if it has one, or of how many scans it is the first."""
    stop = threading.Event()
    signals.hear(stop.set, signal.SIGTERM)
    if arguments[0] == "scan":
        from tes_server.runner import pod, pod_gate

        return pod_gate.prepare(pathlib.Path(pod.SCAN), int(arguments[1]))
    from tes_server.runner import pod_stage

    return pod_stage.run(arguments[0], pod_stage.places(*arguments[1:]), stop.is_set)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
