"""The schemes `ftp` and `ftps` under the contract, on a real server; and servers that break off, refuse and lie."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.filer import ftp, ftp_connection, transfer, wording
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.wording import Side
from tes_server.plan.guard import Guard
from tes_server.plan.steps import Fetch, StageIn
from tests.contract import ftp_server, scheme_contract
from tests.contract.ftp_server import FtpServer
from tests.contract.scheme_contract import SECRET, fetched, tree_of
from tests.guards import LOOPBACK

ACCESS = Access(guard=LOOPBACK, uploads=("ftp", "ftps"), part_bytes=1024 * 1024, first_delay=0.001, longest_delay=0.01, tries=3, read_timeout=30)
DATA = os.urandom(3 * 1024 * 1024 + 17)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def server(home: pathlib.Path) -> Iterator[FtpServer]:
    with ftp_server.serving(home) as running:
        yield running


def made(control: Control, side: Side, access: Access = ACCESS) -> ftp.Ftp:
    return ftp.Ftp(access, control, "attempt", side)


class FtpCase:
    """Closes what its tests made."""

    @pytest.fixture(autouse=True)
    def _server(self, server: FtpServer) -> Iterator[None]:
        self.server = server
        self._made: list[ftp.Ftp] = []
        yield
        for one in self._made:
            one.close()

    def opened(self, control: Control, side: Side) -> ftp.Ftp:
        self._made.append(made(control, side))
        return self._made[-1]


class TestFtpReader(FtpCase, scheme_contract.ReaderContract):
    def publish(self, name: str, data: bytes) -> str:
        (self.server.home / name).write_bytes(data)
        return self.server.url(urllib.parse.quote(name))

    def publish_denied(self) -> str:
        (self.server.home / "closed").write_bytes(b"x")
        return self.server.url("closed", f"listed:{SECRET}")

    def reader(self, control: Control) -> ftp.Ftp:
        return self.opened(control, wording.INPUT)


class TestFtpWriter(FtpCase, scheme_contract.WriterContract):
    def writer(self) -> ftp.Ftp:
        return self.opened(self.control, wording.OUTPUT)

    def url(self) -> str:
        return self.server.url("out/put")

    def denied_url(self) -> str:
        return self.server.url("out/put", f"reader:{SECRET}")

    def arrived(self) -> dict[str, bytes]:
        base = self.server.home / "out" / "put"
        return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control(lambda: False)
    yield made
    made.end()


def get(url: str, control: Control, access: Access = ACCESS) -> bytes:
    reader = made(control, wording.INPUT, access)
    try:
        [file] = reader.source(url)
        assert isinstance(file, ftp.FtpFile)
        return fetched(file, control)
    finally:
        reader.close()


def tree(url: str, control: Control, access: Access = ACCESS) -> dict[str, object]:
    reader = made(control, wording.INPUT, access)
    try:
        return tree_of(reader.source(url), control)
    finally:
        reader.close()


def put(url: str, data: bytes, control: Control, tmp_path: pathlib.Path, access: Access = ACCESS) -> int:
    writer = made(control, wording.OUTPUT, access)
    try:
        folder, name = writer.split(url)
        return writer.target(folder).put(name, scheme_contract.local_file(tmp_path / "local", data))
    finally:
        writer.close()


def refused(url: str, control: Control, access: Access = ACCESS) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        tree(url, control, access)
    assert SECRET not in caught.value.public
    return caught.value


# -- who asks, and where --------------------------------------------------------------------------------------------


def test_without_a_login_it_is_anonymous(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(b"x")
    assert get(server.url("x", login=""), control) == b"x"
    assert "USER anonymous" in server.commands


@pytest.mark.parametrize("login", [f"user:not-{SECRET}", f"nobody:{SECRET}"])
def test_a_wrong_login_is_denied_and_not_repeated(server: FtpServer, control: Control, login: str) -> None:
    error = refused(server.url("x", login), control)
    assert (error.code, error.transient) == ("INPUT_DENIED", False)
    assert server.names().count("PASS") == 1


def test_a_login_in_percent_signs(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(b"x")
    assert get(server.url("x", "us%65r:hunter%32"), control) == b"x"


def test_a_server_that_tells_what_it_was_told(server: FtpServer, control: Control) -> None:
    server.faults.always = {"SIZE": f"500 no {SECRET}", "CWD": f"550 {SECRET} is no word for user", "RETR": f"550 {SECRET}"}
    assert refused(server.url("x"), control).public == "the server answered 550"


def test_closed_networks(server: FtpServer, control: Control) -> None:
    error = refused(server.url("x"), control, Access(guard=Guard()))
    assert error.code == "INPUT_DENIED"
    assert server.commands == []


def test_metadata_services_are_closed_by_default(control: Control) -> None:
    assert refused("ftp://169.254.169.254/x", control, Access()).code == "INPUT_DENIED"


def test_a_server_cannot_send_us_elsewhere(server: FtpServer, control: Control) -> None:
    """PASV names an address; we stay with the server's own, whatever it says."""
    (server.home / "x").write_bytes(b"x")
    server.faults.answers["PASV"] = ["227 Entering passive mode (169,254,169,254,0,80)."]
    access = Access(guard=LOOPBACK, first_delay=0.001, tries=2, connect_timeout=5)
    assert get(server.url("x"), control, access) == b"x"
    assert server.names().count("PASV") == 2  # nobody listens on port 80 of this machine's 127.0.0.1, or no FTP data


