"""backend_parameters: the words that mean the same on every platform, and the check of all others.

Keys are case-insensitive; unsupported ones give a warning and are not kept, or with backend_parameters_strict refuse
the task (TES 1.1, tesResources.backend_parameters).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from tes_server.errors import Invalid
from tes_server.model.task import Resources
from tes_server.plan.policy import Values
from tes_server.telemetry import Code, line

COMMON = ("backend", "gpus", "gpu_type", "max_runtime", "spot_attempts")
"""Listed in service-info; every backend takes them."""

SHOWN = 20
"""Unknown keys that a message names at most."""

POINTER = "/resources/backend_parameters"

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII)


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """backend_parameters read. `max_runtime` is in seconds, None = not given; `platform` are the backend's own keys."""

    backend: str = ""
    gpus: int = 0
    gpu_type: str = ""
    max_runtime: float | None = None
    spot_attempts: int | None = None
    platform: dict[str, str] = {}
    kept: dict[str, str] = {}
    """what is stored and returned, keys as the task wrote them"""
    warnings: tuple[str, ...] = ()


def lower_keys(resources: Resources | None) -> dict[str, str]:
    """The parameters by lower-case key. Raises Invalid where two keys differ only in case."""
    given = (resources.backend_parameters if resources else None) or {}
    lowered: dict[str, str] = {}
    for key, value in given.items():
        if key.lower() in lowered:
            raise Invalid(f"{key!r} is given twice; keys are case-insensitive", POINTER)
        lowered[key.lower()] = value
    return lowered


def read(resources: Resources | None, platform: Mapping[str, Values]) -> Parameters:
    """Check and sort the parameters of a task. `platform`: what the backend takes beside COMMON, by lower-case key. Raises Invalid."""
    if resources is None or not resources.backend_parameters:
        return _NONE
    lowered = lower_keys(resources)
    known = {*platform, *COMMON}
    unknown = sorted(set(lowered) - known)
    if unknown and resources.backend_parameters_strict:
        raise Invalid(f"{_quoted(unknown)} not supported here (backend_parameters_strict); supported: {', '.join(sorted(known))}", POINTER)
    return Parameters(
        backend=lowered.get("backend", ""),
        gpus=_count(lowered, "gpus") or 0,
        gpu_type=lowered.get("gpu_type", ""),
        max_runtime=duration(lowered["max_runtime"], f"{POINTER}/max_runtime") if "max_runtime" in lowered else None,
        spot_attempts=_count(lowered, "spot_attempts"),
        platform={key: _allowed(lowered[key], key, platform[key]) for key in sorted(platform.keys() & lowered.keys())},
        kept={key: value for key, value in resources.backend_parameters.items() if key.lower() in known},
        warnings=(line(Code.PARAMETER_UNKNOWN, f"backend_parameters {_quoted(unknown)} not supported here"),) if unknown else (),
    )


def duration(text: str, pointer: str) -> float:
    """Seconds of `90`, `90s`, `1.5s`, `10m`, `1h30m`, `2d`. Raises Invalid unless above 0."""
    match = _DURATION.fullmatch(text.strip().lower())
    days, hours, minutes, seconds = match.groups(default="0") if match else ("0",) * 4
    total = int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    # A datetime overflows near 10^11 seconds; ten years are longer than any task.
    if not 0 < total <= 10 * 366 * 86400:
        raise Invalid(f"must be a time like 90s, 10m, 1h30m or 2d, not {text[:40]!r}", pointer)
    return total


def _allowed(text: str, key: str, values: Values) -> str:
    if values.choices and text not in values.choices:
        raise Invalid(f"must be one of {', '.join(values.choices)}, not {text[:60]!r}", f"{POINTER}/{key}")
    if not re.fullmatch(values.pattern, text, re.ASCII | re.DOTALL):
        raise Invalid(f"cannot be {text[:60]!r}: it must match {values.pattern}", f"{POINTER}/{key}")
    return text


def _count(lowered: Mapping[str, str], key: str) -> int | None:
    if key not in lowered:
        return None
    text = lowered[key].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise Invalid(f"must be a whole number of 0 or more, not {text[:40]!r}", f"{POINTER}/{key}")
    return int(text)


def _quoted(keys: list[str]) -> str:
    """The keys in a sentence, however many and long they are."""
    names = ", ".join(repr(key[:60]) for key in keys[:SHOWN])
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{names}{more} {'is' if len(keys) == 1 else 'are'}"


_NONE = Parameters()
