"""What the operator decided about instances. Source: docs/reference/ec2.md, Settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings

NEEDED = ("AWS_REGION", "EC2_AMI_ID", "EC2_SUBNET_IDS", "EC2_SECURITY_GROUP_IDS")
ANY_TIER = 2  # a tier that is none is given the standard one's machine


@dataclass(frozen=True)
class Ec2Options:
    """`org_id` is empty outside SaaS; `max_instances` 0 leaves it to the account's quota."""

    region: str
    ami_id: str
    subnet_ids: tuple[str, ...]
    security_group_ids: tuple[str, ...]
    instance_id: str  # of this deployment
    platform_url: str
    org_id: str
    image_registry: str
    registry_user: str
    registry_password: str
    instance_profile: str
    instance_types: Mapping[int, str]
    root_gb: Mapping[int, int]
    market: str
    public_ip: bool
    max_instances: int
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    session_token: str

    @property
    def markets(self) -> tuple[str, ...]:
        """In the order they are tried."""
        return ("spot", "on-demand") if self.market == "spot-then-on-demand" else (self.market,)

    def instance_type(self, tier: int) -> str:
        return self.instance_types.get(tier, self.instance_types[ANY_TIER])

    def disk_gb(self, tier: int) -> int:
        return self.root_gb.get(tier, self.root_gb[ANY_TIER])


def missing_settings() -> list[str]:
    """The names of the needed settings that are empty."""
    return [name for name in NEEDED if not getattr(settings, name)]


def options_by_settings() -> Ec2Options:
    return Ec2Options(
        region=settings.AWS_REGION,
        ami_id=settings.EC2_AMI_ID,
        subnet_ids=tuple(settings.EC2_SUBNET_IDS),
        security_group_ids=tuple(settings.EC2_SECURITY_GROUP_IDS),
        instance_id=settings.INSTANCE_ID,
        platform_url=settings.PLATFORM_URL,
        org_id=settings.MOLECULE_ORG_ID,
        image_registry=settings.MOLECULE_IMAGE_REGISTRY,
        registry_user=settings.GHCR_USER,
        registry_password=settings.GHCR_TOKEN,
        instance_profile=settings.EC2_INSTANCE_PROFILE,
        instance_types=settings.EC2_INSTANCE_TYPES,
        root_gb=settings.EC2_ROOT_GB,
        market=settings.EC2_MARKET,
        public_ip=settings.EC2_ASSOCIATE_PUBLIC_IP,
        max_instances=settings.EC2_MAX_INSTANCES,
        endpoint_url=settings.EC2_ENDPOINT_URL,
        access_key_id=settings.AWS_ACCESS_KEY_ID,
        secret_access_key=settings.AWS_SECRET_ACCESS_KEY,
        session_token=settings.AWS_SESSION_TOKEN,
    )
