"""From the settings to what the gate, the scanner and the policy of image scans are told.

`scan_checks` says whether that makes sense. This module must never ask a registry, nor a scanner, nor see a secret.
"""

from __future__ import annotations

import json
import platform as python_platform
from collections.abc import Iterator

import msgspec

from tes_server import platforms
from tes_server.model.task import Executor, Resources, Task
from tes_server.plan import compiler
from tes_server.plan.policy import Target
from tes_server.plan.steps import Findings
from tes_server.runner import image_connections
from tes_server.scan import base, gate
from tes_server.scan.base import Options, Scanner
from tes_server.scan.gate import Mode, Modes, OnError
from tes_server.scan.policy import Ignore, Policy
from tes_server.scan.scanners import SCANNERS
from tes_server.settings import Settings

HOUR, MINUTE = 3600.0, 60.0


def modes(settings: Settings) -> Modes:
    """Which mode a task is under."""
    scan = settings.scan
    return Modes(
        default=Mode(scan.mode),
        backends={name: Mode(mode) for name, mode in scan.backends.items()},
        owners={pattern: Mode(mode) for pattern, mode in scan.owners.items()},
    )


def enabled(settings: Settings) -> bool:
    """True if any task may need a scan."""
    return bool(scanned(settings))


def scanned(settings: Settings) -> tuple[str, ...]:
    """The backends on which tasks may need scans."""
    given = modes(settings)
    anyone = any(mode is not Mode.OFF for mode in given.owners.values())
    return tuple(one.name for one in platforms.enabled(settings) if anyone or given.backends.get(one.name, given.default) is not Mode.OFF)


def places(settings: Settings) -> tuple[str, ...]:
    """The backends that there are."""
    return tuple(one.name for one in platforms.enabled(settings))


def enforced(settings: Settings, backend: str) -> bool:
    """True if tasks of some owner on a backend run only with images that pass."""
    given = modes(settings)
    return Mode.ENFORCE in (given.backends.get(backend, given.default), *given.owners.values())


def roomy(settings: Settings, backend: str, target: Target) -> Target:
    """What tasks on a backend are checked against, with room for the scans that come first in them (`scan.place = "task"`)."""
    if settings.scan.place != "task" or not enforced(settings, backend):
        return target
    least = msgspec.structs.replace(target.policy, least_cpus=settings.scan.cpus, least_ram_bytes=int(settings.scan.ram_gb * compiler.GB))
    return msgspec.structs.replace(target, policy=least)


def on_error(settings: Settings) -> OnError:
    """What becomes of tasks whose images could not be scanned."""
    return OnError(settings.scan.on_error)


def scanner(settings: Settings) -> Scanner:
    """What scans."""
    return SCANNERS[settings.scan.scanner]


def options(settings: Settings) -> Options:
    """What the scanner is told. One that can gives up a little before it is stopped: it can say why."""
    told = msgspec.convert(settings.scan, Options, from_attributes=True)
    plain = {name: f"http://{name}" for name in settings.sandbox.plain_http}
    return msgspec.structs.replace(told, timeout=0.95 * settings.scan.timeout, registries={**plain, **told.registries})


def policy(settings: Settings) -> Policy:
    """What images must be like. Its hash changes with whatever a verdict depends on."""
    scan = settings.scan
    setup = [scan.image, scan.program, scan.server, scan.console, list(scan.arguments), sorted(scan.env.items())]
    return Policy(
        scanner=scan.scanner,
        setup=json.dumps(setup),
        severities=tuple(dict.fromkeys(scan.policy.severities)),
        fixable_only=scan.policy.fixable_only,
        ignore=tuple(msgspec.convert(one, Ignore, from_attributes=True) for one in scan.policy.ignore),
        end_of_life=scan.policy.end_of_life,
        max_age_days=scan.policy.max_age_days,
        database_days=scan.database_days if scanner(settings).dates else 0.0,
        verdict_seconds=scan.verdict_hours * HOUR,
        error_seconds=scan.error_minutes * MINUTE,
        exempt=scan.exempt,
        allow=scan.policy.allow,
        deny=scan.policy.deny,
        pinned=scan.policy.pinned,
    )


def task(settings: Settings, image: str) -> Task:
    """The scan of `image` (by digest, or a local engine's id) as a task: the scanner, with nothing of any other task's."""
    scan, by, told = settings.scan, scanner(settings), options(settings)
    registry = image.partition("/")[0]
    if registry not in told.registries and image_connections.is_loopback(registry):  # which this server asks without TLS, too
        told = msgspec.structs.replace(told, registries={**told.registries, registry: f"http://{registry}"})
    return Task(
        name=f"scan of {image}"[:200],
        tags={base.IMAGE_TAG: image},
        executors=(Executor(image=scan.image, command=by.argv(image, told), env=by.env(told)),),
        resources=Resources(
            cpu_cores=scan.cpus,
            ram_gb=scan.ram_gb,
            disk_gb=scan.disk_gb or None,
            backend_parameters={"max_runtime": f"{scan.timeout:g}"},
        ),
    )


def findings(settings: Settings) -> Findings:
    """Where that task leaves its report, and whose it is."""
    return Findings(settings.scan.scanner, base.REPORT)


def architecture(settings: Settings, backend: str) -> str:
    """The architecture of the machines of a backend."""
    return settings.scan.architectures.get(backend) or (python_platform.machine() if backend == "local" else "amd64")


def words(settings: Settings) -> str:
    """What happens to images, for people who read service-info; "" if nothing does."""
    if not enabled(settings):
        return ""
    given = modes(settings)
    by_mode = ", ".join(f"{one}: {mode}" for one, mode in _by_backend(settings, given))
    others = "; another mode for some owners" if given.owners else ""
    return f"scans container images with {settings.scan.scanner} before they run ({by_mode}{others})"


def _by_backend(settings: Settings, given: gate.Modes) -> Iterator[tuple[str, Mode]]:
    for one in platforms.enabled(settings):
        yield one.name, given.backends.get(one.name, given.default)
