"""What owners are granted: alice has hers, and nothing of bob's by whatever name."""

from __future__ import annotations

import urllib.parse
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server.errors import Invalid
from tes_server.model.task import Task
from tes_server.plan import compiler, grants, objects, paths
from tes_server.plan.grants import Grant
from tes_server.plan.paths import SitePath, Sites
from tes_server.plan.policy import Capabilities, Policy
from tes_server.plan.steps import MountKind, Plan
from tests.unit.plan.test_compiler import COMMAND

SITES = Sites(
    paths=(SitePath("/cromwell", "s3://bucket/exec"), SitePath("/nextflow", "file:///data/nf"), SitePath("/dav", "https://dav.example/tes")),
    roots=("/data", "/live"),
    stores=(
        objects.rule_of("s3://bucket", write=True),
        objects.rule_of("az://account/container", write=True),
        objects.rule_of("gs://bucket", write=False),
        objects.rule_of("s3://lab", write=True, owners=("lab-*",)),
    ),
    writable=frozenset({"file", "https"}),
)
EVERYBODY = Grant(
    owners=("*",), read=("/data/shared", "gs://bucket/public"), write=("file:///data/%7Bowner%7D", "s3://bucket/users/{owner}"), secrets=("{owner}-key",)
)
ALICE = Grant(
    owners=("alice", "lab-*"),
    write=("az://account/container/alice", "/cromwell/alice", "/nextflow/{owner}", "/live/{owner}", "/dav/{owner}"),
    secrets=("portal", "gone"),
)
POLICY = Policy(sites=SITES, grants=(EVERYBODY, ALICE), live_mounts=("/live",))
CAPABILITIES = Capabilities(secrets=("portal", "other", "alice-key", "bob-key"), scan_secrets=("console",))


def plan(owner: str, policy: Policy = POLICY, **fields: Any) -> Plan:
    task = msgspec.convert({"executors": [COMMAND], **fields}, Task)
    return compiler.compile_task(task, "t", 1, owner, policy, CAPABILITIES).plan


def refused(owner: str, policy: Policy = POLICY, **fields: Any) -> Invalid:
    with pytest.raises(Invalid) as caught:
        plan(owner, policy, **fields)
    return caught.value


def put(url: str, kind: str = "FILE") -> dict[str, Any]:
    return {"outputs": [{"path": "/work/x", "url": url, "type": kind}]}


def take(url: str, kind: str = "FILE") -> dict[str, Any]:
    return {"inputs": [{"path": "/work/x", "url": url, "type": kind}]}


@pytest.mark.parametrize(
    "url",
    [
        "/data/alice/x",
        "file:///data/alice/x",
        "file://localhost/data/alice/x",
        "/data//alice/./x",
        "s3://bucket/users/alice/x",
        "S3://bucket/users/alice/x%2e",
        "az://account/container/alice/x",
        "https://account.blob.core.windows.net/container/alice/x",
        "HTTPS://ACCOUNT.blob.core.windows.net/container/%61lice/x",
        "abfss://container@account.dfs.core.windows.net/alice/x",
        "/cromwell/alice/wf/x",
        "s3://bucket/exec/alice/wf/x",
        "/nextflow/alice/x",
        "/data/nf/alice/x",
        "/dav/alice/x",
        "https://anywhere.example/x",
    ],
)
def test_what_is_granted_is_taken_by_all_its_names(url: str) -> None:
    assert plan("alice", **take(url)).stage_in.inputs
    assert plan("alice", **put(url)).stage_out.outputs


