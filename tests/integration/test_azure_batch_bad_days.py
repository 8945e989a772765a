"""What goes wrong on Azure Batch, with real runners and containers: each fault is made by the emulator, on command."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from azure.batch import models

from tes_server.backends.azure_batch import driver, pool_looks, start_task
from tes_server.control.service import new_id
from tes_server.model.run import Phase, Reason
from tes_server.runner import node
from tests import server_image
from tests.clock import utc
from tests.emulators.azure_batch.world import CLIENT, World
from tests.integration import azure_lab, azure_machine
from tests.integration.azure_bench import DEAF, REAPED, SMALL, SPOT, UP, Bench
from tests.integration.azure_lab import GB, SHAPE, Lab
from tests.integration.doors import doors

pytestmark = [pytest.mark.azure_batch, pytest.mark.docker, pytest.mark.azurite]

PASSWORD = "correct-horse-battery"  # of nothing
WORLD = World(boot=0.0, restore=None, secrets={"lab/db": f'{{"password": "{PASSWORD}"}}', "lab/plain": PASSWORD})
GO = "while [ ! -e /live/go ]; do sleep 0.1; done"

Benches = Callable[..., Bench]


@pytest.fixture(scope="module")
def lab(docker_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with azure_lab.lab(tmp_path_factory.mktemp("node"), server_image.find(), WORLD, reaper=True, metadata="loopback") as made:
        yield made
        assert made.emulator.endpoint.defects == []


@pytest.fixture
def benches(lab: Lab, docker_client: Any, tmp_path: pathlib.Path) -> Iterator[Benches]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        files = tmp_path / f"files-{len(made)}"
        files.mkdir()
        made.append(Bench(lab, files, docker_client, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(benches: Benches) -> Bench:
    return benches()


class TestPreempted:
    @pytest.mark.parametrize("poll", [0.3, 3.0])
    def test_while_a_command_runs(self, benches: Benches, lab: Lab, poll: float) -> None:
        """Azure Batch starts the task on the other node; that runner leaves it alone. The next attempt goes to nodes that nobody takes back.

        Looks see the task wait once more, or only what came after that.
        """
        bench = benches(poll=poll)
        task = new_id(utc())
        first = bench.start("echo up; echo ran >> /live/ran; sleep 1000", inputs=bench.live, resources=SPOT, task_id=task)
        taken = bench.up(first)
        assert lab.emulator.bad_days.preempt(taken) == taken
        if poll > 1:
            assert lab.emulator.wait(first.ref, first.name, "completed").info["exitCode"] == node.TAKEN
        seen = bench.ended(first)
        assert (seen.reason, seen.code, seen.transient) == (Reason.PREEMPTED, "PREEMPTED", True)
        assert taken in seen.message
        lab.emulator.wait(first.ref, first.name, "completed")
        second = bench.start("echo ran >> /live/ran", inputs=bench.live, resources=SPOT, task_id=task, attempt=2)
        assert bench.driven.end(second).reason is None
        assert [bench.node(handle).pool.id for handle in (first, second)] == [bench.spot, bench.regular]
        assert bench.runs() == 2

    @pytest.mark.parametrize("poll", [0.3, 3.0])
    def test_and_restored_under_its_name(self, benches: Benches, lab: Lab, poll: float) -> None:
        """The task begins on what seems to be the node that has it."""
        bench = benches(poll=poll, nodes=1)
        handle = bench.start("echo up; echo ran >> /live/ran; sleep 1000", inputs=bench.live, resources=SPOT)
        taken = bench.up(handle)
        lab.emulator.bad_days.preempt(restore=0.0)
        seen = bench.ended(handle)
        assert (seen.reason, seen.transient, taken in seen.message) == (Reason.PREEMPTED, True, True)
        lab.emulator.wait(handle.ref, handle.name, "completed")
        assert bench.node(handle).id == taken
        assert bench.runs() == 1

    def test_before_its_runner_has_begun(self, bench: Bench, lab: Lab) -> None:
        """Nobody has the attempt, and the next runner takes it: to the user nothing has happened."""
        handle = bench.start("echo ran >> /live/ran", inputs=bench.live, resources=SPOT)
        lab.emulator.account.wait(lambda: bench.task(handle).last)
        lab.emulator.bad_days.preempt()
        seen = bench.ended(handle)
        assert seen.reason in (None, Reason.PREEMPTED)
        assert bench.runs() == (seen.reason is None)

    def test_while_inputs_come(self, bench: Bench, lab: Lab) -> None:
        with doors("127.0.0.1") as source:
            handle = bench.start("true", inputs=[{"path": "/work/in", "url": f"http://127.0.0.1:{source.server_port}/slow"}], resources=SPOT)
            assert source.knocked.wait(60)
            lab.emulator.bad_days.preempt()
            seen = bench.ended(handle)
        assert (seen.reason, seen.transient) == (Reason.PREEMPTED, True)

    def test_while_outputs_go(self, bench: Bench, lab: Lab) -> None:
        with doors("127.0.0.1") as sink:
            command = {**bench.driven.executor("echo out > out; echo ran >> /live/ran"), "workdir": "/work"}
            outputs = [{"path": "/work/out", "url": f"http://127.0.0.1:{sink.server_port}/slow"}]
            handle = bench.start(command, inputs=bench.live, outputs=outputs, resources=SPOT)
            assert sink.knocked.wait(60)
            lab.emulator.bad_days.preempt()
            seen = bench.ended(handle)
        assert (seen.reason, seen.transient) == (Reason.PREEMPTED, True)
        assert bench.runs() == 1


class TestLost:
    def test_what_runs_on_counts(self, bench: Bench, lab: Lab) -> None:
        """Azure Batch does not hear of the node; it starts the task elsewhere, and we wait for whoever has it."""
        handle = bench.start(f"echo up; echo ran >> /live/ran; {GO}", inputs=bench.live)
        lost = bench.up(handle)
        lab.emulator.bad_days.lose(lost, alive=True)
        lab.emulator.wait(handle.ref, handle.name, "completed")
        seen = bench.driven.until(handle, lambda seen: seen.phase is not Phase.RUNNING)
        assert (seen.phase, bench.task(handle).info["exitCode"]) == (Phase.UNKNOWN, node.TAKEN)
        (bench.files / "live" / "go").touch()
        report = bench.driven.end(handle)
        assert (report.reason, bench.runs()) == (None, 1)

    def test_not_for_ever(self, benches: Benches, lab: Lab) -> None:
        bench = benches(wait=3.0)
        handle = bench.start(UP)
        lost = bench.up(handle)
        lab.emulator.bad_days.lose(lost, alive=True)
        began = utc()
        seen = bench.driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
        assert (utc() - began).total_seconds() >= 3
        assert (seen.reason, seen.transient) == (Reason.LOST, True)
        assert f"Azure Batch has not reached the node {lost} for" in seen.message

    def test_dead_and_gone(self, bench: Bench, lab: Lab) -> None:
        """Once the node is out of its pool, nothing runs there."""
        handle = bench.start(UP)
        lost = bench.up(handle)
        lab.emulator.bad_days.lose(lost)
        lab.emulator.wait(handle.ref, handle.name, "completed")
        with lab.emulator.client() as client:
            client.begin_remove_nodes(bench.regular, models.BatchNodeRemoveOptions(node_ids=[lost]), polling_interval=3600)
        seen = bench.ended(handle)
        assert (seen.reason, seen.transient, lost in seen.message) == (Reason.LOST, True, True)


class TestRunner:
    def test_killed_while_a_command_runs(self, bench: Bench, lab: Lab) -> None:
        """The node's reaper ends the command; only then is the end told."""
        lost, canceled = bench.start(DEAF), bench.start(DEAF)
        for handle in (lost, canceled):
            bench.up(handle)
            assert len(bench.containers(handle)) == 1
        lab.emulator.bad_days.slow_stop(60.0)
        bench.backend.cancel([canceled])
        for handle in (lost, canceled):
            lab.emulator.bad_days.kill_runner(handle.ref, handle.name)
        seen = bench.ended(lost)
        assert (seen.reason, seen.transient) == (Reason.LOST, True)
        assert "exit code 137" in seen.message
        assert bench.ended(canceled).reason is Reason.CANCELED

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("ContainerInvalidImage", "let pull): ContainerInvalidImage"),
            ("ContainerInvalidRegistry", "let pull): ContainerInvalidRegistry"),
            ("DiskFull", "the node's disk is full"),
        ],
    )
    def test_it_cannot_be_started(self, bench: Bench, lab: Lab, code: str, words: str) -> None:
        lab.emulator.bad_days.fail_image(lab.image, code)
        seen = bench.ended(bench.start("true"))
        assert (seen.reason, seen.code, seen.transient) == (Reason.BACKEND, "DISK_FULL" if code == "DiskFull" else "ENGINE_ERROR", True)
        assert words in seen.message

    def test_its_image_is_nowhere(self, benches: Benches) -> None:
        bench = benches(site=lambda site: msgspec.structs.replace(site, image="localhost:1/none:1"))
        seen = bench.ended(bench.start("true"))
        assert (seen.reason, seen.code, seen.transient) == (Reason.BACKEND, "ENGINE_ERROR", True)
        assert "localhost:1" in seen.message

    def test_it_hangs(self, benches: Benches) -> None:
        """The task's own limit ends one whose inputs never come to an end."""
        bench = benches(site=lambda site: msgspec.structs.replace(site, save_seconds=0.0, node=msgspec.structs.replace(site.node, grace=1.0)))
        with doors("127.0.0.1") as source:
            inputs = [{"path": "/work/in", "url": f"http://127.0.0.1:{source.server_port}/slow"}]
            handle = bench.start("true", inputs=inputs, resources={**SMALL, "backend_parameters": {"max_runtime": "2s"}})
            seen = bench.ended(handle)
        assert (seen.reason, seen.code) == (Reason.TIMEOUT, "TIMEOUT")


