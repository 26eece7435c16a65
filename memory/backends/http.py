"""The client of a memory plugin. Source: docs/reference/memory.md, Stores; the wire is memory-plugin.md."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson
import structlog
import urllib3

from activity.tally import tally
from config.locks import outside_transaction
from memory.backends.breaker import Breaker
from memory_store.contract import (
    VERSION,
    Code,
    Memory,
    Page,
    Search,
    StoreError,
    Write,
    bad,
    changes_json,
    checked_name,
    checked_search,
    checked_write,
    kind_of,
    memory_from,
    namespace_from,
    search_json,
    write_json,
)

T = TypeVar("T")
log = structlog.get_logger(__name__)

ANSWER_BYTES = 10 * 1024 * 1024
ERROR_BYTES = 256
CAPABILITIES_KEPT_S = 60.0
CONNECTIONS = 16
_CODE_OF_STATUS = {403: Code.FORBIDDEN, 404: Code.NOT_FOUND}


class HttpBackend:
    """See Backend. `timeout_s` is for a call in all, from connecting to the last byte.

    What is wrong already here (a name, an empty content) is refused before anything is sent.
    """

    def __init__(
        self, url: str, *, token: str = "", timeout_s: float, breaker: Breaker | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = urllib3.PoolManager(maxsize=CONNECTIONS, retries=False)
        self.breaker = breaker or Breaker()
        self._known: frozenset[str] = frozenset()
        self._ask_again_at = 0.0
        self._asking = threading.Lock()

    @property
    def is_resting(self) -> bool:
        return self.breaker.is_open

    def capabilities(self) -> frozenset[str]:
        """From the last good answer of health, asked for again after a minute and after every outage."""
        if time.monotonic() >= self._ask_again_at and self._asking.acquire(blocking=False):
            try:
                self._known = self.ask()
                self._ask_again_at = time.monotonic() + CAPABILITIES_KEPT_S
            except StoreError as error:
                log.warning("memory.plugin_not_known", reason=error.message)
            finally:
                self._asking.release()
        return self._known

    def put_namespace(self, name: str) -> None:
        self._call("put_namespace", "PUT", _path(name), {"kind": kind_of(name)})

    def delete_namespace(self, name: str) -> None:
        self._call("delete_namespace", "DELETE", _path(name))

    def commit(self, namespace: str, write: Write) -> str:
        body = write_json(checked_write(write))
        answer = self._object("commit", "POST", f"{_path(namespace)}/memories", body)
        stored = answer.get("id")
        if not isinstance(stored, str) or not stored:
            raise _broken("no id")
        return stored

    def search(self, wanted: Search) -> list[Memory]:
        answer = self._object("search", "POST", "/v1/search", search_json(checked_search(wanted)))
        return [_read(memory_from, one) for one in _list(answer, "memories")]

    def forget(self, memory_id: str, namespace: str) -> None:
        body = {"requested_by_namespace": checked_name(namespace)}
        self._call("forget", "DELETE", _record(memory_id), body)

    def update(self, memory_id: str, namespace: str, changes: Mapping[str, Any]) -> Memory:
        body = {"requested_by_namespace": checked_name(namespace), **changes_json(changes)}
        return _read(memory_from, self._object("update", "PATCH", _record(memory_id), body))

    def get(self, memory_id: str, namespace: str) -> Memory:
        query = urlencode({"requested_by_namespace": checked_name(namespace)})
        return _read(memory_from, self._object("get", "GET", f"{_record(memory_id)}?{query}"))

    def list_namespaces(self, prefix: str = "", cursor: str | None = None) -> Page:
        query = urlencode({"prefix": prefix, **({"cursor": cursor} if cursor else {})})
        answer = self._object("list", "GET", f"/v1/namespaces?{query}")
        found = [_read(namespace_from, one) for one in _list(answer, "namespaces")]
        return Page(found, answer.get("next_cursor"))

    def list_records(self, namespace: str, cursor: str | None = None) -> Page:
        query = urlencode({"cursor": cursor} if cursor else {})
        answer = self._object("list", "GET", f"{_path(namespace)}/memories?{query}")
        found = [_read(memory_from, one) for one in _list(answer, "memories")]
        return Page(found, answer.get("next_cursor"))

    def ask(self) -> frozenset[str]:
        answer = self._object("health", "GET", "/v1/health")
        version = answer.get("version")
        if not isinstance(version, str) or version.split(".")[0] != VERSION.split(".")[0]:
            log.warning("memory.plugin_speaks_another_version", version=str(version)[:32])
            raise StoreError(Code.UNAVAILABLE, "the plugin speaks another version")
        named = answer.get("capabilities") or []
        return (
            frozenset(one for one in named if isinstance(one, str))
            if isinstance(named, list)
            else frozenset()
        )

    def _object(self, route: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._call(route, method, path, body)
        if not isinstance(answer, dict):
            raise _broken("no object")
        return answer

    def _call(self, route: str, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer, None without one. Raises StoreError."""
        outside_transaction()
        outcome = "ok"
        had_failed = self.breaker.has_failed
        try:
            with self.breaker.guarding():
                answer = self._exchange(method, path, body)
            if had_failed:
                self._ask_again_at = 0.0
            return answer
        except StoreError as error:
            outcome = str(error.code)
            raise
        finally:
            tally.add("molecule_memory_plugin_requests_total", route=route, outcome=outcome)

    def _exchange(self, method: str, path: str, body: Any) -> Any:
        until = time.monotonic() + self._timeout_s
        try:
            answer = self._pool.request(
                method,
                f"{self._url}{path}",
                body=None if body is None else orjson.dumps(body),
                headers=self._headers,
                timeout=urllib3.Timeout(total=self._timeout_s),
                redirect=False,
                preload_content=False,
            )
            try:
                content = _content(answer, until)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise StoreError(
                Code.UNAVAILABLE, f"the plugin does not answer ({type(error).__name__})"
            ) from error
        if not 200 <= answer.status < 300:
            raise _refusal(answer.status, content)
        try:
            return orjson.loads(content) if content else None
        except ValueError:
            raise _broken("no JSON") from None


