"""From the settings to the site's rules: what tasks may name, read and write, and whether that makes sense.

The API's checks and the filer's access come from the same place, so that no task is taken whose files are refused later.
This module must never name a store of tasks, a backend or an engine.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import socket
import urllib.parse
from collections.abc import Mapping

import msgspec

from tes_server import errors, grant_rules
from tes_server.filer.manifest import Access, Storage
from tes_server.plan import guard, objects
from tes_server.plan.bounds import Bounds
from tes_server.plan.guard import Guard
from tes_server.plan.paths import NET, PORTS, SitePath, Sites, below, file_path
from tes_server.plan.policy import Policy
from tes_server.settings import MirrorSettings, PathSettings, Settings, StorageSettings

_MEANINGLESS: dict[objects.Kind, tuple[str, ...]] = {
    "s3": ("file", "client_id"),
    "az": ("region", "profile", "key_variable", "file", "requester_pays"),
    "gs": ("region", "profile", "key_variable", "secret_variable", "requester_pays", "client_id"),
}
"""Keys of a [[storage]] table that say nothing to a kind of store."""


# -- whether it makes sense ----------------------------------------------------------------------------------------


def check(settings: Settings) -> None:
    """Refuse settings that contradict each other or this machine: SettingsError with the key at fault. Asks no store."""
    host = settings.server.host
    if not settings.auth.modes and not settings.auth.allow_open and not _loopback(host):
        raise errors.SettingsError(f"{host} is not a loopback address; this needs a sign-in (auth.modes), or auth.allow_open = true", "server.host")
    for number, proxy in enumerate(settings.server.trusted_proxies):
        _check_proxy(proxy, f"server.trusted_proxies[{number}]")
    for key, roots in (("roots", settings.files.roots), ("live_mounts", settings.files.live_mounts)):
        for number, root in enumerate(roots):
            if not root.startswith("/"):
                raise errors.SettingsError(f"{root} must be an absolute path", f"files.{key}[{number}]")
    for number, text in enumerate(settings.files.net_allow):
        try:
            guard.opening(text)
        except ValueError as cause:
            raise errors.SettingsError(f"{text!r} {cause}", f"files.net_allow[{number}]") from None
    for number, store in enumerate(settings.storage):
        _check_store(store, f"storage[{number}]")
        if store.owners and not settings.auth.modes:
            raise errors.SettingsError("without sign-in (auth.modes) tasks have no owners", f"storage[{number}].owners")
    for number, site in enumerate(settings.paths):
        _check_path(site, settings, f"paths[{number}]")
    grant_rules.check(settings)
    if settings.retention.archive:
        _check_archive(settings.retention.archive, settings)
    for number, mirror in enumerate(settings.sandbox.mirrors):
        _check_mirror(mirror, f"sandbox.mirrors[{number}]")


def check_secrets(tasks: Mapping[str, str], scans: Mapping[str, str], table: str) -> None:
    """Refuse lists of secrets of the table `table` that make no sense: SettingsError with the key at fault, never with a value."""
    for key, names in (("secrets", tasks), ("scan_secrets", scans)):
        for name in names:
            if not name or "/" in name:
                raise errors.SettingsError("must be named without a slash: what follows one is a key of the secret", f"{table}.{key}.{name}")
    for name in scans:
        if name in tasks:
            raise errors.SettingsError("is among those of tasks already: a scanner's credentials are for nobody else", f"{table}.scan_secrets.{name}")


def _loopback(host: str) -> bool:
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as cause:
        raise errors.SettingsError(f"{host} cannot be resolved", "server.host") from cause
    return all(str(address).startswith("127.") or address == "::1" for address in found)


def _check_proxy(proxy: str, where: str) -> None:
    try:
        network = ipaddress.ip_network(proxy)
    except ValueError:
        raise errors.SettingsError(f"{proxy} is no address, and no network such as 10.0.0.0/8", where) from None
    if not network.prefixlen:
        raise errors.SettingsError(f"{proxy} is everybody: name the proxies", where)


def _check_store(store: StorageSettings, where: str) -> None:
    """A [[storage]] table makes sense by itself. Whether the store answers shows when it is used."""
    try:
        kind = objects.rule_of(store.url, write=store.write).place.kind
    except objects.Malformed as cause:
        raise errors.SettingsError(f"{store.url} {cause}", f"{where}.url") from cause
    if store.owners and not store.tasks:
        raise errors.SettingsError("are whose tasks may use it, and tasks = false says that none may", f"{where}.owners")
    for name in _MEANINGLESS[kind]:
        if getattr(store, name):
            raise errors.SettingsError(f"means nothing for {kind}://", f"{where}.{name}")
    if bool(store.key_variable) != bool(store.secret_variable) and kind == "s3":
        raise errors.SettingsError("key_variable and secret_variable go together", f"{where}.key_variable")
    if not re.fullmatch(r"[A-Za-z0-9-]*", store.region):
        raise errors.SettingsError("may hold letters, digits and '-'", f"{where}.region")
    if store.endpoint:
        host = _host(store.endpoint)
        if not host:
            raise errors.SettingsError("must be http(s)://host[:port]", f"{where}.endpoint")
        if kind == "s3" and not store.path_style and _is_address(host):
            raise errors.SettingsError("needs an endpoint with a name: a bucket's name cannot stand before an address", f"{where}.path_style")


def _host(url: str) -> str:
    """The host of an http(s) url; "" if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # read for its check: a port beyond 65535, or one that is no number
    except ValueError:
        return ""
    return parts.hostname or "" if parts.scheme in ("http", "https") and re.fullmatch(r"[!-~]+", url) else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_path(site: PathSettings, settings: Settings, where: str) -> None:
    """A [[paths]] table leads to something that this server may write to."""
    if not site.path.startswith("/") or _directory(site.path) == "/":
        raise errors.SettingsError("must be an absolute path below /", f"{where}.path")
    scheme = site.url.partition(":")[0].lower()
    known = _writable(settings)
    if scheme in objects.SCHEMES:
        if objects.covered([rule for rule in _rules(settings) if rule.write], site.url) is None:
            raise errors.SettingsError("must be at or below the url of a [[storage]] table with write = true", f"{where}.url")
    elif scheme not in known or not site.url[len(scheme) :].startswith("://"):
        may = ", ".join(sorted(known))
        raise errors.SettingsError(f"must be a url that can be written to: {may} (see files.uploads), or a store that [[storage]] names", f"{where}.url")
    elif scheme in NET and (why := _unreachable(site.url, settings)):
        raise errors.SettingsError(why, f"{where}.url")
    elif scheme == "file" and not any(below(file_path(site.url), root) for root in _roots(settings)):
        raise errors.SettingsError("must be at or below one of files.roots", f"{where}.url")


