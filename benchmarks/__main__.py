"""All figures, one benchmark after the other: `python -m benchmarks [--json] [NAME ...]`. About half an hour, and 12 GB of disk.

Without --json: the table of the README, in Markdown. Must be run on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

NAMES = ("api", "scale", "docker", "sandbox", "latency", "staging", "memory", "startup")


def measured(name: str) -> dict[str, Any]:
    """What one benchmark printed."""
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(figure: dict[str, Any]) -> str:
    """One line of the table."""
    base = f"{figure['baseline']:g} ({figure['baseline_is']})" if "baseline" in figure else ""
    ratio = f"{figure['ratio']:g}" if "ratio" in figure else ""
    spread = "{:g} to {:g}".format(*figure["spread"]) if "spread" in figure else ""
    return f"| {figure['what']} | {figure['figure']:g} {figure['unit']} | {base} | {ratio} | {spread} | {figure.get('goal', '')} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="what each printed, as one JSON array")
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="some of them")
    chosen = parser.parse_args()
    results = []
    for name in chosen.names or NAMES:
        print(f"benchmarks.{name} ...", file=sys.stderr, flush=True)
        results.append(measured(name))
    if chosen.json:
        print(json.dumps(results, indent=2))
        return
    print("| what | figure | baseline | ratio | spread | goal |\n|---|---|---|---|---|---|")
    for result in results:
        print("\n".join(map(row, result["figures"])))
    print("\n" + ", ".join(f"{key} {value}" for key, value in results[0]["machine"].items()))


if __name__ == "__main__":
    main()
