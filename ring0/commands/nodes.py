"""`enjin node`: the nodes of every ring; those of ring 1 can be started, stopped and removed."""

from __future__ import annotations

from typing import Any, Final

import click

from compartments.lookup import PREFIX_CHARACTERS_MIN, NoSuchNode
from enjin.errors import EnjinError, Refused
from enjin.output import json_option, reason_option
from ring0.commands.client import at_option, both, detach_option, done, partial, run, show_one, show_rows, until
from ring0.commands.node_logs import logs

ANSWER_S: Final = 1.0
COLUMNS: Final = {
    "ring": "RING", "label": "LABEL", "state": "STATE", "wanted": "WANTED", "strategy": "STRATEGY", "address": "ADDRESS",
    "compartment": "COMPARTMENT", "since": "FOR", "id": "ID",
}  # fmt: skip


class AppsNode(Refused):
    """The node is an app's instance."""

    code = "E-CLI-008"
    remedy = "`enjin ps scale` and `enjin restart` change an app's instances"


class NotConfirmed(Refused):
    """The removal of a node was not confirmed."""

    code = "E-CLI-009"
    remedy = "type the node's label when asked, or give --yes"


@click.group("node")
def node() -> None:
    """Machines, jails and instances: the nodes of every ring.

    \b
    Examples:
      enjin node list
      enjin node restart ring1 --reason "new kernel"
    """


node.add_command(logs)


@node.command("list")
@click.option("--in", "inside", default="", metavar="COMPARTMENT", help="Only what lies in this one.")
@click.option("--ring", type=click.IntRange(0, 2), help="Only of this ring.")
@at_option
@json_option
def list_nodes(inside: str, ring: int | None, at: str, as_json: bool) -> None:
    """List the nodes of every ring."""
    from ring0.nodes import ListNodes

    rows, missing = run(lambda session: both(session, ListNodes(compartment=inside, at=at)))
    show_rows([row for row in rows if ring is None or row["ring"] == ring], COLUMNS, as_json)
    partial(missing)


@node.command("show")
@click.argument("name", metavar="NODE")
@at_option
@json_option
def show_node(name: str, at: str, as_json: bool) -> None:
    """Show NODE, named by label, by id or by the beginning of its id."""
    from ring0.nodes import ListNodes, ShowNode

    async def work(session: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = await session.query(0, ShowNode(node=name, at=at))
        except NoSuchNode as error:
            return await instance(session, ListNodes(at=at), name, error)
        return found

    show_one(run(work), as_json)


async def instance(session: Any, query: Any, name: str, error: EnjinError) -> dict[str, Any]:
    """Return the ring 2 node that *name* names; where there is none, raise *error*, ring 0's own."""
    rows, _ = await both(session, query)
    inner = [row for row in rows if row["ring"] == 2]
    exact = [row for row in inner if name in (row["id"], row["label"])]
    near = [row for row in inner if len(name) >= PREFIX_CHARACTERS_MIN and row["id"].startswith(name)]
    for found in (exact, near):
        if len(found) == 1:
            return dict(found[0])
    raise error


def change(wish: Any, wanted: str, reason: str, detach: bool, as_json: bool) -> None:
    """Ask for *wish* and, unless detached, wait until its node is *wanted*: ``running``, ``stopped`` or ``gone``."""
    from ring0.nodes import ListNodes, ShowNode

    async def work(session: Any) -> dict[str, Any]:
        try:
            before = await session.query(0, ShowNode(node=wish.node))
        except NoSuchNode as error:
            found = await instance(session, ListNodes(), wish.node, error)
            raise AppsNode(f"{found['label']} is an instance of an app") from error
        identity = before["id"]
        await session.command(0, wish, reason=reason)

        async def reached() -> dict[str, Any] | None:
            try:
                now: dict[str, Any] = await session.query(0, ShowNode(node=identity))
            except NoSuchNode:
                return before | {"state": "gone"}
            so = now["state"] == wanted and (wanted != "running" or now["observed"] == now["generation"])
            return now if so else None

        if detach:
            return await reached() or before
        now: dict[str, Any] = await until(session, reached, f"{before['label']} is not {wanted}")
        if wanted == "running":
            await until(session, lambda: answers(session, now["ring"]), f"{before['label']} runs and does not answer")
        return now

    now = run(work)
    done(now, as_json, f"{now['label']} is {now['state']}" + (f", {wanted} is wanted" if now["state"] != wanted else ""))


async def answers(session: Any, ring: int) -> bool:
    """Whether *ring*'s decider answers; how it is reached may be news."""
    try:
        async with await type(session).open(session.config) as fresh:
            await fresh.head(ring, timeout_s=ANSWER_S)
    except EnjinError:
        return False
    return True


@node.command("start")
@click.argument("name", metavar="NODE")
@detach_option
@reason_option
@json_option
def start_node(name: str, detach: bool, reason: str, as_json: bool) -> None:
    """Start NODE, and wait until it runs."""
    from ring0.nodes import StartNode

    change(StartNode(node=name), "running", reason, detach, as_json)


@node.command("stop")
@click.argument("name", metavar="NODE")
@detach_option
@reason_option
@json_option
def stop_node(name: str, detach: bool, reason: str, as_json: bool) -> None:
    """Stop NODE with everything that runs in it, and wait until it has ended."""
    from ring0.nodes import StopNode

    change(StopNode(node=name), "stopped", reason, detach, as_json)


@node.command("restart")
@click.argument("name", metavar="NODE")
@detach_option
@reason_option
@json_option
def restart_node(name: str, detach: bool, reason: str, as_json: bool) -> None:
    """Start NODE anew, and wait until it runs."""
    from ring0.nodes import RestartNode

    change(RestartNode(node=name), "running", reason, detach, as_json)


@node.command("remove")
@click.argument("name", metavar="NODE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@detach_option
@reason_option
@json_option
def remove_node(name: str, yes: bool, detach: bool, reason: str, as_json: bool) -> None:
    """Remove NODE with everything that is its own: its apps too. There is no undo."""
    from ring0.nodes import RemoveNode

    if not yes:
        typed = click.prompt(
            f"This removes {name} and all that runs in it for ever. Type its name to go on", default="", show_default=False
        )
        if typed != name:
            raise NotConfirmed("nothing was removed")
    change(RemoveNode(node=name), "gone", reason, detach, as_json)
