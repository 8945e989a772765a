"""The embedded store is held to the contract."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from tes_server.model import record as model
from tes_server.model import task
from tes_server.model.principal import ALL
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

    def test_a_page_of_large_tasks_ends_early(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """A page has a bound in bytes too, and none of its tasks is left out of the walk."""
        monkeypatch.setattr(sqlite, "PAGE_BYTES", 10_000)
        large = store_contract.a_task(inputs=(task.Input(path="/a", content="x" * 9_000),))
        store.insert([store_contract.a_record(f"{number:026}", task=large) for number in range(5)]).result()
        query = model.Query(scope=ALL, view=model.View.FULL, size=4)
        seen: list[str] = []
        pages = 0
        while True:
            page = store.page(query)
            assert page.tasks
            seen += store_contract.ids_of(page.tasks)
            pages += 1
            if page.after is None:
                break
            query = model.Query(scope=ALL, view=model.View.FULL, size=4, after=page.after)
        assert seen == [f"{number:026}" for number in reversed(range(5))]
        assert pages == 3
        assert len(store.page(model.Query(scope=ALL, size=4)).tasks) == 4, "a MINIMAL page has no contents to count"
