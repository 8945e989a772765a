"""Live output of a pod's executors, from its logs. Only for readers: nothing of a task depends on it."""

from __future__ import annotations

from tes_server.backends.kubernetes import calls, names
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.objects import PodObject
from tes_server.model.run import Tails
from tes_server.model.task import ExecutorLog

LINES = 1000
"""Lines that are asked for, from the end."""

SHOWN = 8
"""Executors whose output is read: the last of those that have been started."""


class Reader:
    """Reads logs below `pods` (the path of a namespace's pods). Thread-safe."""

    def __init__(self, server: Calls, pods: str, keep: int) -> None:
        self._calls = server
        self._pods = pods
        self._keep = keep
        self._split = True

    def read(self, attempt: str, pod: PodObject) -> Tails | None:
        """The output up to now, one entry for each executor that was started; None if there is nothing to read."""
        started = 0
        for status in pod.status.container_statuses or ():
            if names.index_of(status.name) is None or not (status.state.running or status.state.terminated):
                break
            started += 1
            if status.state.running:  # those behind it wait for their turn
                break
        if not started:
            return None
        logs = [ExecutorLog()] * max(0, started - SHOWN)
        for index in range(len(logs), started):
            out, err = self._streams(pod.metadata.name, names.executor(index))
            logs.append(ExecutorLog(stdout=out, stderr=err))
        return Tails(int(attempt.rpartition("-")[2]), tuple(logs))

    def _streams(self, pod: str, container: str) -> tuple[str, str]:
        """stdout and stderr where the cluster keeps them apart (PodLogsQuerySplitStreams), else both as stdout."""
        if self._split:
            out, err = (self._log(pod, container, stream=stream) for stream in ("Stdout", "Stderr"))
            # A server that does not know the parameter refuses it, or passes it over and sends both each time.
            self._split = out is not None and err is not None and (out != err or not out)
            if self._split:
                return out or "", err or ""
        return self._log(pod, container) or "", ""

    def _log(self, pod: str, container: str, **query: str) -> str | None:
        answer = self._calls.get(f"{self._pods}/{calls.part(pod)}/log", container=container, tailLines=str(LINES), **query)
        if answer.status in (400, 404, 422):
            return None
        if answer.status != 200:
            calls.refuse(answer, f"the log of {container} of {pod} cannot be read")
        return answer.body[-2 * self._keep :].decode("utf-8", "replace")
