"""`enjin node logs`: what a node's own services write: its daemon, hands, hub, router; an agent's too.

Asks ring 0, which reads the init of each ring 1 node that it runs, whether the node's daemon lives or not; ring 1 for agents. With
``--local`` it reads the init on this machine itself, for when nobody answers.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from compartments.lookup import NoSuchNode
from enjin.errors import EnjinError, NotFound, Refused, Unreachable
from enjin.output import json_option, print_json, rfc3339, say
from ring0.commands.client import RING1_S, run

if TYPE_CHECKING:
    from bus.session import Session

LINES: Final = 100
AGAIN_S: Final = 0.5
RING0_S: Final = 10.0
NO_RING1: Final = "E-DIR-001"


class AppsLines(Refused):
    """The node is an app's instance, whose lines are the app's."""

    code = "E-CLI-023"
    remedy = "`enjin logs APP` has them"


class NotHere(Refused):
    """The lines that were asked for are not told here."""

    code = "E-CLI-024"


class NoSuchInit(NotFound):
    """No init of that node runs on this machine."""

    code = "E-CLI-025"
    remedy = "--local takes `ring0` or the id of a ring 1 node that runs on this machine, and needs its user's or root's rights"


class Printer:
    """Prints lines as they come, remembers up to which, and says once what could not be told."""

    def __init__(self, pattern: re.Pattern[str] | None, as_json: bool) -> None:
        self.after: dict[str, str] = {}
        self._pattern, self._as_json = pattern, as_json
        self._said: set[str] = set()

    def show(self, found: dict[str, Any]) -> bool:
        """Print an answer's lines in the order of time; return whether more is there already. Raises: NotHere: nothing can be told."""
        for one in found["elsewhere"]:
            if not found["services"]:
                raise NotHere(f"the lines of {one['service']} of {found['label']} are not told here", hint=one["where"])
            self.once(f"note: {one['service']}: {one['where']}")
        lines = []
        for part in found["services"]:
            name, began = part["service"], self.after.get(part["service"], "").partition(":")[0]
            if began and began != str(part["source"]):
                say(f"{name}: its init began anew")
            if not part["last"]:
                self.once(f"note: {name} has written nothing")
            if part["dropped"]:
                self.once(f"{name}: {part['dropped']} lines were dropped by the rate limit")
            if part["lost"]:
                say(f"{name}: {part['lost']} lines are no longer held")
            self.after[name] = f"{part['source']}:{part['read']}"
            lines += [(time, name, number, text) for number, time, text in part["lines"]]
        for time, name, number, text in sorted(lines):
            if self._pattern is None or self._pattern.search(text):
                self._line(found["label"], name, number, time, text)
        return any(part["read"] < part["last"] for part in found["services"])

    def once(self, text: str) -> None:
        """Say *text*, if it was not said yet."""
        if text not in self._said:
            self._said.add(text)
            say(text)

    def _line(self, label: str, name: str, number: int, time: int, text: str) -> None:
        if self._as_json:
            print_json({"node": label, "service": name, "number": number, "time": rfc3339(time), "text": text})
        else:
            click.echo(f"{rfc3339(time)} {name:<8} {text}")


@click.command("logs")
@click.argument("name", metavar="NODE")
@click.option("-f", "--follow", is_flag=True, help="Go on until stopped, also over restarts.")
@click.option("-n", "--lines", type=click.IntRange(0, 5000), help=f"How many of the last lines of each service (default: {LINES}).")
@click.option("--since", default="", metavar="TIME", help="Only from then on: RFC 3339, or 10m, 2h, 3d ago.")
@click.option("--service", default="", metavar="NAME", help="Only of this one: daemon, hands, hub, router, ...")
@click.option("--grep", metavar="PATTERN", help="Only lines that match this regular expression.")
@click.option("--local", is_flag=True, help="Read the node's init on this machine, without bus and daemon.")
@json_option
def logs(name: str, follow: bool, lines: int | None, since: str, service: str, grep: str | None, local: bool, as_json: bool) -> None:
    """Print what NODE's own services write: its daemon, hands, hub, router, agents. What apps write, `enjin logs` prints.

    NODE is a node of ring 0 or 1, or `agent.COMPARTMENT`. Its init keeps the last 250 KiB of each service.

    \b
    Examples:
      enjin node logs ring1 -f
      enjin node logs ring0 --since 10m --service daemon
      enjin node logs agent.default -n 20
    """
    from enjin.host import clock
    from supervision.service_logs import LINES_MAX, ReadNodeLogs

    try:
        printer = Printer(re.compile(grep) if grep else None, as_json)
    except re.error as error:
        raise click.UsageError(f"--grep: {error}") from error
    count = lines if lines is not None else LINES_MAX if since else LINES
    query = ReadNodeLogs(node=name, service=service, lines=count, since=_since(since, clock().wall_us))

    async def work(session: Session | None) -> None:
        query_now, ring = query, -1
        while True:
            try:
                found, ring = (await read_here(query_now), ring) if session is None else await ask(session, query_now, ring)
                more = printer.show(found)
                query_now = msgspec.structs.replace(query, node=found["id"], after=printer.after)
                if more:
                    continue
            except Unreachable as error:
                if not follow or not printer.after:
                    raise
                printer.once(f"waiting: {error.message}")
            if not follow:
                return
            await asyncio.sleep(AGAIN_S)

    if local:
        asyncio.run(work(None))
    else:
        run(work)


