"""Routing rules, in order, with the reason in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tes_server.errors import Invalid
from tes_server.model.task import Task
from tes_server.plan.paths import SitePath, Sites
from tes_server.plan.route import Rule, route

SITES = Sites(paths=(SitePath("/shared", "file:///data"), SitePath("/shared/exec", "S3://bucket/exec")))
BACKENDS = {"local": Sites(), "kubernetes": SITES}


def task(**fields: Any) -> Task:
    return msgspec.convert({"executors": [{"image": "i", "command": ["c"]}], **fields}, Task)


@pytest.mark.parametrize(
    ("rule", "fields", "holds"),
    [
        ({"owner": "al*"}, {}, True),
        ({"owner": "bob"}, {}, False),
        ({"tags": {"p": "x*"}}, {"tags": {"p": "xy"}}, True),
        ({"tags": {"p": "*"}}, {}, False),
        ({"min_cpus": 8}, {"resources": {"cpu_cores": 8}}, True),
        ({"min_cpus": 8}, {"resources": {"cpu_cores": 7}}, False),
        ({"max_cpus": 2}, {}, True),
        ({"min_ram_gb": 10, "max_ram_gb": 20}, {"resources": {"ram_gb": 30}}, False),
        ({"schemes": ["s3"]}, {"inputs": [{"path": "/a", "url": "S3://b/c"}]}, True),
        ({"schemes": ["file"]}, {"inputs": [{"path": "/a", "url": "/b/c"}]}, True),
        ({"schemes": ["s3"]}, {"inputs": [{"path": "/a", "url": "/shared/exec/c"}]}, True),
        ({"schemes": ["s3"]}, {"inputs": [{"path": "/a", "url": "FILE://localhost/shared/%65xec//c"}]}, True),
        ({"schemes": ["s3"]}, {"inputs": [{"path": "/a", "url": "file:/shared/exec"}]}, True),
        ({"schemes": ["s3"]}, {"inputs": [{"path": "/a", "url": "/shared/executions/c"}]}, False),
        ({"schemes": ["file"]}, {"inputs": [{"path": "/a", "url": "/shared/executions/c"}]}, True),
        ({"schemes": ["s3"]}, {"inputs": [{"path": "/a", "content": "x"}]}, False),
        ({"schemes": ["s3"]}, {}, False),
        ({"gpus": True}, {"resources": {"backend_parameters": {"GPUs": "2"}}}, True),
        ({"gpus": False}, {"resources": {"backend_parameters": {"gpus": "2"}}}, False),
        ({"parameters": {"VM_Size": "big*"}}, {"resources": {"backend_parameters": {"vm_size": "big1"}}}, True),
    ],
)
def test_each_condition(rule: dict[str, Any], fields: dict[str, Any], holds: bool) -> None:
    chosen = route(task(**fields), "alice", [msgspec.convert({"backend": "kubernetes", **rule}, Rule)], BACKENDS)
    assert chosen.backend == ("kubernetes" if holds else "local")
    assert chosen.rule.startswith("routes[0]: " if holds else "default")


def test_a_rule_in_words_names_every_condition_and_no_other() -> None:
    assert Rule(backend="b").words() == "always"
    assert Rule(backend="b", gpus=False, max_cpus=2, tags={"p": "x*"}).words() == "tags={'p': 'x*'}, max_cpus=2, gpus=False"


def test_the_first_rule_that_holds_decides_and_a_named_backend_beats_all() -> None:
    rules = [Rule(backend="kubernetes"), Rule(backend="local")]
    assert route(task(), "o", rules, BACKENDS).rule == "routes[0]: always"
    named = task(resources={"backend_parameters": {"Backend": "local"}})
    assert route(named, "o", rules, BACKENDS).backend == "local"
    with pytest.raises(Invalid, match="this server has local, kubernetes"):
        route(task(resources={"backend_parameters": {"backend": "mars"}}), "o", rules, BACKENDS)
