"""The settings of meaning: read the same way by the server and by the memory plugin, whose process has its
own settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from config.env import Environment

LOCAL_DIM, HTTP_DIM = 256, 1536
OFF, AUTO, REQUIRED = "off", "auto", "required"


@dataclass(frozen=True)
class Embedding:
    """`mode` off: no statement ever names the extension. `dim` is the length of every vector."""

    mode: str
    provider: str
    url: str
    model: str
    api_key: str
    dim: int
    timeout_s: float
    batch: int

    @property
    def is_wanted(self) -> bool:
        return self.mode != OFF and self.provider != "none"


def embedding(env: Environment) -> Embedding:
    provider = env.choice(
        "MEMORY_EMBEDDING_PROVIDER",
        ["none", "http", "local"],
        default="none",
        help="who makes vectors of memories: an address, or a small model in the process (extra `vectors`)",
    )
    return Embedding(
        mode=env.choice(
            "MEMORY_VECTOR",
            [OFF, AUTO, REQUIRED],
            default=OFF,
            help="search by meaning; auto: if the database has the extension, required: or not start",
        ),
        provider=provider,
        url=env.text("MEMORY_EMBEDDING_URL", help="embeddings endpoint of OpenAI's form, for provider http"),
        model=env.text("MEMORY_EMBEDDING_MODEL", help="model asked for; vectors of another one do not count")
        or ("wordllama-256" if provider == "local" else "text-embedding-3-small"),
        api_key=env.text("MEMORY_EMBEDDING_API_KEY", help="bearer for MEMORY_EMBEDDING_URL", secret=True),
        dim=env.count("MEMORY_EMBEDDING_DIM", default=0, help="length of a vector; 0: http 1536, local 256")
        or (LOCAL_DIM if provider == "local" else HTTP_DIM),
        timeout_s=env.wait("MEMORY_EMBEDDING_TIMEOUT", default=5.0, help="how long the provider may take"),
        batch=env.positive_int("MEMORY_EMBEDDING_BATCH", default=32, help="texts per call of the provider"),
    )
