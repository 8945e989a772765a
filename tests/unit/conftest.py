"""What the tests of the `tes` command share."""

import pytest
from pytest_httpserver import HTTPServer

from tests.unit.scripted_tes import Tes


@pytest.fixture
def tes(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Tes:
    for name in ("TES_IMAGE", "TES_TOKEN", "TES_USER", "TES_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    made = Tes(httpserver)
    monkeypatch.setenv("TES_URL", made.url)
    return made
