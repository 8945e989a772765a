"""The containers of a task's pod: stage-in, the executors, stage-out; or one alone. Pure.

An executor runs a stranger's program: it must never get a token, a Secret that the site has not listed for tasks, the order, or a volume that is not
the task's.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from typing import Any

from tes_server.backends.kubernetes import names
from tes_server.backends.kubernetes.site import SecretKey, Share, Site
from tes_server.plan import secret_names
from tes_server.plan.paths import below
from tes_server.plan.steps import Execute, Gate, Mount, MountKind, Plan
from tes_server.runner import pod
from tes_server.scan.gate import OnError

TOKEN = "azure-identity-token"  # noqa: S105 - the name of a file
TOKEN_DIRECTORY = "/var/run/secrets/azure/tokens"  # noqa: S105

OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
"""Where a container sees its own kills for memory: version 2 and 1 of cgroups."""

STAGE = ("python", "-m", "tes_server.runner.pod_main")

Container = dict[str, Any]


def stage_in(plan: Plan, site: Site, order: bytes, parts: int) -> Container:
    """The init container that prepares the volumes."""
    container = _stage(names.STAGE_IN, "in", plan, site)
    if plan.gate is not None:
        container["volumeMounts"].append({"name": names.SCAN, "mountPath": pod.SCAN, "readOnly": True})
    if parts:
        container["volumeMounts"].append({"name": names.ORDER, "mountPath": pod.ORDER_PARTS, "readOnly": True})
    else:
        container["env"].append({"name": pod.ORDER, "value": literal(order.decode())})
    return container


def scan_tools(plan: Plan, site: Site) -> Container:
    """The init container that puts tes-step, and room for each scanner, onto the scanners' volume. It has no other."""
    return {
        "name": names.SCAN_TOOLS,
        "image": site.image,
        "imagePullPolicy": site.pull_policy,
        "command": list(STAGE),
        "args": ["scan", str(len(plan.gate.checks) if plan.gate else 0)],
        "resources": _resources(site.stage),
        "securityContext": _stage_security(site),
        "volumeMounts": [{"name": names.SCAN, "mountPath": pod.SCAN}],
    }


def scan(plan: Plan, gate: Gate, number: int, site: Site) -> Container:
    """The init container of one scan. It must fail wherever anything was killed for memory: one that then ends well hangs its pod."""
    step = gate.checks[number].scan
    arguments = ["--record", pod.STEP_MOUNT, "--tell", pod.MESSAGE, "--exit-oom"]
    if gate.on_error is OnError.ALLOW:  # stage-in says what it was
        arguments.append("--exit-zero")
    arguments += [*_bounds(site), "--time", f"{gate.timeout:.3f}"]
    mounts = [
        {"name": names.SCAN, "mountPath": pod.BIN_MOUNT, "subPath": pod.BIN, "readOnly": True},
        {"name": names.SCAN, "mountPath": pod.STEP_MOUNT, "subPath": pod.scan_record(number)},
        *({"name": names.SCAN, "mountPath": mount.path, "subPath": pod.scan_files(number) + mount.path} for mount in gate.checks[number].mounts),
    ]
    resources = _resources(Share(cpus=plan.limits.cpus, ram_bytes=plan.limits.ram_bytes, most_cpus=plan.limits.cpus, most_ram_bytes=plan.limits.ram_bytes))
    return {
        **_secrets(step, site.scan_secrets),
        "name": names.scan(number),
        "image": step.image,
        "imagePullPolicy": site.pull_policy,
        "command": [f"{pod.BIN_MOUNT}/tes-step"],
        "args": [literal(argument) for argument in (*arguments, *_variables(step), "--", *step.argv)],
        "resources": resources,
        "securityContext": _security(site),
        "volumeMounts": mounts,
    }


def stage_out(plan: Plan, site: Site) -> Container:
    """The app container that waits for the executors, takes the outputs and reports."""
    return _stage(names.STAGE_OUT, "out", plan, site)


def executor(plan: Plan, step: Execute, site: Site) -> Container:
    """One executor under tes-step. The first asks for all that the task reserves: what app containers ask for adds up."""
    mounts: list[dict[str, Any]] = [
        {"name": names.CONTROL, "mountPath": pod.BIN_MOUNT, "subPath": pod.BIN, "readOnly": True},
        {"name": names.CONTROL, "mountPath": pod.STEP_MOUNT, "subPath": pod.step(step.index)},
    ]
    if step.index:
        mounts.append({"name": names.CONTROL, "mountPath": pod.BEFORE_MOUNT, "subPath": pod.step(step.index - 1), "readOnly": True})
    if step.copies:
        mounts.append(_of_volume(plan, site, pod.VOLUME_MOUNT, ""))
    mounts += [_mount(mount, plan, site) for mount in plan.mounts]
    return {
        **_executor(plan, step, site, mounts),
        "command": [f"{pod.BIN_MOUNT}/tes-step"],
        "args": [literal(argument) for argument in _arguments(plan, step, site)],
    }


