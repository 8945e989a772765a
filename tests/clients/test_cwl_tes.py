"""cwl-tes 0.3.0 with the cwltool of its day: a scatter and a join, a step that fails, files on the submit host's file system."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests.acceptance.server import served
from tests.clients import packages

pytestmark = [
    pytest.mark.clients,
    pytest.mark.sandbox,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="cwltool of 2019 needs setuptools before 58: Python 3.11 at the latest"),
]

TOOL = {"cwlVersion": "v1.0", "class": "CommandLineTool", "requirements": [{"class": "DockerRequirement", "dockerPull": "host"}]}
COUNT = {
    **TOOL,
    "baseCommand": ["wc", "-w"],
    "inputs": {"text": {"type": "File"}},
    "stdin": "$(inputs.text.path)",
    "stdout": "count.txt",
    "outputs": {"count": {"type": "stdout"}},
}
JOIN = {
    **TOOL,
    "baseCommand": ["sh", "-c", 'mkdir deep && cat "$@" > deep/all.txt', "join"],
    "inputs": {"counts": {"type": "File[]", "inputBinding": {"position": 1}}},
    "outputs": {"deep": {"type": "Directory", "outputBinding": {"glob": "deep"}}},
}
FLOW = {
    "cwlVersion": "v1.0",
    "class": "Workflow",
    "requirements": [{"class": "ScatterFeatureRequirement"}],
    "inputs": {"texts": "File[]"},
    "steps": {
        "count": {"run": "count.cwl", "scatter": "text", "in": {"text": "texts"}, "out": ["count"]},
        "join": {"run": "join.cwl", "in": {"counts": "count/count"}, "out": ["deep"]},
    },
    "outputs": {"deep": {"type": "Directory", "outputSource": "join/deep"}},
}
FAILS = {**TOOL, "baseCommand": ["sh", "-c", "echo out of luck >&2; exit 3"], "inputs": {}, "outputs": {}}


@pytest.mark.usefixtures("sandbox_works")
def test_cwl_tes(tmp_path: pathlib.Path) -> None:
    bin_ = packages.environment("cwl-tes", "cwl-tes==0.3.0", "py-tes==0.4.2", "mistune<1", tools=("setuptools<58", "wheel"))
    work = tmp_path / "work"
    work.mkdir()
    for name, document in {"count": COUNT, "join": JOIN, "flow": FLOW, "fails": FAILS}.items():
        (work / f"{name}.cwl").write_text(json.dumps(document))
    texts = {"a.txt": "one two three\n", "b.txt": "four five\n"}
    for name, text in texts.items():
        (work / name).write_text(text)
    (work / "job.json").write_text(json.dumps({"texts": [{"class": "File", "path": name} for name in texts]}))

    with served(tmp_path / "data", "--engine", "sandbox", "--allow-host", "--root", str(work)) as server:

        def run(*documents: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [
                    bin_ / "cwl-tes",
                    "--tes",
                    server.url,
                    "--tmpdir-prefix",
                    work / "tmp",
                    "--tmp-outdir-prefix",
                    work / "tmp",
                    "--outdir",
                    work / "out",
                    *documents,
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
                cwd=work,
            )

        good = run("flow.cwl", "job.json")
        bad = run("fails.cwl")
        states = sorted(server.states().values())
    assert good.returncode == 0, good.stderr
    assert (work / "out" / "deep" / "all.txt").read_text() == "3\n2\n"
    assert bad.returncode == 1, bad.stderr
    assert "exit_code=3" in bad.stderr
    assert "out of luck" in bad.stderr
    assert states == ["COMPLETE", "COMPLETE", "COMPLETE", "EXECUTOR_ERROR"]
    # Row 32: what stands on standard input is read and left as it was.
    assert {name: (work / name).read_text() for name in texts} == texts
