"""The time, for tests that need a real one."""

from __future__ import annotations

import datetime


def utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
