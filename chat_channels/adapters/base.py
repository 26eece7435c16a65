"""What a chat provider is to this room: one small interface, no table and no request of ours.

Source: docs/reference/chat_channels.md, Adapters.
"""

from __future__ import annotations

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from chat_channels.models import ChannelType
from config.errors import BadRequest
from config.http import from_json

Config = Mapping[str, str]

CHAT_ID = "chat_id"
BOT_TOKEN = "bot_token"
WEBHOOK_SECRET = "webhook_secret"
WEBHOOK_URL = "webhook_url"
MOST_CHATS = 20
TOLERANCE_S = 300  # how old, or how far ahead, a signed timestamp may be


@dataclass(frozen=True)
class Field:
    """One value of a provider's configuration, as the canvas builds its form of it."""

    key: str
    label: str
    type: str = "text"
    required: bool = False
    sensitive: bool = False
    placeholder: str = ""
    help: str = ""

    def shown(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value != ""}


@dataclass(frozen=True)
class Delivery:
    """A request that claims to come from the provider. Header names are lower case; `now` is unix time."""

    headers: Mapping[str, str]
    body: bytes
    now: float


@dataclass(frozen=True)
class Incoming:
    """A message a person wrote. `key` is the same for every repeat of it, and no other message has it.

    `user_id` and `username` are the provider's, and nobody else can have them; `name` is what a person calls
    himself, and proves nothing.
    """

    key: str
    chat_id: str
    user_id: str
    username: str
    text: str
    name: str = ""
    thread: str = ""

    @property
    def shown_name(self) -> str:
        return self.username or self.name or self.user_id


@dataclass(frozen=True)
class Handshake:
    """The provider asks whether this is the right address; `answer` is what it wants to read."""

    answer: Mapping[str, Any]


@dataclass(frozen=True)
class Chat:
    chat_id: str
    name: str
    type: str


@dataclass(frozen=True)
class Outgoing:
    """`until`: no later than this time of `time.monotonic()`."""

    text: str
    chat_id: str = ""
    thread: str = ""
    until: float | None = None


class Adapter(ABC):
    """A provider. Nothing here may be called inside a transaction but `validate`, `verify` and `parse`."""

    type: ClassVar[ChannelType]
    display_name: ClassVar[str]
    config_schema: ClassVar[tuple[Field, ...]]
    text_limit: ClassVar[int]  # UTF-16 code units of one message, which is what providers count
    hint: ClassVar[str] = ""  # told with the chats that were found
    is_key_public: ClassVar[bool] = False  # what verifies its deliveries may be known to everybody

    @property
    def sensitive(self) -> frozenset[str]:
        return frozenset(field.key for field in self.config_schema if field.sensitive)

    def validate(self, config: Config) -> str:
        """What is wrong with the plain configuration, in words without its values; empty when it is right."""
        for field in self.config_schema:
            if field.required and not config.get(field.key):
                return f"missing required field: {field.key}"
        if len(chats_of(config)) > MOST_CHATS:
            return f"{CHAT_ID} takes at most {MOST_CHATS} chats"
        return self.complaint(config)

    def complaint(self, config: Config) -> str:
        """What is wrong besides fields that are missing."""
        return ""

    @abstractmethod
    def verify(self, config: Config, delivery: Delivery) -> bool:
        """Whether the provider of this channel has sent it. A channel without a secret believes nobody."""

    @abstractmethod
    def parse(self, config: Config, delivery: Delivery) -> Incoming | Handshake | None:
        """What a verified delivery says; None when nobody wrote anything. Raises BadRequest."""

    @abstractmethod
    def send(self, config: Config, message: Outgoing) -> None:
        """Post one text, at most `text_limit` long, into one chat. Raises NotTaken."""

    def discover(self, bot_token: str) -> list[Chat]:
        """The chats that a bot can write to. Raises BadRequest (not offered, token refused), NotTaken."""
        raise BadRequest(f"{self.display_name} does not tell a bot's chats")

    def acknowledgement(self, outcome: str) -> dict[str, Any]:
        """The answer to a delivery: `status`, and what the provider wants to read besides."""
        return {"status": outcome}

    def places(self, config: Config) -> list[str]:
        """Where a message goes that answers none; one unnamed place where the url itself is the chat."""
        return chats_of(config) if config.get(BOT_TOKEN) else [""]


def chats_of(config: Config) -> list[str]:
    """The ids in `chat_id`, which is a comma list; each once."""
    return list(dict.fromkeys(one.strip() for one in config.get(CHAT_ID, "").split(",") if one.strip()))


def listens_to(config: Config, chat_id: str) -> bool:
    """Without ids in its configuration a channel listens to every chat its bot is in."""
    chats = chats_of(config)
    return not chats or chat_id in chats


def pieces(text: str, limit: int) -> Iterator[str]:
    """The text in parts of at most `limit` UTF-16 code units, cut behind a line in the last half."""
    while text:
        end = _longest(text, limit)
        if end < len(text):
            line = text.rfind("\n", end // 2, end)
            end = line + 1 if line > 0 else end
        yield text[:end]
        text = text[end:]


def _longest(text: str, limit: int) -> int:
    """How many characters fit."""
    if len(text) <= limit // 2:
        return len(text)
    size = 0
    for index, char in enumerate(text):
        size += 2 if ord(char) > 0xFFFF else 1
        if size > limit:
            return index
    return len(text)


def is_same(given: str, expected: str) -> bool:
    """Compared in constant time; an empty expectation is met by nothing."""
    digests = (hashlib.sha256(one.encode("utf-8", "surrogateescape")).digest() for one in (given, expected))
    return bool(expected) and hmac.compare_digest(*digests)


def is_recent(timestamp: str, now: float) -> bool:
    """Whether signed unix seconds are of now: an old delivery, replayed, is not."""
    return timestamp.isdecimal() and len(timestamp) < 12 and abs(now - int(timestamp)) <= TOLERANCE_S


def fields_of(body: bytes) -> Mapping[str, Any]:
    """The object in a delivery. Raises BadRequest."""
    value = from_json(body)
    if not isinstance(value, dict):
        raise BadRequest("invalid request body")
    return value


def inner(value: Any, *path: str) -> Mapping[str, Any]:
    """The object at `path`, an empty one when there is none: providers leave out what is empty."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def text_in(value: Mapping[str, Any], *names: str) -> str:
    """The first of these that is a text or a number, as text."""
    for name in names:
        found = value.get(name)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return str(found)
    return ""


def bad_url(config: Config, hosts: frozenset[str], base: str) -> str:
    """What is wrong with `webhook_url`: it leads to the provider, over TLS, or below the configured base."""
    url = config.get(WEBHOOK_URL, "")
    if not url or url.startswith(f"{base}/"):
        return ""
    try:
        parts = urlsplit(url)
        is_theirs = parts.scheme == "https" and parts.netloc in hosts
    except ValueError:
        is_theirs = False
    return "" if is_theirs else f"webhook_url must begin with https://{min(hosts)}/"
