"""`enjin up`, `enjin down`, `enjin status`: the cloud as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enjin import config as configuration
from enjin.errors import EnjinError, Refused, Unreachable
from enjin.host import clock
from enjin.output import ago, json_option, print_json, print_rows, rfc3339, say
from ring0.commands.genesis import asking, share_options
from ring0.commands.joining import misused_tokens

if TYPE_CHECKING:
    from bus.session import Session

UP = ("running", "ready")
PARTIAL: Final = 3
ANSWER_S: Final = 5.0


class NotConfirmed(Refused):
    """A destroying command was not confirmed."""

    code = "E-CLI-002"
    remedy = "type the cloud's tag when asked, or give --yes"


@click.command("up")
@click.option("--ring1", type=click.Choice(["jail", "process"]), help="How to make the ring 1 node (default: the strongest that works).")
@click.option("--bus", type=click.Choice(["zmq", "nats"]), help="What a new cloud's messages travel over (default: zmq).")
@share_options
@click.option("--journal", metavar="URL", help="Where a new cloud's ring 0 journals: postgresql://host/database (default: a file).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def up(
    ring1: str | None, bus: str | None, journal: str | None, shares: tuple[Path, ...], passphrase_files: tuple[Path, ...], as_json: bool
) -> None:
    """Raise the cloud on this machine, or mend it; changes nothing where nothing is missing.

    A new cloud needs the root: two shares that `enjin genesis` made, or none, and then three are made here.
    """
    from ring0.raising import raise_cloud

    config = configuration.load({"ring1": ring1, "bus": bus, "journal": journal})
    raised = raise_cloud(config, say, shares, asking(passphrase_files))
    if as_json:
        print_json(
            {
                "cloud": raised.foundation.cloud,
                "changed": raised.changed,
                "endpoints": raised.endpoints,
                "strategy": raised.foundation.ring1,
            }
        )
        return
    if not raised.changed:
        say(f"cloud {raised.foundation.tag} is up; nothing to change")
    else:
        say(f"cloud {raised.foundation.tag}: {', '.join(raised.changed)}")
    if raised.foundation.ring1 == "process":
        say("warning: strategy process: builds and apps share this machine's network; `enjin status` says what else separates them")
        if os.geteuid() == 0:
            say("WARNING: strategy process was forced as root: every app and every build runs as ROOT of this machine")
    for line in shares_left(config.path):
        say(f"warning: {line}")
    for name, url in raised.endpoints.items():
        click.echo(f"{name:<8} {url}")


@click.command("down")
@click.option("--destroy", is_flag=True, help="Also remove the cloud's state, its uids and the command's link.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def down(destroy: bool, yes: bool) -> None:
    """Stop the cloud: leaves no process, namespace, mount, link or control group."""
    from ring0.foundation import read_foundation
    from ring0.lowering import destroy_cloud, lower_cloud

    config = configuration.load({})
    foundation = read_foundation(config.path)
    if foundation is None:
        say(f"there is no cloud at {config.home}; nothing to do")
        return
    if destroy and not yes:
        typed = click.prompt(
            f"This removes cloud {foundation.tag} and all its apps for ever. Type its tag to go on", default="", show_default=False
        )
        if typed != foundation.tag:
            raise NotConfirmed("nothing was removed")
    ran = lower_cloud(config)
    say(f"cloud {foundation.tag} is down" if ran else f"cloud {foundation.tag} was down already")
    if destroy:
        destroy_cloud(config)
        say(f"removed {config.home}; what was pushed is gone (Debian packages, the checkout and .venv stay)")


@click.command("status")
@json_option
def status(as_json: bool) -> None:
    """Show every node of every ring: state, address, strategy, uptime; and the endpoints."""
    found = asyncio.run(collect(configuration.load({})))
    if as_json:
        print_json(found)
    else:
        _print_status(found)
    if not any(node["ring"] == 0 for node in found["nodes"]):
        click.get_current_context().exit(PARTIAL)


def _print_status(found: dict[str, Any]) -> None:
    now = clock().wall_us
    rows = [node | {"since": ago(node.get("since_us", 0), now)} for node in found["nodes"]]
    columns = {"ring": "RING", "label": "LABEL", "state": "STATE", "strategy": "STRATEGY", "address": "ADDRESS", "since": "FOR", "id": "ID"}
    print_rows(rows, columns)
    for journal in found["journals"]:
        witnessed = f"witnessed up to {journal['witnessed']}" if journal["witnessed"] else "unwitnessed"
        say(f"journal  ring {journal['ring']} is at entry {journal['number']}, {witnessed}")
    for name, url in found["endpoints"].items():
        say(f"{name:<8} {url}")
    for line in found["warnings"]:
        say(f"warning: {line}")


async def collect(config: configuration.Config) -> dict[str, Any]:
    """Return what `enjin status --json` prints."""
    from bus.session import Session
    from compartments.beacons import ShowStanding
    from ring0.nodes import ListNodes

    async with await Session.open(config) as session:
        nodes: list[dict[str, Any]] = []
        warnings: list[str] = []
        away: EnjinError | None = None
        try:
            nodes += await session.query(0, ListNodes(), deadline_s=ANSWER_S)
        except Unreachable as error:
            away = error
            warnings.append(f"ring 0: {error.message}; what runs goes on")
        answering = [] if away is not None else [0]
        try:
            nodes += await session.query(1, ListNodes(), deadline_s=ANSWER_S)
            answering.append(1)
            standing = await session.query(1, ShowStanding(), deadline_s=ANSWER_S)
            warnings += [f"ring 1: {standing['why']}"] if standing["why"] else []
        except EnjinError as error:
            if away is not None:
                raise away from error
            warnings.append(f"ring 1: {error.message}")
        warnings += _unseparated(nodes) + shares_left(session.config.path)
        journals = await _journals(session, answering)  # who is silent is waited for once
        warnings += [f"ring {journal['ring']}: {journal['alarm']}" for journal in journals if journal["alarm"]]
        warnings += [] if away is not None else await misused_tokens(session)
        return {
            "schema": 1,
            "cloud": session.directory.cloud,
            "nodes": [_node(node) for node in nodes],
            "journals": journals,
            "endpoints": session.directory.endpoints,
            "warnings": warnings,
        }


async def _journals(session: Session, rings: Sequence[int]) -> list[dict[str, Any]]:
    """Return where the journal of each of *rings* stands, up to which entry somebody else has witnessed it, and what contradicts it."""
    from compartments.copies import ListCopies
    from compartments.history import GetHead

    found: list[dict[str, Any]] = []
    alarms: dict[str, str] = {}
    for ring in rings:
        with contextlib.suppress(EnjinError):
            if ring == 0:
                alarms = {copy["node"]: copy["alarm"] for copy in await session.query(0, ListCopies(), deadline_s=ANSWER_S)}
            head = await session.query(ring, GetHead(), deadline_s=ANSWER_S)
            witnessed = max(head["witnesses"].values(), default=0)
            alarm = alarms.get(head["domain"], "")
            found.append({"ring": ring, "domain": head["domain"], "number": head["number"], "witnessed": witnessed, "alarm": alarm})
    return found


def shares_left(home: Path) -> list[str]:
    """Return what has to be said of root shares that lie where they were made: two in one hand are the cloud."""
    from keys.shares import shares_in

    return [f"root key {share} is still on this machine; move it to a place of its own" for share in shares_in(home / "root")]


def _unseparated(nodes: list[dict[str, Any]]) -> list[str]:
    """Return what has to be said of nodes that little or nothing separates from this machine."""
    said = [
        f"{node['label']} is {node['isolation']['means']}"
        for node in nodes
        if node["ring"] == 1 and node["strategy"] == "process" and node.get("isolation")
    ]
    return said + [
        f"{node['label']}: no isolation" for node in nodes if node["ring"] == 2 and node.get("isolation", {}).get("means") == "no isolation"
    ]


def _node(node: dict[str, Any]) -> dict[str, Any]:
    since = node.get("since") or 0
    shown = {
        key: node.get(key, "")
        for key in ("id", "ring", "label", "state", "wanted", "strategy", "address", "supervisor", "compartment", "isolation")
    }
    uptime = max(0, clock().wall_us - since) // 1_000_000 if since and shown["state"] in UP else 0
    return shown | {"since": rfc3339(since) if since else "", "since_us": since, "uptime_s": uptime}
