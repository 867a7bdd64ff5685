"""`enjin audit export|diff|repair`: a journal for other tools, between two moments, and put back from its witness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enjin.errors import Conflict, NotFound
from enjin.output import json_option, print_json, print_rows, say
from ring0.commands.client import run
from ring0.commands.journals import domains, journal_file, journal_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bus.journal import Stretch
    from bus.session import Session

EXPORT_S: Final = 60.0
ENTRY_LAST: Final = (1 << 53) - 1


class NoWitness(NotFound):
    """Nobody holds a copy of this journal."""

    code = "E-CLI-013"
    remedy = "ring 0's journal is witnessed once there is a second ring 0 machine; until then restore it from a backup"


class StillRuns(Conflict):
    """The journal's daemon runs and writes it."""

    code = "E-CLI-014"
    remedy = "stop it first: `enjin node stop ring1`"


@click.command("export")
@click.option("--ring", type=click.IntRange(0, 1), default=0, show_default=True, help="Whose journal.")
@click.option("--from", "first", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="From entry N on.")
@click.option("--to", "last", type=click.IntRange(1), default=ENTRY_LAST, metavar="N", help="Up to the commit that covers entry N.")
@json_option
def export(ring: int, first: int, last: int, as_json: bool) -> None:
    """Print a journal as DSSE envelopes, one JSON document a line, for any tool that verifies DSSE.

    Of each entry the frame that caused it (signed by whoever asked) and the entry itself (signed by nobody: its hash is); of each
    commit the statement with the last entry's number and hash, signed by the journal's key. docs/wire.md, 6.
    """

    del as_json  # it never prints anything else

    async def work(session: Session) -> None:
        from compartments.history import ExportEntries

        after = first - 1
        while after < last:
            page = await session.query(ring, ExportEntries(after=after), deadline_s=EXPORT_S)
            if page is None:
                return
            stretch = read_page(page)
            for envelope in envelopes(stretch, session.directory.cloud, session.directory.reach(ring).domain):
                print_json(envelope)
            after = stretch.commit.number

    run(work)


def read_page(page: dict[str, Any]) -> Stretch:
    """Return the stretch in an answer. Raises: BadStretch."""
    import msgspec

    from bus.journal import read_stretch

    return read_stretch(msgspec.json.encode(page))


def envelopes(stretch: Stretch, cloud: str, domain: str) -> Iterator[dict[str, Any]]:
    """Yield the DSSE envelopes of *stretch*: cause and entry by turns, then the commit."""
    import msgspec

    from bus.journal import Entry
    from bus.journal.entry import commit_statement
    from keys.dsse import frame_to_dsse, to_dsse
    from keys.frame import COMMIT, ENTRY, Signature, open_frame

    for data in stretch.entries:
        yield frame_to_dsse(open_frame(msgspec.json.decode(data, type=Entry).cause.frame))
        yield to_dsse(ENTRY, data, ())
    commit = stretch.commit
    statement = commit_statement(cloud, domain, commit.epoch, commit.head)
    yield to_dsse(COMMIT, statement, (Signature(commit.key_id, commit.signature),))  # type: ignore[arg-type]


@click.command("diff")
@click.argument("since", metavar="T1")
@click.argument("until", metavar="[T2]", default="")
@click.option("--ring", type=click.IntRange(0, 1), default=0, show_default=True, help="Whose world.")
@json_option
def diff(since: str, until: str, ring: int, as_json: bool) -> None:
    """Show what is otherwise at T2 (now) than at T1: times, or entry numbers of that ring's journal."""
    from compartments.history import DiffWorlds

    found = run(lambda session: session.query(ring, DiffWorlds(since=since, until=until), deadline_s=EXPORT_S))
    if as_json:
        print_json({"schema": 1} | found)
        return
    lines = [
        {"op": change["op"], "row": f"{change['table']} {change['key']}", "field": field, "before": before, "after": after}
        for change in found["changes"]
        for field, (before, after) in change["fields"].items()
        if change["op"] == "changed" or (before or after)
    ]
    print_rows(lines, {"op": "WHAT", "row": "ROW", "field": "FIELD", "before": "BEFORE", "after": "AFTER"}, empty="nothing changed")
    if found["total"] > len(found["changes"]):
        say(f"and {found['total'] - len(found['changes'])} more rows; take moments that lie closer together")


@click.command("repair")
@click.option("--ring", type=click.IntRange(0, 1), default=1, show_default=True, help="Whose journal.")
@json_option
def repair(ring: int, as_json: bool) -> None:
    """Put back what was changed in or lost from a stopped ring's journal, from the copy that its witness holds.

    Nothing that the ring acknowledged is cut: what its own signed commits vouch for stays, and so does what lies beyond the copy.
    """

    async def work(session: Session) -> dict[str, Any]:
        if ring == 0:
            raise NoWitness("ring 0's journal has no witness on this machine")
        home = Path(session.config.home)
        domain, decider = next((one, two) for found, one, two in domains(session) if found == ring)
        copy = home / "ring0" / "children" / domain / "followed.db"
        if not os.access(copy, os.R_OK):
            raise NoWitness(f"ring 0 holds no copy of {domain}'s journal that you can read", hint="run this as root")
        return repair_file(session, journal_file(home, ring, domain), copy, domain, decider)

    done = run(work)
    if as_json:
        print_json({"schema": 1} | done)
    else:
        changed = len(done["replaced"]) + len(done["restored"])
        say(f"put back {changed} entries of {done['domain']}; the journal ends at entry {done['head']}; check it: `enjin audit verify`")


def repair_file(session: Session, path: Path, copy: Path, domain: str, decider: str) -> dict[str, Any]:
    """Repair the journal at *path* from the followed *copy*. Raises: StillRuns, Forked, BadStretch."""
    from bus.journal import Reader
    from bus.journal import repair as put_back
    from bus.journal.errors import JournalBusy

    owner, cloud, keys = path.parent.stat(), session.directory.cloud, journal_keys(session, decider)
    try:
        with Reader(f"sqlite:///{copy}") as reader:
            found = put_back(f"sqlite:///{path}", cloud=cloud, domain=domain, publics=keys, fetch=reader.stretch)
    except JournalBusy as error:
        raise StillRuns(f"the journal of {domain} is open") from error
    finally:
        if os.geteuid() == 0:  # what was made on the way must be its daemon's, not ours
            for file in path.parent.glob(f"{path.name}*"):
                os.chown(file, owner.st_uid, owner.st_gid)
    return {"domain": domain, "replaced": list(found.replaced), "restored": list(found.restored), "head": found.head.number}
