"""The shared store goes away under load, for longer than a request waits for it."""

from __future__ import annotations

import json
import pathlib
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests import mongo_proxy, mongo_server
from tests.acceptance.server import Server, served
from tests.torture.conftest import Tell

pytestmark = [pytest.mark.mongo, pytest.mark.sandbox]

CLIENTS = 24
PATIENCE = 8.0
"""Seconds that a request waits for the store: `store.patience` as it is."""

BODY = json.dumps({"executors": [{"image": "host", "command": ["/bin/true"]}], "resources": {"cpu_cores": 0.1, "ram_gb": 0.05}}).encode()


class Client(threading.Thread):
    """Creates tasks until told to stop; with `keyed` each again until it is answered 200."""

    def __init__(self, server: Server, name: str, keyed: bool, stop: threading.Event) -> None:
        super().__init__(name=name)
        self._server = server
        self._keyed = keyed
        self._stop_asked = stop
        self.ids: list[str] = []
        self.refusals: list[tuple[int, str, int]] = []
        self.slowest = 0.0

    def run(self) -> None:
        while not self._stop_asked.is_set():
            key = f"{self.name}-{len(self.ids)}" if self._keyed else ""
            while not self._create(key) and key:
                pass
            time.sleep(0.02)

    def _create(self, key: str) -> bool:
        request = urllib.request.Request(f"{self._server.url}/v1/tasks", BODY, headers={"Idempotency-Key": key} if key else {})
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.ids.append(json.load(answer)["id"])
                return True
        except urllib.error.HTTPError as refusal:
            with refusal:
                self.refusals.append((refusal.code, refusal.headers["Retry-After"], json.load(refusal)["status"]))
            return False
        finally:
            self.slowest = max(self.slowest, time.monotonic() - begun)


def test_the_store_is_away_under_load(tmp_path: pathlib.Path, share: float, tell: Tell, sandbox_works: None) -> None:
    away = max(PATIENCE + 4, 60 * share)
    with mongo_server.database(mongo_server.url()) as account:
        proxy = mongo_proxy.Proxy(account.url)
        environment = {"TES_SERVER__STORE__URL": proxy.url, "TES_SERVER__STORE__DATABASE": account.database}
        try:
            with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", environment=environment) as server:
                stop = threading.Event()
                clients = [Client(server, f"client{number}", number % 2 == 0, stop) for number in range(CLIENTS)]
                for client in clients:
                    client.start()
                while not all(len(client.ids) > 5 for client in clients):
                    time.sleep(0.1)
                # Some inserts reach the store while their answers do not come back.
                proxy.rule("insert", collection="tasks", times=4, reaches=True)
                with proxy.away():
                    threading.Event().wait(away)
                    assert server.ask("/readyz")[0] == 503
                    assert server.ask("/healthz")[0] == 200
                before = [len(client.ids) for client in clients]
                back = time.monotonic()
                while not all(len(client.ids) > count for client, count in zip(clients, before, strict=True)):
                    assert time.monotonic() < back + 30
                    time.sleep(0.05)
                recovered = time.monotonic() - back
                stop.set()
                for client in clients:
                    client.join(60)
                ids = [task_id for client in clients for task_id in client.ids]
                assert len(set(ids)) == len(ids)
                counts = server.until_all(ids, 180)
                assert counts == {"COMPLETE": len(ids)}, "nothing that was answered 200 is lost"
                extra = {task_id: state for task_id, state in server.states().items() if task_id not in set(ids)}
                assert set(extra.values()) <= {"CANCELED", "COMPLETE"}, "what nobody was told of is taken back, or ended"
                refusals = [refusal for client in clients for refusal in client.refusals]
                assert len(refusals) >= CLIENTS
                assert all(status == told == 503 and int(after) >= 1 for status, after, told in refusals)
                slowest = max(client.slowest for client in clients)
                assert slowest < PATIENCE + 5, "a request waits 8 s for the store, and then is told"
                tell(away=away, tasks=len(ids), refused=len(refusals), slowest=round(slowest, 1), recovered=round(recovered, 1), of_nobody=len(extra))
        finally:
            proxy.close()
