"""The sandbox engine on this machine's bubblewrap: the contract of all engines, and how its cells start and end."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading

import msgspec
import pytest

from tes_server import errors
from tes_server.plan.steps import Limits, Mount
from tes_server.runner import records
from tes_server.runner.engine import Cell, CellState, Engine
from tes_server.runner.images import Images, Options
from tes_server.runner.sandbox import PROCESSES, SandboxEngine
from tests.contract.engine_contract import PATIENCE, EngineContract, Lab, until
from tests.integration import sandbox_images
from tests.integration.sandbox_case import ROOT, SandboxCase, marks, processes_with

pytestmark = marks


class SandboxContract(EngineContract):
    @pytest.fixture
    def data(self, tmp_path: pathlib.Path) -> pathlib.Path:
        return tmp_path / "data"

    @pytest.fixture
    def engine(self, data: pathlib.Path, images: Images) -> Engine:
        return SandboxEngine(data=data, allow_host=True, network=True, images=images)

    @pytest.fixture
    def successor(self, data: pathlib.Path, images: Images) -> Engine:
        return SandboxEngine(data=data, allow_host=True, network=True, images=images)

    def signal_supervisor(self, cell: Cell, number: signal.Signals) -> None:
        begun = records.start(cell.record)
        assert begun is not None
        os.kill(begun.pid, number)

    @pytest.mark.parametrize("depth", [1, 2])
    def test_a_sandbox_killed_from_outside_is_lost(self, lab: Lab, depth: int) -> None:
        """bwrap, or the tes-step inside of it."""
        cell, _ = lab.blocked()
        begun = records.start(cell.record)
        assert begun is not None
        victim = begun.pid
        for _ in range(depth):
            [victim] = map(int, pathlib.Path(f"/proc/{victim}/task/{victim}/children").read_text().split())
        os.kill(victim, signal.SIGKILL)
        assert lab.engine.wait(cell) is None

    def test_cells_of_one_name_in_two_data_directories_are_two(self, lab: Lab, tmp_path: pathlib.Path, images: Images, image: str) -> None:
        """Ids of tasks come from clients' Idempotency-Keys: two servers may have the same."""
        cell, gate = lab.blocked()
        other = Lab(SandboxEngine(data=tmp_path / "other", allow_host=True, network=True, images=images), image, tmp_path / "other" / "lab")
        twin = msgspec.structs.replace(other.cell("true"), name=cell.name)
        assert other.run(twin).code == 0
        other.engine.remove(twin)
        other.clear()
        gate.open()
        ended = lab.engine.wait(cell)
        assert ended is not None
        assert ended.code == 0


class TestThisMachine(SandboxContract):
    @pytest.fixture
    def images(self, data: pathlib.Path) -> Images:
        return Images(data / "images", Options(), ids=sandbox_images.IDS)

    @pytest.fixture
    def image(self) -> str:
        return "host"


class TestAnImage(SandboxContract):
    @pytest.fixture
    def images(self, cached_images: pathlib.Path) -> Images:
        return Images(cached_images, Options(), ids=sandbox_images.IDS)

    @pytest.fixture
    def image(self) -> str:
        return sandbox_images.NAME


class TestAnImageWithoutOverlays(TestAnImage):
    """As on an old kernel, or with data on a file system that cannot hold an overlay's upper directory."""

    @pytest.fixture(autouse=True)
    def no_overlays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tes_server.runner.underlay.overlay_works", lambda *_: False)

    def test_says_what_is_different(self, engine: Engine) -> None:
        assert "read-only to their tasks" in engine.check()

    def test_the_images_own_places_are_read_only(self, lab: Lab) -> None:
        out = lab.check("for f in /etc/canary /bin/new /home/alice/new; do (echo x > $f) 2> /dev/null || echo refused; done")
        assert out == "refused\n" * 3

    def test_this_machines_programs_run_too(self, lab: Lab) -> None:
        cell = msgspec.structs.replace(lab.sh('echo x > "$HOME/f"; cat /etc/hostname; cat "$HOME/f"; ls /usr/bin > /dev/null'), image="host")
        assert lab.run(cell).code == 0
        assert lab.engine.streams(cell)[0] == "tes\nx\n"

    def test_names_of_hosts_are_this_machines(self, lab: Lab) -> None:
        """Though the image's resolv.conf is a link to nowhere."""
        assert lab.check("cat /etc/resolv.conf") == pathlib.Path("/etc/resolv.conf").read_text()


class TestOwnership(SandboxCase):
    def test_staged_files_are_the_tasks_own(self, lab: Lab) -> None:
        script = lab.work / "script"
        script.write_text("#!/bin/sh\necho works\n")
        script.chmod(0o666)
        assert lab.check("chmod +x /work/script && /work/script && touch -d 2001-01-01 /work/script") == "works\n"

    def test_what_the_task_locked_is_open_to_the_server(self, lab: Lab) -> None:
        lab.check("mkdir -m 0 /work/d; echo x > /work/f; chmod 0 /work/f; mkdir -p /work/e/g; chmod 0 /work/e")
        assert (lab.work / "f").read_text() == "x\n"
        assert list((lab.work / "d").iterdir()) == []

    def test_archives_with_foreign_owners_unpack(self, lab: Lab) -> None:
        lab.check("cd /work && echo x > a && tar --owner 1234 --group 1234 -cf a.tar a && rm a && tar -xf a.tar && cat a")


