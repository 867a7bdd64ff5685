"""Whether a process answers: TCP on its port, then HTTP below 500 on its path.

Owns one attempt, the wait until the first that succeeds, and the watch afterwards: by connections alone, which leave no
trace in an app's log; the router asks more. What follows from the outcome is the automaton's matter.
A probe is one short connection, closed at once; its answer is read no further than the status line.
May import: enjin, supervision.instances.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from enjin.failpoints import failpoint
from enjin.host import monotonic_s
from supervision.instances import Health

PROBE_S: Final = 5.0
STEADY_S: Final = 5.0
MISSES_MAX: Final = 3
CONNECT_S: Final = 1.0
STATUS_LINE_BYTES: Final = 256
AGENT: Final = "enjin-health"


def request(path: str) -> bytes:
    """Return the HTTP request of a probe."""
    shown = path if path.isascii() and path.isprintable() and " " not in path else "/"
    return f"GET {shown} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode()


def verdict(line: bytes) -> str:
    """Return "" when the status line *line* means that the app serves, else why it does not."""
    words = line.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "it does not speak HTTP"
    status = int(words[1])
    return "" if 100 <= status < 500 else f"it answers {status}"


async def probe(address: str, port: int, path: str, timeout_s: float = PROBE_S) -> str:
    """Try once, and return "" when the process answers, else why it does not.

    Args:
        address: IPv4 or IPv6 address.
        port: TCP port.
        path: What is asked by HTTP; "": a connection is enough.
        timeout_s: How long the whole attempt may take.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            async with asyncio.timeout(timeout_s):
                async with asyncio.timeout(CONNECT_S):
                    await loop.sock_connect(sock, (address, port))
                if not path:
                    return ""
                failpoint("health.send")
                await loop.sock_sendall(sock, request(path))
                answer = b""
                while b"\n" not in answer and len(answer) < STATUS_LINE_BYTES:
                    part = await loop.sock_recv(sock, STATUS_LINE_BYTES)
                    if not part:
                        break
                    answer += part
    except TimeoutError:
        return "it does not answer in time"
    except OSError as error:
        return f"nothing listens on port {port}" if isinstance(error, ConnectionRefusedError) else (error.strerror or "it does not answer")
    return verdict(answer) if answer else "it closes the connection"


async def until_ready(address: str, port: int, path: str, timeout_s: float, interval_ms: int) -> str:
    """Try every *interval_ms* until the process answers; return "", or after *timeout_s* why it did not the last time."""
    deadline = monotonic_s() + timeout_s
    while True:
        left = deadline - monotonic_s()
        why = await probe(address, port, path, max(0.05, min(PROBE_S, left)))
        if not why or monotonic_s() + interval_ms / 1000 >= deadline:
            return why
        await asyncio.sleep(interval_ms / 1000)


async def watch(
    address: str, port: int, health: Health, ready: Callable[[], Awaitable[None]], doubt: Callable[[str], Awaitable[None]]
) -> str:
    """Watch a process from its start, and return why it is given up: not ready in time, or no answer for as long.

    Args:
        address, port: Where it listens.
        health: What is asked, and how long it may take.
        ready: Called when it answers, the first time and after a doubt.
        doubt: Called with the reason when it took no connection three times in a row.
    """
    why = await until_ready(address, port, health.path or "", health.timeout_s, health.interval_ms)
    if why:
        return f"not ready within {health.timeout_s} s: {why}"
    await ready()
    misses, since = 0, monotonic_s()
    while not why or monotonic_s() - since < health.timeout_s:
        await asyncio.sleep(STEADY_S)
        why = await probe(address, port, "")
        misses = misses + 1 if why else 0
        if misses == MISSES_MAX:
            await doubt(why)
        if not why:
            since = monotonic_s()
            await ready()
    return why
