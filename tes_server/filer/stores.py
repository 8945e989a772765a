"""From a place in an object store and the site's settings to an obstore store.

Credentials are looked up here and go nowhere else: `Storage` only names where they are. Stores are kept for the life of the
process, with their connections. This module must never read or write an object.
"""

from __future__ import annotations

import datetime
import functools
import os
import urllib.parse
from typing import TYPE_CHECKING, Any

import tes_server
from tes_server import errors
from tes_server.filer import aws_profiles
from tes_server.filer.manifest import Access, Storage
from tes_server.plan import objects
from tes_server.plan.objects import Place
from tes_server.telemetry import Code

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Config, S3Credential, S3Store

    Store = S3Store | AzureStore | GCSStore

KEPT = 256
"""Stores kept open: buckets that one site uses at the same time."""
REQUEST_TIMEOUT = datetime.timedelta(seconds=300)
"""For one whole request; a range that takes longer goes on where it stopped."""
RETRY_WINDOW = datetime.timedelta(seconds=180)
"""After it a request is not repeated: the time in its signature would be too old."""
RENEWAL = datetime.timedelta(minutes=10)
"""How long keys from a file or a variable are used before they are looked up again: somebody may rotate them."""


def opened(store: Storage, place: Place, access: Access) -> Store:
    """The bucket or container of a place. Raises StagingError STORAGE_CREDENTIALS for credentials that are not there or malformed."""
    from obstore import exceptions

    try:
        if place.signature:  # a credential: not one to keep
            return _azure(store, place.account, place.bucket, _client(store, access), _retries(access), place.signature)
        return _kept(
            store, place.kind, place.account, place.bucket, access.tries, access.first_delay, access.longest_delay, access.connect_timeout, access.read_timeout
        )
    except (exceptions.BaseError, ValueError):  # its words may hold what it was given
        raise _unusable(f"{credentials(store, place)}: missing or malformed") from None


@functools.lru_cache(maxsize=KEPT)
def _kept(
    store: Storage,
    kind: objects.Kind,
    account: str,
    bucket: str,
    tries: int,
    first_delay: float,
    longest_delay: float,
    connect_timeout: float,
    read_timeout: float,
) -> Store:
    access = Access(tries=tries, first_delay=first_delay, longest_delay=longest_delay, connect_timeout=connect_timeout, read_timeout=read_timeout)
    client, retries = _client(store, access), _retries(access)
    if kind == "s3":
        return _s3(store, bucket, client, retries)
    if kind == "az":
        return _azure(store, account, bucket, client, retries)
    return _google(store, bucket, client, retries)


def _client(store: Storage, access: Access) -> ClientConfig:
    return {
        "allow_http": store.endpoint.startswith("http://"),
        "connect_timeout": datetime.timedelta(seconds=access.connect_timeout),
        "read_timeout": datetime.timedelta(seconds=access.read_timeout),
        "timeout": REQUEST_TIMEOUT,
        "user_agent": f"tes-server/{tes_server.__version__}",
    }


def _retries(access: Access) -> RetryConfig:
    """With jitter, and waits that end when the call is cancelled."""
    return {
        "max_retries": access.tries - 1,
        "retry_timeout": RETRY_WINDOW,
        "backoff": {"init_backoff": datetime.timedelta(seconds=access.first_delay), "max_backoff": datetime.timedelta(seconds=access.longest_delay), "base": 2},
    }


# -- S3 ------------------------------------------------------------------------------------------------------------


def _s3(store: Storage, bucket: str, client: ClientConfig, retries: RetryConfig) -> S3Store:
    from obstore.store import S3Store

    config: S3Config = {"virtual_hosted_style_request": not store.path_style}
    if store.endpoint:
        config["endpoint"] = store.endpoint if store.path_style else _with_host(store.endpoint, bucket)
    elif os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        client = {**client, "allow_http": True}
    if store.requester_pays:
        config["request_payer"] = True
    region = store.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    provider = None
    if store.credentials == "anonymous":
        config["skip_signature"] = True
    elif store.credentials == "identity":
        if os.environ.get("AWS_ACCESS_KEY_ID"):
            raise _unusable('credentials = "identity", but AWS_ACCESS_KEY_ID is set in the environment and would be used')
    elif store.key_variable:
        provider = functools.partial(_keys_from_variables, store)
    elif not store.profile and os.environ.get("AWS_ACCESS_KEY_ID"):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            _check_printable(name, os.environ.get(name, ""))
    else:
        profile = aws_profiles.read(store.profile)
        if store.profile and not (profile and profile.key):
            raise _unusable(f"the AWS profile {store.profile!r} is missing or holds no keys of its own")
        if profile and profile.key:
            provider = functools.partial(_keys_from_profile, store.profile)
        if profile:
            region = region or profile.region
    if provider is not None:
        provider()  # a variable that is missing is better told now, in our words
    return S3Store(bucket, config={**config, "region": region or "us-east-1"}, client_options=client, retry_config=retries, credential_provider=provider)


