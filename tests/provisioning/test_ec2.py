"""The EC2 backend against an emulated account: what goes over the wire, and what it makes of the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from provisioning.backends.base import (
    BackendError,
    Compute,
    ComputeState,
    File,
    FileError,
    Started,
    StartSpec,
)
from provisioning.backends.ec2 import Ec2Backend, client
from provisioning.backends.ec2 import backend as ec2_backend
from provisioning.backends.ec2.options import options_by_settings
from provisioning.backends.ec2.user_data import MAX_BYTES
from tests.conftest import at_once

pytestmark = pytest.mark.django_db

SECRET = "a-secret-value-nobody-may-read"
TIERS = {1: ("t3.small", 20), 2: ("t3.medium", 30), 3: ("t3.large", 40), 4: ("t3.xlarge", 60)}


def spec(workspace_id: UUID | None = None, generation: int = 1, **changes: Any) -> StartSpec:
    made = StartSpec(
        workspace_id=workspace_id or uuid4(),
        generation=generation,
        operation_id=uuid4(),
        name="A",
        runtime="langgraph",
        tier=3,
        environment={"KEY": SECRET},
        files={".auth_token": File(SECRET.encode(), mode=0o600)},
        boot_token="boot-token",
    )
    return replace(made, **changes)


TRIES = 1  # repetitions by the SDK; its pauses between more of them would be most of these tests' time


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TRIES", TRIES)


@pytest.fixture
def made(ec2_settings: Any) -> Callable[..., Ec2Backend]:
    """A backend as the settings stand when it is made, with changed options."""

    def make(recorded: Sequence[Compute] = (), **changes: Any) -> Ec2Backend:
        return Ec2Backend(replace(options_by_settings(), **changes), recorded=lambda _: recorded)

    return make


@pytest.fixture
def backend(made: Callable[..., Ec2Backend]) -> Ec2Backend:
    return made()


def started(backend: Ec2Backend, **changes: Any) -> tuple[StartSpec, Started]:
    wanted = spec(**changes)
    return wanted, backend.start(wanted)


def refusal(call: Callable[[], Any]) -> BackendError:
    with pytest.raises(BackendError) as raised:
        call()
    return raised.value


def events(caplog: Any, name: str) -> list[dict[str, Any]]:
    lines = [record.getMessage() for record in caplog.records]
    return [json.loads(line.split(" ", 2)[2]) for line in lines if line.startswith(f"evt: {name} ")]


def tags_on_the_wire(request: dict[str, str]) -> dict[str, dict[str, str]]:
    """Resource type -> its tags."""
    found: dict[str, dict[str, str]] = {}
    for key, kind in request.items():
        if match := re.fullmatch(r"TagSpecification\.(\d+)\.ResourceType", key):
            prefix = re.escape(f"TagSpecification.{match[1]}.Tag.")
            numbers = [one[1] for name in request if (one := re.fullmatch(prefix + r"(\d+)\.Key", name))]
            found[kind] = {
                request[f"TagSpecification.{match[1]}.Tag.{n}.Key"]: request[
                    f"TagSpecification.{match[1]}.Tag.{n}.Value"
                ]
                for n in numbers
            }
    return found


# --- The request


@pytest.mark.parametrize("tier", TIERS)
def test_the_request_for_a_machine(backend, cloud, ec2_settings, tier):
    wanted, _ = started(backend, tier=tier, generation=7)
    (request,) = cloud.called("RunInstances")
    instance_type, disk_gb = TIERS[tier]
    assert {
        "MinCount": "1",
        "MaxCount": "1",
        "ImageId": cloud.ami,
        "InstanceType": instance_type,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions.HttpTokens": "required",
        "MetadataOptions.HttpPutResponseHopLimit": "1",
        "MetadataOptions.HttpEndpoint": "enabled",
        "MetadataOptions.InstanceMetadataTags": "disabled",
        "BlockDeviceMapping.1.DeviceName": "/dev/sda1",
        "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
        "BlockDeviceMapping.1.Ebs.VolumeSize": str(disk_gb),
        "BlockDeviceMapping.1.Ebs.Encrypted": "true",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
        "NetworkInterface.1.SubnetId": cloud.subnets[0],
        "NetworkInterface.1.SecurityGroupId.1": cloud.group,
        "NetworkInterface.1.AssociatePublicIpAddress": "false",
        "ClientToken": f"ws-{wanted.workspace_id.hex}-g7-a0",
    }.items() <= request.items()
    assert not {"KeyName", "IamInstanceProfile.Name", "InstanceMarketOptions.MarketType"} & set(request)
    expected = {
        "molecule:managed": "true",
        "molecule:platform-instance": ec2_settings.INSTANCE_ID,
        "molecule:org-id": "",
        "molecule:workspace-id": str(wanted.workspace_id),
        "molecule:generation": "7",
        "molecule:operation-id": str(wanted.operation_id),
        "molecule:runtime": "langgraph",
        "molecule:tier": str(tier),
        "Name": f"ws-{wanted.workspace_id}",
    }
    assert tags_on_the_wire(request) == dict.fromkeys(("instance", "volume", "network-interface"), expected)


def test_what_was_asked_for_is_what_the_account_made(backend, cloud):
    wanted, answer = started(backend)
    (instance,) = cloud.instances(workspace_id=str(wanted.workspace_id))
    assert instance["InstanceId"] == answer.compute_id == answer.instance_id
    assert answer.url == answer.internal_url == f"http://{instance['PrivateIpAddress']}:8000"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    (volume,) = cloud.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [answer.compute_id]}]
    )["Volumes"]
    assert (volume["Encrypted"], volume["VolumeType"], volume["Size"]) == (True, "gp3", 40)
    assert {"Key": "molecule:generation", "Value": "1"} in volume["Tags"]


def test_user_data_holds_no_secret_but_the_boot_token(backend, cloud):
    _, answer = started(backend)
    text = cloud.user_data_of(answer.compute_id)
    assert text.startswith("#!/bin/bash\n")
    assert SECRET not in text
    assert "BOOT_TOKEN=boot-token\n" in text
    assert len(text.encode()) < MAX_BYTES


def test_no_value_can_become_code(made, cloud):
    strange = "x'; rm -rf / #$(id)`id`\"\nid"
    _, answer = started(made(org_id=strange))
    import subprocess

    text = cloud.user_data_of(answer.compute_id)
    head = text.partition("# Turns a fresh machine")[0] + 'printf %s "$ORG_ID"'
    assert subprocess.run(["bash", "-c", head], capture_output=True, text=True, check=True).stdout == strange


def test_user_data_that_does_not_fit_is_refused_before_the_call(made, cloud):
    error = refusal(lambda: made(platform_url="x" * MAX_BYTES).start(spec()))
    assert (error.error_class, error.retryable) == ("config", False)
    assert cloud.called("RunInstances") == []


def test_the_token_stays_short_for_the_largest_generation(backend, cloud):
    started(backend, generation=2**63 - 1)
    assert len(cloud.called("RunInstances")[0]["ClientToken"]) <= 64


def test_two_tries_send_the_same_bytes(backend, cloud):
    wanted = spec()
    cloud.fail("RunInstances", "InternalError", status=500, times=TRIES + 1)  # the SDK's own tries, used up
    assert refusal(lambda: backend.start(wanted)).retryable
    backend.start(wanted)
    requests = cloud.called("RunInstances")
    assert len(requests) == TRIES + 2
    assert all(request == requests[0] for request in requests)


def test_profile_address_and_market_are_the_operators(made, cloud):
    cloud.make_profile("agents")
    started(made(instance_profile="agents", public_ip=True, market="spot"))
    (request,) = cloud.called("RunInstances")
    assert request["IamInstanceProfile.Name"] == "agents"
    assert request["NetworkInterface.1.AssociatePublicIpAddress"] == "true"
    assert request["InstanceMarketOptions.MarketType"] == "spot"
    assert "spot-instances-request" in tags_on_the_wire(request)


# --- Start, adoption, replacement


def test_a_start_is_logged_with_what_was_made(backend, cloud, caplog):
    wanted, answer = started(backend)
    assert events(caplog, "provision.ec2_started") == [
        {
            "workspace_id": str(wanted.workspace_id),
            "instance_id": answer.compute_id,
            "state": "pending",
            "tier": 3,
            "runtime": "langgraph",
            "instance_type": "t3.large",
            "az": cloud.zones[cloud.subnets[0]],
            "market": "on-demand",
            "adopted": False,
        }
    ]


def test_the_same_generation_is_adopted(backend, made, cloud, caplog):
    wanted, first = started(backend)
    again = made().start(wanted)
    assert (again.compute_id, again.adopted, again.url) == (first.compute_id, True, first.url)
    assert len(cloud.called("RunInstances")) == 1
    assert [one["adopted"] for one in events(caplog, "provision.ec2_started")] == [False, True]


def test_an_answer_that_was_lost_costs_no_second_machine(backend, cloud):
    """Neither when the list shows the instance, nor when it does not yet."""
    for hidden in (0, 2):
        wanted = spec()
        cloud.fail("RunInstances", is_late=True, times=TRIES + 1)
        assert refusal(lambda: backend.start(wanted)).error_class == "transient"
        cloud.hide_instances(hidden) if hidden else None
        backend.start(wanted)
        cloud.faults.clear()
        assert len(cloud.instances(workspace_id=str(wanted.workspace_id))) == 1


def test_an_older_generation_goes_first(backend, cloud, caplog):
    wanted, old = started(backend)
    new = backend.start(replace(wanted, generation=2))
    assert not new.left_behind
    names = [name for name, _ in cloud.calls]
    assert names.index("TerminateInstances") < len(names) - 1 - names[::-1].index("RunInstances")
    assert [one["InstanceId"] for one in cloud.instances()] == [new.compute_id]
    assert [one["instance_id"] for one in events(caplog, "provision.ec2_stopped")] == [old.compute_id]


def test_an_older_machine_that_will_not_go_is_told_of_and_does_not_hold_up(backend, cloud):
    wanted, _ = started(backend)
    cloud.fail("TerminateInstances", "OperationNotPermitted", times=2)
    assert backend.start(replace(wanted, generation=2)).left_behind
    assert len(cloud.instances()) == 2
    cloud.fail("TerminateInstances", "OperationNotPermitted")
    assert not backend.start(replace(wanted, generation=3)).left_behind  # it went before the last look
    assert len(cloud.instances()) == 1


def test_an_older_start_gives_way_to_a_newer_machine(backend, cloud):
    wanted, _ = started(backend, generation=2)
    assert refusal(lambda: backend.start(replace(wanted, generation=1))).error_class == "conflict"
    assert len(cloud.instances()) == 1


def test_a_start_that_raced_past_a_newer_one_takes_its_machine_back(backend, cloud):
    wanted, newer = started(backend, generation=2)
    cloud.hide_instances(1)
    assert refusal(lambda: backend.start(replace(wanted, generation=1))).error_class == "conflict"
    assert [one["InstanceId"] for one in cloud.instances()] == [newer.compute_id]


def test_a_start_that_raced_past_an_older_one_clears_it_away(backend, cloud):
    wanted, _ = started(backend)
    cloud.hide_instances(1)
    newer = backend.start(replace(wanted, generation=2))
    assert [one["InstanceId"] for one in cloud.instances()] == [newer.compute_id]


def test_a_last_look_that_fails_does_not_lose_the_machine(backend, cloud):
    looks = iter([False, True, True])
    cloud.fail(
        "DescribeInstances", "InternalError", status=500, times=TRIES + 1, applies=lambda _: next(looks)
    )
    _, answer = started(backend)
    assert [one["InstanceId"] for one in cloud.instances()] == [answer.compute_id]


def test_of_two_machines_of_one_generation_the_first_is_kept(backend, cloud):
    wanted, _ = started(backend)
    cloud._tokens.clear()
    cloud.hide_instances(1)
    backend.start(wanted)
    assert len(cloud.instances()) == 2
    kept = backend.start(wanted)
    assert [one["InstanceId"] for one in cloud.instances()] == [kept.compute_id]


def test_racing_starts_of_one_generation_make_one_machine(made, cloud):
    wanted = spec()
    answers = at_once(*[lambda: made().start(wanted)] * 4)
    assert len({answer.compute_id for answer in answers}) == 1
    assert len(cloud.instances()) == 1


def test_a_setting_changed_between_two_tries_does_not_lose_the_first_machine(backend, made, cloud):
    wanted, first = started(backend)
    cloud.hide_instances(1)
    again = made(platform_url="http://elsewhere").start(wanted)
    assert (again.compute_id, again.adopted) == (first.compute_id, True)
    cloud.hide_instances(2)
    error = refusal(lambda: made(platform_url="http://elsewhere").start(wanted))
    assert (error.error_class, error.retryable) == ("transient", True)


def test_a_machine_that_ended_is_not_passed_off_as_started(backend, cloud):
    """EC2 answers a repeated token with the instance it made, or says that this one is gone."""
    wanted, _ = started(backend)
    backend.stop(wanted.workspace_id)
    cloud.fail("RunInstances", "IdempotentInstanceTerminated")
    error = refusal(lambda: backend.start(wanted))
    assert (error.error_class, error.retryable) == ("boot_failed", False)
    assert "restart the workspace" in error.safe_message


# --- What EC2 refuses


def test_without_capacity_the_next_subnet_is_tried(backend, cloud):
    cloud.fail("RunInstances", "InsufficientInstanceCapacity")
    wanted, _ = started(backend)
    requests = cloud.called("RunInstances")
    assert [one["NetworkInterface.1.SubnetId"] for one in requests] == cloud.subnets[:2]
    assert [one["ClientToken"][-3:] for one in requests] == ["-a0", "-a1"]
    assert [name for name, _ in cloud.calls if "Instances" in name] == [
        "DescribeInstances", "RunInstances", "DescribeInstances", "RunInstances", "DescribeInstances"
    ]  # fmt: skip
    assert len(cloud.instances(workspace_id=str(wanted.workspace_id))) == 1


def test_spot_without_capacity_becomes_on_demand(made, cloud):
    cloud.fail("RunInstances", "InsufficientInstanceCapacity", times=2)
    started(made(market="spot-then-on-demand"))
    requests = cloud.called("RunInstances")
    markets = [one.get("InstanceMarketOptions.MarketType", "on-demand") for one in requests]
    assert markets == ["spot", "spot", "on-demand"]
    assert len({one["ClientToken"] for one in requests}) == 3


def test_capacity_nowhere_may_come_back(backend, cloud):
    cloud.fail("RunInstances", "InsufficientInstanceCapacity", times=2)
    error = refusal(lambda: backend.start(spec()))
    assert (error.error_class, error.retryable) == ("capacity", True)
    assert error.safe_message == ("no capacity for t3.large in us-east-2; try again or choose another size")
    assert cloud.instances() == []


@pytest.mark.parametrize(
    "code", ["VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"]
)
def test_a_quota_says_what_to_do_and_is_not_tried_again(backend, cloud, code):
    started(backend)
    cloud.calls.clear()
    cloud.fail("RunInstances", code)
    error = refusal(lambda: backend.start(spec()))
    assert (error.error_class, error.retryable) == ("quota", False)
    assert error.safe_message == (
        "the machine quota in us-east-2 is reached with 1 workspace machines running, 0 of them duplicates; "
        "remove or hibernate workspaces nobody needs, or raise the quota"
    )
    assert code in error.detail
    assert len(cloud.called("RunInstances")) == 1


@pytest.mark.parametrize(
    ("code", "error_class", "retryable"),
    [
        ("Unsupported", "capacity", True),
        ("SpotMaxPriceTooLow", "capacity", True),
        ("InsufficientFreeAddressesInSubnet", "capacity", True),
        ("RequestLimitExceeded", "transient", True),
        ("ThrottlingException", "transient", True),
        ("ServiceUnavailable", "transient", True),
        ("UnauthorizedOperation", "config", False),
        ("AuthFailure", "config", False),
        ("InvalidAMIID.NotFound", "config", False),
        ("InvalidSubnetID.NotFound", "config", False),
        ("InvalidGroup.NotFound", "config", False),
        ("InvalidParameterValue", "config", False),
        ("SomethingNew", "internal", False),
    ],
)
def test_errors_have_a_class_and_a_sentence_without_their_own_words(
    backend, cloud, code, error_class, retryable
):
    cloud.fail("RunInstances", code, times=10)
    error = refusal(lambda: backend.start(spec()))
    assert (error.error_class, error.retryable) == (error_class, retryable)
    assert code not in error.safe_message
    assert code in error.detail
    cloud.faults.clear()
    assert cloud.instances() == []


def test_an_account_that_cannot_be_reached_is_a_passing_error(made):
    unreachable = made(endpoint_url="http://127.0.0.1:9")
    error = refusal(unreachable.list_managed)
    assert (error.error_class, error.retryable) == ("transient", True)
    assert unreachable.status(uuid4()) == ComputeState.UNKNOWN
    assert refusal(lambda: unreachable.stop(uuid4())).error_class == "transient"


def test_a_wrong_machine_image_is_the_operators(made, cloud):
    error = refusal(lambda: made(ami_id="ami-00000000").start(spec()))
    assert error.error_class == "config"
    assert cloud.called("RunInstances") == []


def test_the_deployments_own_limit_counts_before_the_call(made, cloud):
    backend = made(max_instances=1)
    wanted, _ = started(backend)
    cloud.calls.clear()
    error = refusal(lambda: backend.start(spec()))
    assert (error.error_class, error.detail) == ("quota", "EC2_MAX_INSTANCES=1")
    assert cloud.called("RunInstances") == []
    assert backend.start(replace(wanted, generation=2)).adopted is False  # in the place of its old one


# --- Stop


def test_a_stop_is_logged_once_however_often_it_is_asked_for(backend, cloud, caplog):
    wanted, answer = started(backend)
    backend.stop(wanted.workspace_id)
    backend.stop(wanted.workspace_id)
    backend.stop(uuid4())
    fields = {
        "workspace_id": str(wanted.workspace_id),
        "instance_id": answer.compute_id,
        "previous_state": "running",
    }
    assert events(caplog, "provision.ec2_stopped") == [fields]
    assert cloud.instances() == []


def test_a_stop_ends_every_machine_of_the_workspace_below_the_bound(backend, cloud):
    wanted, _ = started(backend)
    cloud.fail("TerminateInstances", "OperationNotPermitted", times=2)
    new = backend.start(replace(wanted, generation=2))
    other, _ = started(backend)
    backend.stop(wanted.workspace_id, below_generation=2)
    assert {one["InstanceId"] for one in cloud.instances(workspace_id=str(wanted.workspace_id))} == {
        new.compute_id
    }
    backend.stop(wanted.workspace_id)
    assert [one.workspace_id for one in backend.list_managed()] == [other.workspace_id]


def test_a_machine_that_is_not_listed_yet_is_stopped_by_its_recorded_id(backend, made, cloud):
    wanted, answer = started(backend)
    record = Compute(wanted.workspace_id, answer.compute_id, 1, ComputeState.UNKNOWN)
    cloud.hide_instances(1)
    made(recorded=[record]).stop(wanted.workspace_id, below_generation=1)
    assert len(cloud.instances()) == 1  # the bound holds for records too
    cloud.hide_instances(1)
    made(recorded=[record]).stop(wanted.workspace_id)
    assert cloud.instances() == []


@pytest.mark.parametrize("code", ["InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"])
def test_a_record_that_leads_nowhere_does_not_keep_a_stop_from_its_machine(backend, made, cloud, code):
    wanted, _ = started(backend)
    wrong = Compute(wanted.workspace_id, str(wanted.workspace_id), 1, ComputeState.UNKNOWN)
    cloud.fail("TerminateInstances", code, applies=lambda call: call["InstanceId.1"] == wrong.compute_id)
    made(recorded=[wrong]).stop(wanted.workspace_id)
    assert cloud.instances() == []


def test_a_stop_that_is_refused_or_not_acknowledged_raises(backend, cloud):
    wanted, answer = started(backend)
    cloud.fail("TerminateInstances", "UnauthorizedOperation")
    assert refusal(lambda: backend.stop(wanted.workspace_id)).error_class == "config"
    ignored = (
        '<TerminateInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><instancesSet><item>'
        f"<instanceId>{answer.compute_id}</instanceId>"
        "<currentState><code>16</code><name>running</name></currentState>"
        "<previousState><code>16</code><name>running</name></previousState>"
        "</item></instancesSet></TerminateInstancesResponse>"
    )
    cloud.fail("TerminateInstances", body=ignored, status=200)
    error = refusal(lambda: backend.stop(wanted.workspace_id))
    assert (error.error_class, error.retryable) == ("transient", True)


# --- Reading


def test_the_states_of_a_machine(backend, cloud):
    wanted, answer = started(backend)
    assert backend.status(uuid4()) == ComputeState.NOT_RUNNING
    assert backend.status(wanted.workspace_id) == ComputeState.RUNNING
    cloud.ec2.stop_instances(InstanceIds=[answer.compute_id])
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING
    backend.stop(wanted.workspace_id)
    assert backend.status(wanted.workspace_id) == ComputeState.NOT_RUNNING


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("pending", ComputeState.STARTING),
        ("running", ComputeState.RUNNING),
        ("stopping", ComputeState.NOT_RUNNING),
        ("shutting-down", ComputeState.NOT_RUNNING),
        ("terminated", ComputeState.NOT_RUNNING),
        ("something-new", ComputeState.UNKNOWN),
    ],
)
def test_each_word_of_ec2_has_one_meaning(backend, cloud, phase, state):
    workspace_id = uuid4()
    tags = {"molecule:workspace-id": workspace_id, "molecule:generation": 1}
    items = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    body = (
        '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet><item>'
        f"<instancesSet><item><instanceId>i-1</instanceId><instanceState><name>{phase}</name></instanceState>"
        f"<tagSet>{items}</tagSet></item></instancesSet></item></reservationSet></DescribeInstancesResponse>"
    )
    cloud.fail("DescribeInstances", body=body, status=200)
    assert backend.status(workspace_id) == state


def test_a_machine_made_a_moment_ago_that_is_not_listed_yet_is_starting(made, cloud):
    workspace_id = uuid4()

    def status(age_s: float, compute_id: str = "i-unlisted") -> ComputeState:
        at = timezone.now() - timedelta(seconds=age_s)
        record = Compute(workspace_id, compute_id, 1, ComputeState.UNKNOWN, at)
        return made(recorded=[record]).status(workspace_id)

    assert status(60) == ComputeState.STARTING
    assert status(121) == ComputeState.NOT_RUNNING
    ended, answer = started(made())
    made().stop(ended.workspace_id)
    workspace_id = ended.workspace_id
    assert status(5, answer.compute_id) == ComputeState.NOT_RUNNING  # listed, and over


def test_all_machines_are_listed_page_by_page_and_foreign_ones_are_not(backend, made, cloud, monkeypatch):
    mine = {started(backend)[0].workspace_id for _ in range(3)}
    started(made(instance_id="another-deployment"))
    real = backend._client.get_paginator("describe_instances")

    class Small:
        """The same paginator with small pages."""

        def paginate(self, **given: Any) -> Any:
            return real.paginate(**given, PaginationConfig={"PageSize": 5})

    monkeypatch.setattr(backend._client, "get_paginator", lambda _: Small())
    listed = backend.list_managed()
    assert {one.workspace_id for one in listed} == mine
    assert all(one.started_at and one.runtime == "langgraph" and one.generation == 1 for one in listed)


def test_a_list_that_breaks_off_raises(backend, cloud):
    started(backend)
    first_page = (
        '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet/>'
        "<nextToken>more</nextToken></DescribeInstancesResponse>"
    )
    cloud.fail("DescribeInstances", body=first_page, status=200)
    cloud.fail("DescribeInstances", "InternalError", status=500, times=TRIES + 1)
    assert refusal(backend.list_managed).error_class == "transient"


def test_an_instance_with_torn_tags_is_nobodys(backend, cloud, caplog):
    _, answer = started(backend)
    cloud.ec2.create_tags(
        Resources=[answer.compute_id], Tags=[{"Key": "molecule:workspace-id", "Value": "?"}]
    )
    assert backend.list_managed() == []
    assert "ec2.unreadable_tags" in caplog.text


def test_the_console_is_the_newest_machines(backend, cloud):
    with pytest.raises(FileError):
        backend.console(uuid4())
    wanted, _ = started(backend)
    assert "Linux version" in backend.console(wanted.workspace_id)
    assert len(backend.logs(wanted.workspace_id, 3).splitlines()) == 3
    backend.stop(wanted.workspace_id)
    assert "Linux version" in backend.console(wanted.workspace_id)  # what it said before it ended


def test_a_long_console_keeps_its_end(backend, cloud):
    import base64

    wanted, _ = started(backend)
    text = base64.b64encode(("é" * 300_000 + "END").encode()).decode()
    body = (
        '<GetConsoleOutputResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<output>{text}</output></GetConsoleOutputResponse>"
    )
    cloud.fail("GetConsoleOutput", "UnsupportedOperation")  # an older type keeps less, and is asked again
    cloud.fail("GetConsoleOutput", body=body, status=200)
    output = backend.console(wanted.workspace_id)
    assert output.endswith("éEND")
    assert len(output.encode()) <= ec2_backend.CONSOLE_BYTES


def test_a_dry_run_asks_and_makes_nothing(backend, cloud):
    plan = backend.dry_run(spec())
    assert plan.checks == {"ec2": "ok"}
    assert (plan.instance_type, plan.limits) == ("t3.large", {"market": "on-demand"})
    assert (plan.environment_keys, plan.files) == (["KEY"], [".auth_token"])
    assert cloud.called("RunInstances")[0]["DryRun"] == "true"
    assert cloud.instances() == []
    cloud.fail("RunInstances", "UnauthorizedOperation")
    assert "not configured correctly" in backend.dry_run(spec()).checks["ec2"]


@pytest.mark.parametrize(("tier", "state"), [(3, "enabled"), (4, "disabled")])
def test_after_its_boot_a_machine_on_whose_network_the_container_is_has_no_metadata(
    backend, cloud, tier, state
):
    wanted, _ = started(backend, tier=tier)
    backend.finish_boot(wanted.workspace_id)
    backend.finish_boot(wanted.workspace_id)
    backend.finish_boot(uuid4())
    (instance,) = cloud.instances(workspace_id=str(wanted.workspace_id))
    assert instance["MetadataOptions"]["HttpEndpoint"] == state
    assert cloud.counts()["ModifyInstanceMetadataOptions"] == (tier == 4)


def test_ids_with_a_common_beginning_stay_apart(backend, cloud):
    one, other = UUID("12345678-1234-4abc-8000-000000000001"), UUID("12345678-1234-4abc-8000-000000000002")
    backend.start(spec(one))
    backend.start(spec(other))
    backend.stop(one)
    assert [listed.workspace_id for listed in backend.list_managed()] == [other]
