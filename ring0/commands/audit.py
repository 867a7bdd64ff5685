"""`enjin audit`: who did what, when and why, in every ring's journal; and whether the journals hold."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from compartments.audit import LIMIT_MAX, ListEntries, merge
from compartments.moments import parse_moment
from enjin.errors import EnjinError, Invalid, Unreachable
from enjin.host import clock
from enjin.names import shorten
from enjin.output import json_option, print_json, print_rows, rfc3339
from ring0.commands.client import partial, run
from ring0.commands.evidence import diff, export, repair
from ring0.commands.journals import domains, journal_file, journal_keys

if TYPE_CHECKING:
    from bus.journal.checkpoint import Checkpoint
    from bus.session import Session

LIMIT_DEFAULT: Final = 50
VERIFY_S: Final = 60.0
FACTS_SHOWN: Final = 3
COLUMNS: Final = {"when": "WHEN", "place": "ENTRY", "name": "WHO", "what": "WHAT", "why": "WHY", "facts": "MADE TRUE"}


class WhichRing(Invalid):
    """An entry's number says nothing without its ring."""

    code = "E-CLI-012"
    remedy = "add --ring 0 or --ring 1"


@click.group("audit")
def audit() -> None:
    """Who did what, when and why; and whether the journals hold.

    \b
    Examples:
      enjin audit log --since 2h --action app.push
      enjin audit verify
      enjin audit diff 2h
    """


audit.add_command(export)
audit.add_command(diff)
audit.add_command(repair)


@audit.command("log")
@click.option("--ring", type=click.IntRange(0, 1), help="Only this ring's journal.")
@click.option("--who", default="", metavar="NAME", help="Only what this account or node asked for (a name or id).")
@click.option("--action", default="", metavar="KIND", help="Only this command, such as app.push.")
@click.option("--since", default="", metavar="TIME", help="From then on: RFC 3339, 10m, 2h, 3d ago, or an entry's number.")
@click.option("--until", "until_", default="", metavar="TIME", help="Up to then.")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=LIMIT_DEFAULT, show_default=True, help="At most so many, the newest.")
@json_option
def log(ring: int | None, who: str, action: str, since: str, until_: str, limit: int, as_json: bool) -> None:
    """List who did what, when and why: both rings' journals in the order of time."""

    async def work(session: Session) -> tuple[list[dict[str, Any]], list[str]]:
        names = await people(session)
        asker = next((identity for identity, name in names.items() if name == who), who)
        logs, missing = [], []
        for one in (0, 1) if ring is None else (ring,):
            try:
                first, last = await moment(session, ring, since), await moment(session, ring, until_)
                query = ListEntries(who=asker, command=action, since=first, until=last, limit=limit)
                logs.append(await session.query(one, query))
            except EnjinError as error:
                if one == 0 or ring == 1 or (not isinstance(error, Unreachable) and error.code != "E-DIR-001"):
                    raise
                missing.append(f"ring 1: {error.message}")
        return [line | {"name": names.get(line["who"], line["who"])} for line in merge(*logs)[-limit:]], missing

    lines, missing = run(work)
    if as_json:
        print_json([line | {"time": rfc3339(line["time"]), "time_us": line["time"]} for line in lines])
    else:
        print_rows([shown(line) for line in lines], COLUMNS, empty="no entries")
    partial(missing)


