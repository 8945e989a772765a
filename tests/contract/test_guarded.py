"""Attacks on the site by urls: no name, redirect, number or change of mind of a resolver leads a transfer where the guard does not."""

from __future__ import annotations

import contextlib
import ipaddress
import pathlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tes_server import errors
from tes_server.digests.lookup import PACE
from tes_server.filer import transfer, web_request
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.model import image_names
from tes_server.plan import guard
from tes_server.plan.guard import Guard
from tes_server.plan.steps import Collect, Fetch, StageIn, StageOut
from tes_server.runner import azure
from tes_server.runner.image_connections import Connections
from tes_server.runner.image_registry import Registry
from tests.contract import ftp_server, web_server
from tests.contract.web_server import Answer, WebServer, ranged

SECRET = b"what listens on loopback tells everybody"
OTHER = "127.0.0.2"
"""Stands for a server elsewhere: opened by its address, where 127.0.0.1 is not."""


def access(**changes: Any) -> Access:
    return Access(**{"guard": Guard(allow=(OTHER,)), "tries": 3, "first_delay": 0.001, "longest_delay": 0.01, "uploads": ("http", "ftp"), **changes})


def staged(url: str, volume: pathlib.Path, known: Access) -> bytes:
    transfer.stage_in(StageIn(directories=(), inputs=(Fetch(path="/w/in", url=url, field="/inputs/0"),)), volume, known, lambda: False)
    return (volume / "w/in").read_bytes()


def refused(url: str, volume: pathlib.Path, known: Access) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        staged(url, volume, known)
    assert list(volume.rglob("in")) == []
    return caught.value


@pytest.fixture
def own() -> Iterator[WebServer]:
    """What listens on this machine and trusts whoever reaches it."""
    with web_server.serving() as server:
        server.script = lambda request: ranged(SECRET, request)
        yield server


@pytest.fixture
def elsewhere() -> Iterator[WebServer]:
    with web_server.serving(host=OTHER) as server:
        yield server


class Names:
    """A resolver that may change its mind: the answers for one name in turn, the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *answers: str) -> None:
        self.asked = 0
        real = socket.getaddrinfo

        def answer(host: Any, port: Any, *args: Any, **more: Any) -> Any:
            if host != name:
                return real(host, port, *args, **more)
            address = answers[min(self.asked, len(answers) - 1)]
            self.asked += 1
            return [item for text in address.split() for item in real(text, port, *args, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "localhost", "LocalHost", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "①②⑦.⓪.⓪.①", "user:word@127.0.0.1", "example.org@127.0.0.1",
    ],
)  # fmt: skip
def test_every_way_to_write_this_machine(own: WebServer, tmp_path: pathlib.Path, host: str) -> None:
    error = refused(own.url.replace("127.0.0.1", host) + "/?sig=hunter2", tmp_path, access())
    assert own.requests == []
    if host in ("127.0.0.1.", "①②⑦.⓪.⓪.①"):
        return  # names that not every resolver knows: no way in, and that counts
    assert (error.code, error.transient) == ("INPUT_DENIED", False)
    assert error.public.startswith("/inputs/0: http://")
    assert "`files.net_allow`" in error.public
    assert not {"hunter2", "word"} & set(error.public.replace("=", " ").replace("@", " ").replace(":", " ").split())


def test_it_is_there_where_the_settings_open_it(own: WebServer, tmp_path: pathlib.Path) -> None:
    port = own.url.rpartition(":")[2]
    refused(own.url, tmp_path, access(guard=Guard(allow=("127.0.0.1:1",))))
    for entry in (f"127.0.0.1:{port}", "127.0.0.0/8", f"localhost:{port}"):
        assert staged(own.url.replace("127.0.0.1", "localhost"), tmp_path, access(guard=Guard(allow=(entry,)))) == SECRET


@pytest.mark.parametrize("status", sorted(web_request._REDIRECTS))
def test_redirects_to_this_machine(own: WebServer, elsewhere: WebServer, tmp_path: pathlib.Path, status: int) -> None:
    elsewhere.script = lambda _: Answer(status, b"", {"Location": own.url.replace("127.0.0.1", "0x7f.1")})
    error = refused(elsewhere.url, tmp_path, access())
    assert (error.code, error.transient) == ("INPUT_DENIED", False)
    assert "0x7f.1 is this very machine" in error.public
    assert own.requests == []
    assert len(elsewhere.requests) == 1


def test_redirects_to_metadata_whatever_is_open(elsewhere: WebServer, tmp_path: pathlib.Path) -> None:
    elsewhere.script = lambda _: Answer(302, b"", {"Location": "http://169.254.169.254/latest/meta-data/iam/"})
    assert "metadata" in refused(elsewhere.url, tmp_path, access(guard=Guard(allow=("0.0.0.0/0",)))).public


def test_a_name_that_changes_its_address(own: WebServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a good address for a check, another one for what comes after it. Each connection is checked, and made to what was checked."""
    names = Names(monkeypatch, "rebind.example", OTHER, "127.0.0.1")
    port = int(own.url.rpartition(":")[2])
    with _at(OTHER, port) as elsewhere:
        elsewhere.script = lambda _: Answer(503, b"", {"Connection": "close"})
        error = refused(f"http://rebind.example:{port}/", tmp_path, access())
        assert len(elsewhere.requests) == 1
    assert error.code == "INPUT_DENIED"
    assert names.asked == 2  # once for each connection: no look-up of a check apart from that of the connection
    assert own.requests == []


