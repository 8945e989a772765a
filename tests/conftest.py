"""Options of the whole test suite, and what must hold for every test."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tes_server import errors
from tes_server.runner.sandbox import SandboxEngine
from tes_server.store.mongo_account import Account
from tests import cluster as clusters
from tests import mongo_server
from tests.cluster import Cluster
from tests.contract import object_servers
from tests.integration.conftest import unreachable

object_servers.remember(os.environ)
# The suite must not depend on how this machine is set up.
for name in [name for name in os.environ if name.startswith(("TES_", "DOCKER_TLS", "PROMETHEUS_", "AWS_", "AZURE_", "GOOGLE_"))]:
    del os.environ[name]

# A machine that is busy is slow, not wrong.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# Under `nohup`, or in the background of a script, these come ignored, and commands that tests start would inherit that;
# a handler is not inherited, and one that does nothing ignores them here as before.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files instead of comparing with them")


ROWS = (re.compile("chart|kubernetes_(bad_days|cluster|tasks)|serve_cluster"), re.compile("aws|azure|node_runner"))
"""Files whose tests cannot go side by side: those of the one cluster, and those whose emulated hosts share this machine's Docker and its firewall."""


def _row(test: str) -> str:
    file = test.partition("::")[0]
    return next((row.pattern for row in ROWS if row.search(pathlib.PurePath(file).stem)), file)


class _Rows(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        return _row(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With `--dist loadfile` the tests of a file, and those of a row, go to one worker."""
    return _Rows(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In CI the words of a failure come at once: a run that is cut off for its time never comes to its end, where pytest has them."""
    if report.outcome in ("failed", "rerun") and os.environ.get("REQUIRE_SERVICES") and not os.environ.get("PYTEST_XDIST_WORKER"):
        print(f"\n{report.nodeid} ({report.when}: {report.outcome})\n{report.longreprtext}", file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session")
def mongo_database() -> Iterator[Account]:
    """A prepared database for this session."""
    with mongo_server.database(mongo_server.url()) as account:
        yield account


@pytest.fixture
def mongo_account(mongo_database: Account) -> Account:
    """The session's database, empty."""
    mongo_server.empty(mongo_database)
    return mongo_database


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes cluster that has the images of the tests."""
    found = clusters.find()
    yield found
    found.calls.close()


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the cluster for the tests of one module."""
    with clusters.namespace(cluster) as name:
        yield name


@pytest.fixture(scope="session")
def sandbox_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    """bubblewrap runs a program here."""
    try:
        SandboxEngine(data=tmp_path_factory.mktemp("check"), allow_host=True, network=True).check()
    except errors.EngineError as why:
        unreachable("the sandbox", why)