def _since(text: str, now_us: int) -> int:
    """Return the moment that *text* names in microseconds; "": the beginning. Raises: BadMoment."""
    from compartments.moments import BadMoment, parse_moment

    if not text:
        return 0
    moment = parse_moment(text, now_us).time
    if moment is None:
        raise BadMoment(f"{text[:60]!r} is an entry's number, and lines have none", hint="write 2026-03-01T12:00:00Z, 10m, 2h or 3d")
    return max(0, moment)


async def ask(session: Session, query: Any, ring: int) -> tuple[dict[str, Any], int]:
    """Return the answer to *query* and which ring gave it; *ring* is who gave the last one (-1: nobody yet).

    Raises:
        NoSuchNode, AppsLines: There is no such node; it is an instance.
        NodeSilent, NoSuchService, Unreachable.
    """
    if ring >= 0:
        return await session.query(ring, query), ring
    try:
        return await session.query(0, query, deadline_s=RING0_S), 0
    except (NoSuchNode, Unreachable) as error:
        first: EnjinError = error
    try:
        return await session.query(1, query, deadline_s=RING1_S), 1
    except EnjinError as error:
        if not isinstance(error, NoSuchNode | Unreachable) and error.code != NO_RING1:
            raise
    if isinstance(first, NoSuchNode):
        await _check_instance(session, query.node)
    elif type(first) is Unreachable:
        first.hint = "`enjin node logs ring0 --local` on its machine reads its lines without it"
    raise first


async def _check_instance(session: Session, name: str) -> None:
    """Refuse the name of an app's instance in its own words. Raises: AppsLines."""
    from ring0.commands.nodes import instance
    from ring0.nodes import ListNodes

    try:
        row = await instance(session, ListNodes(), name, NoSuchNode(""))
    except NoSuchNode:
        return
    app = row["label"].partition(".")[0]
    raise AppsLines(f"{row['label']} is an instance of app {app}", hint=f"`enjin logs {app}` has its lines")


async def read_here(query: Any) -> dict[str, Any]:
    """Return the lines that an init on this machine holds. Raises: NoSuchInit, NodeSilent, NoSuchService."""
    from enjin import config as configuration
    from enjin.host import clock
    from supervision.service_logs import NodeLogs, read_at

    path, label = _socket(configuration.load({}).path, query.node)
    now = clock()
    parts, elsewhere = await read_at(path, query, offset_us=now.wall_us - now.boot_us, whose=label)
    found = NodeLogs(id=query.node, label=label, ring=0 if label == "ring0" else 1, services=parts, elsewhere=elsewhere)
    told: dict[str, Any] = msgspec.to_builtins(found)
    return told


def _socket(home: Path, name: str) -> tuple[Path, str]:
    """Return the supervisor socket of the init of node *name*, and what to call the node."""
    from ring0.launch import INIT_SOCKET

    if name == "ring0":
        return home / INIT_SOCKET, name
    try:
        found = [path for path in sorted((home / "hands").glob("n-*.sock")) if path.stem == name]
    except OSError:
        found = []
    if not found:
        raise NoSuchInit(f"no init of node {name[:60]!r} is found below {home}")
    return found[0], name
