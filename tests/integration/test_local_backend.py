"""The local backend on all engines, held to BackendContract."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator

import pytest

from tes_server.backends.local import driver as local_driver
from tes_server.backends.local.driver import LocalBackend
from tes_server.filer.manifest import Access
from tes_server.model.run import Handle, Reason
from tes_server.plan.policy import Capabilities
from tes_server.plan.steps import Findings
from tes_server.runner import local_secrets
from tes_server.runner.docker import DockerEngine
from tes_server.runner.engine import Engine
from tes_server.runner.sandbox import SandboxEngine
from tes_server.runner.site import Site
from tes_server.scan import base
from tests.clock import utc
from tests.contract.backend_contract import BackendContract, Driven
from tests.gates import gate, leaves, report
from tests.guards import LOOPBACK
from tests.integration.daemons import Daemon

IMAGE = "tes-test/busybox"
CANARY = f"s3cr3t-{uuid.uuid4().hex}"


class LocalContract(BackendContract):
    """What all engines share."""

    @pytest.fixture
    def data(self, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
        path = tmp_path / "data"
        path.mkdir(mode=0o700)
        yield path
        assert list((path / "attempts").iterdir()) == [], "attempts were left behind"
        assert list((path / "trash").iterdir()) == [], "trash was left behind"
        shutil.rmtree(path)

    @pytest.fixture
    def engine(self, data: pathlib.Path) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def make(self, data: pathlib.Path, engine: Engine, site: pathlib.Path) -> Callable[[], LocalBackend]:
        def made() -> LocalBackend:
            access = Access(roots=(str(site),), guard=LOOPBACK)
            (data.parent / "token").write_text(f"{CANARY}\n")
            kept = {"token": str(data.parent / "token")}
            runner = Site(
                access=access, live_roots=(str(site / "live"),), grace=2.0, secrets=kept, scan_secrets={"console": kept["token"]}, look=local_secrets.look
            )
            capabilities = Capabilities(
                cpus=2, ram_bytes=4 * 10**9, disk_bytes=10**9, gpus=0, host_image=engine.name == "sandbox", secrets=tuple(kept), engine_socket=True
            )
            backend = LocalBackend(data, engine, runner, capabilities, utc)
            backend.resume()
            return backend

        return made

    def test_room_is_what_is_left(self, driven: Driven) -> None:
        handle = driven.start(driven.executor("sleep 1000"), resources={"cpu_cores": 1.5, "ram_gb": 1, "disk_gb": 0.25})
        room = driven.backend.room()
        assert room is not None
        assert (room.cpus, room.ram_bytes, room.disk_bytes) == (0.5, 3 * 10**9, 75 * 10**7)
        driven.backend.cancel([handle])
        driven.end(handle)
        room = driven.backend.room()
        assert room is not None
        assert room.cpus == 2

    def test_a_full_disk_is_cleared_of_what_has_ended(self, driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
        """The store could not save the end, and the attempt would never be released."""
        monkeypatch.setattr(local_driver, "LOW", 1 << 62)
        handle = driven.start(driven.executor("echo kept > /work/big", workdir="/work"))
        assert driven.end(handle).reason is None
        backend = driven.backend
        assert isinstance(backend, LocalBackend)
        assert not backend.attempt(handle.name).volume.exists()

    def test_a_spoiled_record_blinds_only_its_own_readers(self, driven: Driven) -> None:
        good, bad = (driven.start(driven.executor(f"echo {name}; sleep 1000")) for name in ("good", "bad"))
        backend = driven.backend
        assert isinstance(backend, LocalBackend)
        driven.until(good, lambda _: len(backend.tail([good, bad])) == 2)
        driven.until(bad, lambda _: (backend.attempt(bad.name).record(0) / "stdout").exists())
        ring = backend.attempt(bad.name).record(0) / "stdout"
        ring.rename(ring.with_name("aside"))
        ring.symlink_to("/etc/passwd")
        assert set(backend.tail([good, bad])) == {good}
        ring.unlink()
        backend.cancel([good, bad])
        assert {driven.end(good).reason, driven.end(bad).reason} == {Reason.CANCELED}

    def test_only_the_command_sees_a_secret(self, driven: Driven, data: pathlib.Path) -> None:
        script = 'echo "$TOKEN" | md5sum; echo up > up; while [ ! -e go ]; do sleep 0.05; done'
        handle = driven.start(driven.executor(script, workdir="/work", env={"TOKEN": "secret://token", "A": "b"}))
        backend = driven.backend
        assert isinstance(backend, LocalBackend)
        work = backend.attempt(handle.name).volume / "work"
        driven.until(handle, lambda _: (work / "up").exists())
        found = subprocess.run(["grep", "-rl", "--devices=skip", CANARY, data], check=False, capture_output=True, text=True)
        assert found.stdout == ""
        assert CANARY not in self.known(handle)
        (work / "go").touch()
        report = driven.end(handle)
        assert report.reason is None, report
        assert (report.executors[0].stdout or "").split()[0] == hashlib.md5(f"{CANARY}\n".encode()).hexdigest()
        assert CANARY not in str(report)

    def test_a_task_passes_its_gate_first(self, driven: Driven, data: pathlib.Path, site: pathlib.Path, engine: Engine) -> None:
        """A scanner has its own secrets and nothing of the task's; what it says decides whether anything of the task is begun."""
        given = driven.executor("echo $TOKEN; ls -d /scan /work", workdir="/work", env={"TOKEN": "plain"})
        inputs = [{"path": "/work/in", "content": "x"}]
        known = hashlib.md5(f"{CANARY}\n".encode()).hexdigest()
        see = f'test ! -e /work/in && test "$(echo "$CONSOLE" | md5sum)" = "{known}  -" && '
        gates = [
            gate(driven.image, *scripts, env={"CONSOLE": "secret://console"}, secrets=("console",))
            for scripts in ((see + leaves(report("LOW")), leaves(report())), (leaves(report("CRITICAL")),), ("echo no database >&2; exit 1",))
        ]
        handles = [driven.start(given, inputs=inputs, gate=one) for one in gates]
        passed, refused, failed = (driven.end(handle) for handle in handles)
        found = subprocess.run(["grep", "-rl", "--devices=skip", CANARY, data], check=False, capture_output=True, text=True)
        assert found.stdout == ""
        driven.backend.release(handles)
        assert passed.reason is Reason.EXIT, passed  # ls finds no /scan
        assert (passed.executors[0].stdout or "").split() == ["plain", "/work"]
        assert (refused.reason, refused.code, refused.executors) == (Reason.REJECTED, "SCAN_REFUSED", ())
        assert "CVE-0" in str(refused.notices)
        assert (failed.reason, failed.code, failed.transient) == (Reason.BACKEND, "SCAN_FAILED", True)
        assert "trivy ended with exit code 1: no database; " in failed.message
        assert engine.survey() == []

    def test_a_cancel_ends_a_scan(self, driven: Driven) -> None:
        handle = driven.start(driven.executor("true"), gate=gate(driven.image, "sleep 1000"))
        backend = driven.backend
        assert isinstance(backend, LocalBackend)
        driven.until(handle, lambda _: (backend.attempt(handle.name).scan(0) / "record/start").exists())
        backend.cancel([handle])
        assert driven.end(handle).reason is Reason.CANCELED

    def known(self, handle: Handle) -> str:
        """What the engine tells of an executor to whoever asks."""
        return ""

    def test_out_of_memory(self, driven: Driven, engine: Engine) -> None:
        if not self.limits_memory(engine):
            pytest.skip("this engine cannot limit memory here")
        report = driven.run(driven.executor("exec tail /dev/zero"), resources={"cpu_cores": 1, "ram_gb": 0.05})
        assert report.reason is Reason.OOM
        assert report.executors[0].exit_code == 137

    def limits_memory(self, engine: Engine) -> bool:
        return True


