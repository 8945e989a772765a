"""The settings of the HTTP side: where it listens, TLS, and what clients may take of it. Data only."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tes_server.settings_parts import Count, Number, Part, Pause, Port


class TlsSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS by this server itself, without a proxy. Renewed files are taken up within seconds; connections that are open go on."""

    certificate: str = ""
    """PEM file with the server's certificate, then those of the authorities between it and the root. Empty = plain HTTP."""
    key: str = ""
    """PEM file with its private key, without a password; must not be readable for everybody."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that clients may speak."""
    hsts: Count = 365 * 24 * 3600
    """Seconds for which browsers that were here take https alone, for this host name at any port (`Strict-Transport-Security`); 0 = does not say so."""


class ServerSettings(Part, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTP side."""

    host: str = "127.0.0.1"
    """Address to listen on. Other than loopback only with sign-in, or with `auth.allow_open`."""
    port: Port = 8000
    """TCP port; 0 takes a free one and prints it."""
    workers: Number = 1
    """API processes. One serves some 10,000 reads a second; more than cores is never better."""
    compat: Literal["clients", "1.1"] = "clients"
    """What answers look like: "clients" keeps to states and keys that TES 1.0-era clients survive, "1.1" shows all of TES 1.1."""
    body_limit: Number = 16 * 1024 * 1024
    """Largest request body in bytes; beyond it 413."""
    id: str = "org.example.tes-server"
    """service-info `id`: reverse domain name of this installation."""
    name: str = "tes-server"
    """service-info `name`."""
    organization: str = "tes-server"
    """service-info `organization.name`."""
    organization_url: str = "https://example.org"
    """service-info `organization.url`."""
    timeout: Pause = 60.0
    """Seconds after which a worker that does not answer its supervisor is replaced."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks (`10.0.0.0/8`) of proxies that are believed who their client is (`X-Forwarded-For`), for the audit log. Nobody else is."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of other sites that may use this API from a browser, each by its exact origin: `https://portal.example.org`. None by default.
    They get no use of what the browser remembers (cookies, passwords): they must send a token themselves."""
    connections: Annotated[int, msgspec.Meta(ge=8)] = 4000
    """Connections of one API process; fewer where the limit of open files says so. Beyond it those go that have been idle longest.
    One takes some 10 kB of memory, over TLS up to 100 kB."""
    head_limit: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024
    """Largest request line and headers, together in bytes; beyond it 431 (414 for a path and query of more than 16 KiB)."""
    head_timeout: Pause = 20.0
    """Seconds that a client may take for its request line and headers, and for the handshake of TLS; then 408."""
    idle_timeout: Pause = 75.0
    """Seconds for which a connection without a request stays open."""
    transfer_timeout: Pause = 30.0
    """Seconds for which a client that sends a body or fetches an answer may stay behind 1 KB a second; then 408, or the connection ends."""
    tls: TlsSettings = TlsSettings()
