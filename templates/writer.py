"""YAML as this server writes it: whatever a text holds, readers of YAML 1.1 and 1.2 give back that text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[_-][A-Za-z0-9]+)*")
_OTHER_BREAKS = frozenset("\r\x85\u2028\u2029\ufeff")  # readers turn these into line ends of their own


def dumped(document: Mapping[str, Any]) -> str:
    """One mapping as YAML, keys in order; texts quoted, so that no name can break out of its place."""
    return yaml.dump(
        dict(document),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=10_000,
        default_flow_style=False,
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # a list used twice is written twice: people edit these files


class _Key(str):
    """A text in the place of a key."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text and not _OTHER_BREAKS & set(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _key(dumper: yaml.SafeDumper, text: _Key) -> yaml.Node:
    style = None if _PLAIN_KEY.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style=style)


def _mapping(dumper: yaml.SafeDumper, value: Mapping[str, Any]) -> yaml.Node:
    pairs = [(_Key(key), one) for key, one in value.items()]
    return dumper.represent_mapping("tag:yaml.org,2002:map", pairs, flow_style=None if value else True)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(_Key, _key)
_Dumper.add_representer(dict, _mapping)
