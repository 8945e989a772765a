"""The Docker engine on real daemons, Docker's and Podman's: the contract of all engines, and what is theirs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import io
import os
import pathlib
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import pytest

from tes_server import errors
from tes_server.plan.steps import Mount
from tes_server.runner import docker as docker_engine
from tes_server.runner.docker import DockerEngine
from tes_server.runner.engine import Cell, CellState, Engine
from tes_server.runner.reach import Reach
from tes_server.telemetry import Code
from tests.contract.engine_contract import PATIENCE, EngineContract, Lab, until
from tests.integration.daemons import Daemon
from tests.integration.docker_proxy import Proxy

DATA = f"tests-{uuid.uuid4().hex}"
IMAGE = "tes-test/busybox"


@pytest.fixture
def engine(daemon: Daemon) -> Iterator[DockerEngine]:
    with daemon.engine(DATA) as engine:
        yield engine


@pytest.fixture
def lab(engine: DockerEngine, tmp_path: pathlib.Path) -> Iterator[Lab]:
    lab = Lab(engine, IMAGE, tmp_path / "lab")
    yield lab
    lab.clear()
    assert engine.survey() == []


class TestDockerEngine(EngineContract):
    client: Any

    @pytest.fixture
    def engine(self, daemon: Daemon) -> Iterator[Engine]:
        self.client = daemon.client
        self.limits_memory = daemon.limits
        with daemon.engine(DATA) as engine:
            yield engine

    @pytest.fixture
    def successor(self, daemon: Daemon) -> Iterator[Engine]:
        with daemon.engine(DATA) as engine:
            yield engine

    @pytest.fixture
    def image(self) -> str:
        return IMAGE

    def signal_supervisor(self, cell: Cell, number: signal.Signals) -> None:
        self.client.kill(cell.name, int(number))


# -- images of all kinds -----------------------------------------------------------------------------------------------


@pytest.fixture
def image_of(daemon: Daemon) -> Iterator[Any]:
    """Makes an image of busybox with more Dockerfile lines; removed afterwards."""
    made: list[str] = []

    def build(*lines: str) -> str:
        name = f"{DATA}/image{len(made)}:1"
        text = "\n".join([f"FROM {IMAGE}", *lines]).encode()
        output = [line for line in daemon.client.build(fileobj=io.BytesIO(text), tag=name, rm=True, decode=True) if "error" in line]
        assert not output
        made.append(name)
        return name

    yield build
    for name in made:
        daemon.client.remove_image(name)


def test_an_image_without_shell_or_libc_runs(lab: Lab) -> None:
    lab.image = "tes-test/static"
    cell = lab.cell("/echo", "one", "", "$two", stdout="/work/out", workdir="/work/w")
    assert lab.run(cell).code == 0
    assert (lab.work / "out").read_text() == "one\n\n$two\n"


def test_the_images_entrypoint_is_not_applied_and_its_env_user_and_workdir_are(image_of: Any, lab: Lab) -> None:
    lab.image = image_of('ENTRYPOINT ["/bin/false"]', "ENV SAID=by-image OVER=image", "WORKDIR /srv/here", "USER 1000:1000", "HEALTHCHECK CMD false")
    script = 'echo "$SAID $OVER $(pwd) $(id -u):$(id -g)"; echo made > /work/made; echo made > /tmp/made'
    assert lab.check(script, env={"OVER": "task"}, copies=("/work/none",)) == "by-image task /srv/here 1000:1000\n"
    assert (lab.work / "made").stat().st_uid != os.geteuid()


def test_volumes_that_an_image_declares_do_not_stay(image_of: Any, lab: Lab, daemon: Daemon) -> None:
    lab.image = image_of("VOLUME /declared")
    cell = lab.sh("echo x > /declared/x")
    assert lab.run(cell).code == 0
    volume = next(mount["Name"] for mount in daemon.client.inspect_container(cell.name)["Mounts"] if mount["Destination"] == "/declared")
    assert daemon.client.inspect_volume(volume)
    lab.engine.remove(cell)
    with pytest.raises(docker.errors.NotFound):
        daemon.client.inspect_volume(volume)


def test_a_command_cannot_gain_privileges(lab: Lab) -> None:
    assert "NoNewPrivs:\t1" in lab.check("cat /proc/self/status")


def test_a_network_of_none_has_loopback_only(lab: Lab, daemon: Daemon) -> None:
    with daemon.engine(DATA, network="none") as engine:
        lab.engine = engine
        assert lab.check("ls /sys/class/net") == "lo\n"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_container_that_cannot_start_is_removed_and_the_daemon_says_why(lab: Lab) -> None:
    cell = lab.cell("true", mounts=(Mount("/tmp"), Mount("/bin/busybox")))
    with pytest.raises(errors.EngineError, match="not a directory") as caught:
        lab.engine.start(cell)
    assert caught.value.code == Code.ENGINE_ERROR
    assert cell.name not in lab.engine.survey()
    assert lab.engine.state(cell) is CellState.ABSENT


def test_an_image_removed_since_it_was_prepared_may_come_back(lab: Lab) -> None:
    lab.image = "tes-test/no-such-image:1"
    with pytest.raises(errors.EngineError, match="no-such-image") as caught:
        lab.engine.start(lab.cell("true"))
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_NOT_FOUND, True)


def test_a_link_in_place_of_a_mounts_source_is_refused(lab: Lab) -> None:
    lab.check("mv /.tes/volume/work /.tes/volume/away; ln -s / /.tes/volume/work", copies=("/etc/none",))
    with pytest.raises(errors.EngineError, match="/work"):
        lab.engine.start(lab.cell("true"))


def test_a_name_that_somebody_else_has_is_left_alone(lab: Lab, daemon: Daemon) -> None:
    cell, gate = lab.blocked()
    with daemon.engine("another") as stranger:
        assert stranger.survey() == []
        for file in cell.record.iterdir():
            file.rename(file.with_name(f"{file.name}.away"))
        with pytest.raises(errors.EngineError, match="somebody else"):
            stranger.start(cell)
    gate.open()


def test_a_created_container_is_started_and_an_ended_one_is_not(lab: Lab, daemon: Daemon) -> None:
    """The server died between create and start; or after the end, and its records were lost."""
    cell = lab.sh("echo run >> /work/runs")
    with daemon.engine(DATA) as engine:
        assert engine._create(cell)
        assert engine.state(cell) is CellState.ABSENT
    assert lab.run(cell).code == 0
    for name in ("start", "exit"):
        (cell.record / name).unlink()
    lab.engine.start(cell)
    assert lab.engine.wait(cell) is None
    assert (lab.work / "runs").read_text() == "run\n"


def test_records_that_the_command_forged_are_refused(lab: Lab) -> None:
    cell, gate = lab.blocked(before="ln -s /etc/passwd /.tes/record/exit")
    with pytest.raises(errors.EngineError, match="damaged"):
        lab.engine.state(cell)
    gate.open()


# -- a daemon that comes and goes --------------------------------------------------------------------------------------


@pytest.fixture
def sockets_collected() -> Iterator[None]:
    """The SDK leaves sockets that could not connect to the garbage collector: let it come while `leaky` allows that."""
    yield
    gc.collect()


leaky = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def proxy(daemon: Daemon, tmp_path: pathlib.Path) -> Iterator[Proxy]:
    with Proxy(tmp_path / "docker.sock", daemon.socket) as proxy:
        yield proxy


@leaky
@pytest.mark.usefixtures("sockets_collected")
def test_an_end_during_a_restart_of_the_daemon_is_seen(lab: Lab, proxy: Proxy, daemon: Daemon) -> None:
    cell, gate = lab.blocked(after="exit 5")
    with daemon.engine(DATA, proxy.url) as engine, concurrent.futures.ThreadPoolExecutor() as pool:
        reach = Reach(lambda: None)
        wait = pool.submit(reach, lambda: engine.wait(cell))
        until(lambda: proxy.asked("/wait") == 1, "the wait")
        proxy.cut()
        gate.open()
        until(lambda: lab.engine.state(cell) is CellState.ENDED, "the end, which nobody was told of")
        until(lambda: reach.silence, "saying that the daemon is away")
        assert not wait.done()
        proxy.restore()
        ended = wait.result(PATIENCE)
    assert ended is not None
    assert ended.code == 5


@leaky
@pytest.mark.usefixtures("sockets_collected")
def test_wait_says_at_once_that_the_daemon_went_away(lab: Lab, proxy: Proxy, daemon: Daemon) -> None:
    cell, _ = lab.blocked()
    with daemon.engine(DATA, proxy.url) as engine, concurrent.futures.ThreadPoolExecutor() as pool:
        wait = pool.submit(engine.wait, cell)
        until(lambda: proxy.asked("/wait") == 1, "the wait")
        proxy.cut()
        with pytest.raises(errors.EngineError) as caught:
            wait.result(PATIENCE)
    assert (caught.value.code, caught.value.transient) == (Code.ENGINE_UNAVAILABLE, True)
    assert lab.engine.state(cell) is CellState.RUNNING


def test_wait_goes_on_after_a_long_silence(lab: Lab, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, daemon: Daemon) -> None:
    monkeypatch.setattr(docker_engine, "WAIT", 0.1)
    cell, gate = lab.blocked()
    with daemon.engine(DATA, proxy.url) as engine, concurrent.futures.ThreadPoolExecutor() as pool:
        wait = pool.submit(engine.wait, cell)
        until(lambda: proxy.asked("/wait") >= 3, "asking anew")
        gate.open()
        ended = wait.result(PATIENCE)
    assert ended is not None
    assert ended.code == 0


@leaky
@pytest.mark.usefixtures("sockets_collected")
def test_a_start_whose_answer_was_lost_is_adopted(lab: Lab, proxy: Proxy, daemon: Daemon) -> None:
    cell = lab.sh("echo run >> /work/runs")
    proxy.cut_at("/start")
    with daemon.engine(DATA, proxy.url) as engine:
        with pytest.raises(errors.EngineError) as caught:
            engine.start(cell)
        assert (caught.value.code, caught.value.transient) == (Code.ENGINE_UNAVAILABLE, True)
        proxy.restore()
        engine.start(cell)
        ended = engine.wait(cell)
    assert ended is not None
    assert (lab.work / "runs").read_text() == "run\n"


@leaky
@pytest.mark.usefixtures("sockets_collected")
def test_no_daemon_says_what_to_do(tmp_path: pathlib.Path, daemon: Daemon) -> None:
    with daemon.engine(DATA, f"unix://{tmp_path}/none.sock") as engine, pytest.raises(errors.EngineError, match="start it") as caught:
        engine.check()
    assert (caught.value.code, caught.value.transient) == (Code.ENGINE_UNAVAILABLE, True)


# -- a server that is not root -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def ordinary_user(*groups: int) -> Iterator[None]:
    """This process as uid 12345; only root can."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become an ordinary user")
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(12345)
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@pytest.fixture
def open_path(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory that an ordinary user reaches and may write to; pytest's own are root's alone."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path != pathlib.Path("/"):
            path.chmod(path.stat().st_mode | 0o001)
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o777)
    return path


