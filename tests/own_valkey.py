"""Loaded before the settings: of test processes that run side by side, each talks to a Valkey of its own.

Channels and a flush would reach the tests of others. PostgreSQL needs nothing: there each has a database.
"""

from __future__ import annotations

import os

_addresses = os.environ.get("TEST_REDIS_URLS", "").split()
_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
if len(_addresses) > _number:
    os.environ["REDIS_URL"] = _addresses[_number]
elif _number:
    raise SystemExit(
        f"test process {_number} has no Valkey of its own; use at most {len(_addresses)} processes"
    )
