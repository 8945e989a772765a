"""The scanners that there are, and the only list of them. Pure. This module must never know what one of them does."""

from __future__ import annotations

from tes_server.scan.base import Scanner
from tes_server.scan.grype import Grype
from tes_server.scan.prisma import Prisma
from tes_server.scan.trivy import Trivy
from tes_server.scan.twistcli import Twistcli

SCANNERS: dict[str, Scanner] = {scanner.name: scanner for scanner in (Trivy(), Twistcli(), Prisma(), Grype())}
"""By the name that settings and plans call them."""
