"""What `make` hands to what it starts."""

from __future__ import annotations

import os
import subprocess

from stack.application import PROJECT


def test_compiled_code_is_kept_although_the_caller_forbids_it():
    """Else each process of the stack compiles all it imports, at each start: seconds of a core."""
    words = ["make", "--silent", "--eval", "probe: ; @env", "probe"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    seen = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert "PATH=" in seen.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in seen.stdout
