"""The guard: which addresses transfers connect to, however they are written."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server.plan import guard
from tes_server.plan.guard import Guard

NEVER = ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
NEVER_6 = ["fe80::1", "fe80::1%eth0", "fd00:ec2::254", "fd20:ce::254", "ff02::1", "::"]
OWN = ["127.0.0.1", "127.255.0.9", "::1"]
PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "fec0::1", "198.18.0.1", "240.0.0.1"]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"]

WIDE = Guard(allow=("0.0.0.0/0", "::/0", "host.example"))
STRICT = Guard(private=False)


def embedded(text: str) -> list[str]:
    """The forms in which IPv6 carries an address of IPv4."""
    four = int(ipaddress.IPv4Address(text))
    forms = {
        "mapped": 0xFFFF << 32 | four,
        "compatible": four,
        "translated": 0xFFFF << 48 | four,
        "nat64": 0x0064_FF9B << 96 | four,
        "local nat64": 0x0064_FF9B_0001 << 80 | four,
        "6to4": 0x2002 << 112 | four << 80 | 1,
        "teredo": 0x2001_0000 << 96 | 0x01010101 << 64 | (four ^ 0xFFFFFFFF),
        "teredo server": 0x2001_0000 << 96 | four << 64 | (0x01010101 ^ 0xFFFFFFFF),
        "isatap": 0x2606_4700 << 96 | 0x5EFE << 32 | four,
    }
    return [str(ipaddress.IPv6Address(number)) for number in forms.values()]


@pytest.mark.parametrize("address", [*NEVER, *NEVER_6])
def test_nothing_opens_metadata_services(address: str) -> None:
    for site in (Guard(), STRICT, WIDE):
        assert "never connect" in site.refusal(address, "host.example", 80)


@pytest.mark.parametrize("address", OWN)
def test_this_machine_is_opened_by_its_name_alone(address: str) -> None:
    assert "loopback" in Guard().refusal(address, "host.example", 80)
    assert "`files.net_allow`" in STRICT.refusal(address, "host.example", 80)
    assert WIDE.refusal(address, "other.example", 80) == ""
    assert Guard(allow=("HOST.example",)).refusal(address, "host.example.", 80) == ""


@pytest.mark.parametrize("address", PRIVATE)
def test_private_networks_by_the_setting(address: str) -> None:
    assert Guard().refusal(address, "host.example", 80) == ""
    assert "`files.net_private`" in STRICT.refusal(address, "host.example", 80)
    assert Guard(private=False, allow=(address,)).refusal(address, "host.example", 80) == ""


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_net_is_open(address: str) -> None:
    assert STRICT.refusal(address, "host.example", 80) == ""


@given(st.ip_addresses(v=4).map(str))
def test_no_form_of_an_address_says_more_than_the_address(address: str) -> None:
    for site in (Guard(), STRICT):
        refused = site.refusal(address, "h", 80)
        for form in embedded(address):
            if refused and int(ipaddress.ip_address(form)) > 1:  # 0.0.0.0 and 0.0.0.1 "compatible" are `::` and `::1` themselves
                assert site.refusal(form, "h", 80), (form, refused)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254"])
def test_every_form_of_what_is_refused(address: str) -> None:
    assert len(embedded(address)) == 9
    for form in embedded(address):
        assert STRICT.refusal(form, "host.example", 80) != "", form


@pytest.mark.parametrize(
    ("entry", "address", "host", "port", "opens"),
    [
        ("127.0.0.1", "127.0.0.1", "h", 80, True),
        ("127.0.0.1", "::ffff:127.0.0.1", "h", 80, True),
        ("127.0.0.1", "127.0.0.2", "h", 80, False),
        ("127.0.0.1:8080", "127.0.0.1", "h", 8080, True),
        ("127.0.0.1:8080", "127.0.0.1", "h", 80, False),
        ("[::1]:8080", "::1", "h", 8080, True),
        ("[::1]:8080", "::1", "h", 80, False),
        ("::1", "::1", "h", 80, True),
        ("127.0.0.0/8:81", "127.9.9.9", "h", 81, True),
        ("data.example", "127.0.0.1", "data.example", 80, True),
        ("data.example", "127.0.0.1", "other.data.example", 80, False),
        ("data.example:8080", "127.0.0.1", "data.example", 80, False),
        ("data.example", "169.254.169.254", "data.example", 80, False),
        ("127.0.0.1", "64:ff9b::7f00:1", "h", 80, True),
    ],
)
def test_entries(entry: str, address: str, host: str, port: int, opens: bool) -> None:
    assert (Guard(allow=(entry,), private=False).refusal(address, host, port) == "") is opens


@pytest.mark.parametrize(
    "entry",
    [
        "", ":80", "a b", "host:0", "host:65536", "host:http", "10.0.0.1/8", "10.0.0.256", "1.2.3", "http://host", "user@host", "*", "*.example", "host/8",
        "169.254.169.254", "169.254.0.0/16", "fe80::/10", "224.0.0.0/8", "fd00:ec2::254", "-host", "a..b", "a" * 254,
    ],
)  # fmt: skip
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ValueError, match=r"must be an address|a port that there is not|nothing opens"):
        guard.opening(entry)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "[::1]", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1%1"])
def test_literal_addresses_are_told_before_anything_runs(host: str) -> None:
    assert Guard().literal(host, 80) != ""


@pytest.mark.parametrize("host", ["example.org", "10.0.0.1", "localhost.example.org", "2130706433", "0x7f.1", ""])
def test_other_names_may_be_anything(host: str) -> None:
    assert Guard().literal(host, 80) == ""


def test_localhost_is_open_where_one_of_its_addresses_is() -> None:
    assert Guard(allow=("[::1]:81",)).literal("localhost", 81) == ""
    assert Guard(allow=("[::1]:81",)).literal("localhost", 82) != ""


@pytest.mark.parametrize(
    ("image", "refused"),
    [
        ("169.254.169.254/x", True),
        ("169.254.170.2:80/x:tag", True),
        ("[fe80::1]:5000/x", True),
        ("[::ffff:a9fe:a9fe]/x", True),
        ("127.0.0.1:5000/x", False),
        ("localhost:5000/x", False),
        ("10.0.0.1:5000/x", False),
        ("debian", False),
        ("debian:12", False),
        ("ghcr.io/a/b@sha256:" + "0" * 64, False),
    ],
)
def test_registries(image: str, refused: bool) -> None:
    assert bool(guard.registry(image)) is refused


def test_it_travels_as_json() -> None:
    site = Guard(allow=("127.0.0.1:80",), private=False)
    assert msgspec.json.decode(msgspec.json.encode(site), type=Guard) == site
