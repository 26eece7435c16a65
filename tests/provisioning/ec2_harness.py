"""EC2 in the conformance suite: an emulated account, and machines that run the real boot script."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from provisioning.backends.base import Started, StartSpec
from provisioning.backends.ec2 import Ec2Backend, client
from provisioning.backends.ec2.options import Ec2Options, options_by_settings
from provisioning.services.boot_bundles import content_of
from tests.provisioning.ec2_cloud import REGION, Cloud
from tests.provisioning.harness import Harness
from tests.provisioning.machine import Machine

SIZES = {1: ("t3.small", 20), 2: ("t3.medium", 30), 3: ("t3.large", 40)}


class Bundles:
    """Hands out starts by token, over HTTP, as the server would."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        bundles = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = bundles.contents.get(self.headers["Authorization"].removeprefix("Bearer "))
                self._answer(200 if content else 401, content or b"{}")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(200, b"{}")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class HandingBackend(Ec2Backend):
    """Makes the bundle of each start, as the execution of a run does."""

    def __init__(self, options: Ec2Options, bundles: Bundles) -> None:
        super().__init__(options)
        self._bundles = bundles

    def start(self, spec: StartSpec) -> Started:
        token = f"{spec.workspace_id}-{spec.generation}"
        complete = replace(spec, image="registry.example/image:1", boot_token=token)
        self._bundles.contents.setdefault(token, json.dumps(content_of(complete)).encode())
        return super().start(complete)


class Ec2Harness(Harness):
    keeps_files = False  # disks go with their machines
    tells_racers_apart = False  # the same client token gives all of them the same answer

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud = cloud
        self._folder = folder
        self._mark = f"test-{uuid4().hex[:12]}"
        self._bundles = Bundles()
        self._machines: dict[str, Machine] = {}

    def backend(self, deployment: str = "mine", **changes: Any) -> Ec2Backend:
        options = replace(
            options_by_settings(),
            region=REGION,
            ami_id=self._cloud.ami,
            subnet_ids=tuple(self._cloud.subnets[:2]),
            security_group_ids=(self._cloud.group,),
            instance_id=f"{self._mark}-{deployment}",
            platform_url=self._bundles.url,
            endpoint_url=self._cloud.url,
            access_key_id="test",
            secret_access_key="test",
        )
        return HandingBackend(replace(options, **changes), self._bundles)

    def broken(self) -> Ec2Backend:
        self._cloud.fail("RunInstances", "SomethingNew")
        return self.backend()

    @contextmanager
    def unreachable(self) -> Iterator[Ec2Backend]:
        real, client.TRIES = client.TRIES, 1
        try:
            yield self.backend(endpoint_url="http://127.0.0.1:9")
        finally:
            client.TRIES = real

    def first_saw(self, workspace_id: UUID) -> Mapping[str, str]:
        seen: dict[str, str] = self._booted(workspace_id).seen["files"]
        return seen

    def stored(self, workspace_id: UUID) -> Mapping[str, tuple[int, int]]:
        return self._booted(workspace_id).configs()

    def owner(self) -> int:
        return 1000

    def applied(self, workspace_id: UUID) -> Mapping[str, Any]:
        instance = self._instance(workspace_id)
        attached = {"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}
        (volume,) = self._cloud.ec2.describe_volumes(Filters=[attached])["Volumes"]
        return {
            "type": instance["InstanceType"],
            "disk": volume["Size"],
            "encrypted": volume["Encrypted"],
            "metadata": instance["MetadataOptions"]["HttpTokens"],
        }

    def limits(self, tier: int) -> Mapping[str, Any]:
        return {"type": SIZES[tier][0], "disk": SIZES[tier][1], "encrypted": True, "metadata": "required"}

    def end(self) -> None:
        self._bundles.close()
        self._cloud.forget()

    def _instance(self, workspace_id: UUID) -> Any:
        (instance,) = self._cloud.instances(workspace_id=str(workspace_id))
        return instance

    def _booted(self, workspace_id: UUID) -> Machine:
        instance_id = self._instance(workspace_id)["InstanceId"]
        if instance_id not in self._machines:
            machine = self._machines[instance_id] = Machine(self._cloud, instance_id, self._folder)
            done = machine.boot()
            assert done.returncode == 0, done.stdout + done.stderr
        return self._machines[instance_id]
