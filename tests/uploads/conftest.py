from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.clients import Api, agent_of
from tests.provisioning.ec2_cloud import moto_server
from tests.workspaces.factories import WorkspaceFactory
from uploads.delivery import staging
from uploads.storage.s3 import client
from workspaces.models import Workspace


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    staging.forget()
    yield
    staging.forget()


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The address of a store that speaks S3."""
    with moto_server() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def s3(object_store: str, settings: Any) -> Any:
    """New files go to a bucket of their own; the client that looks at it."""
    settings.PENDING_UPLOADS_BACKEND = "s3"
    settings.PENDING_UPLOADS_S3_BUCKET = f"files-{uuid4()}"
    settings.PENDING_UPLOADS_S3_REGION = "us-east-1"
    settings.PENDING_UPLOADS_S3_ENDPOINT_URL = object_store
    settings.PENDING_UPLOADS_S3_ACCESS_KEY_ID = settings.PENDING_UPLOADS_S3_SECRET_ACCESS_KEY = "test"
    client().create_bucket(Bucket=settings.PENDING_UPLOADS_S3_BUCKET)
    return client()


@pytest.fixture(params=["postgres", "s3"])
def storage(request: pytest.FixtureRequest) -> str:
    """Each test that asks for it runs on both."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return str(request.param)


@pytest.fixture
def polling() -> Workspace:
    """A workspace whose agent polls: on a laptop, behind a router."""
    return WorkspaceFactory(delivery_mode="poll", runtime="external")


@pytest.fixture
def agent(polling: Workspace) -> Api:
    return agent_of(polling.pk)
