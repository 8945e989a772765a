"""Changes hold the transition table and the bounds of system_logs."""

from __future__ import annotations

import pytest

from tes_server.control import changes
from tes_server.model.record import Record, Status
from tes_server.model.states import State
from tests.scripted import T0


def test_illegal_steps_are_refused() -> None:
    record = Record(id="t", owner="o", created=T0, state=State.COMPLETE, status=Status(backend="local", rule=""))
    with pytest.raises(ValueError, match="may not become"):
        changes.change(record, status=record.status, lane=None, due=None, state=State.RUNNING)


def test_system_logs_are_bounded_and_say_so() -> None:
    lines = changes.bounded(tuple(f"line {number}" for number in range(1000)))
    assert len(lines) == changes.LONGEST_LOG
    assert lines[0] == "line 0"
    assert lines[-1] == "line 999"
    assert any("801 lines left out" in line for line in lines)
