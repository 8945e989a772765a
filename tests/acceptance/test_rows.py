"""The rows of docs/clients.md that only a whole server can keep, each under its number, on the sandbox and on Docker."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.acceptance.server import ENDS, Server, served
from tests.acceptance.test_examples import needs_image

pytestmark = pytest.mark.sandbox

LITTLE = {"cpu_cores": 0.2, "ram_gb": 0.1}


class Site(msgspec.Struct, frozen=True):
    """A running server, the image of its tasks, a directory that they may stage from and to, and one that they may see live."""

    server: Server
    image: str
    files: pathlib.Path
    live: pathlib.Path

    def sh(self, script: str, **fields: Any) -> dict[str, Any]:
        return {"image": self.image, "command": ["sh", "-c", script], **fields}

    def run(self, *executors: dict[str, Any], **fields: Any) -> Any:
        """A task to its end, as FULL shows it."""
        return self.server.until(self.server.create(*executors, **{"resources": LITTLE, **fields}))

    def complete(self, *executors: dict[str, Any], **fields: Any) -> Any:
        task = self.run(*executors, **fields)
        assert task["state"] == "COMPLETE", task
        return task["logs"][0]


@pytest.fixture(scope="module", params=["sandbox", pytest.param("docker", marks=pytest.mark.docker)])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "docker":
        needs_image("tes-test/busybox")
    else:
        request.getfixturevalue("sandbox_works")
    return str(request.param)


@pytest.fixture(scope="module")
def site(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("rows")
    (home / "files").mkdir()
    (home / "live").mkdir()
    settings = {"TES_SERVER__FILES__LIVE_MOUNTS": f'["{home}/live"]'}
    allow = ["--allow-host"] if engine == "sandbox" else []
    with served(home / "data", "--engine", engine, "--root", str(home / "files"), *allow, environment=settings) as server:
        yield Site(server, "host" if engine == "sandbox" else "tes-test/busybox", home / "files", home / "live")


def test_row_12_a_running_task_has_its_start_and_a_price_and_sizes_are_text(site: Site) -> None:
    """Cromwell reads FULL until it has both; from then on it never sees a size that its Int cannot hold."""
    big = 3 * 2**30
    script = f"dd if=/dev/zero of=/work/big bs=1 count=0 seek={big} 2>/dev/null; until [ -e /live/go ]; do sleep 0.05; done"
    task_id = site.server.create(
        site.sh(script),
        inputs=[{"path": "/live", "url": f"file://{site.live}", "type": "DIRECTORY"}, {"path": "/work/in", "content": "x"}],
        outputs=[{"path": "/work/big", "url": f"{site.files}/big"}],
        resources=LITTLE,
    )
    log = site.server.until(task_id, "RUNNING")["logs"][0]
    assert log["start_time"]
    assert log["metadata"]["vm_price_per_hour_usd"] == "0"
    assert log["outputs"] == []
    (site.live / "go").touch()
    assert site.server.until(task_id)["logs"][0]["outputs"][0]["size_bytes"] == str(big)
    assert (site.files / "big").stat().st_size == big


def test_row_15_outputs_are_in_place_before_the_end_is_visible(site: Site) -> None:
    script = "mkdir /work/all; for n in $(seq 300); do echo $n > /work/all/$n; done; echo 0 > /work/rc"
    task_id = site.server.create(
        site.sh(script, workdir="/work"),
        outputs=[
            {"path": "/work/all", "url": f"{site.files}/all", "type": "DIRECTORY"},
            {"path": "/work/rc", "url": f"{site.files}/rc"},
        ],
        resources=LITTLE,
    )
    while site.server.get(task_id, "MINIMAL")["state"] not in ENDS:
        pass
    assert (site.files / "rc").read_text() == "0\n"
    assert {path.name for path in (site.files / "all").iterdir()} == {str(number) for number in range(1, 301)}


def test_row_23_one_path_may_be_input_and_output_and_outputs_may_overlap(site: Site) -> None:
    (site.files / "script").write_text("old\n")
    site.complete(
        site.sh("mkdir out; cat script > out/copy; echo new >> script; ln -s copy out/link", workdir="/work"),
        inputs=[{"path": "/work/script", "url": f"{site.files}/script"}],
        outputs=[
            {"path": "/work/script", "url": f"{site.files}/script"},
            {"path": "/work/out", "url": f"{site.files}/out", "type": "DIRECTORY"},
            {"path": "/work/out/copy", "url": f"{site.files}/out/copy"},
            {"path": "/work/out/link", "url": f"{site.files}/linked"},
        ],
    )
    assert (site.files / "script").read_text() == "old\nnew\n"
    assert {path.name: path.read_text() for path in (site.files / "out").iterdir()} == {"copy": "old\n", "link": "old\n"}
    assert not (site.files / "linked").is_symlink()
    assert (site.files / "linked").read_text() == "old\n"


def test_row_24_scripts_make_their_own_output_directories_pipes_and_hard_links(site: Site) -> None:
    site.complete(
        site.sh("mkdir chunks glob-0a1b execution/glob; mkfifo pipe; (echo piped > pipe &); cat pipe > chunks/a; ln chunks/a glob-0a1b/a", workdir="/call"),
        inputs=[{"path": "/call/execution/script", "content": ""}],
        outputs=[
            {"path": "/call/chunks", "url": f"{site.files}/chunks", "type": "DIRECTORY"},
            {"path": "/call/glob-0a1b", "url": f"{site.files}/glob", "type": "DIRECTORY"},
            {"path": "/call/execution/glob", "url": f"{site.files}/empty", "type": "DIRECTORY"},
            {"path": "/elsewhere/deep/result", "url": f"{site.files}/none"},
        ],
    )
    assert (site.files / "chunks" / "a").read_text() == (site.files / "glob" / "a").read_text() == "piped\n"


def test_row_24_the_parent_of_an_output_that_nothing_covers_is_made(site: Site) -> None:
    site.complete(site.sh("echo x > /elsewhere/deep/result"), outputs=[{"path": "/elsewhere/deep/result", "url": f"{site.files}/deep"}])
    assert (site.files / "deep").read_text() == "x\n"


def test_row_25_tmp_is_fresh_for_each_task_and_shared_by_its_executors(site: Site) -> None:
    for _ in range(2):
        site.complete(site.sh("mkdir /tmp/conda"), site.sh("rmdir /tmp/conda && mkdir /tmp/again"))


@pytest.mark.parametrize("path", ["/cromwell-executions/w/call", "/work", "/var/lib/cwl/stg1", "/nOzqOO", "/pulsar_staging", "/home/somebody/store"])
def test_row_25_container_paths_may_be_anywhere(site: Site, path: str) -> None:
    target = f"{site.files}{path}/out"
    site.complete(
        site.sh("cat in > out", workdir=path),
        inputs=[{"path": f"{path}/in", "content": "here"}],
        outputs=[{"path": f"{path}/out", "url": target}],
    )
    assert pathlib.Path(target).read_text() == "here"


def test_row_26_executors_run_in_order_on_the_same_files(site: Site) -> None:
    log = site.complete(
        {"image": site.image, "command": ["sort"], "stdin": "/work/in", "stdout": "/volume/sorted"},
        site.sh("echo $HOME $TMPDIR", env={"HOME": "/work", "TMPDIR": "/volume"}),
        {"image": site.image, "command": ["cat", "/volume/sorted"]},
        {"image": site.image, "command": ["echo", "$HOME", "*", "a  b; exit 1"]},
        inputs=[{"path": "/work/in", "content": "b\na\n"}],
        volumes=["/volume"],
    )
    assert [one["exit_code"] for one in log["logs"]] == [0, 0, 0, 0]
    assert [one.get("stdout") for one in log["logs"][1:]] == ["/work /volume\n", "a\nb\n", "$HOME * a  b; exit 1\n"]


def test_row_26_the_first_failure_stops_them_unless_it_is_ignored(site: Site) -> None:
    task = site.run(site.sh("exit 4", ignore_error=True), site.sh("exit 3"), site.sh("echo never"))
    assert task["state"] == "EXECUTOR_ERROR"
    assert [one["exit_code"] for one in task["logs"][0]["logs"]] == [4, 3]


def test_row_27_a_stdout_path_that_the_task_writes_too_holds_the_text_once(site: Site) -> None:
    site.complete(
        site.sh("echo once | tee /work/stdout", stdout="/work/stdout"),
        outputs=[{"path": "/work/stdout", "url": f"{site.files}/stdout"}],
    )
    assert (site.files / "stdout").read_text() == "once\n"


def test_row_28_a_directory_below_a_live_mount_is_seen_as_it_is(site: Site) -> None:
    store = site.live / "store"
    store.mkdir()
    store.chmod(0o777)  # in the sandbox of a server that is root, a task is nobody whom this directory knows
    (store / "in").write_text("in")
    site.complete(
        site.sh(f"cd {shlex.quote(str(store))}; cat in > out; rm in; mkdir deep; mv out deep"),
        inputs=[{"path": str(store), "url": f"file://{store}", "type": "DIRECTORY"}],
    )
    assert sorted(str(path.relative_to(store)) for path in store.rglob("*")) == ["deep", "deep/out"]
    assert (store / "deep" / "out").read_text() == "in"


@pytest.mark.parametrize("network", [True, False])
def test_row_29_the_hosts_network_is_there_where_it_is_allowed(engine: str, tmp_path: pathlib.Path, network: bool) -> None:
    """A task asks its own server, on this machine's loopback."""
    if engine == "docker":
        image, ask, setting = "tes-test/busybox", "wget -q -O - {url}/healthz", f"TES_SERVER__DOCKER__NETWORK={'host' if network else 'bridge'}"
    else:
        image, ask, setting = "host", "exec 3<>/dev/tcp/127.0.0.1/{port}", f"TES_SERVER__SANDBOX__NETWORK={str(network).lower()}"
    allow = ["--allow-host"] if engine == "sandbox" else []
    name, value = setting.split("=")
    with served(tmp_path / "data", "--engine", engine, *allow, environment={name: value}) as server:
        script = ask.format(url=server.url, port=server.url.rpartition(":")[2])
        task = server.until(server.create({"image": image, "command": ["bash" if engine == "sandbox" else "sh", "-c", script]}, resources=LITTLE))
    assert task["state"] == ("COMPLETE" if network else "EXECUTOR_ERROR"), task


