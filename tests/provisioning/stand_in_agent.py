"""Stands in for an agent where its speech does not matter: lives until told to stop, or even longer."""

import json
import os
import signal
import sys
import time
from pathlib import Path

options = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
configs = Path(options["--config-dir"])
seen = {
    "files": sorted(path.name for path in configs.iterdir()),
    "environment": dict(os.environ),
    "token": (configs / ".auth_token").read_text() if (configs / ".auth_token").exists() else None,
}
(configs.parent / "seen.json").write_text(json.dumps(seen))
sys.stdout.write("stand-in ready\n")
sys.stdout.flush()
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    time.sleep(60)
