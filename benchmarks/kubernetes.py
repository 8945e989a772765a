"""No-op tasks as pods of a real cluster: `python -m benchmarks.kubernetes --json` (KUBECONFIG names it, `--image` the server's image on its node).

Rates: tasks through a whole server against bare Jobs, in alternating blocks: those with stage steps against Jobs of the very same pod, those that need
none against Jobs of one container. Then, through a proxy that counts: writes of a task's life, lists, and the time from the word of a pod's end to the
GET that shows COMPLETE.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import cluster, figures, server
from benchmarks.cluster import Cluster, Proxy
from benchmarks.server import Server

IMAGE = "tes-test/busybox"

WRITES = ("POST", "PATCH", "PUT", "DELETE")

PARTS = ("calls", "stages", "alone")

PAUSE = 0.25
"""Seconds between two GETs of a task: what the server answers here it cannot do for the tasks."""


def plain() -> dict[str, Any]:
    """A task with nothing to move."""
    return server.no_op(IMAGE, cpu_cores=0.01)


def staged() -> dict[str, Any]:
    """A task with an input, which is nothing."""
    return {**plain(), "inputs": [{"path": "/work/in", "content": ""}]}


def through(ours: Server, space: Cluster, task: dict[str, Any], count: int) -> float:
    """Tasks a second from the first create to the last COMPLETE, seen by a client."""
    begin = time.perf_counter()
    ids = [ours.create(task) for _ in range(count)]
    ours.wait(ids, {"COMPLETE"}, PAUSE)
    taken = time.perf_counter() - begin
    space.clear()
    return count / taken


def stages(base: pathlib.Path, space: Cluster, image: str, tasks: int, rounds: int) -> figures.Figure:
    """Tasks with stage steps against bare Jobs of the same pod."""
    with cluster.serving(base / "stages", space, image) as ours:
        first = ours.create(staged())
        ours.wait([first], {"COMPLETE"})
        same = space.job(f"{first}-1")
        space.clear()
        pairs = figures.interleaved(lambda: through(ours, space, staged(), tasks), lambda: space.rate(same, tasks), rounds)
    what, baseline = "tasks with stage steps, as pods", "bare Jobs of the same pod"
    return figures.compared(what, "a second", pairs, goal="ratio >= 0.9", baseline_is=baseline, tasks=tasks)


def alone(base: pathlib.Path, space: Cluster, image: str, tasks: int, rounds: int) -> figures.Figure:
    """Tasks that need no stage steps against bare Jobs of one container."""
    with cluster.serving(base / "alone", space, image) as ours:
        ours.wait([ours.create(plain())], {"COMPLETE"})
        space.clear()
        single = cluster.one_container(IMAGE)
        pairs = figures.interleaved(lambda: through(ours, space, plain(), tasks), lambda: space.rate(single, tasks), rounds)
    what, baseline = "tasks without, as pods", "bare Jobs of one container"
    return figures.compared(what, "a second", pairs, goal="ratio >= 0.75", baseline_is=baseline, tasks=tasks)


def calls(base: pathlib.Path, space: Cluster, image: str, active: int) -> list[figures.Figure]:
    """What `active` tasks at a time cost the API server, and how soon a client sees their ends."""
    with cluster.proxy(space) as proxy, cluster.serving(base / "calls", space, image, cluster.kubeconfig(base / "kubeconfig", proxy.url)) as ours:
        ours.wait([ours.create(plain())], {"COMPLETE"})  # tes-step is there now
        before = proxy.counts.copy()
        ids = [ours.create(task) for task in (plain(), staged()) for _ in range(active // 2)]
        taken = seen(ours, proxy, ids)
        time.sleep(10)  # what is given back after the end is a write, too
        counts = proxy.counts - before
    space.clear()
    made = ", ".join(f"{number} {verb} {kind}" for (verb, kind), number in sorted(counts.items()))
    writes = sum(number for (verb, _), number in counts.items() if verb in WRITES)
    lists = sum(number for (verb, _), number in proxy.counts.items() if verb == "LIST")
    return [
        figures.Figure(what="writes of a task's life", figure=round(writes / len(ids), 3), unit="calls", goal="<= 2", notes={"requests": made}),
        figures.Figure(what=f"lists, {len(ids)} active tasks and the start", figure=lists, unit="calls", goal="none for a task"),
        figures.Figure(
            what="from the watch event to COMPLETE, p99",
            figure=round(figures.percentile(taken, 99) * 1000),
            unit="ms",
            goal="< 1000",
            notes={"tasks": len(taken), "p50_ms": round(figures.percentile(taken, 50) * 1000)},
        ),
    ]


def seen(ours: Server, proxy: Proxy, ids: list[str]) -> list[float]:
    """Seconds from the word of each task's end, as it went by, to the GET that shows it. Asks for no task before that word."""
    left, taken = set(ids), []
    end = time.monotonic() + cluster.PATIENCE
    while left:
        for task in [task for task in left if task in proxy.ended]:
            state = ours.state(task)
            if state == "COMPLETE":
                taken.append(time.perf_counter() - proxy.ended[task])
                left.remove(task)
            elif state in server.ENDS:
                raise SystemExit(f"{task} ended with {state}")
        if time.monotonic() > end:
            raise SystemExit(f"{len(left)} tasks have not ended")
        time.sleep(0.005)
    return taken


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=500, help="tasks in one block")
    parser.add_argument("--active", type=int, default=200, help="tasks at a time while calls are counted")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure: all of it takes most of an hour")
    parser.add_argument("--image", default="tes-test/server", help="the server's image")
    chosen = parser.parse_args()
    where = figures.machine()
    with contextlib.ExitStack() as stack:
        base = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.data)))
        space = stack.enter_context(cluster.namespace())
        found: list[figures.Figure] = []
        if "calls" in chosen.parts:
            found += calls(base, space, chosen.image, chosen.active)
        if "stages" in chosen.parts:
            found.append(stages(base, space, chosen.image, chosen.tasks, chosen.rounds))
        if "alone" in chosen.parts:
            found.append(alone(base, space, chosen.image, chosen.tasks, chosen.rounds))
    figures.show("kubernetes", found, where, as_json=chosen.json)


if __name__ == "__main__":
    main()