class TestCanceled:
    """In each phase; when it is told, nothing runs any more."""

    def test_while_it_waits_for_a_node(self, benches: Benches) -> None:
        bench = benches(nodes=0)
        handle = bench.start("true")
        bench.driven.until(handle, lambda seen: seen.phase is Phase.PENDING)
        began = utc()
        bench.backend.cancel([handle])
        seen = bench.ended(handle)
        assert (seen.reason, seen.code) == (Reason.CANCELED, "CANCELED")
        assert (utc() - began).total_seconds() < REAPED, "nothing has run, and nobody waits for its end"
        assert bench.task(handle).last is None

    def test_while_its_runner_is_started(self, bench: Bench, lab: Lab) -> None:
        handle = bench.start(UP)
        lab.emulator.wait(handle.ref, handle.name, "preparing", "running")
        bench.backend.cancel([handle])
        assert bench.ended(handle).reason is Reason.CANCELED

    def test_while_it_runs(self, bench: Bench, lab: Lab) -> None:
        """Its inputs come; its command does not listen; its node is lost."""
        with doors("127.0.0.1") as source:
            stages = bench.start("true", inputs=[{"path": "/work/in", "url": f"http://127.0.0.1:{source.server_port}/slow"}])
            runs, lost = bench.start(DEAF, "echo never"), bench.start(DEAF, resources=SPOT)
            assert source.knocked.wait(60)
            for handle in (runs, lost):
                bench.up(handle)
            lab.emulator.bad_days.preempt(told=2.0)
            bench.backend.cancel([stages, runs, lost])
            assert [bench.ended(handle).reason for handle in (stages, runs, lost)] == [Reason.CANCELED] * 3


