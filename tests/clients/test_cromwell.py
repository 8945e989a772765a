"""A replay of Cromwell's TES backend: what it sends, how it polls, and how strictly it decodes (clients.md section 1, rows 9-15, 23, 24, 27).

Two calls, the second of which takes files of the first. Cromwell reads `rc` from the shared path the moment it sees COMPLETE.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
import uuid
from typing import Any

import pytest

from tests.clients.engines import Installation, ask, decode

ENDS = {"COMPLETE", "CANCELED", "EXECUTOR_ERROR", "SYSTEM_ERROR"}
INT = 2**31 - 1
PATIENCE = 120.0

# -- its case classes ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Created:
    id: str


@dataclasses.dataclass
class Minimal:
    id: str
    state: str


@dataclasses.dataclass
class Executor:
    image: str
    command: list[str]
    workdir: str | None
    stdout: str | None
    stderr: str | None
    stdin: str | None
    env: dict[str, str] | None


@dataclasses.dataclass
class Input:
    name: str | None
    description: str | None
    url: str | None
    path: str
    type: str | None
    content: str | None


@dataclasses.dataclass
class Output:
    name: str | None
    description: str | None
    url: str | None
    path: str
    type: str | None


@dataclasses.dataclass
class Resources:
    cpu_cores: int | None
    ram_gb: float | None
    disk_gb: float | None
    preemptible: bool | None
    zones: list[str] | None
    backend_parameters: dict[str, str] | None


@dataclasses.dataclass
class OutputFileLog:
    url: str
    path: str
    size_bytes: str


@dataclasses.dataclass
class ExecutorLog:
    start_time: str | None
    end_time: str | None
    stdout: str | None
    stderr: str | None
    exit_code: int | None


@dataclasses.dataclass
class TaskLog:
    start_time: str | None
    end_time: str | None
    metadata: dict[str, str] | None
    logs: list[ExecutorLog] | None
    outputs: list[OutputFileLog] | None
    system_logs: list[str] | None


@dataclasses.dataclass
class Task:
    id: str | None
    state: str | None
    name: str | None
    description: str | None
    inputs: list[Input] | None
    outputs: list[Output] | None
    resources: Resources | None
    executors: list[Executor]
    volumes: list[str] | None
    tags: dict[str, str] | None
    logs: list[TaskLog] | None


# -- a call ----------------------------------------------------------------------------------------------------------


class Call:
    """One call of a workflow: its directory, its script, its task. `files` and `globs` are what its WDL declares as outputs."""

    def __init__(
        self, site: Installation, workflow: str, name: str, command: str, inputs: tuple[str, ...], files: tuple[str, ...], globs: tuple[str, ...]
    ) -> None:
        self.site = site
        self.root = f"{site.top}/{workflow}/call-{name}"
        self.execution = f"{self.root}/execution"
        self.name = f"wf.{name}"
        self.inputs = inputs
        self.files = files
        self.globs = {glob: "glob-" + hashlib.md5(glob.encode()).hexdigest() for glob in globs}
        site.share.write(f"{self.execution}/script", self._script(command).encode())

    def local(self, path: str) -> str:
        """Where an input is found inside the container: below a directory that stands for its own."""
        folder, _, name = path.rpartition("/")
        return f"{self.root}/inputs/{int(hashlib.md5(folder.encode()).hexdigest()[:8], 16)}/{name}"

    def _script(self, command: str) -> str:
        """In its own order: pipes for both streams, the command in a subshell, globs by hard links, `rc` by a rename; exit code 0."""
        links = "".join(
            f"mkdir {folder}\necho made by the replay > {folder}/cromwell_glob_control_file\n"
            f"( ln -L {glob} {folder} 2> /dev/null ) || ( ln {glob} {folder} )\nls -1 {folder} | grep -v control_file > {folder}.list\n"
            for glob, folder in self.globs.items()
        )
        return f"""#!/bin/bash
