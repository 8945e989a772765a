"""The whole server with a real cluster, as those who begin with docs/kubernetes.md meet it: what they type, what they are told, what is left."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests import cluster as clusters
from tests.acceptance import cluster_site
from tests.acceptance.cluster_site import SMALL, sh
from tests.acceptance.server import BIN, Server, served
from tests.cluster import Cluster
from tests.contract.object_servers import S3, s3
from tests.integration.conftest import unreachable
from tests.relay import Relay

pytestmark = pytest.mark.cluster

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


class Site(NamedTuple):
    """A running server, and where its tasks are."""

    server: Server
    flags: tuple[str, ...]
    cluster: Cluster
    namespace: str
    store: S3

    def run(self, *words: object, seconds: float = 90, **environment: str) -> subprocess.CompletedProcess[str]:
        """A program of this project, by a user of the server."""
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TES_URL": self.server.url, **environment}
        return subprocess.run([str(word) for word in words], check=False, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> Iterator[tuple[S3, str]]:
    """A bucket, and the endpoint by which pods come to it."""
    with s3() as bucket:
        port = int(bucket.settings.endpoint.rpartition(":")[2])
        with contextlib.closing(Relay(cluster.address, ("127.0.0.1", port))) as relay:
            yield bucket, f"http://{cluster.address}:{relay.port}"


@pytest.fixture(scope="module")
def site(cluster: Cluster, namespace: str, store: tuple[S3, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    bucket, endpoint = store
    cluster.make(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": "store"}, "data": cluster_site.opaque(bucket.variables)})
    table = f'[[storage]]\nurl = "{bucket.url}"\nwrite = true\nendpoint = "{endpoint}"\nkey_variable = "TEST_S3_KEY"\nsecret_variable = "TEST_S3_SECRET"\n'
    table += "[retries]\nbackend = 1\nfirst_delay = 0.5\n"
    flags = cluster_site.settings(cluster, namespace, home / "site.toml", cluster_more='stage_secrets = ["store"]\nwait_image = 3\n', more=table)
    with served(home / "data", *flags) as server:
        yield Site(server, flags, cluster, namespace, bucket)
        assert cluster_site.secrets(cluster, namespace) == [], "Secrets of plans are removed with their tasks"


class TestFirstSteps:
    def test_a_command_and_its_output(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", clusters.BUSYBOX, "--wait", "--", "echo", "hi")
        assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr

    def test_a_command_that_fails(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", clusters.BUSYBOX, "--", "sh", "-c", "echo out; echo wrong >&2; exit 3")
        assert (done.returncode, done.stdout) == (3, "out\n")
        assert "wrong\n" in done.stderr
        assert "exit code 3" in done.stderr

    def test_logs_of_what_runs_and_its_cancel(self, site: Site) -> None:
        task = site.server.create(sh("echo up; sleep 1000"), resources=SMALL)
        site.cluster.until(lambda: site.run("tes", "logs", task).stdout == "up\n", "the output of what still runs")
        assert site.run("tes", "cancel", task).returncode == 0
        ended = site.server.until(task)
        assert ended["state"] == "CANCELED"
        site.cluster.until(lambda: not cluster_site.running(site.cluster, site.namespace), "its pod has ended")

    def test_an_image_that_is_not_there(self, site: Site) -> None:
        begun = time.monotonic()
        done = site.run("tes", "run", "--image", "no-registry.example/nonesuch:1", "--param", "backend=kubernetes", "--", "true")
        assert done.returncode != 0
        assert "no-registry.example/nonesuch:1" in done.stderr
        assert time.monotonic() - begun < 80

    def test_an_image_without_a_shell_and_a_program_that_is_not_there(self, site: Site) -> None:
        done = site.run("tes", "run", "--image", clusters.STATIC, "--", "/nonesuch")
        assert done.returncode == 1
        assert "COMMAND_NOT_FOUND: executor 0 (/nonesuch) could not be run: exit code 127" in done.stderr

    def test_the_doctor(self, site: Site, tmp_path: pathlib.Path) -> None:
        program = [BIN / "tes-server", "doctor", "--data", tmp_path / "data"]
        well = site.run(*program, *site.flags)
        assert f"ok    cluster, namespace {site.namespace}: takes tasks" in well.stdout
        assert well.returncode == 0, well.stdout
        nowhere = cluster_site.settings(site.cluster, "tes-test-nowhere", tmp_path / "nowhere.toml")
        assert 'namespaces "tes-test-nowhere" not found' in site.run(*program, *nowhere).stdout
        away = cluster_site.kubeconfig(site.cluster, tmp_path / "away", port=1)
        said = site.run(*program, *cluster_site.settings(site.cluster, site.namespace, tmp_path / "away.toml", kubeconfig=away))
        assert "the cluster cannot be reached: Connection refused" in said.stdout
        assert said.returncode == 1
        stranger = cluster_site.kubeconfig(site.cluster, tmp_path / "stranger", token="nobody")
        said = site.run(*program, *cluster_site.settings(site.cluster, site.namespace, tmp_path / "stranger.toml", kubeconfig=stranger))
        assert "does not accept this server's credentials: Unauthorized" in said.stdout


class TestLargeTasks:
    def test_a_plan_of_4_mib(self, site: Site) -> None:
        half = "x" * (2 * 1024 * 1024)
        inputs = [{"content": half, "path": "/work/a"}, {"content": half, "path": "/work/b"}]
        task = site.server.create(sh("cat /work/a /work/b | wc -c"), inputs=inputs, resources=SMALL)
        ended = site.server.until(task)
        assert ended["state"] == "COMPLETE", ended
        assert ended["logs"][0]["logs"][0]["stdout"] == f"{4 * 1024 * 1024}\n"

    def test_a_plan_that_no_secrets_can_carry(self, site: Site) -> None:
        status, answer = site.server.ask("/v1/tasks", {"executors": [sh("true")], "inputs": [{"content": "x" * 8_000_000, "path": "/work/a"}]})
        assert (status, answer["pointer"]) == (413, "/inputs"), answer

    def test_five_thousand_inputs(self, site: Site) -> None:
        inputs = [{"content": f"{number}\n", "path": f"/work/in/{number}"} for number in range(5000)]
        task = site.server.create(sh("cat /work/in/* | sort -n | uniq | wc -l"), inputs=inputs, resources=SMALL)
        ended = site.server.until(task)
        assert ended["state"] == "COMPLETE", ended
        assert ended["logs"][0]["logs"][0]["stdout"] == "5000\n"


def test_alignment_with_data_in_a_store_equals_the_same_tools_by_hand(site: Site, tmp_path: pathlib.Path) -> None:
    clusters.load(site.cluster, "tes-test/genomics")
    data = site.run(EXAMPLES / "alignment" / "get-data", tmp_path)
    if data.returncode != 0:
        unreachable("Debian's package bowtie2-examples", data.stderr)
    for name in ("lambda.fa", "reads_1.fq.gz", "reads_2.fq.gz"):
        site.store.put(f"lambda/{name}", (tmp_path / name).read_bytes())
    done = site.run(EXAMPLES / "alignment" / "run", f"{site.store.url}/lambda", seconds=180, TES_IMAGE="tes-test/genomics")
    assert done.returncode == 0, done.stderr
    assert f"has left its results in {site.store.url}/lambda" in done.stdout
    results = site.store.objects("lambda/")
    (tmp_path / "calls.vcf").write_bytes(results["calls.vcf"])
    assert results["aligned.bam"].startswith(b"\x1f\x8b")
    assert b"[M::mem_process_seqs]" in results["bwa-mem.log"]
    inside = ("docker", "run", "--rm", "-v", f"{tmp_path}:{tmp_path}", "tes-test/genomics")
    same = site.run(EXAMPLES / "alignment" / "by-hand", tmp_path, *inside, seconds=180)
    assert same.stdout.startswith("the same "), same.stdout + same.stderr
    assert int(same.stdout.split()[2]) > 50


class Lab(NamedTuple):
    """A server whose way to the cluster is a relay."""

    server: Server
    relay: Relay
    cluster: Cluster
    namespace: str
    marks: pathlib.Path

    def marked(self, name: str, script: str = "", **fields: Any) -> str:
        """A task whose command leaves a line in a file of that name each time that it runs."""
        (self.marks / name).unlink(missing_ok=True)
        live = [{"type": "DIRECTORY", "path": str(self.marks), "url": str(self.marks)}]
        return self.server.create(sh(f'echo run >>"$1/$2"; {script}', str(self.marks), name), inputs=live, resources=SMALL, **fields)

    def runs(self, name: str) -> int:
        """How often the command of that name has run."""
        file = self.marks / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def kill(self) -> None:
        """The reconciler; the server starts another one."""
        os.kill(self.server.part("reconciler"), signal.SIGKILL)

    def job_of(self, task_id: str) -> None:
        """Until the cluster has the Job of the first attempt."""
        self.cluster.until(lambda: f"{task_id}-1" in cluster_site.jobs(self.cluster, self.namespace), "the Job is there")

    def only_once(self, *tasks: str) -> None:
        """None had a second attempt."""
        made = cluster_site.jobs(self.cluster, self.namespace)
        for task in tasks:
            assert [name for name in made if name.startswith(task)] == [f"{task}-1"]


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    marks = home / "marks"
    marks.mkdir()
    marks.chmod(0o777)
    with clusters.namespace(cluster) as namespace, clusters.claim(cluster, namespace, marks) as claim, contextlib.closing(cluster_site.relay(cluster)) as relay:
        there = cluster_site.kubeconfig(cluster, home / "kubeconfig", port=relay.port)
        more = f'''
            [local]
            engine = "sandbox"
            [sandbox]
            allow_host = true
            [files]
            live_mounts = ["{marks}"]
            [[routes]]
            backend = "kubernetes"
            tags = {{ where = "cloud" }}
            '''
        flags = cluster_site.settings(cluster, namespace, home / "site.toml", kubeconfig=there, cluster_more=cluster_site.claim(claim, marks), more=more)
        with served(home / "data", *flags) as server:
            yield Lab(server, relay, cluster, namespace, marks)
            cluster.until(lambda: not cluster_site.running(cluster, namespace), "no pod runs")


CLOUD: dict[str, Any] = {"tags": {"where": "cloud"}}


@pytest.mark.sandbox
@pytest.mark.usefixtures("sandbox_works")
class TestBadDays:
    def test_the_cluster_is_away(self, lab: Lab) -> None:
        """What runs there goes on, what ends meanwhile is seen at once after, what comes waits, what is elsewhere notices nothing."""
        ends = lab.marked("ends", "sleep 2; echo bye", **CLOUD)
        lab.server.until(ends, "RUNNING")
        with lab.relay.away():
            comes = lab.marked("comes", **CLOUD)
            here = lab.server.create({"image": "host", "command": ["/bin/echo", "here"]}, resources=SMALL)
            assert lab.server.until(here)["state"] == "COMPLETE"
            cluster_site.until_said(lab.server, comes, ["WAITING_BACKEND", "cluster"])
            lab.cluster.until(lambda: not cluster_site.running(lab.cluster, lab.namespace), "the pod has ended")
            assert lab.server.get(ends)["state"] == "RUNNING"
        back = time.monotonic()
        assert lab.server.until(ends)["logs"][0]["logs"][0]["stdout"] == "bye\n"
        assert time.monotonic() - back < 25
        assert lab.server.until(comes)["state"] == "COMPLETE"
        lab.only_once(ends, comes)
        assert (lab.runs("ends"), lab.runs("comes")) == (1, 1)

    def test_killed_while_a_create_is_under_way(self, lab: Lab) -> None:
        """The cluster hears of it only after the one who asked is dead, and another has asked again."""
        with lab.relay.frozen():
            task = lab.marked("under-way", **CLOUD)
            time.sleep(1.0)  # for the create to be sent: nobody can see it
            lab.kill()
        assert lab.server.until(task)["state"] == "COMPLETE"
        lab.only_once(task)
        assert lab.runs("under-way") == 1

    def test_killed_between_a_create_and_its_save(self, lab: Lab) -> None:
        with lab.relay.frozen(requests=False):
            task = lab.marked("between", **CLOUD)
            lab.job_of(task)
            lab.kill()
        assert lab.server.until(task)["state"] == "COMPLETE"
        lab.only_once(task)
        assert lab.runs("between") == 1

    def test_killed_while_it_runs_and_before_its_end_is_saved(self, lab: Lab) -> None:
        task = lab.marked("runs", "sleep 2; echo done", **CLOUD)
        lab.server.until(task, "RUNNING")
        lab.kill()
        assert lab.server.until(task, "RUNNING")["state"] == "RUNNING"
        with lab.relay.frozen(requests=False):
            lab.cluster.until(lambda: not cluster_site.running(lab.cluster, lab.namespace), "the pod has ended")
            lab.kill()
        assert lab.server.until(task)["logs"][0]["logs"][0]["stdout"] == "done\n"
        lab.only_once(task)
        assert lab.runs("runs") == 1

    def test_killed_before_release(self, lab: Lab) -> None:
        """The Secrets of a long order are removed by the next one."""
        long = {"inputs": [{"content": "x" * 200_000, "path": "/work/in"}]}
        task = lab.server.create(sh("sleep 2"), resources=SMALL, **long, **CLOUD)
        lab.server.until(task, "RUNNING")
        assert cluster_site.secrets(lab.cluster, lab.namespace) != []
        with lab.relay.away():
            lab.cluster.until(lambda: not cluster_site.running(lab.cluster, lab.namespace), "the pod has ended")
        lab.server.until(task)
        lab.kill()
        lab.cluster.until(lambda: cluster_site.secrets(lab.cluster, lab.namespace) == [], "Secrets are removed")

    def test_canceled_while_the_cluster_is_away(self, lab: Lab) -> None:
        runs = lab.marked("canceled", "sleep 1000", **CLOUD)
        lab.server.until(runs, "RUNNING")
        with lab.relay.away():
            assert lab.server.ask(f"/v1/tasks/{runs}:cancel", b"")[0] == 200
            cluster_site.until_said(lab.server, runs, ["WAITING_BACKEND", "cluster"])
        assert lab.server.until(runs)["state"] == "CANCELED"
        lab.cluster.until(lambda: not cluster_site.running(lab.cluster, lab.namespace), "the pod has ended")


def test_canceled_in_each_phase(site: Site) -> None:
    """Before a pod can be placed, while inputs come, and while it runs: each ends, and nothing runs on."""
    huge = site.server.create(sh("true"), resources={"cpu_cores": 900})
    runs = site.server.create(sh("trap '' TERM; echo up; while :; do sleep 0.2; done"), resources=SMALL)
    image = site.server.create({"image": "no-registry.example/none", "command": ["true"]}, resources=SMALL)
    fresh = site.server.create(sh("sleep 1000"), resources=SMALL)
    assert site.server.ask(f"/v1/tasks/{fresh}:cancel", b"")[0] == 200
    cluster_site.until_said(site.server, huge, ["WAITING_CAPACITY", "Insufficient cpu"])
    site.server.until(runs, "RUNNING")
    cluster_site.until_said(site.server, image, ["no-registry.example/none"])
    for task in (huge, runs, image):
        assert site.server.ask(f"/v1/tasks/{task}:cancel", b"")[0] == 200
    assert {site.server.until(task)["state"] for task in (huge, runs, image, fresh)} == {"CANCELED"}
    site.cluster.until(lambda: not cluster_site.running(site.cluster, site.namespace), "all pods have ended")


def test_credentials_that_do_not_suffice_any_more(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    """A server with exactly the documented Role; then without it: tasks wait and say why, what runs is not lost; then with it again."""
    with clusters.namespace(cluster) as namespace:
        token = cluster_site.token_of(cluster, namespace, "server")
        cluster_site.allow(cluster, namespace, "server")
        there = cluster_site.kubeconfig(cluster, tmp_path / "kubeconfig", token=token)
        flags = cluster_site.settings(cluster, namespace, tmp_path / "site.toml", kubeconfig=there)
        said = subprocess.run([BIN / "tes-server", "doctor", "--data", tmp_path / "data", *flags], check=False, capture_output=True, text=True, timeout=60)
        assert "takes tasks" in said.stdout, said.stdout
        bindings = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
        with served(tmp_path / "data", *flags) as server:
            runs = server.create(sh("sleep 4; echo fine"), inputs=[{"content": "x" * 200_000, "path": "/work/in"}], resources=SMALL)
            server.until(runs, "RUNNING")
            kept = cluster.get(f"{bindings}/server")
            cluster.delete(f"{bindings}/server")
            waits = server.create(sh("echo later"), resources=SMALL)
            cluster_site.until_said(server, waits, ["WAITING_BACKEND", "is forbidden", "configmaps"])
            said = subprocess.run([BIN / "tes-server", "doctor", "--data", tmp_path / "other", *flags], check=False, capture_output=True, text=True, timeout=60)
            assert "this server may not get, list, watch, create, patch, delete jobs; " in said.stdout
            cluster.until(lambda: not cluster_site.running(cluster, namespace), "the pod has ended")
            cluster.make(bindings, {"metadata": {"name": "server"}, "subjects": kept["subjects"], "roleRef": kept["roleRef"]})
            assert server.until(waits)["logs"][0]["logs"][0]["stdout"] == "later\n"
            assert server.until(runs)["logs"][0]["logs"][0]["stdout"] == "fine\n"
            cluster.until(lambda: cluster_site.secrets(cluster, namespace) == [], "Secrets are removed")
            server.stop()
            # A token that is not known: whoever rotates it starts the server again.
            cluster_site.kubeconfig(cluster, there, token="expired")
            server.start()
            waits = server.create(sh("echo later"), resources=SMALL)
            cluster_site.until_said(server, waits, ["WAITING_BACKEND", "Unauthorized"])
            assert '"kubernetes.watch.failed"' in server.log.read_text()
            server.stop()
            cluster_site.kubeconfig(cluster, there, token=token)
            server.start()
            assert server.until(waits)["state"] == "COMPLETE"


def test_the_namespace_goes_with_its_tasks(cluster: Cluster, tmp_path: pathlib.Path) -> None:
    """Tasks that ran there end, and say so, or run again where it is made anew; the server stays."""
    with clusters.namespace(cluster) as namespace:
        flags = cluster_site.settings(cluster, namespace, tmp_path / "site.toml", more="[retries]\nfirst_delay = 0.2\nlongest_delay = 1\n")
        with served(tmp_path / "data", *flags) as server:
            task = server.create(sh("sleep 1000"), resources=SMALL)
            server.until(task, "RUNNING")
            cluster.delete(f"/api/v1/namespaces/{namespace}")
            cluster_site.until_said(server, task, ["namespace", "WAITING_BACKEND"])
            assert server.ask("/healthz")[0] == 200
            assert server.get(task)["state"] == "QUEUED"
            assert server.ask(f"/v1/tasks/{task}:cancel", b"")[0] == 200
            assert server.until(task)["state"] == "CANCELED"


def test_plan_says_where_and_why(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"executors": [sh("true")], "resources": {"cpu_cores": 500}}))
    here = '[local]\nengine = "sandbox"\ncpus = 2\n'
    flags = cluster_site.settings(site.cluster, site.namespace, tmp_path / "both.toml", more=here)
    done = site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json")
    shown = json.loads(done.stdout)
    assert (shown["backend"], shown["rule"]) == ("kubernetes", "default: the first backend that can take it, after local")
    flags = cluster_site.settings(site.cluster, site.namespace, tmp_path / "both.toml", more=here, cluster_more="max_cpus = 64\n")
    done = site.run(BIN / "tes-server", "plan", "--data", tmp_path / "data", *flags, tmp_path / "task.json")
    assert done.returncode != 0
    assert "no backend can take it: local: " in done.stderr
    assert "; kubernetes: " in done.stderr
