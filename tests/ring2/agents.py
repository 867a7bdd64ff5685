"""A real agent process, a ring 1 that speaks to it in signed frames, and real inits for its instances."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from bus.caller import Caller
from bus.messages import Command, Query, Reply
from bus.opening import Opened
from bus.over_pipe import PipeTransport
from bus.speaker import Speaker
from enjin.canonical import to_text
from enjin.errors import from_reply
from enjin.host import clock
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet
from supervision.instances import Health, RunInstance
from tests.supervision.inits import DEADLINE_S, ROOT, Running, running, wait_for

HOUR, YEAR = 3_600_000_000, 31_536_000_000_000
CHANNEL, DOMAIN, RING1, AGENT = "ring1.n-1", "n-1", "n-1", "a-1"
PATH = "cloud/site/acme"
NODE = "i-00000000000000aa"
SERVER = """
    import os, socket, sys, time
    print('environment', sorted(key for key in os.environ if key.startswith('APP_')), flush=True)
    time.sleep(float(os.environ.get('APP_SLOW', '0')))
    server = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
    status = os.environ.get('APP_STATUS', '200 OK')
    while True:
        connection, _ = server.accept()
        if connection.recv(4096):
            connection.sendall(f'HTTP/1.1 {status}\\r\\nConnection: close\\r\\n\\r\\n{os.getpid()}'.encode())
        connection.close()
"""


def seed(word: str) -> bytes:
    """Return a seed for *word*."""
    return hashlib.sha256(word.encode()).digest()


class Chain:
    """A root, ring 0, ring 1 and an agent's key with their grants, in force now."""

    def __init__(self) -> None:
        self.now = clock().wall_us
        shares = [Signer.from_seed(seed(f"share {number}")) for number in range(3)]
        self.root = make_root(shares, self.now - HOUR, self.now + YEAR)
        self.trust = TrustSet(self.root)
        ring0, self.ring1 = (Keyring(self.trust.cloud, seed(name), seed(name + " issuer")) for name in ("r0", "r1"))
        self.agent = Signer.from_seed(seed("agent"))
        self.frames = [sign_grant(self.grant("n-0", 0, 3, "cloud", self.public(ring0), ""), *shares[1:])]
        assert ring0.issuer is not None
        assert self.ring1.issuer is not None
        parent = self.trust.add(self.frames[0])
        self.frames.append(sign_grant(self.grant(RING1, 1, 2, "cloud/site", self.public(self.ring1), parent), ring0.issuer))
        self.ring1_grant = self.trust.add(self.frames[1])
        agent = PublicKeys(message=self.agent.public.hex())
        self.frames.append(sign_grant(self.grant(AGENT, 2, 0, PATH, agent, self.ring1_grant, role=1), self.ring1.issuer))
        self.agent_grant = self.trust.add(self.frames[2])

    @staticmethod
    def public(keyring: Keyring) -> PublicKeys:
        """Return the public halves of *keyring*."""
        assert keyring.issuer is not None
        return PublicKeys(message=keyring.message.public.hex(), issue=keyring.issuer.public.hex())

    def grant(self, subject: str, ring: int, depth: int, compartment: str, keys: PublicKeys, parent: str, role: int = 3) -> Grant:
        """Return a grant for everything that matters here."""
        return Grant(
            v=1, cloud=str(self.trust.cloud), subject=subject, role=role, keys=keys, ring=ring, depth=depth, compartment=compartment,
            allowed=tuple(Capability(verb, compartment) for verb in ("daemon", "instance")), channels=("ring1",),
            not_before=self.now - HOUR, expiry=self.now + HOUR, parent=parent,
        )  # fmt: skip

    def configuration(self, home: Path) -> dict[str, Any]:
        """Return an agent's configuration."""
        return {
            "cloud": str(self.trust.cloud), "channel": CHANNEL, "node": AGENT, "supervisor": RING1, "domain": DOMAIN, "compartment": "acme",
            "path": PATH, "seed": seed("agent").hex(), "root": to_text(self.root), "grants": [to_text(frame) for frame in self.frames],
            "offset_us": clock().wall_us - clock().boot_us, "home": str(home),
        }  # fmt: skip


