"""The application: a route per row of the table, and the few that no table holds.

Owns what a request must look like and what it gets back. Whatever a request wants goes as a sealed frame through the
dispatcher: a person's own envelope as it is, a token's wish sealed by this daemon in the name of the account.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bus.dispatch import Authorised, Dispatcher
from bus.envelope import BULK_MAX, Behalf
from bus.http import bodies, joining, openapi, problems
from bus.http.blobs import BlobStore, PutBlob
from bus.http.feed import Event, Feed
from bus.messages import Asker, Command, Message, Query, Question, Reply, Role, Rule, canonical
from bus.rate import Buckets
from bus.stages import StageRefused
from enjin.canonical import from_text
from enjin.errors import EnjinError, Invalid, InvariantError, Unreachable, invariant
from enjin.host import clock
from enjin.log import get
from enjin.names import Digest, Subject

ATTEMPTS_PER_SECOND, ATTEMPTS_BURST = 10, 50
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
_log = get("bus.http")

Authenticate = Callable[[str], "Asker | Awaitable[Asker | None] | None"]


class Follow(Query, kind="operation.follow"):
    """Follow what happens: observations and logs within one's own compartment."""

    prefix: str = "seen"


def _never(*_: Any) -> Any:
    raise InvariantError("a door's own request is decided by no table")


PUT_BLOB: Final = Rule(PutBlob, _never, allow=Role.TENANT)
FOLLOW: Final = Question(Follow, _never, allow=Role.TENANT)


