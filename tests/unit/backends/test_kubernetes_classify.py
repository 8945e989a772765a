"""What each state of Job, pod and events comes to: the cases of facts/kubernetes.md (tried on a real cluster) and of the documentation."""

from __future__ import annotations

import datetime
import random
from typing import Any, Literal

import msgspec
import pytest

from tes_server.backends.kubernetes.classify import classify
from tes_server.backends.kubernetes.objects import ContainerStatus
from tes_server.backends.kubernetes.seen import Bounds, Look, Seen, Stop
from tes_server.model.run import Phase, Reason, Report
from tes_server.model.task import ExecutorLog
from tes_server.plan.steps import Execute, Limits, Plan, StageIn, StageOut
from tes_server.runner import pod as podded
from tes_server.runner import pod_report
from tes_server.runner.pod_report import Elsewhere
from tests.unit.backends.cluster_objects import (
    COMPLETE,
    FAILED,
    NOW,
    condition,
    ended,
    event,
    job,
    pod,
    running,
    told,
    waiting,
)

BOUNDS = Bounds()
GOOD = Report(executors=(ExecutorLog(exit_code=0),))
CUT = Report(executors=(ExecutorLog(exit_code=143),), reason=Reason.LOST, code="LOST", message="executor 0 was stopped from outside")
VANISHED = Report(executors=(ExecutorLog(stderr="last words"),), reason=Reason.LOST, code="LOST", message="executor 0 ended without a record")
DRAINED = condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")
TOLD = '{"tes_step":1,"start":1,"end":2,"code":1,"stdout":{"left_out":0,"head":"","tail":""},"stderr":{"left_out":0,"head":"no database","tail":""}}'
STOP = Stop(reason=Reason.IMAGE, code="IMAGE_NOT_FOUND", message="image x: not found (for 300 s)")
CANCELED = Stop(reason=Reason.CANCELED, code="CANCELED", message="stopped")


def look(later: float = 0, **seen: Any) -> Look:
    """As seen `later` seconds after the objects' usual moment."""
    return classify(Seen(**seen), NOW + datetime.timedelta(seconds=later), BOUNDS)


class TestNotEnded:
    @pytest.mark.parametrize(
        ("seen", "phase", "code"),
        [
            ({"job": job(created=99)}, Phase.PENDING, ""),
            ({"job": job(created=80)}, Phase.PENDING, "WAITING_BACKEND"),
            ({"job": job(condition("Suspended", "JobSuspended"), suspend=True)}, Phase.PENDING, "WAITING_CAPACITY"),
            ({"pod": pod("Pending", node="")}, Phase.PENDING, ""),
            ({"pod": pod("Pending", waiting("PodInitializing"), [waiting("PodInitializing")], waiting("PodInitializing"))}, Phase.STAGING, ""),
            ({"pod": pod("Pending", running(), [waiting("PodInitializing")], waiting("PodInitializing"))}, Phase.STAGING, ""),
            ({"pod": pod("Running", ended(), [running()], running())}, Phase.RUNNING, ""),
            ({"pod": pod("Running", ended(), [running(), running()], waiting("ContainerCreating"))}, Phase.RUNNING, ""),
            ({"pod": pod("Running", ended(), [ended(), ended()], running())}, Phase.RUNNING, ""),
            ({"pod": pod("Running", ended(), [ended(137, "OOMKilled")], running())}, Phase.RUNNING, ""),
            ({"pod": pod("Running", ended(), [running()], running(), deleting=130)}, Phase.RUNNING, ""),
            ({"job": job(), "pod": pod("Running", ended(), [running()], running(), DRAINED)}, Phase.RUNNING, ""),
        ],
    )
    def test_phase(self, seen: dict[str, Any], phase: Phase, code: str) -> None:
        found = look(**seen)
        assert (found.observation.phase, found.observation.code, found.stop) == (phase, code, None)
        assert found.observation.report is None

    def test_tells_where_it_runs_and_since_when(self) -> None:
        seen = look(pod=pod("Running", ended(), [running()], running())).observation
        assert seen.where == {"pod": "0123456789abcdefghjkmnpqrs-1-x7k2p", "node": "node-7"}
        assert seen.run == "pod-uid-of-0123456789abcdefghjkmnpqrs-1"
        assert seen.start_time == NOW - datetime.timedelta(seconds=99)

    def test_what_is_new_comes_in_few_pieces(self) -> None:
        """Each observation that differs is a write of the task's record."""
        usual: list[dict[str, Any]] = [
            {"job": job(created=99)},
            {"job": job(created=99), "pod": pod("Pending", node="")},
            {"job": job(created=99), "pod": pod("Pending", waiting("PodInitializing"), [waiting("PodInitializing")], waiting("PodInitializing"))},
            {"job": job(created=99), "pod": pod("Pending", running(), [waiting("PodInitializing")], waiting("PodInitializing"))},
            {"job": job(created=99), "pod": pod("Pending", ended(), [waiting("PodInitializing")], waiting("PodInitializing"))},
            {"job": job(created=99), "pod": pod("Running", ended(), [running()], running())},
            {"job": job(created=99), "pod": pod("Running", ended(), [ended()], running())},
        ]
        told_ = [(seen.phase, seen.where, seen.start_time, seen.code) for seen in (look(**state).observation for state in usual)]
        assert len({msgspec.json.encode(told) for told in told_}) == 3

    def test_nothing_known_is_gone(self) -> None:
        assert look().observation.phase is Phase.GONE


