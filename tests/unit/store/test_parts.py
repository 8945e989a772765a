"""The parts of records: exact times, terms that cannot be mistaken, contents cut out and put back."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from tes_server.model import task
from tes_server.store import parts

MOMENTS = st.datetimes(timezones=st.just(datetime.UTC))


@given(MOMENTS)
def test_times_are_exact(moment: datetime.datetime) -> None:
    assert parts.moment(parts.microseconds(moment)) == moment


@given(MOMENTS, MOMENTS)
def test_times_keep_their_order(one: datetime.datetime, other: datetime.datetime) -> None:
    assert (parts.microseconds(one) < parts.microseconds(other)) == (one < other)


@given(st.text(max_size=200), st.text(max_size=200))
def test_terms_are_equal_where_texts_are(one: str, other: str) -> None:
    assert (parts.term(one) == parts.term(other)) == (one == other)


def test_terms_are_short_and_a_hash_is_no_plain_text() -> None:
    long = "x" * 1_000_000
    term = parts.term(long)
    assert len(term) == parts.TERM_BYTES + 1
    assert parts.term(term.decode("latin-1")) != term
    assert parts.term("x" * parts.TERM_BYTES) == b"x" * parts.TERM_BYTES
    assert parts.term("\ud800")  # a query may hold what no task can


def test_each_tag_is_found_by_value_and_by_any() -> None:
    assert parts.terms({"a": "b", "c": ""}) == {(b"a", b"b"), (b"a", b""), (b"c", b"")}


@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=5))
def test_contents_are_cut_and_put_back(contents: list[str | None]) -> None:
    inputs = tuple(task.Input(path=f"/{number}", content=each) for number, each in enumerate(contents))
    whole = task.Task(executors=(), inputs=inputs or None)
    bare, cut = parts.cut(whole)
    assert all(each.content is None for each in bare.inputs or ())
    assert (parts.joined(bare, cut) if cut else bare) == whole
