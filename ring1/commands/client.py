"""What every app command needs: a session, the upload of a source, following an operation to its end.

Owns the talk of progress: stages with seconds on standard error, the result on standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bus.http.blobs import PutBlob
from bus.session import Session
from enjin import config as configuration
from enjin.canonical import to_text
from enjin.errors import EnjinError, StepFailed, Unreachable, from_reply
from enjin.host import monotonic_s
from enjin.output import say
from ring1.operations import ShowOperation
from ring1.source import Packed, pack

OPERATION_S: Final = 1_000.0
UPLOAD_S: Final = 300.0
POLL_S: Final = 0.5
AGAIN_S: Final = 20.0


class UploadFailed(StepFailed):
    """The source could not be sent."""

    code = "E-CLI-003"


def run(work: Callable[[Session], Awaitable[Any]]) -> Any:
    """Run *work* with a session of the configured cloud and return what it returns."""

    async def with_session() -> Any:
        async with await Session.open(configuration.load({})) as session:
            return await work(session)

    return asyncio.run(with_session())


class Stages:
    """Tells stages with the seconds that each took, once."""

    def __init__(self, quiet: bool) -> None:
        self.started = self._last = monotonic_s()
        self._quiet = quiet

    def done(self, name: str, detail: str = "") -> None:
        """Say that stage *name* is over."""
        now = monotonic_s()
        if not self._quiet:
            say(f"  {name:<10} {now - self._last:6.2f} s  {detail}".rstrip())
        self._last = now

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return monotonic_s() - self.started


async def upload(session: Session, directory: Path) -> Packed:
    """Pack *directory* and put it under its digest at ring 1's API. Raises: what packing and the API refuse with."""
    with tempfile.TemporaryFile() as file:
        packed = await asyncio.to_thread(pack, directory, file)
        speaker, reach = session.caller(1).speaker, session.directory.reach(1)
        deadline = monotonic_s() + AGAIN_S
        while True:
            # Sealed anew each time: an envelope is taken once. The digest makes the upload itself idempotent.
            frame = speaker.seal(f"command.{PutBlob.KIND}", PutBlob(digest=packed.digest), audience=reach.decider)  # type: ignore[arg-type]
            file.seek(0)
            try:
                await asyncio.to_thread(_put, reach.api, packed, file, frame)
                return packed
            except UploadFailed:
                if monotonic_s() > deadline:
                    raise
            await asyncio.sleep(POLL_S)


def _put(api: str, packed: Packed, file: Any, frame: bytes) -> None:
    connection = http.client.HTTPConnection(urlsplit(api).netloc, timeout=UPLOAD_S)
    headers = {
        "Authorization": f"Enjin {to_text(frame)}",
        "Content-Length": str(packed.size),
        "Content-Type": "application/x-tar",
    }
    try:
        connection.request("PUT", f"/v1/blobs/{packed.digest}", body=file, headers=headers)
        response = connection.getresponse()
        body = response.read(65_536)
    except (OSError, http.client.HTTPException) as error:
        raise UploadFailed(f"cannot send the source to {api}: {error}") from error
    finally:
        connection.close()
    if response.status not in (200, 201):
        raise _problem(response.status, body)


def _problem(status: int, body: bytes) -> EnjinError:
    import msgspec

    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
        return from_reply(str(said["code"]), str(said.get("detail") or said.get("title")), str(said.get("hint", "")))
    except (msgspec.DecodeError, KeyError):
        return UploadFailed(f"the API answered the upload with status {status}")


async def follow(session: Session, operation: str, stages: Stages) -> dict[str, Any]:
    """Return how *operation* ended, telling its stages on the way.

    Raises:
        StepFailed: It failed; code and text are the operation's own.
        Unreachable: It did not end in time; it goes on all the same.
    """
    moved = asyncio.Event()
    with contextlib.suppress(Unreachable):
        await session.follow(1, "seen.journal.committed", lambda _opened: moved.set())
    stage, deadline = "", monotonic_s() + OPERATION_S
    while monotonic_s() < deadline:
        moved.clear()
        now: dict[str, Any] = await session.query(1, ShowOperation(request=operation))
        if stage and now["stage"] != stage:
            stages.done(stage)
        stage = now["stage"]
        if now["state"] == "done":
            return now
        if now["state"] == "failed":
            raise _failure(now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await moved.wait()
    raise Unreachable(f"operation {operation} has not ended after {OPERATION_S:g} s; it goes on")


def _failure(now: dict[str, Any]) -> EnjinError:
    code, text = now["code"], now["why"]
    if not code:
        code, _, text = now["reason"].partition(": ")
    *output, last = text.splitlines() or [""]
    for line in output:
        say(f"    {line}")
    error = from_reply(code, last or "the operation failed")
    error.hint = error.hint or type(error).remedy
    return error