UNSCHEDULABLE = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
MISSING = 'Back-off pulling image "image-0:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image: not found'
DENIED = "failed to authorize: failed to fetch anonymous token: unexpected status from GET request: 403 Forbidden"
AWAY = "failed to do request: dial tcp: lookup registry.example: i/o timeout"
QUOTA = (
    'Error creating: pods "0123456789abcdefghjkmnpqrs-1-abcde" is forbidden: exceeded quota: compute, requested: requests.cpu=1, used: requests.cpu=2,'
    " limited: requests.cpu=2"
)
FORBIDDEN = 'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
UNMOUNTED = 'Unable to attach or mount volumes: unmounted volumes=[claim-0]: timed out waiting for the condition; persistentvolumeclaim "data" not found'


def executor_waits(reason: str, message: str = "") -> Any:
    return pod("Pending", ended(until=20), [waiting(reason, message)], running())


class TestWaits:
    """Each wait shows its reason, and ends at its bound and not before."""

    @pytest.mark.parametrize(
        ("seen", "bound", "since", "code", "words", "reason", "end_code"),
        [
            (
                {"pod": pod("Pending", None, None, None, condition("PodScheduled", "Unschedulable", UNSCHEDULABLE, "False", since=1), node="")},
                BOUNDS.capacity,
                1,
                "WAITING_CAPACITY",
                "3 Insufficient cpu",
                Reason.CAPACITY,
                "WAITING_CAPACITY",
            ),
            ({"pod": executor_waits("ImagePullBackOff", MISSING)}, BOUNDS.image, 20, "IMAGE_NOT_FOUND", "not found", Reason.IMAGE, "IMAGE_NOT_FOUND"),
            ({"pod": executor_waits("ErrImagePull", DENIED)}, BOUNDS.image, 20, "IMAGE_DENIED", "403 Forbidden", Reason.IMAGE, "IMAGE_DENIED"),
            ({"pod": executor_waits("ErrImagePull", AWAY)}, BOUNDS.image, 20, "IMAGE_ERROR", "i/o timeout", Reason.IMAGE, "IMAGE_ERROR"),
            (
                {"pod": executor_waits("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")},
                BOUNDS.config,
                20,
                "WAITING_BACKEND",
                "runAsNonRoot",
                Reason.REJECTED,
                "REJECTED",
            ),
            (
                {"pod": executor_waits("CreateContainerError", "context deadline exceeded")},
                BOUNDS.config,
                20,
                "WAITING_BACKEND",
                "context",
                Reason.REJECTED,
                "REJECTED",
            ),
            (
                {"job": job(), "events": (event("Job", "FailedCreate", QUOTA),)},
                BOUNDS.capacity,
                0,
                "WAITING_CAPACITY",
                "exceeded quota",
                Reason.CAPACITY,
                "WAITING_CAPACITY",
            ),
            (
                {"job": job(), "events": (event("Job", "FailedCreate", FORBIDDEN),)},
                BOUNDS.config,
                0,
                "WAITING_BACKEND",
                "PodSecurity",
                Reason.REJECTED,
                "REJECTED",
            ),
            (
                {"pod": executor_waits("CreateContainerConfigError", 'secret "portal" not found')},
                BOUNDS.config,
                20,
                "WAITING_BACKEND",
                'secret "portal" not found',
                Reason.REJECTED,
                "SECRET_NOT_FOUND",
            ),
            ({"job": job()}, BOUNDS.start, 0, "WAITING_BACKEND", "no pod", Reason.BACKEND, "WAITING_BACKEND"),
            ({"job": job(suspend=True)}, BOUNDS.capacity, 0, "WAITING_CAPACITY", "queue", Reason.CAPACITY, "WAITING_CAPACITY"),
            (
                {
                    "pod": pod("Pending", waiting("PodInitializing"), [waiting("PodInitializing")], waiting("PodInitializing")),
                    "events": (event("Pod", "FailedMount", UNMOUNTED, series=True),),
                },
                BOUNDS.start,
                1,
                "WAITING_BACKEND",
                '"data" not found',
                Reason.BACKEND,
                "ENGINE_ERROR",
            ),
            (
                {"pod": pod("Pending", waiting("ImagePullBackOff", MISSING), [waiting("PodInitializing")], waiting("PodInitializing"))},
                BOUNDS.image,
                1,
                "WAITING_BACKEND",
                "the server's own image",
                Reason.BACKEND,
                "WAITING_BACKEND",
            ),
        ],
    )
    def test_bound(self, seen: dict[str, Any], bound: float, since: float, code: str, words: str, reason: Reason, end_code: str) -> None:
        before = look(later=since - 100 + bound - 1, **seen)
        assert before.stop is None
        assert before.observation.code == code
        assert words in before.observation.message
        assert before.observation.phase in (Phase.PENDING, Phase.STAGING)
        after = look(later=since - 100 + bound, **seen)
        assert after.observation.phase is before.observation.phase, "it has not ended before it is stopped"
        assert after.stop is not None
        assert (after.stop.reason, after.stop.code) == (reason, end_code)
        assert words in after.stop.message

    def test_time_in_a_queue_does_not_count(self) -> None:
        """The Job controller sets the start anew when a Job is resumed."""
        released = job(created=-10_000)
        released = msgspec.structs.replace(released, status=msgspec.structs.replace(released.status, start_time=NOW))
        assert look(job=released).stop is None
        assert look(later=BOUNDS.start, job=released).stop is not None

    @pytest.mark.parametrize(
        ("reason", "message"),
        [
            ("InvalidImageName", 'Failed to apply default image tag "a:b:c": couldn\'t parse image name: invalid reference format'),
            ("ErrImageNeverPull", 'Container image "i:1" is not present with pull policy of Never'),
        ],
    )
    def test_hopeless_images_do_not_wait(self, reason: str, message: str) -> None:
        stop = look(later=-79, pod=executor_waits(reason, message)).stop
        assert stop is not None
        assert (stop.reason, stop.transient) == (Reason.IMAGE, False)

    def test_an_unclear_failure_of_a_registry_may_pass(self) -> None:
        stops = [look(later=300, pod=executor_waits("ErrImagePull", words)).stop for words in (MISSING, DENIED, AWAY)]
        assert [stop.transient for stop in stops if stop] == [False, False, True]

    def test_a_program_that_is_not_for_this_machine(self) -> None:
        seen = pod("Running", ended(), [ended(128, "StartError", 'exec "/.tes/bin/tes-step": exec format error')], running())
        stop = look(pod=seen).stop
        assert stop is not None
        assert (stop.reason, stop.code) == (Reason.IMAGE, "IMAGE_ERROR")
        assert "exec format error" in stop.message

    def test_the_second_image_is_missing_while_the_first_runs(self) -> None:
        seen = pod("Pending", ended(until=20), [running(), waiting("ImagePullBackOff", MISSING)], running())
        assert look(pod=seen).observation.phase is Phase.RUNNING
        assert look(pod=seen).observation.code == "IMAGE_NOT_FOUND"
        assert look(later=300, pod=seen).stop is not None

    def test_the_last_warning_counts(self) -> None:
        events = (event("Job", "FailedCreate", QUOTA, since=60), event("Job", "FailedCreate", FORBIDDEN, since=20))
        assert look(job=job(), events=events).observation.code == "WAITING_CAPACITY"

    def test_the_same_refusal_of_another_try_is_no_news(self) -> None:
        """Each try of the Job controller has a pod name of its own in its words, and what differs is written down."""
        again = QUOTA.replace("-abcde", "-x7k2p")
        assert look(job=job(), events=(event("Job", "FailedCreate", QUOTA),)) == look(job=job(), events=(event("Job", "FailedCreate", again),))

    def test_what_is_being_stopped_is_not_stopped_again(self) -> None:
        found = look(later=1000, job=job(stop=STOP), pod=executor_waits("ImagePullBackOff", MISSING))
        assert (found.observation.phase, found.stop) == (Phase.STAGING, None)

    def test_a_node_that_does_not_tell(self) -> None:
        seen = pod("Running", ended(), [running()], running(), deleting=100)
        assert look(later=299, pod=seen).observation.phase is Phase.RUNNING
        late = look(later=300, pod=seen).observation
        assert (late.phase, late.reason) == (Phase.ENDED, Reason.LOST)
        assert "node-7" in late.message

    def test_long_words_are_bounded(self) -> None:
        assert len(look(pod=executor_waits("ErrImagePull", "x\n" * 10_000)).observation.message) < 1200


