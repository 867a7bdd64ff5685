"""From bytes to handler and back: every stage in order, for every door.

Owns the receiving half of a daemon: ``bus.opening``'s stages, then permission, freshness, replay, the handler, and the
signed answer. Commands go to the injected ``decide`` (the journal), queries to ``answer``, observations to ``observe``.
Whoever was not verified gets nothing back, neither text nor code.

INV-DIS-1: nothing reaches a handler that has not passed every stage, whichever door it came through.
INV-DIS-2: a handler is found in the closed table, never by a name looked up on an object.
INV-DIS-3: what is for a group is taken only where its row allows that, and only by who is in it as the receiver itself knows it.
INV-DIS-4: what is for another that decides in the same domain is taken only when that one has forwarded it, and only a command.
"""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable
from typing import Any, Final

import msgspec

from bus.batches import Run
from bus.caller import Caller
from bus.envelope import BULK_MAX
from bus.forwarding import WORD as FORWARD
from bus.groups import is_group
from bus.handling import Answered, Authorised, Handlers, Seen, find_row, read_body, read_runs, refusal
from bus.messages import Moment, Question, Reply, Role, Rule, Table
from bus.opening import Opened, Opening
from bus.permission import Permission, Place
from bus.rate import Buckets
from bus.replay import ReplayGuard
from bus.speaker import Speaker, reply_subject
from bus.stages import NotAllowed, Replayed, StageRefused, TooBig, WrongAudience
from bus.transport import Transport
from enjin.canonical import canonical
from enjin.errors import EnjinError, InvariantError, Refused
from enjin.failpoints import failpoint
from enjin.host import clock as host_clock
from enjin.log import get
from keys.trust import TrustSet

__all__ = ["Answered", "Authorised", "Caller", "Dispatcher", "Handlers", "Place", "Seen"]

WORDS: Final = frozenset({"command", "query", "seen"})
LOGGED_PER_SECOND, LOGGED_BURST = 10, 100
REPLY_OVERHEAD_BYTES: Final = 4096
_log = get("bus.dispatch")


