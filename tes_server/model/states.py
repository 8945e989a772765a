"""The states of a task and the only table of the steps between them (TES 1.1, tesState).

Must never know who moves a task or why; `control.decide` does.
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """tesState of TES 1.1.

    Stored are QUEUED, INITIALIZING, RUNNING and the four ends. CANCELING is shown, not stored: it is "not ended and
    `canceling` set" (so that 1.0-era clients can be shown the state before, clients.md row 13). UNKNOWN, PAUSED and
    PREEMPTED exist for the schema and as list filters; a preempted attempt is retried inside the task.
    """

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"
    PREEMPTED = "PREEMPTED"
    CANCELING = "CANCELING"


ENDS = frozenset({State.COMPLETE, State.EXECUTOR_ERROR, State.SYSTEM_ERROR, State.CANCELED})
"""Terminal states: they absorb."""

LIVE = frozenset({State.QUEUED, State.INITIALIZING, State.RUNNING})
"""States that are stored and not ended."""

MAY_FOLLOW: dict[State, frozenset[State]] = {
    # A new attempt goes back to QUEUED from anywhere; a short task may skip INITIALIZING and RUNNING between two looks.
    State.QUEUED: frozenset({State.INITIALIZING, State.RUNNING}) | ENDS,
    State.INITIALIZING: frozenset({State.QUEUED, State.RUNNING}) | ENDS,
    State.RUNNING: frozenset({State.QUEUED}) | ENDS,
    **{end: frozenset() for end in ENDS},
}
"""Which stored state may follow which."""


def may_follow(before: State, after: State) -> bool:
    """True if `after` is `before` or may be stored after it."""
    return after == before or after in MAY_FOLLOW.get(before, frozenset())


def shown(state: State, canceling: bool, compat: str) -> State:
    """The state that a client sees: under compat "1.1" a task being cancelled shows CANCELING, under "clients" its state before."""
    if canceling and compat == "1.1" and state not in ENDS:
        return State.CANCELING
    return state
