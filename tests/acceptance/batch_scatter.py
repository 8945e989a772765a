"""Many preemptible tasks, with input and output in a store."""

from __future__ import annotations

from typing import Any

from tests.acceptance.batch_site import IMAGE, SMALL, Site
from tests.torture.crowd import Crowd


class Scatter(Crowd):
    """The output of each is its input."""

    def __init__(self, site: Site, tasks: int) -> None:
        super().__init__(site.server, IMAGE, site.files / "live", f"{site.store.url}/data/{site.name}")
        self._store = site.store
        self._folder = f"data/{site.name}"
        for number in range(tasks):
            self._store.put(f"{self._folder}/in-{number}", f"{number}\n".encode())

    def task(self, number: int, length: float) -> dict[str, Any]:
        body = super().task(number, length)
        body["executors"][0]["command"][2] += "cat in > result\n"
        body["inputs"].append({"path": "/work/in", "url": f"{self.results}/in-{number}"})
        return {**body, "resources": {**SMALL, "preemptible": True}}

    def result(self, number: int) -> str:
        return self._store.objects(f"{self._folder}/{number}")[""].decode()
