"""Options of the whole test suite, and what must hold for every test."""

from __future__ import annotations

import os

import pytest

# The suite must not depend on how this machine is set up.
for name in [name for name in os.environ if name.startswith(("TES_", "DOCKER_TLS", "PROMETHEUS_"))]:
    del os.environ[name]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files instead of comparing with them")
