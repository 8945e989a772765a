"""Who this server is to Azure Batch: keys and tokens that are no good, rights that are missing, and what the doctor says of them and of pools."""

from __future__ import annotations

import base64
import pathlib
import re
from collections.abc import Iterator

import pytest

from tes_server import errors
from tes_server.backends.azure_batch import attempts, calls, driver, looks, pool_looks, rights
from tes_server.backends.azure_batch.calls import Account, Calls
from tes_server.backends.azure_batch.site import Pool
from tes_server.model.run import Phase
from tests.emulators.azure_batch.world import ACCOUNT, CLIENT, KEY, SECRET
from tests.integration import azure_desk
from tests.integration.azure_desk import REGULAR, SIZE, Clock, Desk, added, later, look, plan

pytestmark = pytest.mark.azure_batch

OTHER_KEY = base64.b64encode(b"another key").decode()


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Iterator[Desk]:
    with azure_desk.desk(tmp_path) as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the backend; waits between tries take no time."""
    made = azure_desk.forward(monkeypatch, (driver, attempts, looks, pool_looks, calls))
    made.sleep = lambda _: None
    return made


class TestCredentials:
    def test_a_key_that_is_none(self) -> None:
        with pytest.raises(errors.SettingsError) as caught:
            Calls(Account("https://lab.westeurope.batch.azure.com", "lab", "not base64!"))
        assert caught.value.where == "azure_batch.key_variable"

    def test_a_key_that_is_no_good(self, desk: Desk) -> None:
        running = added(desk.backend(looks=False))[0]
        backend = desk.backend(calls=desk.calls(OTHER_KEY), looks=False)
        one = plan()
        told = later(backend, one)
        assert (told.code, told.seconds) == ("WAITING_BACKEND", 60.0)
        assert "MAC signature" in told.message
        assert look(backend, running).phase is Phase.UNKNOWN, "nothing is concluded"
        assert len(desk.of(added(desk.backend(looks=False), one)[0].name)) == 1

    def test_a_token_that_is_no_good_any_more(self, desk: Desk, clock: Clock) -> None:
        """A new one is asked for when the old one is about to end; until then tasks wait."""
        backend = desk.backend(calls=desk.calls(""), looks=False)
        (handle,) = added(backend)
        desk.emulator.bad_days.expire_tokens()
        told = later(backend)
        assert "The token is not known, or has expired" in told.message
        assert look(desk.backend(calls=desk.calls(""), looks=False), handle).phase is Phase.PENDING

    def test_no_token(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        monkeypatch.setenv("AZURE_CLIENT_SECRET", "another secret")
        told = later(desk.backend(calls=desk.calls(""), looks=False))
        assert told.code == "WAITING_BACKEND"
        assert "Invalid client secret" in told.message
        assert "\n" not in told.message
        assert desk.jobs() == []

    def test_a_right_that_is_missing_is_named(self, desk: Desk) -> None:
        desk.emulator.bad_days.deny(CLIENT, ["create_task_collection"], SECRET)
        told = later(desk.backend(calls=desk.calls(""), looks=False))
        assert told.seconds == 60.0
        assert "does not have sufficient permissions to execute this operation: create_task_collection" in told.message


class TestDoctor:
    @pytest.mark.parametrize("key", [KEY, ""])
    def test_nothing_is_wrong(self, desk: Desk, key: str) -> None:
        assert rights.faults(desk.calls(key), desk.site()) == []
        assert desk.jobs() == [], "nothing is changed"

    @pytest.mark.parametrize(
        ("call", "right"),
        [
            ("list_jobs", "listing jobs"),
            ("get_job", "looking at jobs"),
            ("get_job_task_counts", "counting tasks"),
            ("create_job", "adding jobs"),
            ("update_job", "changing jobs"),
            ("delete_job", "deleting jobs"),
            ("create_task_collection", "adding tasks"),
            ("list_tasks", "listing tasks"),
            ("get_task", "looking at tasks"),
            ("terminate_task", "ending tasks"),
            ("get_pool", "looking at pools"),
            ("list_pool_node_counts", "counting nodes"),
            ("get_node", "looking at nodes"),
            ("enable_pool_auto_scale", "telling pools to grow"),
        ],
    )
    def test_a_right_is_missing(self, desk: Desk, call: str, right: str) -> None:
        desk.emulator.bad_days.deny(CLIENT, [call], SECRET)
        (fault,) = rights.faults(desk.calls(""), desk.site())
        assert fault.startswith(f"{right} is not allowed: ")
        assert call in fault

    def test_all_that_the_backend_calls_is_asked_for(self, desk: Desk) -> None:
        """A new call of it needs a line in the doctor, too."""
        rights.faults(desk.calls(), desk.site())
        asked = set(desk.emulator.calls.seen)
        used = {word for path in pathlib.Path(rights.__file__).parent.glob("*.py") if path.stem in USERS for word in _operations(path)}
        assert len(used) > 10
        assert {operation.removeprefix("begin_") for operation in used} <= asked

    def test_the_key_is_no_good(self, desk: Desk) -> None:
        [fault] = rights.faults(desk.calls(OTHER_KEY), desk.site())
        assert "azure_batch.key_variable" in fault
        assert "MAC signature" in fault

    def test_azure_is_away(self, desk: Desk, clock: Clock) -> None:
        with pytest.raises(errors.Unavailable):
            rights.faults(Calls(Account("https://127.0.0.1:9", ACCOUNT, KEY)), desk.site())

    def test_pools_that_take_no_tasks(self, desk: Desk) -> None:
        desk.pool("dim")
        desk.emulator.bad_days.exhaust("spot", "AllocationFailed", "Allocation failed.")
        desk.emulator.bad_days.stick("regular", "starttaskfailed")
        with desk.emulator.account.lock:
            for name in ("regular", "spot"):
                pool = desk.emulator.account.pool(name)
                pool.dedicated, pool.low_priority, pool.allocation = (1, 0, "resizing") if name == "regular" else (0, 1, "resizing")
        desk.emulator.wait_nodes("regular", 1, "starttaskfailed")
        pools = (REGULAR, Pool(id="spot", vm_size=SIZE, spot=True, shape=REGULAR.shape), Pool(id="dim", vm_size=SIZE), Pool(id="none", vm_size=SIZE))
        found = rights.faults(desk.calls(), desk.site(pools=pools))
        assert len(found) == 4
        assert found[0].startswith("pool regular: 1 nodes are starttaskfailed: the start task failed")
        assert found[1] == "pool spot: AllocationFailed: Allocation failed."
        assert found[2].startswith("nothing tells what the nodes of pool dim have")
        assert found[3] == "there is no pool none: `tes-server pools apply` makes it"


# -- means

USERS = ("attempts", "driver", "jobs", "looks", "pool_looks", "submit")
"""The modules of the backend that call Azure Batch."""


def _operations(path: pathlib.Path) -> Iterator[str]:
    yield from re.findall(r'(?:ask|read|listed)\(\s*"([a-z_]+)"', path.read_text())
