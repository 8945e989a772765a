"""Tasks as pods of a real cluster: how large they may be, as whom they run, what they leave, and what a server knows of them after a restart."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import random
import urllib.parse
from collections.abc import Iterator

import msgspec
import pytest

from tes_server.backends.kubernetes.seen import Bounds
from tes_server.backends.kubernetes.site import SecretKey
from tes_server.filer import spool_place
from tes_server.filer.manifest import Access
from tes_server.model.run import Phase, Reason
from tes_server.runner.pod import PodSite
from tes_server.scan.gate import OnError
from tests import cluster as clusters
from tests.cluster import Cluster
from tests.contract import object_servers
from tests.contract.backend_contract import Driven
from tests.contract.object_servers import Server
from tests.gates import gate, leaves, report
from tests.guards import LOOPBACK
from tests.integration import cluster_lab
from tests.integration.cluster_lab import Lab, policy, says, start, writes
from tests.relay import Relay

pytestmark = pytest.mark.cluster

USER = "tes-test/user"
INPUT = [{"path": "/work/in", "content": "x"}]
"""With an input a task has stage steps; without, and with one executor, its pod is one container."""


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cluster_lab.lab(cluster, tmp_path_factory.mktemp("claim")) as made:
        yield made


@pytest.fixture
def driven(lab: Lab) -> Iterator[Driven]:
    with lab.driven() as made:
        yield made


class TestSecrets:
    def test_only_the_command_sees_one(self, lab: Lab) -> None:
        """In a pod of one container, and in one with stage steps."""
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "c4n4ry"}}
        lab.cluster.make(f"{lab.core}/secrets", secret)
        with lab.driven(secrets={"whole": SecretKey("keys", "token"), "keyed": SecretKey("keys")}) as driven:
            script = 'echo "$TOKEN" | md5sum; echo "$A"'
            alone = start(driven, driven.executor(script, env={"TOKEN": "secret://whole", "A": "a"}))
            staged = start(driven, driven.executor(script, env={"TOKEN": "secret://keyed/token", "A": "a"}), inputs=INPUT)
            for handle in (alone, staged):
                report = driven.end(handle)
                assert report.reason is None, report
                assert (report.executors[0].stdout or "").split() == [hashlib.md5(b"c4n4ry\n").hexdigest(), "-", "a"]
                assert "c4n4ry" not in str(lab.pod(handle))
            driven.backend.release([alone, staged])

    def test_one_that_is_not_there(self, lab: Lab) -> None:
        with lab.driven(secrets={"gone": SecretKey("no-such-secret")}, bounds=Bounds(config=2.0)) as driven:
            handle = start(driven, driven.executor("true", env={"A": "secret://gone/key"}))
            seen = driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
            assert (seen.reason, seen.code) == (Reason.REJECTED, "SECRET_NOT_FOUND")
            assert '"no-such-secret" not found' in seen.message
            driven.backend.release([handle])


class TestGate:
    """Scans of a task's own images, first in its pod."""

    def test_only_what_passes_begins(self, lab: Lab) -> None:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "console"}, "stringData": {"token": "c4n4ry"}}
        lab.cluster.make(f"{lab.core}/secrets", secret)
        with lab.driven(scan_secrets={"console": SecretKey("console", "token")}) as driven:
            given = driven.executor("ls /scan; ls /work", workdir="/work")
            see = 'test ! -e /work/in && test "$CONSOLE" = c4n4ry && '
            gates = [
                gate(driven.image, *scripts, on_error=on_error, env={"CONSOLE": "secret://console"}, secrets=("console",))
                for scripts, on_error in (
                    ((see + leaves(report("LOW")), leaves(report())), OnError.BLOCK),
                    ((leaves(report("CRITICAL")),), OnError.BLOCK),
                    (("echo no database >&2; exit 1",), OnError.BLOCK),
                    (("exec tail /dev/zero",), OnError.BLOCK),
                    (("echo no database >&2; exit 1",), OnError.ALLOW),
                    (("tail /dev/zero; echo survived",), OnError.ALLOW),
                )
            ]
            handles = [start(driven, given, inputs=INPUT, gate=one) for one in gates]
            ends = [driven.until(handle, lambda seen: seen.phase is Phase.ENDED) for handle in handles]
            passed, refused, failed, killed, allowed, survived = ends
            assert passed.report is not None
            assert passed.report.executors[0].stdout == "in\n", passed
            assert refused.report is not None
            assert (refused.report.reason, refused.report.code, refused.report.executors) == (Reason.REJECTED, "SCAN_REFUSED", ())
            assert "CVE-0" in str(refused.report.notices)
            assert (failed.reason, failed.code, failed.transient) == (Reason.BACKEND, "SCAN_FAILED", True)
            assert "the scanner ended with exit code 1: no database" in failed.message
            assert (killed.reason, killed.code) == (Reason.BACKEND, "SCAN_FAILED")
            assert "memory" in killed.message
            assert allowed.report is not None
            assert allowed.report.executors[0].stdout == "in\n"
            assert "no database" in str([line for line in allowed.report.notices if line.startswith("SCAN_WARNING")])
            assert (survived.reason, survived.code) == (Reason.BACKEND, "SCAN_FAILED"), "an init container that ends well then would hang its pod"
            driven.backend.release(handles)


