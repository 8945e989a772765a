"""Images are resolved, pulled once, kept and given up, whatever happens meanwhile."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from tes_server import errors
from tes_server.runner import image_manifest
from tes_server.runner.images import Images, Pace
from tes_server.telemetry import Code
from tests import image_case, image_registry
from tests.contract.web_server import Answer, Request
from tests.image_case import directory, entry, layer, pack
from tests.unit.runner.conftest import PACE, Maker

Registry = image_registry.Registry
HERE = {"architecture": image_manifest.architecture_of(), "os": "linux"}


def packed(content: bytes = b"one", size: int = 0) -> image_case.Packed:
    return pack([layer(entry("file", content), entry("filling", os.urandom(size)))])


def failure(images: Images, name: str) -> tuple[Code, bool, str]:
    with pytest.raises(errors.EngineError) as caught:
        images.prepare(name)
    assert caught.value.public.startswith(f"{name}: ")
    return Code(caught.value.code), caught.value.transient, caught.value.public


def test_an_image_is_what_its_config_and_layers_say(make: Maker, registry: Registry, tmp_path: pathlib.Path) -> None:
    config = {"Env": ["PATH=/bin", "A=b=c", "EMPTY=", "nothing"], "WorkingDir": "work", "User": "me:us", "Entrypoint": ["/no"]}
    made = pack([layer(directory("etc"), entry("etc/a", b"1")), layer(entry("etc/a", b"2"))], config=config)
    images = make()
    image = images.prepare(registry.push(made))
    assert image.digest == made.digest
    assert (image.env, image.workdir, image.user) == ({"PATH": "/bin", "A": "b=c", "EMPTY": ""}, "/work", "me:us")
    assert (image.root / "etc/a").read_text() == "2"
    assert (tmp_path / "images").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == sorted([made.digest[7:], "names"])


def test_a_tag_is_asked_for_once_in_a_while_and_a_digest_never(make: Maker, registry: Registry) -> None:
    name = registry.push(packed())
    images = make()
    first = images.prepare(name)
    asked = len(registry.server.requests)
    assert images.prepare(name) == first
    assert images.prepare(f"{registry.host}/x@{first.digest}") == first
    assert len(registry.server.requests) == asked
    impatient = make(fresh=0)
    assert impatient.prepare(name) == first
    assert impatient.prepare(name) == first
    assert registry.asked()[asked:] == ["HEAD /v2/x/manifests/latest"] * 2


def test_a_tag_that_moved_is_followed_and_its_old_image_stays_for_its_digest(make: Maker, registry: Registry) -> None:
    images = make(fresh=0)
    old = images.prepare(registry.push(packed(b"old")))
    new = images.prepare(registry.push(packed(b"new")))
    assert ((old.root / "file").read_text(), (new.root / "file").read_text()) == ("old", "new")
    assert images.find(f"{registry.host}/x") == new
    assert images.find(old.digest) == old
    assert images.find(f"{registry.host}/x@{old.digest}") == old
    assert images.find("never/heard:of") is None
    assert images.prepare(old.digest) == old
    assert failure(images, "sha256:" + "0" * 64)[:2] == (Code.IMAGE_NOT_FOUND, True)


def test_a_registry_without_head_or_digest_is_asked_for_the_manifest(make: Maker, registry: Registry) -> None:
    name = registry.push(packed())
    registry.lie = lambda request: Answer(405) if request.method == "HEAD" else None
    assert (make().prepare(name).root / "file").is_file()
    registry.lie = lambda request: registry.truth(request)._replace(headers={}) if request.method == "HEAD" else None
    assert (make(fresh=0).prepare(name).root / "file").is_file()


@pytest.mark.parametrize("media_type", image_manifest.INDEXES)
def test_an_index_leads_to_this_machine(make: Maker, registry: Registry, media_type: str) -> None:
    ours, other, newer = packed(b"ours"), packed(b"other"), packed(b"newer")
    for one in (ours, other, newer):
        registry.push(one, tag="x")
    platforms = [
        (other, {"architecture": "s390x", "os": "linux"}),
        (newer, {**HERE, "variant": "v9"}),
        (ours, HERE),
        (other, {"architecture": "unknown", "os": "unknown"}),
    ]
    text = image_case.index(platforms, media_type)
    registry.put(text, media_type, "x", "many")
    images = make(fresh=0)
    assert images.prepare(f"{registry.host}/x:many").digest == ours.digest
    asked = len(registry.server.requests)
    exact = f"{registry.host}/x@{image_manifest.digest_of(text)}"
    assert images.prepare(exact).digest == ours.digest
    assert len(registry.server.requests) == asked


def test_an_image_for_other_machines_says_for_which(make: Maker, registry: Registry) -> None:
    one = packed()
    registry.push(one, tag="x")
    registry.put(
        image_case.index([(one, {"architecture": "s390x", "os": "linux"}), (one, {"architecture": "amd64", "os": "windows"})]),
        image_case.OCI_INDEX,
        "x",
        "many",
    )
    code, transient, words = failure(make(), f"{registry.host}/x:many")
    assert (code, transient) == (Code.IMAGE_ERROR, False)
    assert "only for linux/s390x, windows/amd64" in words
    code, transient, words = failure(make(), registry.push(pack([], architecture="s390x"), tag="single"))
    assert "it is not for linux/amd64, only for linux/s390x" in words


# -- a registry that is away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Answer(500), Answer(429, headers={"Retry-After": "3600"}), Answer(503)])
def test_an_outage_stops_nobody_who_has_the_image(make: Maker, registry: Registry, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    name = registry.push(packed())
    image = make().prepare(name)
    registry.lie = lambda _: answer
    asked = len(registry.server.requests)
    images = make(fresh=60)
    with caplog.at_level(logging.WARNING):
        assert images.prepare(name) == image
        assert images.prepare(name) == image
    assert len(registry.server.requests) == asked + 1, "an outage is not asked about again and again"
    assert [record.message for record in caplog.records] == ["image.registry.silent"]


@pytest.mark.parametrize(("status", "code"), [(404, Code.IMAGE_NOT_FOUND), (403, Code.IMAGE_DENIED)])
def test_a_refusal_is_an_answer(make: Maker, registry: Registry, status: int, code: Code) -> None:
    name = registry.push(packed())
    make().prepare(name)
    registry.lie = lambda _: Answer(status)
    assert failure(make(), name)[:2] == (code, False)


def test_a_silent_registry_is_not_waited_for_long(make: Maker, registry: Registry) -> None:
    name = registry.push(packed())
    image = make().prepare(name)
    asked, end = threading.Event(), threading.Event()

    def silent(_: Request) -> None:
        asked.set()
        end.wait(60)

    registry.lie = silent
    try:
        assert make(brief=Pace(read_timeout=0.1, tries=1), pace=Pace(read_timeout=600)).prepare(name) == image
        assert asked.wait(60)
    finally:
        end.set()


def test_an_outage_is_waited_for_where_the_image_is_not_there(make: Maker, registry: Registry) -> None:
    name = registry.push(packed())
    registry.lie = lambda request: Answer(503, headers={"Retry-After": "1000"}) if request.number < 2 else None
    assert (make().prepare(name).root / "file").is_file()


def test_an_outage_ends_in_an_error_that_may_pass(make: Maker, registry: Registry) -> None:
    registry.lie = lambda _: Answer(500, b'{"errors": [{"code": "UNKNOWN", "message": "disk\\n\\u0007 on fire"}]}')
    code, transient, words = failure(make(), f"{registry.host}/x")
    assert (code, transient) == (Code.IMAGE_ERROR, True)
    assert len(registry.server.requests) == PACE.tries
    assert "500" in words
    code, transient, words = failure(make(), "127.0.0.1:1/x")
    assert (code, transient) == (Code.IMAGE_ERROR, True)
    assert "127.0.0.1:1 refuses the connection" in words
    assert "nowhere.invalid" in failure(make(), "nowhere.invalid/x")[2]


def test_a_mistake_is_told_with_the_registrys_words(make: Maker, registry: Registry) -> None:
    one = packed()
    name = registry.push(one)
    registry.lie = lambda request: Answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "not\\nhere"}]}') if request.method == "GET" else None
    assert failure(make(), name)[2].endswith("does not have it (MANIFEST_UNKNOWN: not here)")
    registry.lie = lambda request: Answer(404, b'{"errors": [{"code": "\xe9"}]}') if request.method == "GET" else None
    assert failure(make(), name)[2].endswith("does not have it")


# -- one pull for all --------------------------------------------------------------------------------------------------


def test_threads_that_want_one_image_pull_it_once(make: Maker, registry: Registry) -> None:
    name = registry.push(packed())
    servers = [make(), make()]  # as two processes
    found: list[str] = []
    threads = [threading.Thread(target=lambda images=images: found.append(images.prepare(name).digest)) for images in servers * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    layers = [path for path in registry.asked("/blobs/") if registry.asked().count(path) > 1]
    assert layers == [], "each server may ask for the manifest, but a blob is fetched once"


PULL = """
import pathlib, sys
from tes_server.runner.images import Images, Options
image = Images(pathlib.Path(sys.argv[1]), Options(), ids=None).prepare(sys.argv[2])
print(image.digest)
"""


def pulling(where: pathlib.Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PULL, str(where), name], stdout=subprocess.PIPE, text=True)


def test_processes_that_want_one_image_pull_it_once(registry: Registry, tmp_path: pathlib.Path) -> None:
    one = packed(size=1_000_000)
    name = registry.push(one)
    both = [pulling(tmp_path / "images", name) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == [one.digest] * 2
    assert len(registry.asked("/blobs/")) == 2, "config and layer"


def test_a_pull_that_was_killed_leaves_nothing_that_counts(make: Maker, registry: Registry, tmp_path: pathlib.Path) -> None:
    one = packed(size=3_000_000)
    name = registry.push(one)
    halfway, go = threading.Event(), threading.Event()

    def stall(request: Request) -> Answer | None:
        if "/blobs/" not in request.path or len(registry.truth(request).body) < 3_000_000 or go.is_set():
            return None
        halfway.set()
        honest = registry.truth(request)
        return Answer(200, honest.body[:2_000_000], length=len(honest.body), hold=go)

    registry.lie = stall
    process = pulling(tmp_path / "images", name)
    assert halfway.wait(60)
    living = make()  # sweeps, but not what is alive
    assert [path.name for path in (tmp_path / "images").glob("tmp-*")] == [f"tmp-{one.digest[7:]}"]
    assert living.find(name) is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    go.set()
    assert (tmp_path / "images" / f"tmp-{one.digest[7:]}").exists()
    images = make()
    assert not list((tmp_path / "images").glob("tmp-*"))
    assert images.find(name) is None
    (tmp_path / "images/tmp-0").mkdir()
    (tmp_path / "images/old-0-0/root").mkdir(parents=True)
    assert (images.prepare(name).root / "filling").stat().st_size == 3_000_000
    assert not list((tmp_path / "images").glob("*-*")), "what others leave behind is deleted at the next pull"


def test_who_waits_for_a_pull_that_dies_takes_it_over(make: Maker, registry: Registry, tmp_path: pathlib.Path) -> None:
    one = packed(size=3_000_000)
    name = registry.push(one)
    halfway, go = threading.Event(), threading.Event()

    def stall(request: Request) -> Answer | None:
        if halfway.is_set() or len(registry.truth(request).body) < 3_000_000:
            return None
        halfway.set()
        return registry.truth(request)._replace(body=b"", length=3_000_100, hold=go)

    registry.lie = stall
    process = pulling(tmp_path / "images", name)
    assert halfway.wait(60)
    found: list[str] = []
    waiting = threading.Thread(target=lambda: found.append(make().prepare(name).digest))
    waiting.start()
    process.kill()
    process.communicate()
    waiting.join()
    go.set()
    assert found == [one.digest]


# -- room --------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_make_way(make: Maker, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    names = [registry.push(packed(b"%d" % number, 100_000), tag=str(number)) for number in range(4)]
    images = make(limit=350_000)
    first, second, third = (images.prepare(name) for name in names[:3])
    for age, image in enumerate((second, first, third)):  # the second is the oldest
        os.utime(image.root.parent / "lock", (1000 + age, 1000 + age))
    with caplog.at_level(logging.INFO):
        fourth = images.prepare(names[3])
    assert [listed.image.digest for listed in images.list()] == [fourth.digest, third.digest, first.digest]
    assert images.find(names[1]) is None
    assert not second.root.exists()
    assert "image.evicted" in [record.message for record in caplog.records]
    assert (images.prepare(names[1]).root / "file").read_text() == "1", "it comes back when it is wanted"


def test_what_is_held_never_makes_way(make: Maker, registry: Registry) -> None:
    names = [registry.push(packed(b"%d" % number, 100_000), tag=str(number)) for number in range(2)]
    images = make(limit=150_000)
    first = images.prepare(names[0])
    held = images.hold(first)
    heir = os.dup(held)  # as a supervisor has it
    os.close(held)
    try:
        images.prepare(names[1])
        assert first.root.exists()
        assert {listed.image.digest: listed.held for listed in images.list()}[first.digest]
        with pytest.raises(errors.EngineError, match="a task uses it"):
            make().remove(names[0])
    finally:
        os.close(heir)
    images.remove(names[0])
    assert not first.root.exists()
    with pytest.raises(errors.EngineError) as caught:
        images.hold(first)
    assert caught.value.transient


def test_an_image_above_the_limit_is_refused(make: Maker, registry: Registry, tmp_path: pathlib.Path) -> None:
    code, transient, words = failure(make(limit=50_000), registry.push(packed(size=100_000)))
    assert (code, transient) == (Code.IMAGE_ERROR, False)
    assert "sandbox.images_gb" in words
    assert not list((tmp_path / "images").glob("[!n]*"))


def test_a_full_disk_is_named_after_others_made_way(make: Maker, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make()
    idle = images.prepare(registry.push(packed(b"idle"), tag="idle"))
    used = images.prepare(registry.push(packed(b"used"), tag="used"))
    held = images.hold(used)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100_000, 50_000, 50_000))
    try:
        code, transient, _ = failure(images, registry.push(packed(size=100_000)))
    finally:
        os.close(held)
    assert (code, transient) == (Code.DISK_FULL, True)
    assert not idle.root.exists()
    assert used.root.exists()


# -- names -------------------------------------------------------------------------------------------------------------


def test_an_image_goes_with_its_last_name(make: Maker, registry: Registry) -> None:
    one = packed()
    first, second = registry.push(one, tag="1"), registry.push(one, tag="2")
    images = make()
    image = images.prepare(first)
    images.prepare(second)
    images.remove(first)
    assert images.find(first) is None
    assert images.find(second) == image
    images.remove(second)
    assert not image.root.exists()
    assert images.list() == []
    with pytest.raises(errors.EngineError, match="no such image") as caught:
        images.remove(second)
    assert caught.value.code == Code.IMAGE_NOT_FOUND


def test_a_digest_removes_all_names(make: Maker, registry: Registry) -> None:
    images = make()
    image = images.prepare(registry.push(packed(), tag="1"))
    assert images.list()[0].names == (f"{registry.host}/x:1", f"{registry.host}/x@{image.digest}")
    images.remove(image.digest)
    assert images.find(f"{registry.host}/x:1") is None


def test_a_directory_that_moved_is_read_where_it_is(make: Maker, registry: Registry, tmp_path: pathlib.Path) -> None:
    name = registry.push(packed())
    make().prepare(name)
    (tmp_path / "images").rename(tmp_path / "aside")
    image = Images(tmp_path / "aside", make()._options, ids=None).find(name)
    assert image is not None
    assert (image.root / "file").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's directory")
def test_somebody_elses_directory_is_left_alone(make: Maker, tmp_path: pathlib.Path) -> None:
    (tmp_path / "images").mkdir()
    os.chown(tmp_path / "images", 54321, 54321)
    with pytest.raises(errors.SettingsError, match="belongs to user 54321"):
        make()


@pytest.mark.parametrize("spoiled", [b"", b'{"name": "\xff"}'])
def test_a_name_that_was_spoiled_is_asked_for_anew(make: Maker, registry: Registry, tmp_path: pathlib.Path, spoiled: bytes) -> None:
    """A power cut may leave an empty file, a bad disk anything."""
    name = registry.push(packed())
    image = make().prepare(name)
    for file in (tmp_path / "images/names").iterdir():
        file.write_bytes(spoiled)
    assert make().prepare(name) == image
    assert json.loads(next((tmp_path / "images/names").iterdir()).read_text())["digest"] == image.digest


def test_an_image_that_was_spoiled_is_pulled_anew(make: Maker, registry: Registry, tmp_path: pathlib.Path) -> None:
    name = registry.push(packed())
    image = make().prepare(name)
    (tmp_path / "images" / image.digest[7:] / "image.json").write_text("{")
    images = make()
    assert images.list() == []
    assert images.find(name) is None
    assert images.prepare(name) == image
    assert [listed.image for listed in images.list()] == [image]
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"names", image.digest[7:]}


def test_a_name_that_the_disk_does_not_take_is_final(make: Maker, registry: Registry) -> None:
    code, transient, words = failure(make(), registry.push(pack([layer(entry("a" * 300, b""))])))
    assert (code, transient) == (Code.IMAGE_ERROR, False)
    assert words.endswith("File name too long")
