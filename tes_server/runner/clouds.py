"""Which cloud a secret or an image belongs to: its name says it. Both clouds' nodes have the same runner.

This module must never ask anybody: the module of the cloud does.
"""

from __future__ import annotations

from collections.abc import Mapping

from tes_server import errors
from tes_server.runner import aws, azure
from tes_server.telemetry import Code


def secret(reference: str, client_id: str = "") -> str:
    """`vault.Look` for ARNs of AWS Secrets Manager and urls of Azure Key Vault. `client_id`: `node.NodeSite.client_id`."""
    if reference.startswith("arn:"):
        return aws.secret(reference)
    if reference.startswith("https:"):
        return azure.secret(reference, client_id)
    raise errors.StagingError("what it leads to is neither an ARN of AWS Secrets Manager nor a url of Azure Key Vault", Code.SECRET_ERROR)


def login(image: str, client_id: str = "") -> Mapping[str, str] | None:
    """`docker_images.Login` for the private registries of both clouds; None for all others."""
    return aws.login(image) or azure.login(image, client_id)
