"""What msgspec knows of our structs is complete before threads use it.

It looks at a struct's fields when the struct is first decoded, and is not safe there: two threads that do so at once end the process
(SIGSEGV in msgspec 0.22, seen as a reconciler that died while its watches began). Must never name a struct.
"""

from __future__ import annotations

import contextlib

import msgspec


def settle() -> None:
    """Have the fields of all structs of this package looked at that are imported by now: for whoever is about to start threads."""
    left: list[type] = [msgspec.Struct]
    while left:
        known: list[type] = left.pop().__subclasses__()
        for kind in known:
            left.append(kind)
            if kind.__module__.startswith("tes_server."):
                with contextlib.suppress(TypeError, NameError):  # one that is only written
                    msgspec.json.Decoder(kind)
