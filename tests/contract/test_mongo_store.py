"""The shared store is held to the contract, and each of its commands to what Cosmos DB (RU) takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tes_server.store import mongo
from tes_server.store.base import Store
from tes_server.store.mongo_account import Account
from tests import mongo_guard
from tests.contract import store_contract

pytestmark = pytest.mark.mongo


@pytest.fixture
def guard() -> Iterator[mongo_guard.Guard]:
    made = mongo_guard.Guard()
    yield made
    assert made.refused == []


@contextlib.contextmanager
def opened(mongo_account: Account, guard: mongo_guard.Guard) -> Iterator[mongo.MongoStore]:
    made = mongo.MongoStore(mongo_account, listeners=[guard])
    try:
        yield made
    finally:
        made.close()


class TestMongoStore(store_contract.StoreContract):
    examples = 25

    @pytest.fixture
    def store(self, mongo_account: Account, guard: mongo_guard.Guard) -> Iterator[Store]:
        with opened(mongo_account, guard) as made:
            yield made

    @pytest.fixture
    def peer(self, store: Store, mongo_account: Account, guard: mongo_guard.Guard) -> Iterator[Store]:
        with opened(mongo_account, guard) as made:
            yield made
