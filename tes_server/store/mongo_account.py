"""A MongoDB connection string as a portal shows it: which product it leads to, what the driver is told beside it, what may be shown of it.

Opens nothing. Must never put a secret into an error: these end in logs and on screens.
"""

from __future__ import annotations

import enum
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

import msgspec

from tes_server import errors

TOKEN_RESOURCE = "https://ossrdbms-aad.database.windows.net"  # noqa: S105 - the audience of Entra tokens for Azure DocumentDB, no secret
IDLE_MS = 120_000
"""Cosmos DB closes connections that were idle for some minutes without a word: let go of them before."""

DATABASE = "tes"
_URL = re.compile(r"mongodb(?P<srv>\+srv)?://(?:(?P<user>[^/?]*)@)?(?P<hosts>[^/?@]+)(?:/(?P<database>[^?/@]*))?(?:\?(?P<options>.*))?", re.DOTALL)
_SECRET = re.compile(r"AWS_SESSION_TOKEN(?::|%3A)([^&,]+)|tlsCertificateKeyFilePassword=([^&]+)", re.IGNORECASE)


class Product(enum.StrEnum):
    """What speaks MongoDB's protocol there."""

    MONGODB = "MongoDB"
    COSMOS_RU = "Azure Cosmos DB for MongoDB (RU)"
    DOCUMENTDB = "Azure DocumentDB (vCore)"


class Account(msgspec.Struct, frozen=True):
    """A connection string, taken apart. `options` are those that the driver is given beside it."""

    url: str
    product: Product
    database: str
    options: dict[str, Any]
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Account({self.hide(self.url)!r}, {self.database!r})"

    @property
    def hosts(self) -> str:
        """The hosts of the connection string."""
        found = _URL.fullmatch(self.url.strip())
        return found["hosts"] if found else ""

    def hide(self, text: str) -> str:
        """`text` without this account's secrets. One of a letter or two is part of any word, and protects nothing."""
        for secret in self.secrets:
            if len(secret) > 2:
                text = text.replace(secret, "***")
        return text


def account(url: str, database: str = "") -> Account:
    """The account that `url` leads to; the database is `database`, else the one that the url names, else "tes".

    Raises `errors.SettingsError` for what is no connection string.
    """
    found = _URL.fullmatch(url.strip())
    if found is None:
        raise errors.SettingsError(
            "is not a MongoDB connection string: mongodb://[user:password@]host[:port]/[database][?options], with / : ? @ of the password as %2F %3A %3F %40",
            "store.url",
        )
    hosts = [host.partition(":")[0].lower().rstrip(".") for host in found["hosts"].split(",")]
    product = next((product for host in hosts if (product := _product(host)) is not None), Product.MONGODB)
    given = {name.lower(): value for name, value in urllib.parse.parse_qsl(found["options"] or "", keep_blank_values=True)}
    user, _, password = (found["user"] or "").partition(":")
    hidden = (password, *(secret for words in _SECRET.findall(found["options"] or "") for secret in words))
    return Account(
        url=url.strip(),
        product=product,
        database=database or urllib.parse.unquote(found["database"] or "") or DATABASE,
        options=_options(product, given, urllib.parse.unquote(user)),
        secrets=tuple(dict.fromkeys(form for secret in hidden if secret for form in (secret, urllib.parse.unquote(secret)))),
    )


def _product(host: str) -> Product | None:
    if host.endswith((".mongo.cosmos.azure.com", ".documents.azure.com", ".mongo.cosmos.azure.cn", ".mongo.cosmos.azure.us")):
        return Product.COSMOS_RU
    if ".mongocluster.cosmos." in host:
        return Product.DOCUMENTDB
    return None


def _options(product: Product, given: Mapping[str, str], user: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        # Cosmos DB has no retryable writes; ours are repeated by this package, which knows what each repeat means (`mongo_connection`).
        "retryWrites": False,
        "retryReads": False,
        "tz_aware": True,
    }
    if "appname" not in given:
        options["appname"] = "tes-server"
    if product is not Product.MONGODB and "maxidletimems" not in given:
        options["maxIdleTimeMS"] = IDLE_MS
    if given.get("authmechanism", "").upper() == "MONGODB-OIDC" and "authmechanismproperties" not in given and product is Product.DOCUMENTDB:
        # The portal's string for Entra ID leaves open where tokens come from: from the identity of this machine, `user` being its client id.
        options["authMechanismProperties"] = {"ENVIRONMENT": "azure", "TOKEN_RESOURCE": TOKEN_RESOURCE}
        if user and not re.fullmatch(r"<.*>", user):
            options["username"] = user
    return options
