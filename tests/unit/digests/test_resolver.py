"""Answers of the resolver: asked for once, kept for a while, waited for by nobody."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator

import pytest

from tes_server.digests.base import Answer, Resolved, Unresolved
from tes_server.digests.resolver import LONGEST, LookupResolver, Times
from tests.contract.engine_lab import until

A = "sha256:" + "a" * 64
BUSY = Unresolved("IMAGE_ERROR", "x: the registry answered 503", passing=True)
GONE = Unresolved("IMAGE_NOT_FOUND", "x: the registry does not have it", passing=False)


def found(image: str) -> Resolved:
    return Resolved(image, A, f"{image}@{A}")


class Registry:
    """Look-ups that end when the test lets them. `answer` makes the answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str], Answer] = found
        self.open = threading.Event()
        self.open.set()
        self.gates: dict[str, threading.Event] = collections.defaultdict(lambda: self.open)
        self.now = 1000.0
        self.done = threading.Event()
        self.stopped = 0

    def look(self, image: str, backend: str) -> Answer:
        self.asked.append((image, backend))
        assert self.gates[image].wait(20)
        return self.answer(image)

    def clock(self) -> float:
        return self.now

    def stop(self) -> None:
        self.stopped += 1
        self.open.set()


@pytest.fixture
def registry() -> Iterator[Registry]:
    made = Registry()
    yield made
    for gate in (made.open, *made.gates.values()):
        gate.set()


@pytest.fixture
def resolver(registry: Registry) -> Iterator[LookupResolver]:
    made = LookupResolver(registry.look, registry.stop, Times(threads=4, of_one=2, waiting=6), registry.clock)
    made.listen(registry.done.set)
    yield made
    made.close()


def settled(resolver: LookupResolver, *images: str, backend: str = "local") -> dict[str, Answer]:
    """The answers, once all are there."""
    heard = threading.Event()
    resolver.listen(heard.set)
    while set(answers := resolver.ask(images, backend)) != set(images):
        assert heard.wait(20)
        heard.clear()
    return dict(answers)


def test_the_first_answer_is_that_it_is_being_looked_up(registry: Registry, resolver: LookupResolver) -> None:
    registry.open.clear()
    assert resolver.ask(["x"], "local") == {}
    registry.open.set()
    assert registry.done.wait(20), "whoever listens is told"
    assert resolver.ask(["x"], "local") == {"x": found("x")}


def test_a_crowd_asks_once(registry: Registry, resolver: LookupResolver) -> None:
    registry.open.clear()
    for _ in range(500):
        assert resolver.ask(["x"], "local") == {}
    registry.open.set()
    settled(resolver, "x")
    assert resolver.ask(["x"] * 500, "local") == {"x": found("x")}
    assert registry.asked == [("x", "local")]


def test_a_backend_is_asked_for_by_itself(registry: Registry, resolver: LookupResolver) -> None:
    settled(resolver, "x")
    settled(resolver, "x", backend="kubernetes")
    assert registry.asked == [("x", "local"), ("x", "kubernetes")]


def test_an_answer_is_good_for_a_minute(registry: Registry, resolver: LookupResolver) -> None:
    settled(resolver, "x")
    registry.now += 39
    assert resolver.ask(["x"], "local")
    assert len(registry.asked) == 1
    registry.now += 21.5
    registry.open.clear()
    assert resolver.ask(["x"], "local") == {}
    registry.open.set()
    settled(resolver, "x")
    assert len(registry.asked) == 2


def test_it_is_looked_up_anew_before_it_ends(registry: Registry, resolver: LookupResolver) -> None:
    settled(resolver, "x")
    registry.now += 41
    moved = Resolved("x", "sha256:" + "b" * 64, "x@b")
    registry.answer = lambda _: moved
    registry.done.clear()
    assert resolver.ask(["x"], "local") == {"x": found("x")}, "nobody waits"
    assert registry.done.wait(20)
    assert resolver.ask(["x"], "local") == {"x": moved}


def test_a_bad_moment_before_the_end_of_an_answer_does_not_spoil_it(registry: Registry, resolver: LookupResolver) -> None:
    settled(resolver, "x")
    registry.now += 41
    registry.answer = lambda _: BUSY
    registry.done.clear()
    resolver.ask(["x"], "local")
    assert registry.done.wait(20)
    assert resolver.ask(["x"], "local") == {"x": found("x")}
    assert len(registry.asked) == 2, "nor is it asked at once again"
    registry.now += 20
    resolver.ask(["x"], "local")
    assert settled(resolver, "x") == {"x": BUSY}, "but when it ends it ends"


def test_what_is_not_there_any_more_is_not_there(registry: Registry, resolver: LookupResolver) -> None:
    settled(resolver, "x")
    registry.now += 41
    registry.answer = lambda _: GONE
    registry.done.clear()
    resolver.ask(["x"], "local")
    assert registry.done.wait(20)
    assert resolver.ask(["x"], "local") == {"x": GONE}


@pytest.mark.parametrize(("after", "good"), [(0.0, 7.9), (90.0, 89.0)])
def test_a_failure_is_forgotten_soon_unless_the_registry_wants_more_time(registry: Registry, resolver: LookupResolver, after: float, good: float) -> None:
    busy = Unresolved("IMAGE_ERROR", "x: 429", passing=True, after=after)
    registry.answer = lambda _: busy
    assert settled(resolver, "x") == {"x": busy}
    registry.now += good
    assert resolver.ask(["x"], "local") == {"x": busy}
    assert len(registry.asked) == 1
    registry.answer = found
    registry.now += 1.5
    assert settled(resolver, "x") == {"x": found("x")}


