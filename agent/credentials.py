"""The two secrets of an agent: its bearer token, and the secret the control plane presents to it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from agent.files import write_private

log = logging.getLogger("agent")

TOKEN_FILE = ".auth_token"
INBOUND_SECRET_FILE = ".platform_inbound_secret"
SECRET_LIMIT = 4096  # characters


def checked_secret(text: str) -> str:
    """`text` without surrounding space; empty stays empty.

    Raises ValueError, without the text, for what cannot be sent in a header: the HTTP client of the standard
    library would otherwise raise an error that quotes the whole value.
    """
    secret = text.strip()
    if len(secret) > SECRET_LIMIT or not all("!" <= character <= "~" for character in secret):
        raise ValueError("the secret holds spaces, line breaks or other characters no HTTP header can carry")
    return secret


class Secret:
    """One secret, kept in memory and, when it has a `path`, in a file that somebody else may replace."""

    def __init__(self, value: str = "", path: Path | None = None) -> None:
        self._value = checked_secret(value)
        self._path = path
        self._lock = threading.Lock()
        self._unsaved = False

    def read(self) -> str:
        """The current value, "" when there is none. A replaced file counts from the next call on."""
        with self._lock:
            if self._path is not None and not self._unsaved:
                try:
                    self._value = checked_secret(self._path.read_text(encoding="utf-8"))
                except FileNotFoundError:
                    pass
                except (OSError, ValueError):
                    log.warning("%s cannot be read as a secret; the last known value stays", self._path)
            return self._value

    def replace(self, value: str) -> bool:
        """Store a value the control plane handed over. False when it is the one already held."""
        secret = checked_secret(value)
        if not secret or secret == self.read():
            return False
        with self._lock:
            self._value, self._unsaved = secret, False
            if self._path is not None:
                try:
                    write_private(self._path, secret)
                except OSError as error:
                    self._unsaved = True  # a full or read-only disk must not cost the agent its identity
                    log.error(
                        "%s cannot be written (%s); the new value is kept in memory",
                        self._path,
                        error.strerror,
                    )
        return True


class Credentials:
    """Both secrets of one agent. `directory` None: nothing is written, whoever started it keeps them."""

    def __init__(self, directory: Path | None = None, token: str = "") -> None:
        self.keeps_token = directory is None and bool(token)
        self.token = Secret(token, directory / TOKEN_FILE if directory else None)
        self.inbound_secret = Secret("", directory / INBOUND_SECRET_FILE if directory else None)

    def accept(self, answer: Any) -> None:
        """Take over what a register or heartbeat answer (a JSON object) hands over."""
        if not isinstance(answer, dict):
            return
        if not self.keeps_token:  # a token given by hand stays: a new one would be lost with the process
            _take(self.token, answer.get("auth_token"), "auth token")
        _take(self.inbound_secret, answer.get("platform_inbound_secret"), "inbound secret")


def _take(secret: Secret, value: Any, name: str) -> None:
    if not isinstance(value, str) or not value:
        return
    try:
        if secret.replace(value):
            log.info("stored a new %s", name)
    except ValueError:
        log.error("the control plane sent an unusable %s; the last known value stays", name)
