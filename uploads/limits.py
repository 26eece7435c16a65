"""How much may be uploaded, in one place: checks, error texts, routes, the database's CHECKs and tests use
these names.

To raise the limit of a file: change the constant, migrate the CHECK and the proxy's body limit in one change.
Source: docs/reference/uploads.md, Limits.
"""

from __future__ import annotations

from datetime import timedelta

MIB = 1024 * 1024

MAX_FILE_BYTES = 25 * MIB
MAX_REQUEST_BYTES = 50 * MIB  # the whole body; above one file, or the limit of a file could never be reached
MAX_FILES = 64  # file parts of one request
MAX_FIELDS = 32  # other parts
MAX_FILENAME = 100  # characters after sanitising
SHOWN_NAME = 255  # characters of a client's own file name in an answer

STAGED_FOR = timedelta(hours=24)
QUOTA_RETRY_S = 300
LISTED, MAX_LISTED = 100, 200

READ_BYTES = 256 * 1024  # of a client's body at a time
SLICE_BYTES = MIB  # of a stored file per statement
SENT_BYTES = 256 * 1024  # of a file to a client at a time