class TestSize:
    def test_a_plan_of_four_mebibytes(self, lab: Lab, driven: Driven) -> None:
        contents = [random.Random(number).randbytes(50 * 1024).hex() for number in range(41)]
        inputs = [{"path": f"/work/{number:02}", "content": content} for number, content in enumerate(contents)]
        handle = start(driven, driven.executor("cat /work/* | md5sum"), inputs=inputs)
        secrets = f"{lab.core}/secrets"
        ours = f"tes-server/task={handle.name.rpartition('-')[0]}"
        assert lab.cluster.names(secrets, labelSelector=ours) == [f"{handle.name}-{number}" for number in range(5)]
        report = driven.end(handle)
        assert (report.executors[0].stdout or "").split()[0] == hashlib.md5("".join(contents).encode()).hexdigest()
        assert len(writes(driven)) == 6, "the Job, and each Secret"
        driven.backend.release([handle])
        assert lab.cluster.names(secrets, labelSelector=ours) == []
        assert len(writes(driven)) == 11

    def test_five_thousand_inputs(self, driven: Driven) -> None:
        root = pathlib.Path(driven.policy.sites.roots[0])
        for number in range(5000):
            (root / f"{number}").write_text(f"{number}\n")
        inputs = [{"path": f"/work/in/{number}", "url": f"{root}/{number}"} for number in range(5000)]
        outputs = [{"path": "/work/in/*", "path_prefix": "/work/in", "url": f"{root}/out"}]
        report = driven.end(start(driven, driven.executor("ls /work/in | wc -l; cat /work/in/* | sort -n | tail -n 1"), inputs=inputs, outputs=outputs))
        assert (report.reason, report.executors[0].stdout) == (None, "5000\n4999\n")
        assert len(list((root / "out").iterdir())) == 5000


class TestWrites:
    def test_of_a_task(self, driven: Driven) -> None:
        for fields in ({}, {"inputs": [{"path": "/work/in", "content": "x"}]}):
            handle = start(driven, driven.executor("true"), **fields)
            assert driven.end(handle).reason is None
            driven.backend.release([handle])
        assert [write.partition(" ")[0] for write in writes(driven)] == ["POST", "POST"]

    def test_of_a_task_that_is_canceled(self, driven: Driven) -> None:
        handle = start(driven, driven.executor("sleep 1000"))
        driven.until(handle, lambda seen: seen.phase is Phase.RUNNING)
        driven.backend.cancel([handle])
        driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
        driven.backend.release([handle])
        assert [write.partition(" ")[0] for write in writes(driven)] == ["POST", "PATCH"]


