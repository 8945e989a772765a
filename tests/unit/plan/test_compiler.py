"""What is refused, at which field, and what the words tell; what is taken. Whole plans are in tests/golden."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from tes_server.errors import Invalid, TooLarge
from tes_server.model.task import Task
from tes_server.plan import compiler, objects, parameters, paths
from tes_server.plan.paths import SitePath, Sites
from tes_server.plan.policy import Capabilities, Policy, Values
from tes_server.plan.steps import Findings, Mount, MountKind, Plan
from tes_server.scan.base import IMAGE_TAG

POLICY = Policy(sites=Sites(paths=(SitePath("/site", "file:///data/site"),), roots=("/data",)))
CAPABILITIES = Capabilities(cpus=4, ram_bytes=8 * compiler.GB, disk_bytes=50 * compiler.GB, gpus=0)
SANDBOX = Capabilities(cpus=4, ram_bytes=8 * compiler.GB, host_image=True)

COMMAND = {"image": "i", "command": ["c"]}


def compiled(capabilities: Capabilities = CAPABILITIES, **fields: Any) -> compiler.Compiled:
    task = msgspec.convert({"executors": [COMMAND], **fields}, Task)
    return compiler.compile_task(task, "t", 1, "o", POLICY, capabilities)


def plan(**fields: Any) -> Plan:
    return compiled(**fields).plan


def one(**fields: Any) -> list[dict[str, Any]]:
    return [{**COMMAND, **fields}]


@pytest.mark.parametrize(
    ("fields", "pointer", "words"),
    [
        ({"executors": []}, "/executors", "at least one"),
        ({"executors": one(image=" ")}, "/executors/0/image", "not the name of an image"),
        ({"executors": one(image="UPPER/Case")}, "/executors/0/image", "not the name of an image"),
        ({"executors": one(image="a:b:c")}, "/executors/0/image", "not the name of an image"),
        ({"executors": one(image="-rf")}, "/executors/0/image", "not the name of an image"),
        ({"executors": one(image="a@sha256:12")}, "/executors/0/image", "not the name of an image"),
        ({"inputs": [{"path": "/", "content": ""}]}, "/inputs/0/path", "root directory"),
        ({"executors": one(stdout="/")}, "/executors/0/stdout", "root directory"),
        ({"inputs": [{"path": "/a/b", "content": ""}, {"path": "/a/b/c/d", "content": ""}]}, "/inputs/0/path", "used as a directory"),
        ({"inputs": [{"path": "/a/b", "content": ""}], "volumes": ["/a/b"]}, "/inputs/0/path", "used as a directory"),
        ({"inputs": [{"path": "/a/b", "content": ""}], "executors": one(workdir="/a/b")}, "/inputs/0/path", "used as a directory"),
        ({"inputs": [{"path": "/a/b", "url": "http://h/x"}, {"path": "/a/b/c", "url": "/data/c"}]}, "/inputs/0/path", "used as a directory"),
        ({"inputs": [{"path": "/a/b/c", "content": ""}, {"path": "/a/b", "url": "HTTPS://h/x"}]}, "/inputs/1/path", "used as a directory"),
        ({"inputs": [{"path": "/etc/b", "url": "http://h/x"}, {"path": "/etc/b/c", "content": ""}]}, "/inputs/0/path", "used as a directory"),
        ({"inputs": [{"path": "/a/b", "url": "http://h/x"}], "executors": one(stdout="/a/b/out")}, "/inputs/0/path", "used as a directory"),
        ({"inputs": [{"path": "/a/b", "url": "http://h/x", "type": "DIRECTORY"}]}, "/inputs/0/type", "no directories"),
        ({"executors": one(image="a b")}, "/executors/0/image", "not the name of an image"),
        ({"executors": one(image="host")}, "/executors/0/image", "sandbox.allow_host"),
        ({"executors": one(command=[])}, "/executors/0/command", "argv"),
        ({"executors": one(command=[""])}, "/executors/0/command", "argv"),
        ({"executors": [COMMAND, *one(command=["a", "b\0"])]}, "/executors/1/command/1", "NUL"),
        ({"executors": one(command=["a", "x" * 200_000])}, "/executors/0/command/1", "131071"),
        ({"executors": one(command=["a", *["x" * 100_000] * 20])}, "/executors/0", "input file"),
        ({"executors": one(env={"": "x"})}, "/executors/0/env", "environment"),
        ({"executors": one(env={"A=B": "x"})}, "/executors/0/env", "environment"),
        ({"executors": one(env={"a/b": "x\0"})}, "/executors/0/env/a~1b", "NUL"),
        ({"executors": one(env={"A": "x", "b/c": "secret://db/password"})}, "/executors/0/env/b~1c", "this backend has none for tasks"),
        ({"executors": [COMMAND, *one(env={"A": "secret://"})]}, "/executors/1/env/A", "this backend has none for tasks"),
        ({"executors": one(workdir="work")}, "/executors/0/workdir", "absolute"),
        ({"executors": one(stdin="in.txt")}, "/executors/0/stdin", "absolute"),
        ({"executors": one(stdout="/a/../b")}, "/executors/0/stdout", "'..'"),
        ({"volumes": ["/vol", "vol"]}, "/volumes/1", "absolute"),
        ({"volumes": ["/usr"]}, "/volumes/0", "images own"),
        ({"volumes": ["/"]}, "/volumes/0", "images own"),
        ({"volumes": ["/proc/x"]}, "/volumes/0", "kernel"),
        ({"inputs": [{"path": "a", "url": "/data/a"}]}, "/inputs/0/path", "absolute"),
        ({"inputs": [{"path": "/a"}]}, "/inputs/0", "url or content"),
        ({"inputs": [{"path": "/a/" * 2000, "content": ""}]}, "/inputs/0/path", "4000 bytes"),
        ({"inputs": [{"path": "/a", "url": "http://[bad/x"}]}, "/inputs/0/url", "is no URL"),
        ({"inputs": [{"path": "/a", "url": "file://[bad/x"}]}, "/inputs/0/url", "another host"),
        ({"inputs": [{"path": "/a", "url": "http://h/a\nb"}]}, "/inputs/0/url", "control character"),
        ({"inputs": [{"path": "/a", "url": "ftp://h/a%0d%0aDELE%20x"}]}, "/inputs/0/url", "line break"),
        ({"inputs": [{"path": "/a", "url": "ftp://u:%0a@h/a"}]}, "/inputs/0/url", "line break"),
        ({"inputs": [{"path": "/a", "url": "ftp://h/a/%2e%2e/b"}]}, "/inputs/0/url", "'..'"),
        ({"inputs": [{"path": "/a", "url": "http://[::1/x"}]}, "/inputs/0/url", "is no URL"),
        ({"inputs": [{"path": "/a", "url": "http://h:99999/x"}]}, "/inputs/0/url", "is no URL"),
        ({"executors": [COMMAND] * 1001}, "/executors", "1000 executors (`tasks.max_executors`), this one has 1001"),
        ({"tags": {str(number): "" for number in range(1001)}}, "/tags", "`tasks.max_tags`"),
        ({"inputs": [{"path": f"/a/{number}", "content": "ü" * (1 << 22)} for number in range(3)]}, "/inputs/2/content", "`tasks.max_content`"),
        ({"outputs": [{"path": "/a/b", "url": "/data/x"}] * 100_001}, "/inputs", "`tasks.max_inputs`"),
        ({"inputs": [{"path": "/a", "url": "http://:80/x"}]}, "/inputs/0/url", "no host"),
        ({"inputs": [{"path": "/a", "url": "http://u:p@127.0.0.1:81/x"}]}, "/inputs/0/url", "'127.0.0.1' is this very machine"),
        ({"inputs": [{"path": "/a", "url": "https://LOCALHOST./x"}]}, "/inputs/0/url", "loopback"),
        ({"inputs": [{"path": "/a", "url": "ftp://[::ffff:a9fe:a9fe]/x"}]}, "/inputs/0/url", "metadata"),
        ({"executors": one(image="169.254.169.254:80/x")}, "/executors/0/image", "names a registry that is at an address"),
        ({"inputs": [{"path": "/a/b", "content": "x"}, {"path": "//a/./b/", "content": "y"}]}, "/inputs/1/path", "/inputs/0"),
        ({"inputs": [{"path": "/a/b", "content": "x", "type": "DIRECTORY"}]}, "/inputs/0/type", "FILE"),
        ({"inputs": [{"path": "/a/b", "url": "/elsewhere/x"}]}, "/inputs/0/url", "/data, /site"),
        ({"inputs": [{"path": "/a/b", "url": "/data/../etc/passwd"}]}, "/inputs/0/url", "'..'"),
        ({"inputs": [{"path": "/a/b", "url": "file:///data/%2e%2e/etc/passwd"}]}, "/inputs/0/url", "'..'"),
        ({"inputs": [{"path": "/a/b", "url": "file://other/data/x"}]}, "/inputs/0/url", "another host"),
        ({"inputs": [{"path": "/a/b", "url": "gopher://x/y"}]}, "/inputs/0/url", "http"),
        ({"inputs": [{"path": "/a/b", "url": "_:b1"}]}, "/inputs/0/url", "neither"),
        ({"inputs": [{"path": "/a/b", "url": "https:///x"}]}, "/inputs/0/url", "no host"),
        ({"outputs": [{"path": "/a/b", "url": "http://x/y"}]}, "/outputs/0/url", "cannot write"),
        ({"outputs": [{"path": "/a/*.txt", "path_prefix": "/b", "url": "/data/o"}]}, "/outputs/0/path_prefix", "literal directory above"),
        ({"outputs": [{"path": "/a/*/c", "path_prefix": "/a/*", "url": "/data/o"}]}, "/outputs/0/path_prefix", "literal directory above"),
        ({"outputs": [{"path": "/root/*.txt", "url": "/data/o"}]}, "/outputs/0/path", "images own"),
        ({"outputs": [{"path": "/dev/sda", "url": "/data/o"}]}, "/outputs/0/path", "kernel"),
        ({"resources": {"cpu_cores": 5}}, "/resources/cpu_cores", "this site has 4"),
        ({"resources": {"ram_gb": 9}}, "/resources/ram_gb", "this site has 8"),
        ({"resources": {"disk_gb": 51}}, "/resources/disk_gb", "this site has 50"),
        ({"resources": {"cpu_cores": -1}}, "/resources/cpu_cores", "0 or more"),
        ({"resources": {"ram_gb": 1e300}}, "/resources/ram_gb", "more than any"),
        ({"resources": {"backend_parameters": {"gpus": "1"}}}, "/resources/backend_parameters/gpus", "this site has 0"),
        ({"resources": {"backend_parameters": {"gpus": "many"}}}, "/resources/backend_parameters/gpus", "whole number"),
        ({"resources": {"backend_parameters": {"max_runtime": "soon"}}}, "/resources/backend_parameters/max_runtime", "1h30m"),
        ({"resources": {"backend_parameters": {"max_runtime": "0"}}}, "/resources/backend_parameters/max_runtime", "1h30m"),
        ({"resources": {"backend_parameters": {"a": "1", "A": "2"}}}, "/resources/backend_parameters", "twice"),
        ({"resources": {"backend_parameters": {"vm": "1"}, "backend_parameters_strict": True}}, "/resources/backend_parameters", "'vm' is not supported"),
    ],
)
def test_mistakes_are_named_at_their_field(fields: dict[str, Any], pointer: str, words: str) -> None:
    with pytest.raises(Invalid) as raised:
        compiled(**fields)
    assert raised.value.pointer == pointer
    assert words in raised.value.public


def test_secrets_stay_names_in_the_plan_and_must_be_known() -> None:
    capable = msgspec.structs.replace(CAPABILITIES, secrets=("db", "api-key"))
    env = {"A": "secret://db/password", "B": "secret://api-key", "C": "not secret://db"}
    assert compiled(capable, executors=one(env=env)).plan.executors[0].env == env
    for value in ("secret://", "secret://other", "secret://DB", "secret:///db"):
        with pytest.raises(Invalid) as raised:
            compiled(capable, executors=one(env={"A": value}))
        assert raised.value.pointer == "/executors/0/env/A"
        assert raised.value.public == "asks for a secret that is not there for tasks; there is api-key, db"


def test_a_platform_says_where_a_key_must_be_named() -> None:
    capable = msgspec.structs.replace(CAPABILITIES, secrets=("keyed", "whole"), secret_keys={"keyed": True, "whole": False})
    assert compiled(capable, executors=one(env={"A": "secret://keyed/k", "B": "secret://whole"}))
    for value, words in (("secret://keyed", "must name a key of the secret: secret://keyed/KEY"), ("secret://whole/k", "must not name a key")):
        with pytest.raises(Invalid, match=words):
            compiled(capable, executors=one(env={"A": value}))


def test_secrets_of_scans_are_for_scans_alone() -> None:
    capable = msgspec.structs.replace(CAPABILITIES, secrets=("mine",), scan_secrets=("console",))
    task = msgspec.convert({"executors": one(env={"A": "secret://console"})}, Task)
    with pytest.raises(Invalid, match="there is mine"):
        compiler.compile_task(task, "t", 1, "o", POLICY, capable)
    scan = Findings("trivy", "/scan/report.json")
    planned = compiler.compile_task(task, "t", 1, "o", POLICY, capable, findings=scan).plan
    assert planned.stage_out.findings == scan
    assert Mount("/scan") in planned.mounts
    assert "/scan" in planned.stage_in.directories
    with pytest.raises(Invalid, match="there is console"):
        compiler.compile_task(msgspec.convert({"executors": one(env={"A": "secret://mine"})}, Task), "t", 1, "o", POLICY, capable, findings=scan)


def test_a_scanner_that_needs_it_gets_the_engine_and_nobody_else_does() -> None:
    local = "sha256:" + "0" * 64
    capable = msgspec.structs.replace(CAPABILITIES, engine_socket=True)

    def scan(image: str, scanner: str = "trivy", by: Capabilities = capable) -> Plan:
        task = msgspec.convert({"executors": one(), "tags": {IMAGE_TAG: image}}, Task)
        return compiler.compile_task(task, "t", 1, "o", POLICY, by, findings=Findings(scanner, "/scan/report.json")).plan

    given = scan(local)
    assert given.mounts[-1] == Mount("/var/run/docker.sock", MountKind.ENGINE)
    assert given.stage_out.findings == Findings("trivy", "/scan/report.json", local)
    for without in (scan(f"r/i@{local}"), compiled(capable, tags={IMAGE_TAG: local}).plan):
        assert not [mount for mount in without.mounts if mount.kind is MountKind.ENGINE]
    assert scan(f"r/i@{local}", "twistcli").mounts[-1].kind is MountKind.ENGINE
    with pytest.raises(Invalid, match="this backend has none"):
        scan(local, by=CAPABILITIES)


def test_pinned_images_run_and_the_task_keeps_its_names() -> None:
    task = msgspec.convert({"executors": [{"image": "a:1", "command": ["x"]}, {"image": "host", "command": ["y"]}]}, Task)
    pins = {"a:1": "a@sha256:" + "0" * 64, "other": "b"}
    steps = compiler.compile_task(task, "t", 1, "o", POLICY, SANDBOX, images=pins).plan.executors
    assert [(step.image, step.named, step.shown_image) for step in steps] == [(pins["a:1"], "a:1", "a:1"), ("host", "", "host")]


@pytest.mark.parametrize(
    "image",
    ["ubuntu", "a/b-c__d.e:1.0_x", "Host.example:5000/x/y@sha256:" + "a" * 64, "[::1]:5000/x", "localhost/x:latest", "sha256:" + "b" * 64, "127.0.0.1:5000/a"],
)
def test_names_of_images_that_are_taken(image: str) -> None:
    assert plan(executors=one(image=image)).executors[0].image == image


def test_this_machine_is_an_image_only_where_that_is_allowed() -> None:
    with pytest.raises(Invalid, match=r"sandbox\.allow_host"):
        compiled(executors=one(image="host"))
    assert compiled(SANDBOX, executors=one(image="host")).plan.executors[0].image == "host"


def test_unknown_parameters_are_warned_of_and_not_kept() -> None:
    done = compiled(resources={"backend_parameters": {"vm_size": "x", "Max_Runtime": "10s"}})
    assert done.task.resources is not None
    assert done.task.resources.backend_parameters == {"Max_Runtime": "10s"}
    assert done.plan.limits.max_runtime == 10
    assert done.warnings[0].startswith("PARAMETER_UNKNOWN: backend_parameters 'vm_size'")


def test_unknown_parameters_are_one_warning_however_many_they_are() -> None:
    (warning,) = compiled(resources={"backend_parameters": {f"{number:05d}": "" for number in range(10_000)}}).warnings
    assert "'00019' and 9980 more are not supported here" in warning


def test_parameters_of_the_platform_say_what_the_site_lets_them_say() -> None:
    capable = Capabilities(parameters={"account": Values(choices=("reader", "writer")), "pool": Values(pattern=r"[a-z]*")})
    given = {"Account": "writer", "pool": "big"}
    assert compiled(capable, resources={"backend_parameters": given}).plan.placement.parameters == {"account": "writer", "pool": "big"}
    for key, value, words in (("account", "admin", "must be one of reader, writer, not 'admin'"), ("POOL", "big\n", r"must match \[a-z\]\*")):
        with pytest.raises(Invalid, match=words) as caught:
            compiled(capable, resources={"backend_parameters": {key: value}})
        assert caught.value.pointer == f"/resources/backend_parameters/{key.lower()}"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("10m", 600), ("1h30m", 5400), ("2d", 172800), (" 5M ", 300)])
def test_durations(text: str, seconds: float) -> None:
    assert parameters.duration(text, "") == seconds


def test_defaults_never_ask_for_more_than_there_is() -> None:
    small = Capabilities(cpus=0.5, ram_bytes=compiler.GB // 2)
    limits = compiled(small).plan.limits
    assert (limits.cpus, limits.ram_bytes) == (0.5, compiler.GB // 2)


def test_an_input_below_a_live_mount_would_be_hidden() -> None:
    live = msgspec.structs.replace(POLICY, live_mounts=("/data/live",))
    inputs = [{"path": "/jobs", "url": "/data/live/a", "type": "DIRECTORY"}, {"path": "/jobs/x", "content": ""}]
    with pytest.raises(Invalid, match="mounted live") as raised:
        compiler.compile_task(msgspec.convert({"executors": [COMMAND], "inputs": inputs}, Task), "t", 1, "o", live, CAPABILITIES)
    assert raised.value.pointer == "/inputs/1/path"


def test_zero_means_not_given() -> None:
    limits = plan(resources={"cpu_cores": 0, "ram_gb": 0, "disk_gb": 0}).limits
    assert (limits.cpus, limits.ram_bytes, limits.disk_bytes) == (1.0, compiler.GB, 0)


def test_content_wins_over_url_and_may_be_empty() -> None:
    given = [{"path": "/w/a", "content": "x", "url": "nonsense"}, {"path": "/w/b", "content": ""}, {"path": "/w/c", "content": "", "url": "/data/c"}]
    assert [(item.content, item.url) for item in plan(inputs=given).stage_in.inputs] == [("x", ""), ("", ""), (None, "file:///data/c")]


def test_site_paths_and_roots() -> None:
    urls = [item.url for item in plan(inputs=[{"path": "/w/a", "url": "/site/x y"}, {"path": "/w/b", "url": "file:///data/b%23"}]).stage_in.inputs]
    assert urls == ["file:///data/site/x%20y", "file:///data/b%23"]


@pytest.mark.parametrize("url", ["file:///data/a?b#c", "file://localhost/data/a?b#c", "file:/data/a?b#c", "file:///data/a%3fb%23c", "/data/a?b#c"])
def test_files_have_no_query(url: str) -> None:
    """Clients that put `file://` before a path leave its `?` and `#` as they are."""
    assert [item.url for item in plan(inputs=[{"path": "/w/a", "url": url}]).stage_in.inputs] == ["file:///data/a%3Fb%23c"]


def test_an_input_by_url_may_be_a_directory_whatever_its_type() -> None:
    """Snakemake 7 names directories so (row 20), and others files inside of them."""
    inputs = [{"path": "/a/b", "url": "/data/b"}, {"path": "/a/b/c", "content": ""}]
    assert [fetch.path for fetch in plan(inputs=inputs).stage_in.inputs] == ["/a/b", "/a/b/c"]


def test_site_paths_on_other_stores() -> None:
    sites = Sites(
        paths=(SitePath("/s", "s3://bucket/p"), SitePath("/f", "ftp://u:p@host/d")),
        stores=(objects.rule_of("s3://bucket", write=True),),
        readable=frozenset({"ftp"}),
        writable=frozenset({"ftp"}),
    )
    for path, url in (("/s", "s3://bucket/p"), ("/s/a b%?#/x", "s3://bucket/p/a b%?#/x"), ("/f/a b%?#/", "ftp://u:p@host/d/a%20b%25%3F%23/")):
        assert paths.resolve(path, sites, "in", "") == url
        assert paths.resolve(path, sites, "out", "") == url


STORED = Sites(
    stores=(objects.rule_of("s3://bucket/in", write=False), objects.rule_of("s3://bucket/out", write=True), objects.rule_of("az://account", write=True))
)


@pytest.mark.parametrize(
    ("url", "direction"),
    [
        ("s3://bucket/in/a b", "in"),
        ("s3://bucket/in/a%20b[1]?x#y", "in"),
        ("az://account/container/50%/a?b", "in"),
        ("s3://bucket/in/", "in"),
        ("s3://bucket/out/x", "in"),
        ("s3://bucket/out/x", "out"),
        ("az://account/container/x", "out"),
        ("abfss://container@account.dfs.core.windows.net/x", "out"),
        ("https://account.blob.core.windows.net/container/x?sig=s", "out"),
        ("https://another.blob.core.windows.net/container/x?sig=s", "in"),
    ],
)
def test_stores_that_may_be_used(url: str, direction: paths.Direction) -> None:
    assert paths.resolve(url, STORED, direction, "/p") == url


@pytest.mark.parametrize(
    ("url", "direction", "words"),
    [
        ("s3://bucket/x", "in", "this server knows s3://bucket/in, s3://bucket/out, az://account"),
        ("s3://bucket/x", "out", "this server knows s3://bucket/out, az://account"),
        ("s3://bucket/in/x", "out", "read there, not write"),
        ("gs://bucket/in/x", "in", "is in no store"),
        ("s3:///x", "in", "names no bucket"),
        ("s3://bucket/in/../x", "in", "'.' or '..'"),
        ("s3://bucket/in//x", "in", "empty part"),
        ("az://account/X/y", "in", "no valid container"),
        ("https://another.blob.core.windows.net/container/x?sig=secret", "out", "cannot write to 'https://'"),
    ],
)
def test_stores_that_may_not(url: str, direction: paths.Direction, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        paths.resolve(url, STORED, direction, "/p")
    assert caught.value.pointer == "/p"
    assert "secret" not in caught.value.public


def test_outputs_are_never_made_beforehand() -> None:
    made = plan(
        inputs=[{"path": "/work/in/a", "content": "x"}],
        outputs=[
            {"path": "/work/chunks/a", "url": "/data/a"},
            {"path": "/work/glob", "url": "/data/g", "type": "DIRECTORY"},
            {"path": "/new/x/y", "url": "/data/y"},
        ],
        executors=one(workdir="/work", stdout="/work/log/out"),
    ).stage_in.directories
    assert made == ("/new", "/new/x", "/tmp", "/work", "/work/in", "/work/log")


def test_roots_are_merged_and_image_directories_left_alone() -> None:
    mounts = plan(
        inputs=[{"path": path, "content": ""} for path in ("/a/b/c", "/a-b/x", "/etc/conf", "/var/lib/cwl/x")],
        volumes=["/a/b/vol", "/home/u/v"],
        executors=one(workdir="/usr/src/app"),
    ).mounts
    assert [mount.path for mount in mounts if mount.kind is MountKind.ROOT] == ["/a", "/a-b", "/home/u/v", "/tmp", "/var/lib/cwl"]
    assert Mount("/etc/conf", MountKind.FILE) in mounts
    assert len(mounts) == 6


def test_outputs_in_the_images_own_directories_are_copied_out() -> None:
    made = plan(outputs=[{"path": "/root/o", "url": "/data/o"}, {"path": "/w/o", "url": "/data/p"}])
    assert [item.inside for item in made.stage_out.outputs] == [False, True]
    assert made.executors[0].copies == ("/root/o",)


def test_a_missing_prefix_is_the_deepest_literal_parent() -> None:
    outputs = plan(outputs=[{"path": "/w/a/*/x[12].txt", "url": "/data/o"}, {"path": "/w/a[1.txt", "url": "/data/o"}]).stage_out.outputs
    assert [item.prefix for item in outputs] == ["/w/a", ""]


def test_many_directories_cost_no_more_than_many_files() -> None:
    many = 3000
    began = time.perf_counter()
    made = plan(
        inputs=[{"path": f"/in{number}/x", "content": ""} for number in range(many)],
        outputs=[{"path": f"/out{number}/x", "url": f"/data/{number}"} for number in range(many)],
    )
    assert time.perf_counter() - began < 10, "a second at most; with every root compared to every other it is an hour, on the event loop"
    assert len(made.mounts) == 2 * many + 1


def test_a_plan_that_a_backend_cannot_carry_is_too_large() -> None:
    whole = msgspec.json.encode(compiled().plan)
    assert compiled(msgspec.structs.replace(CAPABILITIES, plan_bytes=len(whole))).plan
    with pytest.raises(TooLarge) as caught:
        compiled(msgspec.structs.replace(CAPABILITIES, plan_bytes=len(whole) - 1))
    assert caught.value.pointer == "/inputs"
