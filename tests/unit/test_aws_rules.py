"""From settings to what the AWS Batch backend is told."""

from __future__ import annotations

from typing import Any

import pytest

from tes_server import aws_rules, configuration, errors, settings
from tes_server.backends.aws_batch.site import Mount, Queues
from tes_server.plan.policy import Values

STORAGE = [{"url": "s3://data", "write": True}, {"url": "s3://spool", "write": True, "tasks": False}]
USUAL: dict[str, Any] = {"aws_batch.queue": "regular", "aws_batch.image": "server:1", "spool.url": "s3://spool/tes", "storage": STORAGE}


def made(**tree: Any) -> settings.Settings:
    return configuration.load(None, {}, {**USUAL, **tree})


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"aws_batch.image": ""}, "aws_batch.image"),
        ({"server.id": "---"}, "server.id"),
        ({"aws_batch.work": "tasks"}, "aws_batch.work"),
        ({"aws_batch.work": "/"}, "aws_batch.work"),
        ({"aws_batch.network": "host"}, "aws_batch.network"),
        ({"aws_batch.queues": {"big": {"queue": ""}}}, "aws_batch.queues.big.queue"),
        ({"aws_batch.priorities": {"urgent": 10000}, "aws_batch.share": "owner"}, "aws_batch.priorities.urgent"),
        ({"aws_batch.priorities": {"urgent": 1}}, "aws_batch.priorities"),
        ({"aws_batch.mounts": [{"path": "reference"}]}, "aws_batch.mounts[0].path"),
        ({"aws_batch.mounts": [{"path": "/reference"}, {"path": "/var/lib/tes-server/x"}]}, "aws_batch.mounts[1].path"),
        ({"aws_batch.mounts": [{"path": "/var"}]}, "aws_batch.mounts[0].path"),
        ({"aws_batch.tag_tags": [f"tag{number}" for number in range(48)]}, "aws_batch.tag_tags"),
        ({"aws_batch.tag_tags": ["project", "a#b"]}, "aws_batch.tag_tags[1]"),
        ({"aws_batch.tag_tags": ["AWS:x"]}, "aws_batch.tag_tags[0]"),
        ({"aws_batch.roles": [{"role": "arn:aws:iam::123456789012:role/lab"}]}, "aws_batch.roles[0]"),
        ({"spool.url": ""}, "spool.url"),
        ({"spool.url": "file:///spool"}, "spool.url"),
        ({"spool.url": "s3://data/x"}, "spool.url"),  # tasks could write there
        ({"spool.url": "s3://other"}, "spool.url"),
        ({"aws_batch.environment": {"LONG": "x" * 25_000}}, "aws_batch"),
    ],
)
def test_what_makes_no_sense_is_refused(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        aws_rules.check(made(**tree))
    assert caught.value.where == where


def test_what_makes_sense_is_taken() -> None:
    known = made()
    aws_rules.check(known)
    assert aws_rules.enabled(known)
    assert not aws_rules.enabled(configuration.load(None, {}, {}))


def test_files_are_those_of_the_hosts_and_not_of_this_machine() -> None:
    mounts = [{"path": "/efs/", "read_only": False}, {"path": "/reference"}]
    known = made(**{"files.roots": ["/home"], "files.live_mounts": ["/efs/jobs", "/reference/jobs", "/elsewhere"], "aws_batch.mounts": mounts})
    site = aws_rules.site(known)
    assert site.mounts == (Mount(path="/efs", read_only=False), Mount(path="/reference"))
    assert site.node.access.roots == aws_rules.target(known).policy.sites.roots == ("/efs", "/reference")
    assert site.node.live_roots == aws_rules.target(known).policy.live_mounts == ("/efs/jobs",)


def test_runners_reach_the_spool_and_tasks_do_not() -> None:
    node = aws_rules.site(made()).node
    assert [store.url for store in node.spool_stores] == ["s3://spool"]
    assert [store.url for store in node.access.stores] == ["s3://data"]


def test_what_tasks_may_choose() -> None:
    known = made(
        **{
            "aws_batch.queues": {"big": {"queue": "big-regular", "spot": "big-spot"}},
            "aws_batch.shares": ["a", "b"],
            "aws_batch.priorities": {"urgent": 900},
            "aws_batch.secrets": {"TOKEN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token"},
            "aws_batch.scan_secrets": {"CONSOLE": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prisma"},
        }
    )
    aws_rules.check(known)
    capabilities = aws_rules.target(known).capabilities
    assert capabilities.parameters == {"queue": Values(choices=("big",)), "share": Values(choices=("a", "b")), "priority": Values(choices=("urgent",))}
    assert (capabilities.secrets, capabilities.scan_secrets) == (("TOKEN",), ("CONSOLE",))
    assert aws_rules.site(known).node.scan_secrets == {"CONSOLE": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prisma"}
    assert not capabilities.names_last
    assert aws_rules.site(known).chosen == {"big": Queues(regular="big-regular", spot="big-spot")}
    assert aws_rules.target(made()).capabilities.parameters == {}
