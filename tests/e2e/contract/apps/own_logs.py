"""Configures logging on import, which disables all existing loggers, as `dictConfig` does by default."""

import logging.config
import os

OUT = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "own"}
LOGGER = {"handlers": ["out"], "level": "INFO"}

logging.config.dictConfig(
    {
        "version": 1,
        "formatters": {"own": {"format": "own %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"out": OUT},
        **({"root": LOGGER} if os.environ["OWN_LOGS"] == "root" else {"loggers": {"app": LOGGER}}),
    }
)


def handle_socket_message(data: str) -> None:
    raise LookupError(data)


async def handle_http_request() -> None:
    raise LookupError("of a request")
