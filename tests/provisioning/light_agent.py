"""An agent that registers and lives on: as light as a process can be, for tests that start many."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

options = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
token = (Path(options["--config-dir"]) / ".auth_token").read_text()
body = {"id": options["--workspace"], "url": options["--url"], "agent_card": {"name": "light"}}
request = urllib.request.Request(
    os.environ["PLATFORM_URL"] + "/registry/register",
    json.dumps(body).encode(),
    {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
)
while True:
    try:
        urllib.request.urlopen(request, timeout=30).close()
        break
    except (OSError, urllib.error.URLError) as error:
        sys.stdout.write(f"{error}\n")
        sys.stdout.flush()
        time.sleep(1)
while True:
    time.sleep(60)