cd {self.execution}
tmpDir=$(mkdir -p "{self.root}/tmp.0a1b2c3d" && echo "{self.root}/tmp.0a1b2c3d")
chmod 777 "$tmpDir"
export _JAVA_OPTIONS=-Djava.io.tmpdir="$tmpDir" TMPDIR="$tmpDir"
export HOME="$HOME"
out="$tmpDir/out.$$" err="$tmpDir/err.$$"
mkfifo "$out" "$err"
trap 'rm "$out" "$err"' EXIT
touch {self.execution}/stdout {self.execution}/stderr
tee {self.execution}/stdout < "$out" &
tee {self.execution}/stderr < "$err" >&2 &
(
cd {self.execution}
{command}
) > "$out" 2> "$err"
echo $? > {self.execution}/rc.tmp
(
cd {self.execution}
{links}sync
)
mv {self.execution}/rc.tmp {self.execution}/rc
"""

    def body(self) -> dict[str, Any]:
        """The task, with the nulls that it sends."""

        def file(name: str, path: str, kind: str = "FILE") -> dict[str, Any]:
            return {"name": name, "description": f"{self.name}.{name}", "url": path, "path": path, "type": kind}

        outputs = [file(f"{self.name}.output.{number}", f"{self.execution}/{name}") for number, name in enumerate(self.files)]
        for number, folder in enumerate(self.globs.values()):
            outputs.append(file(f"globDir.{number}", f"{self.execution}/{folder}/", "DIRECTORY"))
            outputs.append(file(f"globList.{number}", f"{self.execution}/{folder}.list"))
        outputs += [file(name, f"{self.execution}/{name}") for name in ("rc", "stdout", "stderr")]
        outputs.append(file("commandScript", f"{self.execution}/script"))
        inputs = [{**file(f"{self.name}.in.{number}", url), "path": self.local(url), "content": None} for number, url in enumerate(self.inputs)]
        inputs.append({**file("commandScript", f"{self.execution}/script"), "content": None})
        return {
            "id": None, "state": None, "name": self.name, "description": f"u:BackendJobDescriptorKey_CommandCallNode_{self.name}:-1:1",
            "inputs": inputs, "outputs": outputs, "volumes": None, "logs": None,
            "resources": {
                "cpu_cores": 1, "ram_gb": 0.2, "disk_gb": 0.1, "preemptible": False, "zones": None,
                "backend_parameters": {"internal_path_prefix": None, "vm_size": "Standard_D2"}, "backend_parameters_strict": False,
            },
            "tags": {"workflow_id": self.root, "root_workflow_id": None},
            "executors": [{
                "image": self.site.image, "command": ["/bin/bash", f"{self.execution}/script"], "workdir": None,
                "stdout": f"{self.execution}/stdout", "stderr": f"{self.execution}/stderr", "stdin": None, "env": None,
            }],
        }  # fmt: skip

    def run(self) -> tuple[str, str]:
        """Submit and poll as it does. Returns the last state, and `rc` as it was when that state was first seen (None = "")."""
        endpoint = f"{self.site.server.url}/v1/tasks"
        task_id = decode(Created, ask(endpoint, self.body())).id
        known = False
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            view = "MINIMAL" if known else "FULL"
            answer = ask(f"{endpoint}/{task_id}?view={view}")
            if known:
                state = decode(Minimal, answer).state
            else:
                task = decode(Task, answer)
                assert task.state is not None
                state, log = task.state, task.logs[0] if task.logs else None
                for output in (log and log.outputs) or ():
                    assert int(output.size_bytes) <= INT
                known = bool(log and log.start_time and (log.metadata or {}).get("vm_price_per_hour_usd"))
            if state in ENDS:
                return state, (self.site.share.read(f"{self.execution}/rc") or b"").decode()
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not end: {answer}")

    def has(self, name: str) -> str:
        return self.site.share.text(f"{self.execution}/{name}")


@pytest.fixture
def workflow() -> str:
    return f"wf/{uuid.uuid4()}"


@pytest.mark.sandbox
def test_two_calls(site: Installation, workflow: str) -> None:
    split = Call(
        site, workflow, "split", "echo told; echo warned >&2\nmkdir chunks deep\nfor n in 1 2 3; do echo chunk $n > part-$n.txt; done\n"
        "cat part-*.txt > 'all parts.txt'; ln -s part-1.txt link.txt; : > empty", (), ("all parts.txt", "link.txt", "empty", "never made"), ("part-*.txt",),
    )  # fmt: skip
    assert split.run() == ("COMPLETE", "0\n")
    assert split.has("stdout") == "told\n"
    assert split.has("stderr") == "warned\n"
    assert split.has("all parts.txt") == "chunk 1\nchunk 2\nchunk 3\n"
    assert split.has("link.txt") == "chunk 1\n"
    assert split.has("empty") == ""
    assert split.has("script").startswith("#!/bin/bash\n")
    [folder] = split.globs.values()
    listed = split.has(f"{folder}.list").split()
    assert listed == ["part-1.txt", "part-2.txt", "part-3.txt"]
    assert site.share.names(f"{split.execution}/{folder}") == {*listed, "cromwell_glob_control_file"}
    assert site.share.names(split.execution) == {
        "script", "rc", "stdout", "stderr", "all parts.txt", "link.txt", "empty", f"{folder}.list",
        *(f"{folder}/{name}" for name in (*listed, "cromwell_glob_control_file")),
    }  # fmt: skip

    taken = (*(f"{split.execution}/{folder}/{name}" for name in listed), f"{split.execution}/all parts.txt")
    gather = Call(site, workflow, "gather", "", taken, ("sum.txt",), ())
    words = " ".join(f"'{gather.local(path)}'" for path in taken)
    gather = Call(site, workflow, "gather", f"cat {words} > sum.txt", taken, ("sum.txt",), ())
    assert gather.run() == ("COMPLETE", "0\n")
    assert gather.has("sum.txt") == "chunk 1\nchunk 2\nchunk 3\n" * 2


@pytest.mark.sandbox
def test_a_command_that_fails_is_complete_with_its_rc(site: Installation, workflow: str) -> None:
    failing = Call(site, workflow, "failing", "echo before > kept; echo why >&2; exit 7", (), ("kept", "missing"), ("*.none",))
    assert failing.run() == ("COMPLETE", "7\n")
    assert failing.has("kept") == "before\n"
    assert failing.has("stderr").startswith("why\n")


@pytest.mark.sandbox
def test_a_missing_input_is_a_system_error_that_says_which(site: Installation, workflow: str) -> None:
    call = Call(site, workflow, "missing", "true", (f"{site.top}/{workflow}/call-none/execution/x y",), (), ())
    state, rc = call.run()
    assert (state, rc) == ("SYSTEM_ERROR", "")
    [task] = [task for task in ask(f"{site.server.url}/v1/tasks?view=FULL")["tasks"] if task["tags"]["workflow_id"] == call.root]
    log = decode(Task, task).logs
    assert log is not None
    assert any(line.startswith("INPUT_NOT_FOUND: /inputs/0: ") for line in log[0].system_logs or ())


@pytest.mark.sandbox
def test_many_calls_at_once(site: Installation, workflow: str) -> None:
    """`rc` is there whenever COMPLETE shows, also while others come and go."""
    calls = [Call(site, workflow, f"shard-{number}", f"exit {number}", (), (), ()) for number in range(6)]
    endpoint = f"{site.server.url}/v1/tasks"
    running = {decode(Created, ask(endpoint, call.body())).id: call for call in calls}
    codes: dict[str, str] = {}
    deadline = time.monotonic() + PATIENCE
    while running and time.monotonic() < deadline:
        for task_id, call in list(running.items()):
            state = decode(Minimal, ask(f"{endpoint}/{task_id}?view=MINIMAL")).state
            if state in ENDS:
                codes[call.name] = (site.share.read(f"{call.execution}/rc") or b"missing").decode()
                del running[task_id]
    assert codes == {f"wf.shard-{number}": f"{number}\n" for number in range(6)}
