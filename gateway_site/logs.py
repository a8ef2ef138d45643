"""Logging: one line a record (JSON in production, text at a desk), and nothing in it that looks like a secret."""

import logging
import logging.config
import re
from typing import Any

import structlog

_SECRET = re.compile(
    r"(sk-gw-[0-9A-Za-z-]{4}|sk-[A-Za-z0-9_-]{4}|AIza[0-9A-Za-z_-]{4}|xai-[A-Za-z0-9]{4}|Bearer\s+\S{4}|whsec_\S{4}|[sr]k_(?:live|test)_\S{4}"
    r"|/invitations/|/password/reset/key/)\S{6,}"
)


def redact(text: str) -> str:
    """Replace what looks like a credential by its first characters."""
    return _SECRET.sub(r"\1…", text)


def _redact_event(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event


def configure(config: dict[str, str]) -> None:
    """Set up standard logging and structlog alike (called by Django with the LOGGING setting)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = structlog.processors.JSONRenderer() if config["format"] == "json" else structlog.dev.ConsoleRenderer(colors=False)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": config["level"]},
            # httpx writes whole URLs at INFO; Django's request log repeats what the data plane logs itself.
            "loggers": {
                "httpx": {"level": "WARNING"},
                "httpcore": {"level": "WARNING"},
                "django.request": {"level": "ERROR"},
                "django.server": {"level": "WARNING"},
            },
        }
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
