"""Fan-out inside one realtime process, over the real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.utils import timezone

from activity import hub as hubs
from activity.events import CHANNEL, EventType, Frame, publish
from activity.hub import CANVAS_PULSE_S, QUEUE_FRAMES, Client, Delivery, Hub, everything
from activity.models import MetricCounter
from tests.outages import valkey_away
from tests.waiting import eventually

ONE, TWO = uuid4(), uuid4()
pytestmark = pytest.mark.usefixtures("valkey")


def frames(count: int, event: EventType = EventType.TASK_UPDATED, workspace_id: UUID = ONE) -> list[Frame]:
    return [Frame(event, workspace_id, timezone.now(), {"number": number}) for number in range(count)]


async def send(*given: Frame) -> None:
    await sync_to_async(publish)(*given)


async def take(client: Client, count: int) -> list[Delivery]:
    return [await asyncio.wait_for(client.queue.get(), timeout=5) for _ in range(count)]


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [orjson.loads(one.text)["payload"]["number"] for one in deliveries]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)


def within_one_loop(body: Callable[[], Awaitable[None]]) -> None:
    async_to_sync(body)()


def test_every_client_gets_every_frame_once_in_order_and_encoded_once() -> None:
    async def body() -> None:
        hub, clients = Hub(), [Client(everything), Client(everything)]
        for client in clients:
            await hub.join(client)
        await send(*frames(30))
        one, other = [await take(client, 30) for client in clients]
        assert numbers(one) == list(range(30))
        assert all(a is b for a, b in zip(one, other, strict=True))
        assert one[0].text == one[0].text.strip()
        assert all(client.queue.empty() for client in clients)

    within_one_loop(body)


def test_a_client_gets_only_what_it_wants() -> None:
    async def body() -> None:
        hub, mine = Hub(), Client(lambda delivery: delivery.workspace_id == str(ONE))
        await hub.join(mine)
        await send(*frames(3, workspace_id=TWO), *frames(1))
        (delivery,) = await take(mine, 1)
        assert delivery.workspace_id == str(ONE)

    within_one_loop(body)


def test_a_client_that_left_gets_nothing() -> None:
    async def body() -> None:
        hub, gone, here = Hub(), Client(everything), Client(everything)
        await hub.join(gone)
        await hub.join(here)
        hub.leave(gone)
        hub.leave(gone)
        await send(*frames(1))
        await take(here, 1)
        assert gone.queue.empty()

    within_one_loop(body)


@pytest.mark.django_db(transaction=True)
def test_a_client_that_reads_too_slowly_is_dropped_and_counted() -> None:
    async def body() -> None:
        hub, slow, quick = Hub(), Client(everything), Client(everything)
        await hub.join(slow)
        await hub.join(quick)
        for _ in range(2):
            await send(*frames(QUEUE_FRAMES // 2))
            await take(quick, QUEUE_FRAMES // 2)
        assert slow.closed_with is None
        await send(*frames(1))
        await take(quick, 1)
        assert slow.closed_with == 1013
        assert slow.closing.is_set()
        await send(*frames(1))
        await take(quick, 1)
        assert slow.queue.qsize() == QUEUE_FRAMES

    within_one_loop(body)
    counter = MetricCounter.objects.filter(name="molecule_ws_clients_dropped_total", value=1)
    eventually(counter.exists)


def test_a_canvas_gets_one_heartbeat_in_ten_seconds_and_an_agents_stream_every_one() -> None:
    async def body() -> None:
        hub = Hub()
        canvas, own = Client(everything), Client(lambda delivery: delivery.workspace_id == str(ONE))
        await hub.join(canvas)
        await hub.join(own)
        beats = [*frames(3, EventType.WORKSPACE_HEARTBEAT), *frames(3, EventType.WORKSPACE_HEARTBEAT, TWO)]
        await send(*beats, *frames(1))
        assert [one.event for one in await take(canvas, 2)] == ["WORKSPACE_HEARTBEAT", "TASK_UPDATED"]
        assert [one.event for one in await take(own, 4)] == ["WORKSPACE_HEARTBEAT"] * 3 + ["TASK_UPDATED"]
        assert canvas.queue.empty()

        hub._last_pulse -= CANVAS_PULSE_S  # ten seconds later
        await send(*beats)
        assert (await take(canvas, 1))[0].event == "WORKSPACE_HEARTBEAT"
        await take(own, 3)
        assert canvas.queue.empty()

    within_one_loop(body)


def test_after_a_lost_subscription_clients_are_told_to_come_again(valkey: Any) -> None:
    async def body() -> None:
        hub, before = Hub(), Client(everything)
        await hub.join(before)
        await sync_to_async(valkey.client_kill_filter)(_type="pubsub")
        await until(lambda: before.closed_with is not None)
        assert before.closed_with == 1012
        hub.leave(before)

        after = Client(everything)
        await hub.join(after)
        await send(*frames(1))
        await take(after, 1)
        assert after.closed_with is None

    within_one_loop(body)


def test_a_client_that_joins_while_valkey_is_away_waits_and_is_told_to_come_again() -> None:
    hub: list[Hub] = []

    async def body() -> None:
        hub.append(Hub())
        early = Client(everything)
        joining = None
        with valkey_away():
            joining = asyncio.create_task(hub[0].join(early))
            await asyncio.sleep(0.05)
            assert not joining.done()
        await asyncio.wait_for(joining, timeout=10)
        assert early.closed_with == 1012

    within_one_loop(body)


@pytest.mark.parametrize("ticks", range(6))
def test_a_pause_ends_though_what_it_waits_for_happens_in_the_same_moment(ticks: int) -> None:
    async def body() -> None:
        happened = asyncio.Event()

        async def forever() -> None:
            while True:
                await hubs._within(3600, happened)
                happened.clear()

        pausing = asyncio.create_task(forever())
        await asyncio.sleep(0.01)
        happened.set()
        for _ in range(ticks):
            await asyncio.sleep(0)
        pausing.cancel()
        done, _ = await asyncio.wait({pausing}, timeout=5)
        pausing.cancel()  # a second time, so that a defect fails here and hangs nothing
        assert done

    within_one_loop(body)


def test_a_foreign_message_does_not_end_the_fan_out(valkey: Any) -> None:
    async def body() -> None:
        hub, client = Hub(), Client(everything)
        await hub.join(client)
        for text in (b"nonsense", b"[]", b'{"event":"X"}', b"\xff"):
            await sync_to_async(valkey.publish)(CHANNEL, text)
        await send(*frames(1))
        assert numbers(await take(client, 1)) == [0]

    within_one_loop(body)


def test_the_number_of_sockets_is_told_and_expires_with_the_process(valkey: Any) -> None:
    async def body() -> None:
        hub = Hub()
        await hub.join(Client(everything))
        await until(lambda: valkey.get(hub._key) == b"1")
        assert 0 < valkey.ttl(hub._key) <= 30

    within_one_loop(body)
