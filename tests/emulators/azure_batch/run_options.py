"""Container settings of a task as Docker's API takes them: the options of `docker create` that Azure Batch passes on."""

from __future__ import annotations

import argparse
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any, NoReturn

from tests.emulators.azure_batch.protocol import Json


class BadOptions(Exception):
    """Why Docker, or Azure Batch, would not take them."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadOptions(message)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    for many in ("-v/--volume", "-e/--env", "-l/--label", "--tmpfs", "--cap-add", "--cap-drop", "--security-opt", "--group-add", "--add-host"):
        parser.add_argument(*many.split("/"), action="append", default=[])
    for one in ("--network/--net", "-u/--user", "-w/--workdir", "--entrypoint", "-m/--memory", "--cpus", "--pid", "--ipc", "--shm-size", "--name"):
        parser.add_argument(*one.split("/"))
    for flag in ("--rm", "--init", "--privileged", "--read-only"):
        parser.add_argument(flag, action="store_true")
    return parser


PARSER = _parser()
SIZES = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def config(image: str, command: str, settings: Json, environment: Mapping[str, str], mounts: Mapping[pathlib.Path, str], work: pathlib.Path) -> dict[str, Any]:
    """`mounts`: directories of the node, which stand at the same path in the container -> `rw` or `ro`; `work`: the task's working directory.

    The command line is split and follows the image's entry point, as arguments of `docker create` do. BadOptions: it cannot be done.
    """
    try:
        words = shlex.split(command)
        given = PARSER.parse_args(shlex.split(settings.get("containerRunOptions", "")))
    except ValueError as error:
        raise BadOptions(str(error)) from error
    if given.name is not None:
        raise BadOptions("the name of a container is Azure Batch's")
    found: dict[str, Any] = {
        "Image": image,
        "Cmd": words or None,
        "Env": [f"{name}={value}" for name, value in environment.items()] + given.env,
        "Labels": dict(text.partition("=")[::2] for text in given.label),
        "User": given.user or "",
        "HostConfig": {
            "Binds": [f"{path}:{path}:{mode}" for path, mode in mounts.items()] + given.volume,
            "NetworkMode": given.network or "bridge",
            "PidMode": given.pid or "",
            "IpcMode": given.ipc or "",
            "Privileged": given.privileged,
            "ReadonlyRootfs": given.read_only,
            "Init": given.init,
            "CapAdd": given.cap_add,
            "CapDrop": given.cap_drop,
            "SecurityOpt": given.security_opt,
            "GroupAdd": given.group_add,
            "ExtraHosts": given.add_host,
            "Tmpfs": dict(text.partition(":")[::2] for text in given.tmpfs),
            "Memory": _size(given.memory),
            "ShmSize": _size(given.shm_size),
            "NanoCpus": int(float(given.cpus or 0) * 1e9),
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
        },
    }
    if given.entrypoint is not None:
        found["Entrypoint"] = [given.entrypoint] if given.entrypoint else [""]
    if given.workdir is not None:
        found["WorkingDir"] = given.workdir
    elif settings.get("workingDirectory", "taskWorkingDirectory") == "taskWorkingDirectory":
        found["WorkingDir"] = str(work)
    return found


def _size(text: str | None) -> int:
    if not text:
        return 0
    number, unit = (text[:-1], text[-1].lower()) if not text[-1].isdecimal() else (text, "b")
    try:
        return int(float(number) * SIZES[unit])
    except (KeyError, ValueError) as error:
        raise BadOptions(f"{text} is no size") from error
