"""pydantic-tes 0.4.0, which Galaxy's Pulsar speaks TES with: its strict models decode every answer in every state and view.

The task has Pulsar's shape: three executors that share a volume, no inputs or outputs, every unset field an explicit null.
"""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.acceptance.server import served
from tests.clients import packages

pytestmark = [pytest.mark.clients, pytest.mark.sandbox]

WORKFLOW = """
import sys, time
from pydantictes import api
from pydantictes.models import *

client = api.TesClient(sys.argv[1] + "/")
ENDS = {TesState.COMPLETE, TesState.EXECUTOR_ERROR, TesState.SYSTEM_ERROR, TesState.CANCELED}
LITTLE = TesResources(cpu_cores=1, ram_gb=0.1)


def sh(script):
    return TesExecutor(image="host", command=["sh", "-c", script], workdir="/pulsar_staging")


def task(*scripts, **fields):
    return TesTask(executors=[sh(one) for one in scripts], volumes=["/pulsar_staging/"], resources=LITTLE, **fields)


def decode(task_id):
    client.list_tasks()
    client.get_task(task_id, "BASIC")
    return client.get_task(task_id, "FULL")


def until(task_id, *states):
    while (full := decode(task_id)).state not in states:
        assert full.state not in ENDS, full
        time.sleep(0.02)
    return full


info = client.service_info()
assert info.type.artifact == "tes", info
three = ("echo b > in; echo a >> in", "sort in > out", "cat out; test -s in")
done = until(client.create_task(task(*three, name="pulsar", tags={"job": "1"})).id, *ENDS)
assert done.state is TesState.COMPLETE, done
assert [log.exit_code for log in done.logs[0].logs] == [0, 0, 0]
assert done.logs[0].logs[2].stdout == "a\\nb\\n"
assert done.tags == {"job": "1"}
failed = until(client.create_task(task("true", "echo out of luck >&2; exit 3", "echo never")).id, *ENDS)
assert failed.state is TesState.EXECUTOR_ERROR, failed
assert [log.exit_code for log in failed.logs[0].logs] == [0, 3]
assert failed.logs[0].logs[1].stderr == "out of luck\\n"
broken = until(client.create_task(task("true", inputs=[TesInput(path="/pulsar_staging/in", url=f"file://{sys.argv[2]}/missing", type="FILE")])).id, *ENDS)
assert broken.state is TesState.SYSTEM_ERROR, broken
assert broken.logs[0].system_logs, broken
sleeper = client.create_task(task("echo started; sleep 1000"))
until(sleeper.id, TesState.RUNNING)
client.cancel_task(sleeper)
assert until(sleeper.id, TesState.CANCELED).logs[0].logs is not None
client.cancel_task(sleeper)
assert len(client.list_tasks().tasks) == 4
print("workflow done")
"""


@pytest.mark.usefixtures("sandbox_works")
def test_pydantic_tes(tmp_path: pathlib.Path) -> None:
    bin_ = packages.environment("pydantic-tes", "pydantic-tes==0.4.0")
    root = tmp_path / "files"
    root.mkdir()
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(root)) as server:
        done = subprocess.run([bin_ / "python", "-c", WORKFLOW, server.url, root], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "workflow done\n", done.stderr
