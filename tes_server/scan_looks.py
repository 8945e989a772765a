"""What the settings of image scans say and hardly can mean: `serve` warns of it, and `doctor` tells it. Pure: the day is an argument.

What cannot work at all is refused by `scan_checks`. This module must never refuse anything: a server must start on the day after, too.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from tes_server import scan_checks, scan_rules
from tes_server.plan import secret_names
from tes_server.scan import patterns
from tes_server.settings import Settings

ANYWHERE = ("docker.io/library/debian", "registry.example/a/b", "127.0.0.1:5000/c")
"""Images of registries that no pattern holds for all of but one for all there are."""

LOGIN = ("TWISTLOCK_USER", "TWISTLOCK_PASSWORD")
"""Variables by which scanners sign in to a Console."""


def doubts(settings: Settings, today: datetime.date) -> Iterator[tuple[str, str]]:
    """Key and words of each. Nothing where nothing is scanned."""
    if not scan_rules.enabled(settings):
        return
    scan = settings.scan
    means = {"exempt": "no image is scanned", "policy.deny": "no image may run", "policy.allow": "images of all registries are taken, as without it"}
    for key, named in (("exempt", scan.exempt), ("policy.deny", scan.policy.deny), ("policy.allow", scan.policy.allow)):
        for number, pattern in enumerate(named):
            if all(patterns.matches(pattern, image) for image in ANYWHERE):
                yield f"scan.{key}[{number}]", f"{pattern!r} holds for every image: {means[key]}"
    for number, one in enumerate(scan.policy.ignore):
        if one.expires < today:
            yield f"scan.policy.ignore[{number}].expires", f"was {one.expires}: {one.id} counts again"
        elif one.id == "*" and one.package in ("", "*") and not one.image:
            yield f"scan.policy.ignore[{number}].id", f"accepts all findings in all images until {one.expires}"
    if not scan.policy.severities:
        yield "scan.policy.severities", "is empty: findings of all severities are taken"
    missing = [name for name in LOGIN if not scan.env.get(name)]
    if scan.scanner in scan_checks.CONSOLES and missing:
        yield "scan.env", f"has no {' and no '.join(missing)}, by which {scan.scanner} signs in to its Console"
    for key in scan.backends:
        if key not in (there := scan_rules.places(settings)):
            yield f"scan.backends.{key}", f"is no place for tasks here; there is {', '.join(there)}"


def asked(settings: Settings) -> tuple[str, ...]:
    """The variables by which scanners are given secrets."""
    return tuple(name for name, value in settings.scan.env.items() if secret_names.read(value) is not None)