def _unreachable(url: str, settings: Settings) -> str:
    """Why no transfer may connect to the host of a url, as far as that can be told without asking for its addresses."""
    try:
        parts = urllib.parse.urlsplit(url)
        return guard_here(settings).literal(parts.hostname or "", parts.port or PORTS[parts.scheme])
    except ValueError:
        return "has a host or port that cannot be read"


def _check_archive(url: str, settings: Settings) -> None:
    """An archive is somewhere that this server can write to for sure: what acknowledges a write has it on disk."""
    where = "retention.archive"
    try:
        if url.startswith("file:///"):
            file_path(url)
        elif objects.covered([rule for rule in _rules(settings, server=True) if rule.write], url) is None:
            raise errors.SettingsError("must be file:///directory, or at or below the url of a [[storage]] table with write = true", where)
        elif (place := objects.place_of(url)) and (fault := "bears a signature" if place.signature else objects.fault(place.key.rstrip("/"))):
            raise errors.SettingsError(fault, where)
    except errors.Invalid as cause:
        raise errors.SettingsError(cause.public, where) from cause
    if not settings.retention.days:
        raise errors.SettingsError("says where old tasks go, and retention.days is not set: none ever does", where)


def _check_mirror(mirror: MirrorSettings, where: str) -> None:
    if not _host(mirror.url) or "@" in (url := urllib.parse.urlsplit(mirror.url)).netloc or url.query or url.fragment:
        raise errors.SettingsError("must be http(s)://host[:port][/path]; logins are taken from Docker's config.json", f"{where}.url")
    if not mirror.prefix.strip("/") or "://" in mirror.prefix:
        raise errors.SettingsError("must be a registry or a part of one, e.g. docker.io", f"{where}.prefix")


def check_spool(settings: Settings) -> None:
    """A spool for tasks on other machines: they reach it, and may not name what is in it: they could read the reports of others, and write their own."""
    url = settings.spool.url
    if url.startswith("file:"):
        raise errors.SettingsError("must be in an object store: what is on a shared volume, tasks may write to", "spool.url")
    if in_reach(url, settings):
        raise errors.SettingsError("must be where tasks may not write: give its [[storage]] table tasks = false", "spool.url")
    if not any(store.write for store in spool_access(settings).stores):
        raise errors.SettingsError("must be at or below the url of a [[storage]] table with write = true and tasks = false", "spool.url")