def test_row_31_a_home_can_be_written(site: Site) -> None:
    site.complete(site.sh('mkdir -p "$HOME/.cache" && echo x > "$HOME/.cache/x"'))


def test_row_32_stdin_is_never_written_or_made(site: Site) -> None:
    (site.files / "stdin").write_text("kept\n")
    site.complete(
        site.sh("cat > /work/copy; (echo spoiled >&0) 2>/dev/null; true", stdin="/work/stdin"),
        inputs=[{"path": "/work/stdin", "url": f"{site.files}/stdin"}],
        outputs=[{"path": "/work/stdin", "url": f"{site.files}/stdin-after"}, {"path": "/work/copy", "url": f"{site.files}/stdin-copy"}],
    )
    assert {(site.files / name).read_text() for name in ("stdin", "stdin-after", "stdin-copy")} == {"kept\n"}
    task = site.run(
        site.sh("cat", stdin="/work/missing"),
        inputs=[{"path": "/work/in", "content": "x"}],
        outputs=[{"path": "/work/missing", "url": f"{site.files}/missing"}],
    )
    assert task["state"] in {"EXECUTOR_ERROR", "SYSTEM_ERROR"}, task
    assert not (site.files / "missing").exists()


def test_row_33_the_exit_code_is_there_as_soon_as_the_end_is(site: Site) -> None:
    for code in (0, 5):
        task_id = site.server.create(site.sh(f"exit {code}"), resources=LITTLE)
        while site.server.ask(f"/v1/tasks/{task_id}")[1]["state"] not in ENDS:
            pass
        assert site.server.get(task_id)["logs"][0]["logs"][0]["exit_code"] == code


def test_row_34_a_directory_called_a_file_is_kept_whole_and_staged_again(site: Site) -> None:
    site.complete(
        site.sh("mkdir -p results/deep/empty; : > results/none; echo x > results/deep/x; ln -s deep/x results/link", workdir="/work"),
        outputs=[{"path": "/work/results", "url": f"{site.files}/results", "type": "FILE"}],
    )
    log = site.complete(
        site.sh("cd /again; find . | sort; cat link; test -e none -a ! -s none"),
        inputs=[{"path": "/again", "url": f"{site.files}/results", "type": "DIRECTORY"}],
    )
    assert log["logs"][0]["stdout"].split() == [".", "./deep", "./deep/empty", "./deep/x", "./link", "./none", "x"]
