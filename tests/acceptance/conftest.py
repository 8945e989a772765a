"""Fixtures of the acceptance tests."""

from __future__ import annotations

import pytest

from tes_server import errors
from tes_server.runner.sandbox import SandboxEngine
from tests.integration.conftest import unreachable


@pytest.fixture(scope="session")
def sandbox_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    """bubblewrap runs a program here."""
    try:
        SandboxEngine(data=tmp_path_factory.mktemp("check"), allow_host=True, network=True).check()
    except errors.EngineError as why:
        unreachable("the sandbox", why)
