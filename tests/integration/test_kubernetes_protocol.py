"""The Kubernetes backend against an API server that keeps to the protocol, and one that does not: the real client over HTTP, the cluster in memory."""

from __future__ import annotations

import base64
import datetime
import logging
import pathlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from pytest_httpserver import HTTPServer

from tes_server import errors, step
from tes_server.backends.kubernetes import calls, driver, names, program, watch
from tes_server.backends.kubernetes.board import Board
from tes_server.backends.kubernetes.calls import Calls
from tes_server.backends.kubernetes.driver import KubernetesBackend
from tes_server.backends.kubernetes.objects import PodObject
from tes_server.backends.kubernetes.seen import Bounds
from tes_server.backends.kubernetes.site import Program, Site
from tes_server.backends.kubernetes.watch import Watch
from tes_server.filer import spool_place
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Attempt, Spool
from tes_server.model import run
from tes_server.model.run import Handle, Later, Phase, Reason, Refusal, Report, Tails
from tes_server.model.task import ExecutorLog
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Execute, Limits, Plan, StageIn, StageOut
from tes_server.runner import pod_report
from tests.fake_cluster import FakeCluster
from tests.unit.backends.cluster_objects import COMPLETE, FAILED, alone_json, condition, ended, event_json, job_json, pod_json, running, told, waiting

TASK = "0123456789abcdefghjkmnpqrs"
NAME = f"{TASK}-1"
HANDLE = Handle("kubernetes", NAME)
GOOD = Report(executors=(ExecutorLog(exit_code=0),))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    monkeypatch.setattr(watch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(watch, "LONGEST_PAUSE", 0.05)
    with HTTPServer(threaded=True) as server:
        made = FakeCluster(server)
        yield made
        made.close()


def connected(url: str) -> Calls:
    from kubernetes import client

    return Calls(client.Configuration(host=url.rstrip("/")))


Make = Callable[..., KubernetesBackend]


@pytest.fixture
def make(cluster: FakeCluster) -> Iterator[Make]:
    """A backend that watches, or not."""
    made: list[KubernetesBackend] = []

    def make(*, watching: bool = True, bounds: Bounds | None = None, kept: Spool | None = None, window: float = 60.0, **site: Any) -> KubernetesBackend:
        backend = KubernetesBackend(
            connected(cluster.url),
            Site(namespace="tes", server="s", image="server:1", **site),
            Capabilities(submit_window=window),
            lambda: datetime.datetime.now(datetime.UTC),
            bounds=bounds,
            kept=kept,
        )
        made.append(backend)
        if watching:
            backend.resume()
            cluster.until(lambda: backend.fresh)
        return backend

    yield make
    for backend in made:
        backend.close()


def plan(task: str = TASK, argument: str = "x", disk: int = 0) -> Plan:
    return Plan(
        task_id=task,
        attempt=1,
        stage_in=StageIn(),
        executors=(Execute(index=0, image="i", argv=(argument,)),),
        stage_out=StageOut(),
        mounts=(),
        limits=Limits(cpus=1, ram_bytes=10**9, disk_bytes=disk),
    )


def task(number: int) -> str:
    return f"{number:026d}"


def look(backend: KubernetesBackend, name: str = NAME) -> run.Observation:
    handle = Handle("kubernetes", name)
    return backend.observe([handle]).get(handle, run.Observation(phase=Phase.UNKNOWN))


class TestConnection:
    def test_of_a_kubeconfig(self, cluster: FakeCluster, tmp_path: pathlib.Path) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": cluster.url.rstrip("/")}}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "config").write_bytes(msgspec.json.encode(config))
        server = calls.connect(str(tmp_path / "config"))
        assert server.get("/api/v1/namespaces/tes/pods").status == 200
        server.close()

    @pytest.mark.parametrize("kubeconfig", ["", "/no/such/file"])
    def test_that_cannot_be_made_says_why(self, kubeconfig: str) -> None:
        with pytest.raises(errors.SettingsError) as caught:
            calls.connect(kubeconfig)
        assert "kubeconfig" in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "context", "where", "words"),
        [
            (None, "", "kubernetes.kubeconfig", "cannot be read: No such file or directory"),
            ("root:x:0:0", "", "kubernetes.kubeconfig", "is no kubeconfig that can be used"),
            ("a: [", "", "kubernetes.kubeconfig", "is no kubeconfig that can be used"),
            ("", "", "kubernetes.kubeconfig", "is no kubeconfig that can be used"),
            ('{"current-context": "c", "clusters": [], "users": [], "contexts": []}', "prod", "kubernetes.context", "there is no context 'prod' in"),
        ],
    )
    def test_of_a_file_that_is_none_names_the_setting(self, tmp_path: pathlib.Path, content: str | None, context: str, where: str, words: str) -> None:
        file = tmp_path / "config"
        if content is not None:
            file.write_text(content)
        with pytest.raises(errors.SettingsError) as caught:
            calls.connect(str(file), context)
        assert caught.value.where == where
        assert words in str(caught.value)

    def test_that_is_refused_is_unavailable(self) -> None:
        server = connected("http://127.0.0.1:1")
        with pytest.raises(errors.Unavailable):
            server.get("/api/v1/namespaces/tes/pods")
        server.close()


