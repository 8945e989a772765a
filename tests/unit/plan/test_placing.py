"""Which backend gets a task that nothing decides about, and what is said where none takes it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tes_server.errors import Invalid, TooLarge
from tes_server.model.task import Task
from tes_server.plan.placing import Placed, place
from tes_server.plan.policy import Capabilities, Policy, Target
from tes_server.plan.route import Rule

TARGETS = {
    "local": Target(policy=Policy(), capabilities=Capabilities(cpus=2, host_image=True, plan_bytes=5000)),
    "kubernetes": Target(policy=Policy(), capabilities=Capabilities(cpus=64, plan_bytes=10_000)),
}


def placed(rules: tuple[Rule, ...] = (), image: str = "i", **fields: Any) -> Placed:
    return place(msgspec.convert({"executors": [{"image": image, "command": ["c"]}], **fields}, Task), "t", "ann", rules, TARGETS)


def test_the_first_backend_that_can_takes_it() -> None:
    small, large = placed(), placed(resources={"cpu_cores": 8})
    assert (small.route.backend, small.route.rule) == ("local", "default: the first backend")
    assert (large.route.backend, large.route.rule) == ("kubernetes", "default: the first backend that can take it, after local")
    assert large.compiled.plan.limits.cpus == 8


@pytest.mark.parametrize(("rules", "parameters"), [((Rule(backend="local", owner="ann"),), {}), ((), {"backend": "local"})])
def test_what_a_rule_or_the_task_decides_binds(rules: tuple[Rule, ...], parameters: dict[str, str]) -> None:
    with pytest.raises(Invalid, match="8") as refused:
        placed(rules, resources={"cpu_cores": 8, "backend_parameters": parameters})
    assert refused.value.pointer == "/resources/cpu_cores"
    assert "kubernetes" not in refused.value.public


def test_where_none_can_each_says_why() -> None:
    with pytest.raises(Invalid) as refused:
        placed(image="host", resources={"cpu_cores": 8})
    assert refused.value.pointer == ""
    assert refused.value.public.startswith("no backend can take it: local: /resources/cpu_cores: ")
    assert "; kubernetes: /executors/0/image: " in refused.value.public
    with pytest.raises(Invalid) as refused:
        placed(resources={"cpu_cores": 100})
    assert refused.value.pointer == "/resources/cpu_cores"
    assert refused.value.public.count("/resources/cpu_cores") == 0


def test_what_all_say_is_said_once() -> None:
    with pytest.raises(Invalid) as refused:
        placed(volumes=["relative"])
    assert (refused.value.pointer, refused.value.public.count("absolute")) == ("/volumes/0", 1)


def test_too_large_for_all_is_too_large() -> None:
    content = [{"content": "x" * 20_000, "path": "/work/in"}]
    with pytest.raises(TooLarge, match=r"local: .*; kubernetes: "):
        placed(inputs=content)
    with pytest.raises(Invalid, match=r"local: .*; kubernetes: "):
        placed(inputs=content, image="host")