@pytest.fixture(scope="module")
def user_image(cluster: Cluster) -> Iterator[str]:
    """An image whose programs do not run as root."""
    with clusters.built(USER, f"FROM {clusters.BUSYBOX}\nUSER 1234:1234\n"):
        clusters.load(cluster, USER)
        yield USER


class TestUsers:
    def test_images_of_several_users_share_a_volume(self, driven: Driven, user_image: str) -> None:
        root = pathlib.Path(driven.policy.sites.roots[0])
        theirs = {"image": user_image, "workdir": "/work"}
        report = driven.end(
            start(
                driven,
                {**theirs, "command": ["/bin/sh", "-c", "id -u; echo one > a; mkdir d; rm in/x"], "stdout": "/work/who"},
                driven.executor("id -u; echo two >> a; echo x > d/x; mkdir e; echo y > e/y", workdir="/work"),
                {**theirs, "command": ["/bin/sh", "-c", "cat who; echo three >> a; rm d/x e/y; echo z > e/z"]},
                inputs=[{"path": "/work/in/x", "content": "x"}],
                outputs=[{"path": "/work/a", "url": f"{root}/a"}, {"path": "/work/e", "url": f"{root}/e", "type": "DIRECTORY"}],
            )
        )
        assert report.reason is None, report
        assert [log.stdout for log in report.executors] == ["1234\n", "0\n", "1234\n"]
        assert (root / "a").read_text() == "one\ntwo\nthree\n"
        assert [path.name for path in (root / "e").iterdir()] == ["z"]


class TestRestricted:
    @pytest.fixture
    def strict(self, cluster: Cluster, tmp_path: pathlib.Path) -> Iterator[Lab]:
        """A namespace that takes pods of the restricted profile only."""
        with cluster_lab.lab(cluster, tmp_path, **{"pod-security.kubernetes.io/enforce": "restricted"}) as made:
            yield made

    def test_the_profile_is_taken(self, strict: Lab) -> None:
        with strict.driven(restricted=True, uid=4321) as driven:
            root = pathlib.Path(driven.policy.sites.roots[0])
            report = driven.end(
                start(
                    driven,
                    driven.executor("id -u; cat in > out", workdir="/work"),
                    driven.executor("cat out; echo more >> out; grep CapEff /proc/self/status", workdir="/work"),
                    inputs=[{"path": "/work/in", "content": "in\n"}],
                    outputs=[{"path": "/work/out", "url": f"{root}/out"}],
                )
            )
            alone = driven.end(start(driven, driven.executor("id -u")))
        assert report.reason is None, report
        assert [log.stdout for log in report.executors] == ["4321\n", "in\nCapEff:\t0000000000000000\n"]
        assert (root / "out").read_text() == "in\nmore\n"
        assert (root / "out").stat().st_uid == 4321
        assert (alone.reason, alone.executors[0].stdout) == (None, "4321\n")

    def test_the_usual_one_is_refused_with_the_clusters_words(self, strict: Lab) -> None:
        with strict.driven(bounds=Bounds(config=4.0)) as driven:
            handle = start(driven, driven.executor("true"))
            driven.until(handle, says("WAITING_BACKEND", "violates PodSecurity", "restricted"))
            seen = driven.until(handle, lambda seen: seen.phase is Phase.ENDED)
        assert (seen.reason, seen.code) == (Reason.REJECTED, "REJECTED")
        assert "violates PodSecurity" in seen.message


class TestNames:
    def test_stay_taken_until_the_job_goes_by_itself(self, lab: Lab) -> None:
        with lab.driven(ttl=6) as driven:
            task = {"task_id": "0" * 26, "inputs": [{"path": "/work/in", "content": "x" * 200_000}]}
            handle = start(driven, driven.executor("echo ran >> /work/log"), **task)
            assert driven.end(handle).reason is None
            driven.backend.release([handle])
            first = lab.cluster.get(f"{lab.jobs}/{handle.name}")
            assert start(driven, driven.executor("echo ran >> /work/log"), **task) == handle, "as a submit that was frozen and thawed"
            assert lab.cluster.get(f"{lab.jobs}/{handle.name}")["metadata"]["uid"] == first["metadata"]["uid"]
            assert handle not in list(driven.backend.survey())
            lab.cluster.until(lambda: lab.cluster.calls.get(f"{lab.jobs}/{handle.name}").status == 404, "its TTL takes the Job")
            ours = {"labelSelector": f"tes-server/task={task['task_id']}"}
            lab.cluster.until(lambda: not lab.cluster.names(f"{lab.core}/secrets", **ours), "and what the late submit made with it")


