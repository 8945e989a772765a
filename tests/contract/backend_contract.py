"""What every backend promises, as one abstract suite: whole tasks, compiled and run, judged by the observation at the end.

Subclasses give `image` (a shell with coreutils, or "host") and `make` (a fresh backend object on the same platform, as after a
restart); the platform must reach `site`, a directory of this machine that is an allowed root.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import os
import pathlib
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from tes_server.backends.base import Backend
from tes_server.control.service import new_id
from tes_server.model import run, views
from tes_server.model.run import Handle, Observation, Phase, Reason, Report
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.grants import Grant
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Policy
from tes_server.plan.steps import Findings, Gate
from tes_server.scan import base, report
from tests.clock import utc
from tests.guards import LOOPBACK

PATIENCE = 60.0


class Driven:
    """A backend with its news turned into a condition to wait on."""

    def __init__(self, backend: Backend, policy: Policy, image: str) -> None:
        self.backend = backend
        self.policy = policy
        self.image = image
        self._told = threading.Event()
        backend.listen(lambda _: self._told.set())  # from any thread, and while a call of ours is under way

    def executor(self, script: str, **fields: Any) -> dict[str, Any]:
        return {"image": self.image, "command": ["/bin/sh", "-c", script], **fields}

    def start(
        self,
        *executors: dict[str, Any],
        attempt: int = 1,
        task_id: str = "",
        images: Mapping[str, str] = types.MappingProxyType({}),
        findings: Findings | None = None,
        gate: Gate | None = None,
        **fields: Any,
    ) -> Handle:
        fields.setdefault("resources", {"cpu_cores": 0.5, "ram_gb": 0.25})
        task = views.with_types(msgspec.convert({"executors": list(executors), **fields}, Task))
        plan = compiler.compile_task(
            task, task_id or new_id(utc()), attempt, "o", self.policy, self.backend.capabilities, images=images, findings=findings, gate=gate
        ).plan
        job = self.backend.render(plan)
        assert self.backend.render(plan) == job, "rendering is pure"
        answer = self.backend.submit([job])[job.name]
        assert isinstance(answer, Handle)
        return answer

    def until(self, handle: Handle, holds: Callable[[Observation], bool]) -> Observation:
        """Look again at every piece of news, and every second for what was told before we listened."""
        deadline = utc().timestamp() + PATIENCE
        while not holds(seen := self.backend.observe([handle])[handle]):
            assert utc().timestamp() < deadline, f"still {seen}"
            self._told.wait(0.5)
            self._told.clear()
        return seen

    def end(self, handle: Handle) -> Report:
        seen = self.until(handle, lambda seen: seen.phase is Phase.ENDED)
        assert seen.report is not None
        return seen.report

    def reason(self, handle: Handle) -> Reason | None:
        """Why it ended, by its report or by what the platform says of one that has none."""
        seen = self.until(handle, lambda seen: seen.phase is Phase.ENDED)
        return seen.report.reason if seen.report else seen.reason

    def run(self, *executors: dict[str, Any], **fields: Any) -> Report:
        handle = self.start(*executors, **fields)
        report = self.end(handle)
        self.backend.release([handle])
        return report


class BackendContract:
    """Give `image`, `make` and, where a subclass has other roots, `site`."""

    @pytest.fixture
    def site(self, tmp_path: pathlib.Path) -> pathlib.Path:
        path = tmp_path / "site"
        path.mkdir()
        return path

    @pytest.fixture
    def policy(self, site: pathlib.Path) -> Policy:
        return Policy(sites=Sites(roots=(str(site),), guard=LOOPBACK), live_mounts=(str(site / "live"),))

    @pytest.fixture
    def image(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def make(self, site: pathlib.Path) -> Callable[[], Backend]:
        raise NotImplementedError

    @pytest.fixture
    def address(self) -> str:
        """Of this machine, as tasks reach it."""
        return "127.0.0.1"

    @pytest.fixture
    def driven(self, make: Callable[[], Backend], policy: Policy, image: str) -> Iterator[Driven]:
        backend = make()
        yield Driven(backend, policy, image)
        leftover = list(backend.survey())
        backend.cancel(leftover)
        for handle in leftover:
            with contextlib.suppress(AssertionError):
                Driven(backend, policy, image).until(handle, lambda seen: seen.phase in (Phase.ENDED, Phase.GONE))
        backend.release(leftover)
        backend.close()

    # -- executors --------------------------------------------------------------------------------------------------

    def test_executors_run_in_order_over_one_volume(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("echo one > /work/log; echo to-out; echo to-err >&2", workdir="/work"),
            driven.executor("echo two >> log; cat log", workdir="/work", env={"A": "b c"}),
            driven.executor('printf "%s" "$A" > /work/env; cat', stdin="/work/log", stdout="/work/copy", workdir="/work", env={"A": "x  y"}),
            outputs=[{"path": "/work/copy", "url": str(site / "copy")}, {"path": "/work/env", "url": str(site / "env")}],
        )
        assert report.reason is None, report
        assert [log.exit_code for log in report.executors] == [0, 0, 0]
        assert (report.executors[0].stdout, report.executors[0].stderr) == ("to-out\n", "to-err\n")
        assert report.executors[1].stdout == "one\ntwo\n"
        assert (site / "copy").read_text() == "one\ntwo\n"
        assert (site / "env").read_text() == "x  y"
        assert all(log.start_time and log.end_time and log.start_time <= log.end_time for log in report.executors)

    def test_a_scan_is_told_in_our_words(self, driven: Driven) -> None:
        found = {"VulnerabilityID": "CVE-1", "PkgName": "openssl", "Severity": "HIGH"}
        body = {"SchemaVersion": 2, "ArtifactName": "i", "ArtifactType": "container_image", "Results": [{"Target": "t", "Vulnerabilities": [found] * 3}]}
        write = f"echo loud; printf '%s' '{msgspec.json.encode(body).decode()}' > {base.REPORT}"
        findings = Findings("trivy", base.REPORT)
        handles = [driven.start(driven.executor(script), findings=findings) for script in (write, "echo '<html>' > /scan/report.json", "echo no >&2; exit 1")]
        good, garbage, failed = (driven.end(handle) for handle in handles)
        driven.backend.release(handles)
        assert good.reason is None, good
        assert report.decode(good.executors[0].stdout or "").counts == {"HIGH": 1}
        assert (garbage.reason, garbage.code, garbage.transient) == (Reason.STAGING, "SCAN_FAILED", False)
        assert failed.reason is Reason.EXIT
        assert failed.message.endswith("exit code 1: no")

    def test_argv_is_given_as_it_is(self, driven: Driven, site: pathlib.Path) -> None:
        words = ["", "a b", "'", '"', "$HOME", "*", "`id`", "\n", "ü", "x" * 100_000, "-n"]
        report = driven.run(
            {"image": driven.image, "command": ["/bin/sh", "-c", 'for a in "$@"; do printf "%s\\0" "$a"; done', "sh", *words], "stdout": "/work/argv"},
            outputs=[{"path": "/work/argv", "url": str(site / "argv")}],
        )
        assert report.reason is None, report
        assert (site / "argv").read_bytes().split(b"\0")[:-1] == [word.encode() for word in words]

    def test_a_failure_stops_and_outputs_are_still_taken(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("echo kept > /work/out; echo why >&2; exit 3", workdir="/work"),
            driven.executor("echo never > /work/out", workdir="/work"),
            outputs=[{"path": "/work/out", "url": str(site / "out")}, {"path": "/work/missing", "url": str(site / "missing")}],
        )
        assert report.reason is Reason.EXIT
        assert [log.exit_code for log in report.executors] == [3]
        assert report.executors[0].stderr == "why\n"
        assert (site / "out").read_text() == "kept\n"
        assert [(log.path, log.size_bytes) for log in report.outputs] == [("/work/out", "5")]
        assert any("OUTPUT_MISSING" in line and "/work/missing" in line for line in report.notices)

    def test_ignore_error_goes_on_and_keeps_the_code(self, driven: Driven) -> None:
        report = driven.run(driven.executor("exit 4", ignore_error=True), driven.executor("exit 0"))
        assert report.reason is None
        assert [log.exit_code for log in report.executors] == [4, 0]

    def test_a_command_that_is_not_there(self, driven: Driven) -> None:
        report = driven.run({"image": driven.image, "command": ["/no/such/program"]})
        assert report.reason is Reason.EXIT
        assert report.executors[0].exit_code == 127
        assert "/no/such/program" in (report.executors[0].stderr or "")

    def test_max_runtime_keeps_the_outputs(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("echo partial > /work/out; exec sleep 1000", workdir="/work"),
            outputs=[{"path": "/work/out", "url": str(site / "out")}],
            resources={"cpu_cores": 0.5, "ram_gb": 0.25, "backend_parameters": {"max_runtime": "6s"}},
        )
        assert report.reason is Reason.TIMEOUT
        assert report.code == "TIMEOUT"
        assert report.executors[0].exit_code == 143
        assert (site / "out").read_text() == "partial\n"

    def test_cancel_ends_it_and_is_idempotent(self, driven: Driven, site: pathlib.Path) -> None:
        handle = driven.start(driven.executor("sleep 1000"))
        driven.until(handle, lambda seen: seen.phase is Phase.RUNNING)
        driven.backend.cancel([handle])
        driven.backend.cancel([handle])
        assert driven.reason(handle) is Reason.CANCELED
        driven.backend.cancel([handle])
        driven.backend.release([handle])
        driven.backend.release([handle])
        assert driven.backend.observe([handle])[handle].phase is Phase.GONE

    def test_live_output(self, driven: Driven) -> None:
        handle = driven.start(driven.executor("echo first; echo second >&2; exec sleep 1000"))
        driven.until(handle, lambda seen: seen.phase is Phase.RUNNING)

        def live(_: Observation) -> bool:
            tails = driven.backend.tail([handle]).get(handle)
            return tails is not None and bool(tails.executors) and (tails.executors[0].stdout, tails.executors[0].stderr) == ("first\n", "second\n")

        driven.until(handle, live)

    def test_head_and_tail_are_bounded(self, driven: Driven) -> None:
        report = driven.run(driven.executor("echo begin; head -c 1000000 /dev/zero | tr '\\0' x; echo end"))
        out = report.executors[0].stdout or ""
        assert out.startswith("begin\n")
        assert out.endswith("end\n")
        assert len(out) < 30_000
        assert "left out" in out

    # -- files ------------------------------------------------------------------------------------------------------

    def test_inputs_of_every_kind(self, driven: Driven, site: pathlib.Path, address: str) -> None:
        (site / "tree" / "sub").mkdir(parents=True)
        (site / "tree" / "sub" / "leaf").write_text("leaf")
        (site / "tree" / "empty").mkdir()
        (site / "plain").write_text("plain")
        with _served(site, address) as url:
            report = driven.run(
                driven.executor("cat a b c d/sub/leaf e/sub/leaf /etc/own.conf; ls d", workdir="/work"),
                inputs=[
                    {"path": "/work/a", "content": "literal ü"},
                    {"path": "/work/b", "url": str(site / "plain")},
                    {"path": "/work/c", "url": f"{url}/plain?x=1"},
                    {"path": "/work/d", "url": f"file://{site}/tree", "type": "DIRECTORY"},
                    {"path": "/work/e", "url": f"file://{site}/tree"},
                    {"path": "/etc/own.conf", "content": "conf"},
                ],
            )
        assert report.reason is None, report
        assert report.executors[0].stdout == "literal üplainplainleafleafconfempty\nsub\n"

    def test_a_task_never_changes_its_source(self, driven: Driven, site: pathlib.Path) -> None:
        (site / "source").write_text("before")
        report = driven.run(
            driven.executor("echo after > /work/in; cat /work/in", workdir="/work"),
            driven.executor("cat > /work/x; true", stdin="/work/in"),
            inputs=[{"path": "/work/in", "url": str(site / "source")}],
        )
        assert report.reason is None, report
        assert (site / "source").read_text() == "before"

    def test_directories_and_wildcards(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("mkdir -p r/deep r/none; echo 1 > r/one; echo 2 > r/deep/two; ln -s one r/link", workdir="/work"),
            driven.executor("echo a > a.txt; echo b > b.txt; echo c > .h.txt", workdir="/work"),
            outputs=[
                {"path": "/work/r", "url": f"{site}/r", "type": "DIRECTORY"},
                {"path": "/work/r", "url": f"{site}/as-file"},
                {"path": "/work/*.txt", "path_prefix": "/work", "url": f"{site}/star"},
                {"path": "/work/[a]?txt", "url": f"{site}/class/"},
                {"path": "/work/**/two", "path_prefix": "/work", "url": f"{site}/deep"},
                {"path": "/work/*.none", "path_prefix": "/work", "url": f"{site}/none"},
            ],
        )
        assert report.reason is None, report
        assert (site / "r" / "deep" / "two").read_text() == "2\n"
        assert (site / "r" / "none").is_dir()
        assert (site / "as-file" / "one").read_text() == "1\n"
        assert (site / "r" / "link").read_text() == "1\n"
        assert sorted(path.name for path in (site / "star").iterdir()) == ["a.txt", "b.txt"]
        assert [path.name for path in (site / "class").iterdir()] == ["a.txt"]
        assert (site / "deep" / "r" / "deep" / "two").read_text() == "2\n"
        assert not (site / "none").exists()
        assert any("OUTPUT_MISSING" in line and "*.none" in line for line in report.notices)
        assert {log.path for log in report.outputs} >= {"/work/r/one", "/work/r/deep/two", "/work/a.txt"}

    def test_links_out_of_the_volume_are_refused(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("ln -s /etc/passwd out; mkdir d; ln -s ../../../../etc/passwd d/p; echo ok > d/ok", workdir="/work"),
            outputs=[{"path": "/work/out", "url": f"{site}/out"}, {"path": "/work/d", "url": f"{site}/d", "type": "DIRECTORY"}],
        )
        assert (site / "d" / "ok").read_text() == "ok\n"
        assert not (site / "out").exists()
        assert not (site / "d" / "p").exists()
        assert not any("root:" in (path.read_text() if path.is_file() else "") for path in site.rglob("*"))
        assert report.executors[0].exit_code == 0

    def test_outputs_of_the_images_own_file_system(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(
            driven.executor("mkdir -p $HOME; echo own > /own.txt"),
            driven.executor("true"),
            outputs=[{"path": "/own.txt", "url": f"{site}/own.txt"}],
        )
        assert report.reason is None, report
        assert (site / "own.txt").read_text() == "own\n"

    def test_same_path_in_and_out(self, driven: Driven, site: pathlib.Path) -> None:
        (site / "script").write_text("echo from-script > made\n")
        report = driven.run(
            {"image": driven.image, "command": ["/bin/sh", "/work/script"], "workdir": "/work"},
            inputs=[{"path": "/work/script", "url": f"{site}/script"}],
            outputs=[{"path": "/work/script", "url": f"{site}/script"}, {"path": "/work/made", "url": f"{site}/made"}],
        )
        assert report.reason is None, report
        assert (site / "script").read_text() == "echo from-script > made\n"
        assert (site / "made").read_text() == "from-script\n"

    def test_volumes_tmp_and_fifos(self, driven: Driven) -> None:
        report = driven.run(
            driven.executor("echo v > /vol/v; echo t > /tmp/t; mkfifo /vol/fifo; ln /vol/v /vol/hard"),
            driven.executor("cat /vol/v /vol/hard /tmp/t; test -p /vol/fifo"),
            volumes=["/vol"],
        )
        assert report.reason is None, report
        assert report.executors[1].stdout == "v\nv\nt\n"

    def test_a_missing_input_is_named(self, driven: Driven, site: pathlib.Path) -> None:
        report = driven.run(driven.executor("true"), inputs=[{"path": "/work/a", "url": f"{site}/nowhere"}])
        assert report.reason is Reason.STAGING
        assert report.code == "INPUT_NOT_FOUND"
        assert not report.transient
        assert "/inputs/0" in report.message
        assert "nowhere" in report.message
        assert report.executors == ()

    def test_a_live_directory_is_shared_both_ways(self, driven: Driven, site: pathlib.Path) -> None:
        live = site / "live" / "store"
        live.mkdir(parents=True)
        live.chmod(0o777)
        (live / "in").write_text("in")
        report = driven.run(driven.executor("cat /jobs/in; echo out > /jobs/out"), inputs=[{"path": "/jobs", "url": f"file://{live}", "type": "DIRECTORY"}])
        assert report.reason is None, report
        assert report.executors[0].stdout == "in"
        assert (live / "out").read_text() == "out\n"

    def test_outputs_of_a_live_directory_are_taken(self, driven: Driven, site: pathlib.Path) -> None:
        live = site / "live" / "store[1]"
        live.mkdir(parents=True)
        live.chmod(0o777)
        (live / "secret").symlink_to(site / "unseen")
        (site / "unseen").write_text("of this machine, not of the task")
        report = driven.run(
            driven.executor("echo a > /jobs/a.txt; echo b > /jobs/b.txt; ln -s /etc/hostname /jobs/c.txt"),
            inputs=[{"path": "/jobs", "url": f"file://{quote(str(live))}", "type": "DIRECTORY"}],
            outputs=[
                {"path": "/jobs/a.txt", "url": f"file://{site}/a"},
                {"path": "/jobs/*.txt", "path_prefix": "/jobs", "url": f"file://{site}/all"},
                {"path": "/jobs/secret", "url": f"file://{site}/stolen"},
            ],
        )
        assert report.reason is None, report
        assert (site / "a").read_text() == "a\n"
        assert [(output.path, output.size_bytes) for output in report.outputs] == [("/jobs/a.txt", "2"), ("/jobs/a.txt", "2"), ("/jobs/b.txt", "2")]
        assert (site / "all" / "b.txt").read_text() == "b\n"
        assert not (site / "stolen").exists()
        assert not (site / "all" / "c.txt").exists()
        assert any(line.startswith("OUTPUT_MISSING: /outputs/2") for line in report.notices), "links mean what they mean in the task"

    def test_a_live_directory_cannot_lead_elsewhere(self, driven: Driven, site: pathlib.Path) -> None:
        (site / "live").mkdir()
        (site / "live" / "link").symlink_to("/etc")
        report = driven.run(driven.executor("ls /jobs"), inputs=[{"path": "/jobs", "url": f"file://{site}/live/link", "type": "DIRECTORY"}])
        assert report.code == "INPUT_DENIED"
        assert report.executors == ()

    def test_what_an_owner_is_granted_holds_where_files_are_moved(self, driven: Driven, site: pathlib.Path) -> None:
        """Two links of its own lead to another owner's: what shows only there is refused there."""
        for name in ("o", "other"):
            (site / name).mkdir()
            (site / name).chmod(0o777)
            (site / name / "in").write_text(name)
        (site / "o" / "link").symlink_to("../other")
        driven.policy = msgspec.structs.replace(driven.policy, grants=(Grant(owners=("*",), write=(f"{site}/{{owner}}",)),))

        def put(*places: str) -> list[dict[str, str]]:
            return [{"path": f"/work/{number}", "url": f"file://{site}/{place}"} for number, place in enumerate(places)]

        handles = [
            driven.start(
                driven.executor("cat /work/in > /work/0; echo evil > /work/1"),
                inputs=[{"path": "/work/in", "url": f"{site}/o/in"}],
                outputs=put("o/out", "o/link/out"),
            ),
            driven.start(driven.executor("true"), inputs=[{"path": "/work/in", "url": f"{site}/o/link/in"}]),
        ]
        moved, refused = (driven.end(handle) for handle in handles)
        driven.backend.release(handles)
        assert (moved.reason, moved.code) == (Reason.STAGING, "OUTPUT_DENIED")
        assert (site / "o/out").read_text() == "o"
        assert [path.name for path in (site / "other").iterdir()] == ["in"]
        assert (refused.reason, refused.code) == (Reason.STAGING, "INPUT_DENIED")

    # -- handles ----------------------------------------------------------------------------------------------------

    def test_submit_is_idempotent_by_name(self, driven: Driven, site: pathlib.Path) -> None:
        script = driven.executor("echo ran >> /live/ran")
        (site / "live").mkdir()
        (site / "live").chmod(0o777)
        fields: dict[str, Any] = {"inputs": [{"path": "/live", "url": f"file://{site}/live", "type": "DIRECTORY"}], "task_id": new_id(utc())}
        handle = driven.start(script, **fields)
        assert driven.start(script, **fields) == handle
        driven.end(handle)
        assert driven.start(script, **fields) == handle
        driven.end(handle)
        assert (site / "live" / "ran").read_text() == "ran\n"
        assert driven.backend.find([handle.name, "nobody-1"]) == {handle.name: handle}
        assert handle in list(driven.backend.survey())

    def test_handles_tell_from_where_they_are_reached(self, driven: Driven) -> None:
        """Of what is at another place nothing is concluded, and nothing is done to it."""
        backend = driven.backend
        handle = driven.start(driven.executor("sleep 1000"))
        assert handle.place == backend.place
        driven.until(handle, lambda seen: seen.phase is Phase.RUNNING)
        old = msgspec.structs.replace(handle, place="")
        assert backend.observe([old])[old].phase is Phase.RUNNING, "stored before there were places"
        if backend.place:
            far = msgspec.structs.replace(handle, place="elsewhere/0123456789abcdef")
            gone = msgspec.structs.replace(far, name="nobody-1")
            assert all(seen.phase is Phase.UNKNOWN for seen in backend.observe([far, gone]).values())
            assert backend.tail([far]) == {}
            backend.cancel([far])
            backend.release([far])
        assert backend.observe([handle])[handle].phase is Phase.RUNNING
        backend.cancel([handle])
        assert driven.reason(handle) is Reason.CANCELED

    def test_unknown_handles_are_gone(self, driven: Driven) -> None:
        handle = Handle(driven.backend.name, "nobody-1", place=driven.backend.place)
        assert driven.backend.observe([handle])[handle].phase is Phase.GONE
        driven.backend.cancel([handle])
        driven.backend.release([handle])

    def test_many_at_once(self, driven: Driven) -> None:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            handles = list(pool.map(lambda number: driven.start(driven.executor(f"echo {number}")), range(12)))
        reports = [driven.end(handle) for handle in handles]
        assert [report.executors[0].stdout for report in reports] == [f"{number}\n" for number in range(12)]
        assert len({run.task_of(handle.name) for handle in handles}) == 12


@contextlib.contextmanager
def _served(directory: pathlib.Path, address: str) -> Iterator[str]:
    """The directory over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=os.fspath(directory), **kwargs)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((address, 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
