"""`python -m tests.emulators.azure_batch`: an emulator to try things with by hand, until it is interrupted."""

from __future__ import annotations

import argparse
import threading

from tes_server import signals
from tests.emulators.azure_batch.emulator import Emulator
from tests.emulators.azure_batch.world import ACCOUNT, KEY, World

BAD_DAYS = """
# how things are, and what was asked:   {curl}/state    {curl}/calls    {curl}/reset
# what a task's container wrote:        {curl}/log -d '{{"job": "JOB", "task": "TASK"}}'
# bad days, as methods of bad_days.py with their arguments as JSON:
#   {curl}/preempt -d '{{"told": 5}}'                             the busiest Spot node, or "node": "tvmps_..."; "restore": seconds, null = never
#   {curl}/lose -d '{{"alive": true}}'                            a node is unusable, yet what runs there runs on
#   {curl}/kill_runner -d '{{"job": "JOB", "task": "TASK"}}'      the task's own container only
#   {curl}/lose_answers -d '{{"times": 3}}'                       of create_task_collection: done, but nobody is told
#   {curl}/throttle -d '{{"calls": "list_*", "every": 2}}'        429 with Retry-After; busy: 503; fail: 500
#   {curl}/fail_image -d '{{"image": "tes-runner:1"}}'            ContainerInvalidImage
#   {curl}/exhaust -d '{{"pool": "POOL"}}'                        AccountCoreQuotaReached
#   {curl}/stick -d '{{"pool": "POOL", "state": "starttaskfailed"}}'     what new nodes become; unusable
#   {curl}/slow_stop -d '{{"seconds": 20}}'    {curl}/expire_tokens
#   {curl}/deny -d '{{"client": "ID", "secret": "x", "operations": ["create_*"]}}'
#   {curl}/mend -d '{{}}'                                         all is well again, except for what is lost
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.azure_batch", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the endpoint; a free one if not given")
    parser.add_argument("--dedicated", type=int, default=100, metavar="CORES", help="quota of the account (%(default)s)")
    parser.add_argument("--spot", type=int, default=100, metavar="CORES", help="quota of the account (%(default)s)")
    parser.add_argument("--second", type=float, default=1.0, help="how long a second of intervals and limits takes (%(default)s)")
    parser.add_argument("--pretend", action="store_true", help="run nothing: tasks are running until they are said to have ended")
    parser.add_argument("--reaper", default="", metavar="DIRECTORY", help="run the nodes' reaper for this directory of attempts")
    given = parser.parse_args()
    world = World(dedicated_cores=given.dedicated, low_priority_cores=given.spot, second=given.second)
    ended = threading.Event()
    signals.hear(ended.set, *signals.ASKED)
    with Emulator(world, port=given.port, reaper=given.reaper, pretend=given.pretend) as emulator:
        _tell(emulator)
        ended.wait()


def _tell(emulator: Emulator) -> None:
    lines = [f"export {name}={value}" for name, value in emulator.environment.items()]
    lines += [f"# shared key of {ACCOUNT}: {KEY}", f"# VM sizes: {', '.join(machine.name for machine in emulator.world.machines)}"]
    lines += [f"# images and node agents: {', '.join(emulator.world.images)}"]
    if emulator.metadata.where == "network":
        lines.append("# managed identities at 169.254.169.254, the wire server at 168.63.129.16, as on a node of Azure")
    else:
        lines += [f"export AZURE_POD_IDENTITY_AUTHORITY_HOST={emulator.metadata.url}", f"# managed identities on loopback: {emulator.metadata.why}"]
    lines += ["# Key Vault and registries, for runners: " + " ".join(f"{name}={value}" for name, value in emulator.node_environment.items())]
    curl = f"curl -s --cacert {emulator.ca} {emulator.url}/_emulator"
    print("\n".join(lines), BAD_DAYS.format(curl=curl), sep="\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
