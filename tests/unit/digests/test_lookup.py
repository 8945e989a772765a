"""One look-up of a name: what a registry is asked for, and what its answers, and lies, come to."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping

import msgspec
import pytest

from tes_server.digests import kept, lookup
from tes_server.digests.base import Resolved, Unresolved
from tes_server.digests.kept import Kept, When
from tes_server.digests.lookup import Lookup, Place
from tes_server.runner import image_registry
from tes_server.runner.image_registry import Mirror
from tes_server.telemetry import Code
from tests import image_case
from tests import image_registry as fake
from tests.contract.web_server import Answer, Request
from tests.image_case import Packed, entry, layer, pack

PACE = msgspec.structs.replace(lookup.PACE, first_delay=0.001, longest_delay=0.01)
HERE = {"local": Place(here=True, architecture="x86_64")}
AMD, ARM = ({"os": "linux", "architecture": name} for name in ("amd64", "arm64"))
ID = "sha256:" + "1" * 64


@pytest.fixture
def registry() -> Iterator[fake.Registry]:
    with fake.registry() as running:
        yield running


def packed(content: bytes = b"one") -> Packed:
    return pack([layer(entry("file", content))])


def make(
    places: Mapping[str, Place] = HERE, addresses: Mapping[str, str] | None = None, longest: float = lookup.LONGEST, mirrors: tuple[Mirror, ...] = ()
) -> Lookup:
    known = addresses or {}
    return Lookup(image_registry.Registry(addresses=known, mirrors=mirrors, docker_config=None, pace=PACE), places, known, longest)


def found(look: Lookup, image: str, backend: str = "local") -> Resolved:
    answer = look(image, backend)
    assert isinstance(answer, Resolved), answer
    assert answer.name == image
    return answer


def failed(look: Lookup, image: str, backend: str = "local") -> Unresolved:
    answer = look(image, backend)
    assert isinstance(answer, Unresolved), answer
    assert answer.message.count(image) == 1
    return answer


class TestNames:
    def test_a_tag(self, registry: fake.Registry) -> None:
        one, look = packed(), make()
        name = registry.push(one, "team/tool", "1.2")
        assert found(look, name) == Resolved(name, one.digest, f"{registry.host}/team/tool@{one.digest}")
        config = next(iter(one.blobs))
        assert registry.asked() == ["HEAD /v2/team/tool/manifests/1.2", f"GET /v2/team/tool/manifests/{one.digest}", f"GET /v2/team/tool/blobs/{config}"]

    def test_the_next_time_a_request_that_counts_nowhere_is_enough(self, registry: fake.Registry) -> None:
        look, name = make(), registry.push(packed())
        found(look, name)
        before = len(registry.asked())
        found(look, name)
        assert registry.asked()[before:] == ["HEAD /v2/x/manifests/latest"]

    def test_a_digest(self, registry: fake.Registry) -> None:
        one, look = packed(), make()
        registry.push(one)
        name = f"{registry.host}/x:latest@{one.digest}"
        assert found(look, name).pinned == f"{registry.host}/x@{one.digest}"
        assert registry.asked("/manifests/") == [f"GET /v2/x/manifests/{one.digest}"]
        found(look, name)
        assert len(registry.asked()) == 2, "what is in it never changes"

    def test_a_tag_that_moved(self, registry: fake.Registry) -> None:
        old, new, look = packed(b"old"), packed(b"new"), make()
        name = registry.push(old)
        assert found(look, name).digest == old.digest
        registry.push(new)
        assert found(look, name).digest == new.digest

    def test_a_tag_that_moves_just_now_is_one_image_or_the_other(self, registry: fake.Registry) -> None:
        old, new, look = packed(b"old"), packed(b"new"), make()
        name = registry.push(old)

        def move(request: Request) -> Answer | None:
            answer = registry.truth(request)
            if request.method == "HEAD":
                registry.push(new)
            return answer

        registry.lie = move
        assert found(look, name).digest == old.digest

    def test_text_that_is_no_name(self) -> None:
        answer = failed(make(), "Not A Name")
        assert (answer.code, answer.passing) == (Code.IMAGE_ERROR, False)

    def test_an_image_id_without_an_engine_that_has_it(self) -> None:
        answer = failed(make(), ID)
        assert (answer.code, answer.passing) == (Code.IMAGE_NOT_FOUND, False)
        assert "an image's id" in answer.message


class TestOnesWithoutAnIndex:
    """Their config says for which machines they are."""

    def test_one_for_other_machines(self, registry: fake.Registry) -> None:
        name = registry.push(pack([layer(entry("file", b"x"))], architecture="arm64"))
        look = make({"amd": Place(here=True, architecture="amd64"), "arm": Place(here=True, architecture="arm64")})
        answer = failed(look, name, "amd")
        assert (answer.code, answer.passing) == (Code.IMAGE_ERROR, False)
        assert "it is not for linux/amd64, only for linux/arm64" in answer.message
        found(look, name, "arm")
        windows = registry.push(pack([layer(entry("file", b"x"))], os="windows"), "windows")
        assert "only for windows/" in failed(look, windows, "amd").message

    @pytest.mark.parametrize(
        "answer", [Answer(404), Answer(403), Answer(500), Answer(200, b"not this config"), Answer(200, b'{"architecture": "arm64", "rootfs": {}}')]
    )
    def test_one_whose_config_nobody_sees_here_is_left_to_who_runs_it(self, registry: fake.Registry, answer: Answer) -> None:
        name = registry.push(packed())
        registry.lie = lambda request: answer if "/blobs/" in request.path else None
        found(make(), name)

    def test_one_that_says_nothing(self, registry: fake.Registry) -> None:
        found(make(), registry.push(pack([layer(entry("file", b"x"))], architecture="", os="")))


class TestIndexes:
    def test_each_backend_gets_its_architecture(self, registry: fake.Registry) -> None:
        one, two = packed(b"amd"), packed(b"arm")
        registry.push(one, tag="a")
        registry.push(two, tag="b")
        registry.put(image_case.index([(one, AMD), (two, ARM)]), image_case.OCI_INDEX, "x", "latest")
        look = make({"amd": Place(here=True, architecture="amd64"), "arm": Place(here=True, architecture="aarch64")})
        assert found(look, f"{registry.host}/x", "amd").digest == one.digest
        assert found(look, f"{registry.host}/x", "arm").pinned == f"{registry.host}/x@{two.digest}"

    def test_none_for_the_architecture(self, registry: fake.Registry) -> None:
        registry.put(image_case.index([(packed(), ARM)]), image_case.OCI_INDEX, "x", "latest")
        answer = failed(make(), f"{registry.host}/x")
        assert (answer.code, answer.passing) == (Code.IMAGE_ERROR, False)
        assert "not for linux/amd64, only for linux/arm64" in answer.message

    def test_one_that_promises_what_is_not_there(self, registry: fake.Registry) -> None:
        one = packed()
        registry.put(image_case.index([(one, AMD)]), image_case.OCI_INDEX, "x", "latest")
        answer = failed(make(), f"{registry.host}/x")
        assert (answer.code, answer.passing) == (Code.IMAGE_NOT_FOUND, False)
        assert f"its index promises {one.digest}" in answer.message

    def test_one_that_leads_to_another(self, registry: fake.Registry) -> None:
        one = packed()
        registry.push(one, tag="one")
        inner = image_case.index([(one, AMD)])
        registry.put(inner, image_case.OCI_INDEX, "x", "inner")
        outer = {"schemaVersion": 2, "mediaType": image_case.OCI_INDEX, "manifests": [image_case.described(inner, image_case.OCI_INDEX, platform=AMD)]}
        registry.put(json.dumps(outer).encode(), image_case.OCI_INDEX, "x", "latest")
        assert "another index" in failed(make(), f"{registry.host}/x").message


class TestRegistries:
    @pytest.mark.parametrize("head", [Answer(405), Answer(404), Answer(200), Answer(200, headers={"Docker-Content-Digest": "sha512:00"})])
    def test_one_without_head_or_digest(self, registry: fake.Registry, head: Answer) -> None:
        one = packed()
        name = registry.push(one)
        registry.lie = lambda request: head if request.method == "HEAD" else None
        if head.status == 404:
            assert failed(make(), name).code == Code.IMAGE_NOT_FOUND, "which is an answer"
        else:
            assert found(make(), name).digest == one.digest

    @pytest.mark.parametrize("reference", [":nothing", f"@{ID}"])
    def test_what_it_does_not_have(self, registry: fake.Registry, reference: str) -> None:
        registry.push(packed())
        answer = failed(make(), f"{registry.host}/x{reference}")
        assert (answer.code, answer.passing) == (Code.IMAGE_NOT_FOUND, False)
        assert "the registry does not have it" in answer.message

    def test_one_that_denies_it(self, registry: fake.Registry) -> None:
        name = registry.push(packed())
        registry.lie = lambda _: Answer(403)
        answer = failed(make(), name)
        assert (answer.code, answer.passing) == (Code.IMAGE_DENIED, False)

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
    def test_one_that_is_not_well(self, registry: fake.Registry, status: int) -> None:
        look, name = make(), registry.push(packed())
        registry.lie = lambda _: Answer(status)
        answer = failed(look, name)
        assert (answer.code, answer.passing, answer.after) == (Code.IMAGE_ERROR, True, 0)
        assert len(registry.asked()) == PACE.tries
        registry.lie = lambda _: None
        found(look, name)

    def test_one_that_wants_to_be_left_alone(self, registry: fake.Registry) -> None:
        look, one = make(), packed()
        names = [registry.push(one, repository) for repository in ("x", "y")]
        registry.lie = lambda _: Answer(429, headers={"Retry-After": "30"})
        first, second = (failed(look, name) for name in names)
        assert first.passing
        assert first.after == 30
        assert 29 < second.after <= 30
        assert "answered 429" in second.message
        assert len(registry.asked()) == 1, "nobody asks again meanwhile, for no image"

    def test_one_that_wants_to_be_left_alone_for_ever(self, registry: fake.Registry) -> None:
        name = registry.push(packed())
        registry.lie = lambda _: Answer(503, headers={"Retry-After": "999999"})
        assert failed(make(), name).after == lookup.HELD

    def test_one_that_is_down(self) -> None:
        answer = failed(make(), "127.0.0.1:1/x")
        assert answer.passing
        assert "refuses the connection" in answer.message

    def test_a_name_that_leads_nowhere(self) -> None:
        answer = failed(make(), "registry.invalid/x")
        assert answer.passing
        assert "cannot be resolved" in answer.message

    def test_one_that_answers_ever_so_slowly_is_cut_off(self, registry: fake.Registry) -> None:
        name = registry.push(packed())
        ended = threading.Event()
        # Each byte comes well within the time-out of silence.
        registry.lie = lambda _: Answer(raw=(b"H" for _ in itertools.takewhile(lambda _: not ended.wait(0.02), itertools.count())))
        begun = time.monotonic()
        answer = failed(make(longest=0.5), name)
        ended.set()
        assert answer.passing
        assert "did not answer within 0.5 seconds" in answer.message
        assert time.monotonic() - begun < 5

    def test_one_whose_manifest_drips_is_cut_off(self, registry: fake.Registry) -> None:
        name = registry.push(packed())
        ended = threading.Event()

        def drip(request: Request) -> Answer | None:
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n"
            return (
                Answer(raw=itertools.chain([head], (b" " for _ in itertools.takewhile(lambda _: not ended.wait(0.02), itertools.count()))))
                if request.method == "GET"
                else None
            )

        registry.lie = drip
        answer = failed(make(longest=0.5), name)
        ended.set()
        assert answer.passing
        assert "did not answer within" in answer.message

    def test_closing_breaks_it_off(self, registry: fake.Registry) -> None:
        look, name, ended = make(), registry.push(packed()), threading.Event()

        def hang(_: Request) -> Answer:
            look.close()
            return Answer(length=10, hold=ended)

        registry.lie = hang
        answer = failed(look, name)
        ended.set()
        assert len(registry.asked()) == 1
        assert answer.passing

    @pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]", "168.63.129.16:80"])
    def test_where_clouds_keep_their_secrets_is_no_registry(self, host: str) -> None:
        answer = failed(make(), f"{host}/x")
        assert (answer.code, answer.passing) == (Code.IMAGE_DENIED, False)
        assert "a network that registries may not be in" in answer.message


class TestAddresses:
    def test_a_registry_that_is_elsewhere_than_its_name_says(self, registry: fake.Registry) -> None:
        one = packed()
        registry.push(one, "team/tool")
        look = make({}, {"127.0.0.1:5000": registry.server.url})
        assert found(look, "127.0.0.1:5000/team/tool", "kubernetes").pinned == f"127.0.0.1:5000/team/tool@{one.digest}", "names do not change"

    def test_by_the_proxy_of_the_environment(self, registry: fake.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        one = packed()
        registry.push(one)
        monkeypatch.setenv("http_proxy", registry.server.url)
        monkeypatch.setenv("no_proxy", "")
        registry.lie = lambda request: registry.truth(request._replace(path=request.path.removeprefix("http://r.example")))
        assert found(make({}, {"r.example": "http://r.example"}), "r.example/x").digest == one.digest

    def test_with_a_path(self, registry: fake.Registry) -> None:
        registry.push(packed(), "hub/library/debian")
        assert found(make({}, {"docker.io": f"{registry.server.url}/hub/"}), "debian").pinned.startswith("docker.io/library/debian@sha256:")

    def test_a_mirror_comes_first_all_the_same(self, registry: fake.Registry) -> None:
        registry.push(packed(), "mirrored/x")
        look = make({}, {"r.example": "http://127.0.0.1:1"}, mirrors=(Mirror("r.example", f"{registry.server.url}/mirrored"),))
        found(look, "r.example/x")

    def test_loopback_is_another_machine_for_tasks_elsewhere(self, registry: fake.Registry) -> None:
        answer = failed(make(), registry.push(packed()), "kubernetes")
        assert (answer.code, answer.passing) == (Code.IMAGE_ERROR, False)
        assert "scan.registries" in answer.message
        assert registry.asked() == []

    def test_whether_there_is_a_registry_at_all(self, registry: fake.Registry) -> None:
        known = image_registry.Registry(addresses={"r.example": registry.server.url}, docker_config=None, pace=PACE)
        with pytest.raises(Exception, match="does not have it"):
            known.reach("r.example")
        registry.lie = lambda request: Answer(401) if request.path == "/v2/" else None
        known.reach("r.example")


class TestEngines:
    """What the engine of this machine has."""

    def here(self, when: When | None, host: bool = False) -> dict[str, Place]:
        look: kept.Look = kept.nothing if when is None else lambda _: Kept(ID, ID, when)
        return {"local": Place(here=True, architecture="amd64", look=look, host=host)}

    def test_what_never_was_in_a_registry_is_not_asked_for(self, registry: fake.Registry) -> None:
        name = registry.push(packed())
        assert found(make(self.here(When.FIRST)), name) == Resolved(name, ID, ID, local=True)
        assert registry.asked() == []

    def test_an_id(self) -> None:
        assert found(make(self.here(When.FIRST)), ID).digest == ID

    @pytest.mark.parametrize("when", [When.WITHOUT, When.SILENT])
    def test_what_a_registry_has_is_for_it_to_say(self, registry: fake.Registry, when: When) -> None:
        one = packed()
        assert found(make(self.here(when)), registry.push(one)).digest == one.digest

    @pytest.mark.parametrize(
        ("status", "when", "stands"),
        [(404, When.WITHOUT, True), (403, When.WITHOUT, True), (503, When.WITHOUT, True), (404, When.SILENT, False), (503, When.SILENT, True)],
    )
    def test_without_an_answer_it_is_the_engine_s(self, registry: fake.Registry, status: int, when: When, stands: bool) -> None:
        name = registry.push(packed())
        registry.lie = lambda _: Answer(status)
        answer = make(self.here(when))(name, "local")
        assert isinstance(answer, Resolved) == stands
        if isinstance(answer, Resolved):
            assert answer == Resolved(name, ID, ID, local=True)

    def test_this_machine_s_own_programs(self) -> None:
        answer = failed(make(self.here(None, host=True)), lookup.HOST)
        assert not answer.passing
        assert "scan.exempt" in answer.message

    def test_of_another_backend_it_is_not_asked(self, registry: fake.Registry) -> None:
        registry.push(packed())
        look = make(self.here(When.FIRST), {"r.example": registry.server.url})
        assert found(look, "r.example/x", "kubernetes").digest != ID
