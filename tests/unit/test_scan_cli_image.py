"""`tes-server scan IMAGE` and `refresh` beside a server: a real registry, store and reconciler, over a scripted platform."""

from __future__ import annotations

import logging
import pathlib
import threading
from collections.abc import Callable, Iterator

import click.testing
import msgspec
import pytest

from tes_server import app, cli, configuration, scan_rules
from tes_server.control import orders
from tes_server.control.desk import Desk
from tes_server.control.reconciler import Pace, Reconciler
from tes_server.model.verdict import Verdict
from tes_server.plan.policy import Policy, Target
from tests import image_registry
from tests.image_case import entry, layer, pack
from tests.unit.control.conftest import RULES
from tests.unit.control.scan_case import BAD, CLEAN, ScanWorld, broken, told

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.registry() as running:
        yield running


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "site.toml"
    made.write_text(
        f"""
data = "{tmp_path}/data"
[local]
engine = "sandbox"
[scan]
mode = "enforce"
image = "ghcr.io/aquasecurity/trivy@sha256:{"a" * 64}"
server = "http://127.0.0.1:1"
exempt = ["host"]
timeout = 20
database_days = 0
[scan.policy]
deny = ["evil.example"]
"""
    )
    return made


@pytest.fixture
def world(tmp_path: pathlib.Path, config: pathlib.Path) -> Iterator[ScanWorld]:
    """What the server has, before one works on it."""
    (tmp_path / "data").mkdir()
    made = ScanWorld(tmp_path / "data" / "tasks.sqlite")
    made.policy = scan_rules.policy(configuration.load(config, {}, {}))
    # By what the real command line of the scanner says.
    made.platform.script = lambda plan: [next((end for name, end in made.platform.ends.items() if name in " ".join(plan.executors[0].argv)), told(CLEAN))]
    yield made
    made.store.close()


@pytest.fixture
def server(world: ScanWorld) -> Iterator[ScanWorld]:
    """A reconciler at work."""
    backend = world.backend()
    target = Target(policy=Policy(), capabilities=backend.capabilities)
    desk = Desk(world.store, world.resolver, world.scanning)
    loop = Reconciler(world.store, {"local": backend}, {"local": target}, RULES, Pace(interval=0.02, poll=0.005), "me", app.clock, lambda: 0.5, desk=desk)
    thread = threading.Thread(target=loop.loop)
    thread.start()
    yield world
    loop.stop()
    thread.join()


@pytest.fixture
def say(config: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Say]:
    monkeypatch.setattr(orders, "LOOK", 0.01)
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*words: str) -> tuple[int, str, str]:
        done = click.testing.CliRunner().invoke(cli.main, ["scan", *words, "--config", str(config), "--log-level", "error"])
        return done.exit_code, done.stdout, done.stderr

    yield run
    root.handlers[:], root.level = before[0], before[1]


def pushed(registry: image_registry.Registry, repository: str) -> str:
    return registry.push(pack([layer(entry("file", repository.encode()))]), repository)


def verdict_of(text: str) -> Verdict:
    return msgspec.json.decode(text, type=Verdict)


def test_an_image_is_scanned_and_its_verdict_shown(say: Say, server: ScanWorld, registry: image_registry.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    name = pushed(registry, "team/good")
    code, text, told_ = say(name)
    assert code == 0
    assert text.splitlines()[0] == f"image     {name}"
    assert "outcome   PASS" in text.splitlines()
    (scan,) = server.scans()
    assert f"      the scan {scan.id} is begun on local: a running server, or `tes-server reconcile`, makes it\n" in told_
    assert say("image", name)[:2] == say(name)[:2] == (0, text)
    assert len(server.scans()) == 1
    first = verdict_of(say("--timeout", "9", "--json", name)[1])
    monkeypatch.setenv("TES_SERVER__LOG__AUDIT", "log")
    code, text, told_ = say("refresh", name, "--json")
    line = msgspec.json.decode(told_.splitlines()[0])
    assert (line["action"], line["role"], line["image"], line["backend"]) == ("scan.refresh", "operator", name, "local")
    assert code == 0
    assert verdict_of(text).scanned_at > first.scanned_at
    assert len(server.scans()) == 2


def test_the_worst_of_all_images_is_the_exit_code(say: Say, server: ScanWorld, registry: image_registry.Registry) -> None:
    good, bad, sad = (pushed(registry, name) for name in ("good", "bad", "sad"))
    server.platform.ends.update({"/bad@": told(BAD), "/sad@": broken("the scanner crashed")})
    assert say(good, bad)[0] == say("refresh", bad, good)[0] == 1
    code, text, _ = say(bad, sad, good)
    assert code == 2
    blocks = text.split("\n\n")
    assert [block.splitlines()[0].split()[1] for block in blocks] == [bad, sad, good]
    assert "reason    1 CRITICAL finding (1 with a fix): rebuild the image with the fixed versions" in blocks[0]
    assert "failed    " in blocks[1]
    assert "the scanner crashed" in blocks[1]
    assert f"`tes-server scan refresh {sad}` scans anew at once" in blocks[1]
    (scan,) = [line.split()[1] for line in blocks[1].splitlines() if line.startswith("scan ")]
    for name in (sad, scan, sad.partition("/")[2]):
        assert "log       SCAN_FAILED: the scanner crashed" in say("show", name)[1], name
    assert [line.split()[:2] for line in say("list", "--outcome", "fail")[1].splitlines()[1:]] == [["FAIL", bad]]


def test_a_name_alone_may_settle_it(say: Say, world: ScanWorld) -> None:
    assert say("host") == (0, "image host is exempt from scans (host)\n", "")
    code, text, _ = say("evil.example/tool", "--json")
    assert (code, text) == (1, "")
    assert "denied by the site" in say("host", "evil.example/tool")[1]


def test_what_cannot_be_told_is_2(say: Say, world: ScanWorld, registry: image_registry.Registry) -> None:
    code, text, why = say(f"{registry.host}/none:1")
    assert (code, text) == (2, "")
    assert f"tes-server: {registry.host}/none:1: the registry does not have it" in why
    assert why.count(f"{registry.host}/none:1") == len(why.splitlines()), "once in a line"
    name = pushed(registry, "waits")
    code, text, why = say(name, "--timeout", "2")
    assert (code, text) == (2, "")
    (scan,) = world.scans()
    assert f"tes-server: {name}: no verdict yet: the scan {scan.id} is QUEUED on local" in why


def test_what_makes_no_sense_is_refused(say: Say, world: ScanWorld, config: pathlib.Path) -> None:
    code, _, why = say("alpine", "--backend", "kubernetes")
    assert (code, why) == (2, "tes-server: --backend: images are scanned for local, not for 'kubernetes'\n")
    assert say("image")[0] == say("refresh")[0] == 2
    config.write_text(config.read_text().replace('"enforce"', '"off"'))
    assert say("alpine")[::2] == (2, "tes-server: scan.mode: is off: no images are scanned here\n")


def test_in_mode_warn_the_policy_speaks_and_nothing_is_stopped(say: Say, server: ScanWorld, registry: image_registry.Registry, config: pathlib.Path) -> None:
    config.write_text(config.read_text().replace('"enforce"', '"warn"'))
    server.platform.ends["/bad@"] = told(BAD)
    code, text, why = say(pushed(registry, "bad"))
    assert (code, "outcome   FAIL" in text) == (1, True)
    assert 'tasks on local run all the same: scan.mode is "warn" there\n' in why
    assert "run all the same" not in say(pushed(registry, "good"))[2]
