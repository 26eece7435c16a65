"""Bytes as objects of a store that speaks S3; names and types stay in the row.

A store takes part in no transaction. So the intent to remove an object is committed before the object is
made, and the transaction that inserts its row takes it back: a crash at any line leaves an object that the
sweep removes, never a row without one. Source: docs/reference/uploads.md, Objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings
from django.db import DatabaseError, InterfaceError, transaction
from django.db.models.functions import Now

from config.locks import outside_transaction
from uploads.limits import SENT_BYTES
from uploads.mime_types import FALLBACK
from uploads.models import ObjectGC, PendingUpload, Storage
from uploads.storage.base import Prepared, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = structlog.get_logger(__name__)

ABANDONED_AFTER = timedelta(hours=1)  # far beyond the longest upload
_FAILURES = (BotoCoreError, ClientError, OSError)


class S3Backend:
    storage = Storage.S3

    def prepare(self, prepared: Prepared) -> Prepared:
        """Commit one intent per object, then make the objects."""
        keyed = replace(
            prepared,
            items=tuple(
                replace(one, object_key=object_key(prepared.workspace_id, one.file_id))
                for one in prepared.items
            ),
        )
        due = Now() + ABANDONED_AFTER
        with transaction.atomic():
            ObjectGC.objects.bulk_create([ObjectGC(object_key=key, not_before=due) for key in _keys(keyed)])
        try:
            for one in keyed.items:
                self._put(str(one.object_key), one.item.body, one.item.size)
        except BaseException:
            self.discard(keyed)
            raise
        return keyed

    def insert(self, prepared: Prepared) -> None:
        """Take the intents back and insert the rows, in the caller's transaction.

        An intent that the sweep has claimed cannot be taken back: its object goes.
        """
        keys = list(_keys(prepared))
        if ObjectGC.objects.filter(object_key__in=keys, attempts=0).delete()[0] != len(keys):
            raise StorageError("an object was given up before its row was inserted")
        PendingUpload.objects.bulk_create(
            [
                PendingUpload(
                    file_id=one.file_id,
                    workspace_id=prepared.workspace_id,
                    size_bytes=one.item.size,
                    filename=one.item.filename,
                    mimetype=one.item.mimetype,
                    storage=Storage.S3,
                    object_key=one.object_key,
                    is_outbound=prepared.is_outbound,
                )
                for one in prepared.items
            ]
        )

    def discard(self, prepared: Prepared) -> None:
        """The objects are due now; if even that cannot be said, in an hour."""
        try:
            ObjectGC.objects.filter(object_key__in=list(_keys(prepared))).update(not_before=Now())
        except (DatabaseError, InterfaceError) as error:
            log.warning("pending_upload.not_discarded", error=str(error))

    def chunks(self, row: PendingUpload) -> Iterator[bytes]:
        outside_transaction()
        try:
            found = client().get_object(Bucket=settings.PENDING_UPLOADS_S3_BUCKET, Key=str(row.object_key))
            yield from found["Body"].iter_chunks(SENT_BYTES)
        except _FAILURES as error:
            raise StorageError("the object could not be read") from error

    def _put(self, key: str, body: Any, size: int) -> None:
        """One request that streams the file: nothing half-made stays behind, as parts would."""
        outside_transaction()
        if body.seek(0, os.SEEK_END) != size:
            raise StorageError(
                "the file has not the size it should have"
            )  # the store would wait for the rest
        body.seek(0)
        encrypted = settings.PENDING_UPLOADS_S3_SSE
        extra: dict[str, Any] = {"ServerSideEncryption": encrypted} if encrypted else {}
        try:
            client().put_object(
                Bucket=settings.PENDING_UPLOADS_S3_BUCKET,
                Key=key,
                Body=body,
                ContentLength=size,
                ContentType=FALLBACK,
                **extra,
            )
        except _FAILURES as error:
            raise StorageError("the object could not be written") from error


def delete_objects(keys: Iterable[str]) -> dict[str, str]:
    """Remove at most 1,000 objects; the keys that are still there, with the reason. One that was not there is
    removed.
    """
    outside_transaction()
    listed = list(keys)
    try:
        answer = client().delete_objects(
            Bucket=settings.PENDING_UPLOADS_S3_BUCKET,
            Delete={"Objects": [{"Key": key} for key in listed], "Quiet": True},
        )
    except _FAILURES as error:
        return dict.fromkeys(listed, f"{type(error).__name__}: {error}")
    return {
        str(one.get("Key")): f"{one.get('Code')}: {one.get('Message')}" for one in answer.get("Errors", [])
    }


def object_key(workspace_id: object, file_id: object) -> str:
    """Never a word of the user's."""
    return f"{settings.PENDING_UPLOADS_S3_PREFIX}/{workspace_id}/{file_id}"


def _keys(prepared: Prepared) -> Iterator[str]:
    return (str(one.object_key) for one in prepared.items)


def client() -> S3Client:
    """One client per process and configuration; threads share it."""
    return _client(
        settings.PENDING_UPLOADS_S3_REGION,
        settings.PENDING_UPLOADS_S3_ENDPOINT_URL,
        settings.PENDING_UPLOADS_S3_ACCESS_KEY_ID,
        settings.PENDING_UPLOADS_S3_SECRET_ACCESS_KEY,
    )


@lru_cache(maxsize=1)
def _client(region: str, endpoint: str, access_key: str, secret_key: str) -> S3Client:
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 3},
        max_pool_connections=32,
        # Stores other than the original are reached by path, not by a name per bucket.
        s3={"addressing_style": "path"} if endpoint else {},
    )
    return boto3.session.Session().client(
        "s3",
        region_name=region or None,
        endpoint_url=endpoint or None,
        aws_access_key_id=access_key or None,
        aws_secret_access_key=secret_key or None,
        config=config,
    )
