"""The lines of a node's own services (its daemon, hands, hub, router, agents), as the node's init holds them.

Owns the question, the same in every ring that answers it, and the reading: so many of the last lines of each service, or what came
after those that the asker has. Init keeps some 250 KiB of each service over its restarts, and nothing beyond its own end: what is not
to be had is said, with where it is. Lines of apps are not here: they have an init of their own.
May import: enjin, bus, supervision.init_link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from bus.messages import Query
from enjin.errors import NotFound, Unreachable
from supervision.init_link import InitForbidden, InitGone, InitLink

LINES_MAX: Final = 5000
ANSWER_BYTES: Final = 400_000
READ_S: Final = 5.0
LINE_OVERHEAD_BYTES: Final = 48
_END: Final = 1 << 52


class NoSuchService(NotFound):
    """The node runs no such service."""

    code = "E-NOD-201"
    remedy = "leave --service out: each line names its service"


class NodeSilent(Unreachable):
    """The node's init holds no lines, because it does not run."""

    code = "E-NOD-202"
    remedy = "`enjin node show NODE` and `enjin audit log` say what became of it; lines end with the init that held them"


class ReadNodeLogs(Query, kind="node.logs", kw_only=True):
    """What a node's own services wrote, its daemon first of all.

    Fields:
        node: Its id, label or the beginning of its id.
        service: Only of this one; empty: of all.
        lines: How many of the last lines of a service that *after* does not name.
        since: Only lines from then on, in microseconds of cloud time.
        after: Service -> "source:number" of the last line that the asker has.
    """

    node: str
    service: str = ""
    lines: Annotated[int, msgspec.Meta(ge=0, le=LINES_MAX)] = 100
    since: Annotated[int, msgspec.Meta(ge=0)] = 0
    after: dict[str, str] = msgspec.field(default_factory=dict)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The lines of one service: (number, cloud time in microseconds, text).

    Numbers belong to *source*, one life of the init. ``read`` is the last number that was looked at and ``last`` the newest there is:
    where they differ, more is to be had. ``lost``: how many were no longer held; ``dropped``: how many never were.
    """

    service: str
    source: int
    lines: tuple[tuple[int, int, str], ...]
    read: int
    last: int
    lost: int
    dropped: int


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """A service whose lines cannot be told here, and where they are."""

    service: str
    where: str


class NodeLogs(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: whose lines, what could be read, and what could not."""

    id: str
    label: str
    ring: int
    services: tuple[Part, ...]
    elsewhere: tuple[Elsewhere, ...] = ()


async def read_services(
    link: InitLink, query: ReadNodeLogs, *, offset_us: int, forbidden: str, names: Mapping[str, str] | None = None
) -> tuple[tuple[Part, ...], tuple[Elsewhere, ...]]:
    """Return what *query* asks of the services of *link*'s init, and of which it must be read elsewhere.

    Args:
        offset_us: Cloud time minus boot time, in microseconds: init stamps lines with the latter.
        forbidden: Where the lines of a service are that this link may not read.
        names: Init's names of the services that may be told, each with what it is called; None: all, by init's names.

    Raises:
        NoSuchService: There is none of the name asked for.
        InitGone, InitFailed.
    """
    told = await link.list()
    shown = {str(one["name"]): str(one["name"]) for one in told["services"]}
    if names is not None:
        shown = {name: names[name] for name in shown if name in names}
    chosen = {name: label for name, label in shown.items() if query.service in ("", label)}
    if not chosen:
        raise NoSuchService(f"the node runs no service {query.service[:40]!r}, only {', '.join(sorted(shown.values())) or 'none'}")
    parts, elsewhere, left = [], [], ANSWER_BYTES
    for name, label in sorted(chosen.items(), key=lambda one: one[1]):
        try:
            part = await _read(link, name, label, query, int(told["started_us"]), offset_us, left)
        except InitForbidden:
            elsewhere.append(Elsewhere(service=label, where=forbidden))
            continue
        left -= _size(part.lines)
        parts.append(part)
    return tuple(parts), tuple(elsewhere)


async def read_at(
    path: Path, query: ReadNodeLogs, *, offset_us: int, whose: str, forbidden: str = "", names: Mapping[str, str] | None = None
) -> tuple[tuple[Part, ...], tuple[Elsewhere, ...]]:
    """Do as ``read_services`` with the init of node *whose* behind the control socket at *path*. Raises: NodeSilent, NoSuchService."""
    try:
        async with asyncio.timeout(READ_S), await InitLink.connect(path) as link:
            return await read_services(link, query, offset_us=offset_us, forbidden=forbidden, names=names)
    except TimeoutError as error:
        raise NodeSilent(f"the init of node {whose} does not answer within {READ_S:g} s") from error
    except (OSError, InitGone) as error:
        raise NodeSilent(f"the init of node {whose} does not answer: {error}") from error
    except (LookupError, TypeError, ValueError) as error:  # a node's root can put another in its init's place
        raise NodeSilent(f"what answers as the init of node {whose} is none") from error


async def _read(link: InitLink, name: str, label: str, query: ReadNodeLogs, source: int, offset_us: int, left: int) -> Part:
    held, _, number = query.after.get(label, "").partition(":")
    answer = await link.logs(name, _END)
    last, dropped = int(answer["last"]), int(answer["dropped"])
    known = held == str(source) and number.isdecimal() and len(number) < 16
    read = min(int(number), last) if known else 0 if held else max(0, last - query.lines)
    kept: list[tuple[int, int, str]] = []
    lost = 0
    while read < last and left > 0:
        answer = await link.logs(name, read)
        if not answer["lines"]:
            break
        lost += int(answer["lost"])
        for at, time, text in answer["lines"]:
            left -= _size([(at, time, text)])
            if left < 0 and kept:
                break
            read = at
            if time + offset_us >= query.since:
                kept.append((at, time + offset_us, text))
    return Part(service=label, source=source, lines=tuple(kept), read=read, last=last, lost=lost if known else 0, dropped=dropped)


def _size(lines: Iterable[tuple[int, int, str]]) -> int:
    return sum(len(msgspec.json.encode(text)) + LINE_OVERHEAD_BYTES for _, _, text in lines)
