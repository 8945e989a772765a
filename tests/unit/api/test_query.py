"""Query parameters: coerced, checked, remembered."""

from __future__ import annotations

import msgspec
import pytest
from starlette.types import ASGIApp

from tes_server.api import query
from tes_server.control.service import ListRequest
from tes_server.model.record import View
from tes_server.model.states import State
from tests.unit.api import asgi
from tests.unit.api.service import MemoryService


@pytest.mark.parametrize(
    ("text", "parameter", "sentence"),
    [
        ("page_size=0", "page_size", "expected 1 or more, got 0"),
        ("page_size=-1", "page_size", "expected 1 or more, got -1"),
        ("page_size=2048", "page_size", "expected 2047 or less, got 2048"),
        ("page_size=" + "9" * 60, "page_size", f"expected 2047 or less, got {'9' * 40}..."),
        ("page_size=" + "9" * 5000, "page_size", f'expected an integer, got the text "{"9" * 40}..."'),
        ("page_size=abc", "page_size", 'expected an integer, got the text "abc"'),
        ("page_size=1.5", "page_size", 'expected an integer, got the text "1.5"'),
        ("page_size=", "page_size", 'expected an integer, got the text ""'),
        ("page_size=2&page_size=x", "page_size", 'expected an integer, got the text "x"'),
        ("view=full", "view", 'expected one of MINIMAL, BASIC, FULL, got the text "full"'),
        ("view=", "view", 'expected one of MINIMAL, BASIC, FULL, got the text ""'),
        (
            "state=DONE",
            "state",
            f'expected one of {", ".join(State)}, got the text "DONE"',
        ),
        ("page_token=nonsense", "page_token", "is not a page_token of this server"),
        ("tag_value=a", "tag_value", "has more entries than tag_key"),
    ],
)
def test_a_bad_parameter_is_named_and_no_schema_shown(app: ASGIApp, text: str, parameter: str, sentence: str) -> None:
    answer = asgi.get(app, f"/v1/tasks?{text}")
    assert answer.status == 400
    assert answer.json == {"status": 400, "title": "Bad Request", "detail": sentence, "parameter": parameter}


def test_a_bad_view_of_one_task(app: ASGIApp, task_id: str) -> None:
    assert asgi.get(app, f"/v1/tasks/{task_id}?view=ALL").json["parameter"] == "view"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ListRequest()),
        ("view=BASIC&page_size=2047&state=QUEUED", ListRequest(view=View.BASIC, page_size=2047, state=State.QUEUED)),
        ("page_size=1&view=FULL&view=MINIMAL", ListRequest(page_size=1)),
        ("name_prefix=a%2Cb%20c+d%25", ListRequest(name_prefix="a,b c d%")),
        ("name_prefix=%C3%A9%F0%9F%98%80", ListRequest(name_prefix="é😀")),
        ("tag_key=a", ListRequest(tag_key=("a",))),
        ("tag_key=a&tag_value=1,2&tag_key=b&tag_value=", ListRequest(tag_key=("a", "b"), tag_value=("1,2", ""))),
        ("tag_key=a,b&tag_value=x|y", ListRequest(tag_key=("a,b",), tag_value=("x|y",))),
        ("unknown=1&tag_key[]=x&state[a]=b&=", ListRequest()),
        ("page_token=&name_prefix=", ListRequest()),
        ("name_prefix=null", ListRequest(name_prefix="null")),
    ],
)
def test_parameters_reach_the_service(app: ASGIApp, service: MemoryService, text: str, expected: ListRequest) -> None:
    assert asgi.get(app, f"/v1/tasks?{text}").status == 200
    assert service.lists == [expected]


@pytest.mark.parametrize("text", ["%", "%zz", "&&&", "=&=", "%FF=%FF", "a" * 60_000, "tag_key=" * 3_000, "name_prefix=é"])
def test_odd_query_strings_do_no_harm(app: ASGIApp, text: str) -> None:
    assert asgi.get(app, f"/v1/tasks?{text}").status == 200


def test_a_query_string_is_parsed_once_and_a_long_one_is_not_kept() -> None:
    class Operation:
        parameters = [{"name": "name_prefix", "in": "query", "schema": {"type": "string"}}]  # noqa: RUF012
        uri_parser_class = query.URIParser

    parser = query.Query(Operation())
    short, long = b"name_prefix=a", b"name_prefix=" + b"a" * query.LONGEST_REMEMBERED
    assert parser.parse(short) is parser.parse(short)
    assert parser.parse(long) == parser.parse(long)
    assert parser.parse(long) is not parser.parse(long)
    with pytest.raises(TypeError):
        parser.parse(short)["name_prefix"] = "b"  # type: ignore[index]
    assert msgspec.convert(parser.parse(short), ListRequest).name_prefix == "a"