def _content(answer: urllib3.BaseHTTPResponse, until: float) -> bytes:
    """All of it, in time and within bounds."""
    found = bytearray()
    for piece in answer.stream(64 * 1024):
        found += piece
        if len(found) > ANSWER_BYTES:
            raise _broken("too long")
        if time.monotonic() > until:
            raise StoreError(Code.UNAVAILABLE, "the plugin is too slow")
    return bytes(found)


def _refusal(status: int, content: bytes) -> StoreError:
    """What the plugin says of itself, else what its status says."""
    if status == 401:
        return StoreError(Code.INTERNAL, "the plugin does not accept MEMORY_PLUGIN_TOKEN")
    try:
        told = orjson.loads(content)
        return StoreError(Code(told["code"]), str(told.get("message", ""))[:ERROR_BYTES])
    except (ValueError, TypeError, KeyError, AttributeError):
        code = _CODE_OF_STATUS.get(status, Code.INTERNAL if status >= 500 else Code.BAD_REQUEST)
        text = content[:ERROR_BYTES].decode(errors="ignore").strip()
        return StoreError(code, text or f"status {status}")


def _read(reader: Callable[[Any], T], given: Any) -> T:
    try:
        return reader(given)
    except StoreError as error:
        raise _broken(error.message) from None


def _list(answer: Mapping[str, Any], name: str) -> list[Any]:
    found = answer.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise _broken(f"{name} is no list")
    return found


def _path(namespace: str) -> str:
    return f"/v1/namespaces/{quote(checked_name(namespace), safe='')}"


def _record(memory_id: str) -> str:
    if not memory_id or len(memory_id) > 256:
        raise bad("invalid id")
    return f"/v1/memories/{quote(memory_id, safe='')}"


def _broken(reason: str) -> StoreError:
    return StoreError(Code.INTERNAL, f"the plugin's answer cannot be read: {reason}")
