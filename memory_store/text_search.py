"""The words of a question against English text: which rows match, and how well.

For any table with `content` and its generated `content_tsv`, under the alias `m`.
Source: docs/reference/memory-plugin.md, Search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Match:
    """Two pieces of SQL over `m`, with the parameters of `parameters`."""

    where: str
    score: str | None = None  # 0 to 1, best first


EVERYTHING = Match("TRUE")
_QUERY = "websearch_to_tsquery('english', %(query)s)"
_ANY = """(SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery
           FROM unnest(to_tsvector('english', %(query)s)))"""
_SUBSTRING = Match("m.content ILIKE %(pattern)s")


def _ranked(query: str) -> Match:
    return Match(f"m.content_tsv @@ {query}", f"ts_rank_cd(m.content_tsv, {query}, 32)")


def attempts(query: str) -> tuple[Match, ...]:
    """What to try in turn until something is found: all words, the text as it stands, any word."""
    match len(query.strip()):
        case 0:
            return (EVERYTHING,)
        case 1:
            return (_SUBSTRING,)
        case _:
            return (_ranked(_QUERY), _SUBSTRING, _ranked(_ANY))


def parameters(query: str) -> dict[str, Any]:
    wanted = query.strip().replace("\x00", "")
    escaped = wanted.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return {"query": wanted, "pattern": f"%{escaped}%"}
