"""The containers of a pod without a pod: the rendered arguments of each executor, run side by side as processes, their mounts as plain paths."""

from __future__ import annotations

import concurrent.futures
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tes_server.backends.kubernetes import render
from tes_server.backends.kubernetes.site import Site
from tes_server.filer import spool_place
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Attempt
from tes_server.model import views
from tes_server.model.run import Reason, Report, Tails
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.guard import Guard
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Capabilities, Policy
from tes_server.plan.steps import Plan
from tes_server.runner import pod, pod_gate, pod_report, pod_stage, records
from tes_server.runner.pod import Order, PodSite
from tes_server.runner.pod_stage import Places
from tes_server.scan.gate import OnError
from tests import gates
from tests.clock import utc

TASK = "0123456789abcdefghjkmnpqrs"


class Pod:
    """Two volumes, and whatever containers a test starts on them."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.places = Places(directory / "control", directory / "volume", directory / "message", directory / "parts")
        for path in (self.places.control, self.places.volume, directory / "site"):
            path.mkdir()
        self.stop = threading.Event()
        self.told: list[bytes] = []
        self.site = PodSite(access=Access(roots=(str(directory / "site"),)), tail_bytes=1000)
        self.processes: list[subprocess.Popen[bytes]] = []

    def plan(self, *executors: dict[str, Any], **fields: Any) -> Plan:
        task = views.with_types(msgspec.convert({"executors": [{"image": "i", "workdir": "/work", **given} for given in executors], **fields}, Task))
        return compiler.compile_task(task, TASK, 1, "o", Policy(sites=Sites(roots=(str(self.directory / "site"),))), Capabilities()).plan

    def stage_in(self, plan: Plan) -> Report | None:
        return pod_stage.stage_in(Order(plan, self.site), self.places, self.stop.is_set, utc)

    def start(self, plan: Plan, index: int) -> subprocess.Popen[bytes]:
        """An executor, as its container is rendered."""
        body = msgspec.json.decode(render.render(plan, Site(namespace="n", server="s", image="i", shared=self.site, grace=0.5)).body)
        container = body["job"]["spec"]["template"]["spec"]["containers"][index]
        argv = [word.replace("$$", "$") for word in (*container["command"], *container["args"])]
        for shown, path in {
            pod.BIN_MOUNT: self.places.control / pod.BIN,
            pod.STEP_MOUNT: self.places.step(index),
            pod.BEFORE_MOUNT: self.places.step(index - 1),
            pod.VOLUME_MOUNT: self.places.volume,
            "/work": self.places.volume / "work",
        }.items():
            argv = [str(path) + word.removeprefix(shown) if word == shown or word.startswith(f"{shown}/") else word for word in argv]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def run(self, plan: Plan) -> Report:
        """All of it, the last container first."""
        assert self.stage_in(plan) is None
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            out = pool.submit(self.stage_out)
            for index in reversed(range(len(plan.executors))):
                self.start(plan, index)
            return out.result(60)

    def stage_out(self) -> Report:
        return pod_stage.stage_out(self.places, self.stop.is_set, utc, self.told.append)[1]


@pytest.fixture
def made(tmp_path: pathlib.Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", script], **fields}


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestGate:
    """Scanners as their containers are rendered, one after the other; then stage-in, which judges."""

    def run(self, made: Pod, *scripts: str, on_error: OnError = OnError.BLOCK) -> tuple[list[int], Report | None]:
        gate = gates.gate("scanner", *scripts, on_error=on_error, timeout=5.0)
        plan = msgspec.structs.replace(made.plan(shell("true")), gate=gate)
        volume = made.directory / "scan"
        volume.mkdir()
        assert pod_gate.prepare(volume, len(scripts)) == 0
        body = msgspec.json.decode(render.render(plan, Site(namespace="n", server="s", image="i", shared=made.site, grace=0.5)).body)
        (made.directory / "last-words").touch()
        codes = []
        for number, container in enumerate(body["job"]["spec"]["template"]["spec"]["initContainers"][1:-1]):
            report = volume / pod.scan_files(number) / "scan/report.json"
            argv = [word.replace("$$", "$").replace("/scan/report.json", str(report)) for word in (*container["command"], *container["args"])]
            for inside, path in {
                pod.BIN_MOUNT: volume / pod.BIN,
                pod.STEP_MOUNT: volume / pod.scan_record(number),
                pod.MESSAGE: made.directory / "last-words",
            }.items():
                argv = [str(path) + word.removeprefix(inside) if word.startswith(inside) else word for word in argv]
            codes.append(subprocess.run(argv, check=False, stdout=subprocess.DEVNULL).returncode)
        made.places = made.places._replace(scan=volume)
        return codes, made.stage_in(plan)

    def test_what_passes_begins(self, made: Pod) -> None:
        codes, told = self.run(made, gates.leaves(gates.report("LOW")), gates.leaves(gates.report()))
        assert (codes, told) == ([0, 0], None)
        lines = msgspec.json.decode((made.places.control / pod.STAGED).read_bytes(), type=pod_stage.Staged).notices
        assert [line.partition(" is ")[0] for line in lines] == ["SCANNED: image-0", "SCANNED: image-1"]

    def test_what_is_refused_is_told_with_the_findings(self, made: Pod) -> None:
        codes, told = self.run(made, gates.leaves(gates.report()), gates.leaves(gates.report("CRITICAL", "HIGH")))
        assert codes == [0, 0]
        assert told is not None
        assert (told.reason, told.code, told.transient) == (Reason.REJECTED, "SCAN_REFUSED", False)
        assert told.message.startswith("image image-1: ")
        assert any("CVE-0" in line for line in told.notices)
        assert not list(made.places.volume.iterdir()), "nothing was staged"

    def test_a_scanner_that_fails_ends_its_pod_by_itself(self, made: Pod) -> None:
        codes, told = self.run(made, "echo no database >&2; exit 1")
        assert codes == [1]
        assert "no database" in (made.directory / "last-words").read_text()
        assert told is not None, "stage-in would not even be started"
        assert (told.reason, told.code, told.transient) == (Reason.BACKEND, "SCAN_FAILED", True)

    @pytest.mark.parametrize("script", ["echo no database >&2; exit 1", "true", "kill -9 0", "echo garbage > /scan/report.json"])
    def test_failures_are_lines_where_the_site_says_so(self, made: Pod, script: str) -> None:
        codes, told = self.run(made, script, on_error=OnError.ALLOW)
        assert (codes, told) == ([0], None)
        [line] = msgspec.json.decode((made.places.control / pod.STAGED).read_bytes(), type=pod_stage.Staged).notices
        assert line.startswith("SCAN_WARNING: image image-0 could not be scanned: ")

    def test_nothing_at_all_is_no_pass(self, made: Pod) -> None:
        """As if the scanners' containers had never been there."""
        gate = gates.gate("scanner", "true")
        (made.directory / "scan").mkdir()
        made.places = made.places._replace(scan=made.directory / "scan")
        told = made.stage_in(msgspec.structs.replace(made.plan(shell("true")), gate=gate))
        assert told is not None
        assert told.code == "SCAN_FAILED"


