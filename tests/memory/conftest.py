"""Trees to remember in, and both stores of scoped memories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from memory.services import records
from tests.memory.stub_plugin import StubPlugin, stub_plugin
from tests.workspaces.factories import WorkspaceFactory
from workspaces.models import Workspace


class Org:
    """root -> (lead -> (one, two), other -> (cousin)), and a second org."""

    def __init__(self) -> None:
        self.root = self.made("root")
        self.lead = self.made("lead", self.root)
        self.other = self.made("other", self.root)
        self.one = self.made("one", self.lead)
        self.two = self.made("two", self.lead)
        self.cousin = self.made("cousin", self.other)
        self.elsewhere = self.made("elsewhere")

    @staticmethod
    def made(name: str, parent: Workspace | None = None) -> Workspace:
        row: Workspace = WorkspaceFactory(name=name, parent=parent)
        return row


@pytest.fixture
def org(db: Any) -> Org:
    return Org()


@pytest.fixture
def wired(settings: Any) -> None:
    records.forget_ensured()
    settings.MEMORY_V2_BACKEND = "inprocess"


@pytest.fixture
def primary(settings: Any, wired: None) -> None:
    settings.MEMORY_V2_CUTOVER = True


@pytest.fixture(params=["off", "primary"])
def mode(request: pytest.FixtureRequest) -> str:
    """Where scoped memories live."""
    if request.param == "primary":
        request.getfixturevalue("primary")
    return str(request.param)


@pytest.fixture
def stub(settings: Any) -> Iterator[StubPlugin]:
    """The server with a plugin of somebody else."""
    records.forget_ensured()
    with stub_plugin() as running:
        settings.MEMORY_PLUGIN_URL = running.url
        yield running
