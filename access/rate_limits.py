"""Which limits a request is charged to. Counting: windows.py. Source: docs/reference/http.md, Rate limits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from access import windows
from access.credentials import Principal
from access.windows import Charge, Limit, Standing
from activity.tally import tally
from config.posture import is_development

WINDOW_S = 60
UNLIMITED = {"X-RateLimit-Limit": "unlimited"}
ORG_TOKEN_MINTS = Limit("org-token-mint", 10, 3600)


def requests() -> Limit:
    return Limit("requests", settings.RATE_LIMIT, WINDOW_S)


def failed_logins() -> Limit:
    """401 answers to one address; a full window refuses requests without a valid credential."""
    return Limit("auth-failures", settings.AUTH_FAIL_LIMIT, WINDOW_S)


def bucket(principal: Principal, address: str) -> str:
    """A verified caller has a window of its own; everybody else shares the address's.

    A claim makes none: random bearers would multiply it.
    """
    return principal.bucket or by_address(address)


def by_address(address: str) -> str:
    return f"ip:{address}"


def charges(principal: Principal | None, address: str) -> list[Charge]:
    """What one request is charged to; None for a caller who is not looked at."""
    wanted = []
    if not is_development():
        wanted.append(Charge(requests(), bucket(principal, address) if principal else by_address(address)))
    if principal is not None and principal.is_nobody:
        wanted.append(Charge(failed_logins(), by_address(address), is_look=True))
    return wanted


def charge_handshake(principal: Principal, address: str) -> None:
    """A socket costs one request. Raises TooManyRequests."""
    wanted = charges(principal, address)
    for standing in windows.take(*wanted) if wanted else []:
        if standing.is_exceeded:
            raise standing.refusal()


def count_failure(kind: str, address: str) -> list[Standing]:
    """Count a 401 answered to `address`."""
    tally.add("molecule_auth_failures_total", **{"class": kind})
    return windows.take(Charge(failed_logins(), by_address(address)))


class Meter:
    """What one request uses up, charged on a trip to Valkey that is made anyway.

    For the heartbeat, which has one trip for everything: the beat is stored, its charge goes out with the
    liveness key and the frames, and the count decides the answer. A window seen full is refused before
    anything is done. Why that is exact: docs/decisions/0007-rate-limit-of-heartbeats.md.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._charge = Charge(requests(), by_address(address))
        self._asked = 0.0
        self.standing: Standing | None = None  # None until it has been charged
        self.is_off = is_development()

    def identified(self, own_bucket: str) -> None:
        """The caller is known now; without a bucket of its own it shares the address's. Raises
        TooManyRequests when the window is known to be full.
        """
        if own_bucket:
            self._charge = Charge(requests(), own_bucket)
        if not self.is_off and (known := self._charge.known()):
            self.standing = known
            raise known.refusal()

    def add_to(self, pipeline: Any) -> None:
        """Adds the charge, at the front of an empty pipeline."""
        if not self.is_off:
            self._asked = time.monotonic()
            self._charge.add_to(pipeline)

    def settle(self, replies: Sequence[Any] | None) -> None:
        """Take the replies to a pipeline that began with `add_to`; None: Valkey could not be asked.

        Raises TooManyRequests when this request was one too many.
        """
        if self.is_off:
            return
        if replies is None:
            self.standing = windows.let_through(self._charge)
            return
        self.standing = self._charge.standing(replies, self._asked)
        if self.standing.is_exceeded:
            raise self.standing.refusal()

    def charge_alone(self) -> None:
        """A trip of its own, for a request that ended before it had one. Raises TooManyRequests."""
        if self.is_off or self.standing is not None:
            return
        (self.standing,) = windows.take(self._charge)
        if self.standing.is_exceeded:
            raise self.standing.refusal()

    @property
    def headers(self) -> dict[str, str]:
        if self.is_off:
            return UNLIMITED
        return self.standing.headers if self.standing else {}


def meter_of(request: HttpRequest) -> Meter:
    """The meter that `LimitRate` gave to a route which charges itself."""
    meter = getattr(request, "meter", None)
    assert isinstance(meter, Meter), "only the routes of SELF_METERED have one"
    return meter