@pytest.mark.parametrize("path", ["a%0d%0aDELE x", "a%00", "../x", "a/%2e%2e/x"])
def test_urls_that_are_none(server: FtpServer, control: Control, path: str) -> None:
    assert refused(server.url(path), control).public == "is no valid url"
    assert server.commands == []


@pytest.mark.parametrize("url", ["ftp:///x", "ftp://[::1/x", "ftp://h:99999/x"])
def test_hosts_that_are_none(control: Control, url: str) -> None:
    assert refused(url, control).public == "is no valid url"


def test_paths_begin_where_the_login_does(server: FtpServer, control: Control) -> None:
    (server.home / "a").mkdir()
    (server.home / "a" / "x").write_bytes(b"x")
    for path in ("a/x", "/a/x", "%2Fa/x", "a/x;type=i"):
        assert get(server.url(path), control) == b"x"


@pytest.mark.parametrize("path", ["a?b", "a%3Fb"])
def test_a_question_mark_is_a_sign_of_a_name(server: FtpServer, control: Control, path: str) -> None:
    (server.home / "a?b").write_bytes(b"x")
    assert get(server.url(path), control) == b"x"


# -- directories ----------------------------------------------------------------------------------------------------


def planted(home: pathlib.Path) -> dict[str, object]:
    (home / "d" / "deep" / "er").mkdir(parents=True)
    (home / "d" / "empty").mkdir()
    found: dict[str, object] = {"": None, "deep": None, "deep/er": None, "empty": None}
    for name in ("a", ".hidden", "with space", "  two  ", "tür % ü", "deep/er/x", "a -> b", "#1;x=y"):
        (home / "d" / name).write_bytes(name.encode())
        found[name] = name.encode()
    return found


@pytest.mark.parametrize("answers", [{}, {"MLSD": "500 no such command"}, {"MLSD": "502 not here", "SIZE": "500 nor this"}])
def test_directories(server: FtpServer, control: Control, answers: dict[str, str]) -> None:
    """By MLSD, or by LIST where a server knows no better."""
    expected = planted(server.home)
    server.faults.always = answers
    assert tree(server.url("d"), control) == expected
    assert tree(server.url("d/"), control) == expected


def test_an_executable_file_stays_one(server: FtpServer, control: Control) -> None:
    (server.home / "d").mkdir()
    (server.home / "d" / "run").write_bytes(b"x")
    (server.home / "d" / "run").chmod(0o755)
    for answers in ({}, {"MLSD": "500 no"}):
        server.faults.always = answers
        reader = made(control, wording.INPUT)
        [run] = [entry for entry in reader.source(server.url("d")) if entry.name]
        reader.close()
        assert isinstance(run, ftp.FtpFile)
        assert run.executable


