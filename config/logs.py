"""Logs: events with fields, one line each, on standard output."""

from __future__ import annotations

import logging
import logging.config
from typing import Any

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


_fields = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def _line(logger: Any, method: str, event: structlog.typing.EventDict) -> str:
    """`22:39:53.276 info run.entered workspace_id=... attempt=1`, a traceback on the lines after it."""
    event.pop("logger", None)
    trace = event.pop("exception", None)
    head = f"{str(event.pop('timestamp'))[11:23]} {event.pop('level')} {event.pop('event')}"
    fields = _fields(logger, method, event)
    return " ".join(filter(None, [head, str(fields)])) + (f"\n{trace}" if trace else "")


def _is_prose(record: logging.LogRecord) -> bool:
    """Lines of `molecule.evt` have a handler and a form of their own."""
    return record.name != "molecule.evt"


def configure() -> None:
    """Send structlog and the standard library's loggers through one formatter: `event key=value ...`."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": _SHARED,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        _line,
                    ],
                },
                "bare": {"format": "%(message)s"},
            },
            "filters": {"prose": {"()": lambda: _is_prose}},
            "handlers": {
                "out": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "formatter": "line",
                    "filters": ["prose"],
                },
                "evt": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "bare"},
            },
            "root": {"handlers": ["out"], "level": "INFO"},
            "loggers": {
                "molecule.evt": {"handlers": ["evt"], "level": "INFO", "propagate": True},
                "django.request": {"level": "ERROR"},
                "django.server": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "celery.beat": {"level": "WARNING"},
            },
        }
    )
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
