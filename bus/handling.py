"""What lies between the dispatcher and a daemon: what it hands over, what it is given, and how bodies are read.

Owns these shapes and the strict reading of a verified body by its kind. The order of the stages is ``bus.dispatch``'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from bus.batches import Batch, Run, unpack
from bus.envelope import Behalf
from bus.messages import Asker, Command, Moment, Query, Question, Reply, Rule, UnknownKind
from bus.opening import Opened
from bus.stages import NotStrict, StageRefused, WrongKind
from enjin.canonical import parse
from enjin.errors import EnjinError, Invalid, code_of


class Seen(NamedTuple):
    """A verified observation: its kind, its body still unparsed, who saw it and what that grant may do."""

    kind: str
    body: msgspec.Raw
    opened: Opened


class Answered(NamedTuple):
    """A signed answer: under which subject it goes out, its frame, what stands in it, and the id of the request."""

    subject: str
    frame: bytes
    reply: Reply
    request: str


class Handlers(NamedTuple):
    """What a daemon does with a message that passed every stage.

    ``decide(rule, wish, moment, frame)`` returns the Reply; ``moment.time`` is the receiver's cloud time, the journal
    makes its own. ``answer`` returns anything canonical JSON can hold. ``account`` returns the asker that a token of
    this daemon's own door stands for, None when it stands for nobody any more. ``refused`` hears, as often as the log does,
    of what did not pass: why, the message if it was verified, its subject, its bytes. ``pass_on`` gets what was asked of a
    group, once it has passed every stage, whether we are in the group or not: for those whom the bus reaches only through us.
    ``forward`` is asked about a command that ``decide`` refused: it returns another decider's signed answer, None when the refusal stands.
    """

    decide: Callable[[Rule, Command, Moment, bytes], Awaitable[Reply]]
    answer: Callable[[Question, Query, Asker], Any]
    observe: Callable[[Seen], Awaitable[None] | None] | None = None
    account: Callable[[Behalf], Asker | None] | None = None
    refused: Callable[[StageRefused, Opened | None, str, int], None] | None = None
    pass_on: Callable[[Opened], Awaitable[None]] | None = None
    forward: Callable[[Opened, EnjinError], Awaitable[Answered | None]] | None = None


class Authorised(NamedTuple):
    """A door's own request that passed every stage: the message, who asks, and its parsed body."""

    opened: Opened
    asker: Asker
    body: Any


def find_row(look_up: Callable[[str], Any], kind: str) -> Any:
    """Return the row of *kind* in a closed table. Raises: WrongKind."""
    try:
        return look_up(kind)
    except UnknownKind as error:
        raise WrongKind(error.message) from error


def read_body(opened: Opened, shape: type[Any]) -> Any:
    """Return the body of *opened* as *shape*, strictly. Raises: NotStrict."""
    try:
        return parse(opened.statement.body, shape)
    except Invalid as error:
        raise NotStrict(error.message) from error


def read_runs(opened: Opened) -> tuple[Run, ...]:
    """Return what an observation says, by kind: many records of a batch, or the one that it is. Raises: NotStrict."""
    if opened.kind != Batch.KIND:
        return (Run(opened.kind, (opened.statement.body,)),)
    try:
        return unpack(opened.statement.body)
    except Invalid as error:
        raise NotStrict(error.message) from error


def refusal(error: EnjinError) -> Reply:
    """Return the answer that tells a verified asker of *error*."""
    return Reply(ok=False, code=code_of(error), message=error.message, hint=error.hint)
