"""What every command of ring 0's command line needs: a session, one answer, waiting for what becomes true, both rings at once.

Owns the options that several commands share and how times are told: RFC 3339 in JSON, "3 min" to people.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import click

from bus.messages import Command, Query
from bus.session import Session
from enjin import config as configuration
from enjin.errors import EnjinError, Unreachable
from enjin.host import monotonic_s
from enjin.output import ago, at_option, print_fields, print_json, print_rows, rfc3339, say

__all__ = [
    "PARTIAL", "RING1_S", "NotYet", "ask", "at_option", "both", "detach_option", "done", "partial", "run", "show_one", "show_rows", "told",
    "until", "want",
]  # fmt: skip

TIMES: Final = ("created", "since", "expires", "revoked", "time")
RING1_S: Final = 5.0
WAIT_S: Final = 90.0
POLL_S: Final = 0.1
PARTIAL: Final = 3


class NotYet(Unreachable):
    """What was asked for has been decided, and has not become so in time."""

    code = "E-CLI-007"
    remedy = "it goes on; `enjin node show` tells how far it is"


def detach_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--detach`` to a command that waits."""
    return click.option("--detach", is_flag=True, help="Return as soon as it is decided.")(function)


def run(work: Callable[[Session], Awaitable[Any]]) -> Any:
    """Run *work* with a session of the configured cloud and return what it returns."""

    async def with_session() -> Any:
        async with await Session.open(configuration.load({})) as session:
            return await work(session)

    return asyncio.run(with_session())


def ask(query: Query, ring: int = 0) -> Any:
    """Return the answer of *ring* to *query*."""
    return run(lambda session: session.query(ring, query))


def want(wish: Command, reason: str, ring: int = 0) -> Any:
    """Ask *ring* for *wish* and return the reply's result."""
    return run(lambda session: session.command(ring, wish, reason=reason))


def told(value: Any) -> Any:
    """Return *value* with its times in RFC 3339; a time that is not is ``""``."""
    if isinstance(value, Mapping):
        return {key: _time(item) if key in TIMES and isinstance(item, int) else told(item) for key, item in value.items()}
    return [told(item) for item in value] if isinstance(value, list) else value


def _time(value: int) -> str:
    return rfc3339(value) if value else ""


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], as_json: bool, *, empty: str = "none") -> None:
    """Print a listing; to people a time is how long ago it was."""
    if as_json:
        print_json(told(list(rows)))
        return
    shown = [{key: ago(value) if key in TIMES and isinstance(value, int) else value for key, value in row.items()} for row in rows]
    print_rows(shown, columns, empty=empty)


def show_one(value: Mapping[str, Any], as_json: bool) -> None:
    """Print one thing."""
    print_json(told(value)) if as_json else print_fields(told(value))


def done(value: Any, as_json: bool, text: str) -> None:
    """Say that a change was made: *text* to people, the reply's result in JSON."""
    print_json(told(value if value is not None else {})) if as_json else say(text)


async def both(session: Session, query: Query) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the answers of both rings to *query*, in one list, and why one of them is missing."""
    rows: list[dict[str, Any]] = await session.query(0, query)
    try:
        return rows + await session.query(1, query, deadline_s=RING1_S), []
    except EnjinError as error:
        if not isinstance(error, Unreachable) and error.code != "E-DIR-001":
            raise
        return rows, [f"ring 1: {error.message}"]


def partial(missing: Sequence[str]) -> None:
    """Say what is missing and end with the status for it; nothing when nothing is."""
    for line in missing:
        say(f"warning: {line}")
    if missing:
        click.get_current_context().exit(PARTIAL)


async def until(session: Session, what: Callable[[], Awaitable[Any]], name: str, wait_s: float = WAIT_S, ring: int = 0) -> Any:
    """Return the first true value of *what*, asked at each entry of *ring*'s journal and ten times a second.

    Raises:
        NotYet: It had none in time.
    """
    moved = asyncio.Event()
    with contextlib.suppress(Unreachable):
        await session.follow(ring, "seen.journal.committed", lambda _opened: moved.set())
    deadline = monotonic_s() + wait_s
    while True:
        moved.clear()
        if value := await what():
            return value
        if monotonic_s() > deadline:
            raise NotYet(f"{name} after {wait_s:g} s")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await moved.wait()
