"""The one path of the door that takes a wish of somebody whom nobody knows yet: a signed request to join.

Owns its bounds: a small body, and few attempts from one address. What the request says is ``Joins``'s matter. A GET tells the
cloud's id, of which a token holds the beginning: a hint, because whoever joins checks it against the root that is answered.
"""

from __future__ import annotations

from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bus.http import bodies, openapi, problems
from bus.rate import Buckets
from enjin.canonical import canonical
from enjin.host import clock

REQUEST_BYTES_MAX: Final = 4_096


class Joins(Protocol):
    """Whoever lets others join."""

    cloud: str

    async def answer(self, data: bytes, source: str) -> bytes:
        """Return the frame that answers the request in frame *data* from address *source*. Raises: what it is refused with."""


def route(joins: Joins, attempts: Buckets) -> Route:
    """Return the route whose requests *joins* answers; each costs its address one of its *attempts*."""

    async def join(request: Request) -> Response:
        if request.method != "POST":
            return Response(canonical({"cloud": joins.cloud}), media_type="application/json")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != openapi.ENVELOPE_MEDIA:
            raise problems.WrongMedia(f"this path takes {openapi.ENVELOPE_MEDIA}")
        source = request.client.host if request.client else ""
        if not attempts.take(f"http:{source}", clock().boot_us):
            raise problems.TooManyAttempts("too many requests to join")
        frame = await bodies.read_body(request, REQUEST_BYTES_MAX)
        return Response(await joins.answer(frame, source), media_type=openapi.ENVELOPE_MEDIA)

    return Route(openapi.JOIN_PATH, join, methods=["GET", "POST"])
