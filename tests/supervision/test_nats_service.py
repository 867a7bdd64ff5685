"""The server of NATS beside a decider: reached through its socket, told who is in force, ended with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.over_nats.link import UNIX, Link, Login
from bus.over_nats.participant import NatsTransport
from enjin.errors import Unreachable
from enjin.host import random_bytes
from keys.frame import open_frame
from keys.grants import Capability, Grant, PublicKeys, sign_grant
from keys.keyring import Keyring
from keys.root import make_root
from keys.signing import Signer
from keys.trust import TrustSet
from supervision.nats_service import NatsService, certificate, tokens
from tests.bus.waiting import asynchronous, until_async
from tests.cloud import process_table, wait_for
from tests.places import free_port_base

ROOT = Path(__file__).resolve().parents[2]
NOW, HOUR = 10**15, 3_600_000_000
CHANNEL = "ring0"


@dataclasses.dataclass
class Domain:
    """A decider with a person whose grant names a key for NATS."""

    trust: TrustSet
    decider: Keyring
    person: Keyring
    grants: dict[str, Grant]
    frames: list[bytes]

    def login(self, home: Path, who: str = "person") -> Login:
        """Return how *who* logs in: with the token that the directory would carry."""
        key = self.person.nats if who == "person" else self.decider.nats
        token = tokens(self.decider, CHANNEL, self.grants.values())[key.text]
        return Login((f"{UNIX}{home / 'bus/nats.sock'}",), certificate(self.decider), key, lambda: token)


def grant_of(cloud: str, keyring: Keyring, **fields: object) -> Grant:
    keys = PublicKeys(
        message=keyring.message.public.hex(), nats=keyring.nats.public.hex(), issue=keyring.issuer.public.hex() if keyring.issuer else ""
    )
    whole = {
        "v": 1, "cloud": cloud, "subject": "n-0", "role": 3, "keys": keys, "ring": 0, "depth": 3, "compartment": "cloud",
        "allowed": (Capability("app", "cloud"), Capability("reply", "cloud")), "channels": (CHANNEL,), "not_before": NOW - HOUR,
        "expiry": NOW + HOUR,
    }  # fmt: skip
    return msgspec.convert(whole | fields, Grant)


@pytest.fixture
def domain() -> Domain:
    shares = [Signer.from_seed(hashlib.sha256(b"%d" % number).digest()) for number in range(3)]
    trust = TrustSet(make_root(shares, NOW - HOUR, NOW + HOUR))
    decider, person = Keyring(trust.cloud, random_bytes(32), random_bytes(32)), Keyring(trust.cloud, random_bytes(32))
    assert decider.issuer is not None
    first = grant_of(str(trust.cloud), decider)
    frames = [sign_grant(first, *shares[:2])]
    second = grant_of(str(trust.cloud), person, subject="o-1", role=2, depth=0, parent=open_frame(frames[0]).digest)
    frames.append(sign_grant(second, decider.issuer))
    for frame in frames:
        trust.add(frame)
    return Domain(trust, decider, person, {"decider": first, "person": second}, frames)


@pytest.fixture
def service(home: Path, domain: Domain) -> NatsService:
    (home / "bus").mkdir()
    return made(home, domain, free_port_base())


def made(home: Path, domain: Domain, port: int) -> NatsService:
    return NatsService(home, home / "nats", domain.decider, sys.executable, channel=CHANNEL, port=port)


@contextlib.contextmanager
def running(service: NatsService) -> Iterator[subprocess.Popen[bytes]]:
    """Run what init would run, as init would: in a process group of its own."""
    argv = [word for word in service.service()["argv"] if word != "-I"]
    process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, process_group=0)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=10)


async def let_in(login: Login) -> bool:
    """Return whether *login* is let in."""
    try:
        link = await Link.open(login, login.servers[0], "somebody", lambda _pattern, _subject, _frame: None)
    except Unreachable:
        return False
    await link.close()
    return True


@asynchronous
async def test_the_socket_carries_the_bus(service: NatsService, home: Path, domain: Domain) -> None:
    """Decider and person speak through the Unix socket, frames of every size unchanged; the person may say what its grant covers."""
    with running(service):
        decider, person = service.connect(), NatsTransport.connect(domain.login(home))
        heard: list[tuple[str, bytes]] = []
        await decider.subscribe("command", lambda subject, frame: heard.append((subject, frame)))
        frames = [b"", b"x", bytes(range(256)) * 4096]
        for frame in frames:
            await person.publish("command.app.push", frame)
        await person.publish("command.key.revoke", b"not covered")
        await person.publish("command.app", b"end")

        async def all_there() -> bool:
            return len(heard) >= 4

        await until_async(all_there, "what was said")
        assert [("command.app.push", frame) for frame in frames] + [("command.app", b"end")] == heard
        await decider.close()
        await person.close()


@asynchronous
async def test_who_is_no_longer_in_force_is_cut(service: NatsService, home: Path, domain: Domain) -> None:
    """A revoked person's session ends and its token is refused, also by a daemon that starts anew and has forgotten it."""
    service.admit(domain.trust, NOW)
    with running(service):
        telling = asyncio.create_task(service.run())
        await until_async(lambda: let_in(domain.login(home)), "the person is let in")
        session = await Link.open(domain.login(home), domain.login(home).servers[0], "person", lambda _pattern, _subject, _frame: None)
        domain.trust.revoke(str(domain.person.message.key_id), "lost")
        service.admit(domain.trust, NOW)
        async with asyncio.timeout(10):
            await session.lost.wait()
        assert not await let_in(domain.login(home))
        assert await let_in(domain.login(home, "decider"))
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        forgetful = TrustSet(domain.trust.root_frame)
        forgetful.add(domain.frames[0])
        again = made(home, domain, json.loads((home / "nats/config.json").read_bytes())["port"])
        again.admit(forgetful, NOW)
        accounts = again.accounts()
        await again.tell(accounts)
        await accounts.close()
        assert not await let_in(domain.login(home))
        await session.close()


