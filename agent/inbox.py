"""The inbox of a poll-mode agent: fetch rows, answer them, remember how far.

At least once: a row counts as handled only after its answer was accepted, and the cursor is written then.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from agent.client import Answer, Backoff, Platform, Unreachable, spread, workspace_path
from agent.cursor import InboxCursor
from agent.messages import Message, quoted, read_message, send_request, with_local_files
from agent.replies import RpcError
from agent.rpc import Answering, Misbehaving, Stopping
from agent.uploads import METHOD as UPLOAD_METHOD
from agent.uploads import Uploads

log = logging.getLogger("agent")

BACKLOG_S = 600  # how far back an agent without a cursor looks
BACKLOG_LIMIT = 500  # the control plane's largest page: an older row of the window would never be seen
PAGE_LIMIT = 100
RETRY_LIMIT_S = 60.0
PEER_TIMEOUT_S = 300.0  # a peer that works on our answer holds the call
TRIES_LIMIT = 6  # of one answer that keeps failing; then the row is given up, for the sake of the next


class TryLater(Exception):
    """The answer did not get through; the row stays in the inbox."""

    def __init__(self, reason: str, *, counts: bool, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.counts = counts  # against TRIES_LIMIT
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Row:
    """One inbox row (docs/reference/agent.md), reduced to what is needed."""

    row_id: str
    seq: int | None
    source_id: str | None  # None: the user at the canvas
    method: str
    envelope: Any
    has_response: bool
    failed: bool


class Inbox:
    def __init__(
        self,
        platform: Platform,
        answering: Answering,
        cursor: InboxCursor,
        uploads: Uploads,
        poll_s: float,
        announce: Callable[[str], None],
    ) -> None:
        self._platform = platform
        self._answering = answering
        self._cursor = cursor
        self._uploads = uploads
        self._poll_s = poll_s
        self._announce = announce
        self._acks = True
        self._unsent: dict[str, str | RpcError] = {}  # row id: the answer that did not get through yet
        self._tries = 0
        self._backoff = Backoff(poll_s, RETRY_LIMIT_S)

    def run(self, stopping: threading.Event) -> None:
        """Poll until `stopping`. Raises OSError when the cursor cannot be stored."""
        wait_s = 0.0
        while not stopping.wait(wait_s):
            try:
                wait_s = self.poll()
            except Stopping:
                return

    def poll(self) -> float:
        """Fetch and handle one page; return the seconds until the next poll. Raises Stopping, OSError."""
        try:
            answer = self._fetch()
        except Unreachable as error:
            log.warning("inbox: poll failed: %s", error)
            return spread(self._poll_s)
        if answer.status == 410:
            log.warning("inbox: the cursor is unknown to the control plane, starting over with the backlog")
            self._cursor.drop()
            self._cursor.save()
            return self._poll_s
        if not answer.ok or not isinstance(answer.body, list):
            log.warning("inbox: poll failed: %s", answer.error)
            return max(self._poll_s, answer.retry_after_s or 0.0)
        rows = [row for row in map(_row, answer.body) if row is not None]
        if self._cursor.row_id is None:
            rows.reverse()  # without a cursor the newest comes first
        try:
            done = self._handle(rows)
        except TryLater as error:
            wait_s = self._backoff.next(error.retry_after_s)
            log.warning("inbox: reply failed: %s; next try in %.1f s", error, wait_s)
            return wait_s
        return 0.0 if done >= PAGE_LIMIT else self._poll_s

    def _fetch(self) -> Answer:
        query = {"type": "a2a_receive"}
        if self._cursor.row_id is None:
            query |= {"since_secs": str(BACKLOG_S), "limit": str(BACKLOG_LIMIT)}
        else:
            query |= {"since_id": self._cursor.row_id, "limit": str(PAGE_LIMIT)}
        return self._platform.get(self._platform.own("activity"), query)

    def _handle(self, rows: list[Row]) -> int:
        """Handle rows oldest first, acknowledge those done, also when a later one fails; return how many.

        Files are fetched beside each other; whatever comes after them waits until they are here.
        """
        done: list[Row] = []
        batch = self._uploads.batch()
        try:
            for row in rows:
                answered = False
                if row.method == UPLOAD_METHOD:
                    if not self._cursor.was_handled(row.row_id) and not batch.add(row.envelope):
                        log.warning("inbox: row %s names no file", row.row_id)
                else:
                    batch.settle()
                    answered = not self._cursor.was_handled(row.row_id) and self._handle_row(row)
                self._cursor.advance(row.row_id)
                done.append(row)
                if answered:
                    self._cursor.save()
        finally:
            batch.settle()
            if done:
                self._cursor.save()
                self._acknowledge(done[-1])
        return len(done)

    def _handle_row(self, row: Row) -> bool:
        """False when the row needed no answer. Raises TryLater, Stopping."""
        reason = self._reason_to_skip(row)
        message = read_message(with_local_files(row.envelope, self._uploads.local_uri))
        if reason is None and message is None:
            reason = f"{quoted(row.method, 40)} is no message"
        if reason is not None or message is None:
            log.info("inbox: row %s skipped: %s", row.row_id, reason)
            return False
        sender = f"peer {row.source_id}" if row.source_id else "the canvas user"
        if message.role == "agent":  # answers are not answered: two agents would go on for ever
            self._announce(f"inbox: answer from {sender}: {quoted(message.text)}")
            return False
        if row.row_id not in self._unsent:  # work done is not done again because its answer got lost
            self._announce(f"inbox: message from {sender}: {quoted(message.text)}")
            self._unsent = {row.row_id: self._worked_on(message)}
        try:
            self._deliver(row, self._unsent[row.row_id], message.delegation_id)
        except TryLater as error:
            self._tries += error.counts
            if self._tries < TRIES_LIMIT:
                raise
            self._announce(f"reply given up after {TRIES_LIMIT} tries: {error}")
        self._unsent, self._tries, self._backoff = {}, 0, Backoff(self._poll_s, RETRY_LIMIT_S)
        return True

    def _worked_on(self, message: Message) -> str | RpcError:
        try:
            return self._answering.work_on(message)
        except Misbehaving as failure:  # there is no connection to spoil here
            return RpcError(-32000, f"the script says {failure.how}")

    def _reason_to_skip(self, row: Row) -> str | None:
        if (row.method == "notify" and row.source_id is None) or row.source_id == self._platform.workspace_id:
            return "this agent's own message"
        if row.method == "delegate_result":
            return "the result of a delegation"
        if row.has_response:  # written while the workspace was in push mode
            return "already answered"
        if row.failed:
            return "the sender was told that it failed"
        return None

    def _deliver(self, row: Row, outcome: str | RpcError, delegation_id: str | None) -> None:
        """Send the answer where it belongs. Returns when the row is done, Raises TryLater when it is not."""
        text = outcome if isinstance(outcome, str) else f"error {outcome.code}: {outcome.message}"
        own = self._platform.own
        try:
            if row.source_id is None:
                answer = self._platform.post(own("notify"), {"message": text})
            elif isinstance(outcome, RpcError) and delegation_id:
                update = {"status": "failed", "error": text}
                path = own(f"delegations/{quote(delegation_id, safe='')}/update")
                answer = self._platform.post(path, update)
            else:
                answer = self._platform.post(
                    workspace_path(row.source_id, "a2a"),
                    send_request(text, row.row_id, delegation_id),
                    as_workspace=True,
                    timeout_s=PEER_TIMEOUT_S,
                )
        except Unreachable as error:
            if error.timed_out and error.sent and row.source_id is not None:
                self._announce(f"replied; the peer has not finished with it within {PEER_TIMEOUT_S:g} s")
                return
            raise TryLater(str(error), counts=error.sent) from None
        self._judge(answer)

    def _judge(self, answer: Answer) -> None:
        if answer.ok:
            self._announce("replied")
        elif answer.status in (401, 408, 425, 429):  # passes, or ends the agent through its heartbeat
            raise TryLater(answer.error, counts=False, retry_after_s=answer.retry_after_s)
        elif answer.status >= 500:
            raise TryLater(answer.error, counts=True, retry_after_s=answer.retry_after_s)
        else:
            self._announce(f"reply refused: {answer.error}")

    def _acknowledge(self, row: Row) -> None:
        """Tell the control plane that rows up to this one may be pruned; a mere hint: errors are logged."""
        if row.seq is None or not self._acks:
            return
        try:
            answer = self._platform.post(self._platform.own("activity/ack"), {"acked_seq": row.seq})
        except Unreachable as error:
            log.warning("inbox: acknowledgement failed: %s", error)
            return
        if answer.status in (404, 405):
            self._acks = False  # an older control plane
        elif not answer.ok:
            log.warning("inbox: acknowledgement failed: %s", answer.error)


def _row(value: Any) -> Row | None:
    """None for what is no row: the control plane's answer is checked like any other input."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        return None
    seq, source_id, method = value.get("seq"), value.get("source_id"), value.get("method")
    return Row(
        row_id=value["id"],
        seq=seq if type(seq) is int else None,
        source_id=source_id if isinstance(source_id, str) and source_id else None,
        method=method if isinstance(method, str) else "",
        envelope=value.get("request_body"),
        has_response=value.get("response_body") is not None,
        failed=value.get("status") == "error",
    )
