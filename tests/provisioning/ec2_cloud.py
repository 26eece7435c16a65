"""A cloud account for tests: moto's server as a process of its own, behind a proxy that sees every call.

The proxy does what moto does not: it honours client tokens, refuses with errors that are asked for, loses
answers and hides instances that were made a moment ago. What it is asked to do, it does to real requests.
"""

from __future__ import annotations

import base64
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

import boto3

REGION = "us-east-2"
ERROR = (
    "<Response><Errors><Error><Code>{code}</Code><Message>{code}, as asked</Message></Error></Errors>"
    "<RequestID>test</RequestID></Response>"
)
NO_INSTANCES = (
    '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    "<requestId>test</requestId><reservationSet/></DescribeInstancesResponse>"
)


@dataclass
class Fault:
    """What happens to the next `times` calls of `action` that `applies` to."""

    action: str
    code: str = ""
    status: int = 400
    times: int = 1
    is_late: bool = False  # the call is carried out first, and its answer lost
    body: str = ""  # an answer of the test's own
    until: threading.Event | None = None  # the answer waits for it, or for a minute
    applies: Callable[[dict[str, str]], bool] = field(default=lambda _: True)


class Cloud:
    """`calls` are the requests as they went over the wire: (action, parameters)."""

    def __init__(self, moto_port: int) -> None:
        self._moto_port = moto_port
        self._mutex = threading.Lock()
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self._tokens: dict[str, tuple[dict[str, str], tuple[int, bytes]]] = {}
        self._launching: dict[str, threading.Lock] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.ec2 = self._client("ec2")  # past the proxy: the truth
        self.subnets = [one["SubnetId"] for one in self.ec2.describe_subnets()["Subnets"]]
        self.zones = {
            one["SubnetId"]: one["AvailabilityZone"] for one in self.ec2.describe_subnets()["Subnets"]
        }
        self.group = self.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        self.ami = "ami-1e749f67"

    def _client(self, service: str) -> Any:
        return boto3.session.Session().client(
            service,
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{self._moto_port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def forget(self) -> None:
        """What one test asked for is not the next one's."""
        with self._mutex:
            self.calls.clear()
            self.faults.clear()
            self._tokens.clear()
        ids = [one["InstanceId"] for one in self.instances()]
        if ids:
            self.ec2.terminate_instances(InstanceIds=ids)

    def fail(self, action: str, code: str = "", **more: Any) -> None:
        self.faults.append(Fault(action, code, **more))

    def hide_instances(self, times: int) -> None:
        """The next descriptions of instances find none, as right after a launch."""
        self.faults.append(Fault("DescribeInstances", body=NO_INSTANCES, status=200, times=times))

    def called(self, action: str) -> list[dict[str, str]]:
        return [parameters for name, parameters in list(self.calls) if name == action]

    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in list(self.calls))

    def instances(self, *states: str, **tags: str) -> list[Any]:
        """The instances that exist, live ones unless states are named."""
        filters = [
            {
                "Name": "instance-state-name",
                "Values": list(states or ("pending", "running", "stopping", "stopped")),
            }
        ]
        filters += [
            {"Name": f"tag:molecule:{key.replace('_', '-')}", "Values": [value]}
            for key, value in tags.items()
        ]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return [one for page in pages for group in page["Reservations"] for one in group["Instances"]]

    def make_profile(self, name: str) -> None:
        self._client("iam").create_instance_profile(InstanceProfileName=name)

    def user_data_of(self, instance_id: str) -> str:
        answer = self.ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
        return base64.b64decode(answer["UserData"]["Value"]).decode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    # --- The proxy

    def answer(
        self, action: str, parameters: dict[str, str], raw: bytes, headers: Any
    ) -> tuple[int, bytes] | None:
        """Status and body; None closes the connection without an answer."""
        with self._mutex:
            self.calls.append((action, parameters))
            fault = next(
                (one for one in self.faults if one.action == action and one.applies(parameters)), None
            )
            if fault:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
        if fault and not fault.is_late:
            return fault.status, (fault.body or ERROR.format(code=fault.code)).encode()
        reply = (
            self._launch(parameters, raw, headers)
            if action == "RunInstances"
            else self._forward(raw, headers)
        )
        if fault and fault.until:
            fault.until.wait(60)
        return None if fault else reply

    def _launch(self, parameters: dict[str, str], raw: bytes, headers: Any) -> tuple[int, bytes]:
        """The same token means the same instance; with other parameters it is refused."""
        token = parameters.get("ClientToken", "")
        if parameters.get("DryRun") == "true" or not token:
            return self._forward(raw, headers)
        with self._mutex:
            turn = self._launching.setdefault(token, threading.Lock())
        with turn:
            if known := self._tokens.get(token):
                if known[0] != parameters:
                    return 400, ERROR.format(code="IdempotentParameterMismatch").encode()
                return known[1]
            reply = self._forward(raw, headers)
            if reply[0] == 200:
                self._tokens[token] = (parameters, reply)
            return reply

    def _forward(self, raw: bytes, headers: Any) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._moto_port, timeout=60)
        kept = {key: value for key, value in headers.items() if key.lower() not in {"host", "content-length"}}
        # moto tells services apart by the signature, which names region and service
        connection.request("POST", "/", raw, kept)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parameters = dict(parse_qsl(raw.decode(), keep_blank_values=True))
                reply = cloud.answer(parameters.get("Action", ""), parameters, raw, self.headers)
                if reply is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, body = reply
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@contextmanager
def moto_server() -> Iterator[int]:
    """A port on which moto answers, in a process of its own."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "moto did not start"
                assert time.monotonic() < deadline, "moto does not answer"
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()
