"""AWS Batch as the site's settings have it: what the renderer and the driver are told. Pure values."""

from __future__ import annotations

import fnmatch

import msgspec

from tes_server.plan import objects
from tes_server.plan.steps import Plan
from tes_server.runner.node import NodeSite


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of the hosts that runners see at the same path."""

    path: str
    read_only: bool = True


class Queues(msgspec.Struct, frozen=True, kw_only=True):
    """The job queues of one kind of hosts, one for each class of capacity; `spot` "" = there is none."""

    regular: str
    spot: str = ""

    def of(self, plan: Plan) -> str:
        """Where an attempt goes: Spot only while it may be interrupted."""
        return self.spot if self.spot and plan.on_spot else self.regular


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """An IAM role, and the tasks that get it: those of `owners` (patterns), or whose outputs all lie below `outputs`."""

    arn: str
    owners: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def holds(self, plan: Plan) -> bool:
        """True if a task gets it."""
        if any(fnmatch.fnmatchcase(plan.owner, pattern) for pattern in self.owners):
            return True
        urls = [collect.url for collect in plan.stage_out.outputs]
        rules = [objects.rule_of(prefix, write=True) for prefix in self.outputs]
        return bool(urls and rules) and all(objects.covered(rules, url) is not None for url in urls)


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The account as the renderer has it. Times in seconds."""

    server: str
    """first part of the names of jobs and job definitions"""
    queues: Queues
    node: NodeSite
    image: str
    """of the runner: this server's own"""
    chosen: dict[str, Queues] = {}
    """further queues, by the name that tasks give"""
    job_role: str = ""
    execution_role: str = ""
    roles: tuple[Role, ...] = ()
    environment: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    overhead_mib: int = 256
    save_seconds: float = 3600.0
    share: str = ""
    """share identifier of jobs; `owner` = the task's owner, "" = none"""
    priorities: dict[str, int] = {}
    """by the name that tasks give"""
    tag_tags: tuple[str, ...] = ()
    log_group: str = ""

    def role_of(self, plan: Plan) -> str:
        """The role of an attempt's runner."""
        return next((role.arn for role in self.roles if role.holds(plan)), self.job_role)

    def queues_of(self, plan: Plan) -> Queues:
        """By the task's own word (`queue`), by a zone that is named as one of ours, else the site's."""
        named = (plan.placement.parameters.get("queue", ""), *plan.placement.zones)
        return next((self.chosen[name] for name in named if name in self.chosen), self.queues)

    def every_queue(self) -> tuple[str, ...]:
        """All queues that jobs of ours may be in, each once."""
        both = (name for queues in (self.queues, *self.chosen.values()) for name in (queues.regular, queues.spot))
        return tuple(dict.fromkeys(name for name in both if name))
