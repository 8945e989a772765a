"""From a task to a Plan, or Invalid with the JSON pointer of the field at fault.

The same function checks a task when it is created and compiles it when it is submitted, so that what can never run is a
400 at once. Pure: no clock, no file, no network; it must never look whether a file exists.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tes_server.errors import Invalid, TooLarge
from tes_server.model.task import Executor, FileType, Input, Output, Resources, Task
from tes_server.plan import bounds, executors, grants, mounts, parameters, paths, scans, wildcards
from tes_server.plan.grants import Granted
from tes_server.plan.policy import Capabilities, Policy
from tes_server.plan.steps import Collect, Execute, Fetch, Findings, Gate, Limits, Mount, Placement, Plan, StageIn, StageOut

GB = 1_000_000_000
"""TES 1.1 writes GB; ram and disk are counted in 10^9 bytes."""

_NONE: Mapping[str, str] = types.MappingProxyType({})


class Compiled(msgspec.Struct, frozen=True):
    """A plan, the task as it is to be stored (unsupported backend_parameters taken out), and warnings for system_logs."""

    plan: Plan
    task: Task
    warnings: tuple[str, ...] = ()


def compile_task(
    task: Task,
    task_id: str,
    attempt: int,
    owner: str,
    policy: Policy,
    capabilities: Capabilities,
    *,
    images: Mapping[str, str] = _NONE,
    findings: Findings | None = None,
    gate: Gate | None = None,
) -> Compiled:
    """Check a task against the site's policy and a backend's capabilities, and plan one attempt of it. Raises Invalid and TooLarge.

    `images`: from the name of an image to what is to run in its place, pinned by digest; names that are not there run as they are.
    `findings`: the task is a scan of an image, by the server itself. `gate`: what it is to pass first (`scans.gate`).
    """
    if not task.executors:
        raise Invalid("must hold at least one executor", "/executors")
    inputs, outputs, volumes = task.inputs or (), task.outputs or (), task.volumes or ()
    bounds.check(task, policy.bounds)
    given = parameters.read(task.resources, capabilities.parameters)
    granted = None if policy.grants is None else grants.of(() if findings else policy.grants, owner, policy.sites)
    known = capabilities.scan_secrets if findings else granted.known(capabilities.secrets) if granted else capabilities.secrets
    layout = _Layout(policy, granted)
    for number, volume in enumerate(volumes):
        layout.volume(volume, f"/volumes/{number}")
    for number, item in enumerate(inputs):
        layout.input(item, f"/inputs/{number}")
    for number, executor in enumerate(task.executors):
        executors.check(executor, f"/executors/{number}", capabilities, known, owner if granted and not findings else "")
        layout.executor(executor, f"/executors/{number}")
    for number, output in enumerate(outputs):
        layout.output(output, f"/outputs/{number}")
    engine: tuple[Mount, ...] = ()
    if findings is not None:
        layout.report(findings.path)
        findings, engine = scans.equipped(findings, task, capabilities)
    layout.check()
    plan = Plan(
        task_id=task_id,
        attempt=attempt,
        stage_in=StageIn(directories=layout.directories(), inputs=tuple(layout.fetches), reach=granted.inward if granted else None),
        executors=tuple(_pinned(layout.executions(), images)),
        stage_out=StageOut(outputs=layout.collects, findings=findings, reach=granted.outward if granted else None),
        mounts=(*layout.mounts(), *engine),
        limits=reserve(task.resources, given, policy, capabilities),
        placement=_placement(task.resources, given),
        gate=gate,
        owner=owner,
        tags=task.tags or {},
    )
    if capabilities.plan_bytes and (size := len(msgspec.json.encode(plan))) > capabilities.plan_bytes:
        raise TooLarge(
            f"comes to a plan of {size} bytes, this backend takes {capabilities.plan_bytes}; keep long contents in files and name their urls", "/inputs"
        )
    return Compiled(plan, _kept(task, given), given.warnings)


class _Layout:
    """Gathers what the fields of a task say about files, then settles roots, directories and mounts over all of them."""

    def __init__(self, policy: Policy, granted: Granted | None) -> None:
        self.policy = policy
        self._granted = granted
        self._sites = policy.sites if granted is None else granted.sites
        self.fetches: list[Fetch] = []
        self._roots: set[str] = set()
        self._made: set[str] = set()  # directories that inputs, stdio and workdirs make (row 24)
        self._file_mounts: set[str] = set()
        self._live: dict[str, str] = {}
        self._taken: dict[str, str] = {}  # input path -> pointer
        self._files: dict[str, str] = {}  # the same of inputs that are files for certain: a url typed FILE may lead to a directory (row 20)
        self._executors: list[Execute] = []
        self._outputs: list[Collect] = []

    def volume(self, path: str, pointer: str) -> None:
        path = paths.container_path(path, pointer)
        mounts.check_directory(path, pointer)
        self._directory(path)

    def input(self, item: Input, pointer: str) -> None:
        path = paths.file_name(item.path, f"{pointer}/path")
        mounts.check_stageable(path, f"{pointer}/path")
        if path in self._taken:
            raise Invalid(f"{path} is already the path of {self._taken[path]}", f"{pointer}/path")
        self._taken[path] = pointer
        # TES 1.1: "If content is not empty, url must be ignored"; empty content without a url is an empty file.
        kind = item.type or FileType.FILE
        if item.content or not item.url:
            if item.content is None:
                raise Invalid("needs a url or content", pointer)
            if kind is FileType.DIRECTORY:
                raise Invalid("an input with content is a FILE", f"{pointer}/type")
            fetch = Fetch(path=path, content=item.content, field=pointer)
            self._files[path] = pointer
        else:
            url = paths.resolve(item.url, self._sites, "in", f"{pointer}/url")
            source = self._live_source(url) if kind is FileType.DIRECTORY else None
            if self._granted is not None:  # what is mounted live can be written to
                self._granted.check(item.url, url, "out" if source else "in", f"{pointer}/url")
                if source:
                    self._granted.check_live(source, self.policy.live_mounts, f"{pointer}/url")
            if source:
                mounts.check_directory(path, f"{pointer}/path")
                self._live[path] = source
                return
            if paths.is_one_file(url):
                if kind is FileType.DIRECTORY:
                    raise Invalid("http(s) knows no directories; name its files one by one, or an archive", f"{pointer}/type")
                self._files[path] = pointer
            fetch = Fetch(path=path, url=url, type=kind, field=pointer)
        self.fetches.append(fetch)
        if kind is FileType.DIRECTORY:
            mounts.check_directory(path, f"{pointer}/path")
            self._directory(path)
            return
        root = mounts.root_for_file(path)
        if root is None:
            self._file_mounts.add(path)
        else:
            self._roots.add(root)
            self._made.add(paths.parent(path))

    def executor(self, executor: Executor, pointer: str) -> None:
        workdir = ""
        if executor.workdir:
            workdir = paths.container_path(executor.workdir, f"{pointer}/workdir")
            if not mounts.owned(workdir):
                self._directory(workdir)
        stdio = {}
        for name in ("stdin", "stdout", "stderr"):
            path: str | None = getattr(executor, name)
            if not path:
                continue
            stdio[name] = path = paths.file_name(path, f"{pointer}/{name}")
            root = mounts.root_for_file(path)
            if root is not None:
                self._roots.add(root)
                self._made.add(paths.parent(path))
        self._executors.append(
            Execute(
                index=len(self._executors),
                image=executor.image,
                argv=executor.command,
                env=executor.env or {},
                workdir=workdir,
                stdin=stdio.get("stdin", ""),
                stdout=stdio.get("stdout", ""),
                stderr=stdio.get("stderr", ""),
                ignore_error=bool(executor.ignore_error),
            )
        )

    def output(self, output: Output, pointer: str) -> None:
        path = paths.file_name(output.path, f"{pointer}/path")
        mounts.check_stageable(path, f"{pointer}/path")
        url = paths.resolve(output.url, self._sites, "out", f"{pointer}/url")
        prefix = ""
        if wildcards.present(path):
            prefix = self._prefix(path, output.path_prefix, pointer)
        kind = output.type or FileType.FILE
        if self._granted is not None:
            self._granted.check(output.url, url, "out", f"{pointer}/url", one_file=kind is FileType.FILE and not prefix)
        inside = wildcards.literal_parent(path) if prefix else path
        if kind is FileType.DIRECTORY and not prefix and paths.parent(path) == "/":
            # A directory output right below / has no parent to be made in: it is itself the mount.
            mounts.check_directory(path, f"{pointer}/path")
            root: str | None = mounts.root_for_directory(path)
        elif prefix:
            root = None if mounts.owned(inside) else mounts.root_for_directory(inside)
        else:
            root = mounts.root_for_file(path)
        if root is not None:
            self._roots.add(root)
        elif prefix:
            raise Invalid(f"wildcards cannot be collected from {inside}, which images own; let the task write below a directory of its own", f"{pointer}/path")
        self._outputs.append(Collect(path=path, url=url, shown=output.url, type=kind, prefix=prefix, field=pointer))

    def report(self, path: str) -> None:
        """A scanner's own file: its directory is made, and is the volume's."""
        self._directory(paths.parent(path))

    def _prefix(self, path: str, given: str | None, pointer: str) -> str:
        """path_prefix of an output with wildcards; where it is missing, the deepest literal parent (row 22)."""
        literal = wildcards.literal_parent(path)
        if not given:
            return literal
        prefix = paths.container_path(given, f"{pointer}/path_prefix")
        if wildcards.present(prefix) or not paths.below(literal, prefix):
            raise Invalid(f"must be a literal directory above the wildcards of {paths.shorten(path)}, not {paths.shorten(given)}", f"{pointer}/path_prefix")
        return prefix

    def _directory(self, path: str) -> None:
        self._roots.add(mounts.root_for_directory(path))
        self._made.add(path)

    def _live_source(self, url: str) -> str | None:
        if not url.startswith("file://") or not self.policy.live_mounts:
            return None
        source = paths.file_path(url)
        return source if any(paths.below(source, prefix) for prefix in self.policy.live_mounts) else None

    def check(self) -> None:
        """Raise Invalid where fields contradict each other: an input below a live mount, a file that is used as a directory."""
        for fetch in self.fetches if self._live else ():
            if _at_or_above(fetch.path, self._live):
                raise Invalid(f"{fetch.path} lies in a directory that is mounted live and would hide it", f"{fetch.field}/path")
        used = {*self._made, *map(paths.parent, self._file_mounts)} if self._files else ()
        for directory in sorted(used):
            file = _at_or_above(directory, self._files)
            if file:
                raise Invalid(f"{file} is a file, and {directory} is used as a directory", f"{self._files[file]}/path")

    # What follows may be asked for only when every field has been gathered.

    @functools.cached_property
    def roots(self) -> tuple[str, ...]:
        return mounts.merge({*self._roots, mounts.TEMPORARY})

    @functools.cached_property
    def collects(self) -> tuple[Collect, ...]:
        return tuple(msgspec.structs.replace(item, inside=bool(item.prefix) or mounts.covered(item.path, self.roots)) for item in self._outputs)

    def executions(self) -> list[Execute]:
        copies = tuple(item.path for item in self.collects if not item.inside)
        return [msgspec.structs.replace(step, copies=copies) for step in self._executors] if copies else self._executors

    def directories(self) -> tuple[str, ...]:
        """Directories to make before the first executor (row 24): never an output, nor an output's parent that is covered."""
        made = {*self._made, *self.roots}
        given = mounts.merge(self._made)
        # A root that exists only because it is a mount point does not count as made by an input, stdio or workdir.
        for item in self._outputs:
            parent = wildcards.literal_parent(item.path) if item.prefix else paths.parent(item.path)
            if not mounts.covered(parent, given) and mounts.covered(parent, self.roots):
                made.add(parent)
        return tuple(sorted(made))

    def mounts(self) -> tuple[Mount, ...]:
        files = (path for path in self._file_mounts if not mounts.covered(path, self.roots))
        return mounts.mounts(self.roots, files, self._live)


