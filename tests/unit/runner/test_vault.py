"""Secrets put in place, and what is said where they cannot be: names, never values."""

from __future__ import annotations

import json

import pytest

from tes_server import errors
from tes_server.plan.steps import Execute
from tes_server.runner import vault
from tes_server.telemetry import Code

KEPT = {"ref-plain": "s3cr3t", "ref-json": json.dumps({"user": "u", "password": "p w\n", "port": 5432, "none": None}), "ref-nul": "s3cr3t\0", "ref-list": "[1]"}
REFERENCES = {"plain": "ref-plain", "json": "ref-json", "nul": "ref-nul", "list": "ref-list", "gone": "ref-gone", "busy": "ref-busy"}


def step(index: int, env: dict[str, str]) -> Execute:
    return Execute(index=index, image="i", argv=("a",), env=env)


class Keeper:
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
    keeper = Keeper()
    first = step(0, {"A": "secret://json/password", "B": "as it is", "C": "secret://plain"})
    second = step(1, {"A": "secret://json/port", "B": "secret://json"})
    opened = vault.Vault(REFERENCES, keeper)
    assert vault.wanted(first)
    assert [opened.opened(one).env for one in (first, second)] == [{"A": "p w\n", "B": "as it is", "C": "s3cr3t"}, {"A": "5432", "B": KEPT["ref-json"]}]
    assert sorted(keeper.asked) == ["ref-json", "ref-plain"]
    assert first.env["C"] == "secret://plain"


def test_without_any_nobody_is_asked() -> None:
    plain = step(0, {"A": "plain"})
    assert not vault.wanted(plain)
    assert vault.Vault({}, vault.nothing).opened(plain) == plain


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
        vault.Vault(REFERENCES, Keeper()).opened(step(1, {"a/b": value}))
    said = raised.value
    assert said.public.startswith("/executors/1/env/a~1b: the secret ")
    assert words in said.public
    assert (said.code, said.transient) == (code, transient)
    assert "s3cr3t" not in said.public


@pytest.mark.parametrize(
    ("value", "words"), [("secret://gone/x", "scan_secrets.gone: the vault does not have it"), ("secret://other", "scan_secrets.other: this site")]
)
def test_secrets_of_scanners_are_named_by_their_settings(value: str, words: str) -> None:
    with pytest.raises(errors.StagingError) as caught:
        vault.Vault(REFERENCES, Keeper(), table="scan_secrets").opened(step(0, {"TRIVY_TOKEN": value}))
    assert caught.value.public.startswith(f"scan.env.TRIVY_TOKEN: {words}")
