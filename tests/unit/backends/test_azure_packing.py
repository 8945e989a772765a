"""Which pool a task goes to, and how many slots it takes there."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server.backends.azure_batch import objects, packing, pool_looks
from tes_server.backends.azure_batch.packing import Needs, Place
from tes_server.backends.azure_batch.site import Pool, Shape

GB = 10**9
SMALL = Shape(cpus=4, ram_bytes=16 * GB, disk_bytes=100 * GB, slots=4)
LARGE = Shape(cpus=64, ram_bytes=256 * GB, disk_bytes=2000 * GB, slots=64)
GPU = Shape(cpus=8, ram_bytes=64 * GB, disk_bytes=200 * GB, gpus=2, slots=8)
SHAPES = {"small": SMALL, "large": LARGE, "spot": LARGE, "gpu": GPU}
POOLS = (
    Pool(id="large", vm_size="Standard_D64s_v5"),
    Pool(id="small", vm_size="Standard_D4s_v5"),
    Pool(id="spot", vm_size="Standard_D64s_v5", spot=True),
    Pool(id="gpu", vm_size="Standard_NC8"),
)


def needs(cpus: float = 1, ram: float = 1, **more: Any) -> Needs:
    return Needs(cpus=cpus, ram_bytes=int(ram * GB), **more)


class TestSlots:
    @pytest.mark.parametrize(
        ("asked", "slots"),
        [
            (needs(1), 1),
            (needs(0.1, 0.1), 1),
            (needs(1.01), 2),
            (needs(2), 2),
            (needs(4), 4),
            (needs(4.01), 0),
            (needs(1, 16 * 0.95), 4),
            (needs(1, 15.3), 0),
            (needs(1, 16 * 0.95 / 4), 1),
            (needs(1, 4), 2),
            (needs(1, disk_bytes=25 * GB), 1),
            (needs(1, disk_bytes=26 * GB), 2),
            (needs(1, disk_bytes=101 * GB), 0),
            (needs(1, gpus=1), 0),
        ],
    )
    def test_whatever_it_needs_most_of(self, asked: Needs, slots: int) -> None:
        assert packing.slots(asked, SMALL) == slots

    def test_never_more_on_a_node_than_it_has(self) -> None:
        """Whatever the tasks: as many as there are slots for fit."""
        for tenth in range(1, 41):
            asked = needs(tenth / 10, tenth * 0.37)
            taken = packing.slots(asked, SMALL)
            together = SMALL.slots // taken if taken else 0
            assert together * asked.cpus <= SMALL.cpus + 1e-6
            assert together * asked.ram_bytes <= SMALL.ram_bytes

    @pytest.mark.parametrize("slots", [1, 3, 16])
    def test_slots_need_not_be_cores(self, slots: int) -> None:
        shape = Shape(cpus=4, ram_bytes=16 * GB, slots=slots)
        assert packing.slots(needs(4), shape) == slots
        assert packing.slots(needs(0.2, 0.1), shape) == 1

    def test_who_asks_for_gpus_is_alone(self) -> None:
        assert packing.slots(needs(1, gpus=1), GPU) == 8
        assert packing.slots(needs(1, gpus=3), GPU) == 0

    def test_a_disk_of_which_nothing_is_known(self) -> None:
        assert packing.slots(needs(1, disk_bytes=1), Shape(cpus=4, ram_bytes=16 * GB, slots=4)) == 0
        assert packing.slots(needs(1), Shape(cpus=4, ram_bytes=16 * GB, slots=4)) == 1


class TestPools:
    @pytest.mark.parametrize(
        ("asked", "place"),
        [
            (needs(1), Place("small", 1)),
            (needs(1, spot=True), Place("spot", 1)),
            (needs(8), Place("large", 8)),
            (needs(1, vm_size="standard_d64S_v5"), Place("large", 1)),
            (needs(1, vm_size="Standard_D64s_v5", spot=True), Place("spot", 1)),
            (needs(1, vm_size="Standard_D4s_v5", spot=True), Place("small", 1)),
            (needs(1, gpus=1), Place("gpu", 8)),
            (needs(1, gpus=1, spot=True), Place("gpu", 8)),
            (needs(1, vm_size="Standard_NC8"), Place("gpu", 1)),
        ],
    )
    def test_the_smallest_in_which_it_fits_and_spot_first(self, asked: Needs, place: Place) -> None:
        assert packing.choose(asked, POOLS, SHAPES) == place

    def test_nodes_with_gpus_come_last(self) -> None:
        shapes = {name: shape for name, shape in SHAPES.items() if name in ("large", "gpu")}
        assert packing.choose(needs(1), POOLS, shapes) == Place("large", 1)

    def test_pools_that_are_not_there(self) -> None:
        assert packing.choose(needs(1), POOLS, {"large": LARGE}) == Place("large", 1)
        assert packing.choose(needs(1), POOLS, {}) == "no node is large enough for 1 cores, 1 GB of memory: no pool is there"

    def test_too_large(self) -> None:
        words = packing.choose(needs(65, 300, disk_bytes=10 * GB, gpus=1, vm_size="Standard_D64s_v5"), POOLS, SHAPES)
        assert words == (
            "no node is large enough for 65 cores, 300 GB of memory, 10 GB of disk, 1 GPUs: "
            "large (64 cores, 243 GB of memory for tasks, 2e+03 GB of disk, 0 GPUs)"
        )

    def test_none_that_may_not_go(self) -> None:
        words = packing.choose(needs(1), (POOLS[2],), SHAPES)
        assert words == "all pools are of Spot nodes, and the task may not be interrupted (any more): no other takes it"
        words = packing.choose(needs(1, vm_size="Standard_D64s_v5"), POOLS[1:], SHAPES)
        assert words == "no pool of size Standard_D64s_v5 takes tasks that may not be interrupted (any more)"


class TestShape:
    def test_settings_come_before_notes(self) -> None:
        pool = Pool(id="p", vm_size="s", shape=Shape(cpus=2, ram_bytes=8 * GB, slots=99))
        assert pool_looks.shape_of(pool, detail(4, **{"tes-cpus": "64", "tes-disk-gb": "100"})) == Shape(cpus=2, ram_bytes=8 * GB, disk_bytes=100 * GB, slots=4)

    def test_notes_alone(self) -> None:
        notes = {"tes-cpus": "64", "tes-ram-gb": "274.9", "tes-disk-gb": "x", "tes-gpus": "1", "other": "y"}
        assert pool_looks.shape_of(Pool(id="p", vm_size="s"), detail(64, **notes)) == Shape(cpus=64, ram_bytes=274_900_000_000, gpus=1, slots=64)

    @pytest.mark.parametrize("notes", [{}, {"tes-cpus": "4"}, {"tes-cpus": "four", "tes-ram-gb": "16"}])
    def test_nothing_tells(self, notes: dict[str, str]) -> None:
        assert pool_looks.shape_of(Pool(id="p", vm_size="s"), detail(4, **notes)) is None


def detail(slots: int, **notes: str) -> objects.PoolDetail:
    metadata = [{"name": name, "value": value} for name, value in notes.items()]
    return objects.pool({"id": "p", "state": "active", "allocationState": "steady", "taskSlotsPerNode": slots, "metadata": metadata})
