"""Figures: who goes first, what a ratio is, and that nothing measured is no figure."""

from __future__ import annotations

import json

import pytest

from benchmarks import figures


def test_rounds_alternate_who_goes_first() -> None:
    order: list[str] = []

    def ours() -> float:
        order.append("ours")
        return 2.0

    def theirs() -> float:
        order.append("theirs")
        return 1.0

    assert figures.interleaved(ours, theirs, 3) == [(2.0, 1.0)] * 3
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_the_ratio_is_that_of_each_round_and_not_of_the_medians() -> None:
    made = figures.compared("x", "a second", [(10, 1), (20, 10), (30, 100)], baseline_is="y", goal=">= 1", clients=8)
    assert (made.figure, made.baseline, made.ratio, made.spread, made.notes) == (20, 10, 2, (0.3, 10), {"clients": 8})


@pytest.mark.parametrize("pairs", [[(0.0, 1.0)], [(float("nan"), 1.0)]])
def test_nothing_measured_is_no_figure(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        figures.compared("x", "s", pairs, baseline_is="y")
    with pytest.raises(ValueError, match="nothing was measured"):
        figures.measured("x", "s", [mine for mine, _ in pairs])


def test_a_percentile_needs_enough_values() -> None:
    assert figures.percentile(range(100), 95) == 95
    assert figures.percentile(range(20), 100) == 19
    with pytest.raises(ValueError, match="too few"):
        figures.percentile(range(19), 95)


def test_no_figure_is_no_result() -> None:
    with pytest.raises(SystemExit, match="nothing was measured"):
        figures.show("api", [], {}, as_json=True)


def test_both_forms_of_output_hold_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    made = [figures.compared("creates", "a second", [(10, 5)], baseline_is="bare", goal=">= 3"), figures.measured("start", "s", [1.5])]
    figures.show("api", made, {"cores": 2}, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [figure["figure"] for figure in printed["figures"]] == [10, 1.5]
    figures.show("api", made, {"cores": 2}, as_json=False)
    text = capsys.readouterr().out
    assert "bare: 5, ratio 2" in text
    assert "goal >= 3" in text
