"""The operations on pools. Each is named as the SDK's method is, and raises BatchError."""

from __future__ import annotations

import copy
import time

from tests.emulators.azure_batch import formulas
from tests.emulators.azure_batch.account import Account
from tests.emulators.azure_batch.formula_functions import FormulaError
from tests.emulators.azure_batch.protocol import BatchError, Json, duration, invalid
from tests.emulators.azure_batch.records import Pool
from tests.emulators.azure_batch.requests import Reply, Request, check_conditions, check_environment, check_name, check_range, created, listed, one
from tests.emulators.azure_batch.scaling import Scaling

LEAST_INTERVAL, LONGEST_INTERVAL = 300, 168 * 3600
BETWEEN = 30.0
"""seconds between two calls of enable_pool_auto_scale"""
MOST_SLOTS = 256
ANY_TIME = {"startTask", "metadata", "applicationPackageReferences"}
"""properties that a pool with nodes may have changed"""
RESIZING = BatchError("PoolBeingResized", 409, "The specified pool is being resized")
NOT_SCALED = BatchError("AutoScaleNotEnabled", 409, "The specified pool does not have automatic scaling enabled")
STATES = {
    "creating": "creating",
    "deallocated": "deallocated",
    "deallocating": "deallocating",
    "idle": "idle",
    "leavingpool": "leavingPool",
    "offline": "offline",
    "preempted": "preempted",
    "rebooting": "rebooting",
    "reimaging": "reimaging",
    "running": "running",
    "starting": "starting",
    "starttaskfailed": "startTaskFailed",
    "unknown": "unknown",
    "unusable": "unusable",
    "upgradingos": "upgradingOS",
    "waitingforstarttask": "waitingForStartTask",
}


