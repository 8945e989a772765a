"""tes-step's command line: what is wrong is refused in words, before anything is started."""

from __future__ import annotations

import pathlib
import random

import pytest

from tes_server import errors, step
from tests.unit.step.running import Run

_NAMES = (
    "hold after after-any until env-add exit-zero exit-oom record lock tail tee stdin stdout stderr workdir "
    "argv-file env-file grace copy move open cgroup rlimit-data keep wipe inner report own userns stage"
)
OPTIONS = [f"--{name}" for name in _NAMES.split(" ")]
VALUES = [
    "",
    "x",
    "-1",
    "0",
    "7",
    "1.5",
    "1.",
    ".5",
    "1.2.3",
    "99999999999999999999",
    "2147483648",
    "1e3",
    "x" * 5000,
    "absent/y",
    "\x01\xff",
    "--tee",
    "-",
    " 1",
]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["true"],
        ["--no-such-option", "--", "true"],
        ["--tail", "--", "true"],
        ["--tail", "x", "--", "true"],
        ["--tail", "-1", "--", "true"],
        ["--tail", "99999999999", "--", "true"],
        ["--grace", "1.2.3", "--", "true"],
        ["--grace", "", "--", "true"],
        ["--copy", "one", "--", "true"],
        ["--lock", "999", "--", "true"],
        ["--keep", "1x", "--", "true"],
        *[["--keep", "1"] * 17 + ["--", "true"]],
        ["--argv-file", "absent"],
        ["--argv-file", "empty"],
        ["--argv-file", "unended"],
        ["--argv-file", "words", "--", "true"],
        ["--env-file", "unended", "--", "true"],
        ["--env-file", ".", "--", "true"],
    ],
    ids=" ".join,
)
def test_mistakes_are_named(run: Run, tmp_path: pathlib.Path, arguments: list[str]) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "unended").write_bytes(b"a\0b")
    (tmp_path / "words").write_bytes(b"true\0")
    done = run(*arguments)
    assert done.returncode == 125
    assert done.stderr.startswith(b"tes-step: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("seed", range(8))
def test_no_command_line_breaks_it(run: Run, seed: int) -> None:
    """Random lines of true options and odd values: refused, or `true` runs, or it fails in words. `run` catches signals and faults."""
    chance = random.Random(seed)
    for _ in range(25):
        line = [word for _ in range(chance.randint(0, 5)) for word in [chance.choice(OPTIONS), *chance.choices(VALUES, k=chance.randint(0, 2))]]
        done = run(*line, *chance.choice([[], ["--"], ["--", "true"]]))
        assert done.returncode in {0, 125, 126, 127}, (line, done)
        assert done.returncode == 0 or done.stderr or "--record" in line or "--stdin" in line or "--workdir" in line, (line, done)


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "aarch64", "arm64"])
def test_binaries_are_static_and_for_their_machine(machine: str) -> None:
    data = step.path(machine).read_bytes()
    assert data[:4] == b"\x7fELF"
    assert int.from_bytes(data[18:20], "little") == (62 if machine in {"x86_64", "AMD64"} else 183)
    assert b"/lib/ld-" not in data


def test_other_machines_are_told_so() -> None:
    with pytest.raises(errors.EngineError, match="not for riscv64"):
        step.path("riscv64")


def test_a_missing_binary_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(step, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(errors.EngineError, match=r"hatch_build\.py"):
        step.path("x86_64")
