"""Job definitions: registered in revisions, looked up by name or ARN, refused as AWS Batch refuses them."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tests.emulators.aws_batch.protocol import Json, client_error
from tests.emulators.aws_batch.world import arn

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
LARGEST = 24 * 1024
"""bytes of a job definition"""
MOST_TAGS = 50


class Definitions:
    """Not safe for threads: the caller holds the account's lock."""

    def __init__(self) -> None:
        self._revisions: dict[str, list[Json]] = {}

    def register(self, given: Json, size: int) -> Json:
        """Keep a new revision; the definition as it is described."""
        name = given["jobDefinitionName"]
        check_name("jobDefinitionName", name)
        if size > LARGEST:
            raise client_error(f"Job definition size {size} exceeds the limit of {LARGEST} bytes.")
        if given["type"] != "container" or "containerProperties" not in given:
            raise client_error("The emulator runs single-container jobs on EC2 only: type container with containerProperties.")
        if "FARGATE" in given.get("platformCapabilities", ()):
            raise client_error("The emulator has no Fargate compute environment.")
        _check_container(given["containerProperties"])
        check_strategy(given.get("retryStrategy"))
        check_timeout(given.get("timeout"))
        check_tags(given.get("tags", {}))
        revisions = self._revisions.setdefault(name, [])
        definition = {
            **copy.deepcopy(given),
            "jobDefinitionArn": arn("job-definition", f"{name}:{len(revisions) + 1}"),
            "revision": len(revisions) + 1,
            "status": "ACTIVE",
            "containerOrchestrationType": "ECS",
        }
        definition.setdefault("platformCapabilities", ["EC2"])
        definition.setdefault("parameters", {})
        revisions.append(definition)
        return definition

    def find(self, name: str) -> Json | None:
        """The definition by NAME, NAME:REVISION or ARN; without a revision the newest that is active."""
        bare, _, revision = name.rpartition("job-definition/")[2].partition(":")
        found = self._revisions.get(bare, [])
        if revision:
            return found[int(revision) - 1] if revision.isdecimal() and 0 < int(revision) <= len(found) else None
        return next((definition for definition in reversed(found) if definition["status"] == "ACTIVE"), None)

    def all(self) -> list[Json]:
        """Every revision, the newest of a name first."""
        return [definition for revisions in self._revisions.values() for definition in reversed(revisions)]


def check_name(field: str, name: str) -> None:
    """Names of definitions and jobs: up to 128 letters, digits, hyphens, underscores."""
    if not NAME.fullmatch(name):
        raise client_error(f"{field} should match valid pattern: {NAME.pattern}")


def check_tags(tags: Mapping[str, str]) -> None:
    """Up to 50, keys up to 128 characters and not AWS's own, values up to 256."""
    if len(tags) > MOST_TAGS:
        raise client_error(f"Tags: {len(tags)} are more than {MOST_TAGS}.")
    for key, value in tags.items():
        if not 0 < len(key) <= 128 or len(value) > 256 or key.lower().startswith("aws:") or not re.fullmatch(r"[\w\s_.:/=+@-]*", key + value):
            raise client_error(f"Tag {key}={value} is not valid.")


def check_strategy(strategy: Mapping[str, Any] | None) -> None:
    """One to ten attempts, up to five rules."""
    if strategy is None:
        return
    if not 1 <= strategy.get("attempts", 1) <= 10:
        raise client_error("retryStrategy.attempts must be between 1 and 10.")
    rules = strategy.get("evaluateOnExit", [])
    if len(rules) > 5:
        raise client_error("retryStrategy.evaluateOnExit can have up to 5 entries.")
    for rule in rules:
        if len(rule) < 2:
            raise client_error("retryStrategy.evaluateOnExit: an entry needs onStatusReason, onReason or onExitCode.")
        for name in rule.keys() - {"action"}:
            if not re.fullmatch(r"[0-9]*\*?" if name == "onExitCode" else r"[A-Za-z0-9.:\s]*\*?", rule[name]) or len(rule[name]) > 512:
                raise client_error(f"retryStrategy.evaluateOnExit: {name} {rule[name]!r} is not valid.")


def check_timeout(timeout: Mapping[str, int] | None) -> None:
    """At least a minute."""
    if timeout is not None and timeout.get("attemptDurationSeconds", 60) < 60:
        raise client_error("timeout.attemptDurationSeconds must be at least 60.")


def check_environment(environment: Iterable[Mapping[str, str]]) -> None:
    """Names that AWS Batch sets itself are refused."""
    for entry in environment:
        if entry.get("name", "").startswith("AWS_BATCH"):
            raise client_error(f"Environment variables cannot start with AWS_BATCH: {entry['name']}")


def check_resources(requirements: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """VCPU and GPU: whole numbers from 1; MEMORY: MiB from 4. By type."""
    found: dict[str, int] = {}
    for entry in requirements:
        kind, value = entry["type"], entry["value"]
        if kind in found:
            raise client_error(f"resourceRequirements: {kind} is given twice.")
        if not re.fullmatch("[0-9]{1,9}", value) or int(value) < (4 if kind == "MEMORY" else 1):
            raise client_error(f"resourceRequirements: {value} is no valid value for {kind} on EC2.")
        found[kind] = int(value)
    return found


def _check_container(container: Mapping[str, Any]) -> None:
    if not container.get("image"):
        raise client_error("containerProperties.image must not be empty.")
    for name in ("networkConfiguration", "fargatePlatformConfiguration", "ephemeralStorage", "runtimePlatform"):
        if name in container:
            raise client_error(f"containerProperties.{name} is for Fargate only.")
    needs = check_resources(container.get("resourceRequirements", []))
    for kind, old in (("VCPU", "vcpus"), ("MEMORY", "memory")):
        if kind not in needs and old not in container:
            raise client_error(f"containerProperties.resourceRequirements: {kind} must be given.")
    check_environment(container.get("environment", []))
    volumes = [volume.get("name", "") for volume in container.get("volumes", [])]
    if len(set(volumes)) < len(volumes) or not all(NAME.fullmatch(name) for name in volumes):
        raise client_error("containerProperties.volumes: each needs a name of its own.")
    for point in container.get("mountPoints", []):
        if point.get("sourceVolume") not in volumes:
            raise client_error(f"containerProperties.mountPoints: there is no volume {point.get('sourceVolume')}.")
    if "" in container.get("command", []):
        raise client_error("containerProperties.command can't contain an empty string.")
    if len(json.dumps(container)) > LARGEST:
        raise client_error("containerProperties are too large.")