class TestWhole:
    def test_executors_in_order_inputs_and_outputs(self, made: Pod) -> None:
        plan = made.plan(
            shell("cat in; echo one >> log; echo err >&2", env={"A": "$(B) $$"}),
            shell('echo "$A" >> log; cat > copy', stdin="/work/in", env={"A": "$(B) $$"}, stdout="/work/out"),
            inputs=[{"path": "/work/in", "content": "given\n"}],
            outputs=[{"path": "/work/log", "url": f"{made.directory}/site/log"}, {"path": "/work/none", "url": f"{made.directory}/site/none"}],
        )
        report = made.run(plan)
        assert report.reason is None, report
        assert [log.exit_code for log in report.executors] == [0, 0]
        assert (report.executors[0].stdout, report.executors[0].stderr) == ("given\n", "err\n")
        assert (made.directory / "site" / "log").read_text() == "one\n$(B) $$\n"
        assert [(log.path, log.size_bytes) for log in report.outputs] == [("/work/log", "12")]
        assert any(line.startswith("OUTPUT_MISSING") for line in report.notices)
        assert report.start_time is not None
        assert report.end_time is not None
        assert report.start_time <= report.end_time
        assert all(process.wait() == 0 for process in made.processes)

    def test_argv_as_it_is(self, made: Pod) -> None:
        words = ["", "a b", "$HOME", "$(HOME)", "$$", "*", "\n", "ü", "x" * 100_000]
        report = made.run(made.plan({"command": ["/usr/bin/printf", "%s|", *words], "stdout": "/work/o"}))
        assert report.reason is None
        assert (made.places.volume / "work" / "o").read_text() == "".join(f"{word}|" for word in words)

    def test_a_failure_skips_the_rest_and_keeps_the_outputs(self, made: Pod) -> None:
        plan = made.plan(
            shell("echo kept > out; exit 3"), shell("touch ran"), shell("touch ran"), outputs=[{"path": "/work/out", "url": f"{made.directory}/site/out"}]
        )
        report = made.run(plan)
        assert (report.reason, report.code) == (Reason.EXIT, "EXECUTOR_FAILED")
        assert [log.exit_code for log in report.executors] == [3]
        assert (made.directory / "site" / "out").read_text() == "kept\n"
        assert not (made.places.volume / "work" / "ran").exists()

    def test_ignore_error(self, made: Pod) -> None:
        report = made.run(made.plan(shell("exit 4", ignore_error=True), shell("exit 0")))
        assert report.reason is None
        assert [log.exit_code for log in report.executors] == [4, 0]

    def test_a_program_that_is_not_there(self, made: Pod) -> None:
        report = made.run(made.plan({"command": ["/no/such"]}))
        assert (report.code, report.executors[0].exit_code) == ("COMMAND_NOT_FOUND", 127)

    def test_max_runtime_takes_the_outputs(self, made: Pod) -> None:
        plan = made.plan(
            shell("echo part > out; exec sleep 1000"),
            shell("touch ran"),
            outputs=[{"path": "/work/out", "url": f"{made.directory}/site/out"}],
            resources={"backend_parameters": {"max_runtime": "1s"}},
        )
        report = made.run(plan)
        assert (report.reason, report.executors[0].exit_code) == (Reason.TIMEOUT, 143)
        assert len(report.executors) == 1
        assert (made.directory / "site" / "out").read_text() == "part\n"

    def test_results_in_the_images_own_files(self, made: Pod) -> None:
        own = made.directory / "own.txt"
        plan = made.plan(shell(f"echo own > {own}"))
        [executor] = plan.executors
        plan = msgspec.structs.replace(plan, executors=(msgspec.structs.replace(executor, copies=(str(own),)),))
        assert made.run(plan).reason is None
        assert (made.places.volume / str(own).lstrip("/")).read_text() == "own\n"

    def test_a_command_that_removes_its_lock_holds_nobody_up(self, made: Pod) -> None:
        """Stage-out and the next executor may come to look only after it has ended."""
        plan = made.plan(shell(f"rm {made.places.step(0)}/lock"), shell("echo next"))
        assert made.stage_in(plan) is None
        assert made.start(plan, 0).wait(30) == 0
        assert made.start(plan, 1).wait(30) == 0
        report = made.stage_out()
        assert report.reason is None, report
        assert [log.stdout for log in report.executors] == ["", "next\n"]


