"""The control socket of a running HAProxy: commands out, answers in.

Owns the conversation and the parsing of what HAProxy tables say; the parsers are pure. Knows no route.

Source: HAProxy 2.6 management guide, 9.3.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from enjin.errors import StepFailed
from enjin.failpoints import failpoint
from ring1.haproxy import BadRoute, Server

_ANSWER_BYTES_MAX: Final = 4 << 20
_ANSWER_S_MAX: Final = 5.0


class RouterSilent(StepFailed):
    """The router does not answer on its control socket."""

    code = "E-RTE-003"
    remedy = "`enjin status` shows whether the router runs; its node restarts it within a second"


class RouterRefused(StepFailed):
    """The router refused a change."""

    code = "E-RTE-004"


class Control:
    """The control socket of one HAProxy: a command list in, an answer out, a connection each."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def ask(self, commands: Iterable[str]) -> str:
        """Send *commands* in one line, which HAProxy carries out without anything between them, and return its answer.

        Raises:
            RouterSilent: Nobody listens, or no answer came in time.
        """
        line = "; ".join(commands)
        if "\n" in line or "\\" in line:
            raise BadRoute("a command for the router holds a line break")
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=_ANSWER_BYTES_MAX)
                try:
                    failpoint("router.control.send")
                    writer.write(line.encode("ascii") + b"\n")
                    data = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise RouterSilent(f"the router does not answer: {type(error).__name__}") from error
        return data.decode("utf-8", "replace")

    async def do(self, commands: Iterable[str], expected: frozenset[str] = frozenset()) -> None:
        """Carry out *commands*; anything said that is not in *expected* means that one of them was refused.

        Raises:
            RouterSilent, RouterRefused: See the classes.
        """
        answer = await self.ask(commands)
        said = [line for line in (line.strip() for line in answer.splitlines()) if line and line not in expected]
        if said:
            raise RouterRefused(f"the router refused a change: {said[0][:200]}")


def parse_map(answer: str) -> dict[str, int]:
    """Return host -> slot from the answer to ``show map PATH``."""
    found = {}
    for line in answer.splitlines():
        match = re.fullmatch(r"0x[0-9a-f]+ (\S+) b_slot([0-9]+)", line.strip())
        if match:
            found[match[1]] = int(match[2])
    return found


class SeenServer(msgspec.Struct, frozen=True):
    """A server as HAProxy has it: ``admin`` is its administrative state (0 ready, 1 forced maintenance, 8 forced drain)."""

    slot: int
    server: Server
    admin: int
    operational: int


def parse_servers(answer: str) -> list[SeenServer]:
    """Return the servers in the answer to ``show servers state``."""
    found = []
    names: list[str] = []
    for line in answer.splitlines():
        words = line.split()
        if line.startswith("# "):
            names = words[1:]
        elif len(words) > 1 and names:
            row = dict(zip(names, words, strict=False))
            if row["be_name"].startswith("b_slot"):
                server = Server(row["srv_name"], row["srv_addr"], int(row["srv_port"]), int(row["srv_id"]))
                found.append(SeenServer(int(row["be_name"][6:]), server, int(row["srv_admin_state"]), int(row["srv_op_state"])))
    return found


def parse_sessions(answer: str) -> dict[str, int]:
    """Return server -> requests in progress or queued, from the answer to ``show stat BACKEND 4 -1``."""
    rows = csv.DictReader(io.StringIO(answer.removeprefix("# ")))
    return {row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0) for row in rows if row.get("svname")}
