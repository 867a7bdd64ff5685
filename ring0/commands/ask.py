"""`enjin ask`: one signed question to many daemons, and everybody's signed answer; who is silent is named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from enjin.errors import EnjinError, Unreachable
from enjin.output import json_option, print_json, print_rows, say
from ring0.commands.client import run

if TYPE_CHECKING:
    from bus.asking import Collection
    from bus.session import Session

LIST_S: Final = 5.0
TIMEOUT_MAX_S: Final = 600.0
COLUMNS: Final = {"label": "DAEMON", "node": "ID", "ms": "MS", "answer": "ANSWER"}
CLEAR: Final = "\r\x1b[K"


class Asked:
    """What was asked and how it went, with what could not be learnt of who should answer."""

    def __init__(self, group: str, collection: Collection, unknown: Sequence[str]) -> None:
        self.group, self.collection, self.unknown = group, collection, unknown

    @property
    def exit_status(self) -> int:
        """3 too when it is unknown whether somebody is missing."""
        status = self.collection.summary().exit_status
        return 3 if status == 0 and self.unknown else status


@click.command("ask")
@click.argument("kind")
@click.option("--where", default="all", show_default=True, metavar="GROUP", help="A compartment, tier, node, ring0, ring1, ring2, or all.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.05, TIMEOUT_MAX_S), default=10.0, show_default=True, help="Seconds.")
@json_option
@click.pass_context
def ask(context: click.Context, kind: str, where: str, timeout_s: float, as_json: bool) -> None:
    """Ask many daemons KIND (daemon.ping, daemon.facts) with one signed question, and show who answered and who did not.

    Exit status 0: everybody said yes; 3: some did; 1: nobody.

    \b
    Examples:
      enjin ask daemon.ping
      enjin ask daemon.facts --where default --json
    """
    from bus.roll_call import KINDS

    shape = KINDS.get(kind) or KINDS.get(f"daemon.{kind}")
    if shape is None:
        raise click.UsageError(f"{kind!r} is not asked of many; there are {', '.join(sorted(KINDS))}", context)
    asked: Asked = run(lambda session: ask_many(session, shape(), where, timeout_s))
    show(asked, as_json)
    context.exit(asked.exit_status)


async def ask_many(session: Session, query: Any, where: str, timeout_s: float) -> Asked:
    """Learn who should answer, ask them, and wait for at most *timeout_s*. Raises: NoSuchGroup, Unreachable."""
    from bus.fan_out import FanOut

    group, expected, unknown = await members(session, where, min(timeout_s, LIST_S))
    rings = {daemon.domain for daemon in expected}
    callers = [session.caller_of(reach) for reach in session.directory.domains if reach.domain in rings]
    labels = {daemon.id: daemon.label for daemon in expected}
    fan_out = FanOut(callers, group, labels, progress if sys.stderr.isatty() else lambda _collection: None)
    try:
        return Asked(group, await fan_out.ask(query, timeout_s=timeout_s), unknown)
    finally:
        if sys.stderr.isatty():
            sys.stderr.write(CLEAR)


async def members(session: Session, where: str, timeout_s: float) -> tuple[str, list[Any], list[str]]:
    """Return the group that *where* means, who is in it, and what could not be learnt.

    Ring 0 names itself and ring 1; each ring 1 names its agents, whose grants are believed only where they chain to the root.
    """
    import msgspec

    from compartments.daemons import ListDaemons, Listed
    from enjin.canonical import from_text

    listed = msgspec.convert(await session.query(0, ListDaemons(where=where), deadline_s=timeout_s), Listed)
    found, unknown = list(listed.daemons), []
    for reach in session.directory.domains:
        if reach.ring != 1:
            continue
        try:
            reply = await session.caller_of(reach).query(ListDaemons(where=listed.group), deadline_s=timeout_s)
            agents = msgspec.json.decode(reply.result, type=Listed).daemons if reply.ok else ()
            for daemon in agents:
                session.trust.add(from_text(daemon.grant))
            found += agents
        except Unreachable:
            unknown.append(f"{reach.domain} does not say which agents it has")
        except EnjinError as error:
            unknown.append(f"{reach.domain}: {error.message}")
    return listed.group, found, unknown


def progress(collection: Collection) -> None:
    """Show how many have answered, on a terminal."""
    sys.stderr.write(f"{CLEAR}{len(collection.answers)} / {len(collection.expected)}")
    sys.stderr.flush()


def show(asked: Asked, as_json: bool) -> None:
    """Print answers on standard output and how it went on standard error; all of it in JSON."""
    import msgspec

    from bus.fan_out import described

    summary, answers = asked.collection.summary(), list(asked.collection.answers.values())
    if as_json:
        told = msgspec.to_builtins(summary) | {"group": asked.group, "unknown": list(asked.unknown)}
        lines = [
            {"node": one.node, "label": one.label, "ok": one.ok, "ms": one.ms, "code": one.code, "message": one.message,
             "result": msgspec.json.decode(one.result)}
            for one in answers
        ]  # fmt: skip
        print_json({"schema": 1, "answers": lines} | told)
        return
    rows = [
        {
            "label": one.label,
            "node": one.node,
            "ms": f"{one.ms:.1f}",
            "answer": described(one.result) if one.ok else f"{one.message} [{one.code}]",
        }
        for one in answers
    ]
    print_rows(rows, COLUMNS, empty="no answers")
    say(
        f"{summary.targeted} targeted, {summary.ok} ok, {summary.failed} failed, {len(summary.silent)} silent; "
        f"min {summary.min_ms:.1f} avg {summary.avg_ms:.1f} p95 {summary.p95_ms:.1f} ms"
    )
    for one in summary.silent:
        say(f"silent: {one.label} ({one.node})")
    for line in asked.unknown:
        say(f"warning: {line}")