FOREIGN = [
    "/data/bob/x",
    "/data/alicex/x",
    "/data/alice",
    "/data",
    "/data/alice/../bob/x",
    "file:///data/alice/%2e%2e/bob/x",
    "file:///data/alice%2f..%2fbob/x",
    "file:///data/%62ob/x",
    "FILE:///data/bob/x",
    "file:/data/bob/x",
    "file://localhost/data/bob/x",
    "//data/bob/x",
    "/data/ALICE/x",
    "/data/{owner}/x",
    "s3://bucket/users/bob/x",
    "s3://bucket/users/alicex/x",
    "s3://bucket/users",
    "s3://bucket",
    "s3://bucket/users/alice/../bob/x",
    "s3://bucket/users/alice/./x",
    "s3://bucket/users//alice/x",
    "s3://bucket//users/alice/x",
    "s3://bucket/users/%61lice/x",
    "s3://Bucket/users/alice/x",
    "s3://lab/users/alice/x",
    "az://account/container/bob/x",
    "az://account/container/alice/../bob/x",
    "az://account/container/alice\\..\\bob\\x",
    "https://account.blob.core.windows.net/container/bob/x",
    "https://account.blob.core.windows.net/container/alice/%2e%2e/bob/x",
    "https://account.blob.core.windows.net/container/alice%2f..%2fbob/x",
    "https://account.blob.core.windows.net/container/alice/%5c..%5cbob/x",
    "https://ACCOUNT.BLOB.core.windows.net/container/%62ob/x",
    "abfss://container@account.dfs.core.windows.net/bob/x",
    "/cromwell/bob/x",
    "/cromwell/alice/../bob/x",
    "file:///cromwell/bob/x",
    "/nextflow/bob/x",
    "/dav/bob/x",
    "/dav/alice/../bob/x",
    "file:///dav/%62ob/x",
]


@pytest.mark.parametrize("url", FOREIGN)
@pytest.mark.parametrize("kind", ["FILE", "DIRECTORY"])
def test_what_is_not_granted_is_refused_by_whatever_name(url: str, kind: str) -> None:
    # A directory of one's own may be named as a whole.
    if not (url == "/data/alice" and kind == "DIRECTORY"):
        assert refused("alice", **put(url, kind)).pointer == "/outputs/0/url"
    if url != "/data/alice":
        assert refused("alice", **take(url, kind)).pointer in ("/inputs/0/url", "/inputs/0/type")


@given(
    st.text(alphabet="ab/.%2eE\\ol ic", max_size=12), st.sampled_from(["/data/alice/", "file:///data/alice/", "s3://bucket/users/alice/", "/cromwell/alice/"])
)
def test_nothing_that_is_taken_lies_elsewhere(rest: str, prefix: str) -> None:
    try:
        [output] = plan("alice", **put(prefix + rest, "DIRECTORY")).stage_out.outputs
    except Invalid:
        return
    if output.url.startswith("file:"):
        parts = urllib.parse.unquote(output.url.removeprefix("file://")).split("/")
    else:
        place = objects.place_of(output.url)
        assert place is not None
        parts = ["", *place.key.split("/")]
    assert ".." not in parts
    assert parts[1:3] in (["data", "alice"], ["users", "alice"], ["exec", "alice"]) or parts[1:2] == ["alice"]


def test_reading_is_not_writing() -> None:
    for url in ("/data/shared/x", "gs://bucket/public/x"):
        assert plan("bob", **take(url)).stage_in.inputs
        assert refused("bob", **put(url)).pointer == "/outputs/0/url"
    assert "may not write to '/data/shared/x'; granted is file:///data/bob, s3://bucket/users/bob" in refused("bob", **put("/data/shared/x")).public


def test_a_file_is_put_into_a_directory_that_is_granted() -> None:
    assert plan("alice", **put("s3://bucket/users/alice/", "FILE")).stage_out.outputs
    assert refused("alice", **put("s3://bucket/users/alice", "FILE")).pointer == "/outputs/0/url"
    assert plan("alice", **put("s3://bucket/users/alice", "DIRECTORY")).stage_out.outputs
    wild: dict[str, Any] = {"outputs": [{"path": "/work/*.bam", "path_prefix": "/work", "url": "s3://bucket/users/alice"}]}
    assert plan("alice", **wild).stage_out.outputs
    wild["outputs"][0]["url"] = "s3://bucket/users"
    assert refused("alice", **wild).pointer == "/outputs/0/url"


