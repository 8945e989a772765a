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
from tes_server.model.principal import SCANS
from tes_server.model.record import Detail, Logs
from tes_server.model.states import State
from tes_server.model.task import Executor, ExecutorLog, Task
from tes_server.model.verdict import Outcome, Verdict
from tes_server.scan.base import IMAGE_TAG
from tes_server.store.base import Store
from tes_server.store.sqlite import SqliteStore
from tests.contract.store_contract import a_record, a_verdict

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
        f"scan      {'s' * 26}",
        "findings  1 CRITICAL, 70 LOW",
        "reason    1 CRITICAL finding that has a fix",
        "          CRITICAL  CVE-2025-1  zlib 1, fixed in 2     https://x/1",
    ]
    assert msgspec.json.decode(say("show", "alpine:3", "--json")[1], type=Verdict) == made
    kept(store, 3, "poor")
    assert "findings  1 CRITICAL, 70 LOW; the site's policy counts none of them (fixable_only, severities, ignore)" in say("show", "poor")[1].splitlines()
    kept(store, 2, "broken", Outcome.ERROR)
    store.keep(error := msgspec.structs.replace(a_verdict(2, image="broken", outcome=Outcome.ERROR), scanned_at=now(), message="the registry is down"))
    shown = say("show", "broken")[1]
    assert "failed    the registry is down" in shown
    assert shown.count("the registry is down") == 1
    assert "scan refresh" not in shown, "it holds no more"
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
    assert [line.split()[0] for line in say("show", f"{HOST}:1")[1].splitlines()] == ["image", "digest", "policy", "outcome", "forgotten"]
    assert len(say("forget", "--all")[1].splitlines()) == 2
    assert say("forget", "--all") == (0, "", "")
    store.keep(msgspec.structs.replace(made[1], scanned_at=now() + HOUR))
    assert len(say("forget", "--all")[1].splitlines()) == 1, "scanned anew since"


def test_the_audit_log_has_what_was_taken_back(say: Say, store: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [kept(store, number, f"{HOST}:{number}", Outcome.FAIL) for number in range(2)]
    monkeypatch.setenv("TES_SERVER__LOG__AUDIT", str(tmp_path / "audit.jsonl"))
    assert say("forget", "--all")[0] == say("forget", f"{HOST}:0")[0] == 0
    assert say("forget", "nobody")[0] == 2
    lines = [msgspec.json.decode(line) for line in (tmp_path / "audit.jsonl").read_bytes().splitlines()]
    assert [(line["action"], line["role"], line["image"], line["digest"], line["policy"], line["was"]) for line in lines] == [
        ("scan.forget", "operator", one.image, one.key.digest, one.key.policy, "FAIL") for one in made
    ]


def test_what_makes_no_sense_is_refused(say: Say, store: Store, tmp_path: pathlib.Path) -> None:
    kept(store, 1, "alpine")
    for words in ((), ("alpine", "--all")):
        assert say("forget", *words)[0] == 2
    assert say("forget", "alpine", "nobody")[::2] == (2, "tes-server: nobody: there is no verdict about it; `tes-server scan list` names all that there are\n")
    assert say("show", "alpine:3")[::2] == (2, "tes-server: alpine:3: there is no verdict about it; there is about alpine\n")
    assert store.all_verdicts(None, 10)[0].outcome is Outcome.PASS, "nothing of it is done"
    code, _, why = say("list", "--data", str(tmp_path / "other"))
    assert (code, "it is made at the first start" in why) == (2, True)
    assert not (tmp_path / "other" / "tasks.sqlite").exists()


@pytest.mark.parametrize(("word", "meant"), [("lst", "list"), ("shw", "show"), ("forgt", "forget"), ("images", "image"), ("refesh", "refresh")])
def test_a_mistyped_command_is_no_image(say: Say, store: Store, word: str, meant: str) -> None:
    assert say(word)[::2] == (
        2,
        f"tes-server: {word}: is no command of `tes-server scan`; did you mean {meant}? An image of this name: `tes-server scan image {word}`\n",
    )


def test_the_record_of_a_scan_is_shown(say: Say, store: Store) -> None:
    task = Task(executors=(Executor(image="t", command=("c",)),), tags={IMAGE_TAG: f"{HOST}@sha256:{'b' * 64}"})
    runs = a_record("a" * 26, owner=SCANS.owner, task=task, state=State.RUNNING)
    failed = a_record(
        "b" * 26,
        owner=SCANS.owner,
        task=task,
        state=State.EXECUTOR_ERROR,
        logs=Logs(executors=(ExecutorLog(exit_code=1),)),
        detail=Detail(system_logs=("EXECUTOR_FAILED: no",), streams=(("", "".join(f"line {number}\n" for number in range(30))),)),
    )
    whole = msgspec.structs.replace(failed, id="c" * 26, state=State.COMPLETE, detail=Detail(streams=(("a report", "well"),)))
    others = a_record("d" * 26, task=task)
    store.insert([runs, failed, whole, others]).result()
    lines = say("show", "b" * 26)[1].splitlines()
    assert lines[:2] == [f"scan      {'b' * 26}", f"of        {HOST}@sha256:{'b' * 64}"]
    assert lines[2].startswith("state     EXECUTOR_ERROR on ")
    assert "log       EXECUTOR_FAILED: no" in lines
    assert "exit code 1" in lines
    assert lines[-20:] == ["stderr    line 10", *(f"          line {number}" for number in range(11, 30))]
    shown = say("show", "c" * 26)[1]
    assert ("a report" in shown, "stderr    well" in shown) == (False, True)
    assert "there is no verdict about it" in say("show", "d" * 26)[2], "which is somebody's task"
    assert say("show", f"{HOST}:7")[1].splitlines()[:2] == [f"scan      {'a' * 26}", f"of        {HOST}@sha256:{'b' * 64}"], "it is under way"
    assert f"the scan {'a' * 26} of {HOST}@sha256:{'b' * 64} is RUNNING on " in say("list")[2]
    store.keep(a_verdict(5, image=f"{HOST}:7", outcome=Outcome.ERROR, scan="b" * 26))
    blocks = say("show", f"{HOST}:7")[1].split("\n\n")
    assert [block.splitlines()[0].split()[0] for block in blocks] == ["image", "scan", "scan"]
    assert f"scan      {'b' * 26}" in blocks[0]