def _pinned(executors: Iterable[Execute], images: Mapping[str, str]) -> Iterator[Execute]:
    for step in executors:
        pinned = images.get(step.image, step.image)
        yield step if pinned == step.image else msgspec.structs.replace(step, image=pinned, named=step.image)


def _at_or_above(path: str, places: Mapping[str, str]) -> str:
    """The deepest of `places` that is `path` or above it, or ""."""
    while path not in places:
        if path == "/":
            return ""
        path = paths.parent(path)
    return path


def reserve(resources: Resources | None, given: parameters.Parameters, policy: Policy, capabilities: Capabilities) -> Limits:
    """What a task reserves, without planning it. Raises Invalid where it asks for more than the backend has."""
    wanted = resources or Resources()
    cpus = _amount(wanted.cpu_cores, "/resources/cpu_cores") or (min(policy.default_cpus, capabilities.cpus) if capabilities.cpus else policy.default_cpus)
    ram = _bytes(wanted.ram_gb, "/resources/ram_gb") or _default_ram(policy, capabilities)
    disk = _bytes(wanted.disk_gb, "/resources/disk_gb")
    for amount, most, pointer, unit in (
        (cpus, capabilities.cpus, "/resources/cpu_cores", "cores"),
        (ram / GB, capabilities.ram_bytes / GB, "/resources/ram_gb", "GB"),
        (disk / GB, capabilities.disk_bytes / GB, "/resources/disk_gb", "GB"),
    ):
        if most and amount > most:
            raise Invalid(f"asks for {amount:g} {unit}, this site has {most:.4g}", pointer)
    if capabilities.gpus is not None and given.gpus > capabilities.gpus:
        raise Invalid(f"asks for {given.gpus} GPUs, this site has {capabilities.gpus}", f"{parameters.POINTER}/gpus")
    cpus, ram = max(cpus, policy.least_cpus), max(ram, policy.least_ram_bytes)
    runtime = policy.default_max_runtime if given.max_runtime is None else given.max_runtime
    return Limits(cpus=cpus, ram_bytes=ram, disk_bytes=disk, gpus=given.gpus, gpu_type=given.gpu_type, max_runtime=runtime)


