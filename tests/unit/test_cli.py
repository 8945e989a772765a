"""The `tes-server` command: what it says of mistakes before anything is started."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time

import click.testing
import pytest

from tes_server import cli, errors, processes
from tes_server.store.sqlite import SqliteStore
from tests.contract.store_contract import a_record


def said(*words: str) -> tuple[int, str]:
    done = click.testing.CliRunner().invoke(cli.main, words)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "answer"),
    [(("serve", "--port", "99999"), "0<=x<=65535"), (("serve", "--workers", "0"), "x>=1"), (("serv",), "serve"), (("serve", "--prot", "1"), "--port")],
)
def test_a_slip_in_the_flags_is_answered_with_what_is_meant(words: tuple[str, ...], answer: str) -> None:
    code, text = said(*words)
    assert code == 2
    assert answer in text


def test_help_lists_commands_whole_and_options_in_order() -> None:
    assert not any(line.endswith("...") for line in said("--help")[1].partition("Commands:")[2].splitlines())
    options = said("serve", "--help")[1]
    assert options.index("--config") < options.index("--data") < options.index("--log-level") < options.index("--host")


def test_a_file_root_that_is_not_there_is_noted(tmp_path: pathlib.Path) -> None:
    command: list[str | pathlib.Path] = [
        pathlib.Path(sys.executable).parent / "tes-server",
        "doctor",
        "--data",
        tmp_path / "data",
        "--root",
        tmp_path,
        "--root",
        tmp_path / "typo",
    ]
    done = subprocess.run(command, capture_output=True, check=False, text=True)  # apart: Docker's SDK leaves a socket open where it is refused
    assert [line for line in done.stdout.splitlines() if "not a directory" in line] == [f"note  the file root {tmp_path / 'typo'} is not a directory"]


def test_stores_that_cannot_be_used_are_told_before_a_task_is(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[[storage]]\nurl = "s3://bucket"\nkey_variable = "NO_SUCH_KEY"\nsecret_variable = "NO_SUCH_SECRET"\n')
    program = pathlib.Path(sys.executable).parent / "tes-server"
    command = [str(word) for word in (program, "doctor", "--engine", "sandbox", "--data", tmp_path / "data", "--config", file)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    [line] = [line for line in done.stdout.splitlines() if " store " in line]
    assert line.startswith("no    store s3://bucket: STORAGE_CREDENTIALS: ")
    assert "NO_SUCH_KEY is not set" in line


def doctor(tmp_path: pathlib.Path, config: str) -> tuple[int, list[str]]:
    file = tmp_path / "site.toml"
    file.write_text(config)
    program = pathlib.Path(sys.executable).parent / "tes-server"
    command = [str(word) for word in (program, "doctor", "--engine", "sandbox", "--data", tmp_path / "data", "--config", file)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    return done.returncode, done.stdout.splitlines()


def test_the_doctor_looks_at_the_task_store(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "data" / "tasks.sqlite"
    assert f"ok    tasks in {place}: made at the first start" in doctor(tmp_path, "")[1]
    store = SqliteStore(place)
    store.insert([a_record("a"), a_record("b")]).result()
    assert f"ok    tasks in {place}: answers, 2 tasks" in doctor(tmp_path, "")[1]  # also beside a server
    store.close()
    place.write_bytes(b"no database" * 1000)
    code, lines = doctor(tmp_path, "")
    assert code == 1
    assert any(line.startswith(f"no    tasks in {place}: ") for line in lines)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mongodb://user:secret@127.0.0.1:{silent.getsockname()[1]}/"
        code, lines = doctor(tmp_path, f'[store]\nurl = "{url}"\npatience = 0.2\n')
    assert code == 1
    [line] = [line for line in lines if " tasks in " in line]
    assert line.startswith("no    tasks in the database 'tes' at 127.0.0.1:")
    assert "secret" not in line


@pytest.mark.parametrize("words", [["store", "check"], ["store", "copy", ".", "mongodb://127.0.0.1:1/"], ["serve"]])
def test_what_is_not_installed_is_named(tmp_path: pathlib.Path, words: list[str]) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pymongo'] = None")
    SqliteStore(tmp_path / "tasks.sqlite").close()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "TES_SERVER__STORE__URL": "mongodb://127.0.0.1:1/",
    }
    if "copy" in words:
        del environment["TES_SERVER__STORE__URL"]
    program = pathlib.Path(sys.executable).parent / "tes-server"
    done = subprocess.run([program, *words, "--data", tmp_path / "data"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "tes-server: store.url: MongoDB needs more: pip install 'tes-server[mongo]'\n"


def test_the_doctor_looks_at_the_archive(tmp_path: pathlib.Path) -> None:
    assert "note  tasks are removed 30 days after their end, and archived nowhere (retention.archive)" in doctor(tmp_path, "[retention]\ndays = 30\n")[1]
    archive = tmp_path / "archive"
    config = f'[retention]\ndays = 30\narchive = "file://{archive}"\n'
    assert f"ok    archive file://{archive}: can be written to" in doctor(tmp_path, config)[1]
    assert list(archive.iterdir()) == []
    reach = f"note  tasks may read and write the archive file://{archive}: files.roots or [[storage]] lets them (tasks = false)"
    assert reach not in doctor(tmp_path, config)[1]
    assert reach in doctor(tmp_path, f'{config}[files]\nroots = ["{tmp_path}"]\n')[1]
    archive.rmdir()
    archive.write_text("")
    [line] = [line for line in doctor(tmp_path, config)[1] if " archive " in line]
    assert line.startswith(f"no    archive file://{archive}: the archive directory cannot be used: ")


def test_settings_that_contradict_each_other_are_shown_and_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[[paths]]\npath = "cromwell"\nurl = "file:///x"\n')
    done = subprocess.run([pathlib.Path(sys.executable).parent / "tes-server", "settings", "--config", file], capture_output=True, check=False, text=True)
    assert (done.returncode, '"path": "cromwell"' in done.stdout, "paths[0].path: must be an absolute path" in done.stderr) == (2, True, True), done


def test_a_port_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HANDOVER", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(errors.SettingsError, match=f"server.port: .* port {port}: Address already in use"):
            processes.listen("127.0.0.1", port)
    with pytest.raises(errors.SettingsError, match="from 0 to 65535"):
        processes.listen("127.0.0.1", 65536)


def test_the_port_of_a_server_that_was_just_killed_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children have it for a moment longer."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    monkeypatch.setattr(time, "sleep", lambda _: taken.close())
    with processes.listen("127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port


def test_the_commands_load_no_metrics_before_they_know_where_these_are_kept() -> None:
    """All processes of a server share them in files, whose directory must be named before the first metric is made."""
    heavy = "import sys; from tes_server import cli; print(sorted({'prometheus_client', 'connexion', 'docker', 'pymongo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"