@leaky
@pytest.mark.usefixtures("sockets_collected")
def test_a_server_that_may_not_use_the_daemon_is_told_how(daemon: Daemon) -> None:
    with ordinary_user(), daemon.engine(DATA) as engine, pytest.raises(errors.EngineError, match="may not use") as caught:
        engine.check()
    assert caught.value.code == Code.ENGINE_UNAVAILABLE


def test_a_server_that_is_not_root_reads_and_deletes_what_containers_made(daemon: Daemon, open_path: pathlib.Path) -> None:
    script = "umask 077; mkdir /work/d; echo secret > /work/d/f; mkdir -p /etc/e; echo copied > /etc/e/f; chmod 000 /work/d/f"
    with ordinary_user(daemon.socket.stat().st_gid), daemon.engine(DATA) as engine:
        lab = Lab(engine, IMAGE, open_path / "lab")
        try:
            lab.check(script, copies=("/etc/e",))
            assert (lab.work / "d" / "f").read_text() == "secret\n"
            assert (lab.volume / "etc" / "e" / "f").read_text() == "copied\n"
        finally:
            lab.clear()
        assert not lab.home.exists()
    assert daemon.client.containers(all=True, filters={"label": f"tes-server.data={DATA}"}) == []


def test_a_stop_that_meets_a_container_just_starting_is_not_lost(lab: Lab) -> None:
    """Before tes-step took over its signals, the kernel drops a TERM to PID 1: the wish in the record is what counts."""
    cell = lab.sh("trap 'exit 9' TERM; while :; do sleep 0.05; done")
    lab.engine.stop(cell, PATIENCE)
    assert lab.run(cell).code in {9, 128 + signal.SIGTERM}
