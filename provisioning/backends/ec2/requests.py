"""The RunInstances request of one start. Source: docs/reference/ec2.md, The request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioning.backends.base import StartSpec
from provisioning.backends.ec2.options import Ec2Options
from provisioning.backends.ec2.tags import tags_of
from provisioning.backends.ec2.user_data import user_data

if TYPE_CHECKING:
    from mypy_boto3_ec2.literals import ResourceTypeType
    from mypy_boto3_ec2.type_defs import RunInstancesRequestTypeDef

TAGGED: tuple[ResourceTypeType, ...] = ("instance", "volume", "network-interface")


@dataclass(frozen=True)
class Attempt:
    """One way to get the machine: a subnet and how it is bought. `index` makes its client token its own."""

    index: int
    subnet_id: str
    market: str


def attempts(options: Ec2Options) -> list[Attempt]:
    """All subnets in order, then all of them again in the next market."""
    ways = [(subnet, market) for market in options.markets for subnet in options.subnet_ids]
    return [Attempt(index, subnet, market) for index, (subnet, market) in enumerate(ways)]


def client_token(spec: StartSpec, attempt: Attempt) -> str:
    """At most 64 ASCII characters; the same for every try of the same attempt."""
    return f"ws-{spec.workspace_id.hex}-g{spec.generation}-a{attempt.index}"


def launch_request(
    spec: StartSpec, options: Ec2Options, attempt: Attempt, root_device: str
) -> RunInstancesRequestTypeDef:
    """The same bytes for every try of one attempt: EC2 compares them under the client token.

    Raises BackendError when the user-data does not fit.
    """
    kinds: tuple[ResourceTypeType, ...] = TAGGED
    request: RunInstancesRequestTypeDef = {
        "ClientToken": client_token(spec, attempt),
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": options.ami_id,
        "InstanceType": options.instance_type(spec.tier),  # type: ignore[typeddict-item]  # the operator's
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
            "InstanceMetadataTags": "disabled",
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": root_device,
                "Ebs": {
                    "VolumeType": "gp3",
                    "VolumeSize": options.disk_gb(spec.tier),
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": attempt.subnet_id,
                "Groups": list(options.security_group_ids),
                "AssociatePublicIpAddress": options.public_ip,
                "DeleteOnTermination": True,
            }
        ],
        "UserData": user_data(spec, options),
    }
    if attempt.market == "spot":
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
        kinds = (*TAGGED, "spot-instances-request")
    if options.instance_profile:
        key = "Arn" if options.instance_profile.startswith("arn:") else "Name"
        request["IamInstanceProfile"] = {key: options.instance_profile}  # type: ignore[misc]
    request["TagSpecifications"] = [{"ResourceType": kind, "Tags": tags_of(spec, options)} for kind in kinds]
    return request
