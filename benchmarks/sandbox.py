"""No-op tasks through the whole server in the sandbox, against the bare Docker rate of the same run: `python -m benchmarks.sandbox --json`.

Blocks alternate. The image is taken from the daemon into the sandbox's cache before; `--image host` is this machine's own programs.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import tempfile

from benchmarks import figures, noop, server


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=400, help="tasks in one block of ours; bare Docker gets a tenth")
    parser.add_argument("--image", default=noop.IMAGE, help="image of our tasks")
    parser.add_argument("--network", default="host", choices=["bridge", "none", "host"], help="of the bare containers; the sandbox shares the machine's")
    chosen = parser.parse_args()
    where = figures.machine()
    with contextlib.ExitStack() as stack:
        data = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.data)))
        bare = noop.BareDocker(noop.IMAGE, chosen.network)
        stack.callback(bare.close)
        if chosen.image != "host":
            bare.save(chosen.image, data / "image.tar")
            subprocess.run(server.command("images", "load", "--data", str(data / "data"), str(data / "image.tar")), check=True, stdout=subprocess.DEVNULL)
        ours = stack.enter_context(server.running(data / "data", engine="sandbox", local__cpus=noop.AT_ONCE))
        noop.through(ours, chosen.image, noop.AT_ONCE)
        bare.rate(noop.AT_ONCE)
        before, done = ours.cpu_seconds(), 0

        def block() -> float:
            nonlocal done
            done += chosen.tasks
            return noop.through(ours, chosen.image, chosen.tasks)

        pairs = figures.interleaved(block, lambda: bare.rate(max(noop.AT_ONCE, chosen.tasks // 10)), chosen.rounds)
        spent = (ours.cpu_seconds() - before) / done * 1000
    result = figures.compared(
        "no-op tasks in the sandbox",
        "a second",
        pairs,
        goal="ratio >= 10",
        baseline_is="bare Docker",
        image=chosen.image,
        at_once=noop.AT_ONCE,
        server_cpu_ms_a_task=round(spent, 1),
    )
    figures.show("sandbox", [result], where, as_json=chosen.json)


if __name__ == "__main__":
    main()