def test_a_name_of_several_addresses(own: WebServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refused ones are passed over, also when no other one answers."""
    Names(monkeypatch, "both.example", f"127.0.0.1 {OTHER}")
    port = int(own.url.rpartition(":")[2])
    error = refused(f"http://both.example:{port}/", tmp_path, access())
    assert error.transient  # nobody listens at the other one, now
    with _at(OTHER, port) as elsewhere:
        elsewhere.script = lambda request: ranged(b"public", request)
        assert staged(f"http://both.example:{port}/", tmp_path, access()) == b"public"
    assert own.requests == []


@contextlib.contextmanager
def _at(host: str, port: int) -> Iterator[WebServer]:
    with web_server.serving(host=host, port=port) as server:
        yield server


def test_proxies_of_the_environment_are_not_asked(own: WebServer, elsewhere: WebServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself, and reach what we may not."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, own.url)
    elsewhere.script = lambda request: ranged(b"direct", request)
    assert staged(elsewhere.url, tmp_path, access()) == b"direct"
    assert own.requests == []


def test_private_networks_where_they_are_closed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, "intranet.example", "10.255.255.254")
    for scheme in ("http", "https", "ftp", "ftps"):
        error = refused(f"{scheme}://intranet.example/x", tmp_path, access(guard=Guard(private=False)))
        assert (error.code, error.transient) == ("INPUT_DENIED", False)
        assert "intranet.example is in a private network" in error.public


def test_the_name_of_the_url_is_what_tls_and_the_host_line_are_about(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is made to a checked address; the certificate must be the name's nevertheless."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=x",
        "-addext",
        "subjectAltName=DNS:named.example",
    ]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    told: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: told.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    Names(monkeypatch, "named.example", OTHER)
    with web_server.serving(context, host=OTHER) as server:
        server.script = lambda request: ranged(b"right", request)
        port = server.url.rpartition(":")[2]
        assert staged(f"https://named.example:{port}/", tmp_path, access()) == b"right"
        assert told == ["named.example"]
        assert server.requests[0].headers["host"] == f"named.example:{port}"
        with pytest.raises(errors.StagingError, match="certificate"):
            staged(f"https://{OTHER}:{port}/", tmp_path, access())


def test_outputs(own: WebServer, elsewhere: WebServer, tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    elsewhere.script = lambda _: Answer(307, b"", {"Location": own.url})
    for url in (own.url + "/x", elsewhere.url + "/x", "ftp://127.0.0.1/x"):
        collected = transfer.stage_out(StageOut(outputs=(Collect(path="/out", url=url, shown=url, field="/outputs/0"),)), tmp_path, access(), lambda: False)
        assert collected.error is not None
        assert (collected.error.code, collected.error.transient) == ("OUTPUT_DENIED", False)
    assert own.requests == []


@pytest.mark.parametrize("command", ["PASV", "EPSV"])
def test_data_connections_of_an_opened_ftp_server(tmp_path: pathlib.Path, command: str) -> None:
    """The settings open the port of its commands; data come from others, at the same address and nowhere else."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "x").write_bytes(b"data")
    with ftp_server.serving(home) as server:
        port = server.url("x").split(":")[-1].split("/")[0]
        if command == "PASV":
            server.faults.always = {"EPSV": "500 what?"}
        assert staged(server.url("x"), tmp_path, access(guard=Guard(allow=(f"127.0.0.1:{port}",)))) == b"data"


def test_images_come_from_no_metadata_service() -> None:
    connections = Connections(1.0, 1.0, proxies=False)
    for host in ("169.254.169.254", "[fe80::1]", "0.0.0.0"):
        with pytest.raises(errors.EngineError, match="in a network that registries may not be in") as caught:
            connections.open("GET", f"http://{host}/v2/", {})
        assert not caught.value.transient
    connections.close()


def test_a_registry_that_sends_us_to_a_metadata_service(elsewhere: WebServer) -> None:
    """By a redirect of a blob, and by the realm of its token server."""
    registry = Registry(plain_http=frozenset({elsewhere.url.removeprefix("http://")}), docker_config=None, pace=PACE)
    name = image_names.parse(elsewhere.url.removeprefix("http://") + "/a:b")
    there = "http://169.254.169.254/latest/"
    answers = [Answer(307, b"", {"Location": there}), Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{there}",service="x"'})]
    elsewhere.script = lambda _: answers.pop()
    for _ in range(2):
        with pytest.raises(errors.EngineError, match=r"169\.254\.169\.254 is in a network") as caught:
            registry.manifest(name)
        assert not caught.value.transient
    assert answers == []
    registry.connections.close()


def test_a_registry_elsewhere_that_sends_us_to_this_machine(own: WebServer, elsewhere: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry may be here; but only an image's name, or one that is here already, leads to what is."""
    monkeypatch.setattr(guard, "OWN", (ipaddress.ip_network("127.0.0.1/32"),))
    registry = Registry(plain_http=frozenset({elsewhere.url.removeprefix("http://")}), docker_config=None, pace=PACE)
    name = image_names.parse(elsewhere.url.removeprefix("http://") + "/a:b")
    answers = [Answer(307, b"", {"Location": own.url}), Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{own.url}",service="x"'})]
    elsewhere.script = lambda _: answers.pop()
    for _ in range(2):
        with pytest.raises(errors.EngineError, match="is in a network"):
            registry.manifest(name)
    assert (answers, own.requests) == ([], [])
    own.script = lambda request: ranged(b"{}", request) if request.path == "/there" else Answer(307, b"", {"Location": "/there"})
    assert registry.manifest(image_names.parse(own.url.removeprefix("http://") + "/a:b"))[0] == b"{}"
    assert own.paths() == ["/v2/a/manifests/b", "/there"]
    registry.connections.close()


def test_a_control_that_stops_still_stops(own: WebServer) -> None:
    """The guard's own dialer of a registry's connections is the one that a control ends."""
    connections = Connections(1.0, 1.0, proxies=False, control=Control(lambda: True))
    with pytest.raises(errors.EngineError, match="did not answer in time"):
        connections.open("GET", own.url, {})
    assert own.requests == []


def test_the_identity_of_a_node_is_asked_all_the_same(elsewhere: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the metadata service that is asked, by us and nobody else."""
    monkeypatch.setattr(guard, "NEVER", (ipaddress.ip_network(f"{OTHER}/32"),))
    monkeypatch.setenv(azure.METADATA, elsewhere.url)
    elsewhere.script = lambda request: ranged(b'{"access_token": "for " }', request)
    assert azure._token("https://vault.azure.net", "") == "for "
    with pytest.raises(errors.EngineError, match="is in a network"):
        Connections(1.0, 1.0, proxies=False).open("GET", elsewhere.url, {})
