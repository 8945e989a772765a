"""The `tes` command against a scripted TES server."""

import json
import pathlib
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pytest_httpserver import HTTPServer

from tes_server import client_cli
from tests.unit.scripted_tes import ECHO, Tes, log


def call(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(client_cli.main, words, input=stdin, catch_exceptions=False)


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# -- run


def test_run_sends_what_was_asked_for(tes: Tes) -> None:
    words = [
        "--image",
        "img",
        "--in",
        "s3://b/a:/in/a",
        "--out",
        "/out/*:s3://b/out",
        "--cpu",
        "2",
        "--ram",
        "512M",
        "--disk",
        "3",
        "--env",
        "A=1",
        "--tag",
        "t=v",
    ]
    words += [
        "--name",
        "n",
        "--workdir",
        "/w",
        "--stdin",
        "/in/a",
        "--stdout",
        "/o",
        "--stderr",
        "/e",
        "--preemptible",
        "--param",
        "max_runtime=10m",
        "--no-wait",
    ]
    assert call("run", *words, "--", "sh", "-c", "echo $A", "", "--wait").exit_code == 0
    assert tes.created == [
        {
            "name": "n",
            "tags": {"t": "v"},
            "resources": {"cpu_cores": 2, "ram_gb": 0.512, "disk_gb": 3.0, "preemptible": True, "backend_parameters": {"max_runtime": "10m"}},
            "inputs": [{"url": "s3://b/a", "path": "/in/a", "type": "FILE"}],
            "outputs": [{"url": "s3://b/out", "path": "/out/*", "path_prefix": "/out", "type": "FILE"}],
            "executors": [
                {
                    "image": "img",
                    "command": ["sh", "-c", "echo $A", "", "--wait"],
                    "workdir": "/w",
                    "stdin": "/in/a",
                    "stdout": "/o",
                    "stderr": "/e",
                    "env": {"A": "1"},
                }
            ],
        }
    ]


def test_run_passes_output_on_and_exits_as_the_command(tes: Tes) -> None:
    tes.on_create = [{"state": "QUEUED"}, log("RUNNING", "one\n"), log("EXECUTOR_ERROR", "one\ntwo\n", "oops\n", exit_code=3)]
    result = call("run", *ECHO)
    assert result.stdout == "one\ntwo\n"
    assert result.stderr == "oops\ntes: task task-1 ended as EXECUTOR_ERROR, exit code 3\n"
    assert result.exit_code == 3


def test_run_tells_why_the_system_failed(tes: Tes) -> None:
    tes.on_create = [{"state": "SYSTEM_ERROR", "logs": [{"logs": [], "system_logs": ["IMAGE_NOT_FOUND: no img"]}]}]
    result = call("run", *ECHO)
    assert "tes: IMAGE_NOT_FOUND: no img\n" in result.stderr
    assert result.exit_code == 70


def test_run_with_json_prints_the_ended_task_and_nothing_else(tes: Tes) -> None:
    tes.on_create = [log("RUNNING", "one"), log("COMPLETE", "one", exit_code=0)]
    result = call("run", "--json", *ECHO)
    assert lines(result) == [{"id": "task-1", **log("COMPLETE", "one", exit_code=0)}]
    assert result.exit_code == 0


def test_a_wait_after_the_command_is_a_word_of_it(tes: Tes) -> None:
    assert call("run", *ECHO, "--no-wait").exit_code == 0
    assert tes.created[0]["executors"][0]["command"] == ["echo", "hi", "--no-wait"]
    assert tes.views == ["FULL"]  # it waited


def test_options_end_at_the_first_word_of_the_command(tes: Tes) -> None:
    assert call("run", "--image", "img", "ls", "-l").exit_code == 0
    assert tes.created[0]["executors"][0]["command"] == ["ls", "-l"]


def test_no_wait_prints_the_id(tes: Tes) -> None:
    assert lines(call("run", "--no-wait", *ECHO)) == [{"id": "task-1"}]
    assert call("run", "--no-wait", "-q", *ECHO).stdout == "task-2\n"
    assert tes.views == []


def test_dry_run_sends_nothing(tes: Tes, httpserver: HTTPServer) -> None:
    result = call("run", "--dry-run", *ECHO)
    assert json.loads(result.stdout) == {"executors": [{"image": "img", "command": ["echo", "hi"]}]}
    assert httpserver.log == []


def test_the_image_may_come_from_the_environment(tes: Tes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TES_IMAGE", "from-env")
    call("run", "--", "true")
    assert tes.created[0]["executors"][0]["image"] == "from-env"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--", "echo"], "--image"),
        (["--image", "i"], "COMMAND"),
        (["--image", "i", "--ram", "lots", "--", "x"], "'lots' is not a size"),
        (["--image", "i", "--cpu", "0", "--", "x"], "--cpu"),
        (["--image", "i", "--env", "A", "--", "x"], "KEY=VALUE"),
        (["--image", "i", "--out", "here", "--", "x"], "/container/path:PATH_OR_URL"),
        (["--image", "i", "--in", "s3://a/x", "--in", "s3://b/x", "--", "x"], "two inputs would be at /in/x"),
        (["--image", "i", "--url", "host:80", "--", "x"], "must look like"),
    ],
)
def test_wrong_usage_is_2_and_says_what(tes: Tes, words: list[str], message: str) -> None:
    result = call("run", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert tes.created == []


# -- create


def test_create_takes_many_shapes(tes: Tes, tmp_path: pathlib.Path) -> None:
    task = {"executors": [{"image": "i", "command": ["true"]}]}
    (tmp_path / "one.json").write_text(json.dumps(task))
    (tmp_path / "two.json").write_text(json.dumps([task, task]))
    result = call("create", str(tmp_path / "one.json"), str(tmp_path / "two.json"), "-", stdin=f"{json.dumps(task)}\n{json.dumps(task)}\n")
    assert lines(result) == [{"id": f"task-{number}"} for number in range(1, 6)]
    assert tes.created == [task] * 5


def test_create_reads_all_before_it_sends_any(tes: Tes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    result = call("create", "-", str(tmp_path / "bad.json"), stdin='{"executors": []}')
    assert result.exit_code == 2
    assert "bad.json is not JSON" in result.stderr
    assert tes.created == []


def test_create_tells_which_task_was_refused(tes: Tes) -> None:
    result = call("create", "-", stdin='[{"executors": []}, {}, {"executors": []}]')
    assert lines(result) == [{"id": "task-1"}]
    assert result.stderr == "tes: task 2 of 3 was not created; those before it were\ntes: /executors: is required (400 Bad Request)\n"
    assert result.exit_code == 1


# -- list, get, info


def test_list_sends_its_filters(tes: Tes) -> None:
    tes.tasks = {"a": [{"id": "a", "state": "RUNNING"}], "b": [{"id": "b", "state": "RUNNING"}]}
    result = call("list", "--state", "running", "--tag", "k=v", "--tag", "any", "--name-prefix", "n", "--limit", "7")
    assert lines(result) == [{"id": "a", "state": "RUNNING"}, {"id": "b", "state": "RUNNING"}]
    sent = tes.lists[0]
    assert (sent["state"], sent["name_prefix"], sent["view"], sent["page_size"]) == ("RUNNING", "n", "BASIC", "7")
    assert (sent.getlist("tag_key"), sent.getlist("tag_value")) == (["k", "any"], ["v", ""])
    assert call("list", "-q").stdout == "a\nb\n"


def test_get_shows_what_the_server_sent(tes: Tes) -> None:
    tes.tasks = {"a": [{"id": "a", "state": "RUNNING", "odd": [1]}], "b": [{"id": "b"}]}
    assert lines(call("get", "a", "b", "a")) == [{"id": "a", "state": "RUNNING", "odd": [1]}, {"id": "b"}]
    assert tes.views == ["FULL", "FULL"]
    assert lines(call("get", "-", "--view", "minimal", stdin='{"id": "b"}\n')) == [{"id": "b"}]


def test_an_unknown_task_is_told(tes: Tes) -> None:
    result = call("get", "x")
    assert (result.exit_code, result.stderr) == (1, "tes: no task x (404 Not Found)\n")


def test_info(tes: Tes) -> None:
    assert lines(call("info"))[0]["name"] == "scripted"


# -- wait


def test_wait_exits_as_the_worst_task(tes: Tes) -> None:
    tes.tasks = {
        "a": [{"state": "RUNNING"}, {"state": "COMPLETE"}],
        "b": [{"state": "EXECUTOR_ERROR", **log("EXECUTOR_ERROR", exit_code=5)}],
        "c": [{"state": "CANCELED"}],
    }
    result = call("wait", "a", "b", "c")
    assert sorted(line["id"] for line in lines(result)) == ["a", "b", "c"]
    assert result.exit_code == 5
    assert tes.views[-1] == "BASIC"
    assert call("wait", "a").exit_code == 0
    assert call("wait", "a", "c").exit_code == 130


def test_wait_ends_at_its_timeout(tes: Tes) -> None:
    tes.tasks = {"a": [{"state": "RUNNING"}], "b": [{"state": "COMPLETE"}]}
    result = call("wait", "--timeout", "0.2", "a", "b")
    assert result.exit_code == 124
    assert "1 of 2 tasks have not ended after 0.2 s, as a" in result.stderr


def test_create_and_wait_make_a_pipe(tes: Tes) -> None:
    created = call("create", "-", stdin='[{"executors": []}, {"executors": []}]').stdout
    assert [line["state"] for line in lines(call("wait", "-", stdin=created))] == ["COMPLETE", "COMPLETE"]
    assert call("wait", "-", stdin="").exit_code == 2


def test_a_thousand_ids(tes: Tes) -> None:
    tes.tasks = {f"t{number}": [{"state": "COMPLETE"}] for number in range(1000)}
    result = call("wait", "-", stdin="\n".join(tes.tasks))
    assert result.exit_code == 0
    assert len(lines(result)) == len(tes.views) == 1000


# -- logs, cancel


def test_logs_keep_the_streams_apart(tes: Tes) -> None:
    tes.tasks = {"a": [{"state": "SYSTEM_ERROR", "logs": [{"logs": [{"stdout": "1"}, {"stdout": "2", "stderr": "E"}], "system_logs": ["LOST: gone"]}]}]}
    result = call("logs", "a")
    assert (result.stdout, result.stderr, result.exit_code) == ("12", "Etes: LOST: gone\n", 0)
    assert call("logs", "--executor", "1", "a").stdout == "2"
    assert lines(call("logs", "--json", "a"))[0]["logs"][0]["logs"][0] == {"stdout": "1"}


def test_logs_follow_to_the_end_and_tell_what_was_lost(tes: Tes) -> None:
    head = "h" * 10
    tes.tasks = {
        "a": [
            {"state": "QUEUED"},
            log("RUNNING", head + "abc"),
            log("RUNNING", f"{head}\n... 90 bytes left out ...\n" + "xyz"),
            log("COMPLETE", f"{head}\n... 91 bytes left out ...\n" + "yz!"),
        ]
    }
    result = call("logs", "-f", "a")
    assert result.stdout == head + "abc" + "xyz" + "!"
    assert result.stderr == "tes: 87 bytes of stdout left out here: the server keeps only its head and tail\n"
    assert result.exit_code == 0


def test_output_is_passed_on_byte_by_byte(tes: Tes) -> None:
    tes.tasks = {"a": [log("COMPLETE", "\x1b[1mé\r\n\x00\ud800")]}
    assert call("logs", "a").stdout_bytes == "\x1b[1mé\r\n\x00?".encode()


def test_cancel_goes_on_after_a_refusal(tes: Tes) -> None:
    tes.tasks = {"a": [{"state": "RUNNING"}], "b": [{"state": "RUNNING"}]}
    result = call("cancel", "a", "x", "b")
    assert tes.canceled == ["a", "b"]
    assert lines(result) == [{"id": "a"}, {"id": "b"}]
    assert (result.exit_code, result.stderr) == (1, "tes: x: no task x (404 Not Found)\n")


def test_no_server_is_69(monkeypatch: pytest.MonkeyPatch, tes: Tes) -> None:
    result = call("list", "--url", "http://ann:secret@127.0.0.1:9")
    assert result.exit_code == 69
    assert "http://127.0.0.1:9" in result.stderr
    assert "secret" not in result.output
