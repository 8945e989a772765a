"""The torture suite: `make torture`. Not collected without TORTURE_SECONDS, how long each of the long ones may go on hurting."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.integration.conftest import docker_client

__all__ = ["docker_client"]  # a fixture

collect_ignore_glob = [] if os.environ.get("TORTURE_SECONDS") else ["test_*.py"]

LINES = pytest.StashKey[list[str]]()

Tell = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "torture" in item.path.parts:
            item.add_marker(pytest.mark.torture)


@pytest.fixture(scope="session")
def seconds() -> float:
    return float(os.environ["TORTURE_SECONDS"])


@pytest.fixture(scope="session")
def share(seconds: float) -> float:
    """Of the full numbers: all from five minutes on."""
    return min(1.0, seconds / 300)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """What was counted, printed at the end of the run."""

    def tell(**counted: object) -> None:
        words = ", ".join(f"{name}={value}" for name, value in counted.items())
        request.config.stash.setdefault(LINES, []).append(f"{request.node.name}: {words}")

    return tell


@pytest.fixture
def chance(tell: Tell) -> random.Random:
    """What happens when; TORTURE_SEED repeats it."""
    seed = int(os.environ.get("TORTURE_SEED") or random.SystemRandom().randrange(10**6))
    tell(seed=seed)
    return random.Random(seed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(f"torture: {line}")
