"""Start, stop and read instances. EC2's own list, by tags, is the truth; nothing is kept in this process.

Source: docs/reference/ec2.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from django.utils import timezone

from config.evt import evt
from config.locks import outside_transaction
from provisioning.backends.base import (
    BackendError,
    Bare,
    Compute,
    ComputeState,
    ErrorClass,
    FileError,
    FileProblem,
    ImageInfo,
    Plan,
    Started,
    StartSpec,
)
from provisioning.backends.ec2.client import FAILED, code_of, connected, translated
from provisioning.backends.ec2.machines import LIVE, Machine, machines
from provisioning.backends.ec2.options import Ec2Options, options_by_settings
from provisioning.backends.ec2.requests import Attempt, attempts, launch_request
from provisioning.backends.ec2.tags import filters
from provisioning.backends.files import checked_name

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client

log = structlog.get_logger(__name__)

# EC2 may not list an instance for a moment after it has told its id.
UNLISTED_FOR = timedelta(seconds=120)
CONSOLE_BYTES = 256 * 1024
HOST_NETWORK_TIER = (
    4  # its container shares the machine's network, and a hop limit cannot keep it off metadata
)
NEWER_RUNS = "a newer start of this workspace is already running"
GOING = frozenset({"shutting-down", "terminated"})

# The compute of a workspace that the ledger knows, newest first.
Recorded = Callable[[UUID], Sequence[Compute]]


# Raises BackendError(IMAGE_UNAVAILABLE) for an image that the registry does not have.
ImageCheck = Callable[[str], None]


def _no_record(_: UUID) -> Sequence[Compute]:
    return ()


def _no_check(_: str) -> None:
    pass


class Ec2Backend(Bare):
    """One instance per workspace and generation. `recorded` tells ids that the tags may not show yet."""

    label = "cp"
    capabilities = frozenset({"console", "logs", "spot", "boot_bundle"})

    def __init__(
        self, options: Ec2Options, *, recorded: Recorded = _no_record, check_image: ImageCheck = _no_check
    ) -> None:
        self._options = options
        self._check_image = check_image
        self._recorded = recorded
        self._client: EC2Client = connected(options)

    @classmethod
    def from_settings(cls, *, recorded: Recorded, check_image: ImageCheck = _no_check) -> Ec2Backend:
        return cls(options_by_settings(), recorded=recorded, check_image=check_image)

    # --- Start

    def ensure_image(self, spec: StartSpec) -> ImageInfo:
        """The machine pulls for itself; here the registry is asked whether there is something to pull."""
        outside_transaction()
        name = f"workspace-template-{spec.runtime}:latest"
        reference = spec.image or "/".join(filter(None, (self._options.image_registry, name)))
        own = self._options.image_registry
        if own and reference.startswith(f"{own}/"):  # no other registry is called, nor given our account
            self._check_image(reference)
        return ImageInfo(reference, reference.partition("@")[2] or None)

    def start(self, spec: StartSpec) -> Started:
        """Try each subnet, and then each market, until one has room."""
        outside_transaction()
        for name in spec.files:
            checked_name(name)
        refused = None
        for attempt in attempts(self._options):
            found = self._found(spec.workspace_id, LIVE)
            if any(one.generation > spec.generation for one in found):
                raise BackendError(ErrorClass.CONFLICT, NEWER_RUNS)
            current = [one for one in found if one.generation == spec.generation and one.is_coming_up]
            left_behind = not self._clear_away([one for one in found if one not in current[:1]])
            if current:
                return self._started(spec, current[0], adopted=True, left_behind=left_behind)
            try:
                machine, is_adopted = self._launch(spec, attempt)
            except BackendError as error:
                if error.error_class != ErrorClass.CAPACITY:
                    raise
                log.info("ec2.no_capacity", workspace_id=str(spec.workspace_id), detail=error.detail)
                refused = error
                continue
            left_behind = not self._last_look(spec, machine)
            return self._started(spec, machine, adopted=is_adopted, left_behind=left_behind)
        raise refused or BackendError(ErrorClass.CONFIG, FAILED, detail="no subnet is configured")

    def _last_look(self, spec: StartSpec, mine: Machine) -> bool:
        """Two starts that raced past each other's first look meet here: the newer stays. Raises CONFLICT for
        the other; False when an older machine will not go.
        """
        try:
            found = self._found(spec.workspace_id, LIVE)
        except BackendError as error:  # the machine is there; its generation protects without this look too
            log.warning("ec2.no_last_look", workspace_id=str(spec.workspace_id), error=error.detail)
            return True
        others = [one for one in found if one.instance_id != mine.instance_id]
        if any(one.generation > spec.generation for one in others):
            self._terminate(spec.workspace_id, mine.instance_id)
            raise BackendError(ErrorClass.CONFLICT, NEWER_RUNS)
        return self._clear_away([one for one in others if one.generation < spec.generation])

    def _clear_away(self, old: Iterable[Machine]) -> bool:
        """What an earlier stop left running goes first; False when it will not: then it is owed."""
        is_clear = True
        for machine in old:
            try:
                self._terminate(machine.workspace_id, machine.instance_id)
            except BackendError as error:
                log.warning("ec2.not_replaced", instance_id=machine.instance_id, error=error.detail)
                is_clear = False
        return is_clear

    def _launch(self, spec: StartSpec, attempt: Attempt) -> tuple[Machine, bool]:
        """The machine of this attempt, and whether it was there before."""
        self._check_limit()
        request = launch_request(spec, self._options, attempt, self._root_device)
        try:
            with translated(self._options.region, request["InstanceType"]):
                made = machines(self._client.run_instances(**request)["Instances"])[0]
        except BackendError as error:
            if code_of(error) == "IdempotentParameterMismatch":
                return self._launched_before(spec, error), True
            if error.error_class == ErrorClass.QUOTA:
                raise self._quota_reached(error.detail) from error
            raise
        if not made.is_coming_up:  # the answer to an earlier request with the same token
            raise BackendError(
                ErrorClass.BOOT_FAILED,
                "the workspace's machine ended while it started; restart the workspace",
                detail=f"{made.instance_id} is {made.phase}",
            )
        return made, False

    def _launched_before(self, spec: StartSpec, error: BackendError) -> Machine:
        """An earlier attempt, made before a setting changed, went through after all."""
        for machine in self._found(spec.workspace_id, LIVE):
            if machine.generation == spec.generation and machine.is_coming_up:
                return machine
        text = "cloud provider temporarily unavailable"
        raise BackendError(ErrorClass.TRANSIENT, text, detail=error.detail, retryable=True) from error

    def _check_limit(self) -> None:
        most = self._options.max_instances
        if most and len(self._found(phases=LIVE)) >= most:
            raise self._quota_reached(f"EC2_MAX_INSTANCES={most}")

    def _quota_reached(self, detail: str) -> BackendError:
        """A sentence that says what to do, with the numbers that show where to look."""
        try:
            running = self._found(phases=LIVE)
        except BackendError:
            numbers = ""
        else:
            extra = len(running) - len({one.workspace_id for one in running})
            numbers = f" with {len(running)} workspace machines running, {extra} of them duplicates"
        text = (
            f"the machine quota in {self._options.region} is reached{numbers}; "
            "remove or hibernate workspaces nobody needs, or raise the quota"
        )
        return BackendError(ErrorClass.QUOTA, text, detail=detail)

    def _started(self, spec: StartSpec, machine: Machine, *, adopted: bool, left_behind: bool) -> Started:
        fields = {
            "workspace_id": str(spec.workspace_id),
            "instance_id": machine.instance_id,
            "state": machine.phase,
            "tier": spec.tier,
            "runtime": spec.runtime,
            "instance_type": machine.instance_type,
            "az": machine.zone,
            "market": machine.market,
            "adopted": adopted,
        }
        evt("provision.ec2_started", fields)
        return Started(
            machine.instance_id,
            machine.url,
            machine.url,
            machine.state,
            adopted=adopted,
            instance_id=machine.instance_id,
            left_behind=left_behind,
        )

    @cached_property
    def _root_device(self) -> str:
        """The name under which the image mounts its root disk: only under that name can its size be set."""
        with translated(self._options.region):
            images = self._client.describe_images(ImageIds=[self._options.ami_id])["Images"]
        if not images:
            text = "EC2 is not configured correctly on this server; ask an administrator"
            raise BackendError(ErrorClass.CONFIG, text, detail=f"no image {self._options.ami_id}")
        return images[0]["RootDeviceName"]

    def dry_run(self, spec: StartSpec) -> Plan:
        outside_transaction()
        attempt = attempts(self._options)[0]
        checks = {}
        try:
            request = launch_request(spec, self._options, attempt, self._root_device)
            with translated(self._options.region, request["InstanceType"]):
                self._client.run_instances(**(request | {"DryRun": True}))
        except BackendError as error:
            checks["ec2"] = "ok" if code_of(error) == "DryRunOperation" else error.safe_message
        return Plan(
            self.label,
            sorted(spec.environment),
            sorted(spec.files),
            checks,
            image=spec.image,
            limits={"market": attempt.market},
            instance_type=self._options.instance_type(spec.tier),
        )

    # --- Stop

    def stop(self, workspace_id: UUID, below_generation: int | None = None) -> None:
        outside_transaction()

        def is_meant(generation: int) -> bool:
            return below_generation is None or generation < below_generation

        found = self._found(workspace_id)
        listed = {one.instance_id for one in found}
        ids = [one.instance_id for one in found if one.is_live and is_meant(one.generation)]
        for known in self._recorded(workspace_id):
            if is_meant(known.generation) and known.compute_id not in listed:
                ids.append(known.compute_id)
        for instance_id in ids:
            self._terminate(workspace_id, instance_id)

    def stop_compute(self, workspace_id: UUID, compute_id: str) -> None:
        outside_transaction()
        if any(one.instance_id == compute_id for one in self._found(workspace_id, LIVE)):
            self._terminate(workspace_id, compute_id)

    def _terminate(self, workspace_id: UUID, instance_id: str) -> None:
        """Return once EC2 has acknowledged it. An instance that is no more is a success."""
        try:
            with translated(self._options.region):
                answer = self._client.terminate_instances(InstanceIds=[instance_id])
        except BackendError as error:
            if code_of(error) == "InvalidInstanceID.NotFound":
                return
            if code_of(error) == "InvalidInstanceID.Malformed":  # a wrong record; what is ours has its tags
                log.warning("ec2.malformed_id", workspace_id=str(workspace_id), instance_id=instance_id)
                return
            raise
        for one in answer["TerminatingInstances"]:
            before, now = one["PreviousState"]["Name"], one["CurrentState"]["Name"]
            if now not in GOING:
                text = "the workspace's machine could not be stopped"
                raise BackendError(
                    ErrorClass.TRANSIENT, text, detail=f"{instance_id} is {now}", retryable=True
                )
            if before not in GOING:
                fields = {"workspace_id": str(workspace_id), "instance_id": instance_id}
                evt("provision.ec2_stopped", {**fields, "previous_state": before})

    def finish_boot(self, workspace_id: UUID) -> None:
        """Close the metadata service where a container could reach it."""
        outside_transaction()
        for machine in self._found(workspace_id, LIVE):
            if machine.tier == HOST_NETWORK_TIER and machine.has_metadata:
                with translated(self._options.region):
                    self._client.modify_instance_metadata_options(
                        InstanceId=machine.instance_id, HttpEndpoint="disabled"
                    )

    def remove_storage(self, workspace_id: UUID) -> None:
        """The disks went with their instances."""
        outside_transaction()

    # --- Read

    def status(self, workspace_id: UUID) -> ComputeState:
        outside_transaction()
        try:
            return self._state(workspace_id)
        except Exception as error:
            log.warning(
                "ec2.status_unknown",
                workspace_id=str(workspace_id),
                error=getattr(error, "detail", "") or repr(error),
            )
            return ComputeState.UNKNOWN

    def _state(self, workspace_id: UUID) -> ComputeState:
        found = self._found(workspace_id)
        states = {one.state for one in found}
        for state in (ComputeState.RUNNING, ComputeState.STARTING, ComputeState.UNKNOWN):
            if state in states:
                return state
        listed = {one.instance_id for one in found}
        for known in self._recorded(workspace_id)[:1]:
            is_fresh = known.started_at is not None and known.started_at > timezone.now() - UNLISTED_FOR
            if known.compute_id not in listed and is_fresh:
                return ComputeState.STARTING
        return ComputeState.NOT_RUNNING

    def list_managed(self) -> list[Compute]:
        outside_transaction()
        return [machine.as_compute() for machine in self._found(phases=LIVE)]

    def console(self, workspace_id: UUID) -> str:
        outside_transaction()
        found = sorted(self._found(workspace_id), key=lambda one: (one.is_live, one.generation))
        if not found:
            raise FileError(FileProblem.MISSING, "this workspace has no machine")
        instance_id = found[-1].instance_id
        try:
            with translated(self._options.region):
                output = self._client.get_console_output(InstanceId=instance_id, Latest=True).get("Output")
        except BackendError as error:
            if code_of(error) != "UnsupportedOperation":  # older machine types keep their first minutes only
                raise
            with translated(self._options.region):
                output = self._client.get_console_output(InstanceId=instance_id).get("Output")
        return (output or "").encode()[-CONSOLE_BYTES:].decode(errors="ignore")

    def logs(self, workspace_id: UUID, tail: int) -> str:
        """The end of the console: the agent's own log stays on its machine."""
        return "\n".join(self.console(workspace_id).splitlines()[-tail:])

    def close(self) -> None:
        self._client.close()

    def _found(self, workspace_id: UUID | None = None, phases: Sequence[str] = ()) -> list[Machine]:
        """This deployment's instances (of one workspace, in these phases), oldest first. Raises BackendError
        rather than return a part.
        """
        wanted = filters(self._options, workspace_id)
        if phases:
            wanted.append({"Name": "instance-state-name", "Values": list(phases)})
        pages = self._client.get_paginator("describe_instances").paginate(Filters=wanted)
        with translated(self._options.region):
            instances = [
                instance
                for page in pages
                for reservation in page["Reservations"]
                for instance in reservation["Instances"]
            ]
        return machines(instances)
