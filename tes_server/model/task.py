"""The TES structs (TES 1.1, components/schemas), with the field names of the specification.

These are the domain's own shape: what a client sent, cleaned of nulls. Unset fields are None or empty and are left
out of every answer (clients.md row 9). `tests/unit/model/test_task.py` holds them equal to the OpenAPI file.
"""

from __future__ import annotations

import datetime
import enum

import msgspec


class FileType(enum.StrEnum):
    """tesFileType."""

    FILE = "FILE"
    DIRECTORY = "DIRECTORY"


class Input(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesInput. `content`, if not empty, wins over `url`."""

    path: str
    name: str | None = None
    description: str | None = None
    url: str | None = None
    type: FileType | None = None
    content: str | None = None
    streamable: bool | None = None


class Output(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesOutput. `path_prefix` counts only where `path` holds wildcards."""

    path: str
    url: str
    name: str | None = None
    description: str | None = None
    path_prefix: str | None = None
    type: FileType | None = None


class Executor(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesExecutor. `command` is argv, never a shell line."""

    image: str
    command: tuple[str, ...]
    workdir: str | None = None
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    env: dict[str, str] | None = None
    ignore_error: bool | None = None


class Resources(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesResources. `cpu_cores` may be a fraction (accepted beyond TES 1.1), `ram_gb` and `disk_gb` are 10^9 bytes."""

    cpu_cores: float | None = None
    preemptible: bool | None = None
    ram_gb: float | None = None
    disk_gb: float | None = None
    zones: tuple[str, ...] | None = None
    backend_parameters: dict[str, str] | None = None
    backend_parameters_strict: bool | None = None


class Task(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesTask without the fields that the server sets (id, state, logs, creation_time)."""

    executors: tuple[Executor, ...]
    name: str | None = None
    description: str | None = None
    inputs: tuple[Input, ...] | None = None
    outputs: tuple[Output, ...] | None = None
    resources: Resources | None = None
    volumes: tuple[str, ...] | None = None
    tags: dict[str, str] | None = None


class ExecutorLog(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """tesExecutorLog. `exit_code` is left out until known (clients.md row 10)."""

    start_time: datetime.datetime | None = None
    end_time: datetime.datetime | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: int | None = None


class OutputFileLog(msgspec.Struct, frozen=True, kw_only=True):
    """tesOutputFileLog. `size_bytes` is a decimal string, as the specification has it."""

    url: str
    path: str
    size_bytes: str
