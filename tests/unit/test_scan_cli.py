"""`tes-server scan`, as the person who types it sees it."""

from __future__ import annotations

import datetime
import logging
import pathlib
from collections.abc import Callable, Iterator

import click.testing
import msgspec
import pytest

from tes_server import cli
from tes_server.model.verdict import Outcome, Verdict
from tes_server.store.base import Store
from tes_server.store.sqlite import SqliteStore
from tests.contract.store_contract import a_verdict

Say = Callable[..., tuple[int, str, str]]
HOUR = datetime.timedelta(hours=1)
HOST = "127.0.0.1:5000/team/tool"


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    """Of a server that runs beside."""
    (tmp_path / "data").mkdir()
    made = SqliteStore(tmp_path / "data" / "tasks.sqlite")
    yield made
    made.close()


@pytest.fixture
def say(tmp_path: pathlib.Path) -> Iterator[Say]:
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(command: str, *words: str) -> tuple[int, str, str]:
        done = click.testing.CliRunner().invoke(cli.main, ["scan", command, "--data", str(tmp_path / "data"), *words])
        return done.exit_code, done.stdout, done.stderr

    yield run
    root.handlers[:], root.level = before[0], before[1]


def kept(store: Store, number: int, image: str, outcome: Outcome = Outcome.PASS, *, hours: float = 23.5) -> Verdict:
    """A verdict that holds for so many hours from now."""
    until = now() + hours * HOUR
    made = a_verdict(number, image=image, outcome=outcome, scanned_at=until - 24 * HOUR, expires_at=until, message="")
    store.keep(made)
    return made


def now() -> datetime.datetime:
    """Not of when the module was loaded: in a long run that is half an hour ago."""
    return datetime.datetime.now(datetime.UTC)


def words_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_what_there_is_is_listed(say: Say, store: Store) -> None:
    assert words_of(say("list")[1]) == [["OUTCOME", "IMAGE", "DIGEST", "POLICY", "SCANNED", "HOLDS", "FINDINGS"]]
    passed = kept(store, 1, "alpine:3")
    kept(store, 2, f"{HOST}:1", Outcome.FAIL, hours=-2)
    store.keep(kept(store, 3, "debian").taken_back(now()))
    first, second = say("list")[1].splitlines()[1:]
    assert first.split()[:4] == ["PASS", "alpine:3", "sha256:000000000000", passed.key.policy]
    assert "  23 h " in first
    assert first.endswith("  1 CRITICAL, 70 LOW")
    assert second.startswith(f"FAIL     {HOST}:1  ")
    assert "  no more  " in second
    assert [line[1] for line in words_of(say("list", "--fresh")[1])[1:]] == ["alpine:3"]
    assert [line[1] for line in words_of(say("list", "--outcome", "forgotten")[1])[1:]] == ["debian"]
    assert [msgspec.json.decode(line, type=Verdict) for line in say("list", "--json", "--outcome", "pass")[1].splitlines()] == [passed]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("alpine", ["alpine"]),
        ("docker.io/library/alpine:latest", ["alpine"]),
        ("alpine@sha256:" + "0" * 63 + "1", ["alpine"]),
        (f"{HOST}:2", [f"{HOST}:2"]),
        (f"{HOST}@sha256:" + "0" * 62 + "20", [f"{HOST}:2"]),
        ("sha256:" + "0" * 62 + "20", [f"{HOST}:2"]),
        ("0" * 62 + "20", [f"{HOST}:2"]),
        ("0" * 62, ["alpine", f"{HOST}:2"]),
        ("Local Image", ["Local Image"]),
        ("alpine:3", None),
        (HOST, None),
        ("0" * 11, None),
        ("sha256:" + "f" * 64, None),
    ],
)
def test_an_image_is_named_in_many_ways(say: Say, store: Store, name: str, meant: list[str] | None) -> None:
    kept(store, 1, "alpine")
    kept(store, 32, f"{HOST}:2")
    kept(store, 16**60, "Local Image")
    code, text, why = say("show", name)
    assert [line.removeprefix("image     ") for line in text.splitlines() if line.startswith("image ")] == (meant or [])
    assert (code, "there is no verdict about it" in why) == ((0, False) if meant else (2, True))


def test_all_of_a_verdict_is_shown(say: Say, store: Store) -> None:
    made = kept(store, 1, "alpine:3", Outcome.FAIL)
    assert say("show", "alpine:3")[1].splitlines() == [
        "image     alpine:3",
        f"digest    {made.key.digest}",
        f"policy    {made.key.policy}",
        "outcome   FAIL",
        f"scanned   {made.scanned_at:%Y-%m-%d %H:%M} UTC, holds until {made.expires_at:%Y-%m-%d %H:%M} UTC",
        "scanner   trivy 0.69.3, database 2025-06-01T00:00:00Z",
        "findings  1 CRITICAL, 70 LOW",
        "reason    1 CRITICAL finding that has a fix",
        "          CRITICAL  CVE-2025-1  zlib 1, fixed in 2     https://x/1",
    ]
    assert msgspec.json.decode(say("show", "alpine:3", "--json")[1], type=Verdict) == made
    kept(store, 2, "broken", Outcome.ERROR)
    store.keep(error := msgspec.structs.replace(a_verdict(2, image="broken", outcome=Outcome.ERROR), scanned_at=now(), message="the registry is down"))
    assert "failed    the registry is down" in say("show", "broken")[1]
    assert f"no more since {error.expires_at:%Y-%m-%d %H:%M} UTC" in say("show", "broken")[1]


def test_verdicts_are_taken_back(say: Say, store: Store) -> None:
    made = [kept(store, number, f"{HOST}:{number}") for number in range(3)]
    ahead = kept(store, 3, f"{HOST}:3", hours=30)  # by a clock that is ahead of this one
    code, text, _ = say("forget", f"{HOST}:1", ahead.key.digest)
    assert (code, [line.split()[0] for line in text.splitlines()]) == (0, [f"{HOST}:1", f"{HOST}:3"])
    after = {verdict.image: verdict for verdict in store.all_verdicts(None, 10)}
    assert [after[f"{HOST}:{number}"].outcome for number in range(4)] == [Outcome.PASS, Outcome.FORGOTTEN, Outcome.PASS, Outcome.FORGOTTEN]
    assert after[f"{HOST}:3"].scanned_at > ahead.scanned_at
    assert not any(verdict.fresh(now()) for verdict in (after[f"{HOST}:1"], after[f"{HOST}:3"]))
    assert say("show", f"{HOST}:1")[1].splitlines()[3] == "outcome   FORGOTTEN"
    assert len(say("forget", "--all")[1].splitlines()) == 2
    assert say("forget", "--all") == (0, "", "")
    store.keep(msgspec.structs.replace(made[1], scanned_at=now() + HOUR))
    assert len(say("forget", "--all")[1].splitlines()) == 1, "scanned anew since"


def test_what_makes_no_sense_is_refused(say: Say, store: Store, tmp_path: pathlib.Path) -> None:
    kept(store, 1, "alpine")
    for words in ((), ("alpine", "--all")):
        assert say("forget", *words)[0] == 2
    assert say("forget", "alpine", "nobody")[::2] == (2, "tes-server: nobody: there is no verdict about it; `tes-server scan list` names all that there are\n")
    assert store.all_verdicts(None, 10)[0].outcome is Outcome.PASS, "nothing of it is done"
    code, _, why = say("list", "--data", str(tmp_path / "other"))
    assert (code, "it is made at the first start" in why) == (2, True)
    assert not (tmp_path / "other" / "tasks.sqlite").exists()
