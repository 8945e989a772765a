"""The `tes` command as a process: what a terminal and signals make of it, and what it loads."""

import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.scripted_tes import ECHO, Tes, log


def start(*words: str, **options: Any) -> subprocess.Popen[Any]:
    return subprocess.Popen([sys.executable, "-m", "tes_server.client_cli", *words], **options)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_cancels_and_a_second_one_leaves(tes: Tes, interrupts: int) -> None:
    tes.on_create = [log("RUNNING", "before\n")]
    tes.is_stubborn = interrupts == 2
    with start("run", *ECHO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "before\n"
        process.send_signal(signal.SIGINT)
        assert "canceling task-1; Ctrl-C again leaves at once" in process.stderr.readline()
        if interrupts == 2:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert ("ended as CANCELED" in errors) == (interrupts == 1)


def in_terminal(*words: str) -> tuple[int, str]:
    """Exit code and output of `tes` at a terminal of 100 columns."""
    master, slave = pty.openpty()
    with start(*words, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "COLUMNS": "100", "TERM": "xterm"}) as process:
        os.close(slave)
        output = b""
        try:
            while chunk := os.read(master, 65536):
                output += chunk
        except OSError:  # Linux: EIO once the last writer has closed
            pass
        finally:
            os.close(master)
    return process.returncode, output.decode()


TASK = {
    "id": "a",
    "state": "EXECUTOR_ERROR",
    "name": "[red]x[/red]\x1b[31m",
    "creation_time": "2024-01-01T00:00:00Z",
    "tags": {"k": "v"},
    "resources": {"cpu_cores": 2},
    "executors": [{"image": "img", "command": ["false"]}, {"image": "img", "command": ["true"]}],
    "logs": [{"logs": [{"exit_code": 1}], "outputs": [{"path": "/o", "url": "s3://b/o", "size_bytes": "7"}], "system_logs": ["EXECUTOR_FAILED: exit code 1"]}],
}


def test_people_get_tables(tes: Tes) -> None:
    tes.tasks = {"a": [TASK]}
    code, output = in_terminal("list")
    assert code == 0
    assert "CREATED" in output
    assert "[red]x[/red] [31m" in output  # neither markup nor escape codes of the server's are obeyed


def test_people_get_details(tes: Tes) -> None:
    tes.tasks = {"a": [TASK]}
    _, output = in_terminal("get", "a")
    for part in ("EXECUTOR_ERROR", "asked cpu_cores", "img: false", "exit code 1", "not started", "/o → s3://b/o (7 bytes)", "EXECUTOR_FAILED"):
        assert part in output


def test_people_get_progress_and_a_table_at_the_end(tes: Tes) -> None:
    tes.tasks = {"a": [{"id": "a", "state": "RUNNING"}, {"id": "a", "state": "COMPLETE"}], "b": [{"id": "b", "state": "COMPLETE"}]}
    code, output = in_terminal("wait", "a", "b")
    assert code == 0
    assert "2 COMPLETE" in output
    assert output.count("COMPLETE") >= 3


def test_people_get_ids_and_json_on_request(tes: Tes) -> None:
    tes.tasks = {"a": [{"id": "a", "state": "RUNNING"}]}
    assert in_terminal("run", "--no-wait", *ECHO) == (0, "task-1\r\n")
    assert in_terminal("get", "--json", "a") == (0, '{"id": "a", "state": "RUNNING"}\r\n')
    assert "type.version" in in_terminal("info")[1]


def test_help_loads_neither_rich_nor_the_server() -> None:
    heavy = "import sys; from tes_server import client_cli; print(sorted({'rich', 'connexion', 'prometheus_client', 'docker', 'sqlite3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"
