"""Tasks -> plans, as whole files: a change of a plan is a visible diff. `pytest tests/golden --update-golden` rewrites them."""

from __future__ import annotations

import pathlib

import msgspec
import pytest

from tes_server.backends.local import render
from tes_server.model import views
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.paths import SitePath, Sites
from tes_server.plan.policy import Capabilities, Policy

HERE = pathlib.Path(__file__).parent
POLICY = Policy(
    sites=Sites(paths=(SitePath("/cromwell-executions", "file:///shared/cromwell"),), roots=("/data", "/shared")),
    live_mounts=("/data/jobstore",),
)
CAPABILITIES = Capabilities(cpus=8, ram_bytes=32 * compiler.GB, disk_bytes=100 * compiler.GB, host_image=True, gpus=0)


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "tasks").glob("*.json")))
def test_plan(name: str, request: pytest.FixtureRequest) -> None:
    task = views.with_types(msgspec.json.decode((HERE / "tasks" / f"{name}.json").read_bytes(), type=Task))
    compiled = compiler.compile_task(task, "0123456789abcdefghjkmnpqrs", 1, "anonymous", POLICY, CAPABILITIES)
    got = msgspec.json.format(render.render(compiled.plan).body, indent=1) + b"\n"
    file = HERE / "plans" / f"{name}.json"
    if request.config.getoption("--update-golden"):
        file.write_bytes(got)
    assert got.decode() == file.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in (HERE / "plans").iterdir()} == {path.name for path in (HERE / "tasks").iterdir()}
