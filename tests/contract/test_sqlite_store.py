"""The embedded store is held to the contract."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tes_server.store import sqlite
from tes_server.store.base import Store
from tests.contract import store_contract


class TestSqliteStore(store_contract.StoreContract):
    @pytest.fixture
    def store(self, tmp_path: pathlib.Path) -> Iterator[Store]:
        opened = sqlite.SqliteStore(tmp_path / "tes.db")
        yield opened
        opened.close()

    @pytest.fixture
    def peer(self, store: Store, tmp_path: pathlib.Path) -> Iterator[Store]:
        opened = sqlite.SqliteStore(tmp_path / "tes.db")
        yield opened
        opened.close()