class TestTasks:
    def test_an_image_that_is_nowhere(self, bench: Bench) -> None:
        """Nothing is begun of which the end cannot come."""
        report = bench.driven.end(bench.start("echo ran", {"image": "localhost:1/none:1", "command": ["true"]}))
        assert (report.reason, report.executors) == (Reason.IMAGE, ())
        assert "localhost:1/none:1" in report.message

    def test_more_disk_than_the_node_has_left(self, benches: Benches) -> None:
        bench = benches(shape=msgspec.structs.replace(SHAPE, disk_bytes=10**7 * GB))
        report = bench.driven.end(bench.start("true", resources={**SMALL, "disk_gb": 1e6}))
        assert (report.reason, report.code, report.transient) == (Reason.BACKEND, "DISK_FULL", True)
        assert "the task asks for 1e+06" in report.message

    def test_more_memory_than_it_asked_for(self, bench: Bench) -> None:
        report = bench.driven.end(bench.start("echo before; exec tail /dev/zero"))
        assert (report.reason, report.executors[0].exit_code, report.executors[0].stdout) == (Reason.OOM, 137, "before\n")

    def test_longer_than_it_may_run(self, bench: Bench) -> None:
        """The runner keeps the time itself; what there is of outputs is kept."""
        command = {**bench.driven.executor("echo out > out; trap '' TERM; while :; do sleep 0.2; done"), "workdir": "/work"}
        outputs = [{"path": "/work/out", "url": f"file://{bench.files}/out"}]
        report = bench.driven.end(bench.start(command, outputs=outputs, resources={**SMALL, "backend_parameters": {"max_runtime": "1s"}}))
        assert (report.reason, report.code, report.executors[0].exit_code) == (Reason.TIMEOUT, "TIMEOUT", 137)
        assert (bench.files / "out").read_text() == "out\n"


