"""A node of a batch service without the service: runners as processes of this machine, their plans in a spool that is a directory."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tes_server.filer import spool_place
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Attempt, Spool
from tes_server.model import views
from tes_server.model.run import Report
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.paths import Sites
from tes_server.plan.policy import Capabilities, Policy
from tes_server.plan.steps import Findings, Gate, Plan
from tes_server.runner import node, node_engine
from tes_server.runner.docker import DockerEngine
from tes_server.runner.node import NodeSite
from tests.guards import LOOPBACK

PATIENCE = 120.0
"""Seconds for what takes a few on an idle machine: others may keep this one busy."""

RUN = "TEST_RUN"
IMAGE = "tes-test/busybox"


def until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


class Runner:
    """One process of `node_main`."""

    def __init__(self, process: subprocess.Popen[bytes], log: pathlib.Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def code(self) -> int:
        return self.process.wait(PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


class Node:
    """One node. `task`: the id of its one task."""

    def __init__(self, home: pathlib.Path, task: str, **site: Any) -> None:
        self.home = home
        self.task = task
        self.files = home / "site"
        self.work = home / "work"
        self.files.mkdir()
        self.site = NodeSite(
            **{
                "spool": f"file://{home}/spool",
                "spool_stores": (),
                "run": (RUN,),
                "access": Access(roots=(str(self.files),), guard=LOOPBACK, tries=2, first_delay=0.01, longest_delay=0.1),
                "work": str(self.work),
                "grace": 2.0,
                **site,
            }
        )
        self.runners: list[Runner] = []
        self.engine: DockerEngine = node_engine.connect(self.site.work)

    @property
    def spool(self) -> Spool:
        return spool_place.opened(self.site.spool, msgspec.structs.replace(self.site.access, stores=self.site.spool_stores))

    def attempt(self, number: int = 1) -> Attempt:
        return Attempt(self.task, number)

    def plan(
        self,
        *executors: dict[str, Any],
        number: int = 1,
        secrets: tuple[str, ...] = (),
        findings: Findings | None = None,
        gate: Gate | None = None,
        **fields: Any,
    ) -> Plan:
        """In the spool, as a backend puts it there."""
        capable = Capabilities(secrets=secrets, scan_secrets=tuple(self.site.scan_secrets), engine_socket=True)
        task = views.with_types(msgspec.convert({"executors": [{"image": IMAGE, **given} for given in executors], **fields}, Task))
        policy = Policy(sites=Sites(roots=(str(self.files),), guard=LOOPBACK), default_ram_gb=0.1)
        plan = compiler.compile_task(task, self.task, number, "o", policy, capable, findings=findings, gate=gate).plan
        self.spool.put_plan(self.attempt(number), plan)
        return plan

    def start(self, run: str = "run-1", number: int = 1, module: str = "node_main", more: Mapping[str, str] | None = None) -> Runner:
        log = self.home / f"log-{len(self.runners)}"
        given = {
            "PATH": os.environ["PATH"],
            node.SITE: node.encode(self.site),
            node.ATTEMPT: f"{self.task}/{number}",
            RUN: run,
            **(more or {}),
        }
        arguments = [self.site.work] if module == "node_reaper" else []
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-m", f"tes_server.runner.{module}", *arguments], env=given, stderr=out, stdout=out)
        self.runners.append(Runner(process, log))
        return self.runners[-1]

    def run(self, run: str = "run-1", number: int = 1, more: Mapping[str, str] | None = None) -> Report:
        """A runner to its end; the report that it left."""
        runner = self.start(run, number, more=more)
        code = runner.code()
        assert code == node.DONE, runner.log
        report = self.spool.report(self.attempt(number))
        assert report is not None
        return report

    def leftovers(self) -> list[str]:
        """What there is of any attempt on the node."""
        return [*self.engine.survey(), *(str(path) for path in self.work.glob("attempts/*")), *(str(path) for path in self.work.glob("locks/*"))]

    def clear(self) -> None:
        for runner in self.runners:
            if runner.process.poll() is None:
                runner.kill()
        for cell in self.engine.survey():
            self.engine.discard(cell)
        self.engine.wipe(self.home)
        self.engine.close()


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", script], **fields}
