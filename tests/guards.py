"""What tests open of the guard: their servers are on this machine, which sites do not let transfers reach."""

from __future__ import annotations

from tes_server.plan.guard import Guard

LOOPBACK = Guard(allow=("127.0.0.0/8", "::1"))