class TestPools:
    def test_no_more_tasks_on_a_node_than_slots(self, benches: Benches, lab: Lab) -> None:
        """8 slots, and 3 for each task."""
        bench = benches(nodes=1)
        handles = [bench.start(f"echo up; echo ran >> /live/ran; {GO}", inputs=bench.live, resources={**SMALL, "cpu_cores": 3}) for _ in range(3)]
        for handle in handles[:2]:
            bench.up(handle)
        assert [bench.task(handle).state for handle in handles] == ["running", "running", "active"]
        assert bench.backend.observe(handles)[handles[2]].phase is Phase.PENDING
        assert bench.node(handles[0]).used == 6
        assert bench.runs() == 2
        (bench.files / "live" / "go").touch()
        assert [bench.driven.end(handle).reason for handle in handles] == [None] * 3
        assert len({bench.node(handle).id for handle in handles}) == 1

    def test_no_node_to_be_had(self, benches: Benches, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the words of Azure Batch; when there is one, the task runs."""
        monkeypatch.setattr(driver, "WAITED", 0.0)
        monkeypatch.setattr(pool_looks, "SOON", 0.5)
        bench = benches(nodes=0)
        lab.emulator.bad_days.exhaust(bench.regular)
        with lab.emulator.client() as client:
            client.begin_resize_pool(bench.regular, models.BatchPoolResizeOptions(target_dedicated_nodes=1), polling_interval=3600)
        handle = bench.start("true")
        seen = bench.driven.until(handle, lambda seen: bool(seen.code))
        assert (seen.phase, seen.code) == (Phase.PENDING, "WAITING_CAPACITY")
        assert "The specified account has reached core quota" in seen.message
        lab.emulator.bad_days.mend()
        assert bench.driven.end(handle).reason is None


class TestSecrets:
    def test_only_the_command_sees_them(self, bench: Bench, lab: Lab) -> None:
        script = 'test "$PASSWORD" = "$(echo correct)-horse-battery" && test "$WHOLE" = "$PASSWORD" && echo up; ' + GO
        command = {**bench.driven.executor(script), "env": {"PASSWORD": "secret://db/password", "WHOLE": "secret://plain"}}
        handle = bench.start(command, inputs=bench.live)
        bench.up(handle)
        seen = [str(bench.runner(handle)), *(path.read_text(errors="replace") for path in lab.work.rglob("*") if path.is_file() and "bin" not in path.parts)]
        task = bench.task(handle)
        seen += [str(task.told()), str(lab.emulator.account.job(handle.ref).told()), bench.spooled(handle).decode()]
        assert all(seen[-3:]), "there was something to look at"
        seen += [lab.emulator.log(task), (bench.node(handle).root / "boot_id").read_text()]
        assert not any(PASSWORD in text for text in seen)
        assert [resource for _, resource in lab.emulator.identities.given if "vault" in resource]
        (bench.files / "live" / "go").touch()
        assert PASSWORD not in str(bench.driven.end(handle))

    def test_one_that_is_missing(self, bench: Bench) -> None:
        report = bench.driven.end(bench.start({**bench.driven.executor("true"), "env": {"A": "secret://missing"}}))
        assert (report.code, report.executors) == ("SECRET_NOT_FOUND", ())
        assert report.message.startswith("/executors/0/env/A: the secret missing: ")


class TestCredentials:
    """On a node of Azure its identities answer whoever asks; the start task keeps executors away."""

    @pytest.fixture
    def lab(self, docker_client: Any, tmp_path: pathlib.Path) -> Iterator[Lab]:
        """With the real addresses: there is one place of them on a machine."""
        azure_machine.needs_a_firewall()
        image = server_image.find()
        with azure_lab.lab(tmp_path / "node", image, WORLD, metadata="network") as made, azure_machine.restored(docker_client):
            yield made

    def test_executors_see_nothing_of_their_runner(self, benches: Benches, lab: Lab) -> None:
        """Neither its environment nor its directories, what other tasks have, its Docker, or the identities of the node: these are what reads the secret."""
        bench = benches(nodes=1, start_task=start_task.command(lab.image, str(lab.work)))
        lab.emulator.wait_nodes(bench.regular, 1, "idle")
        asks = "; ".join(azure_machine.asks(name) for name in azure_machine.PLACES)
        look = f"env; cat /proc/*/environ; find / -xdev -name '*docker.sock*' -o -xdev -name 'boot_id' -not -path '/proc/*'; ls -R /mnt /var/lib /tmp; {asks}"
        other = bench.start({**bench.driven.executor(f"echo up; echo private > private; {GO}"), "workdir": "/work"}, inputs=bench.live)
        bench.up(other)
        mine = bench.start({**bench.driven.executor(f'test "$A" = {PASSWORD} && echo up; {look}; find / -name private'), "env": {"A": "secret://plain"}})
        told = bench.driven.end(mine)
        (bench.files / "live" / "go").touch()
        bench.driven.end(other)
        output = (told.executors[0].stdout or "").partition("up\n")[2]
        assert output, told
        for word in ("AZ_BATCH", "TES_NODE", "TES_ATTEMPT", "TEST_AZURE_KEY", "docker.sock", "boot_id", "workitems", "/private", *azure_machine.PLACES):
            assert not [line for line in output.splitlines() if word in line], output
        assert [client for client, _ in lab.emulator.identities.given] == [CLIENT], "the runner's one"
        assert {"AZ_BATCH_NODE_ID", "TES_NODE", "TES_ATTEMPT", "TEST_AZURE_KEY"} <= set(bench.runner_environment(mine)), "there was something to see"
