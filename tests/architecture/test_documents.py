"""What code and documents point to is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from django.conf import settings

ROOT = Path(settings.BASE_DIR)
CITED = re.compile(r"docs/[\w/-]+\.(?:md|yaml)")
LINKED = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split()]


def test_every_cited_document_exists():
    cited = {name for path in tracked("*.py", "*.md", "Makefile") for name in CITED.findall(path.read_text())}
    assert len(cited) > 10
    assert {name for name in cited if not (ROOT / name).exists()} == set()


def test_every_link_in_a_document_leads_somewhere():
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in tracked("*.md")
        for target in LINKED.findall(path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []
