"""`python -m tests.emulators.aws_batch`: an emulator to try things with by hand, until it is interrupted."""

from __future__ import annotations

import argparse
import os
import threading

from tes_server import signals
from tests.emulators.aws_batch.emulator import Emulator
from tests.emulators.aws_batch.roles import S3
from tests.emulators.aws_batch.world import Environment, Queue, Size, World

BAD_DAYS = """
# how things are, and what was asked:   curl -s {url}/_emulator/state    curl -s {url}/_emulator/calls    curl -s {url}/_emulator/reset
# what a job's container wrote:         curl -s {url}/_emulator/log -d '{{"job": "JOB ID OR NAME"}}'
# bad days, as methods of bad_days.py with their arguments as JSON:
#   curl -s {url}/_emulator/reclaim -d '{{"notice": 5, "drain": true}}'         the busiest Spot host, or "host": "i-..."
#   curl -s {url}/_emulator/vanish -d '{{"told": 30}}'                          without a word; AWS Batch notices later
#   curl -s {url}/_emulator/kill_runner -d '{{"job": "JOB ID"}}'                the job's own container only
#   curl -s {url}/_emulator/lose_answers -d '{{"times": 3}}'                    of SubmitJob: done, but nobody is told
#   curl -s {url}/_emulator/throttle -d '{{"calls": "batch.*", "every": 2}}'    fail: 500 in place of 429
#   curl -s {url}/_emulator/disturb_events -d '{{"duplicate": -1, "swap": 5, "drop": 3, "delay": 2}}'
#   curl -s {url}/_emulator/hold -d '{{"queue": "spot", "reason": "MISCONFIGURATION:..."}}'    release
#   curl -s {url}/_emulator/lag -d '{{"seconds": 20}}'                          ListJobs knows of new jobs only later
#   curl -s {url}/_emulator/slow_terminate -d '{{"seconds": 20}}'
#   curl -s {url}/_emulator/deny -d '{{"key": "LIMITED", "secret": "x", "actions": ["batch:SubmitJob"]}}'
#   curl -s {url}/_emulator/mend -d '{{}}'                                      all is well again, except for what is lost
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.aws_batch", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the endpoint; a free one if not given")
    parser.add_argument("--hosts", type=int, default=2, help="hosts of each compute environment (%(default)s)")
    parser.add_argument("--vcpus", type=int, default=4, help="of a host (%(default)s)")
    parser.add_argument("--memory", type=int, default=7680, help="MiB of a host (%(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="of a host (%(default)s)")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME=VALUE", help="in Secrets Manager")
    parser.add_argument("--reaper", default="", metavar="DIRECTORY", help="run the hosts' reaper for this directory of attempts (aws_batch.work)")
    given = parser.parse_args()
    size = Size(vcpus=given.vcpus, memory=given.memory, gpus=given.gpus)
    environments = tuple(Environment(name=name, spot=name == "spot-hosts", hosts=given.hosts, size=size) for name in ("spot-hosts", "regular-hosts"))
    world = World(environments=environments, secrets=dict(pair.split("=", 1) for pair in given.secret))
    ended = threading.Event()
    signals.hear(ended.set, *signals.ASKED)
    s3 = _s3()
    with Emulator(world, s3=s3, port=given.port, reaper=given.reaper) as emulator:
        _tell(emulator, s3, world.queues)
        ended.wait()


def _s3() -> S3 | None:
    """The S3 server that the environment names."""
    names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return S3(*(os.environ[name] for name in names)) if all(name in os.environ for name in names) else None


def _tell(emulator: Emulator, s3: S3 | None, queues: tuple[Queue, ...]) -> None:
    environment = {**emulator.environment, **({"AWS_ENDPOINT_URL": s3.endpoint} if s3 else {})}
    lines = [f"export {name}={value}" for name, value in environment.items()]
    lines += [f"# job queues: {', '.join(queue.name for queue in queues)}", f"# events: {emulator.events_url}"]
    lines += [f"# secret {name}: {emulator.secrets.arn(name)}" for name in emulator.world.secrets]
    if emulator.metadata.where == "network":
        lines.append("# task roles at 169.254.170.2 and instance metadata at 169.254.169.254, as on a host of AWS, hop limit 1")
    else:
        lines.append(f"# task roles on loopback, and no instance metadata: {emulator.metadata.why}")
    print("\n".join(lines), BAD_DAYS.format(url=emulator.url), sep="\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
