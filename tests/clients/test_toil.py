"""Toil 7 with its TES batch system: the job store is a directory that every task sees live (row 28)."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.acceptance.server import Server, served
from tests.clients import images, packages

pytestmark = [pytest.mark.clients, pytest.mark.docker]

TOIL = ("toil==7.0.0", "setuptools<81")
PLUGIN = "toil-batch-system-tes==2.0.0"

WORKFLOW = """
import subprocess
from toil.common import Toil
from toil.job import Job

LITTLE = dict(cores=0.2, memory="200M", disk="100M")


def flow(job, texts):
    counts = [job.addChildJobFn(count, text, **LITTLE).rv() for text in texts]
    return job.addFollowOnJobFn(total, counts, **LITTLE).rv()


def count(job, text):
    with job.fileStore.readGlobalFileStream(text) as stream:
        return len(stream.read().split())


def total(job, counts):
    path = job.fileStore.getLocalTempFile()
    with open(path, "w") as out:
        out.write("+".join(map(str, counts)))
    return job.fileStore.writeGlobalFile(path)


def fails(job):
    subprocess.run(["sh", "-c", "echo out of luck >&2; exit 3"], check=True)


def sleeps(job):
    subprocess.run(["sleep", "1000"])


if __name__ == "__main__":
    parser = Job.Runner.getDefaultArgumentParser()
    parser.add_argument("what")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    with Toil(options) as toil:
        if options.what == "flow":
            *sources, target = ["file://" + path for path in options.files]
            result = toil.start(Job.wrapJobFn(flow, [toil.importFile(source) for source in sources], **LITTLE))
            toil.exportFile(result, target)
        else:
            toil.start(Job.wrapJobFn({"fails": fails, "sleeps": sleeps}[options.what], **LITTLE))
"""


class Site:
    """A server that mounts job stores live, and Toil with a workflow."""

    def __init__(self, server: Server, home: pathlib.Path, stores: pathlib.Path, bin_: pathlib.Path, image: str) -> None:
        self.server = server
        self.home = home
        self._stores = stores
        self._bin = bin_
        self._image = image

    def toil(self, what: str, *files: pathlib.Path) -> subprocess.Popen[str]:
        batch = ["--batchSystem", "tes", "--tesEndpoint", self.server.url, "--retryCount=0", "--disableProgress"]
        # A file that is imported as a link to elsewhere cannot be seen by a task that sees the job store alone.
        batch.append("--symlinkImports=False")
        return subprocess.Popen(
            [self._bin / "python", "flow.py", self._stores / what, *batch, what, *files],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its files of messages stay in TMPDIR.
            env={"PATH": f"{self._bin}:{os.environ['PATH']}", "HOME": str(self.home), "TMPDIR": str(self.home), "TOIL_APPLIANCE_SELF": self._image},
            cwd=self.home,
        )


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    bin_ = packages.environment("toil", *TOIL, PLUGIN)
    # Toil asks a registry for its image, unless the name bears the commit that Toil was made of.
    commit = subprocess.run([bin_ / "python", "-c", "from toil.version import currentCommit; print(currentCommit)"], capture_output=True, text=True, check=True)
    image = images.image(f"toil-{commit.stdout.strip()}", bin_, *TOIL)
    stores = tmp_path / "stores"
    stores.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    (home / "flow.py").write_text(WORKFLOW)
    with served(tmp_path / "data", "--engine", "docker", environment={"TES_SERVER__FILES__LIVE_MOUNTS": f'["{stores}"]'}) as server:
        yield Site(server, home, stores, bin_, image)


def test_a_workflow(site: Site) -> None:
    a, b, out = (site.home / name for name in ("a", "b", "out"))
    a.write_text("one two three\n")
    b.write_text("four five\n")
    with site.toil("flow", a, b, out) as toil:
        said, _ = toil.communicate(timeout=120)
    assert toil.returncode == 0, said
    assert out.read_text() == "3+2"
    assert set(site.server.states().values()) == {"COMPLETE"}


def test_a_job_that_fails(site: Site) -> None:
    with site.toil("fails") as toil:
        said, _ = toil.communicate(timeout=120)
    assert toil.returncode == 1, said
    assert "returned non-zero exit status 3" in said
    assert "out of luck" in said


def test_ctrl_c_cancels(site: Site) -> None:
    with site.toil("sleeps") as toil:
        while not (states := site.server.states()):
            assert toil.poll() is None
            time.sleep(0.1)
        (task_id,) = states
        site.server.until(task_id, "RUNNING")
        toil.send_signal(signal.SIGINT)
        said, _ = toil.communicate(timeout=60)
    assert toil.returncode != 0, said
    assert site.server.until(task_id)["state"] == "CANCELED"
