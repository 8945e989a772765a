"""The list of platforms: what each refuses, and that everything that goes by their names knows all of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tes_server import configuration, doctor_places, errors, platforms
from tes_server.settings import Settings

STORAGE = [{"url": "s3://spool", "write": True, "tasks": False}]
CLUSTER = {"kubernetes.namespace": "tes", "kubernetes.image": "server:1"}
AWS = {"aws_batch.queue": "regular", "aws_batch.image": "server:1", "spool.url": "s3://spool/tes", "storage": STORAGE}
AZURE = {
    "azure_batch.url": "https://lab.westeurope.batch.azure.com",
    "azure_batch.image": "server:1",
    "azure_batch.pools": {"large": {"vm_size": "Standard_D16ds_v5"}},
    "spool.url": "s3://spool/tes",
    "storage": STORAGE,
}


def made(**tree: Any) -> Settings:
    return configuration.load(None, {}, tree)


def test_each_platform_has_a_setting_that_enables_it_and_a_look_of_the_doctor() -> None:
    assert list(doctor_places.PLACES) == [platform.name for platform in platforms.PLATFORMS]
    usual = made()
    for platform in platforms.PLATFORMS:
        table, _, field = platform.key.partition(".")
        assert table == platform.name
        assert hasattr(getattr(usual, table), field)


def test_the_first_one_that_is_enabled_is_the_default() -> None:
    assert [platform.name for platform in platforms.enabled(made())] == ["local"]
    everything = made(**{**CLUSTER, **AWS, **AZURE})
    platforms.check(everything)
    assert [platform.name for platform in platforms.enabled(everything)] == ["local", "kubernetes", "aws_batch", "azure_batch"]
    how = [platform.how(everything) for platform in platforms.enabled(everything)]
    assert how[1:] == ["namespace tes", "AWS Batch queue regular", "Azure Batch pools large"]


@pytest.mark.parametrize(
    ("tree", "where", "words"),
    [
        ({"kubernetes.kubeconfig": "c"}, "kubernetes.namespace", "must be named: without it no task runs in the cluster"),
        ({"aws_batch.spot_queue": "q"}, "aws_batch.queue", "must be named: without it no task runs on AWS Batch"),
        # What was meant says more than that nothing is left.
        ({"aws_batch.image": "i", "local.enabled": False}, "aws_batch.queue", "must be named"),
        ({"azure_batch.image": "i"}, "azure_batch.url", "must be named: without it no task runs on Azure Batch"),
        ({**AWS, "aws_batch.image": ""}, "aws_batch.image", "must name this server's own image"),
        (
            {"local.enabled": False},
            "local.enabled",
            "no tasks can run: neither kubernetes.namespace nor aws_batch.queue nor azure_batch.url names another place for them",
        ),
    ],
)
def test_what_enables_nothing_is_refused(tree: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(errors.SettingsError, match=words) as caught:
        platforms.check(made(**tree))
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("tree", "package", "where", "extra"),
    [
        (CLUSTER, "kubernetes", "kubernetes.namespace", "kubernetes"),
        (AWS, "boto3", "aws_batch.queue", "aws"),
        (AZURE, "azure.batch", "azure_batch.url", "azure"),
    ],
)
def test_an_sdk_that_is_not_installed_is_named(tree: dict[str, Any], package: str, where: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.SettingsError, match=rf"needs more: pip install 'tes-server\[{extra}\]'") as caught:
        platforms.check(made(**tree))
    assert caught.value.where == where
