"""`enjin key rotate`: your own key, or every online key, replaced by a new one without a command being refused in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from enjin.errors import EnjinError, Refused, Unreachable
from enjin.host import monotonic_s, random_bytes
from enjin.output import json_option, reason_option, say
from ring0.commands.client import done, run
from ring0.commands.granting import granted_key

if TYPE_CHECKING:
    from bus.session import Session
    from keys.operator import OperatorKey

KNOWN_S: Final = 20.0
PROVED_S: Final = 5.0
OVERLAP_S: Final = 10
USED_S: Final = 60.0
LOOK_S: Final = 0.2


class NotProved(Refused):
    """A ring does not answer to the new key yet."""

    code = "E-CLI-017"
    remedy = "nothing was changed: your old key is in force; try again when the ring runs"


@click.command("rotate")
@click.option("--all", "everything", is_flag=True, help="First every ring 1 node's key and its agents', then yours.")
@click.option("--overlap", type=click.IntRange(0, 3600), default=OVERLAP_S, show_default=True, help="Seconds until the old key is refused.")
@reason_option
@json_option
def rotate(everything: bool, overlap: int, reason: str, as_json: bool) -> None:
    """Replace your key by a new one: granted, proved in every ring, put into your key file, and only then the old one is revoked.

    Commands that began with the old key have the time of the overlap to end. With --all the keys of every ring 1 node and of its
    agents go before, in the same way: published, used, and only then the old ones revoked. The keys that sign grants and journals stay.
    """
    why = reason or "key rotated"
    nodes = run(lambda session: replace_nodes(session, why, overlap)) if everything else None
    made = run(lambda session: replace_key(session, why, overlap))
    for node in nodes or ():
        say(f"node {node['name']}: key {node['key'][:16]} replaces {node['old'][:16]}")
    told = made if nodes is None else made | {"nodes": nodes}
    done(told, as_json, f"key {made['key'][:16]} replaces {made['old'][:16]} in {made['file']}")


async def replace_nodes(session: Session, reason: str, overlap_s: int) -> list[dict[str, Any]]:
    """Replace the key of every ring 1 node and its agents, then revoke the old ones. Raises: NotProved: a node does not use its new one."""
    from ring0.keys import ListKeys, ReplaceKey, RevokeKey

    found: list[dict[str, Any]] = []
    for line in await session.query(0, ListKeys()):
        if line["ring"] == 1 and line["state"] == "active":
            await session.command(0, ReplaceKey(key=line["key"]), reason=reason)
            found.append({"node": line["subject"], "name": line["name"], "old": line["key"]})
    deadline = monotonic_s() + USED_S
    for node in found:
        while not (key := await _used(session, node)):
            if monotonic_s() > deadline:
                raise NotProved(f"node {node['name']} does not use its new key")
            await asyncio.sleep(LOOK_S)
        node["key"] = key
    if found:
        await asyncio.sleep(overlap_s)
    for node in found:
        await session.command(0, RevokeKey(key=node["old"], reason=reason), reason=reason)
    return found


async def _used(session: Session, node: dict[str, Any]) -> str:
    """Return the new key of *node* once it answers with that; empty until then. What is published is read anew each time."""
    from bus.session import Session as Successor
    from compartments.beacons import ShowStanding
    from ring0.keys import ListKeys

    lines = [line for line in await session.query(0, ListKeys()) if line["subject"] == node["node"] and line["state"] == "active"]
    async with await Successor.open(session.config) as reader:
        reach = next((one for one in reader.directory.domains if one.domain == node["node"]), None)
        if not lines or reach is None:
            return ""
        try:
            reply = await reader.caller_of(reach).query(ShowStanding(), deadline_s=PROVED_S)
        except Unreachable:
            return ""
    spoken = msgspec.json.decode(reply.result).get("grant", "") if reply.ok else ""
    return next((str(line["key"]) for line in lines if line["grant"] == spoken and line["key"] != node["old"]), "")


async def replace_key(session: Session, reason: str, overlap_s: int) -> dict[str, Any]:
    """Make, prove and save a new key for our account, then revoke the one we speak with. Raises: NotProved, NotYet."""
    from enjin.canonical import to_text
    from keys.keyring import SEED_BYTES
    from keys.operator import OperatorKey, save_operator_key
    from ring0.enrolling import ShowKey
    from ring0.keys import RevokeKey

    old = str(session.keyring.message.key_id)
    line = await session.query(0, ShowKey(key=old))
    seed = random_bytes(SEED_BYTES)
    place = line["compartment"].rpartition("/")[2]
    granted = await granted_key(session, seed, line["name"], line["role"], place, reason)
    new = OperatorKey(
        cloud=session.directory.cloud, account=granted["subject"], seed=to_text(seed), root=session.key.root, grant=granted["frame"],
        home=session.key.home,
    )  # fmt: skip
    async with await _proved(session, new) as successor:
        path = save_operator_key(session.config.keys, new)
        say(f"the new key is in {path}; the old one is refused in {overlap_s} s")
        await asyncio.sleep(overlap_s)
        await successor.command(0, RevokeKey(key=old, reason=reason), reason=reason)
    return {"key": granted["key"], "old": old, "name": granted["name"], "file": str(path)}


async def _proved(session: Session, new: OperatorKey) -> Session:
    """Return a session with *new* after every ring that answers us has answered it. Raises: NotProved."""
    from bus.session import Session as Successor

    successor = Successor(session.config, session.directory, new)
    deadline = monotonic_s() + KNOWN_S
    for reach in session.directory.domains:
        if not await _answers(session, reach.ring):
            continue  # it is away for the old key too, and hears of both when it is back
        while not await _answers(successor, reach.ring):
            if monotonic_s() > deadline:
                await successor.close()
                raise NotProved(f"ring {reach.ring} does not know the new key")
    return successor


async def _answers(session: Session, ring: int) -> bool:
    try:
        await session.head(ring, PROVED_S)
    except EnjinError:
        return False
    return True
