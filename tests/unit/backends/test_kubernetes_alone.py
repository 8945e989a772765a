"""What the end of a pod of one container comes to: its own last words, and what only the platform knows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tes_server.backends.kubernetes.classify import classify
from tes_server.backends.kubernetes.objects import PodObject
from tes_server.backends.kubernetes.seen import Bounds, Look, Seen, Stop
from tes_server.model.run import Phase, Reason, Report
from tes_server.runner.pod_told import Kept, Told
from tests.unit.backends.cluster_objects import NOW, alone_json, at, condition, ended, job, pod_json, running, waiting

START = int(NOW.timestamp() * 1e9)
NOTHING = Kept(0, "", "")
CUT_SHORT = Kept(5000, "he", "ad")
STOP = Stop(reason=Reason.CANCELED, code="CANCELED", message="stopped")
FULL_DISK = "Pod ephemeral local storage usage exceeds the total limit of containers 1G"
DRAINED = condition("DisruptionTarget", "EvictionByEvictionAPI", "Eviction API: evicting")


def told(code: int = 0, *, end: int | None = START + 10**9, out: Kept = NOTHING, **marks: Any) -> Told:
    return Told(tes_step=1, start=START, end=end, code=code, stdout=out, stderr=Kept(0, "why", ""), **marks)


def words(*given: Any, **fields: Any) -> bytes:
    return msgspec.json.encode(told(*given, **fields))


def pod(phase: str, state: dict[str, Any], *conditions: Any, ignore_error: bool = False, **fields: Any) -> PodObject:
    return msgspec.convert(alone_json(phase, state, *conditions, ignore_error=ignore_error, **fields), PodObject, strict=False)


def look(**seen: Any) -> Look:
    return classify(Seen(**seen), NOW, Bounds())


def report(**seen: Any) -> Report:
    found = look(**seen).observation
    assert found.phase is Phase.ENDED
    assert found.report is not None, found
    return found.report


@pytest.mark.parametrize(
    ("state", "phase"),
    [(waiting("ContainerCreating"), Phase.STAGING), (running(), Phase.RUNNING)],
)
def test_phase(state: dict[str, Any], phase: Phase) -> None:
    assert look(pod=pod("Pending", state)).observation.phase is phase


@pytest.mark.parametrize(
    ("state", "reason", "code", "exit_code"),
    [
        (ended(message=words()), None, "", 0),
        (ended(message=words(3)), Reason.EXIT, "EXECUTOR_FAILED", 3),
        (ended(message=words(127)), Reason.EXIT, "COMMAND_NOT_FOUND", 127),
        (ended(message=words(137, signal=9, oom=True)), Reason.OOM, "OOM", 137),
        (ended(0, "OOMKilled", message=words(137, signal=9)), Reason.OOM, "OOM", 137),
        (ended(137, "OOMKilled"), Reason.OOM, "OOM", 137),
        (ended(message=words(0, oom=True)), None, "", 0),
        (ended(message=words(143, late=True)), Reason.TIMEOUT, "TIMEOUT", 143),
        (ended(message=words(143, cut=True)), Reason.LOST, "LOST", 143),
    ],
)
def test_end(state: dict[str, Any], reason: Reason | None, code: str, exit_code: int) -> None:
    found = report(pod=pod("Succeeded", state))
    assert (found.reason, found.code) == (reason, code)
    assert [log.exit_code for log in found.executors] == [exit_code]
    assert found.images == {"image-0:1": f"registry.example/image-0@sha256:{'1' * 64}"}
    assert [(log.start_time, log.end_time) for log in found.executors] == [(found.start_time, found.end_time)]


def test_messages_name_the_command_and_its_bounds() -> None:
    assert report(pod=pod("Succeeded", ended(message=words(3)))).message == "executor 0 (tool) ended with exit code 3"
    assert "2 GB" in report(pod=pod("Succeeded", ended(message=words(137, signal=9, oom=True)))).message
    assert report(pod=pod("Succeeded", ended(message=words(143, late=True)))).message == "stopped after max_runtime of 60 s"


@pytest.mark.parametrize("state", [ended(message=words(3)), ended(137, "OOMKilled")])
def test_ignored_errors(state: dict[str, Any]) -> None:
    found = report(pod=pod("Succeeded", state, ignore_error=True))
    assert found.reason is None
    assert found.executors[0].exit_code


def test_a_command_that_was_never_run_has_no_log() -> None:
    found = report(pod=pod("Succeeded", ended(message=words(125, failed=True))))
    assert (found.reason, found.executors, found.transient) == (Reason.BACKEND, (), True)


@pytest.mark.parametrize(
    ("seen", "reason", "code"),
    [
        ({"pod": pod("Failed", ended(137))}, Reason.LOST, "LOST"),
        ({"pod": pod("Running", running()), "gone": True}, Reason.LOST, "LOST"),
        ({"pod": pod("Failed", ended(137), DRAINED)}, Reason.PREEMPTED, "PREEMPTED"),
        ({"pod": pod("Failed", ended(137), reason="Evicted", message=FULL_DISK)}, Reason.BACKEND, "DISK_FULL"),
        ({"pod": pod("Failed", ended(128, "StartError", "exec: no such file")), "job": job()}, Reason.IMAGE, "IMAGE_ERROR"),
        ({"pod": pod("Failed", ended(137)), "job": job(stop=STOP)}, Reason.CANCELED, "CANCELED"),
    ],
)
def test_without_last_words(seen: dict[str, Any], reason: Reason, code: str) -> None:
    found = look(**seen).observation
    assert (found.phase, found.reason, found.code, found.report) == (Phase.ENDED, reason, code, None)


@pytest.mark.parametrize(("more", "reason"), [({"job": job(stop=STOP)}, Reason.CANCELED), ({}, Reason.LOST)])
def test_who_ended_it_from_outside(more: dict[str, Any], reason: Reason) -> None:
    cut = ended(message=words(143, cut=True))
    assert report(pod=pod("Succeeded", cut), **more).reason is reason
    assert report(pod=pod("Failed", cut, DRAINED)).reason is Reason.PREEMPTED


def test_the_log_is_asked_for_what_the_message_could_not_hold() -> None:
    short = pod("Succeeded", ended(message=words(3, out=CUT_SHORT)))
    seen = look(pod=short)
    assert seen.container == "executor-0"
    assert report(pod=short).executors[0].stdout == "he\n... 5000 bytes left out ...\nad"
    whole = look(pod=short, told=told(3, out=Kept(0, "all of it", "")))
    assert (whole.container, whole.observation.report and whole.observation.report.executors[0].stdout) == ("", "all of it")
    other = look(pod=short, told=told(0, end=START + 5, out=Kept(0, "another end", ""))).observation.report
    assert other is not None
    assert (other.executors[0].exit_code, other.executors[0].stdout) == (3, "he\n... 5000 bytes left out ...\nad")
    assert look(pod=pod("Succeeded", ended(message=words(3)))).container == ""


def test_what_was_told_before_all_of_it_was_killed_for_memory() -> None:
    killed = pod("Failed", ended(137, "OOMKilled"))
    assert look(pod=killed).container == "executor-0"
    found = report(pod=killed, told=told(end=None, out=Kept(0, "words", "")))
    assert (found.reason, found.executors[0].stdout, found.executors[0].exit_code) == (Reason.OOM, "words", 137)
    assert msgspec.to_builtins(found.executors[0].end_time)[:19] == at(60)[:19]


OTHERS = [words().replace(b'"tes_step":1', b'"tes_step":2'), words(0).replace(b'"code":0', b'"code":999'), words(0)[:-5]]


@pytest.mark.parametrize("message", [b"", b"{}", b"[1]", *OTHERS])
def test_words_that_are_none_of_ours_say_nothing(message: bytes) -> None:
    assert look(pod=pod("Succeeded", ended(message=message))).observation.reason is Reason.LOST


def test_no_executor_speaks_for_a_pod_with_stage_steps() -> None:
    made = msgspec.convert(pod_json("Failed", ended(), [ended(message=words())], ended(137)), PodObject, strict=False)
    assert look(pod=made).observation.report is None
