"""The create-container body of a cell, compared as a whole: a change of what Docker is asked for is a visible diff."""

from __future__ import annotations

import pathlib
from typing import Any

import msgspec
import pytest

from tes_server import errors
from tes_server.plan.steps import Execute, Limits, Mount, MountKind
from tes_server.runner import docker_spec
from tes_server.runner.engine import Cell
from tes_server.telemetry import Code

OOM = ("--oom", "/sys/fs/cgroup/memory.events", "--oom", "/sys/fs/cgroup/memory/memory.oom_control")

SITE = docker_spec.Site(step=pathlib.Path("/opt/tes-step"), data="d1", network="bridge", grace=10.0, open_files=False)

CELL = Cell(
    name="t-1-0",
    step=Execute(
        index=0,
        image="img:1",
        argv=("prog", "", "a b", "--", "$HOME"),
        env={"A": "", "B": "x=y"},
        workdir="/work/w",
        stdin="/work/in",
        stdout="/work/out",
        stderr="/work/err",
    ),
    mounts=(Mount("/tmp"), Mount("/work"), Mount("/etc/in.conf", MountKind.FILE), Mount("/store", MountKind.LIVE, "/srv/store:1")),
    limits=Limits(cpus=1.5, ram_bytes=2_000_000_000, disk_bytes=10**10, gpus=2),
    volume=pathlib.Path("/data/t-1/volume"),
    record=pathlib.Path("/data/t-1/steps/0"),
    labels={"site": "x", "tes-server.data": "overruled"},
)


@pytest.mark.parametrize(("network", "mode"), [("bridge", "default"), ("none", "none"), ("host", "host")])
def test_network(network: str, mode: str) -> None:
    assert docker_spec.container(CELL, msgspec.structs.replace(SITE, network=network))["HostConfig"]["NetworkMode"] == mode


