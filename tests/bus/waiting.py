"""Waiting for a condition with a deadline, and running a coroutine as a test."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from enjin.host import monotonic_s

DEADLINE_S = 10.0


async def until(condition: Callable[[], object], what: str = "the condition", deadline_s: float = DEADLINE_S) -> None:
    """Return when *condition* holds. Raises: AssertionError after *deadline_s*."""
    end = monotonic_s() + deadline_s
    while not condition():
        if monotonic_s() > end:
            raise AssertionError(f"{what} did not come true within {deadline_s} s")
        await asyncio.sleep(0.005)


async def until_async(condition: Callable[[], Awaitable[object]], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when awaiting *condition* gives something true."""
    end = monotonic_s() + deadline_s
    while not await condition():
        if monotonic_s() > end:
            raise AssertionError(f"{what} did not come true within {deadline_s} s")
        await asyncio.sleep(0.02)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an ``async def`` test in an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run
