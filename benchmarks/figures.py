"""What all benchmarks share: interleaved rounds, medians and spreads, and one form of result."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

ROUNDS = 5

FEWEST = 20
"""Measurements from which on a percentile says something."""


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured number. `spread` is the least and the greatest of the rounds; `ratio` is ours by the baseline's of the same round, in the median.

    Nothing that is measured here can be zero: `ValueError`, since then nothing was measured.
    """

    what: str
    figure: float
    unit: str
    goal: str = ""
    baseline: float | None = None
    baseline_is: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    notes: dict[str, float | str] = {}

    def __post_init__(self) -> None:
        for value in (self.figure, self.baseline):
            if value is not None and not value > 0:
                raise ValueError(f"{self.what}: nothing was measured ({value:g} {self.unit})")


def interleaved(ours: Callable[[], float], theirs: Callable[[], float], rounds: int = ROUNDS) -> list[tuple[float, float]]:
    """Pairs of (ours, theirs); who goes first alternates, so that both meet the machine as it is at that time."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            other, mine = theirs(), ours()
        else:
            mine, other = ours(), theirs()
        pairs.append((mine, other))
    return pairs


def compared(what: str, unit: str, pairs: Sequence[tuple[float, float]], *, goal: str = "", baseline_is: str, **notes: float | str) -> Figure:
    """The figure of interleaved rounds; `spread` is that of the ratios."""
    ratios = [mine / other for mine, other in pairs]
    return Figure(
        what=what,
        figure=_rounded(statistics.median(mine for mine, _ in pairs)),
        unit=unit,
        goal=goal,
        baseline=_rounded(statistics.median(other for _, other in pairs)),
        baseline_is=baseline_is,
        ratio=_rounded(statistics.median(ratios)),
        spread=(_rounded(min(ratios)), _rounded(max(ratios))),
        notes=notes,
    )


def measured(what: str, unit: str, values: Iterable[float], *, goal: str = "", **notes: float | str) -> Figure:
    """The median of several rounds without a baseline, and their spread."""
    each = sorted(values)
    return Figure(what=what, figure=_rounded(statistics.median(each)), unit=unit, goal=goal, spread=(_rounded(each[0]), _rounded(each[-1])), notes=notes)


def percentile(values: Iterable[float], hundredths: int) -> float:
    """The value below which `hundredths` of a hundred lie. `ValueError` where there are fewer than 20: they tell no p95."""
    each = sorted(values)
    if len(each) < FEWEST:
        raise ValueError(f"{len(each)} measurements are too few for a percentile")
    return each[min(len(each) - 1, len(each) * hundredths // 100)]


def machine() -> dict[str, str | float]:
    """Where and when this was measured."""
    cpu = next((line.partition(":")[2].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**9
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu or platform.machine(),
        "memory_gb": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="as JSON instead of a table")
    made.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of ours against the baseline")
    made.add_argument("--data", type=pathlib.Path, help="where to measure; default: the temporary directory")
    return made


def show(name: str, figures: Sequence[Figure], where: dict[str, str | float], *, as_json: bool) -> None:
    """Print what was measured. Ends the benchmark where that is nothing."""
    if not figures:
        raise SystemExit(f"{name}: nothing was measured")
    if as_json:
        print(json.dumps({"benchmark": name, "machine": where, "figures": msgspec.to_builtins(figures)}, indent=2))
        return
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in where.items())}")
    for one in figures:
        base = f"   {one.baseline_is}: {one.baseline:g}, ratio {one.ratio:g}" if one.baseline is not None and one.ratio is not None else ""
        spread = f" ({one.spread[0]:g} to {one.spread[1]:g})" if one.spread else ""
        goal = f"   goal {one.goal}" if one.goal else ""
        notes = "".join(f"   {key} {value}" for key, value in one.notes.items())
        print(f"  {one.what:44} {one.figure:>10g} {one.unit}{base}{spread}{goal}{notes}")


def _rounded(value: float) -> float:
    return round(value) if value >= 100 else round(value, 1) if value >= 10 else round(value, 3)
