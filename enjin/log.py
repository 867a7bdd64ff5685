"""Logging: structlog to standard error, JSON unless a terminal reads it; and ``Secret``, which no log can print.

An event is a constant ``noun.past_verb``; values go into fields. Owns the set-up and the table of event names that
operators may rely on. Until ``configure`` was called only warnings are logged. Never logs by itself.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from enjin.errors import EnjinError, code_of


class Secret(str):
    """Text that renders as ``<secret>`` wherever it is printed by mistake; ``reveal`` gives it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"

    def __str__(self) -> str:
        return "<secret>"

    def __format__(self, specification: str) -> str:
        return "<secret>"

    def reveal(self) -> str:
        """Return the text itself."""
        return str.__str__(self)


def _hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: "<secret>" if isinstance(value, Secret) else value for key, value in event.items()}


def _name_errors(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.get("error")
    if isinstance(error, BaseException):
        chain: list[str] = []
        step: BaseException | None = error
        while step is not None and len(chain) < 5:
            chain.append(f"{type(step).__name__}: {step}")
            step = step.__cause__
        event["error"] = " <- ".join(chain)
        event["code"] = code_of(error)
        if isinstance(error, EnjinError) and error.details:
            event["details"] = {key: str(value) for key, value in error.details.items()}
    return event


def configure(*, stream: TextIO | None = None, **bound: Any) -> None:
    """Set logging up for this process, to *stream* or standard error; *bound* fields (ring, node, component) stand in every line."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(sort_keys=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_secrets,
            _name_errors,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**bound)


def get(component: str) -> Any:
    """Return the logger of *component*."""
    return structlog.get_logger(component=component)


# A process that sets nothing up is a person's command: its output is its answer, and a library's default would log into that.
structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr),
)
