"""The contract holds with sign-in, too: schemathesis as a user, and as nobody."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis

from tes_server.model.principal import Role
from tes_server.settings_auth import AuthSettings
from tests.integration import api_server
from tests.integration.test_api_contract import SCHEMA, conforms, excused
from tests.unit.api import users

FEW = hypothesis.settings(max_examples=10, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file: pathlib.Path = tmp_path_factory.mktemp("site") / "users"
    users.write(file, ("alice", Role.USER))
    with api_server.running(AuthSettings(modes=("basic",), users_file=str(file)), "alice") as (host, port):
        yield f"http://{host}:{port}"


@SCHEMA.parametrize()
@FEW
def test_schemathesis_finds_nothing_as_a_user(case: schemathesis.Case[Any], address: str) -> None:
    response = case.call(base_url=f"{address}/v1", headers={"authorization": users.basic("alice")["authorization"]})
    assert response.status_code < 500
    assert response.status_code != 401
    case.validate_response(response, excluded_checks=list(excused(case, response)))
    if response.status_code == 200:
        conforms(case, response.json())


@SCHEMA.parametrize()
@FEW
def test_schemathesis_gets_nowhere_as_nobody(case: schemathesis.Case[Any], address: str) -> None:
    for headers in ({}, {"authorization": users.basic("alice", "wrong")["authorization"]}, {"authorization": "Bearer x"}):
        response = case.call(base_url=f"{address}/v1", headers=headers)
        is_open = case.operation.path == "/service-info" and not headers
        assert response.headers["content-type"] == ["application/json"]
        assert response.status_code == (200 if is_open and case.method == "GET" else response.status_code if is_open else 401)
        if response.status_code == 401:
            assert response.headers["www-authenticate"][0].startswith("Basic ")
