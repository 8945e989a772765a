"""Secrets Manager and ECR: the one operation of each that a runner uses."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping

from tests.emulators.aws_batch.protocol import AwsError, Json
from tests.emulators.aws_batch.world import ACCOUNT, REGION


class SecretsManager:
    """`secrets`: name -> SecretString. The ARN of NAME is its `arn`."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = secrets

    def arn(self, name: str) -> str:
        """As Secrets Manager makes it: with six characters at its end."""
        return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-a1B2c3"

    def resource(self, operation: str, given: Json) -> str:
        return str(given["SecretId"])

    def get_secret_value(self, given: Json) -> Json:
        for name, value in self._secrets.items():
            if given["SecretId"] in (name, self.arn(name), self.arn(name)[:-7]):
                version = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
                return {"ARN": self.arn(name), "Name": name, "VersionId": version, "SecretString": value, "VersionStages": ["AWSCURRENT"]}
        raise AwsError("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")


class Ecr:
    """`password` is what the token carries; a registry of a test may want it."""

    password = "emulated-ecr-password"

    def resource(self, operation: str, given: Json) -> str:
        return "*"

    def get_authorization_token(self, given: Json) -> Json:
        accounts = given.get("registryIds") or [ACCOUNT]
        token = base64.b64encode(f"AWS:{self.password}".encode()).decode()
        until = time.time() + 12 * 3600
        told = [{"authorizationToken": token, "expiresAt": until, "proxyEndpoint": f"https://{account}.dkr.ecr.{REGION}.amazonaws.com"} for account in accounts]
        return {"authorizationData": told}
