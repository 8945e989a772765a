"""Agents that run nothing: a task is running until somebody says that it has ended. For what does not need Docker, and for tens of thousands of tasks."""

from __future__ import annotations

from tests.emulators.azure_batch.agents import Agents
from tests.emulators.azure_batch.protocol import Json
from tests.emulators.azure_batch.records import Node, Run, Task


class Pretence(Agents):
    """`finish` is what a container would do."""

    def start(self, run: Run) -> None:
        settings = run.task.spec.get("containerSettings", {})
        code = self.broken.get(settings.get("imageName", ""))
        if code is not None:
            self._account.ended(run, None, image_failure(code))
        else:
            run.directory.mkdir(parents=True, exist_ok=True)
            (run.directory / "stdout.txt").touch()
            self._account.running(run, "0" * 64 if settings else "")

    def finish(self, task: Task, code: int = 0) -> None:
        """Its command has exited."""
        with self._account.lock:
            assert task.run is not None, f"{task.id} does not run"
            self._account.ended(task.run, code, None)

    def stop(self, run: Run) -> None:
        def stop() -> None:
            self.threads.pause(self.slow)
            with self._account.lock:
                self._account.ended(run, 137, None)

        self.threads.spawn(stop) if self.slow else stop()

    def refresh(self, run: Run) -> None:
        """They are empty."""

    def erase(self, node: Node) -> None:
        """There is nothing but files of this test."""

    def run_start_task(self, node: Node, given: Json) -> tuple[int | None, Json | None]:
        return 0, None


def image_failure(code: str, words: str = "One or more container images specified are invalid", details: str = "") -> Json:
    """The failureInfo of an image that cannot be had."""
    found = [{"name": "Message", "value": details}] if details else []
    return {"category": "usererror", "code": code, "message": words, "details": found}
