"""What Celery's transport over Valkey does when Valkey goes away: by itself it ends the worker."""

from __future__ import annotations

from kombu.transport.redis import Channel, QoS


class Answers(QoS):
    """Acknowledges what a channel has delivered, while there is that channel.

    A task may end after its connection was lost and a new one was made. Its message is answered on the old
    channel then, whose error is none that Celery knows, and the worker ends. Nobody waits for that answer: a
    message comes again at worst, and rows say what there is to do.
    """

    def ack(self, delivery_tag: str) -> None:
        if self._has_channel():
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if self._has_channel():
            super().reject(delivery_tag, requeue=requeue)

    def _has_channel(self) -> bool:
        return self.channel.connection is not None


def survive_its_loss() -> None:
    """Have every channel of this process outlive its broker."""
    Channel.QoS = Answers
    # A worker of threads would put back what it works on, over a connection that is gone; that error ends it,
    # after its last task. Nothing has to be put back: the sweeps ring for every row.
    Channel.do_restore = False
