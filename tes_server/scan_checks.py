"""Whether the settings of image scans make sense.

A gate that cannot work is refused at the start, with the key at fault: later it would hold back every task. This module must never ask a registry,
nor a scanner, nor see a secret, nor say one that somebody wrote into the settings.
"""

from __future__ import annotations

import json
import pathlib
import re
import urllib.parse

import msgspec

from tes_server import errors, platforms, scan_rules
from tes_server.model import image_names
from tes_server.model.principal import SCANS
from tes_server.plan import compiler, secret_names
from tes_server.runner import image_manifest
from tes_server.scan import base, patterns
from tes_server.settings import Settings

ANY_DISK = 1e9
"""GB that no machine has."""

CONSOLES = ("twistcli", "prisma")
"""Scanners that ask a Prisma Cloud Compute Console."""

SAMPLE = f"registry.example/repository@sha256:{'0' * 64}"
"""An image as scans get them."""

_SENSITIVE = re.compile(r"(PASS(WORD|PHRASE)?|TOKEN|SECRET|CREDENTIALS?|(ACCESS|PRIVATE|API|SECRET)_?KEY)$", re.IGNORECASE)
"""Variables, and options, whose value is no setting: settings are printed, and plans hold what they say."""

_URL_LOGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*@")


def check(settings: Settings) -> None:
    """Refuse settings of scans that cannot work: SettingsError with the key at fault. Those of a gate that is nowhere closed only for what they say."""
    for key, names in (("backends", settings.scan.backends), ("architectures", settings.scan.architectures)):
        for name in names:
            if name not in (known := [one.name for one in platforms.PLATFORMS]):
                raise errors.SettingsError(f"there is no backend {name!r}; there is {', '.join(known)}", f"scan.{key}.{name}")
    for name, architecture in settings.scan.architectures.items():
        try:
            image_manifest.architecture_of(architecture or "nothing")
        except errors.EngineError as cause:
            raise errors.SettingsError("must be amd64 or arm64: tasks run on no others", f"scan.architectures.{name}") from cause
    _check_policy(settings)
    _check_registries(settings)
    if scan_rules.enabled(settings):
        _check_scanner(settings)
        _check_environment(settings)
        _check_networks(settings)
        for backend in scan_rules.scanned(settings):
            _check_trial(settings, backend)


def _check_policy(settings: Settings) -> None:
    scan = settings.scan
    for key, named in (("scan.exempt", scan.exempt), ("scan.policy.allow", scan.policy.allow), ("scan.policy.deny", scan.policy.deny)):
        for number, pattern in enumerate(named):
            if fault := patterns.fault(pattern):
                raise errors.SettingsError(fault, f"{key}[{number}]")
    for number, one in enumerate(scan.policy.ignore):
        where = f"scan.policy.ignore[{number}]"
        if not one.id.strip():
            raise errors.SettingsError("must be the id of a finding, e.g. CVE-2026-1234", f"{where}.id")
        if not one.reason.strip():
            raise errors.SettingsError("must say why these findings are accepted", f"{where}.reason")
        if one.image and (fault := patterns.fault(one.image)):
            raise errors.SettingsError(fault, f"{where}.image")


def _check_registries(settings: Settings) -> None:
    for name, url in settings.scan.registries.items():
        where = f"scan.registries.{name}"
        if not _registry(name):
            raise errors.SettingsError("must be a registry as images name it: host or host:port", where)
        if _login(url):
            raise errors.SettingsError("holds a login: those are taken from Docker's config.json (scan.docker_config)", where)
        if not _plain(url):
            raise errors.SettingsError("must be http(s)://host[:port][/path]", where)


def _registry(name: str) -> bool:
    try:
        return image_names.parse(f"{name}/x").registry == name
    except errors.EngineError:
        return False


