"""The shared store is held to the contract, and each of its commands to what Cosmos DB (RU) takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tes_server.store import mongo, mongo_account
from tes_server.store.base import Store
from tests import mongo_guard, mongo_server
from tests.contract import store_contract

pytestmark = pytest.mark.mongo


@pytest.fixture(scope="module")
def prepared() -> Iterator[mongo_account.Account]:
    with mongo_server.database(mongo_server.url()) as account:
        yield account


@pytest.fixture
def account(prepared: mongo_account.Account) -> mongo_account.Account:
    mongo_server.empty(prepared)
    return prepared


@pytest.fixture
def guard() -> Iterator[mongo_guard.Guard]:
    made = mongo_guard.Guard()
    yield made
    assert made.refused == []


@contextlib.contextmanager
def opened(account: mongo_account.Account, guard: mongo_guard.Guard) -> Iterator[mongo.MongoStore]:
    made = mongo.MongoStore(account, listeners=[guard])
    try:
        yield made
    finally:
        made.close()


class TestMongoStore(store_contract.StoreContract):
    examples = 25

    @pytest.fixture
    def store(self, account: mongo_account.Account, guard: mongo_guard.Guard) -> Iterator[Store]:
        with opened(account, guard) as made:
            yield made

    @pytest.fixture
    def peer(self, store: Store, account: mongo_account.Account, guard: mongo_guard.Guard) -> Iterator[Store]:
        with opened(account, guard) as made:
            yield made
