"""Calls of Azure Resource Manager: the sizes of virtual machines, and what of pools the Batch service cannot do. Only `tes-server pools` makes them.

Tries and errors are those of `calls`. Every call here can be made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tes_server import azure_identity, errors
from tes_server.backends.azure_batch import calls
from tes_server.backends.azure_batch.pools import Json


class Place(NamedTuple):
    """Where a Batch account is, for Azure Resource Manager. `client_id`: of the managed identity that asks, where the machine has several."""

    url: str
    subscription: str
    group: str
    account: str
    client_id: str = ""


class Manager:
    """A client of Azure Resource Manager. It has no shared keys: the identity of this machine or person asks."""

    def __init__(self, place: Place) -> None:
        """Raises SettingsError where the SDK is missing, or the url is none."""
        try:
            from azure.mgmt.batch import BatchManagementClient
        except ModuleNotFoundError as cause:
            raise errors.SettingsError("Azure Batch needs more: pip install 'tes-server[azure]'", "azure_batch.subscription") from cause
        self._place = place
        try:
            self._client = BatchManagementClient(
                azure_identity.identity(place.client_id),
                place.subscription,
                base_url=place.url,
                credential_scopes=[f"{place.url}/.default"],
                retry_total=0,
                connection_timeout=calls.CONNECT,
                read_timeout=calls.READ,
                user_agent="tes-server",
            )
        except ValueError as cause:
            raise errors.SettingsError(str(cause), "azure_batch.management_url") from cause

    def sizes(self, location: str) -> list[Json]:
        """The sizes that Azure Batch has in a region: `SupportedSku` objects. Raises Refused, Silent or NotSent, as all here."""
        listing = self._client.location.list_supported_virtual_machine_skus
        told: list[Json] = self._asked("list_supported_virtual_machine_skus", lambda: [one.as_dict() for one in listing(location)])
        return told

    def create(self, pool: str, body: Json) -> None:
        """Make a pool of that id."""
        where = self._place
        self._asked("pool.create", lambda: self._client.pool.create(where.group, where.account, pool, body))

    def update(self, pool: str, body: Json) -> None:
        """Change what `body` names of a pool."""
        where = self._place
        self._asked("pool.update", lambda: self._client.pool.update(where.group, where.account, pool, body))

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    @staticmethod
    def _asked(operation: str, call: Callable[[], Any]) -> Any:
        return calls.tried(f"Azure Resource Manager {operation}", call)