def _with_host(endpoint: str, bucket: str) -> str:
    parts = urllib.parse.urlsplit(endpoint)
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()


def _keys_from_variables(store: Storage) -> S3Credential:
    token = _variable(store.token_variable) if store.token_variable else None
    return _keys(_variable(store.key_variable), _variable(store.secret_variable), token)


def _keys_from_profile(name: str) -> S3Credential:
    profile = aws_profiles.read(name)
    if profile is None:
        raise _unusable("the AWS profile is gone")
    return _keys(profile.key, profile.secret, profile.token or None)


def _keys(key: str, secret: str, token: str | None) -> S3Credential:
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": datetime.datetime.now(datetime.UTC) + RENEWAL}


# -- Azure and Google ----------------------------------------------------------------------------------------------


def _azure(store: Storage, account: str, container: str, client: ClientConfig, retries: RetryConfig, signature: str = "") -> AzureStore:
    from obstore.store import AzureStore

    config: dict[str, Any] = {"account_name": account}
    if store.endpoint:
        config["endpoint"] = store.endpoint
    if signature or store.token_variable:
        config |= {"sas_key": signature or _variable(store.token_variable).removeprefix("?"), "credential_type": "sas_token"}
    elif store.credentials == "anonymous":
        config["skip_signature"] = True
    elif store.secret_variable:
        config |= {"account_key": _variable(store.secret_variable), "credential_type": "access_key"}
    elif store.credentials == "identity":
        config["credential_type"] = "managed_identity"
    if store.client_id:
        config["client_id"] = store.client_id
    return AzureStore(container, config=config, client_options=client, retry_config=retries)  # type: ignore[arg-type]


def _google(store: Storage, bucket: str, client: ClientConfig, retries: RetryConfig) -> GCSStore:
    from obstore.store import GCSStore

    config: dict[str, Any] = {}
    if store.endpoint:
        config["base_url"] = store.endpoint
    if store.credentials == "anonymous":
        config["skip_signature"] = True
    elif store.token_variable:
        config["bearer_token"] = _variable(store.token_variable)
    elif store.file:
        config["service_account"] = store.file
    return GCSStore(bucket, config=config, client_options=client, retry_config=retries)  # type: ignore[arg-type]


# -- words ---------------------------------------------------------------------------------------------------------


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise _unusable(f"the environment variable {name} is not set" if name else "the settings name an access key without a secret")
    _check_printable(name, value)
    return value


def _check_printable(name: str, value: str) -> None:
    """A secret that was read from a file often ends with the line; no header can hold that."""
    if not value.isprintable():
        raise _unusable(f"the environment variable {name} holds a line break or another control character")


def _unusable(why: str) -> errors.StagingError:
    return errors.StagingError(f"cannot be reached with the settings of this server: {why}", Code.STORAGE_CREDENTIALS)


def credentials(store: Storage, place: Place) -> str:
    """Where the credentials for a place come from, in words that hold none."""
    if place.signature:
        return "the signature in the url"
    if store.credentials == "anonymous":
        return "none (credentials = anonymous)"
    named = [name for name in (store.key_variable, store.secret_variable, store.token_variable) if name]
    if named:
        return f"the environment variables {', '.join(named)}" if len(named) > 1 else f"the environment variable {named[0]}"
    if store.profile:
        return f"the AWS profile {store.profile!r}"
    if store.file:
        return "the service account file of the settings"
    if store.credentials == "auto" and (usual := next((name for name in _USUAL[place.kind] if os.environ.get(name)), "")):
        return f"the environment variable {usual}"
    if store.credentials == "auto" and place.kind == "s3" and (profile := aws_profiles.read("")) and profile.key:
        return "the default AWS profile"
    return "the identity of this machine"


_USUAL: dict[objects.Kind, tuple[str, ...]] = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY"),
}
"""Variables that obstore knows, in the order in which they are looked at."""
