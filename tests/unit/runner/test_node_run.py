"""What a runner reads of its environment, and what it says where it cannot begin."""

from __future__ import annotations

import json
import pathlib
import threading

import msgspec
import pytest

from tes_server import errors
from tes_server.filer.spool import Attempt
from tes_server.runner import node, node_engine, node_run
from tes_server.runner.node import NodeSite

SITE = NodeSite(spool="file:///nowhere/spool", spool_stores=(), run=("AWS_BATCH_JOB_ID", "NODE"))
GOOD = {node.SITE: node.encode(SITE), node.ATTEMPT: "abc/2", "AWS_BATCH_JOB_ID": "job", "NODE": "n1"}


def test_the_order() -> None:
    order = node_run.read(GOOD)
    assert order == node_run.Order(SITE, Attempt("abc", 2), "job/n1")
    assert order.name == "abc-2"


def test_a_life_of_the_node_is_part_of_the_run() -> None:
    """A node that was taken back returns under its name."""
    boot = pathlib.Path(node.BOOT).read_text().strip()
    site = msgspec.structs.replace(SITE, run=("AWS_BATCH_JOB_ID", node.BOOT))
    assert node_run.read({**GOOD, node.SITE: node.encode(site)}).run == f"job/{boot}"


@pytest.mark.parametrize("text", [None, b"", b"\xff"])
def test_a_file_that_tells_no_runs_apart(tmp_path: pathlib.Path, text: bytes | None) -> None:
    path = tmp_path / "boot"
    if text is not None:
        path.write_bytes(text)
    site = msgspec.structs.replace(SITE, run=(str(path),))
    with pytest.raises(errors.SettingsError, match=str(path)):
        node_run.read({**GOOD, node.SITE: node.encode(site)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({node.SITE: ""}, "TES_NODE: is not set"),
        ({node.SITE: "{"}, "TES_NODE: is not what this version reads"),
        ({node.SITE: json.dumps({"spool": "x"})}, "TES_NODE: is not what this version reads"),
        ({node.SITE: node.encode(NodeSite(spool="x", spool_stores=(), run=()))}, "TES_NODE.run"),
        ({node.ATTEMPT: ""}, "TES_ATTEMPT: is not set"),
        ({node.ATTEMPT: "abc"}, "TES_ATTEMPT: must be <task>/<number>"),
        ({node.ATTEMPT: "../x/1"}, "TES_ATTEMPT: must be"),
        ({node.ATTEMPT: "abc/0"}, "TES_ATTEMPT: must be"),
        ({"NODE": ""}, "NODE: is not set"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, str], words: str) -> None:
    with pytest.raises(errors.SettingsError, match=words):
        node_run.read({**GOOD, **change})


def test_a_runner_that_cannot_begin_fails(caplog: pytest.LogCaptureFixture) -> None:
    assert node_run.run({}, threading.Event()) == node.FAILED
    assert [record.getMessage() for record in caplog.records] == ["node.failed"]
    assert "TES_NODE" in caplog.records[0].fields["error"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "ids"),
    [("", ()), ("all", ()), ("none", ()), ("void", ()), ("GPU-aa, GPU-bb", ("GPU-aa", "GPU-bb")), ("0", ("0",)), ("GPU-aa:0", ("GPU-aa:0",))],
)
def test_gpus(value: str, ids: tuple[str, ...]) -> None:
    assert node_engine.gpus(value) == ids
