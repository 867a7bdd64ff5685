"""Verifying a journal's file from outside: what holds, and the first entry that does not.

Owns the checks of ``enjin audit verify``: cuts the journal into ranges, has each checked (``range_check``), and holds
their ends together. Uses connections that cannot write, trusts nothing in the file but what a key that the caller names
has signed, and never repairs.

INV-VER-1: a changed byte, a dropped, swapped, repeated or cut entry, and an edited row beside it, is found, and the lowest
entry that does not hold is named.
INV-VER-2: how many processes share the work changes neither the verdict nor the entry that is named.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from bus.journal.checkpoint import Checkpoint
from bus.journal.entry import Shape, genesis
from bus.journal.errors import JournalDamaged
from bus.journal.range_check import UNREADABLE, check_range, first_line
from bus.journal.ranges import Edge, Found, Work
from bus.journal.reader import Reader
from bus.journal.replay import read_entry
from bus.journal.snapshot import open_snapshot
from bus.messages import canonical
from enjin.errors import EnjinError
from enjin.failpoints import failpoint

SHARED_FROM: Final = 20_000  # below this, starting processes costs more than it saves
PROGRAM: Final = "bus.journal.range_check"

KeysFor = Callable[[str], Iterable[bytes]]


class Verification(Shape, frozen=True, kw_only=True):
    """What was found: entries that were checked, whether all hold, the first bad number (0: none) and why.

    ``causes`` counts the entries whose cause was checked against the asker's key, which the caller knew.
    """

    entries: int
    ok: bool
    first_bad: int = 0
    reason: str = ""
    head: str = ""
    causes: int = 0


def verify(
    url: str,
    keys_for: KeysFor,
    *,
    from_genesis: bool = True,
    signers: Mapping[str, bytes] | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    processes: int = 1,
) -> Verification:
    """Check the journal (or a follower's copy) at *url*.

    Args:
        url: The database.
        keys_for: Public journal keys that may sign the domain's commits.
        from_genesis: Check every entry; else only those after the newest signed snapshot.
        signers: Public message keys by key id, for the causes' signatures; a cause of another signer is not checked.
        checkpoints: What witnesses have seen of this journal.
        processes: How many may share the work of a long journal, 1 or more.

    Returns:
        A verdict; a damaged file is an answer, not an exception.

    Raises:
        NoSuchEntry: There is no journal at *url*.
    """
    try:
        with contextlib.closing(Reader(url)) as reader:
            plan = _plan(reader, url, tuple(keys_for(_domain(reader))), from_genesis, signers or {}, checkpoints, processes)
            found = [check_range(reader, plan[0])] if len(plan) == 1 else _share(plan)
    except (JournalDamaged, *UNREADABLE) as error:
        return Verification(entries=0, ok=False, first_bad=1, reason=f"the database cannot be read: {first_line(error)}")
    return _verdict(plan, found)


def _domain(reader: Reader) -> str:
    meta = reader.meta()
    if meta is None:
        raise JournalDamaged("the journal does not say whose it is")
    return meta.domain


def _plan(
    reader: Reader,
    url: str,
    publics: tuple[bytes, ...],
    from_genesis: bool,
    signers: Mapping[str, bytes],
    checkpoints: Sequence[Checkpoint],
    processes: int,
) -> list[Work]:
    """Return the ranges: one, or one per process."""
    meta = reader.meta()
    if meta is None:
        raise JournalDamaged("the journal does not say whose it is")
    start = Edge(number=0, hash=genesis(meta.cloud, meta.domain).hash)
    if not from_genesis:
        start = _newest_snapshot(reader, meta.cloud, meta.domain, publics) or start
    edges = [start, *_cuts(reader, start.number, meta.head.number, processes)]
    seen = {str(checkpoint.number): checkpoint.hash for checkpoint in checkpoints if checkpoint.domain == meta.domain}
    keys = tuple(public.hex() for public in publics)
    known = {str(key): public.hex() for key, public in signers.items()}
    ends = [edge.number for edge in edges[1:]] + [0]
    return [Work(url=url, publics=keys, signers=known, begin=edge, until=end, seen=seen) for edge, end in zip(edges, ends, strict=True)]


def _newest_snapshot(reader: Reader, cloud: str, domain: str, publics: tuple[bytes, ...]) -> Edge | None:
    for snapshot in reader.snapshots(None):
        with contextlib.suppress(EnjinError):
            open_snapshot(snapshot, cloud, domain, publics)
            return Edge(number=snapshot.number, hash=snapshot.hash)
    return None


def _cuts(reader: Reader, start: int, end: int, processes: int) -> list[Edge]:
    """Return where to cut: at commits, evenly; nowhere when the journal is short or cannot be read there."""
    if processes < 2 or end - start < SHARED_FROM:
        return []
    cuts: list[Edge] = []
    try:
        for at in range(1, processes):
            commit = reader.commit_at(start + (end - start) * at // processes)
            stored = reader.entry(commit.number) if commit is not None else None
            if stored is None or stored.number <= (cuts[-1].number if cuts else start):
                return []
            entry = read_entry(stored)
            cuts.append(Edge(number=stored.number, hash=stored.hash, time=entry.time, epoch=entry.epoch))
    except (EnjinError, *UNREADABLE):
        return []  # one walk from the beginning names what is wrong
    return cuts


def _share(plan: Sequence[Work]) -> list[Found]:
    """Return what each range holds, each checked in a process of its own."""
    with concurrent.futures.ThreadPoolExecutor(len(plan)) as pool:
        return list(pool.map(_elsewhere, plan))


def _elsewhere(work: Work) -> Found:
    command = [sys.executable, "-I", "-m", PROGRAM]
    failpoint("journal.verify.spawn")
    done = subprocess.run(command, input=canonical(work), capture_output=True, check=False)
    try:
        return msgspec.json.decode(done.stdout, type=Found)
    except msgspec.DecodeError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise JournalDamaged(f"checking from entry {work.begin.number + 1} ended with status {done.returncode}: {said}") from error


def _verdict(plan: Sequence[Work], found: Sequence[Found]) -> Verification:
    """Return one verdict on all ranges: the lowest entry that does not hold, in the order of the ranges."""
    checked = causes = first_bad = 0
    reason, end = "", plan[0].begin
    for work, part in zip(plan, found, strict=True):
        if end != work.begin:
            first_bad, reason = end.number + 1, "the journal changed while it was read"
            break
        checked, causes, end = checked + part.checked, causes + part.causes, part.end
        if part.first_bad:
            first_bad, reason = part.first_bad, part.reason
            break
    lost = [int(number) for number in plan[0].seen if int(number) > end.number]
    if not first_bad and lost:
        first_bad, reason = end.number + 1, f"a witness has seen entry {max(lost)}: the tail was cut or an old copy put back"
    return Verification(entries=checked, ok=not first_bad, first_bad=first_bad, reason=reason, head=end.hash, causes=causes)
