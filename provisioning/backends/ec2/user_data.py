"""What a machine runs when it boots: a fixed script, and above it the few values of this start.

The only secret in it is the boot token. Source: docs/reference/ec2.md, Boot.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from provisioning.backends.base import BackendError, ErrorClass, StartSpec
from provisioning.backends.ec2.options import Ec2Options

MAX_BYTES = 16_384  # EC2's limit
SCRIPT = Path(__file__).with_name("boot.sh").read_text()


def user_data(spec: StartSpec, options: Ec2Options) -> str:
    """Assignments in front of the script, each quoted for the shell: no value can be read as code.

    Raises BackendError.
    """
    values = {
        "WORKSPACE_ID": str(spec.workspace_id),
        "PLATFORM_URL": options.platform_url,
        "ORG_ID": options.org_id,
        "BOOT_TOKEN": spec.boot_token or "",
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    text = f"#!/bin/bash\n{head}\n{SCRIPT}"
    if len(text.encode()) > MAX_BYTES:
        raise BackendError(
            ErrorClass.CONFIG,
            "EC2 is not configured correctly on this server; ask an administrator",
            detail=f"user-data of {len(text.encode())} bytes; is PLATFORM_URL that long?",
        )
    return text