def alone(plan: Plan, step: Execute, site: Site) -> Container:
    """The only container of a task that needs no more: tes-step has everything as arguments, and its last words are the report."""
    mounts: list[dict[str, Any]] = [
        {"name": names.PROGRAM, "mountPath": pod.BIN_MOUNT, "readOnly": True},
        {"name": names.CONTROL, "mountPath": pod.STEP_MOUNT},
        *({"name": names.root(number), "mountPath": mount.path} for number, mount in enumerate(plan.mounts)),
    ]
    arguments = ["--record", pod.STEP_MOUNT, "--tell", pod.MESSAGE, *_manner(site)]
    if plan.limits.max_runtime:
        arguments += ["--time", f"{plan.limits.max_runtime:.3f}"]
    if step.workdir:
        arguments += ["--workdir", step.workdir]
    return {
        **_executor(plan, step, site, mounts),
        "command": [f"{pod.BIN_MOUNT}/{names.PROGRAM}"],
        "args": [literal(argument) for argument in (*arguments, *_variables(step), "--", *step.argv)],
    }


def literal(text: str) -> str:
    """Text that Kubernetes shall not expand: it reads `$(NAME)` and `$$` in arguments and variables."""
    return text.replace("$", "$$")


def _executor(plan: Plan, step: Execute, site: Site, mounts: list[dict[str, Any]]) -> Container:
    return {
        **_secrets(step, site.scan_secrets if plan.stage_out.findings else site.secrets),
        "name": names.executor(step.index),
        "image": step.image,
        "imagePullPolicy": site.pull_policy,
        "resources": _executor_resources(plan, first=step.index == 0, site=site),
        "securityContext": _security(site),
        "volumeMounts": mounts,
    }


def _secrets(step: Execute, known: Mapping[str, SecretKey]) -> Container:
    """Variables whose values the node fetches when it makes the container: nobody else sees them."""
    variables = []
    for variable, value in step.env.items():
        name = secret_names.read(value)
        if name is not None:
            found = known[name.name]  # the compiler refuses others
            variables.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": found.secret, "key": found.key or name.key}}})
    return {"env": variables} if variables else {}


def _variables(step: Execute) -> list[str]:
    """As options, but for those whose values are secrets."""
    return [word for name, value in step.env.items() if secret_names.read(value) is None for word in ("--env", f"{name}={value}")]


def _manner(site: Site) -> list[str]:
    """What is the same for all executors of a site."""
    return ["--exit-zero", *_bounds(site)]


def _bounds(site: Site) -> list[str]:
    arguments = ["--tail", str(site.shared.tail_bytes), "--grace", f"{site.grace:g}"]
    for counter in OOM_COUNTERS:
        arguments += ["--oom", counter]
    return arguments


def _arguments(plan: Plan, step: Execute, site: Site) -> list[str]:
    arguments = ["--record", pod.STEP_MOUNT, "--hold", "--tee", *_manner(site)]
    if step.index:
        before = plan.executors[step.index - 1]
        arguments += ["--after-any" if before.ignore_error else "--after", pod.BEFORE_MOUNT]
    if plan.limits.max_runtime:
        arguments += ["--until", f"{pod.BIN_MOUNT}/{pod.UNTIL}"]
    arguments += ["--argv-file", f"{pod.STEP_MOUNT}/{pod.ARGV}", "--env-add", f"{pod.STEP_MOUNT}/{pod.ENV}"]
    for option, path in (("--workdir", step.workdir), ("--stdin", step.stdin), ("--stdout", step.stdout), ("--stderr", step.stderr)):
        if path:
            arguments += [option, path]
    for path in step.copies:
        arguments += ["--copy", path, pod.VOLUME_MOUNT + path]
    return arguments


def _mount(mount: Mount, plan: Plan, site: Site) -> dict[str, Any]:
    if mount.kind is MountKind.LIVE:
        number, claim = next((number, claim) for number, claim in enumerate(site.claims) if below(mount.source, claim.path))
        inner = posixpath.relpath(mount.source, claim.path)
        return {"name": names.claim(number), "mountPath": mount.path, **({} if inner == "." else {"subPath": inner})}
    shown = _of_volume(plan, site, mount.path, mount.path.lstrip("/"))
    return {**shown, "readOnly": True} if mount.kind is MountKind.FILE else shown


