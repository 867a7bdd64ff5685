"""What the door says when something is wrong: problem bodies with a stable code.

Source: RFC 9457 (problem details); RFC 9110, 15.
"""

from __future__ import annotations

import http
from typing import Any, Final

from starlette.responses import Response

from enjin.canonical import canonical
from enjin.errors import EnjinError, Refused, code_of, from_reply

MEDIA: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:enjin:error:"


class Unauthenticated(Refused):
    """The request carries no token or envelope that stands for anybody."""

    code, http_status = "E-API-001", 401
    remedy = "send `Authorization: Bearer TOKEN` (`enjin token create` makes one), or a signed envelope"


class NoRoute(Refused):
    """There is no such path or method in this API."""

    code, http_status = "E-API-002", 404
    remedy = "`/openapi.json` lists what there is"


class WrongMethod(Refused):
    """The path exists, but not for this method."""

    code, http_status = "E-API-003", 405
    remedy = "commands are POSTed, queries are GETs; `/openapi.json` lists them"


class BodyTooLarge(Refused):
    """The request's body is larger than this path takes."""

    code, http_status = "E-API-004", 413


class WrongMedia(Refused):
    """The request's body is of a type that this path does not take."""

    code, http_status = "E-API-005", 415


class WrongHost(Refused):
    """The request names a host that is not this one."""

    code, http_status = "E-API-006", 421
    remedy = "use the address that `enjin status` shows"


class BadRequest(Refused):
    """The request's body, query or headers are malformed."""

    code, http_status = "E-API-007", 400


class TooManyAttempts(Refused):
    """Too many requests without a valid token came from this address."""

    code, http_status = "E-API-008", 429
    remedy = "wait a second"


class DigestMismatch(Refused):
    """The uploaded bytes do not have the digest that the path names."""

    code, http_status = "E-API-009", 422
    remedy = "compute the SHA-256 of the file again and upload it under that"


class QuotaExceeded(Refused):
    """The account's blobs would pass its quota."""

    code, http_status = "E-API-010", 413
    remedy = "destroy apps or releases that are no longer needed, or ask an operator for more"


class TooManyFollowers(Refused):
    """As many streams are open as this door serves."""

    code, http_status = "E-API-011", 429


class NotAccepted(Refused):
    """The envelope was not accepted."""

    code, http_status = "E-API-012", 401
    remedy = "is the key known here and not revoked, the grant in force, and the clock right?"


def problem(error: EnjinError, status: int = 0) -> Response:
    """Return the response that describes *error*."""
    status = status or error.http_status
    code = code_of(error)
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": code,
    }
    if error.hint:
        body["hint"] = error.hint
    headers = {"WWW-Authenticate": 'Bearer realm="enjin"'} if status == 401 else {}
    if status == 429:
        headers["Retry-After"] = "1"
    return Response(canonical(body), status, headers, media_type=MEDIA)


def refusal(code: str, message: str, hint: str) -> Response:
    """Return the response for a signed answer that is a refusal, with the status of its code's class."""
    return problem(from_reply(code, message, hint))
