"""Records as documents: what lies where, how large it may be, and what is done with documents of other versions."""

from __future__ import annotations

import datetime
from typing import Any

import bson
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tes_server import errors
from tes_server.model import record as model
from tes_server.model import task
from tes_server.store import mongo_documents as documents
from tes_server.store import parts
from tests.contract.store_contract import NOW, a_change, a_record, a_task

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def bodies(new: documents.New) -> dict[str, bytes]:
    return {piece["_id"]: piece["body"] for piece in new.pieces}


@given(st.integers(0, 10**17 - 1).map(parts.moment), TEXT)
def test_positions_lead_back(created: datetime.datetime, task_id: str) -> None:
    assert documents.place(documents.position(created, task_id)) == (created, task_id)


@given(st.tuples(st.integers(0, 10), st.sampled_from(["a", "aa", "b", "0"])), st.tuples(st.integers(0, 10), st.sampled_from(["a", "aa", "b", "0"])))
def test_positions_sort_as_created_and_id_do(one: tuple[int, str], other: tuple[int, str]) -> None:
    def at(late: int, task_id: str) -> str:
        return documents.position(NOW + late * datetime.timedelta(microseconds=1), task_id)

    assert (at(*one) < at(*other)) == (one < other)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_quoted_prefix_stays_a_prefix_and_means_nothing_special(one: bytes, other: bytes) -> None:
    assert documents.quoted(one).startswith(documents.quoted(other)) == one.startswith(other)
    assert all(" " <= character < "\x7f" for character in documents.quoted(one))
    assert "$" not in documents.quoted(one)
    assert (documents.term(one, b"v") == documents.term(other, b"v")) == (one == other)


def test_a_small_task_is_one_document() -> None:
    whole = a_record(
        "a",
        task=a_task(tags={"a.b": "$c", "": ""}, inputs=tuple(task.Input(path=f"/work/{number}.txt", content="é" * 60) for number in range(10))),
        detail=model.Detail(("x",)),
    )
    new = documents.new(whole)
    assert new.pieces == ()
    assert new.document["tags"] == ["=", "a.b=", "a.b=%24c"]
    assert documents.record_of(new.document, parts.PARTS, {}) == whole


@pytest.mark.parametrize(("content", "apart"), [(2000, []), (4060, ["contents"]), (5000, ["contents"])])
def test_task_and_contents_share_their_room(content: int, apart: list[str]) -> None:
    new = documents.new(a_record("a", task=a_task(inputs=(task.Input(path="/a", content="x" * content),))))
    assert [piece["_id"].split("/")[2] for piece in new.pieces] == apart
    assert len(bson.encode(new.document)) < 700 + (0 if apart else content)


def test_a_large_task_lies_apart_and_no_save_is_charged_for_it() -> None:
    new = documents.new(a_record("a", task=a_task(description="x" * documents.INLINE_BYTES)))
    assert [piece["_id"] for piece in new.pieces] == [f"a/{new.document['token']}/task/0"]
    assert len(bson.encode(new.document)) < 700


def test_parts_are_cut_into_pieces_below_the_limit_of_cosmos_db() -> None:
    whole = a_record(
        "a", task=a_task(inputs=(task.Input(path="/a", content="é" * 2_500_000),)), logs=model.Logs(), detail=model.Detail(streams=(("x" * 2_000_000, ""),))
    )
    new = documents.new(whole)
    assert max(len(bson.encode(document)) for document in (new.document, *new.pieces)) < 2_000_000
    assert len(new.pieces) == 4 + 2
    assert documents.record_of(new.document, parts.PARTS, bodies(new)) == whole
    assert documents.size(new.document, parts.PARTS) == sum(map(len, bodies(new).values())) + sum(len(new.document["parts"][part]) for part in ("task", "logs"))


def test_what_no_store_can_hold_is_too_large_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_PIECES", 1)
    with pytest.raises(errors.TooLarge) as caught:
        documents.new(a_record("a", task=a_task(inputs=(task.Input(path="/a", content="x" * 1_600_000),))))
    assert caught.value.pointer == "/inputs"
    with pytest.raises(errors.TooLarge) as caught:
        documents.new(a_record("a", task=a_task(tags={f"{number}": "x" * 60 for number in range(20_000)})))
    assert caught.value.pointer == "/tags"


def test_a_save_touches_what_changes_and_nothing_else() -> None:
    change, pieces = documents.update(a_change(a_record("a"), lane=None, due=None), "m")
    assert pieces == []
    assert change["$set"].keys() == {"state", "canceling", "status", "write", "revision"}
    assert change["$unset"].keys() == {"lane", "due", "place"}
    change, pieces = documents.update(a_change(a_record("a"), detail=model.Detail(("x" * 5000,)), logs=model.Logs()), "m")
    assert change["$set"]["parts.detail"][:2] == ["m", 1]
    assert change["$set"]["parts.logs"] == "{}"
    assert [piece["_id"] for piece in pieces] == ["a/m/detail/0"]


def test_an_older_document_is_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    new = documents.new(a_record("a"))
    old = {**{name: value for name, value in new.document.items() if name != "canceling"}, "v": 1, "cancelled": "yes"}
    steps = {1: lambda it: {**it, "v": 2, "canceling": it["cancelled"] == "yes"}, 2: lambda it: {**it, "v": 3}}
    monkeypatch.setattr(documents, "VERSION", 3)
    monkeypatch.setattr(documents, "UPGRADES", steps)
    assert documents.record_of(documents.current(old), ("task",), bodies(new)).canceling


@pytest.mark.parametrize("version", [documents.VERSION + 1, 0, None, "1"])
def test_a_document_of_another_version_is_left_alone(version: Any) -> None:
    with pytest.raises(documents.Unreadable, match="newer" if version == documents.VERSION + 1 else "version"):
        documents.current({**documents.new(a_record("a")).document, "v": version})


@pytest.mark.parametrize(
    "edited",
    [
        {"state": "GONE"},
        {"at": "yesterday"},
        {"status": "{"},
        {"status": 7},
        {"parts": "x"},
        {"parts": {"task": []}},
        {"parts": None},
        {"parts": {"task": ["t", 10**12, 2]}},
        {"parts": {"task": ["t", 1, 2]}},
        {"parts": {"detail": "[]"}},
        {"lane": "FAST"},
        {"due": "now"},
        {"due": 10**30},
        {"revision": None, "canceling": None, "owner": None, "state": None},
    ],
    ids=str,
)
def test_a_document_that_makes_no_sense_is_unreadable_and_nothing_worse(edited: dict[str, Any]) -> None:
    new = documents.new(a_record("a"))
    with pytest.raises(documents.Unreadable):
        documents.record_of(documents.current({**new.document, **edited}), parts.PARTS, bodies(new))


def test_a_missing_field_is_unreadable() -> None:
    new = documents.new(a_record("a"))
    for name in ("state", "at", "status", "owner", "revision", "canceling"):
        with pytest.raises(documents.Unreadable):
            documents.record_of({key: value for key, value in new.document.items() if key != name}, (), {})
    assert documents.brief_of(new.document) == model.Brief(id="a", state=a_record("a").state)
    assert msgspec.structs.replace(documents.record_of(new.document, (), {}), task=a_record("a").task) == a_record("a")
