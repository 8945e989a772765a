"""py-tes of the TES 1.1 and of the 1.0 era: a small workflow through its own classes, which refuse what they do not know."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.acceptance.server import served
from tests.clients import packages

pytestmark = [pytest.mark.clients, pytest.mark.sandbox]

WORKFLOW = """
import sys, time, tes
url, root = sys.argv[1:]
client = tes.HTTPClient(url, timeout=30)
info = client.get_service_info()
assert info.name, info
task = tes.Task(
    name="sort",
    inputs=[tes.Input(url=f"file://{root}/in", path="/work/in")],
    outputs=[tes.Output(url=f"file://{root}/out", path="/work/out")],
    executors=[tes.Executor(image="host", command=["sort", "/work/in"], stdout="/work/out")],
    resources=tes.Resources(cpu_cores=1, ram_gb=0.1),
    tags={"flow": "one"},
)
first = client.create_task(task)
done = client.wait(first, timeout=60)
assert done.state == "COMPLETE", done
second = client.create_task(tes.Task(
    inputs=[tes.Input(url=f"file://{root}/out", path="/work/in")],
    executors=[tes.Executor(image="host", command=["sh", "-c", "cat /work/in; exit 7"])],
    resources=tes.Resources(cpu_cores=1, ram_gb=0.1),
))
failed = client.wait(second, timeout=60)
assert failed.state == "EXECUTOR_ERROR", failed
full = client.get_task(second, view="FULL")
assert full.logs[0].logs[0].exit_code == 7
assert full.logs[0].logs[0].stdout == "a\\nb\\n"
assert full.logs[0].system_logs, full
for view in ("MINIMAL", "BASIC", "FULL"):
    seen = {task.id for task in client.list_tasks(view=view, page_size=10).tasks}
    assert {first, second} <= seen, (view, seen)
long = client.create_task(tes.Task(executors=[tes.Executor(image="host", command=["sleep", "1000"])], resources=tes.Resources(cpu_cores=1, ram_gb=0.1)))
while client.get_task(long, view="MINIMAL").state != "RUNNING":
    time.sleep(0.05)
client.cancel_task(long)
assert client.wait(long, timeout=60).state == "CANCELED"
client.cancel_task(long)
print("workflow done")
"""


@pytest.mark.parametrize("requirements", [("py-tes==1.1.4",), ("py-tes==0.4.2", "six")], ids=["1.1.4", "0.4.2"])
@pytest.mark.usefixtures("sandbox_works")
def test_py_tes(tmp_path: pathlib.Path, requirements: tuple[str, ...]) -> None:
    client = packages.environment("py-tes", *requirements)
    root = tmp_path / "files"
    root.mkdir()
    (root / "in").write_text("b\na\n")
    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(root)) as server:
        done = subprocess.run([client / "python", "-c", WORKFLOW, server.url, root], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "workflow done\n", done.stderr
    assert (root / "out").read_text() == "a\nb\n"
