"""Plans -> Jobs, as whole objects: a change of a manifest is a visible diff. `pytest tests/golden --update-golden` rewrites them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tes_server.backends.kubernetes import containers, names, render
from tes_server.backends.kubernetes.site import Claim, Gpu, Identity, Pool, Program, SecretKey, Site, Taint
from tes_server.filer.manifest import Access
from tes_server.model import views
from tes_server.model.task import Task
from tes_server.plan import compiler
from tes_server.plan.paths import SitePath, Sites
from tes_server.plan.policy import Capabilities, Policy, Values
from tes_server.plan.steps import Findings, Plan
from tes_server.runner import pod
from tes_server.runner.pod import PodSite
from tests import gates

HERE = pathlib.Path(__file__).parent
POLICY = Policy(
    sites=Sites(paths=(SitePath("/cromwell-executions", "file:///shared/cromwell"),), roots=("/data", "/shared")),
    live_mounts=("/data/jobstore",),
    default_max_runtime=0.0,
)
CAPABILITIES = Capabilities(parameters={"node_pool": Values(), "service_account": Values(choices=("reader",))}, host_image=True)
PLAIN = Site(namespace="tes", server="golden", image="registry.example/tes-server:1", claims=(Claim(name="data", path="/data"),))
ALONE = msgspec.structs.replace(PLAIN, program=Program(name="tes-step-0123456789abcdef", architecture="amd64"))
FULL = Site(
    namespace="tes",
    server="golden",
    image="registry.example/tes-server:1",
    shared=PodSite(access=Access(roots=("/data",)), tail_bytes=4096, spool="s3://spool/tes"),
    pull_secrets=("registry-login",),
    service_account="tes-tasks",
    identity=Identity(client_id="11111111-2222-3333-4444-555555555555", tenant_id="99999999-8888-7777-6666-555555555555"),
    stage_environment={"AWS_REGION": "eu-central-1", "ODD": "$(PATH) $$"},
    stage_secrets=("store-keys",),
    claims=(Claim(name="data", path="/data"), Claim(name="reference", path="/reference", read_only=True)),
    storage_class="managed-csi",
    gpu_types={"a100": Gpu(pool=Pool(labels={"gpu": "a100"}, taints=(Taint(key="sku", value="gpu"),)))},
    selectors={"node_pool": "kubernetes.azure.com/agentpool"},
    tag_labels=("project", "cost centre"),
    priority_class="batch",
    queue="tasks",
    restricted=True,
    user_namespaces=True,
)
WHOLE: dict[str, Any] = {
    "executors": [
        {"image": "a", "command": ["one"], "stdin": "/work/in", "stdout": "/work/o$ut", "workdir": "/work", "env": {"HOME": "$(X)"}, "ignore_error": True},
        {"image": "b@sha256:" + "0" * 64, "command": ["two", "$(HOME)"]},
    ],
    "inputs": [{"path": "/work/in", "content": "$(X) $$"}],
    "outputs": [{"path": "/root/own", "url": "/data/own"}],
    "tags": {"project": "Génome 7", "cost centre": "a/b", "other": "x"},
    "resources": {
        "cpu_cores": 4,
        "ram_gb": 16,
        "disk_gb": 500,
        "preemptible": True,
        "zones": ["westeurope-1", "westeurope-2"],
        "backend_parameters": {"gpus": "2", "gpu_type": "a100", "node_pool": "big", "service_account": "reader", "max_runtime": "90m"},
    },
}


def plan_of(task: dict[str, Any] | bytes, attempt: int = 1) -> Plan:
    decoded = msgspec.json.decode(task, type=Task) if isinstance(task, bytes) else msgspec.convert(task, Task)
    return compiler.compile_task(views.with_types(decoded), "0123456789abcdefghjkmnpqrs", attempt, "Ann @ lab", POLICY, CAPABILITIES).plan


def test_logins_of_an_owner_come_first() -> None:
    site = msgspec.structs.replace(FULL, owner_pull_secrets={"* @ lab": ("lab-login", "registry-login"), "Bob": ("bobs",)})
    spec = msgspec.json.decode(render.render(plan_of({"executors": [{"image": "a", "command": ["x"]}]}), site).body)["job"]["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "lab-login"}, {"name": "registry-login"}]


TASKS = sorted(path.stem for path in (HERE / "tasks").glob("*.json"))


def compare(name: str, body: bytes, request: pytest.FixtureRequest) -> None:
    got = msgspec.json.format(body, indent=1) + b"\n"
    file = HERE / "jobs" / f"{name}.json"
    if request.config.getoption("--update-golden"):
        file.write_bytes(got)
    assert got.decode() == file.read_text()


@pytest.mark.parametrize("name", TASKS)
def test_job(name: str, request: pytest.FixtureRequest) -> None:
    compare(name, render.render(plan_of((HERE / "tasks" / f"{name}.json").read_bytes()), PLAIN).body, request)


def test_a_site_with_everything(request: pytest.FixtureRequest) -> None:
    compare("everything", render.render(plan_of(WHOLE), FULL).body, request)


def test_a_directory_of_a_shared_volume(request: pytest.FixtureRequest) -> None:
    site = msgspec.structs.replace(PLAIN, storage_claim="scratch", storage_from=1)
    task = {
        "executors": [{"image": "i", "command": ["x"], "stdout": "/work/o"}],
        "outputs": [{"path": "/work/o", "url": "/data/o"}],
        "resources": {"disk_gb": 5},
    }
    compare("shared-volume", render.render(plan_of(task, 3), site).body, request)


def test_who_copies_out_of_an_image_is_not_on_the_shared_volume() -> None:
    """It would have the whole of its directory there, and a link in place of a part leads the next mount to the files of others."""
    site = msgspec.structs.replace(PLAIN, storage_claim="scratch", storage_from=1)
    task = {"executors": [{"image": "i", "command": ["x"]}], "outputs": [{"path": "/root/own", "url": "/data/own"}], "resources": {"disk_gb": 5}}
    spec = msgspec.json.decode(render.render(plan_of(task), site).body)["job"]["spec"]["template"]["spec"]
    assert {"name": "task", "emptyDir": {"sizeLimit": "5000000000"}} in spec["volumes"]


LONE: dict[str, Any] = {
    "executors": [{"image": "a", "command": ["one", "$(HOME)"], "workdir": "/work/deep", "env": {"A": "$$ $(X)"}, "ignore_error": True}],
    "volumes": ["/vol"],
    "resources": {"cpu_cores": 2, "ram_gb": 4, "disk_gb": 10, "backend_parameters": {"max_runtime": "90m"}},
}


def test_one_container_where_one_is_enough(request: pytest.FixtureRequest) -> None:
    compare("alone", render.render(plan_of(LONE), ALONE).body, request)


@pytest.mark.parametrize(
    "more",
    [
        {"executors": [{"image": "a", "command": ["one"]}, {"image": "a", "command": ["two"]}]},
        {"executors": [{"image": "a", "command": ["one"], "stdout": "/work/out"}]},
        {"executors": [{"image": "a", "command": ["one"], "stdin": "/work/in"}]},
        {"executors": [{"image": "a", "command": ["x" * 100_000]}]},
        {"inputs": [{"path": "/work/in", "content": ""}]},
        {"outputs": [{"path": "/work/out", "url": "/data/out"}]},
        {"inputs": [{"path": "/jobs", "url": "file:///data/jobstore/a", "type": "DIRECTORY"}]},
        {"volumes": ["/vol/below"]},
        {"resources": {"backend_parameters": {"node_pool": "arm64"}}},
        {"resources": {"disk_gb": 200}},
    ],
)
def test_tasks_that_need_more_have_it(more: dict[str, Any]) -> None:
    site = msgspec.structs.replace(ALONE, storage_class="managed-csi", selectors={"node_pool": names.ARCHITECTURE})
    task = {"executors": [{"image": "a", "command": ["one"]}], **more}
    assert "initContainers" in msgspec.json.decode(render.render(plan_of(task), site).body)["job"]["spec"]["template"]["spec"]
    spool = msgspec.structs.replace(ALONE, shared=PodSite(spool="s3://spool/tes"))
    assert "initContainers" in msgspec.json.decode(render.render(plan_of(LONE), spool).body)["job"]["spec"]["template"]["spec"]


SCAN: dict[str, Any] = {
    "executors": [
        {"image": "scanner@sha256:" + "1" * 64, "command": ["trivy", "image", "i@sha256:" + "2" * 64], "env": {"TOKEN": "secret://console/token", "A": "b"}}
    ],
    "resources": {"cpu_cores": 1, "ram_gb": 2},
}


def test_a_scan(request: pytest.FixtureRequest) -> None:
    """With volumes and stage-out, who reads its report; with the secrets of scans, which tasks do not have."""
    site = msgspec.structs.replace(ALONE, scan_secrets={"console": SecretKey("prisma")}, secrets={"portal": SecretKey("portal", "token")})
    capable = msgspec.structs.replace(CAPABILITIES, scan_secrets=("console",), secrets=("portal",))
    task = msgspec.convert(SCAN, Task)
    findings = Findings("trivy", "/scan/report.json")
    plan = compiler.compile_task(task, "0123456789abcdefghjkmnpqrs", 1, "tes-server.scan", POLICY, capable, findings=findings).plan
    compare("scan", render.render(plan, site).body, request)


def test_a_task_that_scans_its_images_first(request: pytest.FixtureRequest) -> None:
    """Two scans, one of them with a secret; nothing of the task's in their containers, and nothing of theirs in the task's."""
    site = msgspec.structs.replace(ALONE, scan_secrets={"console": SecretKey("prisma")}, secrets={"portal": SecretKey("portal", "token")})
    capable = msgspec.structs.replace(CAPABILITIES, secrets=("portal",))
    task = {"executors": [{"image": "a", "command": ["x"], "env": {"P": "secret://portal"}}], "resources": {"cpu_cores": 2, "ram_gb": 4}}
    gate = gates.gate("scanner@sha256:" + "1" * 64, "one", "two", env={"TOKEN": "secret://console/token", "A": "$(B)"}, secrets=("console",))
    plan = compiler.compile_task(msgspec.convert(task, Task), "0123456789abcdefghjkmnpqrs", 1, "o", POLICY, capable, gate=gate).plan
    body = render.render(plan, site).body
    compare("gate", body, request)
    spec = msgspec.json.decode(body)["job"]["spec"]["template"]["spec"]
    inits = spec["initContainers"]
    assert [container["name"] for container in inits] == ["scan-tools", "scan-0", "scan-1", "stage-in"]
    for container in inits[:3]:
        assert {mount["name"] for mount in container["volumeMounts"]} == {names.SCAN}
    for container in spec["containers"]:
        assert names.SCAN not in {mount["name"] for mount in container["volumeMounts"]}
        assert "prisma" not in str(container)
    assert "portal" not in str(inits[:3])


def test_secrets_are_the_nodes_to_fetch() -> None:
    """In a pod of one container too: in no argument, order or file, but by reference."""
    site = msgspec.structs.replace(ALONE, secrets={"portal": SecretKey("keys", "portal"), "db": SecretKey("db")})
    capable = msgspec.structs.replace(CAPABILITIES, secrets=("portal", "db"))
    task = msgspec.convert({"executors": [{"image": "a", "command": ["x"], "env": {"P": "secret://portal", "D": "secret://db/pw", "E": "e"}}]}, Task)
    body = render.render(compiler.compile_task(task, "t", 1, "o", POLICY, capable).plan, site).body
    [container] = msgspec.json.decode(body)["job"]["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "P", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "portal"}}},
        {"name": "D", "valueFrom": {"secretKeyRef": {"name": "db", "key": "pw"}}},
    ]
    assert [word for word in container["args"] if word.startswith(("E=", "P=", "D="))] == ["E=e"]


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in (HERE / "jobs").iterdir()} == {*TASKS, "everything", "shared-volume", "alone", "scan", "gate"}


def specs() -> Iterator[Any]:
    tasks: list[dict[str, Any] | bytes] = [WHOLE, LONE, *((HERE / "tasks" / f"{name}.json").read_bytes() for name in TASKS)]
    for site in (PLAIN, ALONE, FULL):
        for task in tasks:
            yield msgspec.json.decode(render.render(plan_of(task), site).body)["job"]["spec"]["template"]["spec"]


def executors(spec: Any) -> list[Any]:
    return [container for container in spec["containers"] if names.index_of(container["name"]) is not None]


# What must hold whatever the golden files say.


def test_no_executor_sees_a_token_a_secret_or_the_order() -> None:
    for spec in specs():
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert executors(spec)
        forbidden = {names.IDENTITY, names.ORDER}
        for container in executors(spec):
            assert not {mount["name"] for mount in container["volumeMounts"]} & forbidden
            assert "envFrom" not in container
            assert all(variable["valueFrom"].keys() == {"secretKeyRef"} for variable in container.get("env", ()))
            for mount in container["volumeMounts"]:
                whole = mount["name"] == names.CONTROL and not mount.get("subPath", "").startswith(("bin", "steps/"))
                assert not whole or "initContainers" not in spec, "the order lies at the top of the control volume"


def test_the_identity_is_that_of_stage_containers_alone() -> None:
    spec = msgspec.json.decode(render.render(plan_of(WHOLE), FULL).body)["job"]["spec"]["template"]["spec"]
    with_token = {
        container["name"]
        for container in (*spec["initContainers"], *spec["containers"])
        if any(mount["name"] == names.IDENTITY for mount in container["volumeMounts"])
    }
    assert with_token == {names.STAGE_IN, names.STAGE_OUT}
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == names.IDENTITY]
    assert volume["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "api://AzureADTokenExchange"
    labels = msgspec.json.decode(render.render(plan_of(WHOLE), FULL).body)["job"]["spec"]["template"]["metadata"]["labels"]
    assert not any(label.startswith("azure.workload.identity") for label in labels), "its webhook would give the token to every container"


def test_every_container_is_bounded_and_without_new_powers() -> None:
    for spec in specs():
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not container["securityContext"].get("privileged")
            assert container["resources"]["limits"]["memory"]


def test_executors_together_ask_for_little_more_than_the_task() -> None:
    spec = msgspec.json.decode(render.render(plan_of({"executors": [{"image": "i", "command": ["x"]}] * 5, "resources": {"ram_gb": 8}}), PLAIN).body)
    asked = [int(container["resources"]["requests"]["memory"]) for container in executors(spec["job"]["spec"]["template"]["spec"])]
    assert asked[0] == 8_000_000_000
    assert sum(asked[1:]) < 100_000_000
    limits = {container["resources"]["limits"]["memory"] for container in executors(spec["job"]["spec"]["template"]["spec"])}
    assert limits == {"8000000000"}


def test_nothing_of_a_task_is_expanded_by_kubernetes() -> None:
    spec = msgspec.json.decode(render.render(plan_of(WHOLE), FULL).body)["job"]["spec"]["template"]["spec"]
    arguments = spec["containers"][0]["args"]
    assert arguments[arguments.index("--stdout") + 1] == "/work/o$$ut"
    [order] = [variable["value"] for variable in spec["initContainers"][0]["env"] if variable["name"] == pod.ORDER]
    # As Kubernetes reads it: `$$` is one dollar, and no `$(` is left that would name a variable.
    assert "$(" not in order.replace("$$", "")
    assert msgspec.json.decode(order.replace("$$", "$"), type=pod.Order).plan == plan_of(WHOLE)


def test_a_reclaimed_task_ends_on_regular_nodes() -> None:
    task = {"executors": [{"image": "i", "command": ["x"]}], "resources": {"preemptible": True, "backend_parameters": {"spot_attempts": "2"}}}
    tolerated = []
    for attempt in (1, 2, 3):
        spec = msgspec.json.decode(render.render(plan_of(task, attempt), PLAIN).body)["job"]["spec"]["template"]["spec"]
        tolerated.append(any(toleration["key"] == "kubernetes.azure.com/scalesetpriority" for toleration in spec["tolerations"]))
    assert tolerated == [True, True, False]


def test_a_long_order_goes_into_secrets_and_comes_back_whole() -> None:
    task = {"executors": [{"image": "i", "command": ["x"]}], "inputs": [{"path": f"/in/{number}", "content": "y" * 100_000} for number in range(20)]}
    rendered = msgspec.json.decode(render.render(plan_of(task), PLAIN).body, type=render.Rendered)
    spec = rendered.job["spec"]["template"]["spec"]
    assert len(rendered.secrets) == 3
    assert rendered.job["metadata"]["annotations"][names.SECRETS] == "3"
    assert all(len(msgspec.json.encode(secret)) < 1.25 * 1024 * 1024 for secret in rendered.secrets)
    data = b"".join(msgspec.convert(secret["data"]["part"], bytes, strict=False) for secret in rendered.secrets)
    assert msgspec.json.decode(data, type=pod.Order).plan == plan_of(task)
    assert len(msgspec.json.encode(rendered.job)) < 20_000
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == names.ORDER]
    assert [source["secret"]["name"] for source in volume["projected"]["sources"]] == [secret["metadata"]["name"] for secret in rendered.secrets]


def test_the_largest_plan_fits_into_eight_secrets() -> None:
    task = {"executors": [{"image": "i", "command": ["x"]}], "inputs": [{"path": "/in", "content": "y" * (render.PLAN_BYTES - 2000)}]}
    rendered = msgspec.json.decode(render.render(plan_of(task), FULL).body, type=render.Rendered)
    assert len(rendered.secrets) <= 8


def test_a_live_directory_is_the_claims() -> None:
    task = {"executors": [{"image": "i", "command": ["x"]}], "inputs": [{"path": "/jobs", "url": "file:///data/jobstore/a", "type": "DIRECTORY"}]}
    [container] = executors(msgspec.json.decode(render.render(plan_of(task), PLAIN).body)["job"]["spec"]["template"]["spec"])
    assert {"name": "claim-0", "mountPath": "/jobs", "subPath": "jobstore/a"} in container["volumeMounts"]


def test_literal_survives_kubernetes() -> None:
    def expanded(text: str) -> str:
        """Kubernetes' third_party/forked/golang/expansion, for an environment that has every name."""
        out, at = "", 0
        while at < len(text):
            if text[at] == "$" and at + 1 < len(text):
                if text[at + 1] == "$":
                    out, at = out + "$", at + 2
                    continue
                if text[at + 1] == "(" and ")" in text[at:]:
                    out, at = out + "EXPANDED", text.index(")", at) + 1
                    continue
            out, at = out + text[at], at + 1
        return out

    for text in ("$(HOME)", "$$(HOME)", "$", "a$", "$$", "$$$", "$(", "${A}", "plain", "$)($"):
        assert expanded(containers.literal(text)) == text
