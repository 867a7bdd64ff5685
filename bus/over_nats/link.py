"""One connection to one NATS server: made, logged in, watched and let go.

Owns how nats-py is asked: TLS first, the token and the answer to the nonce, no reconnecting of its own. The library
reconnects only where it was not refused, keeps what it could not send without a bound that is ours, and waits for a
half-open peer's farewell; so a link is used once and ``participant`` makes the next. Nor do messages pass through
its queue and task per subscription: these lose the order between two subjects, and drop what a busy loop has not taken
while the reading goes on. They are handed over where the library takes them off the wire, and the reading waits.

INV-NLK-1: a link that does not answer twice in a row within a beat each is lost, whatever TCP says.
INV-NLK-2: an answer that comes after its question was given up is dropped, and costs neither the link nor the next question.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from bus.heartbeats import BEAT_S
from enjin.errors import ConfigError, Unreachable
from enjin.failpoints import failpoint
from enjin.log import get
from keys.nats_keys import UserKey

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.transport import TcpTransport

Taker = Callable[[str, bytes, bytes], None]

CONNECT_S: Final = 3
FAREWELL_S: Final = 2
PINGS_MISSED_MAX: Final = 2
PENDING_BYTES: Final = 4 << 20
YIELD_EACH: Final = 64
FAREWELLS_MAX: Final = 8
HANDSHAKES_MAX: Final = 32  # at once in one process: more would take turns anyway, and all give up together
UNIX: Final = "unix:"
SERVER_NAME: Final = "bus.enjin.internal"
_REFUSED: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)

_log = get("bus.nats")
_farewells: set[asyncio.Task[None]] = set()
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


class NoNats(ConfigError):
    """The bus is NATS, and what it needs is not installed."""

    code = "E-BUS-120"
    remedy = "`./bootstrap setup --nats` installs it"


class Login(NamedTuple):
    """Where the servers are, whose certificate they must have, and who we are there.

    servers: ``host:port`` or ``unix:/path`` each, tried in turn. authority: PEM of the cloud's certificate authority.
    user: our key. token: returns our token as it is now, asked at each login. beat_s: how often we ask whether the server is there.
    """

    servers: tuple[str, ...]
    authority: str
    user: UserKey
    token: Callable[[], str]
    beat_s: int = BEAT_S


class Link:
    """One connection; made by ``open``."""

    def __init__(self, take: Taker, beat_s: int = BEAT_S) -> None:
        self.client = _client(take)
        self._beat_s = beat_s
        self.lost = asyncio.Event()
        self.heard_patterns: set[str] = set()
        self.on_refused: Callable[[str], None] | None = None

    @classmethod
    async def open(cls, login: Login, server: str, name: str, take: Taker, patience_s: int = CONNECT_S) -> Link:
        """Connect to *server* (one of ``login.servers``) and log in; *take* gets (pattern, subject, frame), in order.

        Args:
            patience_s: For how many seconds it may take to let us in.

        Raises:
            Unreachable: It does not answer, is not of our cloud, or does not let us in.
            NoNats: nats-py is not installed.
        """
        link = cls(take, login.beat_s)
        if server.startswith(UNIX):
            link.client._transport = _unix_transport(server.removeprefix(UNIX))
        try:
            async with _turn(), asyncio.timeout(patience_s):
                await link.client.connect(
                    "tls://bus:1" if server.startswith(UNIX) else f"tls://{server}",
                    name=name,
                    tls=_tls(login.authority),
                    tls_hostname=SERVER_NAME,
                    tls_handshake_first=True,
                    user_jwt_cb=lambda: bytearray(login.token(), "ascii"),
                    signature_cb=login.user.answer,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=patience_s,
                    ping_interval=login.beat_s,
                    max_outstanding_pings=PINGS_MISSED_MAX,
                    pending_size=PENDING_BYTES,
                    error_cb=link._heard_error,
                    closed_cb=link._heard_close,
                )
        except asyncio.CancelledError:
            await link.close()
            raise
        except Exception as error:
            link.abandon()
            raise Unreachable(f"the NATS server at {server} does not let us in: {_words(error)}") from error
        return link

    async def listen(self, pattern: str) -> None:
        """Have the server send what matches *pattern*, once; ``settle`` says when it does."""
        if pattern in self.heard_patterns:
            return
        self.heard_patterns.add(pattern)
        with _as_loss(self):
            await self.client.subscribe(pattern)

    async def publish(self, subject: str, frame: bytes, reply: str = "") -> None:
        """Hand *frame* to the server's connection."""
        with _as_loss(self):
            failpoint("nats.link.send")
            await self.client.publish(subject, frame, reply=reply)

    async def settle(self, timeout_s: int = CONNECT_S) -> None:
        """Return when the server has taken everything that was asked before.

        Twice: the library writes its ping before what still waits in its buffer, so the first answer only says that the
        buffer was written. Raises: Unreachable.
        """
        with _as_loss(self):
            for _ in range(2):
                await self.client.flush(timeout_s)

    async def watch(self) -> None:
        """Return when the link is lost."""
        missed = 0
        while not self.lost.is_set() and missed < PINGS_MISSED_MAX:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if missed else self._beat_s):
                    await self.lost.wait()
                return
            missed = 0 if await self._answers() else missed + 1
        self.lost.set()

    async def _answers(self) -> bool:
        try:
            await self.client.flush(self._beat_s)
        except Exception:
            return False
        return True

    def abandon(self) -> None:
        """Let the connection go without waiting for the other end's farewell."""
        self.lost.set()
        if len(_farewells) < FAREWELLS_MAX:
            farewell = asyncio.get_running_loop().create_task(_say_farewell(self.client))
            _farewells.add(farewell)
            farewell.add_done_callback(_farewells.discard)

    async def close(self) -> None:
        """Close the connection, for at most two seconds."""
        self.lost.set()
        await _say_farewell(self.client)

    async def _heard_error(self, error: Exception) -> None:
        found = _REFUSED.search(str(error))
        if found is not None and self.on_refused is not None:
            self.on_refused(found[2])
        _log.debug("connection.failed", error=_words(error))

    async def _heard_close(self) -> None:
        self.lost.set()