class PoolCalls:
    """Everything under the account's lock."""

    def __init__(self, account: Account, scaling: Scaling) -> None:
        self._account = account
        self._scaling = scaling

    def create_pool(self, request: Request) -> Reply:
        given = request.body
        name = check_name(given["id"])
        if name.lower() in self._account.pools:
            raise BatchError("PoolExists", 409, "The specified pool already exists.")
        if len(self._account.pools) >= self._account.world.pools:
            raise BatchError("PoolQuotaReached", 409, "Pool quota for the account has been reached.")
        cores = self._check(given)
        pool = Pool(id=name, url=f"{self._account.url}/pools/{name}", spec=copy.deepcopy(given), state="active", cores=cores)
        if given.get("enableAutoScale"):
            self._check_formula(pool, given.get("autoScaleFormula", ""))
            pool.auto_scale, pool.formula = True, given["autoScaleFormula"]
            pool.interval = _interval(given)
        elif "autoScaleFormula" in given:
            raise invalid("autoScaleFormula", "...", "enableAutoScale is false")
        self._account.pools[name.lower()] = pool
        self._scaling.resize(pool, given.get("targetDedicatedNodes", 0), given.get("targetLowPriorityNodes", 0), "requeue")
        return created(pool)

    def _check(self, given: Json) -> int:
        """The cores of a node."""
        cores = self._check_machine(given)
        if given.get("enableAutoScale") and ("targetDedicatedNodes" in given or "targetLowPriorityNodes" in given):
            raise invalid("targetDedicatedNodes", "...", "cannot be specified if enableAutoScale is true")
        if not given.get("enableAutoScale") and not {"targetDedicatedNodes", "targetLowPriorityNodes"} & given.keys():
            raise invalid("targetDedicatedNodes", None, "at least one target is required if enableAutoScale is false")
        for target in ("targetDedicatedNodes", "targetLowPriorityNodes"):
            check_range(target, given.get(target, 0), 0, 2_147_483_647)
        check_environment(given.get("startTask", {}).get("environmentSettings", []))
        return cores

    def _check_machine(self, given: Json) -> int:
        """The cores of a node."""
        found = self._account.world.machine(given["vmSize"])
        if found is None:
            raise invalid("vmSize", given["vmSize"], "The specified VM size is not available in this region")
        check_range("taskSlotsPerNode", given.get("taskSlotsPerNode", 1), 1, min(4 * found.cores, MOST_SLOTS))
        machine = given.get("virtualMachineConfiguration")
        if machine is None:
            raise invalid("virtualMachineConfiguration", None, "required")
        image = machine["imageReference"]
        asked = f"{image.get('publisher')}:{image.get('offer')}:{image.get('sku')}:{machine['nodeAgentSKUId']}"
        if "virtualMachineImageId" not in image and asked not in self._account.world.images:
            raise BatchError("NodeAgentSKUNotFound", 404, "The specified Node Agent SKU does not exist.", {"Asked": asked})
        return found.cores

    def get_pool(self, request: Request) -> Reply:
        pool = self._account.pool(request.path["poolId"])
        return one(request, pool, pool.told(), "BatchPool")

    def pool_exists(self, request: Request) -> Reply:
        self._account.pool(request.path["poolId"])
        return Reply()

    def list_pools(self, request: Request) -> Reply:
        return listed(request, [pool.told() for pool in self._account.pools.values()], "BatchPool")

    def delete_pool(self, request: Request) -> Reply:
        pool = self._pool(request)
        pool.state = "deleting"
        pool.auto_scale = False
        self._scaling.resize(pool, 0, 0, "requeue")
        return Reply()

    def update_pool(self, request: Request) -> Reply:
        """PATCH: what is not given stays. All but start task, packages and metadata may change while there are no nodes only."""
        pool = self._pool(request)
        check_environment(request.body.get("startTask", {}).get("environmentSettings", []))
        if request.body.keys() - ANY_TIME:
            if pool.nodes or pool.allocation != "steady":
                raise BatchError("OperationInvalidForCurrentState", 409, "The specified operation is not valid for the current state of the resource.")
            pool.cores = self._check_machine({**pool.spec, **request.body})
        pool.spec |= copy.deepcopy(request.body)
        pool.touch()
        return Reply()

    def replace_pool_properties(self, request: Request) -> Reply:
        pool = self._pool(request)
        for name in ("startTask", "metadata", "applicationPackageReferences"):
            pool.spec.pop(name, None)
        pool.spec |= copy.deepcopy(request.body)
        pool.touch()
        return Reply()

    # -- size ----------------------------------------------------------------------------------------------------------------

    def resize_pool(self, request: Request) -> Reply:
        pool = self._pool(request)
        if pool.auto_scale:
            raise BatchError("OperationInvalidForCurrentState", 409, "You cannot resize pools which are configured for automatic scaling")
        if pool.allocation != "steady":
            raise RESIZING
        given = request.body
        if not {"targetDedicatedNodes", "targetLowPriorityNodes"} & given.keys():
            raise invalid("targetDedicatedNodes", None, "at least one target is required")
        dedicated, low_priority = given.get("targetDedicatedNodes", pool.dedicated), given.get("targetLowPriorityNodes", pool.low_priority)
        self._scaling.resize(pool, dedicated, low_priority, given.get("nodeDeallocationOption", "requeue"))
        pool.touch()
        return Reply()

    def stop_pool_resize(self, request: Request) -> Reply:
        pool = self._pool(request)
        if pool.allocation != "resizing":
            raise BatchError("OperationInvalidForCurrentState", 409, "The specified operation is not valid for the current state of the resource.")
        pool.allocation = "stopping"
        pool.errors.append({"code": "ResizeStopped", "message": "Desired number of nodes could not be allocated as the resize was stopped", "values": []})
        return Reply()

    def enable_pool_auto_scale(self, request: Request) -> Reply:
        """It is evaluated at once."""
        pool = self._pool(request)
        if not pool.auto_scale and pool.allocation != "steady":
            raise RESIZING
        if time.monotonic() - pool.enabled < BETWEEN * self._account.world.second:
            raise BatchError("TooManyEnableAutoScaleRequests", 503, "Too many Enable Pool AutoScale requests are issued on the pool.")
        formula = request.body.get("autoScaleFormula", pool.formula)
        interval = _interval(request.body, pool.interval)
        self._check_formula(pool, formula)
        pool.auto_scale, pool.formula, pool.interval = True, formula, interval
        pool.enabled, pool.evaluated = time.monotonic(), float("-inf")
        pool.touch()
        self._account.lock.notify_all()
        return Reply()

    def disable_pool_auto_scale(self, request: Request) -> Reply:
        pool = self._pool(request)
        pool.auto_scale, pool.run = False, None
        pool.touch()
        return Reply()

    def evaluate_pool_auto_scale(self, request: Request) -> Reply:
        pool = self._pool(request)
        if not pool.auto_scale:
            raise NOT_SCALED
        return Reply(self._check_formula(pool, request.body["autoScaleFormula"]))

    def _check_formula(self, pool: Pool, formula: str) -> Json:
        """BatchError 400: its syntax is wrong."""
        try:
            return self._scaling.evaluate(pool, formula)[0]
        except FormulaError as error:
            raise BatchError(error.code, 400, error.message, {"Formula": formula[: formulas.LONGEST]}) from error

    # -- counts and images -----------------------------------------------------------------------------------------------------

    def list_pool_node_counts(self, request: Request) -> Reply:
        found = [{"poolId": pool.id, "dedicated": _counts(pool, True), "lowPriority": _counts(pool, False)} for pool in self._account.pools.values()]
        return listed(request, found, "BatchPoolNodeCounts", key="poolId", most=10)

    def list_supported_images(self, request: Request) -> Reply:
        found = []
        for text in self._account.world.images:
            publisher, offer, sku, agent = text.split(":")
            image = {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"}
            found.append(
                {"nodeAgentSKUId": agent, "imageReference": image, "osType": "linux", "verificationType": "verified", "capabilities": ["DockerCompatible"]}
            )
        return listed(request, found, "BatchSupportedImage", key="nodeAgentSKUId")

    def _pool(self, request: Request) -> Pool:
        """One that can be changed."""
        pool = self._account.pool(request.path["poolId"])
        check_conditions(request, pool)
        if pool.state == "deleting":
            raise BatchError("PoolBeingDeleted", 409, "The specified pool has been marked for deletion and is being reclaimed.")
        return pool


def _interval(given: Json, usual: float = 900.0) -> float:
    text = given.get("autoScaleEvaluationInterval")
    if text is None:
        return usual
    if not LEAST_INTERVAL <= duration(text) <= LONGEST_INTERVAL:
        raise invalid("autoScaleEvaluationInterval", text, "must be between 5 minutes and 168 hours")
    return duration(text)


def _counts(pool: Pool, dedicated: bool) -> Json:
    found = dict.fromkeys(STATES.values(), 0) | {"total": 0}
    for node in pool.nodes.values():
        if node.dedicated == dedicated:
            found[STATES[node.state]] += 1
            found["total"] += 1
    return found
