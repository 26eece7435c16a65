"""Wires the held backend in the worker processes of test_workers."""

from django.apps import AppConfig


class HeldBackendConfig(AppConfig):
    name = "tests.provisioning"
    label = "held_backend"

    def ready(self) -> None:
        from provisioning import dispatch
        from tests.provisioning.held_backend import held_backend

        dispatch.wire(held_backend())
