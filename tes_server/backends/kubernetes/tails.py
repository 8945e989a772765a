"""Live output of a pod's executors: what stage-out writes of it into its log, or tes-step where it is alone. For readers, and for the last words of a
command that did not fit into its message: nothing else of a task depends on it.

The logs of the executors themselves mix stdout and stderr; a cluster keeps them apart only behind a feature gate (PodLogsQuerySplitStreams, alpha).
"""

from __future__ import annotations

import msgspec

from tes_server.backends.kubernetes import alone, calls, names
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.objects import PodObject
from tes_server.model.run import Tails
from tes_server.model.task import ExecutorLog
from tes_server.runner import pod_told
from tes_server.runner.pod_told import Told

LINES = 32
"""Lines that are asked for, from the end: container runtimes keep a long one in pieces of 16 KiB, which count."""


def read(server: Calls, pods: str, pod: PodObject) -> Tails | None:
    """The output up to now of a pod below `pods` (the path of a namespace's pods); None if none was told yet."""
    single = alone.of(pod)
    if single is None:
        return _last(log(server, pods, pod, names.STAGE_OUT, tailLines=LINES))
    seen = told(server, pods, pod, names.executor(single.executor.index))
    attempt = pod.metadata.labels.get(names.ATTEMPT, "")
    if seen is None or not attempt.isdecimal():
        return None
    return Tails(int(attempt), (ExecutorLog(stdout=seen.stdout.text, stderr=seen.stderr.text),))


def told(server: Calls, pods: str, pod: PodObject, container: str) -> Told | None:
    """What tes-step told last in a container's log; None if nothing, or if the log is gone."""
    return pod_told.last(log(server, pods, pod, container, tailLines=LINES))


def log(server: Calls, pods: str, pod: PodObject, container: str, **most: int) -> bytes:
    """A container's log, as much of it as `most` says (`tailLines`, `limitBytes`); b"" where there is none (yet, or any more)."""
    answer = server.get(f"{pods}/{calls.part(pod.metadata.name)}/log", container=container, **{key: str(value) for key, value in most.items()})
    if answer.status in (204, 400, 404):  # no node has taken it, it does not run yet, or is gone
        return b""
    if answer.status != 200:
        calls.refuse(answer, f"the log of {container} of {pod.metadata.name} cannot be read")
    return answer.body


def _last(data: bytes) -> Tails | None:
    for line in reversed(data.splitlines()):
        try:
            return msgspec.json.decode(line, type=Tails)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # half a line, a report, a warning
            continue
    return None
