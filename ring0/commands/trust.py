"""`enjin key`: who may ask, with which key, and who no longer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bus.messages import Query
from enjin.errors import Refused, Unreachable
from enjin.host import random_bytes
from enjin.output import json_option, print_json, reason_option, say
from ring0.commands.client import PARTIAL, RING1_S, ask, at_option, done, run, show_one, show_rows, told, until
from ring0.commands.granting import granted_key
from ring0.commands.rotation import rotate

if TYPE_CHECKING:
    from bus.session import Session

REVOKE_S: Final = 20.0


class KeyFileThere(Refused):
    """A key file would be overwritten."""

    code = "E-CLI-010"
    remedy = "choose another directory with --directory"


class ShowRing1Charter(Query, kind="charter.show"):
    """What ring 1 follows."""


@click.group("key")
def key() -> None:
    """People's and machines' keys: whose they are, and which are refused from now on.

    \b
    Examples:
      enjin key create alice --reason "second operator"
      enjin key revoke 3f9a12bc --reason "laptop stolen"
    """


key.add_command(rotate)


@key.command("list")
@at_option
@json_option
def list_keys(at: str, as_json: bool) -> None:
    """List the keys."""
    from ring0.keys import ListKeys

    rows = ask(ListKeys(at=at))
    if as_json:
        print_json(told(rows))
        return
    shown = [row | {"key": row["key"][:16], "expires": told(row)["expires"]} for row in rows]
    columns = {
        "key": "KEY",
        "name": "NAME",
        "role": "ROLE",
        "ring": "RING",
        "compartment": "COMPARTMENT",
        "state": "STATE",
        "expires": "EXPIRES",
    }
    show_rows(shown, columns | {"reason": "REASON"}, False)


@key.command("show")
@click.argument("identity", metavar="KEY")
@at_option
@json_option
def show_key(identity: str, at: str, as_json: bool) -> None:
    """Show KEY (an id, or at least its first 8 digits) and the signed grant that says what it may do."""
    from ring0.enrolling import ShowKey

    show_one(ask(ShowKey(key=identity, at=at)), as_json)


@key.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["operator", "tenant"]), default="operator", show_default=True, help="What it may do.")
@click.option("--compartment", "place", default="", metavar="NAME", help="Where it counts (default: the cloud itself).")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Where the key file goes (default: NAME beside yours).")
@reason_option
@json_option
def create_key(name: str, role: Any, place: str, directory: Path | None, reason: str, as_json: bool) -> None:
    """Make a new key for person NAME, and the account where there is none; the secret stays in its file here."""
    from enjin.canonical import to_text
    from keys.keyring import SEED_BYTES
    from keys.operator import OperatorKey, key_path, save_operator_key

    async def work(session: Session) -> dict[str, Any]:
        target = str(directory or Path(session.config.keys) / name)
        path = key_path(target, session.directory.cloud)
        if path.exists():
            raise KeyFileThere(f"there is a key file at {path}")
        seed = random_bytes(SEED_BYTES)
        granted = await granted_key(session, seed, name, role, place, reason)
        held = OperatorKey(
            cloud=session.directory.cloud,
            account=granted["subject"],
            seed=to_text(seed),
            root=session.key.root,
            grant=granted.pop("frame"),
            home=session.key.home,
        )
        return granted | {"file": str(save_operator_key(target, held))}

    made = run(work)
    done(
        made,
        as_json,
        f"made key {made['key'][:16]} of {made['name']} in {made['file']}; use it with ENJIN_KEYS={Path(made['file']).parent}",
    )


@key.command("revoke")
@click.argument("identity", metavar="KEY")
@click.option("--last", is_flag=True, help="Also when it is the last key that can operate the cloud.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the journal.")
@json_option
def revoke_key(identity: str, last: bool, reason: str, as_json: bool) -> None:
    """Refuse KEY from now on, in every ring, and all that it granted. There is no undo."""
    from ring0.keys import RevokeKey

    async def work(session: Session) -> dict[str, Any]:
        found: dict[str, Any] = await session.command(0, RevokeKey(key=identity, reason=reason, last=last), reason=reason)
        own = found["key"] == str(session.keyring.message.key_id)
        return found | {"ring1": not own and await heard(session, found["number"])}

    found = run(work)
    done(found, as_json, f"key {found['key'][:16]} is refused from now on")
    if not found["ring1"]:
        say("warning: ring 1 has not confirmed it yet; ring 0 tells it as soon as it answers")
        click.get_current_context().exit(PARTIAL)


async def heard(session: Session, number: int, what: str = "revoked") -> bool:
    """Whether every ring 1 domain that answers has, within the time, a charter that holds *number* of *what* it counts."""
    from ring0.charters import ListCharters

    async def follows() -> bool:
        issued = {row["domain"]: row for row in await session.query(0, ListCharters())}
        reach = session.directory.reach(1)
        row = issued.get(reach.domain)
        if row is None or row[what] < number:
            return False
        charter = await session.query(1, ShowRing1Charter(), deadline_s=RING1_S)
        return bool(charter["version"] >= row["version"])

    try:
        return bool(await until(session, follows, "ring 1 has not heard of it", REVOKE_S))
    except Unreachable:
        return False
    except Refused as error:
        if error.code != "E-DIR-001":
            raise
        return True  # there is no ring 1 that could believe the key
