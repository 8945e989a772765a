"""From the settings to what the HTTP side is told; whether that makes sense. Must never open a socket."""

from __future__ import annotations

import datetime
import resource
import urllib.parse

from tes_server import errors
from tes_server.api.certificate import Certificate
from tes_server.api.crowd import Bounds
from tes_server.settings_server import ServerSettings

SOON = datetime.timedelta(days=14)
"""How long before its end a certificate is worth a warning: whoever renews by hand needs to hear of it, whoever does by machine did it before."""

SPARE = 512
"""Open files that are kept for all but connections: the store, issuers of tokens, files of pages."""


def check(server: ServerSettings) -> None:
    """Refuse settings that contradict each other: SettingsError with the key at fault. Reads no file."""
    for name, other in (("certificate", "key"), ("key", "certificate")):
        if getattr(server.tls, other) and not getattr(server.tls, name):
            raise errors.SettingsError(f"must be given with server.tls.{other}", f"server.tls.{name}")
    for number, origin in enumerate(server.cors_origins):
        if not _is_origin(origin):
            raise errors.SettingsError(
                "must be an origin as browsers send it: https://portal.example.org, in lower case without a path", f"server.cors_origins[{number}]"
            )


def _is_origin(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        return (
            usual is not None
            and bool(parts.hostname)
            and f"{parts.scheme}://{parts.netloc}" == text == text.lower()
            and "@" not in text
            and parts.port != usual
            and "*" not in text
        )
    except ValueError:
        return False


def certificate(server: ServerSettings) -> Certificate | None:
    """What TLS needs; None for plain HTTP. Raises SettingsError where the files cannot be used."""
    return Certificate(server.tls.certificate, server.tls.key, server.tls.minimum) if server.tls.certificate else None


def condition(server: ServerSettings, now: datetime.datetime) -> tuple[bool, str] | None:
    """Whether TLS works and until when, in words; None for plain HTTP."""
    try:
        found = certificate(server)
        return None if found is None else (True, told(server, found, now))
    except errors.SettingsError as cause:
        return False, f"TLS: {cause}"


def told(server: ServerSettings, found: Certificate, now: datetime.datetime) -> str:
    """What a certificate is good for, in words. Raises SettingsError where its file cannot be read any more."""
    until = found.until()
    soon = f"; that is in {max(0, (until - now).days)} days: renew it" if until - now < SOON else ""
    return f"TLS {server.tls.minimum} or newer with {server.tls.certificate}, good until {until:%Y-%m-%d}{soon}"


def bounds(server: ServerSettings) -> Bounds:
    """What clients may take of this process, which may open so many files as it may now."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = files - min(SPARE, files // 2)
    return Bounds(
        connections=min(server.connections, max(room, 1)),
        head_size=server.head_limit,
        head_time=server.head_timeout,
        idle_time=server.idle_timeout,
        transfer_time=server.transfer_timeout,
        body_size=4 * server.body_limit,
    )


def allow_files(server: ServerSettings) -> None:
    """Let this process open as many files as its connections and the rest need, as far as it may say so itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = server.connections + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
