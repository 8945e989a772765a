"""The schemes of object stores under the contract, on MinIO and Azurite, and what only they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from tes_server import errors
from tes_server.filer import objects as filer_objects
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access, Storage
from tests.contract import object_servers, scheme_contract
from tests.contract.object_servers import Server
from tests.contract.scheme_contract import tree_of


def access(*stores: Storage) -> Access:
    return Access(stores=stores, part_bytes=1024 * 1024, first_delay=0.001, longest_delay=0.01, tries=3, connect_timeout=5, read_timeout=5)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    with object_servers.s3() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server() -> Iterator[Server]:
    with object_servers.azurite() as server:
        yield server


class ObjectContract(scheme_contract.ReaderContract, scheme_contract.WriterContract):
    """Both contracts; `server` comes from the class below."""

    large = 20 * 1024 * 1024 + 3

    @pytest.fixture(autouse=True)
    def _server(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        self.at = server
        yield
        server.remove()

    def publish(self, name: str, data: bytes) -> str:
        self.at.put(f"in/{name}", data)
        return f"{self.at.url}/in/{name}"

    def publish_denied(self) -> str:
        self.publish("denied", b"secret")
        return f"{self.at.url}-another/in/denied"

    def objects(self, control: Control, **settings: object) -> filer_objects.Objects:
        return filer_objects.Objects(access(msgspec.structs.replace(self.at.settings, **settings)), control)

    def reader(self, control: Control) -> filer_objects.Objects:
        return self.objects(control)

    def spelled(self, name: str) -> str:
        return name

    def writer(self) -> filer_objects.Objects:
        return self.objects(self.control)

    def url(self) -> str:
        return f"{self.at.url}/out put"

    def denied_url(self) -> str:
        return f"{self.at.url}-another/out"

    def arrived(self) -> dict[str, bytes]:
        return self.at.objects("out put/")


@pytest.mark.s3
class TestS3(ObjectContract):
    @pytest.fixture
    def server(self, s3_server: Server) -> Server:
        return s3_server


@pytest.mark.azurite
class TestAzurite(ObjectContract):
    @pytest.fixture
    def server(self, azurite_server: Server) -> Server:
        return azurite_server


# -- what no contract knows ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto_server() -> Iterator[Server]:
    with object_servers.moto() as server:
        yield server


@pytest.fixture
def moto(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in moto_server.variables.items():
        monkeypatch.setenv(name, value)
    yield moto_server
    moto_server.remove()


def told(work: Callable[[], object]) -> errors.StagingError:
    with pytest.raises(errors.StagingError) as caught:
        work()
    return caught.value


def opened(server: Server, **settings: object) -> filer_objects.Objects:
    return filer_objects.Objects(access(msgspec.structs.replace(server.settings, **settings)), Control(lambda: False))


def listed(server: Server, key: str, *, directory: bool = False) -> dict[str, object]:
    return tree_of(opened(server).source(f"{server.url}/{key}", directory), Control(lambda: False))


@pytest.mark.parametrize("slash", ["", "/"])
def test_directory(moto: Server, slash: str) -> None:
    for key, data in {"d/a": b"a", "d/deep/er/b": b"b", "d/empty": b"", "d-other": b"x", "d/.hidden": b"h", "d/back\\slash": b"s"}.items():
        moto.put(key, data)
    assert listed(moto, f"d{slash}") == {"": None, "a": b"a", "deep/er/b": b"b", "empty": b"", ".hidden": b"h", "back\\slash": b"s"}


def test_directory_markers_are_directories(moto: Server) -> None:
    for key in ("d/", "d/sub/", "d/none/"):
        moto.put(key)
    moto.put("d/sub/x", b"x")
    assert listed(moto, "d") == {"": None, "sub": None, "none": None, "sub/x": b"x"}
    moto.put("lonely/")
    assert listed(moto, "lonely/") == {"": None}


def test_several_pages(moto: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filer_objects, "PAGE", 10)
    names = {f"{number % 3}/{number}" for number in range(27)}
    for name in names:
        moto.put(f"many/{name}", name.encode())
    found = listed(moto, "many")
    assert {name: data for name, data in found.items() if data is not None} == {name: name.encode() for name in names}


def test_the_type_decides_where_a_key_is_both(moto: Server) -> None:
    moto.put("both", b"file")
    moto.put("both/x", b"x")
    assert listed(moto, "both") == {"": b"file"}
    assert listed(moto, "both", directory=True) == {"": None, "x": b"x"}
    assert listed(moto, "both/") == {"": None, "x": b"x"}
    moto.put("plain", b"file")
    assert listed(moto, "plain", directory=True) == {"": b"file"}


def test_objects_below_an_object_are_left_out_with_a_word(moto: Server) -> None:
    for key in ("d/a", "d/a!", "d/a-b", "d/a/x", "d/a/y/z", "d/b"):
        moto.put(key, key.encode())
    left = ("left", "lies below 'a', which is an object itself")
    assert listed(moto, "d") == {"": None, "a": b"d/a", "a!": b"d/a!", "a-b": b"d/a-b", "a/x": left, "a/y/z": left, "b": b"d/b"}


@pytest.mark.parametrize("key", ["d//x", "d/../x", "d/./x"])
def test_keys_that_cannot_be_files_are_named(moto: Server, key: str) -> None:
    moto.put(key, b"x")
    moto.put("d/y", b"y")
    error = told(lambda: listed(moto, "d"))
    assert (error.code, key in error.public) == ("INPUT_ERROR", True)
    assert told(lambda: list(opened(moto).source(f"{moto.url}/{key}"))).code == "INPUT_ERROR"
    assert told(lambda: opened(moto).target(f"{moto.url}/{key}")).code == "OUTPUT_ERROR"


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_archived(moto: Server, storage_class: str) -> None:
    assert isinstance(moto, object_servers.S3)
    moto.put("ice", b"x", StorageClass=storage_class)
    error = told(lambda: listed(moto, "ice"))
    assert error.code == "INPUT_ARCHIVED"
    assert "restore" in error.public
    assert not error.transient