class Dispatcher:
    """The receiving half of one daemon.

    Args:
        place: Where it stands.
        table: Every kind it takes.
        trust: What it believes.
        speaker: Signs its answers.
        handlers: What it does.
        world: Returns the World that a rule's ``compartment`` looks into.
        locate: Turns a compartment's name into its path; None: a child of the place's own path.
        groups: Returns the groups that the daemon is in now; None: it hears no group.
        fellows: Subject ids of the daemons that decide in the same domain, one at a time.
    """

    def __init__(
        self,
        *,
        place: Place,
        table: Table,
        trust: TrustSet,
        speaker: Speaker,
        handlers: Handlers,
        world: Callable[[], Any] = lambda: None,
        locate: Callable[[str], str] | None = None,
        groups: Callable[[], frozenset[str]] | None = None,
        fellows: frozenset[str] = frozenset(),
    ) -> None:
        self.place = place
        self.table = table
        self.trust = trust
        self.speaker = speaker
        self.handlers = handlers
        self.counters: collections.Counter[str] = collections.Counter()
        self.permission = Permission(place, handlers.account, world, locate, fellows)
        self._groups, self._fellows = groups, fellows
        self._logged = Buckets(LOGGED_PER_SECOND, LOGGED_BURST)
        self._opening = Opening(
            trust=trust,
            channel=place.channel,
            audiences=fellows | {place.node, place.domain},
            words=WORDS,
            clock=speaker.now,
            guard=ReplayGuard(speaker.now()),
            groups=groups is not None,
            home=place.domain,
        )

    def begin(self) -> None:
        """Start anew: the clock was wrong when this dispatcher was made, and nothing was taken yet."""
        self._opening.begin()

    async def serve(self, transport: Transport, connection: str = "bus") -> None:
        """Take commands, queries and observations from *transport*, and publish the answers there."""

        async def take(subject: str, frame: bytes) -> None:
            answer = await self.handle(frame, channel=self.place.channel, subject=subject, connection=connection)
            if answer is not None:
                failpoint("answer.send")
                await transport.publish(answer.subject, answer.frame)

        async def take_forwarded(_subject: str, frame: bytes) -> None:
            answer = await self.handle(frame, channel=self.place.channel, door=FORWARD, connection=FORWARD)
            if answer is not None:
                failpoint("forwarded.answer.send")
                await transport.publish(answer.subject, answer.frame)

        for word in sorted(WORDS):
            await transport.subscribe(word, take)
        if self._fellows:
            await transport.subscribe(f"{FORWARD}.{self.place.node}", take_forwarded)

    async def handle(self, frame: bytes, *, channel: str, subject: str = "", door: str = "bus", connection: str = "") -> Answered | None:
        """Take one frame through every stage and return the signed answer; None when there is none to give.

        Args:
            frame: Exactly as received.
            channel: The channel it arrived on.
            subject: The subject it arrived under; empty where the door has none to compare with.
            door: ``bus``, ``http``, ``pipe``, ``forward``: stands in the journal as how the asker came in.
            connection: Whose share of the rate it costs.
        """
        opened, ours = None, False
        try:
            opened = self._opening.verify(frame, channel=channel, subject=subject, connection=connection or door)
            if self._is_anothers(opened, door):
                self.counters["elsewhere"] += 1
                return None
            ours = self._is_ours(opened)
            handler = self._prepare(opened, door)
            self._opening.reserve(opened)
        except StageRefused as error:
            self._refused(error, opened, subject, frame)
            # A repeated frame gets no second answer on the bus: it would race with the first one's.
            if opened is None or not ours or opened.word == "seen" or (isinstance(error, Replayed) and door == "bus"):
                return None
            return self._answer(opened, refusal(error))
        except Refused as error:  # what the row's own look-up says to a verified asker, such as that there is no such app
            self.counters[NotAllowed.stage] += 1
            return None if opened is None or not ours else self._answer(opened, refusal(error))
        self.counters["passed"] += 1
        if is_group(opened.statement.aud) and self.handlers.pass_on is not None:
            await self.handlers.pass_on(opened)
        if not ours:
            self.counters["elsewhere"] += 1
            return None
        reply = await self._run(opened, handler, door)
        return reply if reply is None or isinstance(reply, Answered) else self._answer(opened, reply)

    def authorise(self, frame: bytes, *, row: Rule | Question, subject: str, door: str, connection: str) -> Authorised:
        """Take a door's own request through every stage but the handler: a blob to be stored, a stream to be followed.

        Args:
            frame: Exactly as received.
            row: The request's shape and who may ask; it stands in no table, because its door carries it out.
            subject: ``command.blob.put``, ``query.operation.follow``.
            door: See ``handle``.
            connection: See ``handle``.

        Raises:
            StageRefused: The first stage that it does not pass; ``verified`` tells whether the peer may hear why.
        """
        opened: Opened | None = None
        try:
            opened = self._opening.verify(frame, channel=self.place.channel, subject=subject, connection=connection)
            if is_group(opened.statement.aud) or opened.statement.aud in self._fellows:
                raise WrongAudience("a door's own request is for one alone")
            asker = self.permission.asker(opened, door)
            body = read_body(opened, row.command if isinstance(row, Rule) else row.query)
            self.permission.check(opened, asker, row.allow, self.permission.bound(opened, asker))
            self._opening.reserve(opened, by_digest=True)
        except StageRefused as error:
            error.verified = opened is not None
            self._refused(error, opened, subject, frame)
            raise
        self.counters["passed"] += 1
        return Authorised(opened, asker, body)

    def still_allowed(self, authorised: Authorised, row: Rule | Question, door: str) -> bool:
        """Return whether what was allowed once is allowed now: for streams that outlive a revocation."""
        opened = authorised.opened
        try:
            authority = self.trust.authority(opened.authority.hash, self.speaker.now(), self.place.domain)
            opened = opened._replace(authority=authority)
            asker = self.permission.asker(opened, door)
            self.permission.check(opened, asker, row.allow, self.permission.bound(opened, asker))
        except Refused:
            return False
        return True

    def _is_anothers(self, opened: Opened, door: str) -> bool:
        """Return whether *opened* is left to another: that it is for, or, of what was forwarded, whatever is no command."""
        return opened.statement.aud in self._fellows if door != FORWARD else opened.word != "command"

    def _is_ours(self, opened: Opened) -> bool:
        """Return whether *opened* is for us, alone or in a group. Raises: WrongAudience when it is nothing that groups are asked for."""
        audience = opened.statement.aud
        if not is_group(audience) or self._groups is None:
            return True
        if not self.table.takes_groups(opened.word, opened.kind):
            raise WrongAudience(f"{opened.kind[:64]} is asked of one alone")
        return audience in self._groups()

    def _prepare(self, opened: Opened, door: str) -> Callable[[], Any]:
        """Return what will be run for *opened*, after the check of permission. Raises: StageRefused."""
        asker = self.permission.asker(opened, door)
        if opened.word == "seen":
            runs = read_runs(opened)
            for run in runs:
                self.permission.check(opened, asker, Role.NOBODY, opened.authority.grant.compartment, run.kind)
            return lambda: self._observe(opened, runs)
        if opened.word == "command":
            rule = find_row(self.table.rule, opened.kind)
            wish = read_body(opened, rule.command)
            self.permission.check(opened, asker, rule.allow, self.permission.touched(rule, wish, opened, asker))
            moment = Moment(time=self.speaker.now(), request=opened.statement.rid, asker=asker)
            return lambda: self.handlers.decide(rule, wish, moment, opened.data)
        question = find_row(self.table.question, opened.kind)
        query = read_body(opened, question.query)
        self.permission.check(opened, asker, question.allow, self.permission.touched(question, query, opened, asker))
        return lambda: self.handlers.answer(question, query, asker)

    async def _observe(self, opened: Opened, runs: tuple[Run, ...]) -> None:
        """Hand over each record in its order; one that fails costs itself alone."""
        if (observe := self.handlers.observe) is None:
            return
        for kind, records in ((run.kind, run.records) for run in runs):
            for body in records:
                try:
                    if (result := observe(Seen(kind, body, opened))) is not None:
                        await result
                except Exception as error:
                    self._failed(opened, error)
            self.counters["records"] += len(records)

    async def _run(self, opened: Opened, handler: Callable[[], Any], door: str) -> Reply | Answered | None:
        try:
            result = handler()
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            if isinstance(error, EnjinError) and (answered := await self._forwarded(opened, error, door)) is not None:
                return answered
            self._failed(opened, error)
            if isinstance(error, EnjinError):
                return refusal(error)
            return Reply(ok=False, code=InvariantError.code, message="the daemon failed; its log says why")
        self.counters["handled"] += 1
        if opened.word == "seen":
            return None
        _log.info("message.handled", kind=opened.statement.kind, signer=opened.statement.iss, id=opened.statement.rid)
        return result if isinstance(result, Reply) else Reply(ok=True, result=msgspec.Raw(canonical(result)))

    async def _forwarded(self, opened: Opened, error: EnjinError, door: str) -> Reply | Answered | None:
        """Return the answer of whoever decides instead of us; None when the refusal *error* is ours to tell."""
        if opened.word != "command" or door == FORWARD or self.handlers.forward is None:
            return None
        try:
            answered = await self.handlers.forward(opened, error)
        except EnjinError as failed:
            self._failed(opened, failed)
            return refusal(failed)
        self.counters["forwarded"] += answered is not None
        return answered

    def _failed(self, opened: Opened, error: Exception) -> None:
        fields = {"stage": "handler", "kind": opened.kind, "signer": opened.statement.iss, "id": opened.statement.rid}
        if not isinstance(error, EnjinError):
            self.counters["defect"] += 1
            _log.exception("message.failed", **fields)
            return
        self.counters["handler"] += 1
        (_log.error if isinstance(error, InvariantError) else _log.info)("message.failed", error=error, **fields)

    def _answer(self, opened: Opened, reply: Reply) -> Answered:
        if len(reply.result) > BULK_MAX - REPLY_OVERHEAD_BYTES:
            reply = refusal(TooBig("the answer is larger than a message may be", hint="ask for less at once"))
        subject = reply_subject(opened.statement.rid)
        frame = self.speaker.seal(subject, reply, audience=opened.statement.iss, rid=opened.statement.rid, re=opened.frame.digest)
        return Answered(subject, frame, reply, opened.statement.rid)

    def _refused(self, error: StageRefused, opened: Opened | None, subject: str, frame: bytes) -> None:
        self.counters[error.stage] += 1
        if self._logged.take(error.stage, host_clock().boot_us):
            _log.warning(
                "message.refused", stage=error.stage, code=error.code, why=error.message, subject=subject[:128], frame_bytes=len(frame),
                signer=opened.statement.iss if opened else None, id=opened.statement.rid if opened else None,
            )  # fmt: skip
            if self.handlers.refused is not None:
                self.handlers.refused(error, opened, subject, len(frame))
