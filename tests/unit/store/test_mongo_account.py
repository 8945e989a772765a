"""Connection strings as portals show them, and that no error shows a password."""

from __future__ import annotations

import msgspec
import pytest
from pymongo import ReadPreference
from pymongo import errors as driver

from tes_server import configuration, errors
from tes_server.settings import Settings, StoreSettings
from tes_server.store import mongo_account, mongo_connection
from tes_server.store.mongo_account import Product

RU = "mongodb://acct:KEYabc%3D%3D@acct.mongo.cosmos.azure.com:10255/?ssl=true&replicaSet=globaldb&retrywrites=false&maxIdleTimeMS=120000&appName=@acct@"
VCORE = "mongodb+srv://me:p%40ss@c.global.mongocluster.cosmos.azure.com/?tls=true&authMechanism=SCRAM-SHA-256&retrywrites=false&maxIdleTimeMS=120000"
TOKENS = "&tlsCertificateKeyFilePassword=hunter2&authMechanismProperties=AWS_SESSION_TOKEN:t0ken"
ENTRA = "mongodb+srv://client-id@c.global.mongocluster.cosmos.azure.com/?tls=true&authMechanism=MONGODB-OIDC&retrywrites=false&maxIdleTimeMS=120000"


@pytest.mark.parametrize(
    ("url", "product", "database"),
    [
        (RU, Product.COSMOS_RU, "tes"),
        (VCORE, Product.DOCUMENTDB, "tes"),
        ("mongodb://a:1,b:2/tasks?replicaSet=rs0", Product.MONGODB, "tasks"),
        ("mongodb://127.0.0.1", Product.MONGODB, "tes"),
        ("mongodb://evil.example/?x=.mongo.cosmos.azure.com", Product.MONGODB, "tes"),
    ],
)
def test_the_product_and_the_database_are_told_from_the_url(url: str, product: Product, database: str) -> None:
    found = mongo_account.account(url)
    assert (found.product, found.database) == (product, database)
    assert mongo_account.account(url, "mine").database == "mine"


@pytest.mark.parametrize(
    "url", [RU, VCORE, ENTRA, "mongodb://a,b/?replicaSet=r&retryWrites=true&retryReads=true&w=0&journal=false&wtimeoutMS=1&readPreference=nearest"]
)
def test_the_driver_takes_it_and_repeats_nothing_by_itself(url: str) -> None:
    made = mongo_connection.Connection(mongo_account.account(url))
    try:
        options = made.database.client.options
        assert (options.retry_writes, options.retry_reads) == (False, False)
        for collection in (made.tasks, made.parts, made.live, made.meta):
            assert collection.write_concern.document == {"w": "majority"}
            assert collection.read_preference == ReadPreference.PRIMARY
    finally:
        made.close()


def test_entra_id_is_the_machines_identity() -> None:
    options = mongo_account.account(ENTRA).options
    assert options["authMechanismProperties"] == {"ENVIRONMENT": "azure", "TOKEN_RESOURCE": mongo_account.TOKEN_RESOURCE}
    assert options["username"] == "client-id"
    assert "username" not in mongo_account.account(ENTRA.replace("client-id", "<client id>")).options
    own = mongo_account.account(ENTRA + "&authMechanismProperties=ENVIRONMENT:k8s").options
    assert "authMechanismProperties" not in own


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://u:se/cret@h/",
        "mongodb://u:secret@",
        "mongodb:/u:secret@h",
        "mongodb://u:secret@h/a.b$c",
        "mongodb://u:secret@h:port/",
        "mongodb://u:secret@h/?tls=true&tlsCAFile=/nonexistent",
    ],
)
def test_what_is_no_connection_string_is_told_without_the_password(url: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        mongo_connection.Connection(mongo_account.account(url)).close()
    assert caught.value.where == "store.url"
    assert "cret" not in str(caught.value)


def test_an_option_that_the_driver_does_not_know_is_refused() -> None:
    with pytest.raises(errors.SettingsError, match="retywrites"):
        mongo_connection.Connection(mongo_account.account("mongodb://u:secret@h/?retyWrites=false")).close()


def test_secrets_are_hidden_in_both_spellings() -> None:
    assert mongo_account.account(RU).hide("KEYabc%3D%3D and KEYabc==") == "*** and ***"
    key_file = mongo_account.account("mongodb://h/?tls=true&tlsCertificateKeyFile=/k&tlsCertificateKeyFilePassword=hun%2Fter")
    assert "hun" not in repr(key_file) + key_file.hide("hun%2Fter hun/ter")
    assert "KEY" not in repr(mongo_account.account(RU))
    assert mongo_account.account(VCORE).hide("p@ss p%40ss me") == "*** *** me"
    assert mongo_account.account("mongodb://u:p@h/").hide("OperationFailure") == "OperationFailure"


@pytest.mark.parametrize("url", [RU, VCORE, "mongodb://u:se/cr@et@h/db", "mongodb://u:se?cr@et@h/db"])
def test_settings_are_shown_without_the_password(url: str) -> None:
    shown = configuration.shown(Settings(store=StoreSettings(url=url + TOKENS)))
    for secret in ("KEY", "p%40ss", "se/cr", "se?cr", "et@", "t0ken", "hunter2"):
        assert secret not in shown.decode()
    assert b"***@" in shown
    plain = Settings()
    assert msgspec.json.decode(configuration.shown(plain), type=Settings) == plain


@pytest.mark.parametrize(
    ("code", "message", "pause"),
    [(16500, "Error=16500, RetryAfterMs=34, Details", 0.034), (10107, "not primary", 0.0), (50, "exceeded", 0.0), (2, "bad value", None), (13, "denied", None)],
)
def test_which_errors_pass(code: int, message: str, pause: float | None) -> None:
    assert mongo_connection.passing(driver.OperationFailure(message, code)) == pause


def test_a_bulk_write_passes_only_as_a_whole() -> None:
    def bulk(*codes: int, concerns: int = 0) -> float | None:
        failures = [{"index": index, "code": code, "errmsg": "RetryAfterMs=7" if code == 16500 else ""} for index, code in enumerate(codes)]
        return mongo_connection.passing(driver.BulkWriteError({"writeErrors": failures, "writeConcernErrors": [{}] * concerns}))

    assert bulk(16500, 11000) == 0.007
    assert bulk(11000) is None
    assert bulk(16500, 2) is None
    assert bulk(concerns=1) == 0.0