def patterns_of(prefix: str) -> Sequence[str]:
    """Return the NATS patterns that together match what *prefix* does."""
    return (prefix, f"{prefix}.>") if prefix else (">",)


@contextlib.contextmanager
def _as_loss(link: Link) -> Iterator[None]:
    """Turn whatever the library raises into the loss of the link. Raises: Unreachable."""
    from nats.errors import Error

    try:
        yield
    except (Error, OSError, TimeoutError, AssertionError, AttributeError) as error:
        link.lost.set()
        raise Unreachable(f"the connection to the NATS server is lost: {_words(error)}") from error


def require_client() -> type[Client]:
    """Return the library's client. Raises: NoNats."""
    try:
        from nats.aio.client import Client
    except ImportError as error:
        raise NoNats("nats-py is not installed") from error
    return Client


def _turn() -> asyncio.Semaphore:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(HANDSHAKES_MAX))


def _client(take: Taker) -> Client:
    Client = require_client()  # a class, made into another one below

    class InOrder(Client):  # type: ignore[misc, valid-type]
        """A client that hands over what it reads in the order of the wire, and lets others run in between."""

        taken = 0

        async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
            if (known := self._subs.get(sid)) is not None:
                take(known.subject, subject, data)
            self.taken += 1
            if self.taken % YIELD_EACH == 0:
                await asyncio.sleep(0)

        async def _process_pong(self) -> None:
            # The library answers its oldest question even when that was given up; that raises, and ends the reading for good.
            if self._pongs and self._pongs[0].done():
                self._pongs.pop(0)
                self._pings_outstanding = 0
            else:
                await super()._process_pong()

    logging.getLogger("asyncio").addFilter(_is_news)
    return InOrder()


def _unix_transport(path: str) -> TcpTransport:
    """Return the library's transport over a Unix socket, before which a server of another network namespace listens."""
    from nats.aio.transport import TcpTransport

    class UnixTransport(TcpTransport):
        async def connect(self, uri: object, buffer_size: int, connect_timeout: int) -> None:
            async with asyncio.timeout(connect_timeout):
                reader, writer = await asyncio.open_unix_connection(path, limit=buffer_size)
            self._bare_io_reader = self._io_reader = reader
            self._bare_io_writer = self._io_writer = writer

        def __bool__(self) -> bool:
            return True  # or the library makes one of its own

    return UnixTransport()


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for what asyncio says at each end of a connection whose TLS nats-py began: it means nothing."""
    return "eof_received() has no effect" not in str(record.msg)


def _tls(authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    return context


async def _say_farewell(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(FAREWELL_S):
            await client.close()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
