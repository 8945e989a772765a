"""Executors as containers of a Docker daemon, or of Podman's service, which speaks the same API.

A cell is one container, made once and started once, named as the cell: Docker's own rule that names are unique is what
makes a second start adopt the first. Its end is told by tes-step's record (runner.records), which outlives container,
daemon and server; the daemon is asked for what the record cannot know: whether it runs, and whether it was killed for
memory. This module must never parse output of a command, nor know of tasks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

import docker.errors
import msgspec

from tes_server import errors, step
from tes_server.plan.steps import MountKind
from tes_server.runner import docker_client, docker_env, docker_images, docker_products, docker_spec, records, small_tree, volume
from tes_server.runner.docker_images import Login
from tes_server.runner.docker_products import Product
from tes_server.runner.engine import Cell, CellState, Exit
from tes_server.telemetry import Code

WAIT = 600.0
"""Seconds of silence after which a wait for the end is asked anew: a daemon behind a network may vanish without a word."""

FRESH = 2.0
"""Seconds for which an image is taken to be where it was found: thousands of short tasks ask for the same one."""

MOST_IMAGES = 256
"""Images remembered so."""

STEP_FAILED = 125
"""tes-step's own failure: see its exit codes."""

KILLED = 137
"""128 + KILL, as shells and Docker count it."""