def test_links_in_a_listing(server: FtpServer, control: Control) -> None:
    (server.home / "d").mkdir()
    (server.home / "x").write_bytes(b"there")
    (server.home / "d" / "file").symlink_to("../x")
    (server.home / "d" / "round").symlink_to(".")
    (server.home / "d" / "gone").symlink_to("nowhere")
    server.faults.always = {"MLSD": "500 no"}
    assert tree(server.url("d"), control) == {
        "": None, "file": b"there", "round": ("left", "is a link that leads to a directory, which FTP cannot follow safely"),
        "gone": ("left", "is a link that leads nowhere"),
    }  # fmt: skip


def test_a_link_round_in_circles_that_is_shown_as_a_directory(server: FtpServer, control: Control) -> None:
    (server.home / "d").mkdir()
    (server.home / "d" / "round").symlink_to(".")
    assert tree(server.url("d"), control) == {"": None, "round": None, "round/round": ("left", "is a directory above it")}


def test_a_listing_that_nobody_understands(server: FtpServer, control: Control) -> None:
    (server.home / "d").mkdir()
    (server.home / "d" / "x").write_bytes(b"x")
    server.faults.always = {"MLSD": "500 no"}
    server.faults.strange_list = b"what a strange line\r\n"
    assert "not understood: 'what a strange line'" in refused(server.url("d"), control).public


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "../d", "./x", "a//x"])
@pytest.mark.parametrize("kind", ["-", "d"])
def test_names_in_a_listing_that_lead_elsewhere(server: FtpServer, tmp_path: pathlib.Path, name: str, kind: str) -> None:
    (server.home / "d").mkdir()
    server.faults.always = {"MLSD": "500 no"}
    server.faults.strange_list = f"{kind}rw-r--r-- 1 0 0 5 Jun  1 09:09 {name}\r\n".encode()
    volume = tmp_path / "task" / "volume"
    volume.mkdir(parents=True)
    order = StageIn(directories=(), inputs=(Fetch(path="/w/in", url=server.url("d"), field="/inputs/0"),))
    with pytest.raises(errors.StagingError, match="which leads out of it") as caught:
        transfer.stage_in(order, volume, ACCESS, lambda: False)
    assert not caught.value.transient
    assert [path for path in tmp_path.rglob("*") if path.is_file() and server.home not in path.parents] == []


