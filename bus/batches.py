"""Batches: one signature over many observations, in the order in which they were seen.

Owns the shape, its bounds, packing and taking apart. Pure. Whether the signer may say each record is the dispatcher's
matter; a batch is opened like any other observation, and only then taken apart.

INV-BAT-1: a batch says nothing that its signer could not have said record by record: every kind in it is checked.
INV-BAT-2: the bytes of a batch are their one spelling, records included: verified first, then these very bytes are parsed.
INV-BAT-3: a batch holds 1 to ``RECORDS_MAX`` records and fits a frame; no batch lies in a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Final

import msgspec

from bus.envelope import FRAME_MAX
from bus.messages import KIND_MAX_BYTES, Malformed, NotCanonical, Observation
from bus.opening import Opened
from enjin.canonical import canonical, is_canonical, parse
from enjin.errors import InvariantError
from enjin.names import Subject

RECORDS_MAX: Final = 1024
BODY_MAX_BYTES: Final = FRAME_MAX - 8192  # the rest is the envelope's: a reason, a subject, the frame
SUBJECT: Final = "seen.batch"
_BRACE: Final = ord("{")
_Kind = Annotated[str, msgspec.Meta(min_length=1, max_length=KIND_MAX_BYTES)]


class Run(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Records of one kind that follow one another."""

    kind: _Kind
    records: Annotated[tuple[msgspec.Raw, ...], msgspec.Meta(min_length=1, max_length=RECORDS_MAX)]


class Batch(Observation, kind="batch"):
    """Many observations of one node, oldest first."""

    runs: Annotated[tuple[Run, ...], msgspec.Meta(min_length=1, max_length=RECORDS_MAX)]


def pack(records: Iterable[Observation]) -> Iterator[Observation]:
    """Yield what to send for *records*: batches that fit a frame, and alone what comes alone or fits no batch."""
    waiting: list[tuple[str, bytes, Observation]] = []
    held = 0
    for record in records:
        body = canonical(record)
        cost = len(body) + len(record.KIND) + 8
        if waiting and (len(waiting) >= RECORDS_MAX or held + cost > BODY_MAX_BYTES):
            yield _batch(waiting)
            waiting, held = [], 0
        waiting.append((record.KIND, body, record))
        held += cost
    if waiting:
        yield _batch(waiting)


def _batch(waiting: list[tuple[str, bytes, Observation]]) -> Observation:
    if len(waiting) == 1:
        return waiting[0][2]
    runs: list[tuple[str, list[msgspec.Raw]]] = []
    for kind, body, _ in waiting:
        if kind == Batch.KIND:
            raise InvariantError("a batch lies in a batch")
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(msgspec.Raw(body))
    return Batch(runs=tuple(Run(kind, tuple(bodies)) for kind, bodies in runs))


def unpack(body: msgspec.Raw) -> tuple[Run, ...]:
    """Return the runs of a batch's verified *body*, each record's own body still to be parsed by its kind.

    Raises:
        Malformed: Not a batch, too many records, a kind that is none, or a record that is no object.
        NotCanonical: Not the one spelling, in the batch or in a record.
    """
    batch = parse(body, Batch)
    if not is_canonical(body):
        raise NotCanonical("a record of this batch is not in canonical form")
    if sum(len(run.records) for run in batch.runs) > RECORDS_MAX:
        raise Malformed(f"a batch holds at most {RECORDS_MAX} records")
    before = ""
    for run in batch.runs:
        if run.kind in (Batch.KIND, before) or Subject.PATTERN.fullmatch(run.kind) is None:
            raise Malformed("a batch holds a batch, a run that was cut in two, or a kind that is none")
        if any(memoryview(record)[0] != _BRACE for record in run.records):
            raise Malformed("a record of a batch is no object")
        before = run.kind
    return batch.runs


def one_by_one(opened: Opened) -> Iterator[Opened]:
    """Yield what *opened* says record by record, each as if it had come alone; what is no batch comes as it is.

    Raises:
        Malformed, NotCanonical.
    """
    if opened.statement.kind != SUBJECT:
        yield opened
        return
    for run in unpack(opened.statement.body):
        for record in run.records:
            yield opened._replace(statement=msgspec.structs.replace(opened.statement, kind=f"seen.{run.kind}", body=record))
