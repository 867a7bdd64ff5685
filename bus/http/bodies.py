"""From a request's body, query and headers to values: bounded, typed, and leniently spelled.

The envelope is strict about spelling; a person's JSON need not be. Here it is read by its shape and sealed anew, so
what is signed is canonical.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeVar

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request

from bus.http.problems import BadRequest, BodyTooLarge, WrongMedia
from enjin.errors import Invalid
from enjin.names import RequestId, Text

JSON_MAX_BYTES: Final = 61_440
REASON_HEADER: Final = "enjin-reason"
_TOKEN: Final = re.compile(r"enjin_[a-z0-9-]{1,64}_[A-Za-z0-9_-]{8,256}")
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


def _from_plain(shape: type, value: Any) -> Any:
    if isinstance(shape, type) and issubclass(shape, Text):
        return shape.parse(value)
    raise TypeError(f"{shape} has no place in a message")


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the request's body as it comes. Raises: BadRequest when the client left."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise BadRequest("the body ended early") from error


async def read_body(request: Request, limit: int) -> bytes:
    """Return the request's body. Raises: BodyTooLarge, BadRequest when the client left."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"the body has {declared} bytes, {limit} are allowed")
    data = bytearray()
    async for chunk in chunks(request):
        data += chunk
        if len(data) > limit:
            raise BodyTooLarge(f"the body has more than {limit} bytes")
    return bytes(data)


async def read_json(request: Request, shape: type[T]) -> T:
    """Return the request's JSON body as *shape*; no body is an empty object. Raises: WrongMedia, BadRequest, BodyTooLarge."""
    data = await read_body(request, JSON_MAX_BYTES)
    if data and request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise WrongMedia("this path takes application/json")
    try:
        return msgspec.json.decode(data or b"{}", type=shape, dec_hook=_from_plain)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body does not fit: {error}") from error
    except Invalid as error:
        raise BadRequest(error.message, hint=error.hint) from error


def read_query(parameters: QueryParams, shape: type[S]) -> S:
    """Return the query's parameters as *shape*; a list is a parameter repeated. Raises: BadRequest."""
    lists = {field.encode_name for field in msgspec.structs.fields(shape) if is_list(field.type)}
    values: dict[str, Any] = {}
    for name in parameters:
        found = parameters.getlist(name)
        if name not in lists and len(found) > 1:
            raise BadRequest(f"parameter {name[:64]} is there {len(found)} times")
        values[name] = found if name in lists else found[0]
    try:
        return msgspec.convert(values, shape, strict=False, dec_hook=_from_plain)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadRequest(f"the query does not fit: {error}") from error
    except Invalid as error:
        raise BadRequest(error.message, hint=error.hint) from error


def is_list(shape: Any) -> bool:
    """Return whether a field of type *shape* holds several values."""
    kinds = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType, msgspec.inspect.SetType, msgspec.inspect.FrozenSetType)
    return isinstance(msgspec.inspect.type_info(shape), kinds)


def read_request_id(headers: Mapping[str, str]) -> str:
    """Return the Idempotency-Key, empty when there is none. Raises: BadRequest."""
    text = headers.get("idempotency-key", "").strip('"')
    try:
        return str(RequestId.parse(text)) if text else ""
    except Invalid as error:
        raise BadRequest("the Idempotency-Key is not a UUIDv7", hint="make one per wish, and repeat it when you repeat the wish") from error


def read_reason(headers: Mapping[str, str]) -> str:
    """Return why the asker wants it, from the header Enjin-Reason (UTF-8). Raises: BadRequest."""
    try:
        reason = headers.get(REASON_HEADER, "").encode("latin-1").decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise BadRequest("Enjin-Reason is not UTF-8") from error
    if len(reason) > 500 or not reason.isprintable():
        raise BadRequest("Enjin-Reason has at most 500 printable characters")
    return reason


def read_token(authorization: str) -> str | None:
    """Return the bearer token in *authorization*; None when there is none of our form."""
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" and _TOKEN.fullmatch(token) else None
