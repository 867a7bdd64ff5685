"""`enjin root`: whose keys are the cloud's root now, and replacing all of them while the cloud runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enjin.errors import Conflict, EnjinError, Unreachable
from enjin.host import clock
from enjin.output import json_option, print_json, reason_option, rfc3339, say
from ring0.commands.approving import settled
from ring0.commands.client import at_option, done, run, told
from ring0.commands.genesis import SHARES, asking, closing_options, new_passphrases, place_option, share_options
from ring0.commands.trust import heard

if TYPE_CHECKING:
    from bus.session import Session
    from keys.frame import Frame
    from keys.shares import OpenedRoot, Share
    from keys.succession import RootChain


class NotTheRoot(Conflict):
    """The shares given are not of the root that is in force."""

    code = "E-SHA-007"
    remedy = "`enjin root show` says whose keys it has; each share's file names its own"


@click.group("root")
def root() -> None:
    """The root of all trust: three keys of which any two sign, kept away from every machine of the cloud.

    \b
    Examples:
      enjin root show
      enjin root rotate --share a/share-1.key --share b/share-2.key --to c --to d --to e
    """


@root.command("show")
@at_option
@json_option
def show(at: str, as_json: bool) -> None:
    """Show which root statement is in force, whose keys it has, what it stands for, and those before it."""
    found = run(lambda session: _shown(session, at))
    if as_json:
        print_json(told(found))
        return
    say(f"cloud {found['cloud']}")
    for line in found["statements"]:
        mark = "in force" if line["version"] == found["version"] else "succeeded"
        say(f"statement {line['version']}: {mark}, {line['threshold']} of {len(line['keys'])} keys sign, until {line['until']}")
        for key in line["keys"]:
            say(f"  key {key[:16]}")
    for line in found["granted"]:
        say(f"stands for grant {line['grant'][:16]} of {line['subject']}")


async def _shown(session: Session, at: str) -> dict[str, Any]:
    """Return the root as the journal has it, now or at a time, verified from the first statement on. Raises: RootRefused."""
    from keys.grants import read_grant

    chain, frames = await _root_of(session, at)
    statements = [
        {"version": one.version, "hash": digest, "threshold": one.threshold, "keys": list(one.keys), "until": rfc3339(one.expiry)}
        for one, digest in zip(chain.statements, chain.digests, strict=True)
    ]
    granted = [{"grant": frame.digest, "subject": read_grant(frame).subject} for frame in frames]
    return {"schema": 1, "cloud": str(chain.cloud), "version": chain.statement.version, "statements": statements, "granted": granted}


async def _root_of(session: Session, at: str = "") -> tuple[RootChain, list[Frame]]:
    """Return the root's statements and the grants for which the newest stands, each verified. Raises: RootRefused."""
    from enjin.canonical import from_text
    from keys.frame import open_frame
    from keys.root import check_signed
    from keys.succession import RootChain
    from ring0.roots import ShowRoot

    said = await session.query(0, ShowRoot(at=at))
    chain = RootChain(from_text(session.key.root))
    chain.follow(from_text(text) for text in said["successors"])
    if not at:
        session.follow_roots(chain.successors)
    frames = [open_frame(from_text(text)) for text in said["granted"]]
    for frame in frames:
        check_signed(frame, chain.statement)
    return chain, frames


@root.command("rotate")
@share_options
@place_option
@closing_options("new-passphrase")
@reason_option
@json_option
def rotate(
    shares: tuple[Path, ...], passphrase_files: tuple[Path, ...], places: tuple[Path, ...], passphrase: bool, files: tuple[Path, ...],
    reason: str, as_json: bool,
) -> None:  # fmt: skip
    """Replace all keys of the root: two of the old shares and two of three new ones sign, and the cloud takes it while it runs.

    Nothing else changes: what the old root signed, the new one confirms. Shares of the old root are of no use from then on. Where there are
    several operators, others approve it first (`enjin approvals`), and the old root stays until they have.
    """
    if len(places) not in (1, SHARES) or len(set(places)) != len(places):
        raise click.UsageError("give --to once, or three times with different directories")
    words = new_passphrases(passphrase, files)
    made = run(lambda session: _rotate(session, shares, passphrase_files, places, words, reason))
    if not as_json:
        for path in made["shares"]:
            click.echo(path)
    done(made, as_json, f"root statement {made['version']} is in force; destroy the old shares, and keep each new one apart")
    if not made["ring1"]:
        say("warning: ring 1 has not confirmed it yet; ring 0 tells it as soon as it answers")


async def _rotate(
    session: Session, shares: tuple[Path, ...], files: tuple[Path, ...], places: tuple[Path, ...], words: list[bytes], reason: str
) -> dict[str, Any]:
    """Make the successor and its shares, lay them down, and have ring 0 take it; shares of a statement that was refused are removed."""
    from enjin.canonical import from_text
    from keys.ceremony import hold_succession
    from keys.shares import write_shares
    from ring0.foundation import DAY_US, ROOT_DAYS, SKEW_US
    from ring0.roots import RotateRoot

    _chain, granted = await _root_of(session)
    confirms = [frame.digest for frame in granted]
    opened = _in_force(session, shares, files)
    now = clock().wall_us
    expiry = max(now + ROOT_DAYS * DAY_US, opened.statement.expiry)
    new: list[Share] = hold_succession(opened, confirms, now - SKEW_US, expiry, words)
    paths = write_shares(places, new)
    wish = RotateRoot(first=session.key.root, frame=new[0].root)
    try:
        taken = await session.command(0, wish, reason=reason or "root rotated")
    except Unreachable:
        raise  # it may have been taken: the new shares stay
    except EnjinError:
        for path in paths:
            path.unlink()
        raise
    settled(taken, f"the new shares are in {', '.join(sorted({str(path.parent) for path in paths}))}, and of no use before")
    session.follow_roots([from_text(new[0].root)])
    return {
        "version": taken["version"],
        "shares": [str(path) for path in paths],
        "root": new[0].root,
        "expires": expiry,
        "ring1": await heard(session, taken["version"] - 1, "roots"),
    }


def _in_force(session: Session, shares: tuple[Path, ...], files: tuple[Path, ...]) -> OpenedRoot:
    """Return the root in force with a threshold of its keys. Raises: NotTheRoot, and what ``open_root`` raises."""
    from keys.frame import open_frame
    from keys.shares import open_root, read_share

    opened = open_root([read_share(path) for path in shares], asking(files), clock().wall_us)
    if open_frame(opened.frame).digest != session.trust.roots.digests[-1]:
        raise NotTheRoot(f"the shares are of root statement {opened.statement.version}; {session.trust.root.version} is in force")
    return opened
