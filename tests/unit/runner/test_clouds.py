"""Names lead to the cloud that they are of."""

from __future__ import annotations

import pytest

from tes_server import errors
from tes_server.runner import clouds
from tes_server.telemetry import Code


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("arn:aws:s3:::bucket", "no ARN of AWS Secrets Manager"),
        ("https://example.org/db", "no url of a secret in Azure Key Vault"),
        ("db", "neither an ARN of AWS Secrets Manager nor a url of Azure Key Vault"),
    ],
)
def test_what_is_no_reference_to_a_secret(reference: str, words: str) -> None:
    with pytest.raises(errors.StagingError, match=words) as raised:
        clouds.secret(reference)
    assert raised.value.code == Code.SECRET_ERROR


def test_images_of_neither_cloud_have_the_login_file() -> None:
    assert clouds.login("docker.io/library/ubuntu") is None