class TestSubmit:
    def test_is_one_create(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        job = backend.render(plan())
        assert backend.submit([job]) == {NAME: HANDLE}
        assert cluster.writes == 1
        assert cluster.objects["jobs"][NAME]["spec"]["backoffLimit"] == 0
        assert backend.submit([job]) == {NAME: HANDLE}, "a name that is taken is success"
        assert len(cluster.objects["jobs"]) == 1

    @pytest.mark.parametrize(
        ("status", "message", "kind", "code"),
        [
            (403, 'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: 10, limited: 10', Later, "WAITING_CAPACITY"),
            (403, 'jobs.batch is forbidden: User "u" cannot create resource "jobs" in API group "batch"', Later, "WAITING_BACKEND"),
            (403, "unable to create new content in namespace tes because it is being terminated", Later, "WAITING_BACKEND"),
            (403, 'admission webhook "policy" denied the request: no', Refusal, "REJECTED"),
            (404, 'namespaces "tes" not found', Later, "WAITING_BACKEND"),
            (401, "Unauthorized", Later, "WAITING_BACKEND"),
            (422, 'Job.batch "x" is invalid: spec.template.spec.containers[0].image', Refusal, "REJECTED"),
            (413, "Request entity too large: limit is 3145728", Refusal, "REJECTED"),
        ],
    )
    def test_refusals(self, cluster: FakeCluster, make: Make, status: int, message: str, kind: type[Any], code: str) -> None:
        backend = make(watching=False)
        cluster.fail("POST", "jobs", status, message)
        outcome = backend.submit([backend.render(plan())])[NAME]
        assert isinstance(outcome, kind)
        assert outcome.code == code
        assert message in outcome.message

    def test_a_throttled_one_waits_as_long_as_it_is_told(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False)
        cluster.fail("POST", "jobs", 429, "too many requests", Retry_After="7")
        assert backend.submit([backend.render(plan())])[NAME] == Later("WAITING_BACKEND", "too many requests", 7.0)

    @pytest.mark.parametrize("status", [500, 503, 504, 0])
    def test_an_answer_that_was_lost(self, cluster: FakeCluster, make: Make, status: int) -> None:
        """The Job was made; the second create meets it."""
        backend = make(watching=False)
        cluster.fail("POST", "jobs", status, "etcdserver: request timed out", after=True)
        assert backend.submit([backend.render(plan())]) == {NAME: HANDLE}
        assert cluster.count("POST", "jobs") == 2
        assert list(cluster.objects["jobs"]) == [NAME]

    def test_a_job_of_that_name_that_is_not_ours(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False)
        other = job_json(name=NAME)
        other["metadata"]["labels"][names.SERVER] = "another"
        cluster.set("jobs", other)
        answer = backend.submit([backend.render(plan())])[NAME]
        assert isinstance(answer, Refusal)
        assert NAME in answer.message

    def test_a_cluster_that_cannot_be_reached_has_not_been_asked(self) -> None:
        """Known to have had no effect, so that nothing has to be looked for."""
        site = Site(namespace="tes", server="s", image="server:1")
        backend = KubernetesBackend(connected("http://127.0.0.1:1"), site, Capabilities(submit_window=60.0), lambda: datetime.datetime.now(datetime.UTC))
        outcome = backend.submit([backend.render(plan())])[NAME]
        assert isinstance(outcome, Later)
        assert "cannot be reached" in outcome.message
        backend.close()

    def test_an_outcome_that_nobody_knows(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False)
        cluster.fail("POST", "jobs", 500, "no", times=3, after=True)
        assert backend.submit([backend.render(plan())]) == {}
        assert backend.find([NAME, "nobody-1"]) == {NAME: HANDLE}

    def test_finding_does_not_guess(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False)
        cluster.fail("GET", "jobs", 503)
        with pytest.raises(errors.Unavailable):
            backend.find([NAME])

    def test_nothing_begins_that_might_outlast_the_window(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False, window=calls.CONNECT + calls.READ)
        outcome = backend.submit([backend.render(plan())])[NAME]
        assert isinstance(outcome, Later)
        assert cluster.writes == 0

    def test_a_long_plan_goes_into_secrets_of_the_job(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False)
        long = plan(argument="y" * 1_500_000)
        assert backend.submit([backend.render(long)]) == {NAME: HANDLE}
        secrets = cluster.objects["secrets"]
        assert sorted(secrets) == [f"{NAME}-0", f"{NAME}-1"]
        assert all(secret["metadata"]["ownerReferences"][0]["uid"] == f"uid-of-{NAME}" for secret in secrets.values())
        order = b"".join(base64.b64decode(secrets[name]["data"]["part"]) for name in sorted(secrets))
        assert b"y" * 1_500_000 in order
        del secrets[f"{NAME}-1"]
        assert backend.submit([backend.render(long)]) == {NAME: HANDLE}, "cut off between the two, the second submit makes what is missing"
        assert len(secrets) == 2
        assert backend.find([NAME]) == {NAME: HANDLE}
        assert names.STOPPED not in cluster.objects["jobs"][NAME]["metadata"]["annotations"]

    def test_a_job_that_is_found_without_its_plan_is_stopped(self, cluster: FakeCluster, make: Make) -> None:
        """Whoever submitted it was killed in between: its pod would wait for ever."""
        backend = make()
        assert backend.submit([backend.render(plan(argument="y" * 1_500_000))]) == {NAME: HANDLE}
        del cluster.objects["secrets"][f"{NAME}-1"]
        assert make().find([NAME]) == {NAME: HANDLE}
        assert sorted(cluster.objects["secrets"]) == [f"{NAME}-0"], "it was a trial"
        cluster.set("jobs", {**cluster.objects["jobs"][NAME], "status": {"conditions": [FAILED]}})
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        seen = look(backend)
        assert (seen.reason, seen.transient) == (Reason.BACKEND, True)
        assert "who submitted it ended in between" in seen.message

    def test_a_job_whose_plan_cannot_be_kept_is_stopped(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        cluster.fail("POST", "secrets", 403, 'secrets is forbidden: User "u" cannot create resource "secrets"')
        assert backend.submit([backend.render(plan(argument="y" * 200_000))]) == {NAME: HANDLE}
        cluster.set("jobs", {**cluster.objects["jobs"][NAME], "status": {"conditions": [FAILED]}})
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        seen = look(backend)
        assert (seen.reason, seen.transient) == (Reason.BACKEND, True)
        assert "cannot create resource" in seen.message


class TestLife:
    def test_one_write_and_no_read_for_a_task_that_ends_well(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        backend.submit([backend.render(plan())])
        cluster.until(lambda: look(backend).phase is Phase.PENDING)
        for pod, phase in (
            (pod_json("Pending", node=""), Phase.PENDING),
            (pod_json("Pending", running(), [waiting("PodInitializing")], waiting("PodInitializing")), Phase.STAGING),
            (pod_json("Running", ended(), [running()], running()), Phase.RUNNING),
            (pod_json("Succeeded", ended(), [ended()], told(GOOD)), Phase.ENDED),
        ):
            cluster.set("pods", pod)
            cluster.until(lambda phase=phase: look(backend).phase is phase)  # type: ignore[misc]
        report = look(backend).report
        assert report is not None
        assert report.executors == GOOD.executors
        cluster.set("jobs", {**cluster.objects["jobs"][NAME], "status": {"conditions": [COMPLETE]}})
        cluster.until(lambda: (job := backend._board.seen(NAME)) and job.job and job.job.finished)
        assert HANDLE in list(backend.survey())
        backend.release([HANDLE])
        assert look(backend).phase is Phase.GONE
        assert list(backend.survey()) == []
        assert cluster.writes == 1
        assert not [request for request in cluster.requests if request[0] in ("GET", "LOG")]

    def test_two_hundred_tasks_are_listed_once(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        jobs = [backend.render(plan(task(number))) for number in range(200)]
        handles = list(backend.submit(jobs).values())
        assert all(isinstance(handle, Handle) for handle in handles)
        for number in range(200):
            cluster.set("pods", pod_json("Running", ended(), [running()], running(), name=f"{task(number)}-1"))

        def all_run() -> bool:
            return {seen.phase for seen in backend.observe(handles).values()} == {Phase.RUNNING}  # type: ignore[arg-type]

        cluster.until(all_run)
        assert [cluster.count("LIST", kind) for kind in ("jobs", "pods", "events")] == [1, 1, 1]
        assert cluster.count("GET", "jobs") == 0

    def test_news_are_ids_of_tasks_and_only_of_what_is_new(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        heard: list[str] = []
        backend.listen(heard.extend)
        cluster.set("jobs", job_json())
        cluster.until(lambda: heard == [TASK])
        cluster.set("jobs", job_json())  # another version of the same
        cluster.set("pods", pod_json("Pending", node=""))
        cluster.until(lambda: len(heard) > 1)
        assert heard == [TASK, TASK]

    def test_a_job_that_the_watch_has_not_shown_yet_is_not_gone(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        cluster.silent = True
        backend.submit([backend.render(plan())])
        assert look(backend).phase is Phase.PENDING
        assert cluster.count("GET", "jobs") == 0

    def test_gone_is_asked_for_before_it_is_told(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        assert look(backend).phase is Phase.GONE
        cluster.fail("GET", "jobs", 500)
        assert look(backend).phase is Phase.UNKNOWN
        cluster.silent = True
        cluster.set("jobs", job_json(created=time.time()))
        assert look(backend).phase is Phase.PENDING, "there, though the watch has not told"

    def test_a_young_job_that_was_deleted_is_gone_at_once(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        backend.submit([backend.render(plan())])
        cluster.until(lambda: backend._board.seen(NAME))
        assert look(backend).phase is Phase.PENDING
        cluster.remove("jobs", NAME)
        cluster.until(lambda: look(backend).phase is Phase.GONE)

    def test_a_job_deleted_by_hand_is_gone_with_its_pod(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Running", ended(), [running()], running()))
        backend = make()
        assert look(backend).phase is Phase.RUNNING
        cluster.remove("jobs", NAME)
        assert look(backend).phase is Phase.RUNNING, "its pod is still there"
        cluster.remove("pods", f"{NAME}-x7k2p")
        cluster.until(lambda: look(backend).phase is Phase.GONE)

    def test_a_pod_deleted_by_hand_leaves_its_report(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Running", ended(), [running()], running()))
        backend = make()
        cut = Report(executors=(ExecutorLog(exit_code=143, stdout="words"),), reason=Reason.LOST, code="LOST", message="stopped from outside")
        cluster.set("pods", pod_json("Failed", ended(), [ended()], told(cut), deleting=100))
        cluster.remove("pods", f"{NAME}-x7k2p")
        cluster.set("jobs", job_json(FAILED))
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        report = look(backend).report
        assert report is not None
        assert report.executors == cut.executors

    def test_a_pod_that_came_and_ended_in_a_gap_of_its_watch_is_asked_for(self, cluster: FakeCluster, make: Make) -> None:
        """The watch of Jobs was quicker to come back."""
        backend = make()
        backend.submit([backend.render(plan())])
        cluster.until(lambda: backend._board.seen(NAME))
        cluster.fail("GET", "pods", 503, watches=True, times=10_000)
        cluster.cut()
        cluster.set("pods", pod_json("Succeeded", ended(), [ended()], told(GOOD)))
        cluster.set("jobs", {**cluster.objects["jobs"][NAME], "status": {"conditions": [COMPLETE]}})
        cluster.until(lambda: (seen := backend._board.seen(NAME)) and seen.job and seen.job.finished)
        cluster.fail("GET", "pods", 500, watches=False)
        assert look(backend).phase is Phase.UNKNOWN, "no news while nobody answers"
        report = look(backend).report
        assert report is not None
        assert report.executors == GOOD.executors

    def test_many_pods_of_a_gap_are_asked_for_at_once(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        cluster.fail("GET", "pods", 503, watches=True, times=10_000)
        cluster.cut()
        handles = [Handle("kubernetes", f"{task(number)}-1") for number in range(50)]
        for handle in handles:
            cluster.set("pods", pod_json("Succeeded", ended(), [ended()], told(GOOD), name=handle.name))
            cluster.set("jobs", job_json(COMPLETE, name=handle.name))
        cluster.until(lambda: all((seen := backend._board.seen(handle.name)) and seen.job for handle in handles))
        seen = backend.observe(handles)
        assert {handle for handle, look in seen.items() if look.report} == set(handles)
        assert cluster.count("LIST", "pods") == 2, "the first, and one for all"

    def test_a_crowd_that_is_stopped_in_a_queue_costs_one_list(self, cluster: FakeCluster, make: Make) -> None:
        """None of them ever had a pod."""
        backend = make(queue="q")
        jobs = [backend.render(plan(task(number))) for number in range(50)]
        handles = [handle for handle in backend.submit(jobs).values() if isinstance(handle, Handle)]
        assert len(handles) == 50
        backend.cancel(handles)
        assert {look.reason for look in backend.observe(handles).values()} == {Reason.CANCELED}
        assert cluster.count("LIST", "pods") == 2, "the first, and one for all"

    def test_a_pod_that_still_runs_is_not_told_to_be_stopped(self, cluster: FakeCluster, make: Make) -> None:
        """Its watch has not shown it yet, that of Jobs has shown the stop."""
        backend = make(queue="q")
        cluster.fail("GET", "pods", 503, watches=True, times=10_000)
        cluster.cut()
        backend.submit([backend.render(plan())])
        cluster.set("pods", pod_json("Running", ended(), [running()], running()))
        backend.cancel([HANDLE])
        assert look(backend).phase is Phase.RUNNING

    def test_live_output_is_the_last_that_stage_out_told(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Running", ended(), [ended(), running()], running()))
        old, new = (Tails(1, (ExecutorLog(stdout=text, stderr="why\n"),)) for text in ("a", "ab"))
        lines = [msgspec.json.encode(old), msgspec.json.encode(new), pod_report.body(GOOD), b'{"attempt": 1, "execu']
        cluster.logs[f"{NAME}-x7k2p", "stage-out"] = b"\n".join(lines)
        backend = make()
        assert backend.tail([HANDLE, Handle("kubernetes", "nobody-1")]) == {HANDLE: new}
        assert cluster.count("LOG", "pods") == 1
        del cluster.logs[f"{NAME}-x7k2p", "stage-out"]
        assert backend.tail([HANDLE]) == {}

    def test_no_live_output_before_a_node_has_the_pod(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Pending", node=""))
        assert make().tail([HANDLE]) == {}
        assert cluster.count("LOG", "pods") == 1


class TestReports:
    LONG = Report(executors=(ExecutorLog(exit_code=0, stdout=random.Random(3).randbytes(20_000).hex()),))

    def test_a_long_one_is_read_from_the_log_once_the_task_has_ended(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json(COMPLETE))
        cluster.set("pods", pod_json("Succeeded", ended(), [ended()], told(self.LONG)))
        cluster.logs[f"{NAME}-x7k2p", "stage-out"] = b"a warning\n" + pod_report.body(self.LONG) + b"\n"
        backend = make()
        cluster.fail("GET", "pods", 500, watches=False)
        assert look(backend).phase is Phase.UNKNOWN, "no news while it cannot be read"
        report = look(backend).report
        assert report is not None
        assert report.executors == self.LONG.executors

    def test_a_log_that_is_gone(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json(COMPLETE))
        cluster.set("pods", pod_json("Succeeded", ended(), [ended()], told(self.LONG)))
        seen = look(make())
        assert (seen.phase, seen.reason) == (Phase.ENDED, Reason.LOST)

    @pytest.mark.parametrize("pod", [True, False])
    def test_from_the_spool(self, cluster: FakeCluster, make: Make, tmp_path: pathlib.Path, pod: bool) -> None:
        kept = spool_place.opened(f"file://{tmp_path}/spool", Access())
        kept.put_report(Attempt(TASK, 1), self.LONG)
        cluster.set("jobs", job_json(COMPLETE))
        if pod:
            cluster.set("pods", pod_json("Succeeded", ended(), [ended()], ended(message=pod_report.message(self.LONG, "spool"))))
        report = look(make(kept=kept)).report
        assert report is not None
        assert report.executors == self.LONG.executors

    def test_a_task_that_ended_while_this_server_was_away_too_long(self, make: Make, tmp_path: pathlib.Path) -> None:
        """Its Job went with its TTL; the spool has its report until it is released."""
        kept = spool_place.opened(f"file://{tmp_path}/spool", Access())
        kept.put_report(Attempt(TASK, 1), GOOD)
        backend = make(kept=kept)
        assert look(backend).report == GOOD
        backend.release([HANDLE])
        assert look(backend).phase is Phase.GONE
        assert kept.attempts() == set()
        assert look(make(kept=kept)).phase is Phase.GONE


class TestStops:
    def test_a_wait_that_is_over_is_one_patch_that_keeps_the_reason(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Pending", ended(), [waiting("ImagePullBackOff", "manifest unknown: not found")], running()))
        backend = make(bounds=Bounds(image=0.0))
        assert look(backend).phase is Phase.STAGING
        cluster.until(lambda: (seen := backend._board.seen(NAME)) and seen.stop)
        for _ in range(3):
            assert look(backend).phase is Phase.STAGING, "it ends when its pod does"
        assert cluster.writes == 1
        assert cluster.objects["jobs"][NAME]["spec"]["activeDeadlineSeconds"] == 1
        cluster.remove("pods", f"{NAME}-x7k2p")
        cluster.set("jobs", {**cluster.objects["jobs"][NAME], "status": {"conditions": [condition("Failed", "DeadlineExceeded")]}})
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        again = make()  # after a restart nothing but the Job is left
        for seen in (look(backend), look(again)):
            assert (seen.reason, seen.code) == (Reason.IMAGE, "IMAGE_NOT_FOUND")

    def test_waits_are_judged_by_the_clusters_clock(self, cluster: FakeCluster, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """An hour between both clocks must not end what has just begun to wait."""
        backend = make(bounds=Bounds(start=600))
        monkeypatch.setattr(backend, "_clock", lambda: datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1))
        backend.submit([backend.render(plan())])
        cluster.until(lambda: backend._board.seen(NAME))
        assert look(backend).phase is Phase.PENDING
        assert cluster.writes == 1

    def test_cancel(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Running", ended(), [running()], running()))
        backend = make()
        backend.cancel([HANDLE, Handle("kubernetes", "nobody-1")])
        backend.cancel([HANDLE])
        assert look(backend).phase is Phase.RUNNING
        cluster.remove("pods", f"{NAME}-x7k2p")
        cluster.set("jobs", {**cluster.objects["jobs"][NAME], "status": {"conditions": [condition("Failed", "DeadlineExceeded")]}})
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        assert look(backend).reason is Reason.CANCELED
        before = cluster.writes
        backend.cancel([HANDLE])
        assert cluster.writes == before, "what has ended needs no cancel"
        assert backend.submit([backend.render(plan())]) == {NAME: HANDLE}, "the name stays taken"

    def test_cancel_of_a_pod_whose_job_was_deleted_without_it(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("pods", pod_json("Running", ended(), [running()], running()))
        backend = make()
        backend.cancel([HANDLE])
        cluster.until(lambda: look(backend).phase is Phase.GONE)
        assert cluster.objects["pods"] == {}
        backend.cancel([HANDLE])

    def test_cancel_that_does_not_reach_the_cluster_is_told(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        cluster.fail("PATCH", "jobs", 503)
        with pytest.raises(errors.Unavailable):
            backend.cancel([HANDLE])

    def test_release_gives_back_secrets_and_claims(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(storage_class="fast", storage_from=1)
        backend.submit([backend.render(plan(argument="y" * 200_000, disk=5))])
        cluster.set("pods", pod_json("Succeeded", ended(), [ended()], told(GOOD)))
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        backend.release([HANDLE])
        backend.release([HANDLE])
        assert cluster.objects["secrets"] == {}
        assert cluster.objects["pods"] == {}, "its claim goes with it"
        assert list(cluster.objects["jobs"]) == [NAME], "the Job keeps the name until its TTL"

    def test_what_was_stopped_in_a_queue_is_removed_when_its_name_may_go(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(queue="q", ttl=1)
        backend.submit([backend.render(plan())])
        backend.cancel([HANDLE])
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        assert look(backend).reason is Reason.CANCELED
        backend.release([HANDLE])
        assert list(backend.survey()) == []
        assert list(cluster.objects["jobs"]) == [NAME]
        cluster.until(lambda: not list(backend.survey()) and not cluster.objects["jobs"])

    def test_survey_of_a_new_server(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json(COMPLETE, name=f"{task(1)}-1"))
        cluster.set("jobs", job_json(name=f"{task(2)}-1"))
        foreign = job_json(name=f"{task(3)}-1")
        foreign["metadata"]["labels"]["tes-server/server"] = "another"
        cluster.set("jobs", foreign)
        assert [handle.name for handle in make().survey()] == [f"{task(2)}-1"]
        with pytest.raises(errors.Unavailable):
            list(make(watching=False).survey())

    def test_jobs_that_people_made_of_ours_are_left_alone(self, cluster: FakeCluster, make: Make) -> None:
        """Copied with their labels under another name, or changed by hand."""
        for name in ("copy", f"copy-of-{NAME}", "a-b"):
            cluster.set("jobs", job_json(name=name))
        edited = job_json()
        edited["metadata"]["annotations"] = {"tes-server/secrets": "many"}
        cluster.set("jobs", edited)
        backend = make()
        assert list(backend.survey()) == [HANDLE]
        backend.release([HANDLE])
        assert list(backend.survey()) == []


class TestReasons:
    def test_a_quota_that_is_full_is_shown_while_it_waits(self, cluster: FakeCluster, make: Make) -> None:
        backend = make()
        backend.submit([backend.render(plan())])
        cluster.set("events", event_json("Job", "FailedCreate", 'Error creating: pods "x" is forbidden: exceeded quota: compute'))
        cluster.until(lambda: look(backend).code == "WAITING_CAPACITY")
        assert "exceeded quota" in look(backend).message

    def test_warnings_of_others_are_passed_over(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("events", event_json("Job", "FailedCreate", "no", name="somebody-elses"))
        cluster.set("jobs", job_json())
        assert "FailedCreate" not in look(make()).message


class Pods:
    """A watch of pods, with what it was told."""

    def __init__(self, cluster: FakeCluster, **options: float) -> None:
        self.board = Board()
        self.calls = connected(cluster.url)
        self.cluster = cluster
        self.watch = Watch(
            self.calls,
            "/api/v1/namespaces/tes/pods",
            PodObject,
            self.board.put_pod,
            self.board.drop_pod,
            self.board.replace_pods,
            lasts=options.get("lasts", 30.0),
            silence=options.get("silence", 30.0),
            labelSelector=f"{names.SERVER}=s",
        )
        self.watch.start()

    def phase(self, number: int) -> str:
        seen = self.board.seen(f"{task(number)}-1")
        return "" if seen is None or seen.pod is None else seen.pod.status.phase + (" gone" if seen.gone else "")

    def until(self, number: int, phase: str) -> None:
        self.cluster.until(lambda: self.phase(number) == phase)


@pytest.fixture
def watched(cluster: FakeCluster) -> Iterator[Callable[..., Pods]]:
    made: list[Pods] = []

    def start(**options: float) -> Pods:
        made.append(Pods(cluster, **options))
        assert made[-1].watch.wait(20)
        return made[-1]

    yield start
    for pods in made:
        began = time.monotonic()
        pods.watch.stop()
        assert time.monotonic() - began < 5, "a watch that is silent is left at once"
        pods.calls.close()


def pod(number: int, phase: str = "Pending") -> dict[str, Any]:
    return pod_json(phase, name=f"{task(number)}-1")


class TestWatch:
    def test_lists_in_pages_and_goes_on_from_there(self, cluster: FakeCluster, watched: Callable[..., Pods], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch, "PAGE", 3)
        for number in range(8):
            cluster.set("pods", pod(number))
        pods = watched()
        assert [pods.phase(number) for number in range(8)] == ["Pending"] * 8
        assert cluster.count("LIST", "pods") == 3
        cluster.set("pods", pod(7, "Running"))
        cluster.set("pods", pod(8))
        pods.until(8, "Pending")
        assert pods.phase(7) == "Running"

    def test_is_resumed_where_it_was_cut(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        pods = watched()
        for number in range(20):
            cluster.set("pods", pod(number))
            cluster.cut()
        for number in range(20):
            pods.until(number, "Pending")
        assert cluster.count("LIST", "pods") == 1

    @pytest.mark.parametrize("how", ["at the start", "in the stream", "in the list"])
    def test_lists_anew_when_its_version_is_too_old(self, cluster: FakeCluster, watched: Callable[..., Pods], how: str) -> None:
        cluster.set("pods", pod(1))
        cluster.set("pods", pod(2))
        pods = watched()
        if how == "in the stream":
            cluster.garbage = [b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}}\n']
            cluster.set("pods", pod(3))
        else:
            if how == "in the list":
                cluster.fail("GET", "pods", 410, watches=False)
            cluster.remove_unseen("pods", f"{task(1)}-1-x7k2p")
            pods.until(1, "")
        cluster.until(lambda: cluster.count("LIST", "pods") > 1)
        cluster.set("pods", pod(4))
        pods.until(4, "Pending")
        pods.until(2, "Pending")

    def test_keeps_the_last_of_a_pod_that_vanished_in_a_gap(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("jobs", job_json())
        cluster.set("pods", pod_json("Running", ended(), [running()], running()))
        backend = make()
        cluster.remove_unseen("pods", f"{NAME}-x7k2p")
        cluster.set("jobs", job_json(FAILED))
        cluster.until(lambda: look(backend).phase is Phase.ENDED)
        assert look(backend).reason is Reason.LOST

    def test_goes_on_from_bookmarks(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        cluster.bookmark = True
        watched(lasts=1)
        for number in range(5):
            cluster.set("secrets", {"metadata": {"name": str(number)}})  # the cluster's version grows, and none of our pods changes
        newest = str(cluster._version)
        cluster.until(lambda: any(query.get("resourceVersion") == newest for query in cluster.queries))
        assert cluster.count("LIST", "pods") == 1

    def test_a_silent_connection_is_left(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        cluster.silent = True
        pods = watched(silence=0.3)
        cluster.until(lambda: cluster.count("WATCH", "pods") > 1)
        cluster.set("pods", pod(1))
        cluster.silent = False
        pods.until(1, "Pending")
        assert cluster.count("LIST", "pods") == 1

    @pytest.mark.parametrize("status", [429, 500, 503, 403, 0])
    @pytest.mark.parametrize("watches", [True, False])
    def test_tries_again_while_the_server_does_not_answer(self, cluster: FakeCluster, watched: Callable[..., Pods], status: int, watches: bool) -> None:
        cluster.fail("GET", "pods", status, times=3, watches=watches)
        cluster.set("pods", pod(1))
        pods = watched()
        pods.until(1, "Pending")
        cluster.set("pods", pod(2))
        pods.until(2, "Pending")

    def test_nonsense_is_not_believed(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        pods = watched()
        cluster.garbage = [b"<html>\n"]
        cluster.set("pods", pod(1))
        pods.until(1, "Pending")
        assert cluster.count("LIST", "pods") == 2

    def test_an_object_that_cannot_be_read_hides_no_other(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        spoiled = pod(9)
        spoiled["status"]["phase"] = 7
        cluster.set("pods", spoiled)
        pods = watched()
        cluster.set("pods", spoiled)
        cluster.set("pods", pod(1))
        pods.until(1, "Pending")
        assert cluster.count("LIST", "pods") == 1

    def test_a_server_that_ends_each_watch_at_once_is_not_stormed(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        watched()
        began = time.monotonic()
        for _ in range(5):
            cluster.cut()
            time.sleep(0.05)  # not for synchronisation: the storm needs time
        assert cluster.count("WATCH", "pods") <= 2 + (time.monotonic() - began)

    def test_what_was_not_heard_of_for_a_minute_is_not_relied_on(self, cluster: FakeCluster, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster.set("jobs", job_json())
        backend = make()
        assert look(backend).phase is Phase.PENDING
        monkeypatch.setattr(watch, "STALE", 0.0)
        assert look(backend).phase is Phase.UNKNOWN
        with pytest.raises(errors.Unavailable):
            list(backend.survey())

    def test_late_and_repeated_events_take_nothing_back(self, cluster: FakeCluster, watched: Callable[..., Pods]) -> None:
        pods = watched()
        old = cluster.set("pods", pod(1))
        new = cluster.set("pods", pod(1, "Running"))
        cluster.tell("pods", "MODIFIED", new)
        cluster.tell("pods", "MODIFIED", old)
        cluster.set("pods", pod(2))
        pods.until(2, "Pending")
        assert pods.phase(1) == "Running"
        cluster.remove("pods", f"{task(1)}-1-x7k2p")
        cluster.tell("pods", "MODIFIED", new)
        cluster.set("pods", pod(3))
        pods.until(3, "Pending")
        assert pods.phase(1) == ""

    def test_many_threads_leave_nothing_behind(self, make: Make) -> None:
        before = {thread.name for thread in threading.enumerate()}
        backend = make()
        backend.close()
        backend.close()
        assert not {thread.name for thread in threading.enumerate() if thread.name.startswith(("watch ", "kubernetes"))} - before


class TestProgram:
    """tes-step for pods of one container."""

    PROGRAM = Program(name="tes-step-x", architecture="amd64")

    def test_is_there_before_the_first_task_and_made_once(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False, program=self.PROGRAM)
        jobs = [backend.render(plan(task(number))) for number in range(20)]
        assert all(isinstance(answer, Handle) for answer in backend.submit(jobs).values())
        assert (cluster.count("GET", "configmaps"), cluster.count("POST", "configmaps"), cluster.count("POST", "jobs")) == (1, 1, 20)
        assert cluster.requests.index(("POST", "configmaps")) < cluster.requests.index(("POST", "jobs"))
        made = cluster.objects["configmaps"]["tes-step-x"]
        assert base64.b64decode(made["binaryData"]["tes-step"]) == step.path().read_bytes()
        assert made["immutable"] is True

    def test_one_that_is_there_is_not_made_again(self, cluster: FakeCluster, make: Make) -> None:
        cluster.set("configmaps", program.config_map(self.PROGRAM, "tes"))
        backend = make(watching=False, program=self.PROGRAM)
        backend.submit([backend.render(plan())])
        assert (cluster.count("POST", "configmaps"), cluster.writes) == (0, 1)

    def test_one_that_was_deleted_comes_back(self, cluster: FakeCluster, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(program, "SURE", 0.0)
        backend = make(watching=False, program=self.PROGRAM)
        backend.submit([backend.render(plan(task(1)))])
        cluster.remove("configmaps", "tes-step-x")
        backend.submit([backend.render(plan(task(2)))])
        assert "tes-step-x" in cluster.objects["configmaps"]

    @pytest.mark.parametrize("status", [403, 500, 0])
    def test_without_it_nothing_is_started(self, cluster: FakeCluster, make: Make, status: int) -> None:
        cluster.fail("POST", "configmaps", status, "cannot create resource configmaps")
        backend = make(watching=False, program=self.PROGRAM)
        job = backend.render(plan())
        answer = backend.submit([job])[job.name]
        assert isinstance(answer, Later)
        assert answer.code == "WAITING_BACKEND"
        assert cluster.count("POST", "jobs") == 0
        assert isinstance(backend.submit([job])[job.name], Handle)

    def test_tasks_with_stage_steps_do_without(self, cluster: FakeCluster, make: Make) -> None:
        backend = make(watching=False)
        backend.submit([backend.render(plan())])
        assert cluster.count("GET", "configmaps") == 0

    @pytest.mark.parametrize(("age", "phase"), [(0.0, Phase.UNKNOWN), (driver.LOG_PATIENCE + 5, Phase.ENDED)])
    def test_a_node_that_does_not_tell_the_rest_is_not_waited_for_without_end(self, cluster: FakeCluster, make: Make, age: float, phase: Phase) -> None:
        cluster.set("jobs", job_json(COMPLETE))
        end = int((time.time() - age) * 1e9)
        streams = '"stdout":{"left_out":9,"head":"a","tail":"z"},"stderr":{"left_out":0,"head":"","tail":""}'
        state = ended(message=f'{{"tes_step":1,"start":1,"end":{end},"code":3,{streams}}}')
        cluster.set("pods", alone_json("Succeeded", state))
        backend = make(program=self.PROGRAM)
        cluster.fail("GET", "pods", 500, "dial tcp 10.0.0.7:10250: connect: no route to host", watches=False)
        seen = look(backend)
        assert seen.phase is phase
        assert cluster.count("LOG", "pods") == 1
        if seen.report is not None:
            assert seen.report.executors[0].stdout == "a\n... 9 bytes left out ...\nz"