# -- what tasks may do ------------------------------------------------------------------------------------------------


def policy(settings: Settings) -> Policy:
    """The site's rules for tasks."""
    tasks = settings.tasks
    return Policy(
        sites=Sites(
            paths=tuple(SitePath(_directory(site.path), site.url.rstrip("/")) for site in settings.paths),
            roots=_roots(settings),
            stores=_rules(settings),
            readable=_readable(settings),
            writable=_writable(settings),
            guard=guard_here(settings),
        ),
        grants=grant_rules.grants(settings),
        live_mounts=_normal(settings.files.live_mounts),
        default_cpus=tasks.default_cpus,
        default_ram_gb=tasks.default_ram_gb,
        default_max_runtime=tasks.default_max_runtime,
        bounds=Bounds(files=tasks.max_inputs, executors=tasks.max_executors, tags=tasks.max_tags, content=tasks.max_content),
    )


def access(settings: Settings, *, server: bool = False) -> Access:
    """What stage-in and stage-out may reach; `server`: with the stores that only the server itself uses."""
    files = settings.files
    return Access(
        roots=_roots(settings),
        http=files.http,
        ftp=files.ftp,
        uploads=files.uploads,
        guard=_guard(settings),
        most_files=settings.tasks.max_staged_files,
        most_bytes=int(settings.tasks.max_staged_gb * 1e9),
        stores=tuple(msgspec.convert(store, Storage, from_attributes=True) for store in settings.storage if store.tasks or server),
    )


def spool_access(settings: Settings) -> Access:
    """How the spool is reached: its store, and nothing else."""
    whole = access(settings, server=True).narrowed(None)
    store = whole.store_of(settings.spool.url) if settings.spool.url else None
    return msgspec.structs.replace(whole, roots=(), stores=(store,) if store else ())


def live_roots(settings: Settings) -> tuple[str, ...]:
    """Directories that tasks may mount as they are."""
    return _normal(settings.files.live_mounts)


def storage(settings: Settings) -> tuple[str, ...]:
    """Where files of tasks may be, as urls for service-info; no secrets, and no store that is some owners' own."""
    return (*(f"file://{urllib.parse.quote(root)}" for root in _roots(settings)), *(rule.place.url() for rule in _rules(settings) if not rule.owners))


def in_reach(url: str, settings: Settings) -> bool:
    """True if tasks may name what is at or below a file:// url or that of an object."""
    if not url.startswith("file:"):
        return objects.covered(_rules(settings), url) is not None
    path = file_path(url)
    return any(below(path, root) or below(root, path) for root in _roots(settings))


def _readable(settings: Settings) -> frozenset[str]:
    """Schemes of urls that inputs may have."""
    http, ftp = settings.files.http, settings.files.ftp
    return frozenset({"file", *(("http", "https") if http else ()), *(("ftp", "ftps") if ftp else ())})


def _writable(settings: Settings) -> frozenset[str]:
    """Schemes of urls that outputs may have."""
    return frozenset({"file", *settings.files.uploads})


def _guard(settings: Settings) -> Guard:
    return Guard(allow=settings.files.net_allow, private=settings.files.net_private)


def guard_here(settings: Settings) -> Guard:
    """That of transfers on this machine. Whoever may ask a server that asks nobody who they are, and listens here only, reaches this machine without it."""
    everywhere = _guard(settings)
    if settings.auth.modes or not _loopback(settings.server.host):
        return everywhere
    return msgspec.structs.replace(everywhere, allow=(*map(str, guard.OWN), *everywhere.allow))


def _roots(settings: Settings) -> tuple[str, ...]:
    # A live mount's directory is named by file:// URLs as well.
    return _normal((*settings.files.roots, *settings.files.live_mounts))


def _normal(directories: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_directory, directories)))


def _directory(path: str) -> str:
    # normpath keeps two leading slashes (POSIX lets them differ); no path of a task has them.
    return "/" + posixpath.normpath(path).lstrip("/")


def _rules(settings: Settings, *, server: bool = False) -> tuple[objects.Rule, ...]:
    """`server`: those that the server itself may use, in place of tasks."""
    return tuple(
        objects.rule_of(store.url, write=store.write, owners=store.owners) for store in settings.storage if (not store.owners if server else store.tasks)
    )
