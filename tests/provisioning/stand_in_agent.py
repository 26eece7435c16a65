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
    "files": {path.name: path.read_text() for path in configs.iterdir() if path.is_file()},
    "environment": dict(os.environ),
    "generation": options.get("--generation"),
}
report = configs.parent / "seen.json"
report.with_suffix(".new").write_text(json.dumps(seen))
report.with_suffix(".new").replace(report)
sys.stdout.write("stand-in ready\n")
sys.stdout.flush()
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    time.sleep(60)