class TestStageIn:
    def test_what_executors_find(self, made: Pod) -> None:
        plan = made.plan(shell("true"), resources={"backend_parameters": {"max_runtime": "1h"}})
        assert made.stage_in(plan) is None
        control = made.places.control
        assert (control / "steps" / "0").stat().st_mode & 0o7777 == 0o777
        assert (control / "bin" / "tes-step").stat().st_mode & 0o7777 == 0o755
        assert (control / pod.KEPT_ORDER).stat().st_mode & 0o7777 == 0o600
        left = int((control / "bin" / "until").read_text()) - time.monotonic_ns()
        assert 3500e9 < left <= 3600e9

    def test_a_missing_input_is_the_end(self, made: Pod) -> None:
        plan = made.plan(shell("true"), inputs=[{"path": "/work/in", "url": f"{made.directory}/site/none"}])
        report = made.stage_in(plan)
        assert report is not None
        assert (report.reason, report.code) == (Reason.STAGING, "INPUT_NOT_FOUND")
        assert "/inputs/0" in report.message

    def test_term_is_the_end(self, made: Pod) -> None:
        made.stop.set()
        report = made.stage_in(made.plan(shell("true")))
        assert report is not None
        assert report.reason is Reason.LOST

    def test_max_runtime_counts_the_inputs(self, made: Pod) -> None:
        plan = made.plan(shell("true"))
        plan = msgspec.structs.replace(plan, limits=msgspec.structs.replace(plan.limits, max_runtime=1e-9))
        report = made.stage_in(plan)
        assert report is not None
        assert report.reason is Reason.TIMEOUT

    def test_a_live_directory_must_be_allowed(self, made: Pod) -> None:
        (made.directory / "site" / "link").symlink_to("/etc")
        made.site = msgspec.structs.replace(made.site, live_roots=(str(made.directory / "site"),))
        policy = Policy(sites=Sites(roots=(str(made.directory / "site"),)), live_mounts=(str(made.directory / "site"),))
        task = msgspec.convert(
            {"executors": [{"image": "i", "command": ["x"]}], "inputs": [{"path": "/jobs", "url": f"{made.directory}/site/link", "type": "DIRECTORY"}]}, Task
        )
        report = made.stage_in(compiler.compile_task(views.with_types(task), TASK, 1, "o", policy, Capabilities()).plan)
        assert report is not None
        assert report.code == "INPUT_DENIED"