class TestRestart:
    def test_a_new_server_knows_them_all(self, lab: Lab) -> None:
        site = lab.site()
        first = lab.backend(site)
        old = Driven(first, policy(site), clusters.BUSYBOX)
        over = start(old, old.executor("echo over"))
        assert old.end(over).reason is None
        running = [start(old, old.executor("echo up; until test -e /work/go; do sleep 0.1; done", workdir="/work"), inputs=inputs) for inputs in ([], INPUT)]
        for handle in running:
            old.until(handle, lambda seen: seen.phase is Phase.RUNNING)
        job = f"{lab.jobs}/{over.name}"
        lab.cluster.until(lambda: lab.cluster.get(job)["status"].get("completionTime"), "the Job ends a while after its pod")
        first.close()
        second = lab.backend(site)
        new = Driven(second, policy(site), clusters.BUSYBOX)
        try:
            assert {handle.name for handle in second.survey()} == {handle.name for handle in running}, "what had ended is its TTL's affair"
            assert new.end(over).executors[0].stdout == "over\n", "its report is there as long"
            assert all(seen.phase is Phase.RUNNING for seen in second.observe(running).values())
            second.cancel(running)
            assert [new.end(handle).reason for handle in running] == [Reason.CANCELED, Reason.CANCELED]
        finally:
            second.close()


class TestReports:
    """Beyond what a termination message holds."""

    NOISE = "head -c 8000 /dev/urandom | base64; head -c 8000 /dev/urandom | base64 >&2"

    @pytest.mark.parametrize("inputs", [[], INPUT])
    def test_in_the_log(self, driven: Driven, inputs: list[dict[str, str]]) -> None:
        log = driven.end(start(driven, driven.executor(self.NOISE), inputs=inputs)).executors[0]
        assert log.exit_code == 0
        assert all(len(text or "") > 10_000 and "left out" not in (text or "") for text in (log.stdout, log.stderr))

    def test_in_the_spool_when_the_pod_is_gone(self, cluster: Cluster, lab: Lab, s3: tuple[Server, Relay], monkeypatch: pytest.MonkeyPatch) -> None:
        server, relay = s3
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        url = f"{server.url}/spool"
        far = msgspec.structs.replace(server.settings, endpoint=f"http://{cluster.address}:{relay.port}")
        shared = PodSite(access=Access(guard=LOOPBACK), spool=url, spool_stores=(far,))
        kept = spool_place.opened(url, Access(stores=(server.settings,)))
        with lab.driven(shared=shared, kept=kept, stage_environment=server.variables) as driven:
            handle = start(driven, driven.executor(self.NOISE), inputs=INPUT)
            lab.cluster.until(lambda: lab.cluster.get(f"{lab.jobs}/{handle.name}")["status"].get("succeeded"), "it has ended")
            lab.delete_pod(handle)
            lab.cluster.until(lambda: lab.pod(handle) is None, "the pod is gone")
            log = driven.end(handle).executors[0]
            assert (log.exit_code, len(log.stdout or "") > 10_000) == (0, True)
            driven.backend.release([handle])
        assert server.objects("spool/") == {}


@pytest.fixture
def s3(cluster: Cluster) -> Iterator[tuple[Server, Relay]]:
    """An S3 server that listens on loopback, and what takes pods there."""
    with object_servers.s3() as server, contextlib.ExitStack() as stack:
        parts = urllib.parse.urlsplit(server.settings.endpoint)
        relay = Relay(cluster.address, (parts.hostname or "", parts.port or 80))
        stack.callback(relay.close)
        yield server, relay
