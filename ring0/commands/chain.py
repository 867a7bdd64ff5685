"""`enjin trust`: why something is believed: the chain of a node, key, app, command or journal entry, down to the root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enjin.errors import EnjinError, NotFound
from enjin.host import clock
from enjin.output import json_option, print_json, rfc3339, say
from ring0.commands.client import both, run, told

if TYPE_CHECKING:
    from bus.session import Session
    from keys.chain import Link

ENTRY: Final = re.compile(r"([01])/(\d{1,15})")
REQUEST: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
KEY_DIGITS_MIN: Final = 8
SEARCHED: Final = 1_000


class NothingSuch(NotFound):
    """No node, app, account, key, command or entry is called so."""

    code = "E-CLI-015"
    remedy = "name a node, app, account or key id (8 digits or more), a request id, or an entry such as 0/12"


@click.group("trust")
def trust() -> None:
    """Why something is believed.

    \b
    Examples:
      enjin trust show ring1
      enjin trust show 0/12
    """


@trust.command("root")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the statement's frame to this file.")
@json_option
def root(out: Path | None, as_json: bool) -> None:
    """Show the root statement that your key file pins; with --out, for `enjin audit verify --root` elsewhere."""

    async def work(session: Session) -> tuple[bytes, Any, str]:
        return session.trust.root_frame, session.trust.roots.statements[0], str(session.trust.cloud)

    frame, statement, cloud = run(work)
    if out is not None:
        out.write_bytes(frame)
    line = {"cloud": cloud, "version": statement.version, "threshold": statement.threshold, "keys": list(statement.keys)}
    if as_json:
        print_json(line | {"expires": rfc3339(statement.expiry)})
    else:
        say(f"cloud {cloud}\n{statement.threshold} of {len(statement.keys)} keys sign, until {rfc3339(statement.expiry)}")


@trust.command("show")
@click.argument("what", required=False, default="", metavar="[NODE|APP|KEY|REQUEST|RING/ENTRY]")
@json_option
def show(what: str, as_json: bool) -> None:
    """Print the chain of WHAT down to the root, in words; without WHAT that of your own key."""

    async def work(session: Session) -> tuple[list[tuple[str, list[Link]]], str]:
        from keys.chain import root_words

        pinned = f"{root_words(session.trust.root)}; your key file pins it as cloud {str(session.trust.cloud)[:16]}"
        return await find(session, what), pinned

    chains, pinned = run(work)
    if as_json:
        print_json({"schema": 1, "chains": [{"about": about, "links": told(to_plain(found))} for about, found in chains]})
        return
    for about, found in chains:
        click.echo(about)
        for depth, link in enumerate(found):
            for line in words(link):
                click.echo(f"  {'  ' * depth}{line}")
        click.echo(f"  {'  ' * len(found)}{pinned}")


def words(link: Link) -> list[str]:
    """Return the lines that tell one link."""
    who = "the root's keys" if link.issuer == "root" else f"{link.issuer}'s issuing key"
    when = "since" if link.state.startswith("expired") else "until"
    return [
        f"{link.subject} is a {link.role} of ring {link.ring} in {link.compartment}: {link.state}, {when} {rfc3339(link.expiry)}",
        f"  signs with key {link.keys['message'][:16]}, may {', '.join(one.partition(' ')[0] for one in link.allowed) or 'nothing'}",
        f"  because {who} ({', '.join(key[:16] for key in link.signed_by)}) signed grant {link.grant[:16]}",
    ]


def to_plain(found: list[Link]) -> list[dict[str, Any]]:
    """Return links as JSON knows them, their times as text."""
    import msgspec

    plain = [msgspec.to_builtins(link) for link in found]
    return [one | {"not_before": rfc3339(one["not_before"]), "expiry": rfc3339(one["expiry"])} for one in plain]


async def find(session: Session, what: str) -> list[tuple[str, list[Link]]]:
    """Return (what it is, its chain) for everything that vouches for *what*. Raises: NothingSuch."""
    if not what:
        return [("your own key", chain_of(session, session.grant))]
    if match := ENTRY.fullmatch(what):
        return await entry(session, int(match[1]), int(match[2]))
    if REQUEST.fullmatch(what):
        return await request(session, what)
    subject, about = await named(session, what)
    digest = session.trust.grant_of(subject) if subject else None
    if digest is None:
        raise NothingSuch(f"there is no {what[:80]!r} whose grant is known here")
    return [(about, chain_of(session, digest))]


def chain_of(session: Session, digest: str) -> list[Link]:
    """Return the chain of a grant."""
    from keys.chain import links

    return list(links(session.trust, digest, clock().wall_us))


async def named(session: Session, what: str) -> tuple[str, str]:
    """Return the subject of the grant behind a name, id or key, and what it is; ("", "") when there is none."""
    from keys.chain import key_ids
    from keys.frame import open_frame
    from keys.grants import read_grant
    from ring0.accounts import ListAccounts
    from ring0.nodes import ListNodes

    for grant in (read_grant(open_frame(frame)) for frame in session.trust.frames()):
        for purpose, key in key_ids(grant).items():
            if len(what) >= KEY_DIGITS_MIN and key.startswith(what.lower()):
                return grant.subject, f"key {key[:16]} ({purpose}) of {grant.subject}"
    for account in await session.query(0, ListAccounts()):
        if what in (account["id"], account["name"]):
            return account["id"], f"account {account['name']}"
    rows, _missing = await both(session, ListNodes())
    for row in rows:
        if what in (row["id"], row["label"]) or (row["ring"] == 2 and what == row["label"].partition(".")[0]):
            if row["ring"] < 2:
                return row["id"], f"node {row['label']} of ring {row['ring']}"
            return row["supervisor"], f"{row['label']} of ring 2 runs because {row['supervisor']} runs it"
    return "", ""


async def entry(session: Session, ring: int, number: int) -> list[tuple[str, list[Link]]]:
    """Return who signed the cause of an entry, and who signed the journal that holds it."""
    import msgspec

    from bus.journal import Entry
    from compartments.history import ExportEntries
    from keys.chain import key_ids
    from keys.frame import open_frame
    from keys.grants import read_grant
    from ring0.commands.evidence import read_page

    page = await session.query(ring, ExportEntries(after=number - 1)) if number > 0 else None
    if page is None:
        raise NothingSuch(f"there is no entry {ring}/{number}")
    stretch = read_page(page)
    cause = msgspec.json.decode(stretch.entries[0], type=Entry).cause
    signer = open_frame(cause.frame).key_id
    about = f"{cause.kind} of entry {ring}/{number} was signed by key {signer[:16]}"
    found = [(about, chain_of(session, session.trust.key(signer).grant))]
    for frame in map(open_frame, session.trust.frames()):
        if key_ids(read_grant(frame)).get("journal") == stretch.commit.key_id:
            about = f"entry {ring}/{number} was committed with journal key {stretch.commit.key_id[:16]}"
            found.append((about, chain_of(session, frame.digest)))
            break
    return found


async def request(session: Session, identity: str) -> list[tuple[str, list[Link]]]:
    """Return the chain of the command with request id *identity*: of the newest entries of both rings. Raises: NothingSuch."""
    from compartments.audit import ListEntries

    for ring in (0, 1):
        try:
            lines = await session.query(ring, ListEntries(limit=SEARCHED))
        except EnjinError:
            if ring == 0:
                raise
            continue
        for line in lines:
            if line["request"] == identity:
                return await entry(session, ring, line["number"])
    raise NothingSuch(f"none of the newest {SEARCHED} entries of either ring was caused by request {identity}")
