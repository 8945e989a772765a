"""All figures, one benchmark after the other: `python -m benchmarks [--json] [--store DIR] [--into FILE] [NAME ...]`.

Prints the table of the README, in Markdown, row by row as they are measured; with --json what each benchmark printed, one
object a line. One that fails is told at the end and stops no other. The machine must do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

NAMES = (
    "api",
    "latency",
    "sandbox",
    "docker",
    "scale",
    "staging",
    "objects",
    "memory",
    "startup",
    "mongo",
    "reconcile",
    "ru",
    "kubernetes",
    "kubernetes_idle",
    "aws_batch",
    "azure_batch",
    "scan",
    "running",
)

BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
"""Lines of a document between which its table stands."""

HEAD = "| what | figure | baseline | ratio | spread | goal |\n|---|---|---|---|---|---|"


def measured(name: str, options: list[str]) -> dict[str, Any] | None:
    """What one benchmark printed; None if it failed."""
    print(f"benchmarks.{name} ...", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--json", *options], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(figure: dict[str, Any]) -> str:
    """One line of the table."""
    base = f"{figure['baseline']:g} ({figure['baseline_is']})" if "baseline" in figure else ""
    ratio = f"{figure['ratio']:g}" if "ratio" in figure else ""
    spread = "{:g} to {:g}".format(*figure["spread"]) if "spread" in figure else ""
    slowest = f", p99 {figure['notes']['p99_ms']:g} ms" if "p99_ms" in figure.get("notes", {}) else ""
    return f"| {figure['what']} | {figure['figure']:g} {figure['unit']}{slowest} | {base} | {ratio} | {spread} | {figure.get('goal', '')} |"


def put(table: str, document: pathlib.Path) -> None:
    """Replace the table of a document. `ValueError` where it has no place for one."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{document} has no lines {BEGIN.strip()} and {END.strip()}")
    document.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="as JSON instead of the table")
    parser.add_argument("--rounds", type=int, help="rounds of ours against the baseline")
    parser.add_argument("--store", type=pathlib.Path, help="where `scale` keeps its stores from run to run")
    parser.add_argument("--into", type=pathlib.Path, action="append", default=[], metavar="FILE", help="a document whose table is replaced too")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(NAMES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = []
    lines = [HEAD]
    where: dict[str, Any] = {}
    if not chosen.json:
        print(HEAD, flush=True)
    for name in chosen.names or NAMES:
        options = ["--rounds", str(chosen.rounds)] if chosen.rounds else []
        options += ["--store", str(chosen.store)] if chosen.store and name == "scale" else []
        result = measured(name, options)
        if result is None:
            failed.append(name)
            continue
        where = where or result["machine"]
        lines += map(row, result["figures"])
        print(json.dumps(result) if chosen.json else "\n".join(map(row, result["figures"])), flush=True)
    lines += ["", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in where.items()) + "."]
    if not chosen.json:
        print("\n".join(lines[-2:]))
    for document in chosen.into:
        put("\n".join(lines), document)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
