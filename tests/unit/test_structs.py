"""When msgspec looks at the fields of structs."""

from __future__ import annotations

import sys
import types
from typing import Any

import msgspec
import pytest

from tes_server import structs

MODULE = """
import msgspec

class Probed(msgspec.Struct):
    field: "looked_at()"
"""


def test_fields_are_looked_at_before_anybody_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def looked_at() -> type:
        looks.append(1)
        return int

    module: Any = types.ModuleType("tes_server.probed")
    module.looked_at = looked_at
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(MODULE, module.__dict__)
    assert looks == []
    structs.settle()
    assert looks == [1]
    structs.settle()
    assert msgspec.json.decode(b'{"field": 1}', type=module.Probed).field == 1
    assert looks == [1]
