"""From settings to what scans are told, and what is refused at the start."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tes_server import app, configuration, errors, scan_checks, scan_rules, settings
from tes_server.plan import compiler, parameters
from tes_server.plan.policy import Capabilities, Policy, Target
from tes_server.scan import policy
from tes_server.scan.gate import Mode, OnError

DIGEST = "sha256:" + "a" * 64
TRIVY = f"ghcr.io/aquasecurity/trivy@{DIGEST}"
USUAL: dict[str, Any] = {"scan.mode": "enforce", "scan.image": TRIVY, "scan.server": "http://trivy:4954"}
CLUSTER: dict[str, Any] = {"kubernetes.namespace": "tes", "kubernetes.image": "i"}
PRISMA = {"scan.scanner": "twistcli", "scan.server": "", "scan.console": "https://console.example:8083"}


def made(**tree: Any) -> settings.Settings:
    return configuration.load(None, {}, {**USUAL, **tree})


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"scan.image": ""}, "scan.image"),
        ({"scan.image": "aquasec/trivy:0.72.1"}, "scan.image"),
        ({"scan.backends": {"kubernets": "off"}}, "scan.backends.kubernets"),
        ({"scan.architectures": {"kubernets": "amd64"}}, "scan.architectures.kubernets"),
        ({"scan.architectures": {"local": "linux/amd64"}}, "scan.architectures.local"),
        ({"scan.architectures": {"kubernetes": "arm/v7"}}, "scan.architectures.kubernetes"),
        ({"scan.architectures": {"kubernetes": ""}}, "scan.architectures.kubernetes"),
        ({"scan.server": "trivy:4954"}, "scan.server"),
        ({"scan.server": "http://user:hunter2@trivy:4954"}, "scan.server"),
        ({"scan.server": "http://trivy:4954/?token=hunter2"}, "scan.server"),
        ({"scan.server": "http://trivy:70000"}, "scan.server"),
        ({"scan.scanner": "grype"}, "scan.server"),
        ({"scan.console": "https://console.example"}, "scan.console"),
        ({**PRISMA, "scan.console": ""}, "scan.console"),
        ({**PRISMA, "scan.console": "http://console.example"}, "scan.console"),
        ({"scan.arguments": ["--pkg-types", "os", "--exit-code=1"]}, "scan.arguments[2]"),
        ({"scan.arguments": ["-fjson"]}, "scan.arguments[0]"),
        ({"scan.arguments": ["--pkg-types", "os", "--token", "hunter2"]}, "scan.arguments[2]"),
        ({"scan.arguments": ["--password=hunter2"]}, "scan.arguments[0]"),
        ({"scan.arguments": ["--some-api-key", "hunter2"]}, "scan.arguments[0]"),
        ({"scan.arguments": ["--cache-backend", "redis://:hunter2@cache:6379"]}, "scan.arguments[1]"),
        ({"scan.arguments": ["--severity", "CRITICAL"]}, "scan.arguments[0]"),
        ({"scan.arguments": ["-sCRITICAL"]}, "scan.arguments[0]"),
        ({"scan.arguments": ["--ignore-unfixed"]}, "scan.arguments[0]"),
        ({"scan.arguments": ["--scanners", "secret"]}, "scan.arguments[0]"),
        ({"scan.env": {"TRIVY_SEVERITY": "CRITICAL"}}, "scan.env.TRIVY_SEVERITY"),
        ({"scan.env": {"HTTPS_PROXY": "http://u:hunter2@proxy:3128"}}, "scan.env.HTTPS_PROXY"),
        ({**PRISMA, "scan.arguments": ["-password", "hunter2"]}, "scan.arguments[0]"),
        ({**PRISMA, "scan.arguments": ["-u", "hunter2"]}, "scan.arguments[0]"),
        ({**PRISMA, "scan.console": "https://u:hunter2@console.example"}, "scan.console"),
        ({"scan.scanner": "grype", "scan.server": "", "scan.arguments": ["--only-fixed"]}, "scan.arguments[0]"),
        ({"scan.docker_config": "/nowhere/config.json"}, "scan.docker_config"),
        ({"scan.env": {"A=B": "x"}}, "scan.env.A=B"),
        ({"scan.env": {"TRIVY_TOKEN": "hunter2"}}, "scan.env.TRIVY_TOKEN"),
        ({"scan.env": {"TRIVY_PASSWORD": "hunter2"}}, "scan.env.TRIVY_PASSWORD"),
        ({"scan.env": {"AWS_SECRET_ACCESS_KEY": "hunter2"}}, "scan.env.AWS_SECRET_ACCESS_KEY"),
        ({"scan.exempt": ["debian"]}, "scan.exempt[0]"),
        ({"scan.policy.allow": ["docker.io", "ghcr.io/**"]}, "scan.policy.allow[1]"),
        ({"scan.policy.deny": [""]}, "scan.policy.deny[0]"),
        ({"scan.policy.ignore": [{"id": " ", "reason": "r", "expires": "2027-01-31"}]}, "scan.policy.ignore[0].id"),
        ({"scan.policy.ignore": [{"id": "CVE-1", "reason": " ", "expires": "2027-01-31"}]}, "scan.policy.ignore[0].reason"),
        ({"scan.policy.ignore": [{"id": "CVE-1", "reason": "r", "expires": "2027-01-31", "image": "x"}]}, "scan.policy.ignore[0].image"),
        ({"scan.registries": {"http://r": "http://r"}}, "scan.registries.http://r"),
        ({"scan.registries": {"r": "http://r"}}, "scan.registries.r"),  # a path of Docker Hub
        ({"scan.registries": {"r.example": "r.example"}}, "scan.registries.r.example"),
        ({"scan.registries": {"r.example": "http://a:b@r.example"}}, "scan.registries.r.example"),
        ({"docker.network": "none"}, "docker.network"),
        ({**PRISMA, "local.engine": "sandbox"}, "scan.scanner"),
        ({**PRISMA, **CLUSTER, "local.enabled": False}, "scan.scanner"),
        ({"scan.env": {"TRIVY_TOKEN": "secret://trivy/token"}}, "scan.env.TRIVY_TOKEN"),  # which nobody has listed
        ({"scan.env": {"TRIVY_TOKEN": "secret://trivy"}, "local.secrets": {"trivy": "/run/secrets/trivy"}}, "scan.env.TRIVY_TOKEN"),  # that is for tasks
        ({"scan.cpus": 100_000}, "scan.cpus"),
        ({"scan.disk_gb": 2, "local.disk_gb": 1}, "scan.disk_gb"),
        ({"sandbox.network": False, "local.engine": "sandbox"}, "sandbox.network"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(tree: dict[str, Any], where: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        app.check(made(**tree))
    assert caught.value.where == where
    assert "hunter2" not in caught.value.public


@pytest.mark.parametrize(
    "tree",
    [
        {},
        PRISMA,
        {"scan.scanner": "grype", "scan.server": ""},
        {**PRISMA, **CLUSTER, "scan.scanner": "prisma"},
        {"scan.env": {"TRIVY_TOKEN": "secret://trivy"}, "local.scan_secrets": {"trivy": "/run/secrets/trivy"}},
        {**PRISMA, **CLUSTER, "scan.backends": {"kubernetes": "off"}},
        {"scan.env": {"TRIVY_TOKEN_HEADER": "X-Token"}},
        {"scan.arguments": ["--pkg-types", "os", "--scanners=vuln,secret", "--token-header", "X-Token", "--ignorefile", "/etc/ignored"]},
        {"scan.env": {"HTTPS_PROXY": "secret://proxy", "HTTP_PROXY": "http://proxy:3128"}, "local.scan_secrets": {"proxy": "/run/secrets/proxy"}},
        {"scan.registries": {"127.0.0.1:5000": "http://10.0.0.1:5000", "docker.io": "https://mirror.example/hub"}},
        {"scan.policy.ignore": [{"id": "CVE-1", "reason": "r", "expires": "2020-01-31"}]},  # a server must start on the day after, too
        {"docker.network": "none", "local.engine": "sandbox"},
        {"docker.network": "none", "scan.mode": "off"},
        {"docker.network": "none", "scan.backends": {"local": "off"}},
        {"scan.mode": "off", "scan.image": "", "scan.server": "no url"},
    ],
)
def test_what_can_work_is_taken(tree: dict[str, Any]) -> None:
    app.check(made(**tree))


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"scan.arguments": ["--severity", "HIGH"]}, "--severity would hide findings from the policy: use scan.policy.severities"),
        (
            {"scan.arguments": ["--token", "hunter2"]},
            "--token would show a secret to whoever reads settings or lists processes: use TRIVY_TOKEN in scan.env",
        ),
        ({"scan.server": "http://user:hunter2@trivy:4954"}, "holds a login, and settings are no place for one: it is for TRIVY_TOKEN in scan.env"),
        ({"scan.env": {"TRIVY_TOKEN": "secret://trivy"}}, "names a secret that is not among local.scan_secrets; there is none"),
        (
            {"scan.env": {"TRIVY_TOKEN": "secret://hunter2"}, "local.scan_secrets": {"a": "/a", "b": "/b"}},
            "names a secret that is not among local.scan_secrets; there is a, b",
        ),
    ],
)
def test_a_refusal_says_what_to_do(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        app.check(made(**tree))
    assert words in caught.value.public
    assert "hunter2" not in caught.value.public


def test_a_registry_of_this_machine_is_asked_as_this_server_asks_it() -> None:
    for image, plain in (("127.0.0.1:5000/a/b", True), ("localhost:5000/a/b", True), ("r.example/a/b", False)):
        (executor,) = scan_rules.task(made(), f"{image}@{DIGEST}").executors
        assert ("TRIVY_INSECURE" in (executor.env or {})) is plain
        assert executor.command[-1] == f"{image}@{DIGEST}"
    mapped = made(**{"scan.registries": {"127.0.0.1:5000": "https://r.example"}})
    assert scan_rules.task(mapped, f"127.0.0.1:5000/a@{DIGEST}").executors[0].command[-1] == f"r.example/a@{DIGEST}"


def test_scanners_are_told_of_all_registries_without_tls() -> None:
    told = scan_rules.options(made(**{"sandbox.plain_http": ["a.example", "b.example"], "scan.registries": {"b.example": "https://c.example"}}))
    assert told.registries == {"a.example": "http://a.example", "b.example": "https://c.example"}


def test_a_look_at_the_settings_makes_nothing(tmp_path: pathlib.Path) -> None:
    scan_checks.check(made(data=str(tmp_path / "data")))
    assert not (tmp_path / "data").exists()


def test_a_login_file_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    app.check(made(**{"scan.docker_config": str(tmp_path / "config.json")}))


def test_where_scans_are_wanted() -> None:
    both = {**CLUSTER, "scan.backends": {"local": "off"}}
    assert scan_rules.scanned(made(**both)) == ("kubernetes",)
    assert scan_rules.scanned(made(**both, **{"scan.mode": "off"})) == ()
    assert not scan_rules.enabled(made(**both, **{"scan.mode": "off"}))
    assert scan_rules.scanned(made(**both, **{"scan.mode": "off", "scan.owners": {"guest*": "warn"}})) == ("local", "kubernetes")
    modes = scan_rules.modes(made(**both, **{"scan.owners": {"guest*": "warn"}}))
    assert modes.of("local", "guest1") is Mode.WARN
    assert modes.of("local", "x") is Mode.OFF
    assert modes.of("kubernetes", "x") is Mode.ENFORCE
    assert scan_rules.on_error(made()) is OnError.BLOCK


def test_room_for_scans_in_tasks() -> None:
    """Every task that may scan its images reserves what a scanner needs, and no other."""
    target = Target(policy=Policy(), capabilities=Capabilities())
    given = {"scan.place": "task", "scan.cpus": 2, "scan.ram_gb": 3}
    roomy = scan_rules.roomy(made(**given), "local", target)
    assert (roomy.policy.least_cpus, roomy.policy.least_ram_bytes) == (2.0, 3 * 10**9)
    small = compiler.reserve(None, parameters.read(None, {}), roomy.policy, roomy.capabilities)
    assert (small.cpus, small.ram_bytes) == (2.0, 3 * 10**9)
    for other in ({"scan.place": "job"}, {"scan.mode": "warn"}, {"scan.backends": {"local": "off"}}):
        assert scan_rules.roomy(made(**{**given, **other}), "local", target) == target


def test_what_service_info_says() -> None:
    assert app.about(made()).description.endswith("; scans container images with trivy before they run (local: enforce)")
    several = made(**CLUSTER, **{"scan.backends": {"local": "off"}, "scan.owners": {"guest*": "warn"}})
    assert app.about(several).description.endswith("(local: off, kubernetes: enforce; another mode for some owners)")
    assert "guest" not in app.about(several).description
    assert "scan" not in app.about(made(**{"scan.mode": "off"})).description


def test_the_policy() -> None:
    given = made(
        **{
            "scan.policy.ignore": [{"id": "CVE-1", "reason": "r", "expires": "2027-01-31", "image": "ghcr.io"}],
            "scan.policy.severities": ["LOW", "LOW"],
            "scan.exempt": ["host"],
            "scan.error_minutes": 2,
        }
    )
    rules = scan_rules.policy(given)
    assert rules.severities == ("LOW",)
    assert rules.ignore[0].expires.isoformat() == "2027-01-31"
    assert rules.exempt == ("host",)
    assert (rules.verdict_seconds, rules.error_seconds, rules.database_days) == (86400, 120, 7)
    assert scan_rules.policy(made(**PRISMA)).database_days == 0  # its reports do not tell


@pytest.mark.parametrize(
    "tree",
    [
        {"scan.image": TRIVY.replace("a" * 64, "b" * 64)}, {"scan.arguments": ["--pkg-types", "os"]}, {"scan.server": "http://other"}, {"scan.server": ""},
        {"scan.env": {"TRIVY_DB_REPOSITORY": "r"}}, {"scan.program": "/trivy"}, {"scan.verdict_hours": 1}, PRISMA,
    ],
)  # fmt: skip
def test_what_another_scanner_or_another_policy_says_is_another_verdict(tree: dict[str, Any]) -> None:
    first, second = scan_rules.policy(made()), scan_rules.policy(made(**tree))
    assert policy.key(DIGEST, "debian", first) != policy.key(DIGEST, "debian", second)


def test_whom_scans_are_for_changes_no_verdict() -> None:
    other = made(**{"scan.mode": "warn", "scan.on_error": "allow", "scan.timeout": 60, "scan.cpus": 4, "scan.policy.allow": ["docker.io"]})
    assert policy.key(DIGEST, "debian", scan_rules.policy(made())) == policy.key(DIGEST, "debian", scan_rules.policy(other))


def test_a_scan_is_a_task() -> None:
    given = made(**{"scan.env": {"HTTPS_PROXY": "http://proxy:3128"}, "scan.timeout": 100, "scan.architectures": {"kubernetes": "arm64"}})
    image = f"ghcr.io/team/tool@{DIGEST}"
    task = scan_rules.task(given, image)
    target = app.targets(given)["local"]
    plan = compiler.compile_task(task, "x", 1, "o", target.policy, target.capabilities).plan
    assert plan.limits.max_runtime == 100
    assert plan.executors[0].image == TRIVY
    assert plan.executors[0].argv[-1] == image
    assert plan.executors[0].argv[plan.executors[0].argv.index("--timeout") + 1] == "95s"
    assert plan.executors[0].env["HTTPS_PROXY"] == "http://proxy:3128"
    assert scan_rules.architecture(given, "kubernetes") == "arm64"
    assert scan_rules.architecture(given, "aws_batch") == "amd64"