def test_few_connections_to_one_server(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    (server.home / "d").mkdir()
    for number in range(40):
        (server.home / "d" / str(number)).write_bytes(b"x" * 1000)
    reader = made(control, wording.INPUT)
    files = [entry for entry in reader.source(server.url("d")) if isinstance(entry, ftp.FtpFile)]
    threads = [threading.Thread(target=fetched, args=(file, control)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert server.most <= ACCESS.parts
    assert server.names().count("RETR") == 40


# -- broken transfers -----------------------------------------------------------------------------------------------


def test_resumed_where_it_broke_off(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(DATA)
    server.faults.cut_after = [1_000_000, 1_000_000]
    assert get(server.url("x"), control) == DATA
    assert len([name for name in server.names() if name == "REST"]) == 2


def test_started_again_where_a_server_cannot_resume(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(DATA)
    server.faults.cut_after = [1_000_000]
    server.faults.always = {"REST": "502 never"}
    assert get(server.url("x"), control) == DATA


def test_started_again_where_the_file_changed_meanwhile(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(DATA)
    server.faults.cut_after = [1_000_000]
    server.faults.answers["MDTM"] = ["213 20200101000000"]
    assert get(server.url("x"), control) == DATA
    assert "REST" not in server.names()


def test_long_transfer_may_break_more_often_than_tries(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(DATA)
    server.faults.cut_after = [500_000] * 6
    assert get(server.url("x"), control, Access(guard=LOOPBACK, part_bytes=300_000, first_delay=0.001, tries=2)) == DATA


def test_always_broken(server: FtpServer, control: Control) -> None:
    (server.home / "x").write_bytes(DATA)
    server.faults.cut_after = [100] * 9
    error = refused(server.url("x"), control)
    assert (error.code, error.transient) == ("INPUT_ERROR", True)
    assert server.names().count("RETR") == ACCESS.tries


@pytest.mark.parametrize("size", ["213 100", "213 99999999"])
def test_a_size_that_is_a_lie(server: FtpServer, control: Control, size: str) -> None:
    (server.home / "x").write_bytes(DATA)
    server.faults.always = {"SIZE": size}
    error = refused(server.url("x"), control)
    assert (error.code, error.transient) == ("INPUT_ERROR", True)


@pytest.mark.parametrize("command", ["USER", "PASV", "RETR", "SIZE", "TYPE"])
@pytest.mark.parametrize("answer", ["421 too many of you", "425 not now", "garbage", "999 what", "x" * 10_000])
def test_strange_answers_are_tried_again(server: FtpServer, control: Control, command: str, answer: str) -> None:
    (server.home / "x").write_bytes(b"x")
    server.faults.answers[command] = [answer]
    assert get(server.url("x"), control) == b"x"


@pytest.mark.parametrize(
    ("answers", "code"),
    [({"SIZE": "550 No such file", "CWD": "550 Failed to change directory."}, "INPUT_NOT_FOUND"), ({"RETR": "550 Permission denied."}, "INPUT_DENIED"),
     ({"SIZE": "550 Access is denied."}, "INPUT_DENIED"), ({"USER": "530 no"}, "INPUT_DENIED"), ({"PASV": "502 no"}, "INPUT_ERROR")],
)  # fmt: skip
def test_codes(server: FtpServer, control: Control, answers: dict[str, str], code: str) -> None:
    (server.home / "x").write_bytes(b"x")
    server.faults.always = answers
    error = refused(server.url("x"), control)
    assert (error.code, error.transient) == (code, False)


def test_an_endless_answer(server: FtpServer, control: Control) -> None:
    server.faults.always = {"SIZE": "213-\r\n" + "213-more\r\n" * 20_000}
    assert "is not FTP" in refused(server.url("x"), control).public


def test_nobody_listens(home: pathlib.Path, control: Control) -> None:
    with ftp_server.serving(home) as gone:
        url = gone.url("x")
    assert refused(url, control).transient


def test_stalled_server_does_not_hold_up_a_stop(server: FtpServer) -> None:
    """Whether it stalls in a file or while a directory is listed."""
    (server.home / "d").mkdir()
    (server.home / "d" / "x").write_bytes(DATA)
    for stall, url in ((0, server.url("d")), (1000, server.url("d/x"))):
        server.faults.stall_after = stall
        control = Control(lambda: False)
        caught: list[BaseException] = []

        def fetch(url: str = url, control: Control = control, caught: list[BaseException] = caught) -> None:
            try:
                tree(url, control)
            except errors.Canceled as cause:
                caught.append(cause)

        thread = threading.Thread(target=fetch)
        thread.start()
        server.until(lambda: server.names()[-1:] in (["MLSD"], ["RETR"]))
        control.end()
        thread.join(2.0)
        assert not thread.is_alive()
        assert caught
        server.commands.clear()


def test_a_stage_in_that_lists_can_be_stopped(server: FtpServer, tmp_path: pathlib.Path) -> None:
    """The thread that waits for the listing is the one that looks after all others."""
    (server.home / "d").mkdir()
    (server.home / "d" / "x").write_bytes(b"x")
    server.faults.stall_after = 0
    (tmp_path / "volume").mkdir()
    step = StageIn(directories=(), inputs=(Fetch(path="/work/d", url=server.url("d"), field="/inputs/0"),))
    with pytest.raises(errors.Canceled):
        transfer.stage_in(step, tmp_path / "volume", ACCESS, lambda: "MLSD" in server.names())


# -- uploads --------------------------------------------------------------------------------------------------------


def test_an_upload_gets_its_name_at_the_end(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    assert put(server.url("a/b/x"), DATA, control, tmp_path) == len(DATA)
    assert [path.name for path in (server.home / "a" / "b").iterdir()] == ["x"]
    moves = [command for command in server.commands if command.startswith(("STOR", "RN"))]
    assert [move.partition(" ")[0] for move in moves] == ["STOR", "RNFR", "RNTO"]
    assert moves[0].partition(" ")[2] == moves[1].partition(" ")[2] != moves[2].partition(" ")[2] == "/a/b/x"


def test_an_upload_goes_on_where_it_broke_off(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    server.faults.cut_after = [1_000_000]
    put(server.url("x"), DATA, control, tmp_path)
    assert (server.home / "x").read_bytes() == DATA
    assert int(next(command for command in server.commands if command.startswith("REST")).split()[1]) > 0


def test_an_upload_that_always_breaks_leaves_nothing(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    server.faults.cut_after = [1000] * 99
    with pytest.raises(errors.StagingError) as caught:
        put(server.url("x"), DATA, control, tmp_path)
    assert caught.value.code == "OUTPUT_ERROR"
    assert list(server.home.iterdir()) == []


def test_an_upload_that_arrives_short_is_sent_again(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    server.faults.answers["SIZE"] = ["213 5"]
    put(server.url("x"), DATA, control, tmp_path)
    assert (server.home / "x").read_bytes() == DATA
    assert server.names().count("STOR") == 2


def test_a_server_that_renames_over_nothing(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    (server.home / "x").write_bytes(b"before")
    server.faults.answers["RNTO"] = ["550 exists"]
    put(server.url("x"), b"after", control, tmp_path)
    assert (server.home / "x").read_bytes() == b"after"


@pytest.mark.parametrize(("answer", "code"), [("452 no room", "DISK_FULL"), ("552 quota", "DISK_FULL"), ("553 name not allowed", "OUTPUT_DENIED")])
def test_codes_of_uploads(server: FtpServer, control: Control, tmp_path: pathlib.Path, answer: str, code: str) -> None:
    server.faults.always = {"STOR": answer}
    with pytest.raises(errors.StagingError) as caught:
        put(server.url("x"), b"x", control, tmp_path)
    assert caught.value.code == code


def test_a_file_where_a_directory_is(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    (server.home / "x").mkdir()
    with pytest.raises(errors.StagingError):
        put(server.url("x"), b"x", control, tmp_path)
    assert list((server.home / "x").iterdir()) == []
    assert [path.name for path in server.home.iterdir()] == ["x"]


def test_a_name_with_a_line_break(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.StagingError, match="line break"):
        put(server.url("a%0D%0ADELE b"), b"x", control, tmp_path)
    assert list(server.home.iterdir()) == []


def test_a_stopped_upload_leaves_nothing(server: FtpServer, tmp_path: pathlib.Path) -> None:
    control = Control(lambda: any(path.stat().st_size for path in server.home.iterdir()))
    with pytest.raises(errors.Canceled):
        put(server.url("x"), DATA * 10, control, tmp_path)
    assert list(server.home.iterdir()) == []


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: pathlib.Path) -> pathlib.Path:
    """A certificate for localhost with its key, both in one file."""
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + made.read_bytes())
    return both


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")


@needs_openssl
@pytest.mark.parametrize("implicit", [False, True])
def test_tls_both_ways(home: pathlib.Path, certificate: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, implicit: bool) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    control = Control(lambda: False)
    with ftp_server.serving(home, certificate, implicit=implicit) as server:
        if implicit:
            monkeypatch.setattr(ftp_connection, "IMPLICIT", server.port)
        put(server.url("d/x"), DATA, control, tmp_path)
        assert tree(server.url("d"), control) == {"": None, "x": DATA}
        assert ("AUTH" in server.names()) is not implicit
    control.end()


@needs_openssl
def test_a_certificate_that_nobody_trusts(home: pathlib.Path, certificate: pathlib.Path, control: Control) -> None:
    with ftp_server.serving(home, certificate) as server:
        error = refused(server.url("x"), control)
        assert (error.code, error.public) == ("INPUT_ERROR", "the server's certificate is not trusted here")
        assert "PASS" not in server.names()


def test_a_password_is_not_sent_where_tls_is_refused(server: FtpServer, control: Control) -> None:
    assert refused(server.url("x").replace("ftp:", "ftps:"), control).code == "INPUT_ERROR"
    assert "PASS" not in server.names()


# -- switched off ---------------------------------------------------------------------------------------------------


def test_switched_off(server: FtpServer, control: Control, tmp_path: pathlib.Path) -> None:
    assert refused(server.url("x"), control, Access(guard=LOOPBACK, ftp=False)).code == "INPUT_DENIED"
    with pytest.raises(errors.StagingError) as caught:
        put(server.url("x"), b"x", control, tmp_path, Access(guard=LOOPBACK, uploads=("ftps",)))
    assert caught.value.code == "OUTPUT_DENIED"
    assert server.commands == []