class Ring1:
    """Ring 1's side: an agent process that is started and killed as a test likes, and the channel that outlives it."""

    def __init__(self, home: Path) -> None:
        self.home, self.chain = home, Chain()
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.transport = PipeTransport(ours.detach())
        self.speaker = Speaker(
            cloud=str(self.chain.trust.cloud), channel=CHANNEL, issuer=RING1, grant=self.chain.ring1_grant, signer=self.chain.ring1.message,
            daemon=True,
        )  # fmt: skip
        self.caller = Caller(self.transport, self.speaker, self.chain.trust, responder=AGENT, ring=1)
        self.seen: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.config = os.memfd_create("agent")
        os.write(self.config, json.dumps(self.chain.configuration(home)).encode())
        self.errors = open(home / "agent.log", "ab")  # noqa: SIM115

    def hear(self, opened: Opened) -> None:
        """Note a verified observation."""
        self.seen.append({"kind": opened.kind, **msgspec.json.decode(opened.statement.body)})

    async def start_agent(self) -> None:
        """Start the agent and wait until it says so."""
        before = len(self.kinds("instance.agent"))
        argv = [sys.executable, "-m", "ring2.daemon", "--channel", str(self.theirs.fileno()), "--config", str(self.config)]
        self.process = subprocess.Popen(
            argv, cwd=ROOT, pass_fds=(self.theirs.fileno(), self.config), stderr=self.errors, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        await wait_for(lambda: len(self.kinds("instance.agent")) > before, "the agent's start")

    def kill_agent(self) -> None:
        """Kill the agent as nothing else does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        """Return what was seen of *kind*."""
        return [one for one in self.seen if one["kind"] == kind]

    async def until(self, kind: str, count: int = 1, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """Wait until *count* observations of *kind* were seen, and return the last."""
        await wait_for(lambda: len(self.kinds(kind)) >= count, f"{kind} ({count}); seen: {self.seen[-5:]}", seconds)
        return self.kinds(kind)[-1]

    async def ask(self, message: Command | Query) -> Any:
        """Ask the agent; raise what it refuses with."""
        ask: Callable[..., Any] = self.caller.command if isinstance(message, Command) else self.caller.query
        reply: Reply = await ask(message)
        if not reply.ok:
            raise from_reply(reply.code, reply.message, reply.hint)
        return msgspec.json.decode(reply.result)

    def close(self) -> None:
        """End the agent."""
        self.kill_agent()
        self.theirs.close()
        os.close(self.config)
        self.errors.close()


@contextlib.asynccontextmanager
async def ring1(home: Path) -> AsyncIterator[Ring1]:
    """A ring 1 with an agent that runs."""
    one = Ring1(home)
    try:
        await one.caller.follow("seen", one.hear)
        await one.start_agent()
        yield one
    finally:
        one.close()
        await one.transport.close()


@contextlib.asynccontextmanager
async def jail(home: Path, name: str = "instance.sock") -> AsyncIterator[Running]:
    """The init of an instance's jail, with its control socket below *home*."""
    async with running({"controls": [{"path": str(home / name), "role": "supervisor"}]}) as init:
        await wait_for((home / name).exists)
        yield init


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def server(home: Path, **fields: Any) -> RunInstance:
    """Return the wish to run a small HTTP server, whose pid is what it answers."""
    (home / "server.py").write_text(textwrap.dedent(SERVER))
    return RunInstance(**{
        "instance": NODE, "generation": 1, "control": "instance.sock", "address": "127.0.0.1", "port": free_port(), "cwd": str(home),
        "line": "/usr/bin/python3 -I -S -u server.py", "health": Health(timeout_s=10), **fields,
    })  # fmt: skip


async def answers(wish: RunInstance, seconds: float = DEADLINE_S) -> int:
    """Return the pid that the server answers with, as soon as it answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            reader, writer = await asyncio.open_connection(wish.address, wish.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return int(answer.rpartition(b"\r\n")[2])
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.005)
