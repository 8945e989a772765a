"""`tes-server pools`, as the person who types it sees it: the real SDKs, and the emulated Azure Batch and Resource Manager."""

from __future__ import annotations

import json
import logging
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import click.testing
import pytest

from tes_server import cli
from tes_server.backends.azure_batch import formula
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import ACCOUNT, KEY, LOCATION, SUBSCRIPTION, World
from tests.unit.emulators.azure_batch.conftest import group, job

pytestmark = pytest.mark.azure_batch
WORLD = World(boot=0.0, restore=None, second=0.003, start_tasks=False, low_priority_cores=16)
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/tes/providers"
IDENTITY = f"{GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
SUBNET = f"{GROUP}/Microsoft.Network/virtualNetworks/tes/subnets/nodes"
D4: dict[str, Any] = {"vm_size": "Standard_D4s_v3", "spot": True, "nodes": 3}
SAID = {"cpus": 4.0, "ram_gb": 16.0, "disk_gb": 30.0}
Say = Callable[..., tuple[int, list[str]]]
Write = Callable[..., None]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(WORLD, metadata="loopback", pretend=True) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        yield emulator
        assert emulator.endpoint.defects == []


@pytest.fixture
def write(emulator: Emulator, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the settings: those of `azure_batch`, and of the pool `big`; other pools by their ids."""
    file = tmp_path / "settings.toml"
    monkeypatch.setenv("TES_SERVER_CONFIG", str(file))
    usual: dict[str, Any] = {
        "url": emulator.url,
        "account": ACCOUNT,
        "location": LOCATION,
        "image": "registry.example.org/tes-server:1",
        "work": "/mnt/tes-server",
        "subscription": SUBSCRIPTION,
        "resource_group": "tes",
        "management_url": emulator.url,
        "subnet": SUBNET,
        "identities": [IDENTITY],
        "registry_identity": IDENTITY,
    }

    def settings(big: dict[str, Any] | None = None, others: dict[str, dict[str, Any]] | None = None, **batch: Any) -> None:
        pools = {"big": {**D4, **(big or {})}, **(others or {})}
        lines = ["[azure_batch]", *(f"{name} = {json.dumps(value)}" for name, value in {**usual, **batch}.items())]
        for name, pool in pools.items():
            lines += [f"[azure_batch.pools.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in pool.items())]
        file.write_text("\n".join(lines))

    settings()
    return settings


@pytest.fixture
def by_key(write: Write, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of somebody who has a shared key only."""
    monkeypatch.setenv("BATCH_KEY", KEY)
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    return {"key_variable": "BATCH_KEY", "subscription": "", "resource_group": "", "identities": [], "registry_identity": ""}


@pytest.fixture
def say(write: Write) -> Iterator[Say]:
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*words: str) -> tuple[int, list[str]]:
        done = click.testing.CliRunner().invoke(cli.main, ["pools", *words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, [line.strip() for line in done.output.splitlines()]

    yield run
    root.handlers[:], root.level = before[0], before[1]


def test_made_with_identities_and_a_second_time_left_as_it_is(say: Say, emulator: Emulator) -> None:
    described = "big: Standard_D4s_v3 (4 cores, 17.2 GB of memory, 30.9 GB of disk), Spot, 4 slots a node, 0 to 3 nodes"
    assert say("plan") == (0, [described, "would be made"])
    assert say("status") == (0, ["big:", "! is not there: `tes-server pools apply` makes it"])
    assert emulator.account.pools == {}
    assert say("apply") == (0, ["big: made"])
    made = emulator.account.pool("big")
    before = made.told()
    assert say("apply") == (0, ["big: as it is to be"])
    assert say("plan") == (0, [described, "as it is to be", "its formula comes to 0 nodes now"])
    assert made.etag == before["eTag"]
    assert [one["resourceId"] for one in before["identity"]["userAssignedIdentities"]] == [IDENTITY]
    assert {item["name"]: item["value"] for item in before["metadata"]} == {
        "tes-server": "org-example-tes-server",
        "tes-cpus": "4",
        "tes-ram-gb": "17.2",
        "tes-disk-gb": "30.9",
        "tes-gpus": "0",
    }
    assert before["networkConfiguration"] == {"subnetId": SUBNET, "publicIPAddressConfiguration": {"provision": "nopublicipaddresses"}}
    containers = before["virtualMachineConfiguration"]["containerConfiguration"]
    assert containers["containerRegistries"] == [{"registryServer": "registry.example.org", "identityReference": {"resourceId": IDENTITY}}]
    assert emulator.calls.seen["pool.create"] == 1
    assert not {"create_pool", "update_pool", "enable_pool_auto_scale"} & set(emulator.calls.seen)


def test_made_by_a_shared_key_alone(say: Say, write: Write, by_key: dict[str, Any], emulator: Emulator) -> None:
    write(SAID, **by_key)
    assert say("apply") == (0, ["big: made"])
    assert say("apply") == (0, ["big: as it is to be"])
    assert say("plan")[1][-1] == "its formula comes to 0 nodes now"
    assert {"create_pool"} == {call for call in emulator.calls.seen if "create" in call}


def test_it_grows_with_the_tasks_that_wait_and_shrinks_when_they_are_done(say: Say, emulator: Emulator) -> None:
    say("apply")
    with emulator.client() as client:
        client.create_job(job(on="big"))
        client.create_task_collection("job", group(*(f"t{number}" for number in range(6)), required_slots=2))
        nodes = emulator.wait_nodes("big", 3, "running")  # it counts tasks: two nodes at first; these are full with two each
        code, told = say("status")
        assert (code, told[1:3]) == (0, ["active, steady: 3 nodes (3 running), 3 wanted", "0 tasks wait (0 slots), 6 run (12 slots)"])
        assert not any(node.dedicated for node in nodes)
        for number in range(6):
            emulator.bad_days.finish("job", f"t{number}")
        emulator.wait_nodes("big", 0)
    assert "0 tasks wait (0 slots), 0 run (0 slots)" in say("status")[1]


def test_a_size_that_azure_gives_up(say: Say, write: Write, emulator: Emulator) -> None:
    write({"vm_size": "Standard_D2_v2"})
    code, told = say("plan")
    assert (code, told[1:]) == (
        0,
        ["Azure Batch makes no nodes of Standard_D2_v2 any more from 2028-05-01 on: choose another vm_size in time", "would be made"],
    )


def test_some_of_several(say: Say, write: Write, emulator: Emulator) -> None:
    write(others={"a": D4, "b": D4})
    assert say("apply", "a", "--drain", "b") == (0, ["a: made", "b: made"])
    assert {"a", "b"} == set(emulator.account.pools)
    assert json.loads("\n".join(say("apply", "--json", "big", "a")[1])) == [
        {"pool": "big", "did": ["made"], "left": [], "later": []},
        {"pool": "a", "did": [], "left": [], "later": []},
    ]
    assert [one["there"] for one in json.loads("\n".join(say("plan", "--json")[1]))] == [True, True, True]


def test_what_may_change_at_any_time(say: Say, write: Write, emulator: Emulator) -> None:
    write({"idle_nodes": 1})
    say("apply")
    emulator.wait_nodes("big", 1, "idle")
    write({"idle_nodes": 2}, work="/mnt/elsewhere", image="registry.example.org/tes-server:2")
    image = "image: registry.example.org/tes-server:1 -> registry.example.org/tes-server:2"
    assert say("plan")[1][1:4] == ["would change start task", "would change formula", f"would change, when it has no nodes, {image}"]
    assert say("apply") == (0, ["big: changed start task", "big: changed formula", f"big: when it has no nodes: {image}"])
    assert say("apply") == (0, [f"big: when it has no nodes: {image}"])
    emulator.wait_nodes("big", 2, "idle")
    assert "/mnt/elsewhere" in emulator.account.pool("big").spec["startTask"]["commandLine"]


def test_another_size_for_a_pool_without_nodes(say: Say, write: Write, emulator: Emulator) -> None:
    say("apply")
    write({"vm_size": "Standard_D2s_v3"}, identities=[IDENTITY, IDENTITY + "2"])
    code, told = say("apply")
    assert (code, told[:2]) == (0, ["big: changed vm_size: Standard_D4s_v3 -> Standard_D2s_v3", "big: changed slots: 4 -> 2"])
    assert say("apply") == (0, ["big: as it is to be"])
    found = emulator.account.pool("big").told()
    assert (found["vmSize"], found["taskSlotsPerNode"]) == ("Standard_D2s_v3", 2)
    assert {"name": "tes-cpus", "value": "2"} in found["metadata"]
    assert len(found["identity"]["userAssignedIdentities"]) == 2


def test_another_size_for_a_pool_with_nodes_waits_until_they_have_finished(say: Say, write: Write, emulator: Emulator) -> None:
    write({"idle_nodes": 1})
    say("apply")
    with emulator.client() as client:
        client.create_job(job(on="big"))
        client.create_task_collection("job", group("task"))
        emulator.wait("job", "task", "running")
        write({"vm_size": "Standard_D2s_v3", "idle_nodes": 1})
        code, told = say("plan")
        assert (code, told[1]) == (0, "not while it has 1 nodes (apply --drain big): vm_size: Standard_D4s_v3 -> Standard_D2s_v3")
        before = emulator.account.pool("big").etag
        code, told = say("apply")
        assert code == 1
        assert told[0].startswith("big: not done: nothing was changed, as Azure Batch changes this only while a pool has no nodes, and it has 1 node: vm_size")
        assert "`tes-server pools apply --drain big`" in told[0]
        assert emulator.account.pool("big").etag == before

        left = "big: not done: 1 node of it finish their tasks; the same command changes it when they have gone"
        assert say("apply", "--drain", "big") == (1, ["big: told its nodes to go", left])
        assert say("apply", "--drain", "big") == (1, [left])
        client.create_task_collection("job", group("second"))
        assert emulator.task("job", "task").state == "running"
        emulator.bad_days.finish("job", "task")
        emulator.wait_nodes("big", 0)
        assert emulator.task("job", "second").state == "active"
        assert [line for line in say("status")[1] if line.startswith("!")] == ["! its nodes were told to go (pools apply --drain); `pools apply` ends that"]
        code, told = say("apply", "--drain", "big")
        assert (code, told[0]) == (0, "big: changed vm_size: Standard_D4s_v3 -> Standard_D2s_v3")
        emulator.wait("job", "second", "running")


def test_a_pool_that_drains_and_is_wanted_as_it_is_scales_again(say: Say, write: Write, emulator: Emulator) -> None:
    write({"idle_nodes": 1})
    say("apply")
    emulator.wait_nodes("big", 1, "idle")
    write({"vm_size": "Standard_D2s_v3", "idle_nodes": 1})
    say("apply", "--drain", "big")
    assert emulator.account.pool("big").formula == formula.DRAIN
    write({"idle_nodes": 1})
    assert say("apply") == (0, ["big: changed formula"])


def test_a_formula_that_azure_cannot_evaluate_is_never_enabled(say: Say, write: Write, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    say("apply")
    kept = emulator.account.pool("big").formula
    monkeypatch.setattr(formula, "_SCALE", "$TargetDedicatedNodes = $Nothing;")
    code, told = say("plan")
    assert (code, told[-1]) == (
        0,
        "Azure Batch cannot evaluate its formula: AutoScalingFormulaEvaluationError: The variable $Nothing is not defined.",
    )
    code, told = say("apply")
    assert (code, len(told)) == (1, 1)
    assert told[0].startswith("big: not done: nothing was changed, as Azure Batch cannot evaluate its formula: AutoScalingFormulaEvaluationError")
    monkeypatch.setattr(formula, "_SCALE", "$TargetDedicatedNodes = ;")
    assert say("apply")[0] == 1
    assert emulator.account.pool("big").formula == kept


def test_quotas_and_sick_nodes_are_told(say: Say, write: Write, emulator: Emulator) -> None:
    write({"idle_nodes": 3, "spot": False}, others={"sick": {**D4, "idle_nodes": 1, "spot": False}})
    emulator.bad_days.exhaust("big")
    emulator.bad_days.stick("sick", "starttaskfailed")
    assert say("apply") == (0, ["big: made", "sick: made"])
    emulator.account.wait(lambda: emulator.account.pool("big").errors)
    emulator.wait_nodes("sick", 1, "starttaskfailed")
    code, told = say("status")
    assert code == 0
    assert [line[:75] for line in told if line.startswith("!")] == [
        "! AccountCoreQuotaReached: the account's quota of dedicated cores is used u",
        "! 1 nodes are starttaskfailed: the start task failed: its output is in star",
    ]
    code, told = say("status", "big", "--json")
    (one,) = json.loads("\n".join(told))
    assert (one["pool"], one["wanted"], one["errors"][0]["code"]) == ("big", 3, "AccountCoreQuotaReached")


def test_a_pool_that_the_settings_name_no_more_is_told_and_left(say: Say, write: Write, emulator: Emulator) -> None:
    write(others={"old": D4})
    say("apply")
    write()
    assert say("plan")[1][-1] == "old: made by this server, and not in the settings: nothing is done with it"
    assert say("status")[1][-2:] == ["old:", "! made by this server, and not in the settings"]
    assert say("apply") == (0, ["big: as it is to be"])
    assert emulator.account.pool("old").state == "active"


def test_one_that_cannot_be_made_keeps_no_other_from_it(say: Say, write: Write, emulator: Emulator) -> None:
    write(others={"bad": {**D4}, "good": D4})
    emulator.bad_days.refuse("pool.create", "PoolQuotaReached", "Pool quota for the account has been reached.", status=409)
    assert say("apply") == (
        1,
        ["big: not done: Azure Resource Manager pool.create: Pool quota for the account has been reached.", "bad: made", "good: made"],
    )
    assert say("apply", "good") == (0, ["good: as it is to be"])
    assert say("apply", "big") == (0, ["big: made"])


def test_an_answer_that_is_lost(say: Say, emulator: Emulator) -> None:
    emulator.bad_days.lose_answers(1, "pool.create")
    assert say("apply") == (0, ["big: made"])
    assert say("apply") == (0, ["big: as it is to be"])


def test_an_answer_of_the_batch_service_that_is_lost(say: Say, write: Write, by_key: dict[str, Any], emulator: Emulator) -> None:
    write(SAID, **by_key)
    emulator.bad_days.lose_answers(1, "create_pool")
    assert say("apply") == (0, ["big: made"])
    assert emulator.calls.seen["create_pool"] == 2


def test_it_waits_while_the_server_has_just_told_the_pool_to_grow(say: Say, write: Write, emulator: Emulator) -> None:
    say("apply")
    emulator.bad_days.refuse("enable_pool_auto_scale", "TooManyEnableAutoScaleRequests", "Too many.", status=503)
    write({"nodes": 4})
    assert say("apply") == (0, ["big: changed formula"])
    assert emulator.calls.seen["enable_pool_auto_scale"] == 2


@pytest.mark.parametrize("command", ["plan", "apply", "status"])
def test_a_wrong_key(say: Say, write: Write, by_key: dict[str, Any], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    write(SAID, **by_key)
    monkeypatch.setenv("BATCH_KEY", "bm90IHRoaXM=")
    code, told = say(command)
    assert (code, len(told)) == (2, 1)
    assert told[0].startswith("tes-server: Azure Batch ")
    assert "Server failed to authenticate the request" in told[0]


def test_a_wrong_secret_of_the_identity(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    monkeypatch.setattr("tes_server.backends.azure_batch.calls.WAIT", 0.0)
    code, told = say("plan")
    assert (code, len(told)) == (2, 1)
    assert "AADSTS7000215" in told[0]


@pytest.mark.parametrize(
    ("big", "batch", "says"),
    [
        ({"vm_size": "D4s_v3"}, {}, "azure_batch.pools.big.vm_size: Azure Batch has no size 'D4s_v3' there: did you mean Standard_D4s_v3?"),
        ({"vm_size": "Standard_B2s"}, {}, "azure_batch.pools.big.spot: Azure offers Standard_B2s as dedicated machines only"),
        ({}, {"location": "marsnorth"}, "Azure Resource Manager list_supported_virtual_machine_skus: The location marsnorth is not supported."),
        ({}, {"work": "/mnt/$HOME"}, "azure_batch.work: must be an absolute path"),
    ],
)
def test_settings_that_are_wrong(say: Say, write: Write, big: dict[str, Any], batch: dict[str, Any], says: str) -> None:
    write(big, **batch)
    for command in ("plan", "apply"):
        code, told = say(command)
        assert (code, len(told)) == (2, 1)
        assert told[0].startswith(f"tes-server: {says}")


def test_a_name_that_is_none(say: Say) -> None:
    for words in (("plan", "bg"), ("status", "bg"), ("apply", "--drain", "bg")):
        code, told = say(*words)
        assert (code, told[-1]) == (2, "Error: azure_batch.pools names no 'bg': it has big")