class TestEndedWithReport:
    LONG = Report(
        executors=(ExecutorLog(exit_code=0, stdout=random.Random(6).randbytes(20_000).hex()),),
        start_time=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        end_time=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    )

    @pytest.mark.parametrize(
        ("condition_", "phase", "executors"),
        [
            (COMPLETE, "Succeeded", [ended()]),
            (COMPLETE, "Succeeded", [ended(0, "OOMKilled")]),  # a child of the command was killed, and the command went on
            (FAILED, "Failed", [ended()]),  # another container failed: not the report's business
        ],
    )
    def test_the_report_decides(self, condition_: Any, phase: str, executors: list[Any]) -> None:
        seen = look(job=job(condition_), pod=pod(phase, ended(), executors, told(GOOD))).observation
        assert seen.phase is Phase.ENDED
        assert seen.report is not None
        assert seen.report.reason is None
        assert seen.report.executors == GOOD.executors

    def test_all_containers_ended_is_the_end(self) -> None:
        assert look(pod=pod("Running", ended(), [ended()], told(GOOD))).observation.phase is Phase.ENDED

    def test_more_disk_than_was_asked_for_is_told_by_an_event_alone(self) -> None:
        """Tried on 1.36: on TERM all containers end with 0, so the pod has Succeeded, without reason and condition."""
        words = 'Usage of EmptyDir volume "task" exceeds the limit "10M". '
        seen = look(pod=pod("Succeeded", ended(), [ended()], told(CUT)), events=(event("Pod", "Evicted", words),)).observation
        assert seen.report is not None
        assert (seen.report.reason, seen.report.code, seen.report.message) == (Reason.BACKEND, "DISK_FULL", words.strip())
        assert [log.exit_code for log in seen.report.executors] == [143]
        assert not seen.report.transient

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (ended(1, "Error", message=TOLD), "the scanner ended with exit code 1: no database"),
            (ended(0, "OOMKilled"), "exit code 0: it used more memory than it has"),
            (ended(137, "OOMKilled", message=TOLD), "exit code 137: it used more memory than it has"),
            (ended(137, "Error", message=TOLD), "exit code 137: it used more memory than it has"),  # by --exit-oom: a child of it
            (ended(137, "Error", message=TOLD.replace('"code":1', '"code":137,"late":true')), "exit code 137: its time (scan.timeout) was over"),
            (ended(143, "Error", message=TOLD.replace('"code":1', '"code":143,"late":true')), "exit code 143: its time (scan.timeout) was over"),
        ],
    )
    def test_a_scanner_that_failed_is_not_the_commands_fault(self, status: dict[str, Any], words: str) -> None:
        seen = pod("Failed", waiting("PodInitializing"), [waiting("PodInitializing")], waiting("PodInitializing"))
        scan = msgspec.convert({"name": "scan-0", "state": status}, ContainerStatus, strict=False)
        both = (scan, *(seen.status.init_container_statuses or ()))
        found = look(pod=msgspec.structs.replace(seen, status=msgspec.structs.replace(seen.status, init_container_statuses=both))).observation
        assert (found.phase, found.reason, found.code, found.transient) == (Phase.ENDED, Reason.BACKEND, "SCAN_FAILED", True)
        assert found.message.endswith(words)

    def test_images_that_ran(self) -> None:
        report = look(pod=pod("Succeeded", ended(), [ended(), ended()], told(GOOD))).observation.report
        assert report is not None
        assert report.images == {f"image-{n}:1": f"registry.example/image-{n}@sha256:{'1' * 64}" for n in (0, 1)}

    def test_images_that_ran_pinned_are_told_by_the_names_of_the_task(self) -> None:
        """`image-0:1` is what the pod was told; the task calls it otherwise, and one image has two names."""
        report = msgspec.structs.replace(GOOD, images={"a:1": "image-0:1", "a:2": "image-0:1"})
        seen = look(pod=pod("Succeeded", ended(), [ended(), ended()], told(report))).observation.report
        assert seen is not None
        assert seen.images == {
            "a:1": f"registry.example/image-0@sha256:{'1' * 64}",
            "a:2": f"registry.example/image-0@sha256:{'1' * 64}",
            "image-1:1": f"registry.example/image-1@sha256:{'1' * 64}",
        }

    def test_a_long_report_is_packed(self) -> None:
        long = Report(executors=(ExecutorLog(exit_code=0, stdout="all work and no play\n" * 1000),))
        message = pod_report.message(long, "log")
        assert len(message) <= 4096
        seen = look(pod=pod("Succeeded", ended(), [ended()], ended(message=message))).observation
        assert seen.report is not None
        assert seen.report.executors == long.executors

    def test_stage_in_that_failed(self) -> None:
        report = Report(reason=Reason.STAGING, code="INPUT_NOT_FOUND", message="/inputs/0: not found")
        seen = look(job=job(FAILED), pod=pod("Failed", told(report, 1), [waiting("PodInitializing")], waiting("PodInitializing"))).observation
        assert seen.report is not None
        assert (seen.phase, seen.report.reason, seen.report.code) == (Phase.ENDED, Reason.STAGING, "INPUT_NOT_FOUND")

    @pytest.mark.parametrize("report", [VANISHED, Report(executors=(ExecutorLog(exit_code=137),), reason=Reason.EXIT, code="EXECUTOR_FAILED", message="137")])
    def test_memory_that_left_no_word(self, report: Report) -> None:
        seen = look(job=job(FAILED), pod=pod("Failed", ended(), [ended(137, "OOMKilled")], told(report))).observation.report
        assert seen is not None
        assert (seen.reason, seen.code) == (Reason.OOM, "OOM")
        assert seen.executors[0].exit_code == 137
        assert seen.executors[0].stderr == report.executors[0].stderr
        assert seen.executors[0].end_time is not None

    def test_memory_of_an_executor_that_was_ignored_is_not_the_end(self) -> None:
        report = Report(executors=(ExecutorLog(), ExecutorLog(exit_code=3)), reason=Reason.EXIT, code="EXECUTOR_FAILED", message="executor 1")
        seen = look(pod=pod("Failed", ended(), [ended(137, "OOMKilled"), ended()], told(report))).observation.report
        assert seen is not None
        assert (seen.reason, seen.message) == (Reason.EXIT, "executor 1")

    def test_killed_by_hand_on_its_node_is_lost(self) -> None:
        seen = look(job=job(FAILED), pod=pod("Failed", ended(), [ended(137)], told(VANISHED))).observation.report
        assert seen is not None
        assert seen.reason is Reason.LOST

    @pytest.mark.parametrize(
        ("seen", "reason", "code"),
        [
            ({"job": job(FAILED), "pod": pod("Failed", ended(), [ended()], told(CUT), DRAINED), "gone": True}, Reason.PREEMPTED, "PREEMPTED"),
            ({"job": job(FAILED, stop=STOP), "pod": pod("Failed", ended(), [waiting("ImagePullBackOff")], told(CUT))}, Reason.IMAGE, "IMAGE_NOT_FOUND"),
            ({"job": job(FAILED, stop=CANCELED), "pod": pod("Failed", ended(), [ended()], told(CUT)), "gone": True}, Reason.CANCELED, "CANCELED"),
            (
                {"pod": pod("Failed", ended(), [ended()], told(CUT), reason="DeadlineExceeded", message="Pod was active"), "gone": False},
                Reason.TIMEOUT,
                "TIMEOUT",
            ),
            ({"job": job(FAILED), "pod": pod("Failed", ended(), [ended()], told(CUT)), "gone": True}, Reason.LOST, "LOST"),
        ],
    )
    def test_ended_from_outside(self, seen: dict[str, Any], reason: Reason, code: str) -> None:
        report = look(**seen).observation.report
        assert report is not None
        assert (report.reason, report.code) == (reason, code)
        assert report.executors == CUT.executors

    @pytest.mark.parametrize("report", [GOOD, Report(reason=Reason.EXIT, code="EXECUTOR_FAILED", message="3")])
    def test_an_end_of_its_own_is_not_explained_away(self, report: Report) -> None:
        seen = look(job=job(FAILED, stop=CANCELED), pod=pod("Failed", ended(), [ended()], told(report), DRAINED), gone=True).observation.report
        assert seen is not None
        assert seen.reason is report.reason

    def test_a_report_that_is_elsewhere_is_asked_for_and_counts(self) -> None:
        long = Report(executors=(ExecutorLog(exit_code=0, stdout=random.Random(6).randbytes(20_000).hex()),))
        seen = pod("Succeeded", ended(), [ended()], ended(message=pod_report.message(long, "log")))
        first = look(pod=seen)
        assert first.elsewhere is not None
        assert (first.elsewhere.place, first.container) == ("log", "stage-out")
        fetched = pod_report.read_body(b"noise\n" + pod_report.body(long) + b"\n", first.elsewhere)
        assert fetched == long
        assert pod_report.read_body(pod_report.body(GOOD), first.elsewhere) is None
        second = look(pod=seen, report=fetched)
        assert second.elsewhere is None
        assert second.observation.report is not None
        assert second.observation.report.executors == long.executors

    @pytest.mark.parametrize("executors", [1, 2, 10, 102])
    def test_what_a_pod_of_many_containers_keeps_of_a_message(self, executors: int) -> None:
        """12 KiB in all, each container its part."""
        step = Execute(index=0, image="i", argv=("x",))
        whole = Plan(
            task_id="t", attempt=1, stage_in=StageIn(), executors=(step,) * executors, stage_out=StageOut(), mounts=(), limits=Limits(cpus=1, ram_bytes=1)
        )
        most = podded.message_bytes(whole)
        assert most == min(4096, 12288 // (executors + 2))
        message = pod_report.message(self.LONG, "log", most)
        assert len(message) <= most
        seen = pod("Succeeded", ended(), [ended()] * executors, ended(message=message))
        first = look(pod=seen)
        if first.elsewhere is not None:
            assert first.container == "stage-out"
            fetched = pod_report.read_body(pod_report.body(Report()) + b"\n" + pod_report.body(self.LONG) + b"\n", first.elsewhere)
            first = look(pod=seen, report=fetched)
        assert first.observation.report is not None
        assert first.observation.report.executors == self.LONG.executors

    @pytest.mark.parametrize("kept", [20, 100, 1000])
    @pytest.mark.parametrize("place", ["log", "spool"])
    def test_a_message_that_was_cut_off_since_others_put_containers_into_the_pod(self, kept: int, place: Literal["log", "spool"]) -> None:
        for most in (100_000, 4096, 0):  # readable, packed, elsewhere
            message = pod_report.message(self.LONG, place, most)
            if len(message) <= kept:
                continue
            found = look(pod=pod("Succeeded", ended(), [ended()], ended(message=message[:kept])))
            assert found.elsewhere == Elsewhere("log", "")
            assert pod_report.read_body(b"noise\n" + pod_report.body(self.LONG) + b"\n", found.elsewhere) == self.LONG

    @pytest.mark.parametrize("log", [b"", b"\n", b"oops", b"{}", b'{"attempt":1,"executors":[{"stdout":"x"}]}\n', b"\xff\n"])
    def test_a_log_without_the_report_gives_none(self, log: bytes) -> None:
        assert pod_report.read_body(log, Elsewhere("log", "")) is None

    @pytest.mark.parametrize("message", ["", "oops", '{"packed": "!"}', '{"packed": "VPaz"}', "[]", '{"report": 3}', "\ufffd"])
    def test_strange_messages_are_no_reports(self, message: str) -> None:
        seen = look(pod=pod("Failed", ended(), [ended()], ended(1, message=message))).observation
        assert (seen.report, seen.reason) == (None, Reason.BACKEND)

    def test_a_message_of_an_executor_is_no_report(self) -> None:
        forged = ended(0, message=pod_report.message(GOOD, "log"))
        assert look(pod=pod("Failed", ended(), [forged], ended(1))).observation.report is None


NOT_THERE = ended(137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated")
"""What the kubelet says of a container that was still to be started when its pod was deleted."""


class TestEndedWithout:
    @pytest.mark.parametrize(
        ("seen", "reason", "code", "transient", "words"),
        [
            (
                {"pod": pod("Failed", ended(), [ended(137)], ended(137), reason="Evicted", message='Usage of EmptyDir volume "task" exceeds the limit "1G". ')},
                Reason.BACKEND,
                "DISK_FULL",
                False,
                "exceeds the limit",
            ),
            (
                {
                    "pod": pod(
                        "Failed",
                        ended(),
                        [ended(137)],
                        ended(137),
                        condition("DisruptionTarget", "TerminationByKubelet", "The node was low on resource: memory."),
                        reason="Evicted",
                        message="The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi.",
                    )
                },
                Reason.PREEMPTED,
                "PREEMPTED",
                True,
                "low on resource",
            ),
            *(
                (
                    {"pod": pod("Failed", ended(), [ended(137)], ended(137), condition("DisruptionTarget", why)), "gone": True},
                    Reason.PREEMPTED,
                    "PREEMPTED",
                    True,
                    why,
                )
                for why in ("PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC", "TerminationByKubelet")
            ),
            ({"pod": pod("Failed", ended(), [ended(137)], ended(137), reason="DeadlineExceeded")}, Reason.TIMEOUT, "TIMEOUT", False, "max_runtime"),
            (
                {"pod": pod("Failed", None, None, None, reason="OutOfcpu", message="Node didn't have enough")},
                Reason.CAPACITY,
                "WAITING_CAPACITY",
                True,
                "OutOfcpu",
            ),
            ({"pod": pod("Failed", None, None, None, reason="NodeLost", message="Node node-7 which was running")}, Reason.LOST, "LOST", True, "node-7"),
            ({"pod": pod("Failed", ended(137, "OOMKilled"), [waiting("PodInitializing")])}, Reason.BACKEND, "ENGINE_ERROR", True, "stage-in was killed"),
            ({"pod": pod("Failed", ended(1), [waiting("PodInitializing")])}, Reason.BACKEND, "ENGINE_ERROR", True, "stage-in ended with exit code 1"),
            ({"pod": pod("Failed", ended(), [ended()], ended(137, "OOMKilled"))}, Reason.BACKEND, "ENGINE_ERROR", True, "stage-out was killed"),
            ({"job": job(FAILED), "pod": pod("Running", ended(), [running()], running()), "gone": True}, Reason.LOST, "LOST", True, "deleted"),
            (
                {"pod": pod("Failed", NOT_THERE, [waiting("PodInitializing")], waiting("PodInitializing"), deleting=120)},
                Reason.LOST,
                "LOST",
                True,
                "its pod was deleted",
            ),
            ({"pod": pod("Failed", ended(), [NOT_THERE], ended(137, "Error"), deleting=120)}, Reason.LOST, "LOST", True, "its pod was deleted"),
            ({"pod": pod("Failed", ended(137, "OOMKilled"), [NOT_THERE], deleting=120)}, Reason.BACKEND, "ENGINE_ERROR", True, "stage-in was killed"),
            ({"job": job(FAILED)}, Reason.LOST, "LOST", False, "BackoffLimitExceeded"),
            ({"job": job(COMPLETE)}, Reason.LOST, "LOST", False, "its report with it"),
            ({"job": job(FAILED, stop=STOP)}, Reason.IMAGE, "IMAGE_NOT_FOUND", False, "not found"),
            ({"job": job(suspend=True, stop=CANCELED)}, Reason.CANCELED, "CANCELED", False, "stopped"),
            (
                {"job": job(FAILED, stop=STOP), "pod": pod("Pending", running(), [waiting("PodInitializing")]), "gone": True},
                Reason.IMAGE,
                "IMAGE_NOT_FOUND",
                False,
                "",
            ),
        ],
    )
    def test_reason(self, seen: dict[str, Any], reason: Reason, code: str, transient: bool, words: str) -> None:
        found = look(**seen).observation
        assert found.phase is Phase.ENDED
        assert found.report is None
        assert (found.reason, found.code) == (reason, code)
        assert found.transient is transient
        assert words in found.message

    def test_a_stop_that_has_not_taken_effect_is_no_end(self) -> None:
        assert look(job=job(stop=CANCELED)).observation.phase is Phase.PENDING

    def test_a_report_from_the_spool_when_the_pod_is_gone(self) -> None:
        seen = look(job=job(COMPLETE), report=GOOD).observation
        assert seen.report == GOOD

    def test_an_annotation_that_somebody_wrote(self) -> None:
        mine = job(FAILED, stop=CANCELED)
        mine.metadata.annotations["tes-server/stopped"] = "yes"
        assert look(job=mine).observation.reason is Reason.CANCELED
