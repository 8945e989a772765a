"""Logins of the clouds' own registries (ECR, Azure container registries) by this server's identity there.

The cluster's pull secrets and the nodes' identities are never asked for. SDKs are extras, imported where they are used; no
error of theirs leaves this module, nor any token but in a `Login`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from tes_server import azure_identity, errors, telemetry
from tes_server.runner import aws, azure
from tes_server.runner.image_credentials import Login
from tes_server.telemetry import Code

logger = logging.getLogger(__name__)

KEPT = 600.0
"""Seconds for which a login is used again: the clouds' tokens last for three hours and more."""

NONE_KEPT = 60.0
"""Seconds after which an identity that was refused is tried again: somebody may have given it the right to read."""

MOST = 256
"""Registries remembered: anybody may name more."""

TRIES = 2
"""Times that a cloud is asked. The image is asked for again anyway."""

SCOPE = f"{azure.REGISTRIES}/.default"


class Logins:
    """`image_registry.Registry`'s `identity`. `profile`: of the AWS configuration files; `client_id`: of the identity on Azure; "" = the usual. Thread-safe."""

    def __init__(self, profile: str = "", client_id: str = "") -> None:
        self._profile = profile
        self._client_id = client_id
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Login | None]] = {}
        self._credential: Any = None

    def find(self, registry: str) -> Login | None:
        """A login for a registry (host[:port]) of a cloud that this server has an identity in; None = as anybody. Raises EngineError."""
        if aws.REGISTRY.match(f"{registry}/") is None and not azure.registry_of(f"{registry}/"):
            return None
        with self._lock:
            until, login = self._known.get(registry, (0.0, None))
        if time.monotonic() < until:
            return login
        login = self._ecr(registry) or self._acr(registry)
        with self._lock:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[registry] = (time.monotonic() + (KEPT if login is not None else NONE_KEPT), login)
        return login

    def _ecr(self, registry: str) -> Login | None:
        given = aws.given(f"{registry}/", self._profile, TRIES)
        return Login(user=given["username"], password=given["password"]) if given is not None else None

    def _acr(self, registry: str) -> Login | None:
        """None also where the registry does not know the identity, or there is none: it may let anybody read."""
        name = azure.registry_of(f"{registry}/")
        if not name:
            return None
        try:
            return Login(user=azure.NOBODY, password=azure.exchange(name, self._token(), (1.0,) * (TRIES - 1)))
        except azure.Refused as cause:
            if cause.transient:
                raise errors.EngineError(f"no login for its registry: {cause.words}", Code.IMAGE_ERROR, transient=True) from None
            telemetry.log(logger, logging.WARNING, "image.login.refused", registry=registry, error=cause.words)
            return None

    def _token(self) -> str:
        """A token of this server's identity, for registries. Raises `azure.Refused`."""
        who = "Microsoft Entra ID"
        try:
            from azure.core import exceptions
        except ModuleNotFoundError:
            raise azure.Refused(who, "cannot be asked: tes-server[azure] is not installed", transient=False) from None
        try:
            with self._lock:
                if self._credential is None:
                    self._credential = azure_identity.identity(self._client_id)
                credential = self._credential
            return str(credential.get_token(SCOPE).token)
        except exceptions.ClientAuthenticationError as cause:
            raise azure.Refused(who, f"gives this server no token ({type(cause).__name__})", transient=False) from None
        except exceptions.AzureError as cause:
            raise azure.Refused(who, f"does not answer ({type(cause).__name__})", transient=True) from None
        except ValueError as cause:
            raise azure.Refused(who, f"cannot be asked: what the environment says of the identity is wrong ({type(cause).__name__})", transient=False) from None
