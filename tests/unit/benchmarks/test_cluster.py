"""What the figures of `kubernetes` are counted with."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from benchmarks import cluster, kubernetes
from benchmarks.cluster import Proxy
from tes_server.backends.kubernetes.calls import Calls
from tests.fake_cluster import FakeCluster
from tests.unit.backends.cluster_objects import ended, job_json, pod_json, running

JOBS, PODS = "/apis/batch/v1/namespaces/tes/jobs", "/api/v1/namespaces/tes/pods"
NAME = "0123456789abcdefghjkmnpqrs-1"


def connected(url: str) -> Calls:
    from kubernetes import client

    return Calls(client.Configuration(host=url.rstrip("/")))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    with HTTPServer(threaded=True) as server:
        made = FakeCluster(server)
        yield made
        made.close()


@pytest.fixture
def proxy(fake: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr("tes_server.backends.kubernetes.calls.connect", lambda _: connected(fake.url))
    with cluster.proxy(argparse.Namespace(kubeconfig="")) as made:  # type: ignore[arg-type]
        yield made


def test_requests_are_counted_by_verb_and_kind_and_passed_on(fake: FakeCluster, proxy: Proxy) -> None:
    client = connected(proxy.url)
    assert client.post(JOBS, job_json()).status == 201
    assert client.post(JOBS, job_json()).status == 409
    assert client.get(f"{JOBS}/{NAME}").status == 200
    assert client.get(JOBS, limit="1").status == 200
    assert client.patch(f"{JOBS}/{NAME}", {"spec": {"suspend": True}}).status == 200
    assert client.delete(f"{JOBS}/{NAME}").status == 200
    client.close()
    assert dict(proxy.counts) == {("POST", "jobs"): 2, ("GET", "jobs"): 1, ("LIST", "jobs"): 1, ("PATCH", "jobs"): 1, ("DELETE", "jobs"): 1}
    assert fake.writes == 4


def test_the_word_of_an_end_is_noted_when_it_goes_by(fake: FakeCluster, proxy: Proxy) -> None:
    client = connected(proxy.url)
    fake.set("pods", pod_json("Running", ended(), [ended()], running()))
    with client.stream(PODS, 20.0, watch="1", resourceVersion="1", timeoutSeconds="20") as response:
        while b"Running" not in (piece := response.read1(1 << 16)):
            assert piece, "the watch ended"
        assert proxy.ended == {}, "stage-out is at work"
        before = time.perf_counter()
        fake.set("pods", pod_json("Running", ended(), [ended()], ended()))
        response.read1(1 << 16)
        fake.until(lambda: NAME.rpartition("-")[0] in proxy.ended)
        assert before <= proxy.ended[NAME.rpartition("-")[0]] <= time.perf_counter()
        fake.cut()
    client.close()


def test_both_kinds_of_tasks_are_what_they_are_called() -> None:
    plain: dict[str, Any] = kubernetes.plain()
    assert "inputs" not in plain
    assert kubernetes.staged()["inputs"]
    [container] = cluster.one_container("i")["spec"]["template"]["spec"]["containers"]
    asked = container["resources"]["requests"]
    assert (float(asked["cpu"].removesuffix("m")) / 1000, float(asked["memory"]) / 1e9) == (plain["resources"]["cpu_cores"], plain["resources"]["ram_gb"])