def _default_ram(policy: Policy, capabilities: Capabilities) -> int:
    ram = int(policy.default_ram_gb * GB)
    return min(ram, capabilities.ram_bytes) if capabilities.ram_bytes else ram


def _amount(value: float | None, pointer: str) -> float:
    """A resource; 0 = not given, as clients that send every field do."""
    if value is None:
        return 0.0
    if not math.isfinite(value) or value < 0:
        raise Invalid(f"must be a number of 0 or more, not {value:g}", pointer)
    return float(value)


def _bytes(value: float | None, pointer: str) -> int:
    amount = _amount(value, pointer) * GB
    if amount > 2**62:
        raise Invalid(f"asks for {value:g} GB, more than any site has", pointer)
    return math.ceil(amount)


def _placement(resources: Resources | None, given: parameters.Parameters) -> Placement:
    wanted = resources or Resources()
    return Placement(
        preemptible=bool(wanted.preemptible),
        zones=wanted.zones or (),
        spot_attempts=1 if given.spot_attempts is None else given.spot_attempts,
        parameters=given.platform,
    )


def _kept(task: Task, given: parameters.Parameters) -> Task:
    """The task to store: TES 1.1, "Backends shall not store or return unsupported keys"."""
    if not given.warnings or task.resources is None:
        return task
    return msgspec.structs.replace(task, resources=msgspec.structs.replace(task.resources, backend_parameters=given.kept or None))
