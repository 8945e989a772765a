"""Who this server is on Azure. The SDK is an extra, imported where it is used; this module must never ask for a token by itself."""

from __future__ import annotations

import os
from typing import Any


def identity(client_id: str) -> Any:
    """The identity of this machine: what azure-identity finds (workload identity, managed identity, variables, the developer's own)."""
    import azure.identity

    named = {"managed_identity_client_id": client_id, "workload_identity_client_id": client_id} if client_id else {}
    # An authority that somebody names is trusted: asking Microsoft's whether it is known would fail in a closed network.
    trusted = {"disable_instance_discovery": True} if os.environ.get("AZURE_AUTHORITY_HOST") else {}
    return azure.identity.DefaultAzureCredential(**named, **trusted)
