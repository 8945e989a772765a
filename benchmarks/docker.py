"""No-op tasks through the Docker engine, against bare containers on the same daemon: `python -m benchmarks.docker --json`.

Blocks of ours and of bare Docker alternate; the ratio is the median of the rounds, and the spread is that of the ratios.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile

from benchmarks import figures, noop, server


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=40, help="tasks in one block")
    parser.add_argument("--network", default="bridge", choices=["bridge", "none", "host"], help="of the server's tasks and of the bare containers")
    chosen = parser.parse_args()
    where = figures.machine()
    with contextlib.ExitStack() as stack:
        data = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.data)))
        ours = stack.enter_context(server.running(data / "data", engine="docker", local__cpus=noop.AT_ONCE, docker__network=chosen.network))
        bare = noop.BareDocker(noop.IMAGE, chosen.network)
        stack.callback(bare.close)
        noop.through(ours, noop.IMAGE, noop.AT_ONCE)  # the first task of an image asks the daemon about it
        bare.rate(noop.AT_ONCE)
        pairs = figures.interleaved(lambda: noop.through(ours, noop.IMAGE, chosen.tasks), lambda: bare.rate(chosen.tasks), chosen.rounds)
    result = figures.compared(
        "no-op tasks through Docker",
        "a second",
        pairs,
        goal="ratio >= 0.95",
        baseline_is="bare create+start+wait+remove",
        tasks_in_a_block=chosen.tasks,
        at_once=noop.AT_ONCE,
        network=chosen.network,
    )
    figures.show("docker", [result], where, as_json=chosen.json)


if __name__ == "__main__":
    main()