class TestEndedFromOutside:
    def test_a_step_that_was_killed(self, made: Pod) -> None:
        plan = made.plan(shell("echo words; exec sleep 1000"), shell("touch ran"), outputs=[{"path": "/work/o", "url": f"{made.directory}/site/o"}])
        assert made.stage_in(plan) is None
        first = made.start(plan, 0)
        made.start(plan, 1)
        until(lambda: records.streams(made.places.step(0), 1000)[0])
        first.kill()
        report = made.stage_out()
        assert (report.reason, report.executors[0].exit_code, report.executors[0].stdout) == (Reason.LOST, None, "words\n")
        assert not any("OUTPUT" in line for line in report.notices), "nothing is taken of an attempt that is made again"

    def test_a_killed_step_whose_errors_are_ignored(self, made: Pod) -> None:
        plan = made.plan(shell("exec sleep 1000", ignore_error=True), shell("echo 2"))
        assert made.stage_in(plan) is None
        first = made.start(plan, 0)
        made.start(plan, 1)
        until((made.places.step(0) / "start").exists)
        first.kill()
        report = made.stage_out()
        assert report.reason is None
        assert [log.exit_code for log in report.executors] == [None, 0]

    def test_term_before_the_executor_is_there(self, made: Pod) -> None:
        """Its image cannot be pulled, and the server ends the Job."""
        assert made.stage_in(made.plan(shell("true"))) is None
        made.stop.set()
        report = made.stage_out()
        assert (report.reason, report.executors) == (Reason.LOST, ())

    def test_term_while_executors_run(self, made: Pod) -> None:
        plan = made.plan(shell("exec sleep 1000"), shell("touch ran"))
        assert made.stage_in(plan) is None
        processes = [made.start(plan, index) for index in (0, 1)]
        until((made.places.step(0) / "start").exists)
        until((made.places.step(1) / "lock").exists)
        made.stop.set()
        for process in processes:
            process.terminate()
        report = made.stage_out()
        assert report.reason is Reason.LOST
        assert [log.exit_code for log in report.executors] == [143]

    def test_a_spoiled_record_is_no_crash(self, made: Pod) -> None:
        plan = made.plan(shell("true"))
        assert made.stage_in(plan) is None
        made.start(plan, 0).wait()
        (made.places.step(0) / "exit").write_text("lies\n")
        assert made.stage_out().reason is Reason.BACKEND


