"""The chart's objects for some sets of values, whole; and what must hold for every set. `pytest tests/golden --update-golden` rewrites the files."""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import tes_server
from tes_server import app, configuration, settings
from tes_server.backends.kubernetes import names
from tests import helm

HERE = pathlib.Path(__file__).parent / "chart"
HOME = pathlib.Path(__file__).parents[2]
ELSEWHERE = "azure-batch"
"""The set without tasks in the cluster."""

SETS = sorted(path.name.removesuffix(".values.yaml") for path in HERE.glob("*.values.yaml"))

Object = dict[str, Any]


class Readable(yaml.SafeDumper):
    """A text of several lines is one, too."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", "\n".join(map(str.rstrip, text.split("\n"))), style="|" if "\n" in text else None)


Readable.add_representer(str, Readable.represent_str)


def template(*words: str) -> list[Object]:
    """The objects of a release `first` in the namespace `here`, in an order of their own: helm's is another in each version."""
    printed = helm.run("template", "first", str(helm.CHART), "--namespace", "here", *words).stdout
    found = [each for each in yaml.safe_load_all(printed) if each]
    return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))


@functools.cache
def of(name: str) -> list[Object]:
    return template("--values", str(HERE / f"{name}.values.yaml"))


def only(objects: list[Object], kind: str, ending: str = "") -> Object:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return found


def pods(objects: list[Object]) -> Iterator[Object]:
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet"):
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield each["spec"]


def refusal(*words: str) -> str:
    done = helm.run("template", "first", str(helm.CHART), *words, check=False)
    assert done.returncode != 0
    return done.stderr


def server_settings(objects: list[Object], tmp_path: pathlib.Path) -> settings.Settings:
    """The settings file as the server reads it."""
    file = tmp_path / "settings.toml"
    file.write_text(only(objects, "ConfigMap")["data"]["settings.toml"])
    return configuration.load(file, {}, {})


@pytest.mark.parametrize("name", SETS)
def test_objects(name: str, request: pytest.FixtureRequest) -> None:
    got = "---\n".join(yaml.dump(each, Dumper=Readable, sort_keys=False, width=160) for each in of(name))
    file = HERE / f"{name}.objects.yaml"
    if request.config.getoption("--update-golden"):
        file.write_text(got)
    assert got == file.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {path.name for path in HERE.iterdir()} == {f"{name}.{kind}.yaml" for name in SETS for kind in ("values", "objects")}


def test_the_schema_is_what_the_script_prints(request: pytest.FixtureRequest) -> None:
    # Made by: python charts/schema.py > charts/tes-server/values.schema.json
    spec = importlib.util.spec_from_file_location("chart_schema", HOME / "charts" / "schema.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    got = json.dumps(script.schema((helm.CHART / "values.yaml").read_text()), indent=1, ensure_ascii=False) + "\n"
    file = helm.CHART / "values.schema.json"
    if request.config.getoption("--update-golden"):
        file.write_text(got)
    assert got == file.read_text()
    with pytest.raises(ValueError, match=r"a\.b has no comment"):
        script.schema("# Explained.\nsettings: {}\na:\n  b: 1\n  # Explained.\n  c: 1\n")


@pytest.mark.parametrize("name", SETS)
def test_lint(name: str) -> None:
    helm.run("lint", "--strict", str(helm.CHART), "--values", str(HERE / f"{name}.values.yaml"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "image.repository: name the place"),
        (("api.replicas=2",), "SQLite is one file for one pod; several pods need a database that they share: give its mongodb:// url as store.url"),
        (("reconciler.replicas=2",), "SQLite is one file for one pod"),
        (("api.autoscaling.enabled=true",), "SQLite is one file for one pod"),
        (("store.url=sqlite:",), "store.url: must begin with mongodb://"),
        (("store.url=mongodb://a", "store.existingSecret=b"), "each name a store: give one of them"),
        (("settings.store.url=mongodb://u:p@h",), "settings.store.url: the connection string belongs into store.url or store.existingSecret"),
        (("store.url=mongodb://a", "settings.control.metrics_port=0"), "settings.control.metrics_port: must not be 0"),
        (("settings.data=/data",), "settings.data: the chart decides"),
        (("mongodb.enabled=true",), "mongodb.image: name an image"),
        (("settings.azure_batch.key_variable=KEY",), "settings.azure_batch.key_variable: give KEY to the pods by env"),
        (("settings.server.tls.certificate=/a",), "settings.server.tls: name the Secret with certificate and key as tls.secretName"),
        (("ingress.enabled=true",), "ingress.hosts: name at least one host"),
        (("apy.replicas=2",), "additional properties 'apy' not allowed"),
        (("api.replicas=many",), "at '/api/replicas': got string, want integer"),
        (("settings.server.prt=1",), "at '/settings/server': additional properties 'prt' not allowed"),
        (("settings.kubernetes.ttl=0",), "at '/settings/kubernetes/ttl'"),
    ],
)
def test_what_contradicts_itself_is_refused(words: tuple[str, ...], said: str) -> None:
    given = [*words, "image.repository=x"] if words else []
    assert said in refusal(*(part for word in given for part in ("--set", word)))


