"""How long commands take to answer: `python -m benchmarks.startup --json`.

`tes --help` to its end, and `tes-server serve` from its start to the first answer of /readyz. Baseline: `python -c pass`.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from benchmarks import figures, server

PATIENCE = 60.0
"""Seconds after which a server that does not answer ends the benchmark."""


def seconds(command: list[str]) -> float:
    """Wall time of a command."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def serving(base: pathlib.Path, number: int) -> float:
    """Seconds from the start of the server to its first answer."""
    begin = time.perf_counter()
    with server.running(base / str(number)) as ours:
        while (taken := time.perf_counter() - begin) < PATIENCE:
            with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(f"http://127.0.0.1:{ours.port}/readyz", timeout=10):
                return time.perf_counter() - begin
        raise SystemExit(f"/readyz was not answered with 200 within {taken:g} s")


def main() -> None:
    chosen = figures.parser(__doc__).parse_args()
    where = figures.machine()
    tes = [sys.executable, "-c", "from tes_server.client_cli import main; main()", "--help"]
    pairs = figures.interleaved(lambda: seconds(tes), lambda: seconds([sys.executable, "-c", "pass"]), chosen.rounds)
    with tempfile.TemporaryDirectory(dir=chosen.data) as base:
        starts = [serving(pathlib.Path(base), number) for number in range(chosen.rounds)]
    figures.show(
        "startup",
        [
            figures.compared("tes --help", "s", pairs, goal="<= 0.3", baseline_is="python -c pass"),
            figures.measured("server answering after start", "s", starts, goal="<= 2"),
        ],
        where,
        as_json=chosen.json,
    )


if __name__ == "__main__":
    main()