def test_a_registry_that_hangs_holds_up_its_own_images_only(registry: Registry, resolver: LookupResolver) -> None:
    registry.gates |= {f"slow.example/{n}": threading.Event() for n in range(5)}
    assert resolver.ask(list(registry.gates), "local") == {}
    assert settled(resolver, "quick.example/x")
    asked = [image for image, _ in registry.asked]
    assert asked == ["slow.example/0", "slow.example/1", "quick.example/x"], "two threads are for one registry"
    for gate in registry.gates.values():
        gate.set()
    assert len(settled(resolver, *(f"slow.example/{n}" for n in range(5)))) == 5


def test_no_more_threads_than_allowed(registry: Registry, resolver: LookupResolver) -> None:
    registry.open.clear()
    names = [f"r{n}.example/x" for n in range(6)]
    resolver.ask(names, "local")
    until(lambda: len(registry.asked) == 4, "four look-ups")
    assert sum(thread.name == "tes-digest" for thread in threading.enumerate()) == 4
    registry.open.set()
    settled(resolver, *names)


def test_what_does_not_fit_into_the_queue_is_looked_up_when_it_is_asked_for_again(registry: Registry, resolver: LookupResolver) -> None:
    registry.open.clear()
    names = [f"r{n}.example/x" for n in range(30)]
    resolver.ask(names, "local")
    registry.open.set()
    assert len(settled(resolver, *names)) == 30
    assert collections.Counter(registry.asked).most_common(1)[0][1] == 1


def test_names_of_one_registry_leave_room_for_those_of_others(registry: Registry, resolver: LookupResolver) -> None:
    registry.open.clear()
    for _ in range(3):
        resolver.ask([f"evil.example/x:{number}" for number in range(20)], "local")
    resolver.ask(["good.example/tool:1"], "local")
    until(lambda: ("good.example/tool:1", "local") in registry.asked, "the look-up of the other one")
    registry.open.set()


def test_what_led_somewhere_before_comes_first_also_where_the_queue_is_full(registry: Registry, resolver: LookupResolver) -> None:
    settled(resolver, "good.example/tool:1")
    registry.now += 61
    registry.open.clear()
    made_up = [f"r{registry}.example/x:{number}" for registry in range(5) for number in range(3)]
    for _ in range(3):
        resolver.ask(made_up, "local")
    until(lambda: len(registry.asked) == 5, "four look-ups more")
    assert not resolver.ask(["good.example/tool:1"], "local")
    registry.open.set()
    settled(resolver, "good.example/tool:1")
    assert ("good.example/tool:1", "local") in registry.asked[5:9]


def test_any_number_of_slow_registries_leave_threads_for_those_that_led_somewhere(registry: Registry) -> None:
    resolver = LookupResolver(registry.look, registry.stop, Times(threads=4, of_one=2, strangers=3, waiting=6), registry.clock)
    settled(resolver, "good.example/tool:1")
    for number in range(20):
        registry.gates[f"slow{number}.example/x"] = threading.Event()
    for _ in range(3):
        assert resolver.ask([name for name in registry.gates if name.startswith("slow")], "local") == {}
    until(lambda: len(registry.asked) == 4, "three look-ups more")
    for number in range(5):
        assert settled(resolver, f"good.example/new:{number}"), "one that nobody asked for yet"
    assert sum("slow" in image for image, _ in registry.asked) == 3
    resolver.close()


def test_without_a_thread_it_waits_for_the_next_time(registry: Registry, resolver: LookupResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert resolver.ask(["x"], "local") == {}
    assert settled(resolver, "x") == {"x": found("x")}


def test_a_fault_of_ours_is_an_answer(registry: Registry, resolver: LookupResolver, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: str) -> Answer:
        raise ZeroDivisionError

    registry.answer = broken
    answer = settled(resolver, "x")["x"]
    assert isinstance(answer, Unresolved)
    assert answer.passing
    assert [record.getMessage() for record in caplog.records if record.exc_info] == ["image.lookup.broken"]


def test_what_can_be_no_name_is_not_even_kept(registry: Registry, resolver: LookupResolver) -> None:
    (answer,) = resolver.ask(["x" * (LONGEST + 1)], "local").values()
    assert isinstance(answer, Unresolved)
    assert not answer.passing
    assert len(answer.message) < 200
    assert registry.asked == []


def test_no_more_answers_are_kept_than_allowed(registry: Registry) -> None:
    resolver = LookupResolver(registry.look, times=Times(kept=2))
    for image in ("x", "y", "z"):
        settled(resolver, image)
    settled(resolver, "x", "z")
    assert [image for image, _ in registry.asked] == ["x", "y", "z", "x"]


def test_once_closed_nothing_is_looked_up(registry: Registry, resolver: LookupResolver) -> None:
    registry.open.clear()
    resolver.ask(["x"], "local")
    resolver.close()
    resolver.close()
    assert registry.stopped == 2
    until(lambda: not any(thread.name == "tes-digest" for thread in threading.enumerate()), "the end of all look-ups")
    assert not registry.done.is_set(), "nobody listens any more"
    resolver.ask(["y"], "local")
    assert registry.asked == [("x", "local")]