def shown(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line as people read it; what came through a token says so."""
    by = f"{line['name']} (token)" if line["token"] else line["name"]
    facts = [*line["facts"][:FACTS_SHOWN], *(["…"] if len(line["facts"]) > FACTS_SHOWN else [])]
    place = f"{line['ring']}/{line['number']}"
    return line | {"when": rfc3339(line["time"]), "place": place, "name": by, "why": shorten(line["why"], 80), "facts": facts}


async def people(session: Session) -> dict[str, str]:
    """Return the names behind the ids that ask: accounts and nodes."""
    from ring0.accounts import ListAccounts
    from ring0.nodes import ListNodes

    rows = [(row["id"], row["name"]) for row in await session.query(0, ListAccounts())]
    return dict(rows + [(row["id"], row["label"]) for row in await session.query(0, ListNodes())])


async def moment(session: Session, ring: int | None, text: str) -> int:
    """Return the microsecond that *text* names; 0 for "". Raises: BadMoment, WhichRing, Invalid."""
    if not text:
        return 0
    at = parse_moment(text, clock().wall_us)
    if at.number is None:
        return max(1, at.time or 0)
    if ring is None:
        raise WhichRing(f"entry {text} of which ring's journal?")
    found = await session.query(ring, ListEntries(after=max(0, at.number - 1), limit=1, oldest=True))
    if not found or found[0]["number"] != at.number:
        raise Invalid(f"there is no entry {text} in ring {ring}'s journal")
    return int(found[0]["time"])


@audit.command("verify")
@click.option("--ring", type=click.IntRange(0, 1), help="Only this ring's journal.")
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Only this file, from any cloud.")
@click.option("--root", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="With --file: the root statement to believe.")
@json_option
def verify(ring: int | None, path: Path | None, root: Path | None, as_json: bool) -> None:
    """Check chain and signatures of the journals, against the root that your key file pins; ends with 1 when one does not hold.

    Who may read a journal's file checks it here, without its daemon; else the daemon is asked. With --file and --root neither a
    cloud nor a key is needed: whose keys signed stands in the journal itself, and leads to the root.
    """
    if (path is None) != (root is None):
        raise click.UsageError("--file and --root go together")
    rings = run(lambda session: verify_all(session, ring)) if path is None or root is None else [verify_offline(path, root)]
    bad = [one for one in rings if not one["ok"]]
    if as_json:
        first = bad[0]["first_bad"] if bad else None
        print_json({"schema": 1, "entries": sum(one["entries"] for one in rings), "ok": not bad, "first_bad": first, "rings": rings})
    else:
        columns = {
            "ring": "RING",
            "domain": "DOMAIN",
            "entries": "ENTRIES",
            "ok": "OK",
            "first_bad": "FIRST BAD",
            "by": "CHECKED BY",
            "reason": "WHY",
        }
        print_rows(rings, columns)
    if bad:
        click.get_current_context().exit(1)


def verify_offline(path: Path, root: Path) -> dict[str, Any]:
    """Return the verdict on one file, believing one root statement."""
    from compartments.offline import verify_with_root

    meta, said = verify_with_root(path, root.read_bytes(), len(os.sched_getaffinity(0)))
    verdict = {"entries": said.entries, "ok": said.ok, "first_bad": said.first_bad or None, "reason": said.reason}
    return {"ring": int(meta.domain != "ring0"), "domain": meta.domain} | verdict | {"by": "root"}


async def verify_all(session: Session, ring: int | None) -> list[dict[str, Any]]:
    """Return a verdict for each domain in the directory."""
    from compartments.history import VerifyAudit

    found = []
    for one, domain, decider in domains(session):
        if ring not in (None, one):
            continue
        path = journal_file(Path(session.config.home), one, domain)
        if os.access(path, os.R_OK):
            said, by = await asyncio.to_thread(verify_file, session, path, decider, witnessed(session, domain)), "file"
        else:
            answer = await session.query(one, VerifyAudit(), deadline_s=VERIFY_S)
            said, by = {key: answer[key] for key in ("entries", "ok", "first_bad", "reason")}, "daemon"
        found.append({"ring": one, "domain": domain} | said | {"first_bad": said["first_bad"] or None, "by": by})
    return found


def witnessed(session: Session, domain: str) -> list[Checkpoint]:
    """Return what ring 0's own copy of *domain*'s journal shows: its head must be in the journal too."""
    from bus.journal.checkpoint import Checkpoint
    from bus.journal.reader import Reader

    path = Path(session.config.home) / "ring0" / "children" / domain / "followed.db"
    if not os.access(path, os.R_OK):
        return []
    with Reader(f"sqlite:///{path}") as reader:
        meta, commit = reader.meta(), reader.last_commit()
    if meta is None or commit is None:
        return []
    return [Checkpoint(cloud=meta.cloud, domain=meta.domain, epoch=commit.epoch, number=meta.head.number, hash=meta.head.hash)]


def verify_file(session: Session, path: Path, decider: str, checkpoints: list[Checkpoint]) -> dict[str, Any]:
    """Return the verdict on the file at *path*, whose commits one of *decider*'s journal keys must have signed."""
    from bus.journal.verify import verify as check

    publics = journal_keys(session, decider)
    said = check(
        f"sqlite:///{path}",
        lambda _domain: publics,
        signers=session.trust.message_keys(),
        checkpoints=checkpoints,
        processes=len(os.sched_getaffinity(0)),
    )
    return {"entries": said.entries, "ok": said.ok, "first_bad": said.first_bad, "reason": said.reason}
