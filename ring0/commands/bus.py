"""`enjin bus`: what passes on a ring's channel, and how fast it is."""

from __future__ import annotations

import asyncio
import statistics
from typing import TYPE_CHECKING, Any, Final

import click

from enjin.host import monotonic_s
from enjin.output import json_option, print_json, print_rows, reason_option, rfc3339, say
from ring0.commands.client import run

if TYPE_CHECKING:
    from bus.session import Session

QUEUE_MAX: Final = 10_000
TIMES, AT_ONCE = 200, 32
WARM: Final = 20
COLUMNS: Final = {"ring": "RING", "min_ms": "MIN MS", "median_ms": "MEDIAN MS", "p95_ms": "P95 MS", "answers_per_s": "ANSWERS/S"}


@click.group("bus")
def bus() -> None:
    """What passes on a ring's channel, and how fast it is.

    \b
    Examples:
      enjin bus tail --ring 1 --kind command
      enjin bus bench
      enjin bus migrate nats
    """


@bus.command("tail")
@click.option("--ring", type=click.IntRange(0, 1), default=0, show_default=True, help="Whose channel.")
@click.option("--kind", "kinds", multiple=True, metavar="PREFIX", help="Only subjects that begin so, such as seen.instance.")
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@json_option
def tail(ring: int, kinds: tuple[str, ...], count: int | None, as_json: bool) -> None:
    """Show what passes, verified and decoded, and what the ring's daemon refused and why, until stopped."""

    async def work(session: Session) -> None:
        from bus.transport import matches
        from bus.watching import Watcher, told

        caller = session.caller(ring)
        watcher = Watcher(session.trust, caller.speaker.channel, caller.speaker.now)
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(QUEUE_MAX)

        def take(subject: str, frame: bytes) -> None:
            if not queue.full() and (not kinds or any(matches(kind, subject) for kind in kinds)):
                queue.put_nowait((subject, frame))

        await session.head(ring, 5.0)  # learns cloud time
        await caller.transport.subscribe("", take)
        left = count
        while left is None or left > 0:
            line = told(watcher.look(*await queue.get()))
            print_json(line | {"time": rfc3339(line["time"])} if "time" in line else line) if as_json else click.echo(words(line))
            left = None if left is None else left - 1

    run(work)


def words(line: dict[str, Any]) -> str:
    """Return a message as a line for people."""
    if not line["verified"]:
        return f"{'not verified':24}  {line['subject']}  {line['bytes']} bytes: {line['why']}"
    text = f"{rfc3339(line['time'])}  {line['subject']}  {line['from']} > {line['for']}  {line['bytes']} bytes"
    if "refused" in line:
        refused = line["refused"]
        text += f"  refused {refused['subject']} at {refused['stage']} [{refused['code']}]: {refused['why']}"
    elif "ok" in line:
        text += "  ok" if line["ok"] else f"  {line.get('why', 'malformed')} [{line.get('code', '-')}]"
    return text


@bus.command("bench")
@click.option("--ring", type=click.IntRange(0, 1), default=0, show_default=True, help="Whose channel.")
@json_option
def bench(ring: int, as_json: bool) -> None:
    """Measure signed questions and answers on the live channel: 200 one after the other, then 32 under way at once."""

    async def work(session: Session) -> dict[str, Any]:
        for _ in range(WARM):
            await session.head(ring, 5.0)
        taken = [await _timed(session, ring) for _ in range(TIMES)]
        began = monotonic_s()
        limit = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with limit:
                await session.head(ring, 10.0)

        await asyncio.gather(*(one() for _ in range(TIMES)))
        per_s = TIMES / (monotonic_s() - began)
        return {
            "ring": ring,
            "min_ms": round(min(taken), 2),
            "median_ms": round(statistics.median(taken), 2),
            "p95_ms": round(sorted(taken)[int(len(taken) * 0.95)], 2),
            "answers_per_s": round(per_s),
        }

    found = run(work)
    if as_json:
        print_json({"schema": 1} | found)
    else:
        print_rows([found], COLUMNS)


async def _timed(session: Session, ring: int) -> float:
    began = monotonic_s()
    await session.head(ring, 5.0)
    return 1000 * (monotonic_s() - began)


@bus.command("migrate")
@click.argument("to", type=click.Choice(["nats", "zmq"]))
@reason_option
@json_option
def migrate(to: Any, reason: str, as_json: bool) -> None:
    """Move the running cloud's messages to another bus: NATS or ZeroMQ. Nothing is started again, and no command is refused."""
    from enjin import config as configuration
    from ring0.migrating import migrate as move

    found = move(configuration.load({}), to, reason)
    if as_json:
        print_json({"schema": 1, "bus": found.bus, "changed": found.changed, "seconds": round(found.seconds, 3)})
    else:
        say(f"the cloud is over {found.bus}" + (f" after {found.seconds:.1f} s" if found.changed else " already"))