class TestEnds(SandboxCase):
    def test_a_kill_for_memory_that_the_shell_survives_is_told_for_ever(self, lab: Lab, data: pathlib.Path) -> None:
        cell = lab.sh("tail -n 1 /dev/zero; exit 0", limits=Limits(cpus=1, ram_bytes=64 << 20))
        ended = lab.run(cell)
        assert (ended.code, ended.oom) == (0, True)
        lab.engine.remove(cell)
        assert SandboxEngine(data=data, allow_host=True, network=False).wait(cell) == ended

    @pytest.mark.skipif(not ROOT, reason="no cgroups")
    def test_limits_are_the_kernels(self, lab: Lab, data: pathlib.Path) -> None:
        gate = lab.gate()
        cell = lab.sh("read line < /work/gate", limits=Limits(cpus=0.5, ram_bytes=64 << 20))
        lab.engine.start(cell)
        groups = [pathlib.Path(line) for line in (data / "sandbox" / cell.name / "groups").read_text().splitlines()]
        values = {
            file.name: file.read_text().strip()
            for group in groups
            for file in group.iterdir()
            if file.name in {"pids.max", "memory.limit_in_bytes", "memory.max"}
        }
        assert str(64 << 20) in values.values()
        assert str(PROCESSES) in values.values()
        gate.open()
        lab.run(cell)
        lab.engine.remove(cell)
        assert not any(group.exists() for group in groups)

    def test_no_process_outlives_its_supervisor(self, lab: Lab) -> None:
        mark = f"tes-outlive-{os.getpid()}"
        gate = lab.gate()
        cell = lab.sh(f"(setsid sh -c 'read line < /work/gate; : {mark}' &); read line < /work/gate; : {mark}")
        lab.engine.start(cell)
        until(lambda: len(processes_with(f": {mark}")) >= 2, "both begin")
        begun = records.start(cell.record)
        assert begun is not None
        os.kill(begun.pid, signal.SIGKILL)
        until(lambda: not processes_with(mark), "all end")
        assert lab.engine.wait(cell) is None
        gate.open()

    def test_a_daemon_left_behind_ends_with_its_command(self, lab: Lab) -> None:
        mark = f"tes-daemon-{os.getpid()}"
        lab.check(f"(trap '' TERM HUP; setsid sh -c 'sleep 1000; : {mark}' &) ; echo done")
        assert processes_with(mark) == []

    def test_a_stop_that_comes_with_the_start_is_not_missed(self, lab: Lab) -> None:
        for _ in range(10):
            cell = lab.cell("sleep", "1000")
            lab.engine.start(cell)
            lab.engine.stop(cell, 1000)
            waiting = threading.Timer(PATIENCE, lab.engine.remove, [cell])
            waiting.start()
            ended = lab.engine.wait(cell)
            waiting.cancel()
            assert ended is not None
            assert (ended.code, ended.signal) == (143, 15)

    def test_a_server_that_died_before_the_spawn_leaves_an_absent_cell(self, lab: Lab) -> None:
        cell = lab.sh("exit 3")
        lock = records.take_lock(cell.record)
        assert lock is not None
        assert lab.engine.state(cell) is CellState.RUNNING
        os.close(lock)
        assert lab.engine.state(cell) is CellState.ABSENT
        assert lab.run(cell).code == 3

    def test_two_threads_start_it_once(self, lab: Lab) -> None:
        for _ in range(10):
            cell = lab.sh("echo run >> /work/runs")
            threads = [threading.Thread(target=lab.engine.start, args=[cell]) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            lab.run(cell)
        assert (lab.work / "runs").read_text() == "run\n" * 10

    def test_a_sandbox_that_cannot_be_made_is_the_engines_failure(self, lab: Lab) -> None:
        cell = lab.cell("true", mounts=(Mount("/proc/tes"),))
        lab.engine.start(cell)
        with pytest.raises(errors.EngineError, match=r"could not start the command: bwrap: .*/proc/tes"):
            lab.engine.wait(cell)

    def test_an_argv_beyond_the_kernels_bound_is_126(self, lab: Lab) -> None:
        cell = lab.cell("true", *["x" * 100_000] * 40)
        assert lab.run(cell).code == 126
        assert "Argument list too long" in lab.engine.streams(cell)[1]

    def test_ten_thousand_arguments(self, lab: Lab) -> None:
        assert lab.check('echo "$#"', *map(str, range(10_000))) == "10000\n"

    def test_a_start_survives_the_server(self, lab: Lab, data: pathlib.Path) -> None:
        """The real thing: another process starts the cell and is killed; the command goes on and ends with a record."""
        gate = lab.gate()
        cell = lab.sh("read line < /work/gate; exit 9")
        program = (
            "import os, pathlib, signal, sys, msgspec\n"
            "from tes_server.runner import engine, sandbox\n"
            "cell = msgspec.json.decode(sys.argv[2], type=engine.Cell, dec_hook=lambda kind, text: kind(text))\n"
            "sandbox.SandboxEngine(data=pathlib.Path(sys.argv[1]), allow_host=True, network=False).start(cell)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        text = msgspec.json.encode(cell, enc_hook=str).decode()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", program, str(data), text], check=False, env=environment)
        assert done.returncode == -signal.SIGKILL
        assert lab.engine.state(cell) is CellState.RUNNING
        gate.open()
        assert lab.run(cell).code == 9


class TestRefusals(SandboxCase):
    def test_mounts_below_the_hosts_programs(self, lab: Lab) -> None:
        for path in ("/usr/local/x", "/opt/x", "/bin/x", "/lib64"):
            with pytest.raises(errors.EngineError, match="read-only there"):
                lab.engine.start(lab.cell("true", mounts=(Mount(path),)))

    def test_host_must_be_allowed(self, tmp_path: pathlib.Path) -> None:
        shut = SandboxEngine(data=tmp_path, allow_host=False, network=True)
        with pytest.raises(errors.EngineError, match=r"sandbox\.allow_host") as caught:
            shut.prepare("host")
        assert caught.value.code == "IMAGE_DENIED"
        assert shut.check()
