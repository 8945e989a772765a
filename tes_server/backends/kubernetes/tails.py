"""Live output of a pod's executors: what stage-out writes of it into its log. Only for readers: nothing of a task depends on it.

The logs of the executors themselves mix stdout and stderr; a cluster keeps them apart only behind a feature gate (PodLogsQuerySplitStreams, alpha).
"""

from __future__ import annotations

import msgspec

from tes_server.backends.kubernetes import calls, names
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.objects import PodObject
from tes_server.model.run import Tails

LINES = 32
"""Lines that are asked for, from the end: container runtimes keep a long one in pieces of 16 KiB, which count."""


def read(server: Calls, pods: str, pod: PodObject) -> Tails | None:
    """The output up to now of a pod below `pods` (the path of a namespace's pods); None if none was told yet."""
    path = f"{pods}/{calls.part(pod.metadata.name)}/log"
    answer = server.get(path, container=names.STAGE_OUT, tailLines=str(LINES))
    if answer.status in (204, 400, 404):  # no node has taken it, it does not run yet, or is gone
        return None
    if answer.status != 200:
        calls.refuse(answer, f"the log of {pod.metadata.name} cannot be read")
    for line in reversed(answer.body.splitlines()):
        try:
            return msgspec.json.decode(line, type=Tails)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # half a line, a report, a warning
            continue
    return None