class Door:
    """The HTTP door of one daemon.

    Args:
        dispatcher: Through which everything goes; its speaker signs for accounts.
        name: Of the daemon, for the description: ``ring 1``.
        authenticate: Returns the asker behind a bearer token; None when it stands for nobody.
        feed: What followers get.
        blobs: Where uploads go; None: this door takes none.
        join: Answers requests to join; None: nobody joins here.
        hosts: Names, beside this machine's loopback ones, that a Host header may have.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        name: str,
        authenticate: Authenticate,
        feed: Feed,
        blobs: BlobStore | None = None,
        join: joining.Joins | None = None,
        hosts: Sequence[str] = (),
    ) -> None:
        self.feed = feed
        self._dispatcher = dispatcher
        self._authenticate = authenticate
        self._blobs, self._join = blobs, join
        self._attempts = Buckets(ATTEMPTS_PER_SECOND, ATTEMPTS_BURST)
        self._description = canonical(openapi.describe(dispatcher.table, name, blobs=blobs is not None, join=join is not None))
        application = Starlette(
            routes=self._routes(),
            exception_handlers={EnjinError: _say, HTTPException: _say_http, Exception: _say_defect},
        )
        application.router.redirect_slashes = False
        self.application: ASGIApp = _HostGuard(application, (*LOCAL_HOSTS, *hosts))

    def _routes(self) -> list[Route]:
        routes = [
            Route(openapi.path_of(rule.command.KIND), self._commanding(rule), methods=["POST"]) for rule in self._dispatcher.table.rules()
        ]
        for question in self._dispatcher.table.questions():
            routes.append(Route(openapi.path_of(question.query.KIND), self._querying(question), methods=["GET"]))
        invariant(not {route.path for route in routes} & set(openapi.RESERVED), "a kind takes one of the door's own paths")
        routes += [
            Route("/healthz", self._health, methods=["GET"]),
            Route("/openapi.json", self._describe, methods=["GET"]),
            Route("/v1/envelope", self._envelope, methods=["POST"]),
            Route("/v1/follow", self._follow, methods=["GET"]),
        ]
        if self._join is not None:
            routes.append(joining.route(self._join, self._attempts))
        if self._blobs is not None:
            routes.append(Route("/v1/blobs/{digest}", self._put_blob, methods=["PUT"]))
        return routes

    def _commanding(self, rule: Rule) -> Callable[[Request], Awaitable[Response]]:
        async def command(request: Request) -> Response:
            asker = await self._asker(request)
            wish = await bodies.read_json(request, rule.command)
            return await self._want(request, asker, wish)

        return command

    async def _want(self, request: Request, asker: Asker, wish: Command) -> Response:
        rid = bodies.read_request_id(request.headers)
        frame = self._seal("command." + wish.KIND, wish, asker, rid=rid, reason=bodies.read_reason(request.headers))
        reply, rid = await self._through(request, "command." + wish.KIND, frame)
        body = {"request": rid, "number": reply.number, "repeated": reply.repeated, "result": reply.result}
        return Response(canonical(body), 200, {"Idempotency-Key": rid}, media_type="application/json")

    def _querying(self, question: Question) -> Callable[[Request], Awaitable[Response]]:
        async def query(request: Request) -> Response:
            asker = await self._asker(request)
            asked = bodies.read_query(request.query_params, question.query)
            frame = self._seal("query." + asked.KIND, asked, asker)
            reply, _ = await self._through(request, "query." + asked.KIND, frame)
            return Response(bytes(reply.result), media_type="application/json")

        return query

    def _seal(self, subject: str, body: Message, asker: Asker, *, rid: str = "", reason: str = "") -> bytes:
        """Sign for an account: with our own key, and its name inside the signature."""
        behalf = Behalf(account=asker.id, token=asker.token, door="http")
        place, speaker = self._dispatcher.place, self._dispatcher.speaker
        return speaker.seal(subject, body, audience=place.node, rid=rid, reason=reason, behalf=behalf)

    async def _through(self, request: Request, subject: str, frame: bytes) -> tuple[Reply, str]:
        """Hand *frame* to the dispatcher and return the reply and the request's id. Raises: what it was refused with."""
        answered = await self._dispatcher.handle(
            frame, channel=self._dispatcher.place.channel, subject=subject, door="http", connection=_peer(request)
        )
        if answered is None:
            raise Unreachable("this daemon did not take its own envelope", hint="its grant may have ended: `enjin up` mends it")
        if not answered.reply.ok:
            raise _Told(answered.reply)
        return answered.reply, answered.request

    async def _asker(self, request: Request) -> Asker:
        """Return who the bearer token stands for. Raises: Unauthenticated, TooManyAttempts."""
        token = bodies.read_token(request.headers.get("authorization", ""))
        found = self._authenticate(token) if token else None
        asker = await found if inspect.isawaitable(found) else found
        if asker is None:
            if not self._attempts.take(_peer(request), clock().boot_us):
                raise problems.TooManyAttempts("too many requests without a valid token")
            raise problems.Unauthenticated("no valid token" if token else "no bearer token")
        return asker

    async def _authorise(self, request: Request, row: Rule | Question, body: Message, subject: str) -> Authorised:
        """Take one of the door's own requests through the stages, by token or by the envelope in Authorization."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "enjin":
            try:
                frame = from_text(text.strip())
            except Invalid as error:
                raise problems.BadRequest("the envelope in Authorization is not base64url without padding") from error
        else:
            frame = self._seal(subject, body, await self._asker(request))
        try:
            found = self._dispatcher.authorise(frame, row=row, subject=subject, door="http", connection=_peer(request))
        except StageRefused as error:
            if error.verified:
                raise
            raise problems.NotAccepted("the envelope was not accepted") from error
        if found.body != body:
            raise problems.BadRequest("the envelope was signed for something else than this path")
        return found

    async def _health(self, _request: Request) -> Response:
        body = {"ok": True, "time": self._dispatcher.speaker.now()}
        return Response(canonical(body), media_type="application/json")

    async def _describe(self, _request: Request) -> Response:
        return Response(self._description, media_type="application/json")

    async def _envelope(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != openapi.ENVELOPE_MEDIA:
            raise problems.WrongMedia(f"this path takes {openapi.ENVELOPE_MEDIA}")
        frame = await bodies.read_body(request, BULK_MAX)
        answered = await self._dispatcher.handle(frame, channel=self._dispatcher.place.channel, door="http", connection=_peer(request))
        if answered is None:
            raise problems.NotAccepted("the envelope was not accepted")
        return Response(answered.frame, media_type=openapi.ENVELOPE_MEDIA)

    async def _put_blob(self, request: Request) -> Response:
        try:
            digest = Digest.parse(request.path_params["digest"])
        except Invalid as error:
            raise problems.BadRequest("the path does not end in a SHA-256 in hex") from error
        authorised = await self._authorise(request, PUT_BLOB, PutBlob(digest=digest), "command.blob.put")
        declared = request.headers.get("content-length", "")
        invariant(self._blobs is not None, "this door takes blobs")
        stored = await self._blobs.put(  # type: ignore[union-attr]
            digest, authorised.asker.id, bodies.chunks(request), int(declared) if declared.isdecimal() else None
        )
        body = {"digest": stored.digest, "size": stored.size}
        return Response(canonical(body), 200 if stored.known else 201, media_type="application/json")

    async def _follow(self, request: Request) -> Response:
        wanted = bodies.read_query(request.query_params, Follow)
        try:
            Subject.parse(wanted.prefix)
        except Invalid as error:
            raise problems.BadRequest("the prefix is not a subject") from error
        authorised = await self._authorise(request, FOLLOW, wanted, "query.operation.follow")
        self.feed.check_room()
        last = request.headers.get("last-event-id", "")
        stream = self._events(authorised, wanted.prefix, int(last) if last.isdecimal() and len(last) < 16 else -1)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _events(self, authorised: Authorised, prefix: str, after: int) -> AsyncIterator[bytes]:
        """Yield server-sent events while the follower may still have them: asked anew before every one."""
        bound = self._dispatcher.permission.bound(authorised.opened, authorised.asker)
        yield b": following\n\n"
        async for found in self.feed.follow(prefix, bound, after):
            if not self._dispatcher.still_allowed(authorised, FOLLOW, "http"):
                yield b"event: end\ndata: {}\n\n"
                return
            yield _lost(found) if isinstance(found, int) else b"".join(map(_event, found)) or b": still here\n\n"


class _Told(EnjinError):
    """A signed answer that is a refusal; its own code is what counts."""

    code = "E-API-013"

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.message, hint=reply.hint)
        self.reply = reply


class _HostGuard:
    """Refuses requests for hosts that are not ours: a page elsewhere whose name was bent to this address gets nothing."""

    def __init__(self, inner: ASGIApp, hosts: Sequence[str]) -> None:
        self._inner = inner
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = [value.decode("latin-1").lower() for key, value in scope["headers"] if key == b"host"]
            if len(named) != 1 or _without_port(named[0]) not in self._hosts:
                refused = problems.WrongHost(f"this is not {named[0][:80]}" if named else "the request names no host")
                await problems.problem(refused)(scope, receive, send)
                return
        await self._inner(scope, receive, send)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and (not name.startswith("[") or name.endswith("]")) else host


def _peer(request: Request) -> str:
    return f"http:{request.client.host}" if request.client else "http"


def _event(event: Event) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.number, event.subject.encode(), event.data)


def _lost(count: int) -> bytes:
    return b"event: lost\ndata: %d\n\n" % count


async def _say(_request: Request, error: Exception) -> Response:
    if isinstance(error, _Told):
        return problems.refusal(error.reply.code, error.message, error.hint)
    return problems.problem(error if isinstance(error, EnjinError) else InvariantError("the daemon failed"))


async def _say_http(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    known = {404: problems.NoRoute("there is no such path"), 405: problems.WrongMethod("this path is not for this method")}
    return problems.problem(known.get(status, problems.BadRequest("the request is malformed")))


async def _say_defect(_request: Request, error: Exception) -> Response:
    _log.error("request.failed", error=error)
    return problems.problem(InvariantError("the daemon failed; its log says why"))
