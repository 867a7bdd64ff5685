"""What is fuzzed: for each parser a function that takes bytes, the errors it may raise, and bytes to begin with.

Anything else that comes out (another exception, a hang, memory) is a finding. Where there is more to check than that it does not fail
(what was accepted has one spelling; an archive wrote nothing outside its tree), the target checks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bus.envelope import read_statement
from bus.journal import Reader, verify
from bus.journal.entry import Entry, StoredEntry, entry_hash, read_stretch
from bus.journal.replay import read_entry
from bus.over_pipe import StreamDecoder, pack_datagram, pack_stream, unpack_datagram
from enjin.canonical import canonical, from_text, parse, to_text
from enjin.errors import EnjinError
from keys.frame import BULK_MAX, MESSAGE, Frame, join, open_frame
from keys.grants import read_grant
from keys.keyring import KeyPair
from keys.root import read_root
from keys.sealed import is_sealed
from keys.sealing import open_value, seal_value
from keys.trust import TrustSet
from ring2.packaging.extract import extract
from ring2.packaging.procfile import parse_procfile
from supervision.init.wire import Refusal, loads
from tests.bus.parties import CHANNEL, DOMAIN, ROOT, Cloud, Paint, Saw
from tests.fuzz import joining

DECLARED: Final = (EnjinError,)
PAIR, PLACE = KeyPair(bytes(range(32))), "default/hello/TOKEN"


class Target(NamedTuple):
    """One parser."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    declared: tuple[type[BaseException], ...] = DECLARED


@functools.cache
def cloud() -> Cloud:
    """Everybody's keys, made once."""
    return Cloud()


def messages() -> list[bytes]:
    """Return sealed frames of a person's command and an agent's observation."""
    one = cloud()
    person, agent = one.speaker_of(one.operator), one.speaker_of(one.agent, daemon=True)
    return [
        person.seal(f"command.{Paint.KIND}", Paint(app="web", layers=[1, 2]), audience=DOMAIN, reason="because"),
        agent.seal(f"seen.{Saw.KIND}", Saw(instance="i-1"), audience=DOMAIN),
    ]


def run_frame(data: bytes) -> None:
    """A frame that opens is spelled in one way."""
    frame = open_frame(data, BULK_MAX)
    if join(frame.type, frame.payload, frame.signatures) != data:
        raise AssertionError("a frame has two spellings")


def run_statement(data: bytes) -> None:
    """A statement that is read has one spelling."""
    statement = read_statement(Frame(MESSAGE, data, ()))
    if canonical(statement) != data:
        raise AssertionError("a statement has two spellings")


def run_dispatch(data: bytes) -> None:
    """Nothing that was not signed by somebody enrolled changes anything."""
    one = cloud()
    before = one.state()
    known = set(messages_sealed())
    asyncio.run(one.dispatcher.handle(data, channel=CHANNEL))
    if one.state() != before and data not in known:
        raise AssertionError("bytes that nobody signed were acted upon")


@functools.cache
def messages_sealed() -> tuple[bytes, ...]:
    """Return the frames that the corpus of ``dispatch`` begins with."""
    return tuple(messages())


def run_grant(data: bytes) -> None:
    """A grant that is believed is one of ours: nobody else can sign."""
    trust = TrustSet(ROOT)
    if trust.add(data) not in {open_frame(frame).digest for frame in cloud().trust.frames()}:
        raise AssertionError("a forged grant was believed")


def run_grant_fields(data: bytes) -> None:
    """The fields alone, whoever signed."""
    read_grant(Frame("application/vnd.enjin.grant.v1+json", data, ()))


def run_root(data: bytes) -> None:
    """A root statement that is read was signed by the keys that it names."""
    read_root(open_frame(data))


