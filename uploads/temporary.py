"""Files without a name: whatever ends the request, a power cut included, they are gone."""

from __future__ import annotations

import tempfile
from typing import BinaryIO

from django.conf import settings


def temporary_file() -> BinaryIO:
    """Empty, for reading and writing; whoever asks closes it."""
    return tempfile.TemporaryFile(dir=settings.CHAT_UPLOAD_TEMP_DIR or None)
