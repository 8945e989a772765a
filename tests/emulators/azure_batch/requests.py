"""What operations take and give, and the checks that many of them make."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.emulators.azure_batch import odata
from tests.emulators.azure_batch.protocol import BatchError, Json, invalid
from tests.emulators.azure_batch.records import Record

NAME = re.compile("[A-Za-z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True)
class Request:
    """`path`: what stands for the braces of the route; `query`: without its escapes; headers by their names in lower case."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Json
    url: str
    """without its query"""


class Reply(NamedTuple):
    """JSON, bytes, or nothing; its status is the route's unless given."""

    body: Json | bytes | None = None
    headers: Mapping[str, str] = {}
    status: int = 0


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise invalid("id", name, "an id has 1 to 64 letters, digits, hyphens and underscores")
    return name


def check_range(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise invalid(name, value, f"must be between {least} and {most}")
    return value


def check_environment(entries: Iterable[Json]) -> None:
    for entry in entries:
        if entry["name"].upper().startswith("AZ_BATCH"):
            raise invalid("environmentSettings", entry["name"], "names that begin with AZ_BATCH are reserved")


def check_conditions(request: Request, record: Record) -> None:
    """If-Match and If-None-Match. BatchError 412 or 304."""
    wanted, other = request.headers.get("if-match"), request.headers.get("if-none-match")
    words = "The condition specified in the conditional header(s) was not met for a {} operation."
    if wanted not in (None, "*") and str(wanted).strip('"') != record.etag:
        raise BatchError("ConditionNotMet", 412, words.format("write"))
    if other is not None and (other == "*" or other.strip('"') == record.etag):
        raise BatchError("ConditionNotMet", 304, words.format("read"))


def created(record: Record) -> Reply:
    return Reply(None, {"DataServiceId": record.url, "Location": record.url, **tagged(record)})


def tagged(record: Record) -> dict[str, str]:
    return {"ETag": record.etag, "Last-Modified": f"{record.modified:%a, %d %b %Y %H:%M:%S GMT}"}


def one(request: Request, record: Record, told: Json, kind: str) -> Reply:
    """A resource, or what $select names of it."""
    check_conditions(request, record)
    return Reply(odata.select(told, request.query.get("$select", ""), kind), tagged(record))


def listed(request: Request, items: Iterable[Json], kind: str, *, key: str = "id", most: int = 1000) -> Reply:
    """A page."""
    shown, token = odata.page(items, request.query, kind, key=key, most=most)
    answer: Json = {"odata.metadata": f"{request.url}#{kind}", "value": shown}
    if token:
        answer["odata.nextLink"] = f"{request.url}?{urllib.parse.urlencode({**request.query, '$skiptoken': token})}"
    return Reply(answer)
