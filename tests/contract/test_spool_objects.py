"""Prefixes of object stores as spool: an S3 server, and Azurite."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import msgspec
import pytest

from tes_server import errors
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.spool import Shelf, Spool
from tes_server.filer.spool_objects import SpoolObjects
from tests.contract import object_servers
from tests.contract.object_servers import Server
from tests.contract.spool_contract import ONE, SpoolContract


def opened(server: Server, prefix: str, **settings: object) -> SpoolObjects:
    store = msgspec.structs.replace(server.settings, **settings)
    return SpoolObjects(server.url + prefix, Access(stores=(store,), tries=2, first_delay=0.001, longest_delay=0.01), Control(lambda: False))


class ObjectSpoolContract(SpoolContract):
    """What both share; `server` comes from the class below."""

    @pytest.fixture(autouse=True)
    def _place(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, value in server.variables.items():
            monkeypatch.setenv(name, value)
        self.at = server
        self.prefix = f"/site a/{uuid.uuid4().hex}"
        yield
        server.remove()

    @pytest.fixture(autouse=True)
    def _spool(self, _place: None) -> None:
        self.spool = Spool(self.shelf())

    def shelf(self) -> Shelf:
        return opened(self.at, self.prefix)

    def test_objects_are_where_everybody_may_look_for_them(self) -> None:
        self.spool.take(ONE, "run")
        assert self.at.objects(f"{self.prefix[1:]}/") == {"task-1/1/started.json": b'{"run":"run"}'}

    def test_a_store_that_may_only_be_read(self) -> None:
        with pytest.raises(errors.SettingsError, match=r"spool\.url.*write"):
            opened(self.at, self.prefix, write=False)

    def test_a_bucket_that_is_not_there(self) -> None:
        with pytest.raises(errors.Unavailable, match="spool"):
            Spool(opened(self.at, "-none/x", url=f"{self.at.url}-none")).take(ONE, "run")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Server]:
    with object_servers.s3() as server:
        yield server


@pytest.fixture(scope="module")
def azurite_server() -> Iterator[Server]:
    with object_servers.azurite() as server:
        yield server


@pytest.mark.s3
class TestS3Spool(ObjectSpoolContract):
    @pytest.fixture
    def server(self, s3_server: Server) -> Server:
        return s3_server


@pytest.mark.azurite
class TestAzuriteSpool(ObjectSpoolContract):
    @pytest.fixture
    def server(self, azurite_server: Server) -> Server:
        return azurite_server
