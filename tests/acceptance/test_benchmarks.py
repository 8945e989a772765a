"""The benchmarks run as their documentation says; the quickest ones, once."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.usefixtures("sandbox_works")
def test_figures_are_printed_as_json(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "benchmarks.startup", "--json", "--rounds", "1", "--data", str(tmp_path)]
    printed = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert [figure["what"] for figure in printed["figures"]] == ["tes --help", "server answering after start"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("sandbox_works")
def test_a_whole_task_is_timed(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "benchmarks.latency", "--json", "--only", "complete", "--rounds", "1", "--data", str(tmp_path)]
    printed = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    (figure,) = printed["figures"]
    assert figure["figure"] > figure["baseline"] > 0
