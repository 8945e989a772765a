"""tes-step as an object of the cluster: a ConfigMap that pods of one container mount. Named by its content and immutable: versions lie side by side."""

from __future__ import annotations

import base64
import hashlib
import platform
import threading
import time

from tes_server import step
from tes_server.backends.kubernetes import calls, names
from tes_server.backends.kubernetes.calls import Answer, Calls
from tes_server.backends.kubernetes.render import Object
from tes_server.backends.kubernetes.site import Program

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
"""What Kubernetes calls a machine."""

SURE = 60.0
"""Seconds for which it is believed to be there after it was seen: somebody may delete it."""


def of_this_server() -> Program:
    """For machines as this one is."""
    digest = hashlib.sha256(step.path().read_bytes()).hexdigest()
    return Program(name=f"tes-step-{digest[:16]}", architecture=ARCHITECTURES[platform.machine().lower()])


def config_map(program: Program, namespace: str) -> Object:
    """The object."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "immutable": True,
        "metadata": {"name": program.name, "namespace": namespace, "labels": {names.MANAGED: names.MANAGER}},
        "binaryData": {names.PROGRAM: base64.b64encode(step.path().read_bytes()).decode()},
    }


class Keeper:
    """Sees to it that the ConfigMap is there before a pod needs it. Thread-safe."""

    def __init__(self, server: Calls, namespace: str, program: Program) -> None:
        self._calls = server
        self._namespace = namespace
        self._program = program
        self._path = f"/api/v1/namespaces/{calls.part(namespace)}/configmaps"
        self._lock = threading.Lock()
        self._seen = float("-inf")

    def refusal(self) -> Answer | None:
        """None if it is there. `errors.Unavailable` where nobody knows."""
        with self._lock:
            if time.monotonic() - self._seen < SURE:
                return None
            answer = self._calls.get(f"{self._path}/{calls.part(self._program.name)}")
            if answer.status == 404:
                answer = self._calls.post(self._path, config_map(self._program, self._namespace))
            if answer.status not in (200, 201, 409):
                return answer
            self._seen = time.monotonic()
            return None
