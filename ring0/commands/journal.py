"""`enjin journal`: where ring 0's journal lies, and its move from a file into PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from enjin import config as configuration
from enjin.errors import ConfigError, Conflict
from enjin.failpoints import failpoint
from enjin.output import json_option, print_json, say

if TYPE_CHECKING:
    from bus.journal import Verification
    from ring0.foundation import Foundation

MOVED: Final = "journal-moved.db"


class CloudRuns(Conflict):
    """Ring 0 runs, and writes the journal that is to be moved."""

    code = "E-CLI-021"
    remedy = "`enjin down`, then this again, then `enjin up`"


@click.group("journal")
def journal() -> None:
    """Where ring 0's journal lies, and its move into PostgreSQL.

    \b
    Examples:
      enjin journal where
      enjin down && enjin journal migrate 'postgresql://db1,db2/enjin?user=enjin&passfile=/etc/enjin/pgpass' && enjin up
    """


@journal.command("where")
@json_option
def where(as_json: bool) -> None:
    """Show where ring 0's journal lies: a file, or a database and its hosts."""
    from bus.journal.postgres import place

    home, foundation = _founded()
    found = place(foundation.journal) if foundation.journal else str(home / "ring0" / "journal.db")
    if as_json:
        print_json({"schema": 1, "kind": "postgresql" if foundation.journal else "sqlite", "place": found})
    else:
        say(f"ring 0's journal lies in {found}")


@journal.command("migrate")
@click.argument("url")
@json_option
def migrate(url: str, as_json: bool) -> None:
    """Move ring 0's journal from its file into the PostgreSQL database at URL, while the cloud is down.

    It is verified before and after with nothing but the root; on any failure the file is what it was, and the same command goes on
    where it stood. The file stays beside, as ring0/journal-moved.db. The address may hold no password: name a file with ?passfile=.
    """
    home, foundation = _founded()
    done = move(home, foundation, url)
    if as_json:
        print_json({"schema": 1} | done)
    else:
        say(f"ring 0's journal of {done['entries']} entries lies in {done['place']}, {done['copied']} of them copied now; `enjin up`")


def _founded() -> tuple[Path, Foundation]:
    from ring0.foundation import read_foundation

    home = configuration.load({}).path
    foundation = read_foundation(home)
    if foundation is None:
        raise ConfigError(f"there is no cloud at {home}", hint="`enjin up`, or set ENJIN_HOME")
    return home, foundation


def move(home: Path, foundation: Foundation, url: str) -> dict[str, Any]:
    """Move the journal of the cloud at *home* to *url*, and say in its foundation that it lies there.

    Raises:
        CloudRuns: Its init runs.
        ConfigError: It lies in another database already.
        And what ``postgres.check_address`` and ``bus.journal.migrate`` raise.
    """
    import msgspec

    from bus.journal.migrate import migrate as copy
    from bus.journal.postgres import check_address, place
    from compartments.offline import verify_url_with_root
    from enjin.canonical import from_text
    from ring0.foundation import write_foundation
    from ring0.launch import init_runs

    if init_runs(home):
        raise CloudRuns(f"the cloud at {home} runs")
    if foundation.journal not in ("", url):
        raise ConfigError(f"ring 0's journal lies in {place(foundation.journal)} already", hint="`enjin journal where`")
    check_address(url)
    path, root = home / "ring0" / "journal.db", from_text(foundation.root)

    def check(where: str) -> Verification:
        return verify_url_with_root(where, root, len(os.sched_getaffinity(0)))[1]

    if not path.exists() and foundation.journal:
        found = check(url)
        return {"place": place(url), "entries": found.entries, "copied": 0}
    owner = path.parent.stat()
    try:
        done = copy(f"sqlite:///{path}", url, check)
    finally:
        if os.geteuid() == 0:  # what was made on the way must be its daemon's, not ours
            for file in path.parent.glob(f"{path.name}*"):
                os.chown(file, owner.st_uid, owner.st_gid)
    write_foundation(home, msgspec.structs.replace(foundation, journal=url))
    failpoint("migration.rename")
    os.rename(path, path.with_name(MOVED))
    return {"place": place(url), "entries": done.entries, "copied": done.copied}
