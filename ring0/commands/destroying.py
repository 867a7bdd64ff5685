"""`enjin compartment destroy`: an empty compartment, gone for ever with the key to its secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from compartments.destroying import CompartmentInUse, DestroyCompartment, ShowHoldings, in_use
from compartments.lookup import NoSuchCompartment
from enjin.errors import EnjinError, Refused, Unreachable
from enjin.output import json_option, reason_option, say
from ring0.commands.approving import settled
from ring0.commands.client import RING1_S, detach_option, done, run, show_one, until

if TYPE_CHECKING:
    from bus.session import Session

GONE_S: Final = 60.0
NO_RING1: Final = "E-DIR-001"


class DestroyingNotConfirmed(Refused):
    """The destruction of a compartment was not confirmed."""

    code = "E-CLI-022"
    remedy = "type the compartment's name when asked, or give --yes"


@click.command("destroy")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only tell what it holds, and how far its end is.")
@detach_option
@reason_option
@json_option
def destroy(name: str, yes: bool, dry_run: bool, detach: bool, reason: str, as_json: bool) -> None:
    """Destroy compartment NAME, which must be empty, and the key to its secrets: unreadable from then on, in backups too. No undo.

    Where there are several operators, others approve it first: `enjin approvals`. Its name is free afterwards.
    """
    if not yes and not dry_run:
        question = f"This destroys {name} and makes everything that was sealed in it unreadable for ever. Type its name to go on"
        if click.prompt(question, default="", show_default=False) != name:
            raise DestroyingNotConfirmed("nothing was destroyed")

    async def work(session: Session) -> dict[str, Any]:
        found = await holdings(session, name)
        if dry_run:
            return found
        if found["holds"]:
            raise in_use(found["name"], found["holds"])
        wish = DestroyCompartment(compartment=found["name"], confirm=found["id"])
        decided: dict[str, Any] = settled(await session.command(0, wish, reason=reason))
        return decided if detach else await gone(session, decided)

    found = run(work)
    if dry_run:
        show_one(found, as_json)
        return
    words = "is destroyed, and its name is free" if found["state"] == "destroyed" else "takes nothing new, and is being destroyed"
    done(found, as_json, f"compartment {found['name']} {words}")


async def holdings(session: Session, name: str) -> dict[str, Any]:
    """Return what both rings say that compartment *name* holds; ring 1 may know no such compartment, or be away: ring 0 waits for it."""
    found: dict[str, Any] = await session.query(0, ShowHoldings(compartment=name))
    found.pop("ring")
    try:
        inner = await session.query(1, ShowHoldings(compartment=found["id"]), deadline_s=RING1_S)
        found["holds"] += [one for one in inner["holds"] if one not in found["holds"]]
    except NoSuchCompartment:
        pass
    except EnjinError as error:
        if not isinstance(error, Unreachable) and error.code != NO_RING1:
            raise
        say(f"warning: ring 1: {error.message}")
    return found


async def gone(session: Session, decided: dict[str, Any]) -> dict[str, Any]:
    """Return the compartment when it is destroyed. Raises: CompartmentInUse: it is kept after all; NotYet."""
    waits = ""

    async def looked() -> dict[str, Any] | None:
        nonlocal waits
        found: dict[str, Any] = await session.query(0, ShowHoldings(compartment=decided["id"]))
        if found["state"] == "open":
            raise CompartmentInUse(found["why"] or f"compartment {decided['name']} is kept")
        waits = found["why"]
        return decided | {"state": "destroyed"} if found["state"] == "destroyed" else None

    try:
        found: dict[str, Any] = await until(session, looked, f"compartment {decided['name']} is not destroyed yet", GONE_S)
    except Unreachable as error:
        if waits:
            error.hint = f"{waits}; it goes on by itself"
        raise
    return found
