"""Memory of the server's processes: `python -m benchmarks.memory --json`.

The sum of PSS (proportional set size: pages that processes share are counted once) of the parent, one API worker and the
reconciler: idle, and with 10,000 active tasks, of which as many run as the site has cores and all others wait. Baseline:
an interpreter that has done nothing, once for each process.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import api, figures, server

MB = 1_000_000


def pss(pids: list[int]) -> float:
    """MB (10^6 bytes) that the processes have together."""
    total = 0
    for pid in pids:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return total / MB


def bare(count: int) -> float:
    """MB of `count` interpreters that do nothing."""
    waiting = "import sys; print(flush=True); sys.stdin.read()"
    processes = [subprocess.Popen([sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    used = pss([process.pid for process in processes])
    for process in processes:
        process.communicate()
    return used


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="active tasks")
    chosen = parser.parse_args()
    where = figures.machine()
    with tempfile.TemporaryDirectory(dir=chosen.data) as base, server.running(pathlib.Path(base, "data")) as ours:
        ours.state(ours.create(server.no_op("host")))
        time.sleep(5)  # start-up's garbage is gone, the reconciler has had its first sweep
        idle = pss(ours.processes())
        with server.full(ours, cores=int(where["cores"])):
            first = ours.create(api.task(10))
            for number in range(1, chosen.tasks):
                last = ours.create(api.task(10))
                if number % 10 == 0:
                    ours.ask("GET", f"/v1/tasks/{last}?view=FULL")
            ours.ask("GET", "/v1/tasks?page_size=256&view=FULL")
            time.sleep(5)
            active = pss(ours.processes())
            if ours.state(first) != "QUEUED":
                raise SystemExit("the tasks do not wait")
        nothing = bare(len(ours.processes()))
    note = "as many bare interpreters"
    figures.show(
        "memory",
        [
            figures.compared("idle, PSS of all processes", "MB", [(idle, nothing)], goal="<= 160", baseline_is=note),
            figures.compared(f"with {chosen.tasks} active tasks", "MB", [(active, nothing)], goal="<= 300", baseline_is=note),
        ],
        where,
        as_json=chosen.json,
    )


if __name__ == "__main__":
    main()
