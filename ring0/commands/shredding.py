"""`enjin compartment shred|new-key|secrets`: a compartment's secrets, gone for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from compartments.shredding import RenewKey, ShowSecrets, ShredSecrets
from enjin.errors import Refused
from enjin.output import json_option, reason_option, say
from ring0.commands.approving import settled
from ring0.commands.client import at_option, done, run, show_one, until

if TYPE_CHECKING:
    from bus.session import Session

RING1: Final = 1
GONE_S: Final = 30.0


class ShreddingNotConfirmed(Refused):
    """The shredding of a compartment's secrets was not confirmed."""

    code = "E-CLI-016"
    remedy = "type the compartment's name when asked, or give --yes"


@click.command("shred")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@reason_option
@json_option
def shred(name: str, yes: bool, reason: str, as_json: bool) -> None:
    """Destroy the key to every secret of compartment NAME: unreadable from now on, in journals and backups too. There is no undo.

    Where there are several operators, others approve it first: `enjin approvals`.
    """
    if not yes:
        question = f"This makes every setting of {name} unreadable for ever. Type its name to go on"
        typed = click.prompt(question, default="", show_default=False)
        if typed != name:
            raise ShreddingNotConfirmed("nothing was shredded")

    async def work(session: Session) -> dict[str, Any]:
        settled(await session.command(RING1, ShredSecrets(compartment=name, confirm=name), reason=reason))

        async def gone() -> dict[str, Any] | None:
            found: dict[str, Any] = await session.query(RING1, ShowSecrets(compartment=name))
            return found if found["state"] == "shredded" else None

        found: dict[str, Any] = await until(session, gone, f"the key of {name} is condemned and not destroyed yet", GONE_S, ring=RING1)
        return found

    found = run(work)
    done(found, as_json, f"the secrets of {found['compartment']} are shredded")
    if found["apps"]:
        say("note: what runs now keeps its values in memory until it ends, and does not start again with them: " + ", ".join(found["apps"]))


@click.command("new-key")
@click.argument("name")
@reason_option
@json_option
def new_key(name: str, reason: str, as_json: bool) -> None:
    """Make a new key for compartment NAME, whose old one was shredded, for values that are set from now on."""

    async def work(session: Session) -> dict[str, Any]:
        await session.command(RING1, RenewKey(compartment=name), reason=reason)

        async def there() -> dict[str, Any] | None:
            found: dict[str, Any] = await session.query(RING1, ShowSecrets(compartment=name))
            return found if found["state"] == "in use" else None

        found: dict[str, Any] = await until(session, there, f"{name} has no new key yet", GONE_S, ring=RING1)
        return found

    found = run(work)
    done(found, as_json, f"{found['compartment']} has a new key; set its apps' settings again")


@click.command("secrets")
@click.argument("name")
@at_option
@json_option
def secrets(name: str, at: str, as_json: bool) -> None:
    """Show whether the secrets of compartment NAME can be read, and which apps hold any."""
    show_one(run(lambda session: session.query(RING1, ShowSecrets(compartment=name, at=at))), as_json)