def run_archive(data: bytes) -> None:
    """Whatever is unpacked lies within its tree, and what is refused leaves nothing."""
    folder = Path(tempfile.mkdtemp(prefix="enjfuzz"))
    try:
        (folder / "archive.tar").write_bytes(data)
        tree = folder / "below" / "tree"
        tree.parent.mkdir()
        try:
            extract(folder / "archive.tar", tree, total_bytes_max=1 << 20, entries_max=100)
        except EnjinError:
            if tree.exists():
                raise AssertionError("a refused archive left something") from None
            raise
        finally:
            names = {path.name for path in (*folder.iterdir(), *tree.parent.iterdir())}
            if names - {"archive.tar", "below", "tree"}:
                raise AssertionError(f"an archive wrote outside its tree: {names}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def archives() -> list[bytes]:
    """Return small archives of every kind of member."""
    found = []
    for format_ in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
            long_name = "a/" * 20 + "b" * 90
            for name, kind, target in (("a", tarfile.DIRTYPE, ""), (long_name, tarfile.REGTYPE, ""), ("c", tarfile.SYMTYPE, "a")):
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = kind, target, 5 if kind == tarfile.REGTYPE else 0
                archive.addfile(info, io.BytesIO(b"hello"))
        found.append(buffer.getvalue())
    return found


@functools.cache
def small_journal() -> bytes:
    """Return the file of a journal of a few entries."""
    from tests.bench import ledger

    with tempfile.TemporaryDirectory(prefix="enjfuzz") as folder:
        path = Path(folder) / "journal.db"
        asyncio.run(ledger.make(path, 6))
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            database.execute("PRAGMA journal_mode=DELETE").close()
        return path.read_bytes()


def run_journal(data: bytes) -> None:
    """A journal's file with other bytes at an offset gets a verdict, and a good one only when every entry is as it was signed."""
    from tests.bench import ledger

    whole = bytearray(small_journal())
    at = int.from_bytes(data[:4], "big") % len(whole)
    whole[at : at + len(data[4:])] = data[4:]
    with tempfile.TemporaryDirectory(prefix="enjfuzz") as folder:
        path = Path(folder) / "journal.db"
        path.write_bytes(bytes(whole[: len(small_journal())]))
        said = verify(f"sqlite:///{path}", lambda _domain: (ledger.SIGNER.public,))
        if said.ok and said.entries != 6:
            raise AssertionError(f"a journal that lost entries was called good: {said}")


def run_entry(data: bytes) -> None:
    """One entry's bytes, and a stretch of entries as followers get them."""
    read_entry(StoredEntry(1, entry_hash(data), data))
    parse(data, Entry)


def entries() -> list[bytes]:
    """Return the entries of the small journal."""
    with tempfile.TemporaryDirectory(prefix="enjfuzz") as folder:
        path = Path(folder) / "journal.db"
        path.write_bytes(small_journal())
        with contextlib.closing(sqlite3.connect(path)) as database:
            return [row[0] for row in database.execute("SELECT data FROM journal_entries")]


def stretches() -> list[bytes]:
    """Return the small journal as a follower is sent it."""
    with tempfile.TemporaryDirectory(prefix="enjfuzz") as folder:
        path = Path(folder) / "journal.db"
        path.write_bytes(small_journal())
        with contextlib.closing(Reader(f"sqlite:///{path}")) as reader:
            return [canonical(reader.stretch(after)) for after in (0, 4)]


def run_pipe(data: bytes) -> None:
    """A datagram, and a stream cut anywhere."""
    unpack_datagram(data)
    decoder = StreamDecoder()
    for at in range(0, len(data), 7):
        decoder.feed(data[at : at + 7])


@functools.cache
def sealed_values() -> tuple[bytes, ...]:
    """Return two values that were sealed for one place."""
    return tuple(from_text(seal_value(PAIR.public, PLACE, value)) for value in ("one", "another"))


def run_sealed(data: bytes) -> None:
    """A value that opens is one that was sealed, byte for byte, and has the form that is taken."""
    open_value(PAIR, PLACE, to_text(data))
    if data not in sealed_values() or not is_sealed(to_text(data)):
        raise AssertionError("a value that nobody sealed was opened")


TARGETS: Final[dict[str, Target]] = {
    "frame": Target(run_frame, messages),
    "statement": Target(run_statement, lambda: [open_frame(frame).payload for frame in messages()]),
    "dispatch": Target(run_dispatch, lambda: list(messages_sealed())),
    "grant": Target(run_grant, lambda: cloud().trust.frames()),
    "grant-fields": Target(run_grant_fields, lambda: [open_frame(frame).payload for frame in cloud().trust.frames()]),
    "root": Target(run_root, lambda: [ROOT]),
    "successor": Target(joining.run_successor, lambda: [joining.TWO, ROOT]),
    "share": Target(joining.run_share, lambda: list(joining.three())),
    "join-token": Target(joining.run_token, lambda: [joining.TOKEN.text.encode()]),
    "join-request": Target(joining.run_request, lambda: [joining.asked()]),
    "join-answer": Target(joining.run_answer, lambda: [joining.answered()]),
    "archive": Target(run_archive, archives),
    "journal": Target(run_journal, lambda: [(offset).to_bytes(4, "big") + os.urandom(8) for offset in (100, 4096, 8192)]),
    "entry": Target(run_entry, entries),
    "stretch": Target(lambda data: read_stretch(data) and None, stretches),
    "procfile": Target(lambda data: parse_procfile(data) and None, lambda: [b"web: gunicorn app:app\nworker: python w.py # x\n"]),
    "sealed": Target(run_sealed, lambda: list(sealed_values())),
    "pipe": Target(run_pipe, lambda: [pack_datagram("seen.x", b"frame"), pack_stream("seen.x", b"frame") * 3]),
    "init": Target(lambda data: loads(data) and None, lambda: [json.dumps({"id": 1, "op": "list"}).encode()], (Refusal, *DECLARED)),
}


def attempt(name: str, data: bytes) -> None:
    """Give *data* to target *name*; what it may raise is swallowed. Raises: whatever it may not."""
    target = TARGETS[name]
    with contextlib.suppress(*target.declared):
        target.run(data)
