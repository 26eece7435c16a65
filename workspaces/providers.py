"""Which provider a model slug names. Source: docs/reference/workspaces.md, Model and provider."""

from __future__ import annotations

# fmt: off
_SELF_NAMED = [
    "minimax", "minimax-cn", "minimax-oauth", "anthropic", "gemini", "deepseek", "zai", "kimi-coding",
    "kimi-coding-cn", "openrouter", "custom", "ollama-cloud", "kilocode", "opencode-zen", "opencode-go",
    "gmi", "qwen-oauth", "alibaba-coding-plan", "google-gemini-cli", "openai-codex", "copilot-acp",
    "copilot", "alibaba", "xiaomi", "arcee", "nvidia", "huggingface", "ai-gateway", "xai", "bedrock",
    "tencent-tokenhub", "lmstudio",
]
# fmt: on
_SYNONYMS = {
    "dashscope": "alibaba",
    "qwen": "alibaba",
    "mimo": "xiaomi",
    "arcee-ai": "arcee",
    "nim": "nvidia",
    "hf": "huggingface",
    "aigateway": "ai-gateway",
    "grok": "xai",
    "aws": "bedrock",
    "tencent": "tencent-tokenhub",
    "lm-studio": "lmstudio",
    "nousresearch": "openrouter",
    "openai": "openrouter",
}
_PROVIDERS = {**{name: name for name in _SELF_NAMED}, **_SYNONYMS}


def provider_of(model: str) -> str | None:
    """The provider named by the part before the first `/`, or None."""
    prefix, slash, _ = model.partition("/")
    return _PROVIDERS.get(prefix) if slash else None