@pytest.mark.parametrize("name", SETS)
def test_the_server_takes_its_settings(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = of(name)
    told = server_settings(objects, tmp_path)
    if told.store.url_file:
        assert told.store.url_file == "/etc/tes-server/store/url"
        monkeypatch.setattr(app, "store_url", lambda _settings: "mongodb://db.example")
    app.check(told)
    assert told.kubernetes.kubeconfig == "", "the service account of the pod"
    assert told.local.enabled is False
    [image] = {each["containers"][0]["image"] for each in pods(objects) if "mongodb" not in each["containers"][0]["name"]}
    assert told.kubernetes.image == ("" if name == ELSEWHERE else image)
    assert app.backend_names(told) == ("azure_batch" if name == ELSEWHERE else "kubernetes",)
    service = only([each for each in objects if "type" in each.get("spec", {})], "Service")["metadata"]["name"]
    assert {service, f"{service}.here", f"{service}.here.svc", f"{service}.here.svc.cluster.local"} <= set(told.auth.hosts)


def test_a_key_of_azure_batch_comes_from_a_secret() -> None:
    secret = ("env[0].name=KEY", "env[0].valueFrom.secretKeyRef.name=batch", "env[0].valueFrom.secretKeyRef.key=key")
    words = ("image.repository=x", "settings.azure_batch.key_variable=KEY", *secret)
    objects = template(*(part for word in words for part in ("--set", word)))
    container = only(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert [each for each in container["env"] if each["name"] == "KEY"] == [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "batch", "key": "key"}}}]


def test_the_runner_is_this_image_unless_another_is_named(tmp_path: pathlib.Path) -> None:
    assert server_settings(of("azure-batch"), tmp_path).azure_batch.image == "registry.example/tes-server:7"
    words = ("image.repository=x", "settings.azure_batch.url=https://a.b.batch.azure.com", "settings.azure_batch.image=other")
    assert server_settings(template(*(part for word in words for part in ("--set", word))), tmp_path).azure_batch.image == "other"


def test_hosts_are_those_of_service_and_ingress_and_the_sites_own(tmp_path: pathlib.Path) -> None:
    assert server_settings(of("everything"), tmp_path).auth.hosts[-2:] == ("tes.example.org", "old.example.org")


@pytest.mark.parametrize("name", ["sqlite", "everything"])
def test_network_policies_find_the_tasks_by_the_label_that_the_server_gives(name: str, tmp_path: pathlib.Path) -> None:
    objects = of(name)
    policy = only(objects, "NetworkPolicy", "-tasks")
    told = server_settings(objects, tmp_path)
    assert policy["spec"]["podSelector"] == {"matchLabels": {names.SERVER: names.label_value(told.server.id)}}
    assert policy["metadata"]["namespace"] == told.kubernetes.namespace
    assert "ingress" not in policy["spec"]