class TestDocker(LocalContract):
    """With Docker and with Podman."""

    @pytest.fixture
    def image(self) -> str:
        return IMAGE

    @pytest.fixture
    def engine(self, data: pathlib.Path, daemon: Daemon) -> Iterator[DockerEngine]:
        self.limits = daemon.limits
        self.daemon = daemon
        with daemon.engine(data.parent.name, grace=2.0) as engine:
            yield engine
            assert engine.survey() == [], "containers were left behind"

    def limits_memory(self, engine: Engine) -> bool:
        return self.limits

    def known(self, handle: Handle) -> str:
        with self.daemon.engine("look", grace=2.0) as engine, engine._daemon.ask("what it knows") as client:
            return str(client.inspect_container(f"{handle.name}-0"))

    def test_a_scanner_of_local_images_has_the_engine(self, driven: Driven, engine: DockerEngine) -> None:
        found = driven.executor(f"test -S /var/run/docker.sock && echo '{{\"SchemaVersion\": 2}}' > {base.REPORT}")
        with engine._daemon.ask("the id") as client:
            image = "sha256:" + client.inspect_image(IMAGE)["Id"].removeprefix("sha256:")
        told = driven.run(found, findings=Findings("trivy", base.REPORT), tags={base.IMAGE_TAG: image})
        assert told.reason is None, told
        gone = driven.run(found, findings=Findings("trivy", base.REPORT), tags={base.IMAGE_TAG: "sha256:" + "0" * 64})
        assert (gone.reason, gone.code) == (Reason.IMAGE, "IMAGE_NOT_FOUND"), "it would have found nothing to look at"

    def test_a_missing_image_ends_at_once_with_the_daemons_words(self, driven: Driven) -> None:
        report = driven.run({"image": "tes-test/no-such-image:1", "command": ["x"]})
        assert report.reason is Reason.IMAGE
        assert report.code in ("IMAGE_NOT_FOUND", "IMAGE_ERROR")
        assert "tes-test/no-such-image" in report.message

    def test_an_image_without_shell(self, driven: Driven) -> None:
        report = driven.run({"image": "tes-test/static", "command": ["/echo", "a b", ""]})
        assert report.reason is None, report
        assert report.executors[0].stdout == "a b\n\n"


@pytest.mark.sandbox
class TestSandbox(LocalContract):
    @pytest.fixture
    def image(self) -> str:
        return "host"

    @pytest.fixture
    def engine(self, data: pathlib.Path, sandbox_works: None) -> Iterator[SandboxEngine]:
        engine = SandboxEngine(data=data, allow_host=True, network=True)
        yield engine
        assert engine.survey() == [], "cells were left behind"

    def limits_memory(self, engine: Engine) -> bool:
        assert isinstance(engine, SandboxEngine)
        return "cgroups" in engine.limits
