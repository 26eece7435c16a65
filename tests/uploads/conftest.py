from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients import Api, agent_of
from tests.workspaces.factories import WorkspaceFactory
from uploads.delivery import staging
from workspaces.models import Workspace


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    staging.forget()
    yield
    staging.forget()


@pytest.fixture
def polling() -> Workspace:
    """A workspace whose agent polls: on a laptop, behind a router."""
    return WorkspaceFactory(delivery_mode="poll", runtime="external")


@pytest.fixture
def agent(polling: Workspace) -> Api:
    return agent_of(polling.pk)
