"""Names of workspaces: what they may hold, how a taken one is varied, how they read in a configuration."""

from __future__ import annotations

import re
import unicodedata
from uuid import UUID

NAME_CHARS = 255
ROLE_CHARS = 1000
SLUG_CHARS = 24
FORBIDDEN_CHARS = frozenset("{}[]>*&!|")
# `/run` is what `/var/run` points to on most hosts: the sockets of the engine and of the system.
_BLOCKED_FOLDERS = ("/etc", "/var", "/run", "/proc", "/sys", "/dev", "/boot", "/sbin", "/bin", "/lib", "/usr")


def problem(text: str, field: str, limit: int) -> str | None:
    """What is wrong with a display text, in the words of the API; None when it is fine."""
    if len(text) > limit:
        return f"{field} must be at most {limit} characters"
    if "\n" in text or "\r" in text:
        return f"{field} must not contain newline characters"
    if FORBIDDEN_CHARS & set(text) or "\x00" in text:
        return f"{field} contains invalid characters"
    return None


def numbered(name: str, number: int) -> str:
    """`name (2)`, `name (3)`…, shortened so that the result fits."""
    if number == 1:
        return name
    suffix = f" ({number})"
    return name[: NAME_CHARS - len(suffix)] + suffix


def is_usable_folder(path: str) -> bool:
    """An absolute host folder outside the system's own, without `..`."""
    if not path.startswith("/") or ".." in path.split("/") or "\x00" in path:
        return False
    plain = re.sub(r"/+", "/", path).rstrip("/") or "/"
    return plain != "/" and not any(plain == one or plain.startswith(one + "/") for one in _BLOCKED_FOLDERS)


def is_template_name(name: str) -> bool:
    """A folder name inside the catalogue: no path, no escape, not hidden.

    It may begin with a hyphen, so it never stands alone on a command line.
    """
    return bool(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name)) and ".." not in name


def is_plugin_name(name: str) -> bool:
    """A template's, that begins like a word."""
    return is_template_name(name) and name[0] not in "-_"


def server_name(name: str, workspace_id: UUID) -> str:
    """What a workspace is called in the configuration of an MCP client: `molecule-<slug>`,
    so that a second one does not replace the first.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_CHARS].strip("-")
    return f"molecule-{slug or str(workspace_id)[:8]}"