class TestLiveOutput:
    def test_is_told_while_executors_run(self, made: Pod) -> None:
        plan = made.plan(shell("echo first"), shell("echo second; echo why >&2; until test -e go; do sleep 0.05; done"))
        assert made.stage_in(plan) is None
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            out = pool.submit(made.stage_out)
            made.start(plan, 1)
            made.start(plan, 0)
            until(lambda: made.told and b"second" in made.told[-1])
            tails = msgspec.json.decode(made.told[-1], type=Tails)
            assert tails.attempt == 1
            assert [(log.stdout, log.stderr) for log in tails.executors] == [("first\n", ""), ("second\n", "why\n")]
            count = len(made.told)
            (made.places.volume / "work" / "go").touch()
            assert out.result(60).reason is None
        assert len(made.told) <= count + 1, "only what is new is told"


class TestContainer:
    """The program itself; its paths are those of a pod, so it is told others."""

    def main(self, made: Pod, direction: str, environment: str | None) -> subprocess.CompletedProcess[bytes]:
        script = (
            "import json, pathlib, sys; from tes_server.runner import pod_main, pod_stage; direction, places = json.loads(sys.argv[1]);"
            "pod_stage.places = lambda: pod_stage.Places(*map(pathlib.Path, places[:4]), places[4]); sys.exit(pod_main.main([direction]))"
        )
        argument = json.dumps([direction, [*map(str, made.places[:4]), made.places.shared]])
        variables = os.environ if environment is None else {**os.environ, pod.ORDER: environment}
        return subprocess.run([sys.executable, "-c", script, argument], capture_output=True, check=False, timeout=60, env=variables)

    def test_in_and_out(self, made: Pod) -> None:
        plan = made.plan(shell("echo hi"))
        assert self.main(made, "in", pod.encode(Order(plan, made.site)).decode()).returncode == 0
        made.start(plan, 0)
        done = self.main(made, "out", None)
        assert done.returncode == 0, done
        report = pod_report.read(made.places.message.read_text())
        assert isinstance(report, Report)
        assert report.executors[0].stdout == "hi\n"
        assert msgspec.json.decode(done.stdout.splitlines()[-1], type=Report) == report

    def test_term_is_heard_before_anything_is_loaded(self) -> None:
        """As the first process of a container it would be lost: there the default is to pass it over."""
        script = (
            "import os, signal, sys; from tes_server.runner import pod_main; before = set(sys.modules)\n"
            "class Told:\n"
            "    def find_spec(self, name, *_):\n"
            "        if name == 'tes_server.runner.pod_stage':\n"
            "            os.kill(os.getpid(), signal.SIGTERM); print(sorted(m for m in set(sys.modules) - before), flush=True)\n"
            "sys.meta_path.insert(0, Told()); pod_main.main(['in'])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60, text=True)
        assert done.stdout == "[]\n", done
        assert "Traceback" in done.stderr, "it went on, and found no order"

    def test_a_failed_stage_in_has_last_words(self, made: Pod) -> None:
        plan = made.plan(shell("true"), inputs=[{"path": "/work/in", "url": f"{made.directory}/site/none"}])
        made.places.parts.mkdir()
        whole = pod.encode(Order(plan, made.site))
        for number in range(12):
            (made.places.parts / str(number)).write_bytes(whole[number * 100 : (number + 1) * 100] if number < 11 else whole[1100:])
        (made.places.parts / "..data").mkdir()  # as Kubernetes keeps it
        done = self.main(made, "in", None)
        assert done.returncode == 1
        report = pod_report.read(made.places.message.read_text())
        assert isinstance(report, Report)
        assert report.code == "INPUT_NOT_FOUND"

    def test_a_directory_of_a_shared_volume_is_made_and_removed(self, made: Pod) -> None:
        shared = made.directory / "shared"
        made.places = made.places._replace(volume=shared / pod.shared_directory(TASK, 2), shared=True)
        left, theirs = (shared / pod.shared_directory(task, 1) for task in (TASK, "z" * 26))
        for path in (left, theirs):
            path.mkdir(parents=True)
        plan = made.plan(shell("touch /work/made; echo /work/*"), inputs=[{"path": "/work/in", "content": "x"}])
        assert self.main(made, "in", pod.encode(Order(plan, made.site)).decode()).returncode == 0
        assert (made.places.volume / "work" / "in").read_text() == "x"
        assert made.places.volume.stat().st_mode & 0o777 == 0o777
        assert not left.exists()
        made.start(plan, 0)
        assert self.main(made, "out", None).returncode == 0
        assert [path.name for path in (shared / "tes-tasks").iterdir()] == [theirs.parent.name]
        failing = made.plan(shell("true"), inputs=[{"path": "/work/in", "url": f"{made.directory}/site/none"}])
        assert self.main(made, "in", pod.encode(Order(failing, made.site)).decode()).returncode == 1
        assert [path.name for path in (shared / "tes-tasks").iterdir()] == [theirs.parent.name]

    def test_a_long_report_goes_to_the_spool(self, made: Pod) -> None:
        place = f"file://{made.directory}/spool"
        made.site = msgspec.structs.replace(made.site, spool=place, tail_bytes=20_000)
        plan = made.plan({"command": ["/usr/bin/head", "-c", "30000", "/dev/urandom"]})
        report = made.run(plan)
        pod_stage.publish(Order(plan, made.site), report, made.places)
        told = pod_report.read(made.places.message.read_text())
        assert isinstance(told, pod_report.Elsewhere)
        assert told.place == "spool"
        assert spool_place.opened(place, made.site.access).report(Attempt(TASK, 1)) == report

    def test_a_spool_that_is_away_leaves_it_to_the_log(self, made: Pod, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        (made.directory / "spool").write_text("not a directory")
        made.site = msgspec.structs.replace(made.site, spool=f"file://{made.directory}/spool")
        report = Report(notices=(random.Random(1).randbytes(8000).hex(),), end_time=datetime.datetime.now(datetime.UTC))
        pod_stage.publish(Order(made.plan(shell("true")), made.site), report, made.places)
        told = pod_report.read(made.places.message.read_text())
        assert isinstance(told, pod_report.Elsewhere)
        assert told.place == "log"
        assert pod_report.read_body(capfdbinary.readouterr().out, told) == report


def test_the_guard_and_the_bounds_of_the_site_hold_in_a_pod(made: Pod) -> None:
    """They come with the order, as JSON."""
    site = msgspec.structs.replace(made.site.access, most_files=1, guard=Guard(private=False))
    made.site = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(made.site, access=site)), type=PodSite)
    for url, code in (("http://0x7f.1:9/x", "INPUT_DENIED"), ("http://0x0a.1:9/x", "INPUT_DENIED"), ("ftp://2852039166/x", "INPUT_DENIED")):
        report = made.stage_in(made.plan(shell("true"), inputs=[{"path": "/work/x", "url": url}]))
        assert report is not None
        assert (report.code, report.transient) == (code, False)
    inputs = [{"path": f"/work/{number}", "content": "x"} for number in range(2)]
    report = made.stage_in(made.plan(shell("true"), inputs=inputs))
    assert report is not None
    assert (report.code, report.transient) == ("INPUT_TOO_LARGE", False)
