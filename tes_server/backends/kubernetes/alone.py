"""Tasks that need one container and no more: one executor, and nothing to move. Which they are, and what tes-step tells of them. Pure.

There is no stage-in: tes-step comes from a ConfigMap (`program`), argv and environment are its arguments. There is no stage-out: its own last words
are the report. All else, the rules of `pod_end` first of all, is as with other tasks.
"""

from __future__ import annotations

import msgspec

from tes_server.backends.kubernetes import names, placement
from tes_server.backends.kubernetes.objects import PodObject
from tes_server.backends.kubernetes.site import Site
from tes_server.model.run import Report
from tes_server.plan.paths import below
from tes_server.plan.steps import Execute, Limits, MountKind, Plan
from tes_server.runner import pod_end, pod_told
from tes_server.runner.engine import Exit
from tes_server.runner.pod_end import Ending
from tes_server.runner.pod_told import Told

LONGEST_WORD = 100
"""Characters of the command's name that are kept for messages."""

KILLED, SIGKILL = 137, 9


class Alone(msgspec.Struct, frozen=True):
    """What of the plan decides how an end is judged: an annotation of the pod."""

    executor: Execute
    limits: Limits


def fits(plan: Plan, site: Site) -> bool:
    """True if a task may run so. With a spool none does: whoever has one wants reports that outlive the pod. Nor a scan: somebody must read its report."""
    if site.program is None or site.shared.spool or plan.gate is not None or len(plan.executors) != 1 or not site.uses_node(plan):
        return False
    [step] = plan.executors
    if plan.stage_in.inputs or plan.stage_out.outputs or plan.stage_out.findings or step.stdin or step.stdout or step.stderr or step.copies:
        return False
    roots = {mount.path for mount in plan.mounts if mount.kind is MountKind.ROOT}
    if len(roots) < len(plan.mounts) or not all(path in roots or below(step.workdir, path) for path in plan.stage_in.directories):
        return False
    chosen = placement.of(plan, site).get("nodeSelector", {}).get(names.ARCHITECTURE, site.program.architecture)
    return bool(chosen == site.program.architecture)


def annotation(plan: Plan) -> str:
    """For the pod of such a task."""
    [step] = plan.executors
    short = msgspec.structs.replace(step, argv=(step.argv[0][:LONGEST_WORD],), env={})
    return msgspec.json.encode(Alone(short, plan.limits)).decode()


def of(pod: PodObject) -> Alone | None:
    """None for pods of another shape."""
    text = pod.metadata.annotations.get(names.ALONE)
    try:
        return msgspec.json.decode(text, type=Alone) if text else None
    except msgspec.MsgspecError:  # written by hand
        return None


def report(alone: Alone, pod: PodObject, logged: Told | None) -> tuple[Report | None, bool]:
    """How it ended, None if it was never run or nobody can say; and whether the log may know more of its streams.

    `logged`: what the container's log was found to tell last.
    """
    status = pod.statuses.get(names.executor(alone.executor.index))
    ended = status.state.terminated if status else None
    if ended is None:
        return None, False
    told = pod_told.read(ended.message)
    if told is not None and told.end is not None:
        fuller = logged is not None and not told.whole and (logged.start, logged.end) == (told.start, told.end)
        seen = logged.ending if logged is not None and fuller else told.ending
        complete = told.whole
    elif ended.reason == "OOMKilled" and ended.started_at is not None and ended.finished_at is not None:
        # All of the container was killed, tes-step too: what it told last is all that there is of its streams.
        words = logged.ending if logged else Ending(stdout="", stderr="")
        by_kernel = Exit(code=KILLED, signal=SIGKILL, start_time=ended.started_at, end_time=ended.finished_at, oom=True)
        seen = msgspec.structs.replace(words, ended=by_kernel)
        complete = False
    else:
        return None, False
    log, found = pod_end.judge(alone.executor, alone.limits, seen)
    # The command's own times: the kubelet's are cut to seconds, and would end before it.
    made = Report(
        executors=(log,) if log else (),
        start_time=seen.start_time or ended.started_at,
        end_time=seen.ended.end_time if seen.ended else ended.finished_at,
        images={alone.executor.named: alone.executor.image} if alone.executor.named else {},
    )
    if found is not None:
        made = msgspec.structs.replace(made, reason=found.reason, transient=found.transient, code=found.code, message=found.message)
    return made, not complete and logged is None
