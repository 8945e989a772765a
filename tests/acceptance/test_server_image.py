"""The server's image: what is in it, and as whom it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from tests import server_image
from tests.unit.test_requirements import pinned

pytestmark = pytest.mark.docker

LEAST = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
"""As the chart's pods."""

LOOK = """
set -e
id -u
find / -xdev -type f -perm /6000 2>/dev/null || true
for program in pip pip3 cc gcc; do test ! -x /opt/tes-server/bin/$program; done
tes-server --version
cat /opt/tes-server/sbom.cdx.json
"""


def test_what_is_in_it(docker_client: Any) -> None:
    uid, version, bill = server_image.run(*LEAST, "--entrypoint", "sh", server_image.find(), "-c", LOOK).split("\n", 2)
    assert uid == "10001"
    assert version.startswith("tes-server, version ")  # and no program with more rights than who starts it
    found: dict[str, str] = {canonicalize_name(each["name"]): each["version"] for each in json.loads(bill)["components"]}
    found.pop("tes-server", None)
    locked = pinned("image")
    assert len(found) > 50
    assert {name: made for name, made in found.items() if name not in locked or str(locked[name][0]) != made} == {}
    assert "/src" not in bill