def test_no_task_may_reach_the_metadata_address() -> None:
    [_, everywhere] = only(of("sqlite"), "NetworkPolicy", "-tasks")["spec"]["egress"]
    blocks = [each["ipBlock"] for each in everywhere["to"] if "ipBlock" in each]
    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", "::/0"]
    assert "169.254.169.254/32" in blocks[0]["except"]


def test_ids_of_two_releases_are_never_one(tmp_path: pathlib.Path) -> None:
    ids = set()
    for namespace in ("n" * 60 + "1", "n" * 60 + "2"):
        for release in ("r" * 38 + "1", "r" * 38 + "2"):
            words = ("--namespace", namespace, "--set", f"image.repository=x,fullnameOverride={release}")
            ids.add(names.label_value(server_settings(template(*words), tmp_path).server.id))
    assert len(ids) == 4


@pytest.mark.parametrize("name", SETS)
def test_every_container_is_bounded_and_without_powers(name: str) -> None:
    for pod in pods(of(name)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        [container] = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]
        # Only what makes pods has a token for it.
        assert pod["automountServiceAccountToken"] is (container["name"] in ("server", "reconciler") and name != ELSEWHERE)


def test_no_password_leaves_its_secret() -> None:
    for each in of("replicas"):
        assert ("secret@" in json.dumps(each)) is (each["kind"] == "Secret")


@pytest.mark.parametrize("name", SETS)
def test_the_role_is_what_the_documentation_says(name: str) -> None:
    table = re.findall(r"^\| `([a-z/]+)` (?:\(`(\w+)`\) )?\| ([a-z, ]+) \|", (HOME / "docs" / "kubernetes.md").read_text(), re.MULTILINE)
    documented = [{"apiGroups": [group], "resources": [resource], "verbs": verbs.split(", ")} for resource, group, verbs in table]
    assert len(documented) == 6
    assert [each["rules"] for each in of(name) if each["kind"] == "Role"] == ([] if name == ELSEWHERE else [documented])
    assert not [each for each in of(name) if each["kind"].startswith("Cluster")]


@pytest.mark.parametrize(("number", "kind"), [(1, "Service"), (2, "Ingress")])
def test_the_values_of_the_documentation_are_taken(number: int, kind: str, tmp_path: pathlib.Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (HOME / "docs" / "aks.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    words = []
    for name in (0, number):
        (tmp_path / f"{name}.yaml").write_text(blocks[name])
        words += ["--values", str(tmp_path / f"{name}.yaml")]
    objects = template(*words)
    assert [each for each in objects if each["kind"] == kind]
    told = server_settings(objects, tmp_path)
    assert "tes.example.org" in told.auth.hosts
    assert told.kubernetes.identity_client_id == "CLIENT"


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (tes_server.__version__, tes_server.__version__)


def test_sign_in_is_settings_like_any_other(tmp_path: pathlib.Path) -> None:
    roles = [{"role": "admin", "claim": "roles", "value": "TES.Admin"}]
    auth = {"modes": ["oidc"], "issuers": [{"issuer": "https://idp.example/v2.0", "audience": ["tes"], "roles": roles}]}
    words = (
        "--set",
        "image.repository=registry.example/tes",
        "--set-json",
        f"settings.auth={json.dumps(auth)}",
        "--set-json",
        'tests.env=[{"name":"TES_TOKEN","value":"x"}]',
    )
    objects = template(*words)
    known = server_settings(objects, tmp_path)
    app.check(known)
    assert known.auth.modes == ("oidc",)
    assert known.auth.issuers[0].roles[0].role == "admin"
    assert {"name": "TES_TOKEN", "value": "x"} in only(objects, "Pod", "-test")["spec"]["containers"][0]["env"]