class DockerEngine:
    """`engine.Engine` over one daemon.

    `url` as in the settings ("" = where `product` usually is). `data` identifies this server's data directory among those
    that use the daemon. `open_files`: let tes-step open results for other users; by default where this process is not root
    and could not read them else. `program`: tes-step where the daemon finds it, if that is not where this process does.
    `gpus`: ids of those that executors get; () = any.
    `login`: what a registry wants that the login file of this process does not have.

    The image's USER may be anybody: the record directory is made 0777, the volume's directories are by whoever stages in.
    What keeps other users of this machine out is a directory above them.
    """

    def __init__(
        self,
        url: str,
        data: str,
        *,
        product: Product = docker_products.DOCKER,
        network: str = "bridge",
        grace: float = 10.0,
        open_files: bool | None = None,
        program: pathlib.Path | None = None,
        gpus: tuple[str, ...] = (),
        login: Login = docker_images.no_login,
    ) -> None:
        self.name = product.name
        self._daemon = docker_client.Daemon(url, product)
        self._data = data
        self._network = network
        self._grace = grace
        self._images: dict[str, tuple[str, float]] = {}
        self._open_files = os.geteuid() != 0 if open_files is None else open_files
        self._program = program
        self._gpus = gpus
        self._login = login

    def check(self) -> str:
        """Product, version and mode of the daemon that answers. EngineError ENGINE_UNAVAILABLE says how to get one."""
        self._site()
        with self._daemon.ask("its version") as client:
            version, info = client.version(), client.info()
        return f"{docker_products.title(version)}, {info['NCPU']} cores{docker_products.mode(info)}"

    def prepare(self, image: str) -> str:
        """See `docker_images.prepare`: an image that is there is not pulled again, and one that was there just now is not looked for."""
        seen = self._images.get(image)
        if seen is None or time.monotonic() - seen[1] > FRESH:
            if len(self._images) >= MOST_IMAGES:
                self._images.clear()
            self._images[image] = seen = docker_images.prepare(self._daemon, image, self._login), time.monotonic()
        return seen[0]

    def state(self, cell: Cell) -> CellState:
        """The record decides; the daemon is asked only where there is none of the end."""
        if records.ended(cell.record) is not None:
            return CellState.ENDED
        found = self._inspect(cell)
        if found is not None and found["State"]["Status"] in docker_products.RUNNING:
            return CellState.RUNNING
        # The end may have come between those two looks. A kill of tes-step for memory leaves no record, but is an end.
        if records.ended(cell.record) is not None or (found is not None and found["State"]["OOMKilled"]):
            return CellState.ENDED
        begun = records.start(cell.record) is not None
        never_started = found is None or found["State"]["Status"] in docker_products.NEVER_STARTED
        return CellState.ABSENT if never_started and not begun else CellState.LOST

    def start(self, cell: Cell) -> None:
        """Make the container and start it. Where the daemon refuses either, nothing of it is left.

        Where the daemon does not answer, the outcome is unknown and everything is left: the next call adopts it.
        """
        if records.start(cell.record) is not None:
            return
        _make_room(cell)
        if cell.secret:
            docker_env.make(cell)
        if self._create(cell):
            self._start(cell)
        if cell.secret:
            docker_env.give(cell, lambda: self.state(cell) is CellState.RUNNING)

    def _start(self, cell: Cell) -> None:
        try:
            with self._daemon.ask("the container does not start") as client:
                client.start(cell.name)
        except docker.errors.NotFound as error:
            raise errors.EngineError("the container was removed before it started", Code.ENGINE_ERROR, transient=True) from error
        except errors.EngineError as error:
            if error.code != Code.ENGINE_UNAVAILABLE:
                self.remove(cell)
            raise

    def _create(self, cell: Cell) -> bool:
        """True if the container is there now and was never started."""
        try:
            with self._daemon.ask("no container can be made") as client:
                try:
                    client.create_container_from_config(docker_spec.container(cell, self._site()), cell.name)
                except docker.errors.APIError as error:
                    if not docker_products.name_taken(error.status_code, docker_client.words(error)):
                        raise
                else:
                    return True
        except docker.errors.NotFound as error:
            # `prepare` had it: somebody removed it since, and a new attempt prepares it again.
            self._images.pop(cell.step.image, None)
            raise errors.EngineError(f"{cell.step.image}: {docker_client.words(error)}", Code.IMAGE_NOT_FOUND, transient=True) from error
        found = self._inspect(cell)
        if found is None:
            raise errors.EngineError(f"a container {cell.name} is just being removed", Code.ENGINE_ERROR, transient=True)
        if (found["Config"]["Labels"] or {}).get(docker_spec.DATA_LABEL) != self._data:
            raise errors.EngineError(f"the container {cell.name} belongs to somebody else", Code.ENGINE_ERROR)
        return found["State"]["Status"] in docker_products.NEVER_STARTED

    def wait(self, cell: Cell) -> Exit | None:
        """Wait in the daemon for the container's end.

        None = LOST: it is gone, or was killed from outside, without a record. EngineError ENGINE_UNAVAILABLE where the daemon
        goes away, or cannot tell: nothing is known then, and the call may be made again; others where tes-step itself failed.
        """
        while True:
            began = time.monotonic()
            try:
                with contextlib.suppress(docker.errors.NotFound), self._daemon.ask("the end cannot be awaited") as client:
                    client.wait(cell.name, timeout=WAIT)
                break
            except errors.EngineError as error:
                if not error.transient:
                    raise
                if time.monotonic() - began < WAIT:
                    # Also its own errors (5xx): a daemon that shuts down answers so, and the container may well go on.
                    raise errors.EngineError(error.public, Code.ENGINE_UNAVAILABLE, transient=True) from error
        return self._ending(cell)

    def _ending(self, cell: Cell) -> Exit | None:
        """How a container ended that does not run any more, or was removed."""
        ended = records.ended(cell.record)
        if records.failed(cell.record):
            raise errors.EngineError(f"the command was not started: {self._last_words(cell)}", Code.ENGINE_ERROR, transient=True)
        if ended is not None and records.cut(cell.record) and not records.out_of_memory(cell.record):
            return None
        if ended is not None:
            # A shell that outlives the kill of its child ends with a code of its own, which is kept.
            return msgspec.structs.replace(ended, oom=ended.code != 0 and records.out_of_memory(cell.record))
        found = self._inspect(cell)
        if found is None:
            return None
        state = found["State"]
        if state["OOMKilled"]:  # tes-step too
            return Exit(code=KILLED, signal=signal.SIGKILL, oom=True, start_time=_time(state["StartedAt"]), end_time=_time(state["FinishedAt"]))
        if state["ExitCode"] == STEP_FAILED and records.start(cell.record) is None:
            raise errors.EngineError("tes-step could not begin: its record directory cannot be written", Code.ENGINE_ERROR)
        return None

    def _last_words(self, cell: Cell) -> str:
        return " ".join(self.streams(cell)[1].split())

    def stop(self, cell: Cell, grace: float) -> None:
        """Ask tes-step to end the command. It KILLs after `grace` by itself, also when this server is gone by then.

        The wish is written before the container is signalled, and tes-step looks for it after it wrote its start record:
        a container that is just starting sees it. Its own end is never forced here, it would leave no record: `remove` does.
        """
        if not cell.record.is_dir():
            return
        records.wish_stop(cell.record, grace)
        with contextlib.suppress(docker.errors.NotFound), self._daemon.ask("the container cannot be signalled") as client:
            try:
                client.kill(cell.name, "TERM")
            except docker.errors.APIError as error:
                if not docker_products.not_running(error.status_code, docker_client.words(error)):
                    raise

    def streams(self, cell: Cell) -> tuple[str, str]:
        """From the record; no call of the daemon."""
        return records.streams(cell.record, cell.tail_bytes)

    def remove(self, cell: Cell) -> None:
        """Remove the container and the anonymous volumes that its image declares."""
        self.discard(cell.name)

    def discard(self, name: str) -> None:
        """The same by the name of the cell, as `survey` tells it: for what is left of an attempt that nobody knows any more."""
        with contextlib.suppress(docker.errors.NotFound), self._daemon.ask("the container cannot be removed") as client:
            try:
                client.remove_container(name, v=True, force=True)
            except docker.errors.APIError as error:
                if error.status_code == 409:  # somebody is removing it
                    return
                if not docker_products.not_running(error.status_code, docker_client.words(error)):
                    raise
                client.remove_container(name, v=True, force=True)  # Podman found it running, and could not kill it: it has just ended

    def wipe(self, path: pathlib.Path) -> None:
        """Delete a tree. What another user made in a container, an ordinary user's server deletes by a container that runs as root."""
        if small_tree.remove(path) or not path.is_dir():
            return
        subprocess.run([step.path(), "--wipe", path], check=False, capture_output=True)  # what it cannot delete is seen next
        try:
            path.rmdir()
        except OSError:
            self._wipe_as_root(path)

    def _wipe_as_root(self, path: pathlib.Path) -> None:
        body = docker_spec.wiper(path, docker_images.any_image(self._daemon), self._site())
        with self._daemon.ask(f"{path} cannot be deleted") as client:
            made = client.create_container_from_config(body)
            client.start(made)
            with contextlib.suppress(docker.errors.NotFound):  # it has removed itself
                client.wait(made, timeout=WAIT, condition="removed")
        try:
            path.rmdir()
        except OSError as error:
            raise errors.EngineError(f"{path} cannot be deleted: {error.strerror}", Code.ENGINE_ERROR, transient=True) from error

    def survey(self) -> list[str]:
        """By label, so that a container renamed or made by hand is not taken for a cell."""
        ours = {"label": [docker_spec.CELL_LABEL, f"{docker_spec.DATA_LABEL}={self._data}"]}
        with self._daemon.ask("containers cannot be listed") as client:
            return [str(found["Labels"][docker_spec.CELL_LABEL]) for found in client.containers(all=True, filters=ours)]

    def close(self) -> None:
        """Close idle connections; no cell is touched."""
        self._daemon.close()

    def _inspect(self, cell: Cell) -> dict[str, Any] | None:
        """The container, or None if there is none."""
        with self._daemon.ask("the container cannot be looked up") as client:
            try:
                found: dict[str, Any] = client.inspect_container(cell.name)
            except docker.errors.NotFound:
                return None
        return found

    def _site(self) -> docker_spec.Site:
        return docker_spec.Site(
            step=self._program or step.path(),
            data=self._data,
            network=self._network,
            grace=self._grace,
            open_files=self._open_files,
            gpus=self._gpus,
            socket=self._daemon.socket,
        )


def _make_room(cell: Cell) -> None:
    """tes-step runs as the image's user, whoever that is: what it writes to is 0777 whatever the umask.

    The daemon follows links in the sources of mounts, and a step with copies has the whole volume: what an earlier executor
    may have put in place of a source is refused here, while nothing of the task runs.
    """
    cell.record.mkdir(parents=True, exist_ok=True)
    cell.record.chmod(0o777)
    if cell.step.copies:
        cell.volume.chmod(0o777)
    for mount in cell.mounts:
        if mount.kind in (MountKind.ROOT, MountKind.FILE):
            volume.place(cell.volume, mount.path, directory=mount.kind is MountKind.ROOT)


def _time(text: str) -> datetime.datetime:
    """Docker's times have nanoseconds, `fromisoformat` takes six digits and drops the others."""
    return datetime.datetime.fromisoformat(text)
