"""Secrets put in place, and what is said where they cannot be: names, never values."""

from __future__ import annotations

import json

import pytest

from tes_server import errors
from tes_server.plan.steps import Execute, Limits, Plan, StageIn, StageOut
from tes_server.runner import node_secrets
from tes_server.telemetry import Code

KEPT = {"ref-plain": "s3cr3t", "ref-json": json.dumps({"user": "u", "password": "p w\n", "port": 5432, "none": None}), "ref-nul": "s3cr3t\0", "ref-list": "[1]"}
REFERENCES = {"plain": "ref-plain", "json": "ref-json", "nul": "ref-nul", "list": "ref-list", "gone": "ref-gone", "busy": "ref-busy"}


def plan_of(*envs: dict[str, str]) -> Plan:
    steps = tuple(Execute(index=number, image="i", argv=("a",), env=env) for number, env in enumerate(envs))
    return Plan(task_id="t", attempt=1, stage_in=StageIn(), executors=steps, stage_out=StageOut(), mounts=(), limits=Limits(cpus=1, ram_bytes=1))


class Vault:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, reference: str) -> str:
        self.asked.append(reference)
        if reference == "ref-busy":
            raise errors.StagingError("the vault does not answer", Code.SECRET_ERROR, transient=True)
        if reference not in KEPT:
            raise errors.StagingError("the vault does not have it", Code.SECRET_NOT_FOUND)
        return KEPT[reference]


def test_each_is_put_in_place_and_asked_for_once() -> None:
    vault = Vault()
    plan = plan_of({"A": "secret://json/password", "B": "as it is", "C": "secret://plain"}, {"A": "secret://json/port", "B": "secret://json"})
    assert node_secrets.wanted(plan)
    resolved = node_secrets.resolve(plan, REFERENCES, vault)
    assert [step.env for step in resolved.executors] == [{"A": "p w\n", "B": "as it is", "C": "s3cr3t"}, {"A": "5432", "B": KEPT["ref-json"]}]
    assert sorted(vault.asked) == ["ref-json", "ref-plain"]
    assert plan.executors[0].env["C"] == "secret://plain"


def test_without_any_nobody_is_asked() -> None:
    plan = plan_of({"A": "plain"}, {})
    assert not node_secrets.wanted(plan)
    assert node_secrets.resolve(plan, {}, Vault()) == plan


@pytest.mark.parametrize(
    ("value", "code", "words", "transient"),
    [
        ("secret://other", Code.SECRET_NOT_FOUND, "the secret other: this site has none of that name for tasks", False),
        ("secret://gone", Code.SECRET_NOT_FOUND, "the secret gone: the vault does not have it", False),
        ("secret://busy/x", Code.SECRET_ERROR, "the secret busy: the vault does not answer", True),
        ("secret://plain/key", Code.SECRET_NOT_FOUND, "it is no JSON object", False),
        ("secret://list/key", Code.SECRET_NOT_FOUND, "it has no key 'key'", False),
        ("secret://json/nothing", Code.SECRET_NOT_FOUND, "it has no key 'nothing'", False),
        ("secret://json/none", Code.SECRET_NOT_FOUND, "it has no key 'none'", False),
        ("secret://nul", Code.SECRET_ERROR, "NUL", False),
    ],
)
def test_what_cannot_be_had_is_named_and_not_told(value: str, code: Code, words: str, transient: bool) -> None:
    with pytest.raises(errors.StagingError) as raised:
        node_secrets.resolve(plan_of({}, {"a/b": value}), REFERENCES, Vault())
    said = raised.value
    assert said.public.startswith("/executors/1/env/a~1b: the secret ")
    assert words in said.public
    assert (said.code, said.transient) == (code, transient)
    assert "s3cr3t" not in said.public
