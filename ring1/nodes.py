"""Ring 2's nodes as ring 1 knows them, in the same shape as ring 0 lists its own; and the logs of instances.

Owns the queries whose answers come partly from what was seen and stands in no journal: isolation, log lines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from bus.messages import Asker, Query, Question, Role
from compartments.rows_apps import Instance
from compartments.world import World
from enjin.errors import NotFound
from ring1.tenancy import find_app, name_of, sees, where_app
from supervision.instances import Lines
from supervision.steps import Running


class UnknownInstance(NotFound):
    """The app has no such instance."""

    code = "E-APP-015"
    remedy = "`enjin ps` names the instances"


class ListNodes(Query, kind="node.list", kw_only=True):
    """The nodes of ring 2: one per instance of an app."""

    compartment: str = ""


class ReadLogs(Query, kind="log.read", kw_only=True):
    """Log lines of an app's instances; *after* maps an instance to "source:number" of the last line that the asker has."""

    app: str
    after: dict[str, str] = msgspec.field(default_factory=dict)


class Seeing(Protocol):
    """What these queries want of the daemon."""

    def running(self) -> dict[str, Running]:
        """Return what hands last said of each node."""

    def logs(self) -> Callable[[str, str, int], Awaitable[Lines]]:
        """Return (compartment, instance, after) -> lines."""


def questions(daemon: Seeing, node: str) -> tuple[Question, ...]:
    """Return the rows of the closed table that answer from what *daemon*, on ring 1 node *node*, sees."""

    def list_nodes(query: ListNodes, world: World, asker: Asker) -> list[dict[str, Any]]:
        rows = [one for one in world.all(Instance) if sees(world, asker, one.compartment)]
        if query.compartment:
            rows = [one for one in rows if query.compartment in (one.compartment, name_of(world, one.compartment))]
        running = daemon.running()
        return [_line(world, one, node, running.get(one.id)) for one in sorted(rows, key=lambda one: (one.app, one.process, one.index))]

    async def read(query: ReadLogs, world: World, asker: Asker) -> list[dict[str, Any]]:
        app = find_app(world, query.app, asker)
        found = []
        for one in sorted(world.find(Instance, app=app.name), key=lambda one: (one.process, one.index, one.generation)):
            source, _, number = query.after.get(one.id, "0:0").partition(":")
            after = int(number) if number.isdecimal() and len(number) < 16 else 0
            lines = await daemon.logs()(one.compartment, one.id, after)
            if after and source != str(lines.source):
                lines = await daemon.logs()(one.compartment, one.id, 0)
            found.append(
                {"instance": one.id, "name": f"{one.process}.{one.index}", "release": one.release, "source": lines.source,
                 "lines": lines.lines, "last": lines.last, "lost": lines.lost, "dropped": lines.dropped}
            )  # fmt: skip
        return found

    return (Question(ListNodes, list_nodes, Role.TENANT), Question(ReadLogs, read, Role.TENANT, compartment=where_app))


def _line(world: World, one: Instance, supervisor: str, running: Running | None) -> dict[str, Any]:
    return {
        "id": one.id,
        "ring": 2,
        "label": f"{one.app}.{one.process}.{one.index}",
        "state": one.state,
        "wanted": one.wanted,
        "strategy": one.strategy,
        "address": one.ipv4,
        "address6": one.ipv6,
        "port": one.port,
        "supervisor": supervisor,
        "compartment": name_of(world, one.compartment),
        "tiers": [one.process],
        "generation": one.generation,
        "since": one.since,
        "reason": one.why,
        "isolation": {"means": running.isolation} if running is not None and running.isolation else {},
    }
