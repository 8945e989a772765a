"""The container agents of the hosts: each job's attempt from STARTING to its end, and the ways in which it is stopped."""

from __future__ import annotations

from typing import Protocol

import docker.errors

from tests.emulators.aws_batch import containers, jobs
from tests.emulators.aws_batch.account import Account
from tests.emulators.aws_batch.hosts import Host
from tests.emulators.aws_batch.jobs import Job
from tests.emulators.containers import KILLED, Containers, attempt_directory
from tests.emulators.threads import Threads

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
NEVER_STARTED = "Task failed to start"


class Roles(Protocol):
    """How a job's container comes to the credentials of its role."""

    def variables(self, role: str) -> dict[str, str]:
        """What tells the container."""

    def files(self) -> dict[str, str]:
        """Files that it needs for it: on the host -> in the container."""


class Agents:
    """One thread a job that is STARTING or RUNNING. `slow`: seconds before a container that is to be stopped gets TERM."""

    def __init__(self, account: Account, containers: Containers, roles: Roles) -> None:
        self._account = account
        self._containers = containers
        self._roles = roles
        self.threads = Threads()
        self.slow = 0.0
        account.stop = self._stop

    def start(self, job: Job, host: Host, gpus: list[str]) -> None:
        """Run it; the caller holds the account's lock."""
        self.threads.spawn(lambda: self._run(job, host, gpus))

    def close(self) -> None:
        """All hosts are lost. The account's scheduler must have been closed before."""
        self.threads.end()
        with self._account.lock:
            hosts = list(self._account.fleet.hosts.values())
        for host in hosts:
            self.destroy(host)
            host.noticed.set()
        self.threads.join()
        self._containers.remove_all()

    # -- a job ---------------------------------------------------------------------------------------------------------

    def _run(self, job: Job, host: Host, gpus: list[str]) -> None:
        name = container_name(job)
        reason, code, words = NEVER_STARTED, None, ""
        try:
            step = "CannotPullContainerError"
            self._containers.prepare(job.container["image"])
            step = "CannotCreateContainerError"
            self._containers.create(name, containers.config(job, self._environment(job, gpus), self._roles.files()))
            step = "CannotStartContainerError"
            if not self._given_up(job, host):
                self._containers.start(name)
                step = "CannotInspectContainerError"
                with self._account.lock:
                    self._account.run(job)
                if host.lost.is_set():
                    self._containers.kill(name)
                elif job.stopping:  # the first attempt to stop it came before it had started
                    self._stop(job)
                code, reason = self._containers.wait(name), jobs.EXITED
                if code == KILLED and not self._given_up(job, host) and self._containers.killed_for_memory(name):
                    words = OUT_OF_MEMORY
        except docker.errors.APIError as error:
            words = f"{step}: Error response from daemon: {error.explanation or error}"[:255]
        self._finish(job, host, name, reason, code, words)

    def _finish(self, job: Job, host: Host, name: str, reason: str, code: int | None, words: str) -> None:
        log = self._containers.log(name)
        self._containers.remove(name)
        gone = host.leaving.is_set()
        if host.lost.is_set():
            self._clear(job)
        if gone:
            host.noticed.wait()
            reason, code, words = f"Host EC2 (instance {host.id}) terminated.", None, ""
        with self._account.lock:
            if stream := job.now.get("logStreamName"):
                self._account.logs[stream] = log
            self._account.end(job, reason if gone else job.stopping or reason, code, words, failed=code is None or bool(job.stopping))

    def _given_up(self, job: Job, host: Host) -> bool:
        return bool(job.stopping) or host.lost.is_set()

    def _environment(self, job: Job, gpus: list[str]) -> dict[str, str]:
        task = job.now["taskArn"].rpartition("/")[2]
        found = {
            "AWS_BATCH_JOB_ID": job.id,
            "AWS_BATCH_JQ_NAME": job.queue,
            "AWS_BATCH_CE_NAME": job.host.environment,
            "AWS_BATCH_JOB_ATTEMPT": str(job.attempt),
            "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
            "ECS_CONTAINER_METADATA_URI_V4": f"http://169.254.170.2/v4/{task}",
            **({"NVIDIA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
        }
        role = job.container.get("jobRoleArn")
        return found | (self._roles.variables(role) if role else {})

    # -- ends ------------------------------------------------------------------------------------------------------------

    def _stop(self, job: Job) -> None:
        name = container_name(job)

        def stop() -> None:
            self.threads.pause(self.slow)
            self._containers.stop(name, self._account.world.stop)

        self.threads.spawn(stop)

    def kill(self, job: Job) -> None:
        """KILL the job's own container, and nothing else."""
        self._containers.kill(container_name(job))

    def drain(self, host: Host) -> None:
        """TERM to the containers of its jobs, as when a host is shut down."""
        host.leaving.set()
        for job in self._on(host):
            self._containers.kill(container_name(job), "TERM")

    def destroy(self, host: Host) -> None:
        """Nothing on it runs any more, and its disk is gone."""
        with self._account.lock:
            host.draining = True
        host.leaving.set()
        host.lost.set()
        for job in self._on(host):
            self._containers.kill(container_name(job))
            self._clear(job)

    def _clear(self, job: Job) -> None:
        """Everything that a job has left on its host, as if that host were gone."""
        directory = attempt_directory(containers.environment(job))
        if directory is not None:
            self._containers.clear(directory)

    def _on(self, host: Host) -> list[Job]:
        with self._account.lock:
            return [self._account.jobs[job] for job in host.runs]


def container_name(job: Job) -> str:
    """As the container agent of ECS names them."""
    return f"ecs-{job.definition['jobDefinitionName'][:60]}-{job.definition['revision']}-default-{job.id}-{job.attempt}"