def _plain(url: str) -> bool:
    """True for an http(s) url with neither login nor query."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # read for its check: a port beyond 65535, or one that is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.username or parts.password or parts.query or parts.fragment)


def _login(text: str) -> bool:
    """True for a text with a url in it that holds a login."""
    return _URL_LOGIN.search(text) is not None


def _check_scanner(settings: Settings) -> None:
    scan = settings.scan
    if not scan.image:
        raise errors.SettingsError(f"must name an image with {scan.scanner}, by its digest", "scan.image")
    if not patterns.pinned(scan.image):
        raise errors.SettingsError("must be named by its digest (repository@sha256:...): whoever could change it would decide what runs", "scan.image")
    if scan.server and scan.scanner != "trivy":
        raise errors.SettingsError(f"is for trivy, and scan.scanner is {scan.scanner}", "scan.server")
    for key, url in (("scan.server", scan.server), ("scan.console", scan.console)):
        if _login(url):
            by = "TRIVY_TOKEN" if key == "scan.server" else "TWISTLOCK_USER and TWISTLOCK_PASSWORD"
            raise errors.SettingsError(f"holds a login, and settings are no place for one: it is for {by} in scan.env, as secret://NAME", key)
    if scan.server and not _plain(scan.server):
        raise errors.SettingsError("must be the http(s):// url of a Trivy server, without a query; its token is TRIVY_TOKEN in scan.env", "scan.server")
    if scan.console and scan.scanner not in CONSOLES:
        raise errors.SettingsError(f"is for {' and '.join(CONSOLES)}, and scan.scanner is {scan.scanner}", "scan.console")
    if scan.scanner in CONSOLES and not (scan.console.startswith("https://") and _plain(scan.console)):
        raise errors.SettingsError("must be the https:// url of the Prisma Cloud Compute Console", "scan.console")
    _check_arguments(settings)
    if scan.docker_config:
        try:
            json.loads(pathlib.Path(scan.docker_config).read_bytes())
        except (OSError, ValueError) as cause:
            raise errors.SettingsError(f"{scan.docker_config} cannot be read as Docker's config.json", "scan.docker_config") from cause


def _check_arguments(settings: Settings) -> None:
    """Must never say more of an argument than its name: what follows may be a secret."""
    by, given = scan_rules.scanner(settings), settings.scan.arguments
    for number, argument in enumerate(given):
        where = f"scan.arguments[{number}]"
        for name in base.flags(argument):
            if name in by.reserved:
                raise errors.SettingsError(f"{name} is for the server to give", where)
            if name in by.instead:
                raise errors.SettingsError(f"{name} {by.instead[name]}", where)
            if _SENSITIVE.search(name.replace("-", "_")):
                raise errors.SettingsError(base.SHOWS.format("the variable of that option"), where)
        if _login(argument):
            raise errors.SettingsError("holds a login, and settings are no place for one: use the variable of that option in scan.env, as secret://NAME", where)
    if (blind := base.lacking(given, by.needs)) is not None:
        name = given[blind].partition("=")[0]
        raise errors.SettingsError(f"{name} must name {by.needs[name]}, or nothing would be found in any image", f"scan.arguments[{blind}]")


def _check_environment(settings: Settings) -> None:
    for name, value in settings.scan.env.items():
        where = f"scan.env.{name}"
        if not name or "=" in name or "\0" in name + value:
            raise errors.SettingsError("cannot be the name of an environment variable", where)
        if _SENSITIVE.search(name) and secret_names.read(value) is None:
            raise errors.SettingsError("must be secret://NAME or secret://NAME/KEY: settings are no place for a secret", where)
        if _login(value):
            raise errors.SettingsError("holds a login, and settings are no place for one: name the whole value as secret://NAME", where)
        if name in scan_rules.scanner(settings).instead:
            raise errors.SettingsError(scan_rules.scanner(settings).instead[name], where)


def _check_networks(settings: Settings) -> None:
    """Scanners run as tasks do. With no network they reach neither a registry nor a database."""
    engine = settings.local.engine
    closed = {
        "docker.network": ("local", engine in ("auto", "docker") and settings.docker.network == "none"),
        "podman.network": ("local", engine in ("auto", "podman") and settings.podman.network == "none"),
        "sandbox.network": ("local", engine in ("auto", "sandbox") and not settings.sandbox.network),
        "aws_batch.network": ("aws_batch", settings.aws_batch.network == "none"),
        "azure_batch.network": ("azure_batch", settings.azure_batch.network == "none"),
    }
    for key, (backend, none) in closed.items():
        if none and backend in scan_rules.scanned(settings):
            raise errors.SettingsError(f"leaves scans of images without a network, and tasks on {backend} need them (scan.mode)", key)


def _check_trial(settings: Settings, backend: str) -> None:
    """A scan of an image like any other can be planned for a backend."""
    # What is free on this machine's disk at this moment is no reason to refuse a start, nor is the data directory to be made for a look.
    local = settings.local if settings.local.disk_gb else msgspec.structs.replace(settings.local, disk_gb=ANY_DISK)
    target = next(one for one in platforms.PLATFORMS if one.name == backend).target(msgspec.structs.replace(settings, local=local))
    capabilities = target.capabilities
    sure = backend != "local" or settings.local.engine == "sandbox"  # which engine "auto" comes to, nobody has looked yet
    if scan_rules.scanner(settings).engine(SAMPLE) and not capabilities.engine_socket and sure:
        raise errors.SettingsError(
            f"{settings.scan.scanner} looks at images of a container engine, and scans on {backend} reach none: turn them off there (scan.backends)",
            "scan.scanner",
        )
    for name, value in settings.scan.env.items():
        wanted = secret_names.read(value)
        if wanted is not None and wanted.name not in capabilities.scan_secrets:
            there = ", ".join(capabilities.scan_secrets) or "none"
            raise errors.SettingsError(f"names a secret that is not among {backend}.scan_secrets; there is {there}", f"scan.env.{name}")
    if not sure:
        capabilities = msgspec.structs.replace(capabilities, engine_socket=True)
    try:
        compiler.compile_task(scan_rules.task(settings, SAMPLE), "scan", 1, SCANS.owner, target.policy, capabilities, findings=scan_rules.findings(settings))
    except (errors.Invalid, errors.TooLarge) as cause:
        raise errors.SettingsError(f"scans cannot run on {backend}: {cause.public}", _at_fault(cause.pointer)) from cause


def _at_fault(pointer: str) -> str:
    """The setting that a field of a scan's task comes from."""
    whole = ("/executors/0/env/", "scan.env.")
    if pointer.startswith(whole[0]):
        return whole[1] + pointer.removeprefix(whole[0]).replace("~1", "/").replace("~0", "~")
    known = {"/executors/0/image": "image", "/resources/cpu_cores": "cpus", "/resources/ram_gb": "ram_gb", "/resources/disk_gb": "disk_gb"}
    return f"scan.{known.get(pointer, 'arguments')}"
