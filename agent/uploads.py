"""The files among the rows of the inbox: fetched beside each other, before the message that refers to them.

Source: docs/reference/agent.md, Files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any
from uuid import UUID

from agent.client import Platform, Unreachable, spread
from agent.folder import UploadFolder
from agent.messages import quoted
from agent.transfers import FileClient, Gone, NotFetched

log = logging.getLogger("agent")

METHOD = "chat_upload_receive"
SCHEME = "platform-pending:"
WORKERS = 4
WAIT_S = 65.0  # for the files of one batch; a fetch gives up after 60 s of silence
FIRST_LOOK_S = 10.0  # the inbox has the first go
RECONCILE_S = 60.0
PRUNE_S = 86_400.0
KNOWN_LIMIT = 1024  # uris remembered; the folder knows the others
LIST_LIMIT = 200


class Uploads:
    """Fetches staged files into the agent's folder, and knows where each of them lies."""

    def __init__(self, platform: Platform, folder: UploadFolder, announce: Callable[[str], None]) -> None:
        self._platform = platform
        self._folder = folder
        self._announce = announce
        self._known: OrderedDict[str, str] = OrderedDict()  # platform-pending uri: local uri
        self._lock = threading.Lock()
        self._running: dict[str, Future[None]] = {}  # file id: its fetch

    def batch(self) -> Batch:
        return Batch(self)

    def client(self) -> FileClient:
        return FileClient(self._platform)

    def local_uri(self, uri: str) -> str:
        """Where the file of a `platform-pending:` uri lies here; any other or unknown uri as it is."""
        if not uri.startswith(SCHEME):
            return uri
        with self._lock:
            if uri in self._known:
                self._known.move_to_end(uri)
                return self._known[uri]
        file_id = _uuid(uri.rpartition("/")[2])
        return (self._folder.find(file_id.replace("-", "")) if file_id else None) or uri

    def run(self, stopping: threading.Event) -> None:
        """Beside the inbox, from soon after its first poll on: fetch what still waits, remove what is old."""
        prune_at, wait_s = 0.0, FIRST_LOOK_S
        while not stopping.wait(wait_s):
            if time.monotonic() >= prune_at:
                prune_at = time.monotonic() + PRUNE_S
                self._folder.prune()
            if not self.reconcile():
                return
            wait_s = spread(RECONCILE_S)

    def reconcile(self) -> bool:
        """Fetch what waits though its row has been passed, after a failure or a crash.

        False when the control plane keeps no list.
        """
        try:
            answer = self._platform.get(self._platform.own("pending-uploads"), {"limit": str(LIST_LIMIT)})
        except Unreachable as error:
            log.warning("uploads: the list of waiting files cannot be had: %s", error)
            return True
        files = answer.body.get("files") if answer.ok and isinstance(answer.body, dict) else None
        with self.batch() as batch:
            for one in files if isinstance(files, list) else []:
                batch.add(one)
        return answer.status not in (404, 405)

    def begin(self, pool: ThreadPoolExecutor, client: FileClient, manifest: dict[str, Any]) -> Future[None]:
        """Fetch the file in the pool, or join the fetch of it that runs already: the inbox and the list of
        waiting files may come upon the same one.
        """
        file_id = manifest["file_id"]
        with self._lock:
            running = self._running.get(file_id)
            if running is not None and not running.done():
                return running
            self._running = {known: one for known, one in self._running.items() if not one.done()}
            self._running[file_id] = begun = pool.submit(self._fetch, client, manifest)
            return begun

    def _fetch(self, client: FileClient, manifest: dict[str, Any]) -> None:
        """Never raises: one file that fails must not cost the others."""
        file_id, name = manifest["file_id"], manifest["name"]
        try:
            uri = client.fetch(file_id, name, self._folder)
        except Gone:
            log.info("uploads: %s is no longer there", file_id)
            return
        except NotFetched as error:
            log.warning("uploads: %s was not fetched: %s", file_id, error)
            return
        except Exception:
            log.exception("uploads: %s was not fetched", file_id)
            return
        with self._lock:
            is_new = manifest["uri"] not in self._known
            self._known[manifest["uri"]] = uri
            while len(self._known) > KNOWN_LIMIT:
                self._known.popitem(last=False)
        if is_new:
            self._announce(f"inbox: file {quoted(name)} is at {uri}")

    def manifest(self, value: Any) -> dict[str, Any] | None:
        """What is needed of a row's body or a list entry; None for what names no file."""
        given = value if isinstance(value, dict) else {}
        file_id = _uuid(given.get("file_id"))
        if file_id is None:
            return None
        uri, name = given.get("uri"), given.get("name")
        own = f"{SCHEME}{self._platform.workspace_id}/{file_id}"
        return {
            "file_id": file_id,
            "uri": uri if isinstance(uri, str) and uri else own,
            "name": name if isinstance(name, str) and name else "file",
        }


class Batch:
    """The files of one page of rows, fetched by a few threads that share one client; no files, no thread."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._pool: ThreadPoolExecutor | None = None
        self._client: FileClient | None = None
        self._running: list[Future[None]] = []

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.settle()

    def add(self, body: Any) -> bool:
        """Begin to fetch; False for a body that names no file."""
        manifest = self._uploads.manifest(body)
        if manifest is None:
            return False
        if self._pool is None or self._client is None:
            self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="upload")
            self._client = self._uploads.client()
        self._running.append(self._uploads.begin(self._pool, self._client, manifest))
        return True

    def settle(self) -> None:
        """Wait until every file begun is here or has failed, at most WAIT_S: then those still waiting are
        called off and those running are left alone, because a dead connection must not hold the inbox.
        """
        if self._pool is None or self._client is None:
            return
        pool, client, running = self._pool, self._client, self._running
        self._pool, self._client, self._running = None, None, []
        late = wait(running, WAIT_S).not_done
        if late:
            log.warning("uploads: %d file(s) are not here after %g s", len(late), WAIT_S)
        pool.shutdown(wait=not late, cancel_futures=bool(late))
        client.close()


def _uuid(value: Any) -> str | None:
    """The canonical form of an id, which goes into a path; None for anything else."""
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError):
        return None