def test_with_sign_in_and_no_grant_nothing_of_the_site_is_there() -> None:
    closed = msgspec.structs.replace(POLICY, grants=())
    for url in ("/data/x", "s3://bucket/x", "/cromwell/x", "/dav/x"):
        assert "granted is nothing" in refused("alice", closed, **take(url)).public
    assert plan("alice", closed, **take("https://anywhere.example/x")).stage_in.inputs
    assert plan("alice", closed, inputs=[{"path": "/work/x", "content": "s3://bucket/users/bob/x"}]).stage_in.inputs


def test_without_sign_in_all_is_as_it_was() -> None:
    open_ = msgspec.structs.replace(POLICY, grants=None)
    made = plan("anonymous", open_, **take("/data/bob/x"), executors=[{**COMMAND, "env": {"A": "secret://other"}}])
    assert made.stage_in.reach is made.stage_out.reach is None
    assert "reach" not in msgspec.json.encode(made).decode()


def test_a_blob_with_its_own_signature_is_not_the_site_s() -> None:
    signed = "https://account.blob.core.windows.net/container/bob/x?sv=1&sig=abc"
    assert plan("alice", **take(signed)).stage_in.inputs
    closed = msgspec.structs.replace(POLICY, sites=msgspec.structs.replace(SITES, readable=frozenset({"file"})))
    assert "abc" not in refused("alice", closed, **take(signed)).public


def test_stores_of_an_owner_are_nobody_else_s() -> None:
    general = objects.rule_of("s3://lab", write=False)
    grant = Grant(owners=("*",), write=("s3://lab",))
    policy = Policy(sites=msgspec.structs.replace(SITES, stores=(general, *SITES.stores)), grants=(grant,))
    assert plan("lab-1", policy, **put("s3://lab/x")).stage_out.outputs
    assert "may read there, not write" in refused("bob", policy, **put("s3://lab/x")).public


def test_a_live_mount_is_written_to() -> None:
    [mount] = [mount for mount in plan("alice", **take("/live/alice/job", "DIRECTORY")).mounts if mount.kind is MountKind.LIVE]
    assert mount.source == "/live/alice/job"
    readers = msgspec.structs.replace(POLICY, grants=(Grant(owners=("*",), read=("/live",)),))
    assert "may not write" in refused("alice", readers, **take("/live/alice/job", "DIRECTORY")).public
    assert plan("alice", readers, **take("/live/alice/job/file")).stage_in.inputs
    assert refused("alice", **take("/live/bob/job", "DIRECTORY")).pointer == "/inputs/0/url"


@pytest.mark.parametrize(
    ("write", "live", "sources"),
    [
        (("/live/{owner}",), ("/live",), {"/live/alice/a"}),
        (("/live/{owner}", "/live/alice/a"), ("/live", "/live/alice"), {"/live/alice/a"}),
        (("/live", "/live/{owner}"), ("/live",), {"/live/alice", "/live/bob"}),
        (("/",), ("/live/alice/a",), {"/live/alice/a/b"}),
    ],
)
def test_no_live_mount_lies_in_another(write: tuple[str, ...], live: tuple[str, ...], sources: set[str]) -> None:
    """From the outer one the inner one could be swapped for a link in the moment before it is bound."""
    policy = msgspec.structs.replace(POLICY, grants=(Grant(owners=("*",), write=write),), live_mounts=live)
    mounted = set()
    for source in ("/live", "/live/alice", "/live/bob", "/live/alice/a", "/live/alice/a/b", "/live/alice/a/b/c", "/live/bob/a"):
        try:
            mounted |= {mount.source for mount in plan("alice", policy, **take(source, "DIRECTORY")).mounts if mount.kind is MountKind.LIVE}
        except Invalid as cause:
            assert cause.pointer == "/inputs/0/url"  # noqa: PT017 - which are refused is the question
    assert mounted == sources


