"""Text that leaves the server in a live frame: without credentials,
without what the database cannot store.
"""

from __future__ import annotations

import re
from typing import Any

_SECRETS = re.compile(
    r"(?i)((?:bearer|token|api[ _-]?key)[\"'\s:=]+)[A-Za-z0-9_\-.~+/]{12,}=*"
    r"|\b(sk-)[A-Za-z0-9_\-]{8,}"
    r"|\beyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]+"
)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def scrubbed(text: str, *, limit: int = 4096) -> str:
    """Long values after bearer, token, API key or `sk-`, and bare JWTs become `[REDACTED]`;
    cut to `limit` characters.
    """
    return _SECRETS.sub(lambda match: f"{match[1] or match[2] or ''}[REDACTED]", text)[:limit]


def storable(value: Any) -> Any:
    """The value with NUL and lone surrogates replaced: PostgreSQL stores neither, and a lost row is worse."""
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value.replace("\x00", "\ufffd"))
        case dict():
            return {storable(str(key)): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
    return value


# Texts that people or agents hand over to be kept: each match becomes `[REDACTED:<label>]`. In this order, so
# that an assignment or a URL goes as a whole before a part of it is recognised. No pattern may take more than
# linear time on any text.
_WORD = r"(?<![A-Za-z0-9_])"
_KEY_BODY = r"(?:(?!-----BEGIN ).)*?"
_CREDENTIALS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (label, re.compile(pattern, re.ASCII | re.DOTALL))
    for label, pattern in (
        ("API_KEY", rf"(?i){_WORD}\w*_API_KEY[ \t]*=[ \t]*\S+"),
        ("TOKEN", rf"(?i){_WORD}\w*_TOKEN[ \t]*=[ \t]*\S+"),
        ("SECRET", rf"(?i){_WORD}\w*_SECRET[ \t]*=[ \t]*\S+"),
        ("BEARER_TOKEN", rf"(?i){_WORD}Bearer[ \t]+\S+"),
        (
            "OPENSSH_PRIVATE_KEY",
            rf"-----BEGIN OPENSSH PRIVATE KEY-----{_KEY_BODY}-----END OPENSSH PRIVATE KEY-----",
        ),
        ("PRIVATE_KEY", rf"-----BEGIN [A-Z0-9 ]{{0,32}}PRIVATE KEY-----{_KEY_BODY}PRIVATE KEY-----"),
        (
            "DB_URL_WITH_CREDENTIALS",
            r"(?:postgres(?:ql)?|mysql|mongodb(?:\+srv)?|rediss?|amqps?)://"
            r"[^\s:/@]{0,256}:[^\s@]{1,512}@[^\s/?#\"']+",
        ),
        ("GITHUB_PAT", rf"{_WORD}ghp_[A-Za-z0-9]{{16,}}"),
        ("GITHUB_OAUTH", rf"{_WORD}gho_[A-Za-z0-9]{{16,}}"),
        ("GITHUB_APP_SERVER_TOKEN", rf"{_WORD}ghs_[A-Za-z0-9]{{16,}}"),
        ("GITHUB_USER_TOKEN", rf"{_WORD}ghu_[A-Za-z0-9]{{16,}}"),
        ("GITHUB_REFRESH_TOKEN", rf"{_WORD}ghr_[A-Za-z0-9]{{16,}}"),
        ("GITHUB_FINEGRAINED_PAT", rf"{_WORD}github_pat_\w{{16,}}"),
        ("VERCEL_TOKEN", rf"{_WORD}vc_[A-Za-z0-9]{{16,}}"),
        ("AWS_ACCESS_KEY_ID", rf"{_WORD}AKIA[A-Z0-9]{{16}}"),
        ("PERPLEXITY_API_KEY", rf"{_WORD}pplx-[A-Za-z0-9]{{20,}}"),
        ("SK_TOKEN", rf"{_WORD}sk-[A-Za-z0-9_-]{{16,}}"),
        ("CTX7_TOKEN", rf"{_WORD}ctx7_[A-Za-z0-9]+"),
    )
)
_BLOB = re.compile(r"[A-Za-z0-9+/]{33,}={0,2}")
_BLOB_SEGMENT_CHARS = 33


def redacted(text: str) -> tuple[str, frozenset[str]]:
    """The text without what looks like a credential, and the labels of what was found. Idempotent."""
    found: set[str] = set()
    for label, pattern in _CREDENTIALS:
        text, count = pattern.subn(f"[REDACTED:{label}]", text)
        if count:
            found.add(label)

    def hide(match: re.Match[str]) -> str:
        if _is_path_or_word(match[0]):
            return match[0]
        found.add("BASE64_BLOB")
        return "[REDACTED:BASE64_BLOB]"

    return _BLOB.sub(hide, text), frozenset(found)


def _is_path_or_word(run: str) -> bool:
    """Long file paths and identifiers look like base64, and must stay readable."""
    if not any(char.isdigit() or char in "+=" for char in run):
        return True
    segments = run.split("/")
    is_path = len(segments) > 1 and "+" not in run and "=" not in run
    return is_path and all(len(one) < _BLOB_SEGMENT_CHARS for one in segments)
