"""Which addresses of the net may be connected to for a task: the guard of everything whose host a user names.

Pure: names are resolved by whoever connects, who asks here about the very address it is about to connect to. What is said
about a url when a task is created (`literal`) only spares the user a task that fails; it is never the check that counts.
This module must never resolve a name.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",  # link-local: the metadata services of AWS, Azure, Google and others, and those of ECS and EKS
        "fe80::/10",  # the same in IPv6
        "168.63.129.16/32",  # Azure's host: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
        "100.100.100.200/32",  # Alibaba Cloud's metadata
        "192.0.0.192/32",  # Oracle Cloud's, as it was
        "fd00:ec2::/32",  # AWS's in IPv6: instances (::254), pods (::23), DNS (::253)
        "fd20:ce::254/128",  # Google's in IPv6
        "fd00:c1::a9fe:a9fe/128",  # Oracle's in IPv6
        "fd00:42::42/128",  # Scaleway's in IPv6
        "0.0.0.0/8",  # "this machine" to Linux
        "::/128",
        "224.0.0.0/4",  # multicast
        "ff00::/8",
        "255.255.255.255/32",
    )
)
"""What nothing opens: nobody keeps files there, and metadata services hand out credentials to whoever reaches them."""

OWN: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
"""This machine, or this pod: what listens here often trusts whoever reaches it."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
_TRANSLATED = ipaddress.ip_network("::ffff:0:0:0/96")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


class Guard(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The site's word on it. Travels as JSON to wherever files are moved."""

    allow: tuple[str, ...] = ()
    """addresses, networks and hosts, each with a port or without, that may be reached on this machine or in private networks"""
    private: bool = True
    """private networks may be reached: RFC 1918, RFC 6598, RFC 4193, and whatever else is not of the public net"""

    def refusal(self, address: str, host: str, port: int) -> str:
        """Why no connection to `address`, which `host` was resolved to, may be made; goes on after the host's name. "" = it may."""
        forms = set(_forms(_parsed(address)))
        if any(form in network for form in forms for network in NEVER):
            return "is at an address that transfers never connect to (link-local, metadata services, multicast)"
        openings = [opening for opening in _openings(self.allow) if opening.port in (0, port)]
        if any(opening.host == _plain(host) for opening in openings if opening.host):
            return ""
        left = [form for form in forms if not any(opening.network is not None and form in opening.network for opening in openings)]
        if any(map(_own, left)):
            return "is this very machine (loopback), which transfers connect to only where `files.net_allow` names it"
        if not self.private and not all(map(_public, left)):
            return "is in a private network, which transfers connect to only where `files.net_allow` names it, or with `files.net_private`"
        return ""

    def literal(self, host: str, port: int) -> str:
        """As `refusal`, of a host that is an address, or this machine's name in every standard; any other name may be anything."""
        plain = _plain(host)
        if plain == "localhost" or plain.endswith(".localhost"):  # RFC 6761, 6.3
            return self.refusal("127.0.0.1", host, port) and self.refusal("::1", host, port)
        try:
            return self.refusal(plain, host, port)
        except ValueError:
            return ""


REGISTRIES = Guard(allow=tuple(map(str, OWN)))
"""For registries of images: many are on the machine itself, and only what speaks their protocol gives anything."""


def registry(image: str) -> str:
    """Why nobody may be sent to the registry that the name of an image begins with, "" = it may be. Only of addresses: see `literal`."""
    host, slash, _ = image.partition("/")
    name = re.sub(r":[0-9]+$", "", host)
    return f"names a registry that {why}" if slash and (why := REGISTRIES.literal(name, 0)) else ""


def is_own(address: str) -> bool:
    """True if an address is this machine's loopback, however it is written."""
    return any(map(_own, _forms(_parsed(address))))


class Opening(NamedTuple):
    """What one entry of `Guard.allow` stands for: a network or a host, at one port or (0) at any."""

    network: Network | None
    host: str
    port: int


def opening(text: str) -> Opening:
    """One entry: `10.0.0.0/8`, `127.0.0.1:8080`, `[::1]:8080`, `data.example.org`, `data.example.org:8080`. ValueError in words."""
    place, number = text, 0
    found = re.fullmatch(r"(\[[^\]]*\](?:/[0-9]+)?|[^:]*):([0-9]{1,5})", text)
    if found:
        place, number = found[1], int(found[2])
        if not 0 < number < 65536:
            raise ValueError("names a port that there is not")
    place = place.replace("[", "").replace("]", "")
    try:
        network = ipaddress.ip_network(place)
    except ValueError:
        if not _HOST.fullmatch(_plain(place)) or "/" in place or re.fullmatch(r"[0-9.]*", place):
            raise ValueError("must be an address, a network (10.0.0.0/8) or a host, each with :port or without") from None
        return Opening(None, _plain(place), number)
    for never in NEVER:
        if network.version == never.version and network.subnet_of(never):  # type: ignore[arg-type] # of one version, as was just asked
            raise ValueError("is among the addresses that nothing opens (link-local, metadata services, multicast)")
    return Opening(network, "", number)


@functools.lru_cache(maxsize=64)
def _openings(allow: tuple[str, ...]) -> tuple[Opening, ...]:
    return tuple(map(opening, allow))


def _plain(host: str) -> str:
    return host.lower().strip("[]").removesuffix(".")


def _parsed(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])


def _forms(address: Address) -> Iterator[Address]:
    """An address, and those of IPv4 that a connection to it may end at."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:  # the same, to the kernel
        yield address.ipv4_mapped
        return
    yield address
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    isatap = (int(address) >> 32) & 0xFFFFFFFF in (0x00005EFE, 0x02005EFE)
    if address in _NAT64 or address in _NAT64_LOCAL or address in _TRANSLATED or isatap or (address in _COMPATIBLE and int(address) > 1):
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    yield from address.teredo or ()


def _own(address: Address) -> bool:
    return any(address in network for network in OWN)


def _public(address: Address) -> bool:
    return address.is_global and not (isinstance(address, ipaddress.IPv6Address) and address.is_site_local)
