"""Which names a secret may have, how large its value may be. Source: docs/reference/access.md, Secrets."""

from __future__ import annotations

import re

MAX_VALUE_BYTES = 64 * 1024
KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# What the server itself gives an agent, or what would change how its programs are found and started.
RESERVED_KEYS = frozenset(
    {
        "WORKSPACE_ID",
        "PLATFORM_URL",
        "ADMIN_TOKEN",
        "SECRETS_ENCRYPTION_KEY",
        "SECRETS_ENCRYPTION_KEYS",
        "DATABASE_URL",
        "REDIS_URL",
        "MOLECULE_ORG_ID",
        "PATH",
        "HOME",
        "PYTHONPATH",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "AUDIT_LEDGER_SALT",
    }
)
