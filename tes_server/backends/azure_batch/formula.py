"""The autoscale formula of a pool: from the tasks that wait and run there to a number of nodes.

Azure Batch counts tasks in formulas, never their slots (Azure/Batch#118): how many tasks share a node is therefore read off nodes that are full.
A node that is not needed any more finishes its tasks before it goes. Pure.
"""

from __future__ import annotations

INTERVAL = "PT5M"
"""Between two evaluations: the least that Azure Batch takes."""

DEDICATED = "$TargetDedicatedNodes"
SPOT = "$TargetLowPriorityNodes"

_SCALE = """\
slots = {slots};
least = {least};
most = {most};
// A new pool has no samples; nothing of them may be read then.
seen = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 10);
waiting = seen > 0 ? $ActiveTasks : 0;
running = seen > 0 ? $RunningTasks : 0;
usable = seen > 0 ? $UsableNodeCount : 0;
// Tasks that wait beside others that run: nodes are full, and what runs on them says how many of these tasks a node takes.
full = waiting * running * usable;
each = full > 0 ? min(slots, max(1, running / usable)) : slots;
wanted = ceil((waiting + running) / each);
// Tasks come in waves: nodes stay until none has waited for ten minutes.
waited = seen > 0 ? max($ActiveTasks.GetSample(TimeInterval_Minute * 10)) : 0;
kept = waited > 0 ? {target} : 0;
{target} = max(least, min(most, max(wanted, kept)));
{other} = 0;
$NodeDeallocationOption = taskcompletion;
"""

DRAIN = f"""\
// tes-server pools apply --drain: nodes go when their tasks have ended, and no new ones come.
{DEDICATED} = 0;
{SPOT} = 0;
$NodeDeallocationOption = taskcompletion;
"""
"""The formula of a pool that is to be empty. It is one, and not a resize, so that a pool which is told to evaluate its formula again stays empty."""


def scale(*, slots: int, most: int, least: int, spot: bool) -> str:
    """The formula of a pool with so many task slots on a node, and between `least` and `most` nodes."""
    target, other = (SPOT, DEDICATED) if spot else (DEDICATED, SPOT)
    return _SCALE.format(slots=slots, least=min(least, most), most=most, target=target, other=other)


def targets(results: str) -> tuple[int, int]:
    """Dedicated and Spot nodes that an evaluation came to, from the `results` of an AutoScaleRun; 0 where it does not tell."""
    told = dict(part.strip().partition("=")[::2] for part in results.split(";"))

    def number(name: str) -> int:
        try:
            return int(float(told.get(name, "")))
        except ValueError:
            return 0

    return number(DEDICATED), number(SPOT)