@asynchronous
async def test_who_is_in_force_again_is_let_in(service: NatsService, home: Path, domain: Domain) -> None:
    """A grant that has run out shuts its holder out, and the next one lets it in with the same token."""
    service.admit(domain.trust, NOW + 2 * HOUR)
    with running(service):
        telling = asyncio.create_task(service.run())

        async def shut_out() -> bool:
            return await let_in(domain.login(home, "decider")) and not await let_in(domain.login(home))

        await until_async(shut_out, "the person is shut out")
        service.admit(domain.trust, NOW)
        await until_async(lambda: let_in(domain.login(home)), "the person is let in")
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


@asynchronous
async def test_revocations_outlive_the_server(service: NatsService, home: Path, domain: Domain) -> None:
    """A server that is started again refuses whom it was told to refuse, before anybody tells it anything."""
    domain.trust.revoke(str(domain.person.message.key_id), "lost")
    service.admit(domain.trust, NOW)
    with running(service):
        telling = asyncio.create_task(service.run())

        async def shut_out() -> bool:
            return await let_in(domain.login(home, "decider")) and not await let_in(domain.login(home))

        await until_async(shut_out, "the person is shut out")
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    with running(service):
        await until_async(lambda: let_in(domain.login(home, "decider")), "the server is back")
        assert not await let_in(domain.login(home))


def server_of(process: subprocess.Popen[bytes], home: Path) -> int:
    """Return the pid of the nats-server below *process*, once it serves: before, it may be the one that was asked for its version."""
    wait_for(lambda: (home / "bus/nats.sock").exists(), 10, "the socket")
    return wait_for(
        lambda: next((one.pid for one in process_table().values() if one.parent == process.pid and "nats-server" in one.line), 0), 10, "it"
    )


def test_told_to_end_both_end(service: NatsService, home: Path) -> None:
    """SIGTERM ends the server too, takes the socket away, and is no failure."""
    with running(service) as process:
        server = server_of(process, home)
        process.terminate()
        assert process.wait(10) == 0
        assert server not in process_table()
        assert not (home / "bus/nats.sock").exists()


def test_a_server_that_ends_ends_the_service(service: NatsService, home: Path) -> None:
    """kill -9 of nats-server ends the process that init watches, so that init starts both again."""
    with running(service) as process:
        os.kill(server_of(process, home), signal.SIGKILL)
        assert process.wait(10) == 1


@pytest.mark.parametrize("spoil", ["no file", "no JSON", "unknown field", "busy"])
def test_a_service_that_cannot_serve_says_why_in_one_line(service: NatsService, home: Path, spoil: str) -> None:
    """Exit status 78 and one line with a code; nothing is left running."""
    config = home / "nats/config.json"
    with contextlib.ExitStack() as stack:
        if spoil == "no file":
            config.unlink()
        elif spoil == "busy":
            other = stack.enter_context(running(service))
            wait_for(lambda: (home / "bus/nats.sock").exists(), 10, "the socket")
            assert other.poll() is None
        else:
            config.write_bytes(b"{" if spoil == "no JSON" else b'{"x": 1}')
        with running(service) as process:
            _, log = process.communicate(timeout=15)
            lines = [json.loads(line) for line in log.decode().splitlines() if line.startswith("{")]
            assert process.returncode == 78
            assert ("nats.refused", "E-BUS-121") == (lines[-1]["event"], lines[-1]["code"])
            assert not [one for one in process_table().values() if one.parent == process.pid]
