from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler

from bench import load, wire
from bench.wire import Answer
from tests.bench.server import answer, serving

ASK = wire.request("GET", "/x", token="t")


def test_answers_keep_the_order_of_their_requests() -> None:
    with serving(lambda handler: answer(handler, 200, handler.path.encode())) as target:
        asked = [wire.request("GET", f"/{number}") for number in range(40)]
        answers = load.ask_all(target.address, target.port, asked, connections=5)
    assert [one.body for one in answers] == [f"/{number}".encode() for number in range(40)]


def test_an_answer_in_chunks_is_put_together() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n")
        handler.wfile.flush()
        handler.wfile.write(b"2;x=y\r\nde\r\n0\r\n\r\n")

    with serving(respond) as target:
        assert (
            load.ask_all(target.address, target.port, [ASK, ASK], connections=1)
            == [Answer(200, b"abcde")] * 2
        )


def test_a_connection_that_the_server_closes_is_opened_again() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        answer(handler, 200, b"{}", Connection="close")

    with serving(respond) as target:
        answers = load.ask_all(target.address, target.port, [ASK] * 5, connections=1)
    assert [one.status for one in answers] == [200] * 5


def test_a_server_that_is_not_there_is_an_answer_of_its_own() -> None:
    with serving(lambda handler: answer(handler, 200)) as target:
        pass
    assert load.ask_all(target.address, target.port, [ASK]) == [Answer(wire.CLOSED, b"")]


def test_a_closed_loop_asks_all_the_time_from_a_process_of_its_own() -> None:
    with serving(lambda handler: answer(handler, 503)) as target:
        done = load.hammer(load.Hammer(target.address, target.port, [ASK], 2, 0.3))
    assert done.samples[""].statuses[503] == len(done.samples[""].milliseconds) > 10
    assert done.unanswered == 0


def test_latency_counts_from_the_moment_a_request_was_due() -> None:
    """A server that stalls once must not hide the requests that would have come meanwhile."""
    stalled = threading.Event()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        if not stalled.is_set():
            stalled.set()
            threading.Event().wait(0.5)
        answer(handler, 200)

    calls = [load.Call(number * 0.01, "x", ASK, "one") for number in range(20)]
    with serving(respond) as target:
        done = load.pace(load.Pace(target.address, target.port, calls, {"one": 1}))
    late = [one for one in done.samples["x"].milliseconds if one > 250]
    assert len(done.samples["x"].milliseconds) == 20
    assert len(late) == 20
