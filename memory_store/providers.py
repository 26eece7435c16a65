"""Who makes vectors of texts. Source: docs/reference/memory.md, Vectors.

Only texts without credentials come here: they are redacted before they are stored.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import orjson
import urllib3

from config.embedding import LOCAL_DIM, Embedding

Vector = list[float]
ANSWER_BYTES = 64 * 1024 * 1024


class NoVector(Exception):
    """The provider could not do it. `is_final`: not with these texts, however often."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Provider(Protocol):
    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """One vector of the chosen length for each text, in order. Raises NoVector."""


class HttpProvider:
    """An endpoint of OpenAI's form: `{"model","input":[…]}` -> `{"data":[{"index","embedding"}]}`."""

    def __init__(self, chosen: Embedding) -> None:
        self._chosen = chosen
        self._pool = urllib3.PoolManager(maxsize=4, retries=False)

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        headers = {"Content-Type": "application/json"}
        if self._chosen.api_key:
            headers["Authorization"] = f"Bearer {self._chosen.api_key}"
        try:
            answer = self._pool.request(
                "POST",
                self._chosen.url,
                body=orjson.dumps({"model": self._chosen.model, "input": list(texts)}),
                headers=headers,
                timeout=urllib3.Timeout(total=self._chosen.timeout_s),
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NoVector(type(error).__name__) from error
        if answer.status != 200:
            raise NoVector(f"status {answer.status}", is_final=answer.status in {400, 413, 422})
        try:
            data = sorted(orjson.loads(answer.data)["data"], key=lambda one: one["index"])
            vectors = [one["embedding"] for one in data]
        except (ValueError, TypeError, KeyError):
            raise NoVector("an answer that cannot be read") from None
        return _checked(vectors, len(texts), self._chosen.dim)


class LocalProvider:
    """A small model whose weights come with its package; nothing is ever downloaded."""

    def __init__(self, chosen: Embedding) -> None:
        self._dim = chosen.dim
        self._model: Any = None
        self._loading = threading.Lock()

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        vectors = self._loaded().embed(list(texts), norm=True)
        return _checked(vectors.tolist(), len(texts), self._dim)

    def _loaded(self) -> Any:
        with self._loading:
            if self._model is None:
                import wordllama  # an extra: only whoever asks for it has it, and only now is it read

                folder = Path(wordllama.__file__).parent
                self._model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
            return self._model


@lru_cache(maxsize=4)
def provider_of(chosen: Embedding) -> Provider:
    """Raises NoVector for a choice that cannot work, in words for an operator."""
    if chosen.provider == "http":
        if not chosen.url:
            raise NoVector("MEMORY_EMBEDDING_PROVIDER=http, but MEMORY_EMBEDDING_URL is not set")
        return HttpProvider(chosen)
    if chosen.dim != LOCAL_DIM:
        reason = f"MEMORY_EMBEDDING_DIM={chosen.dim}, but the local model gives {LOCAL_DIM}"
        raise NoVector(reason)
    local = LocalProvider(chosen)
    try:
        local.embed(["ready"])
    except ImportError:
        raise NoVector("MEMORY_EMBEDDING_PROVIDER=local needs the extra `vectors`") from None
    return local


def is_vector(given: Any, dim: int) -> bool:
    return (
        isinstance(given, list | tuple)
        and len(given) == dim
        and all(isinstance(one, int | float) and math.isfinite(one) for one in given)
    )


def _checked(vectors: Any, count: int, dim: int) -> list[Vector]:
    if not isinstance(vectors, list) or len(vectors) != count:
        raise NoVector("another number of vectors than of texts")
    if not all(is_vector(one, dim) for one in vectors):
        raise NoVector(f"a vector that is not {dim} numbers")
    return vectors