@pytest.mark.parametrize("owner", [".", "..", "a/b", "../bob", "a\\b", "/bob"])
def test_a_name_that_is_no_part_of_a_path_has_nothing_by_it(owner: str) -> None:
    had = grants.of((EVERYBODY,), owner, SITES)
    assert had.outward.prefixes == ()
    assert had.inward.prefixes == ("file:///data/shared", "gs://bucket/public")


@pytest.mark.parametrize("owner", ["", "x\n", " x", "anonymous", "tes-server.scan"])
def test_who_cannot_sign_in_is_not_everybody(owner: str) -> None:
    """Tasks from before sign-in wait for a grant to `anonymous` by that name."""
    everybody = Grant(owners=("*", "?*"), read=("/data",), secrets=("*",))
    assert grants.of((everybody,), owner, SITES).inward.prefixes == ()
    assert not grants.of((everybody,), owner, SITES).all_secrets
    named = msgspec.structs.replace(everybody, owners=("anonymous",))
    assert bool(grants.of((named,), owner, SITES).inward.prefixes) == (owner == "anonymous")


def test_a_name_with_capitals_names_no_bucket() -> None:
    grant = Grant(owners=("*",), write=("s3://team-{owner}", "s3://bucket/{owner}"))
    assert grants.of((grant,), "Bob", SITES).outward.prefixes == ("s3://bucket/Bob",)
    assert grants.of((grant,), "bob", SITES).outward.prefixes == ("s3://team-bob", "s3://bucket/bob")


@pytest.mark.parametrize("owner", ["*", "al?ce", "[a]lice", "alic", "alicee", "ALICE"])
def test_patterns_are_the_settings_and_never_the_owner_s(owner: str) -> None:
    had = grants.of((Grant(owners=("alice", "lab-*"), read=("/data",), secrets=("portal",)),), owner, SITES)
    assert not had.inward.prefixes
    assert had.known(["portal", "other"]) == ()


# -- secrets -----------------------------------------------------------------------------------------------------------


def asking(value: str) -> dict[str, Any]:
    return {"executors": [{**COMMAND, "env": {"A": "x", "b/c": value}}]}


def test_secrets_that_are_granted() -> None:
    for value in ("secret://portal", "secret://portal/key", "secret://alice-key"):
        assert plan("alice", **asking(value)).executors[0].env["b/c"] == value


@pytest.mark.parametrize("value", ["secret://other", "secret://nowhere", "secret://bob-key", "secret://console", "secret://", "secret://*", "secret:///portal"])
def test_whether_a_secret_is_there_is_not_told(value: str) -> None:
    error = refused("alice", **asking(value))
    assert error.pointer == "/executors/0/env/b~1c"
    # `gone` is granted and not there.
    assert error.public == "asks for a secret that alice is not granted; granted is alice-key, portal (see the setting `grants`)"
    assert refused("carol", **asking(value)).public == "asks for a secret that carol is not granted; granted is no secret (see the setting `grants`)"


def test_every_secret() -> None:
    policy = msgspec.structs.replace(POLICY, grants=(Grant(owners=("root",), secrets=("*",)),))
    assert plan("root", policy, **asking("secret://other"))
    assert refused("root", policy, **asking("secret://console"))
    one = msgspec.structs.replace(POLICY, grants=(Grant(owners=("*",), secrets=("{owner}",)),))
    assert refused("*", one, **asking("secret://other")), "who is called * has no more by it"


def test_prefixes_travel_with_the_plan() -> None:
    made = msgspec.json.decode(msgspec.json.encode(plan("alice", **put("/data/alice/x"))), type=Plan)
    assert made.stage_in.reach is not None
    assert made.stage_out.reach is not None
    assert made.stage_in.reach.owner == "alice"
    assert set(made.stage_in.reach.prefixes) - set(made.stage_out.reach.prefixes) == {"file:///data/shared", "gs://bucket/public"}
    assert "s3://bucket/exec/alice" in made.stage_out.reach.prefixes
    assert paths.named_path("s3://x") is None
