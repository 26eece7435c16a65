"""The secrets of one stack: made once, kept in files only we may read."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.folder import write_private


@dataclass(frozen=True)
class Secrets:
    """File names are the field names with dashes."""

    admin_token: str
    admin_password: str
    django_secret_key: str
    secrets_encryption_key: str  # base64 of 32 bytes
    instance_id: str  # 16 hex digits; marks this stack's compute
    postgres_superuser_password: str
    postgres_password: str
    valkey_password: str


def _token() -> str:
    return secrets.token_urlsafe(32)


def _password() -> str:
    return secrets.token_urlsafe(12)


# How each one is made, and the variable whose value is kept instead at the first start: an existing database
# can only be read with the key it was written with.
MADE: Mapping[str, tuple[Callable[[], str], str]] = {
    "admin_token": (_token, "ADMIN_TOKEN"),
    "admin_password": (_password, "DJANGO_SUPERUSER_PASSWORD"),
    "django_secret_key": (lambda: secrets.token_urlsafe(48), "DJANGO_SECRET_KEY"),
    "secrets_encryption_key": (
        lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
        "SECRETS_ENCRYPTION_KEY",
    ),
    "instance_id": (lambda: secrets.token_hex(8), "MOLECULE_INSTANCE_ID"),
    "postgres_superuser_password": (_token, ""),
    "postgres_password": (_token, ""),
    "valkey_password": (_token, ""),
}


def load(folder: Path, environment: Mapping[str, str] = os.environ) -> Secrets:
    """Read the secrets in `folder`; make and keep those that are not there."""
    return Secrets(**{name: _keep(folder, name, environment) for name in MADE})


def _keep(folder: Path, name: str, environment: Mapping[str, str]) -> str:
    path = folder / name.replace("_", "-")
    make, variable = MADE[name]
    if not path.exists():
        write_private(path, environment.get(variable, "").strip() or make())
    return path.read_text().strip()
