"""`python -m benchmarks`: a table that can be pasted, and a failure that is told."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import __main__ as driver

MADE: dict[str, Any] = {
    "benchmark": "api",
    "machine": {"date": "2026-11-21", "cores": 2},
    "figures": [
        {
            "what": "creates",
            "figure": 4000.0,
            "unit": "a second",
            "baseline": 8000.0,
            "baseline_is": "bare",
            "ratio": 0.5,
            "spread": [0.4, 0.6],
            "notes": {"p99_ms": 7.5},
        }
    ],
}


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Options that each benchmark got; `docker` fails."""
    seen: dict[str, list[str]] = {}

    def measured(name: str, options: list[str]) -> dict[str, Any] | None:
        seen[name] = options
        return None if name == "docker" else MADE

    monkeypatch.setattr(driver, "measured", measured)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    driver.main()


def test_the_table_has_a_row_a_figure_and_the_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "api", "memory")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["| creates | 4000 a second, p99 7.5 ms | 8000 (bare) | 0.5 | 0.4 to 0.6 |  |"] * 2 + ["", "date 2026-11-21, cores 2."]
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_a_document_gets_the_table_of_this_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "README.md"
    document.write_text(f"before\n{driver.BEGIN}old\n{driver.END}after\n")
    run(monkeypatch, "--into", str(document), "api")
    text = document.read_text()
    assert text.startswith(f"before\n{driver.BEGIN}\n| what |")
    assert text.endswith(f"cores 2.\n\n{driver.END}after\n")
    assert "old" not in text
    (tmp_path / "other").write_text("no table")
    with pytest.raises(ValueError, match="has no lines"):
        driver.put("table", tmp_path / "other")


def test_every_document_has_a_place_for_it() -> None:
    text = (pathlib.Path(driver.__file__).parents[1] / "README.md").read_text()
    assert text.index(driver.BEGIN) < text.index(driver.END)


def test_one_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scripted: dict[str, list[str]]) -> None:
    with pytest.raises(SystemExit, match="failed: docker"):
        run(monkeypatch, "--json", "--store", "/kept", "--rounds", "1")
    assert list(scripted) == list(driver.NAMES)
    assert scripted["scale"] == ["--rounds", "1", "--store", "/kept"]
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [MADE] * (len(driver.NAMES) - 1)


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "apis")


@pytest.mark.parametrize("name", driver.NAMES)
def test_every_benchmark_has_its_options(name: str) -> None:
    shown = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--help"], check=True, capture_output=True, text=True).stdout
    assert {"--json", "--rounds", "--data"} <= set(shown.replace("[", " ").split())
