"""Who may start: what is reserved is never more than the site has."""

from __future__ import annotations

import datetime

from tes_server.control import admission
from tes_server.control.admission import Candidate
from tes_server.model.record import Record, Status
from tes_server.model.run import Room
from tes_server.model.states import State
from tes_server.plan.steps import Limits
from tests.scripted import T0


def candidates(*limits: Limits) -> list[Candidate]:
    """Waiting tasks t0, t1, ... of one owner."""
    return [
        Candidate(Record(id=f"t{number}", state=State.QUEUED, owner="o", created=T0, status=Status(backend="local", rule="")), each)
        for number, each in enumerate(limits)
    ]


def test_two_tasks_do_not_share_one_gpu() -> None:
    room = Room(8.0, 10**11, 10**12, 8.0, 10**11, 10**12, gpus=1, total_gpus=1)
    wants = Limits(cpus=1, ram_bytes=10**9, gpus=1)
    admitted = admission.admit(candidates(wants, wants, Limits(cpus=1, ram_bytes=10**9)), room, T0 + datetime.timedelta(seconds=1))
    assert [candidate.record.id for candidate in admitted.start] == ["t0", "t2"]
    assert [reason for _, reason in admitted.wait] == [
        "asks for 1 cores and 1 GB and 1 GPUs; the 8 cores and 100 GB and 1 GPUs here are in use by tasks before it"
    ]
