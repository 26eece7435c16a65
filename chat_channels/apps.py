from uuid import UUID

from django.apps import AppConfig


class ChatChannelsConfig(AppConfig):
    name = "chat_channels"
    verbose_name = "Chat channels"

    def ready(self) -> None:
        from a2a import hooks
        from chat_channels.services.delivering import queue_item_settled
        from workspaces import hooks as workspace_hooks

        hooks.settled.append(queue_item_settled)
        workspace_hooks.removed.append(_removed)


def _removed(ids: list[UUID]) -> None:
    from chat_channels.manager import reload_manager

    reload_manager()
