"""A provider that listens, its addresses in the settings, and a doorbell that tests answer themselves."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chat_channels import manager
from chat_channels.services import create_channel
from config.jobs import Job
from provisioning import dispatch
from tests.a2a.fake_agent import FakeAgent, fake_agent
from tests.chat_channels.providers import Provider, serving
from tests.chat_channels.webhooks import CONFIGS
from tests.doorbell import Doorbell, hung


@pytest.fixture
def provider(settings: Any) -> Iterator[Provider]:
    with serving() as one:
        settings.MOLECULE_ENV = "development"  # it listens on loopback, which is closed elsewhere
        settings.CHANNELS_TELEGRAM_API_URL = one.url
        settings.CHANNELS_SLACK_API_URL = f"{one.url}/slack"
        settings.CHANNELS_DISCORD_API_URL = f"{one.url}/discord"
        settings.CHANNELS_LARK_API_URL = f"{one.url}/hooks"
        yield one


@pytest.fixture(autouse=True)
def _sealed(settings: Any) -> None:
    settings.SECRETS_ENCRYPTION_KEY = base64.b64encode(os.urandom(32)).decode()


@pytest.fixture(autouse=True)
def _nothing_loaded(valkey: Any) -> Iterator[None]:
    manager.forget()
    yield
    manager.forget()


@pytest.fixture(autouse=True)
def _no_compute() -> Iterator[None]:
    dispatch.wire(None)
    yield
    dispatch.choose_again()


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with fake_agent() as one:
        yield one


@pytest.fixture(autouse=True)
def doorbell(monkeypatch: pytest.MonkeyPatch) -> Doorbell:
    return hung(monkeypatch, Doorbell(Job.CHANNEL_DELIVER, Job.A2A_DRAIN))


Make = Callable[..., Any]


@pytest.fixture
def make(provider: Provider) -> Make:
    """Create a channel of a provider; what is given replaces the usual configuration's values."""

    def made(workspace: Any, channel_type: str = "telegram", *, config: Any = None, **fields: Any) -> Any:
        given = {
            key: value.replace("<provider>", provider.url)
            for key, value in (CONFIGS[channel_type] | (config or {})).items()
        }
        return create_channel(workspace_id=workspace.pk, channel_type=channel_type, config=given, **fields)

    return made