def bind(source: str, target: str, read_only: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def test_whole_body() -> None:
    assert docker_spec.container(CELL, SITE) == {
        "Image": "img:1",
        "Entrypoint": ["/.tes/step"],
        "Cmd": [
            *("--record", "/.tes/record", "--tail", "10240", "--grace", "10.000"),
            *OOM,
            *("--stdin", "/work/in", "--stdout", "/work/out", "--stderr", "/work/err", "--workdir", "/work/w"),
            *("--", "prog", "", "a b", "--", "$HOME"),
        ],
        "Env": ["A=", "B=x=y"],
        "Labels": {"site": "x", "tes-server.cell": "t-1-0", "tes-server.data": "d1"},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "HostConfig": {
            "Mounts": [
                bind("/opt/tes-step", "/.tes/step", read_only=True),
                bind("/data/t-1/steps/0", "/.tes/record"),
                bind("/data/t-1/volume/tmp", "/tmp"),
                bind("/data/t-1/volume/work", "/work"),
                bind("/data/t-1/volume/etc/in.conf", "/etc/in.conf", read_only=True),
                bind("/srv/store:1", "/store"),
            ],
            "PidsLimit": 32768,
            "CpuPeriod": 100000,
            "CpuQuota": 150000,
            "Memory": 2_000_000_000,
            "MemorySwap": 2_000_000_000,
            "DeviceRequests": [{"Count": 2, "Capabilities": [["gpu"]]}],
            "NetworkMode": "default",
            "SecurityOpt": ["no-new-privileges:true"],
            "Init": False,
            "LogConfig": {"Type": "none", "Config": {}},
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
    }


def test_the_least_step_asks_for_the_least() -> None:
    cell = Cell(
        name="t-1-0",
        step=Execute(index=0, image="img", argv=("prog",)),
        mounts=(),
        limits=Limits(cpus=0, ram_bytes=0),
        volume=CELL.volume,
        record=CELL.record,
        tail_bytes=7,
    )
    body = docker_spec.container(cell, SITE)
    assert body["Cmd"] == ["--record", "/.tes/record", "--tail", "7", "--grace", "10.000", "--", "prog"]
    assert body["Env"] == []
    assert not body["HostConfig"].keys() & {"CpuQuota", "Memory", "MemorySwap", "DeviceRequests"}


def test_gpus_are_those_that_the_platform_gave() -> None:
    site = msgspec.structs.replace(SITE, gpus=("GPU-aa", "GPU-bb"))
    assert docker_spec.container(CELL, site)["HostConfig"]["DeviceRequests"] == [{"DeviceIDs": ["GPU-aa", "GPU-bb"], "Capabilities": [["gpu"]]}]
    assert "DeviceRequests" not in docker_spec.container(msgspec.structs.replace(CELL, limits=Limits(cpus=1, ram_bytes=1)), site)["HostConfig"]


def test_a_scanner_that_has_the_engine() -> None:
    """And one whose engine has no socket that a container could be given."""
    cell = msgspec.structs.replace(CELL, mounts=(Mount("/var/run/docker.sock", MountKind.ENGINE),))
    body = docker_spec.container(cell, msgspec.structs.replace(SITE, socket="/run/user/1/docker.sock"))
    assert body["User"] == "0:0"
    assert body["HostConfig"]["Mounts"][-1] == bind("/run/user/1/docker.sock", "/var/run/docker.sock")
    assert "User" not in docker_spec.container(CELL, SITE)
    with pytest.raises(errors.EngineError) as raised:
        docker_spec.container(cell, SITE)
    assert raised.value.code == Code.REJECTED


def test_an_environment_with_secrets_is_not_told_to_the_daemon() -> None:
    body = docker_spec.container(msgspec.structs.replace(CELL, secret=True), SITE)
    assert body["Env"] == []
    assert body["Cmd"][6:8] == ["--env-add", "/.tes/record/env"]
    assert "x=y" not in str(body)


def test_amounts_below_what_docker_takes_are_raised_to_it() -> None:
    host = docker_spec.container(msgspec.structs.replace(CELL, limits=Limits(cpus=0.001, ram_bytes=1000)), SITE)["HostConfig"]
    assert (host["CpuQuota"], host["Memory"], host["MemorySwap"]) == (1000, 6291456, 6291456)


@pytest.mark.parametrize(
    ("copies", "open_files", "options"),
    [
        ((), True, ["--open", "/tmp", "--open", "/work"]),
        (("/etc/a", "/b"), False, ["--copy", "/etc/a", "/.tes/volume/etc/a", "--copy", "/b", "/.tes/volume/b"]),
        (("/b",), True, ["--copy", "/b", "/.tes/volume/b", "--open", "/.tes/volume"]),
    ],
)
def test_copies_and_access_for_a_server_that_is_not_root(copies: tuple[str, ...], open_files: bool, options: list[str]) -> None:
    cell = msgspec.structs.replace(CELL, step=Execute(index=0, image="img", argv=("prog",), copies=copies))
    body = docker_spec.container(cell, msgspec.structs.replace(SITE, open_files=open_files))
    assert body["Cmd"] == ["--record", "/.tes/record", "--tail", "10240", "--grace", "10.000", *OOM, *options, "--", "prog"]
    assert (bind("/data/t-1/volume", "/.tes/volume") in body["HostConfig"]["Mounts"]) is bool(copies)


def test_the_wiper_runs_only_tes_step_as_root_and_without_a_network() -> None:
    assert docker_spec.wiper(pathlib.Path("/data/t-1"), "sha256:1", SITE) == {
        "Image": "sha256:1",
        "Entrypoint": ["/.tes/step"],
        "Cmd": ["--wipe", "/.tes/wiped"],
        "User": "0:0",
        "Labels": {"tes-server.data": "d1"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": [bind("/opt/tes-step", "/.tes/step", read_only=True), bind("/data/t-1", "/.tes/wiped")],
            "NetworkMode": "none",
            "SecurityOpt": ["no-new-privileges:true"],
            "LogConfig": {"Type": "none", "Config": {}},
            "AutoRemove": True,
        },
    }