def _of_volume(plan: Plan, site: Site, at: str, inner: str) -> dict[str, Any]:
    """The task's volume, or a part of it, at a path of an executor."""
    own = pod.shared_directory(plan.task_id, plan.attempt) if site.shares_disk(plan) else ""
    part = "/".join(filter(None, (own, inner)))
    return {"name": names.TASK_VOLUME, "mountPath": at, **({"subPath": part} if part else {})}


def _stage(name: str, direction: str, plan: Plan, site: Site) -> Container:
    shares = site.shares_disk(plan)
    mounts: list[dict[str, Any]] = [
        {"name": names.CONTROL, "mountPath": pod.CONTROL},
        # Whole, also where it is shared: stage-in makes the task's directory there, stage-out removes it.
        {"name": names.TASK_VOLUME, "mountPath": pod.SHARED if shares else pod.VOLUME},
    ]
    for number, claim in enumerate(site.claims):
        mounts.append({"name": names.claim(number), "mountPath": claim.path, **({"readOnly": True} if claim.read_only else {})})
    environment = dict(site.stage_environment)
    if site.identity is not None:
        mounts.append({"name": names.IDENTITY, "mountPath": TOKEN_DIRECTORY, "readOnly": True})
        environment.update(
            AZURE_CLIENT_ID=site.identity.client_id,
            AZURE_TENANT_ID=site.identity.tenant_id,
            AZURE_AUTHORITY_HOST=site.identity.authority,
            AZURE_FEDERATED_TOKEN_FILE=f"{TOKEN_DIRECTORY}/{TOKEN}",
        )
    container: Container = {
        "name": name,
        "image": site.image,
        "imagePullPolicy": site.pull_policy,
        "command": list(STAGE),
        "args": [direction, *([pod.shared_directory(plan.task_id, plan.attempt)] if shares else [])],
        "env": [{"name": key, "value": literal(value)} for key, value in sorted(environment.items())],
        "resources": _resources(site.stage),
        "securityContext": _stage_security(site),
        "volumeMounts": mounts,
    }
    if site.stage_secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in site.stage_secrets]
    return container


# -- resources ------------------------------------------------------------------------------------------------------


def _executor_resources(plan: Plan, *, first: bool, site: Site) -> dict[str, Any]:
    limits = plan.limits
    share = Share(
        cpus=limits.cpus if first else min(site.token.cpus, limits.cpus),
        ram_bytes=limits.ram_bytes if first else min(site.token.ram_bytes, limits.ram_bytes),
        most_cpus=limits.cpus if site.cpu_limit else 0.0,
        most_ram_bytes=limits.ram_bytes,
    )
    resources = _resources(share)
    if first and limits.disk_bytes and site.uses_node(plan):
        resources["requests"]["ephemeral-storage"] = str(limits.disk_bytes)
    if limits.gpus:
        gpu = site.gpu_of(limits.gpu_type)
        # An unknown type is one that no node has: the pod waits, and says so.
        resources["limits"][gpu.resource if gpu else f"tes-server/{names.label_value(limits.gpu_type)}"] = str(limits.gpus)
    return resources


def _resources(share: Share) -> dict[str, Any]:
    return {
        "requests": _amounts(share.cpus, share.ram_bytes),
        "limits": _amounts(share.most_cpus, share.most_ram_bytes),
    }


def _amounts(cpus: float, ram_bytes: int) -> dict[str, str]:
    return {**({"cpu": f"{math.ceil(cpus * 1000)}m"} if cpus else {}), **({"memory": str(ram_bytes)} if ram_bytes else {})}


# -- powers ---------------------------------------------------------------------------------------------------------


def _security(site: Site) -> dict[str, Any]:
    """Executors keep the runtime's own capabilities, which images expect, unless the site is restricted (DESIGN, "File owners")."""
    return {"allowPrivilegeEscalation": False, **({"capabilities": {"drop": ["ALL"]}} if site.restricted else {})}


def _stage_security(site: Site) -> dict[str, Any]:
    """Stage steps read and write what any user of the task left, and nothing else."""
    security: dict[str, Any] = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    if not site.restricted:
        security["runAsUser"] = 0
        security["capabilities"]["add"] = ["CHOWN", "DAC_OVERRIDE", "FOWNER"]
    return security
