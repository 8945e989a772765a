from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tes_server.client import follow
from tes_server.client.answers import ExecutorLog, Task, TaskLog

KEEP = 20


def kept(stream: str, keep: int = KEEP) -> str:
    """A snapshot as this server makes it: head, a line on what was left out, tail."""
    data = stream.encode()
    if len(data) <= 2 * keep:
        return stream
    left_out = len(data) - 2 * keep
    return data[:keep].decode() + f"\n... {left_out} bytes left out ...\n" + data[-keep:].decode(errors="replace")


def replay(stream: str, cuts: list[int]) -> tuple[str, int]:
    """What is shown of a stream that was looked at when so many characters of it were there, and how much is said to be lost."""
    seen = follow.Stream()
    shown, lost = "", 0
    for cut in cuts:
        gone, new = seen.news(kept(stream[:cut]))
        assert gone is not None
        shown += new
        lost += gone
    return shown, lost


def test_small_output_is_shown_once() -> None:
    assert replay("hello world", [0, 3, 3, 5, 11]) == ("hello world", 0)


def test_nothing_is_lost_or_doubled_while_looks_are_near_enough() -> None:
    stream = "".join(f"line {number}\n" for number in range(100))
    cuts = [*range(10, len(stream), 13), len(stream)]
    shown, lost = replay(stream, cuts)
    # The first look that meets the marker may come before or after the end of the head; from then on the counts hold.
    assert (shown, lost) == (stream, 0)


@example([1, 20, 20], "ab\n")  # what was shown ends with a line break, and so begins the remark that stands there next
@given(st.lists(st.integers(1, KEEP), min_size=3, max_size=30), st.sampled_from(["ab\n", "y\n", ".", "0123456789\n\n"]))
def test_repeating_output_is_counted_not_guessed(steps: list[int], pattern: str) -> None:
    cuts = [sum(steps[:end]) for end in range(1, len(steps) + 1)]
    stream = (pattern * cuts[-1])[: cuts[-1]]
    assert replay(stream, cuts) == (stream, 0)


def test_a_tail_that_begins_within_a_character_is_still_counted_right() -> None:
    stream = "0123456789" * 2 + "é€" * 30  # the head ends between two characters, tails begin anywhere
    cuts = [*range(21, len(stream) + 1)]
    assert replay(stream, cuts) == (stream, 0)


def test_what_was_lost_between_two_looks_is_counted() -> None:
    stream = "".join(chr(ord("a") + number % 26) for number in range(500))
    shown, lost = replay(stream, [30, 500])
    assert lost == 500 - 30 - KEEP
    assert shown == stream[:30] + stream[-KEEP:]


def test_a_first_look_at_long_output_shows_the_servers_own_remark() -> None:
    stream = "x" * 500
    shown, lost = replay(stream, [500])
    assert (shown, lost) == (kept(stream), 0)
    shown, lost = replay(stream + "yyy", [500, 503])
    assert (shown, lost) == (kept(stream) + "yyy", 0)


def test_a_server_that_keeps_only_the_tail_without_a_word() -> None:
    stream = follow.Stream()
    assert stream.news("one two three") == (0, "one two three")
    assert stream.news("wo three" + "one two three four") == (0, " four")
    assert stream.news("something else") == (None, "something else")


def log(*executors: ExecutorLog, start: str = "2024-01-01T00:00:00Z", state: str = "RUNNING") -> Task:
    return Task(id="t", state=state, logs=[TaskLog(logs=list(executors), start_time=start)])


def followed(looks: Iterable[Task], **options: Any) -> tuple[follow.Follower, list[tuple[str, str]], list[float]]:
    said: list[tuple[str, str]] = []
    pauses: list[float] = []
    looks = iter(looks)
    follower = follow.Follower(
        lambda: next(looks), lambda name, text: said.append((name, text)), lambda text: said.append(("notice", text)), pauses.append, **options
    )
    return follower, said, pauses


def test_executors_and_streams_are_kept_apart() -> None:
    follower, said, pauses = followed(
        [
            Task(id="t", state="QUEUED"),
            log(ExecutorLog(stdout="a")),
            log(ExecutorLog(stdout="ab", stderr="E")),
            log(ExecutorLog(stdout="ab", stderr="E"), ExecutorLog(stdout="c"), state="COMPLETE"),
        ]
    )
    assert follower.run().state == "COMPLETE"
    assert said == [("stdout", "a"), ("stdout", "b"), ("stderr", "E"), ("stdout", "c")]
    assert len(pauses) == 3


def test_one_executor_alone() -> None:
    follower, said, _ = followed([log(ExecutorLog(stdout="a"), ExecutorLog(stdout="b"), state="COMPLETE")], executor=1)
    follower.run()
    assert said == [("stdout", "b")]


def test_a_new_attempt_starts_from_the_beginning() -> None:
    follower, said, _ = followed(
        [
            log(ExecutorLog(stdout="hello")),
            log(ExecutorLog(stdout="he"), start="2024-01-01T01:00:00Z"),
            log(ExecutorLog(stdout="hello"), start="2024-01-01T01:00:00Z", state="COMPLETE"),
        ]
    )
    follower.run()
    assert said == [("stdout", "hello"), ("stdout", "he"), ("stdout", "llo")]


@pytest.mark.parametrize("long", ["", "x" * 3 * KEEP])
def test_an_attempt_whose_start_is_told_better_at_its_end_is_the_same(long: str) -> None:
    first, last = kept("hello " + long), kept("hello " + long + "world")
    follower, said, _ = followed([log(ExecutorLog(stdout=first)), log(ExecutorLog(stdout=last, stderr="E"), start="2024-01-01T00:00:01Z", state="COMPLETE")])
    follower.run()
    assert said == [("stdout", first), ("stdout", "world"), ("stderr", "E")]


def test_looks_grow_rare_and_come_back_with_news() -> None:
    quiet = [log(ExecutorLog(stdout="a"))] * 30
    follower, _, pauses = followed([*quiet, log(ExecutorLog(stdout="ab")), log(state="COMPLETE")])
    follower.run()
    assert pauses[29] == pytest.approx(3.0)
    assert pauses[30] < 0.2
    assert sorted(pauses[:30]) == pauses[:30]


def test_an_interrupted_run_goes_on_where_it_was() -> None:
    looks: Iterator[Task | BaseException] = iter([log(ExecutorLog(stdout="a")), KeyboardInterrupt(), log(ExecutorLog(stdout="ab"), state="CANCELED")])

    def look() -> Task:
        item = next(looks)
        if isinstance(item, BaseException):
            raise item
        return item

    said = []
    follower = follow.Follower(look, lambda _, text: said.append(text), said.append, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        follower.run()
    assert follower.run().state == "CANCELED"
    assert said == ["a", "b"]
