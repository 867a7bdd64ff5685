"""Three NATS servers of one cloud: any one may be lost, frozen or told late, and publishing and subscribing go on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.errors import FlushTimeoutError

from bus.over_nats import accounts
from bus.over_nats.link import Link, Login
from bus.over_nats.participant import NatsTransport
from enjin.errors import Unreachable
from enjin.host import clock, random_bytes
from keys.certificates import CertificateAuthority
from tests.bus.nats_servers import CHANNEL, CLOUD, Cluster, now_s, running_cluster
from tests.bus.waiting import asynchronous, until, until_async


@pytest.fixture
def cluster(home: Path) -> Iterator[Cluster]:
    """Three servers."""
    with running_cluster(home, 3) as running:
        yield running


def spread(cluster: Cluster, *names: str) -> list[NatsTransport]:
    """Return a participant for each of *names*, each on a server of its own, with the others to go to."""
    joined = []
    for number, name in enumerate(names):
        addresses = cluster.addresses[number:] + cluster.addresses[:number]
        joined.append(cluster.connect(name, *addresses))
    return joined


async def all_hear(participants: list[NatsTransport], word: str) -> None:
    """Return when what each publishes reaches each of the others."""
    heard: dict[tuple[int, bytes], bool] = {}
    for number, participant in enumerate(participants):
        await participant.subscribe(word, lambda _subject, frame, number=number: heard.update({(number, frame): True}))

    async def complete() -> bool:
        for number, participant in enumerate(participants):
            await participant.publish(word, b"%d" % number)
        return all((one, b"%d" % other) in heard for one in range(len(participants)) for other in range(len(participants)))

    await until_async(complete, "everybody hears everybody")


async def refused_at(login: Login, server: str) -> bool:
    """Return whether *server* answers and does not let *login* in."""
    try:
        link = await Link.open(login, server, "somebody", lambda _pattern, _subject, _frame: None)
    except Unreachable as error:
        return "uthorization" in error.message or "evoked" in error.message
    await link.close()
    return False


@pytest.mark.parametrize("lost", [0, 1, 2])
@asynchronous
async def test_c13_any_one_of_three_may_be_lost(cluster: Cluster, lost: int) -> None:
    """C13: kill -9 of one server: between the others not a message is lost, and who was on it goes on through another."""
    await cluster.open()
    participants = spread(cluster, "one", "other", "third")
    await all_hear(participants, "seen.before")
    assert [participant.server for participant in participants] == list(cluster.addresses)
    speaker, hearer = (participant for number, participant in enumerate(participants) if number != lost)
    orphan = participants[lost]
    heard: list[bytes] = []
    await hearer.subscribe("seen.count", lambda _subject, frame: heard.append(frame))
    await all_hear(participants, "seen.ready")
    sent = [b"%d" % number for number in range(300)]
    for number, frame in enumerate(sent):
        if number == 100:
            cluster.end(lost, signal.SIGKILL)
        await speaker.publish("seen.count", frame)
        await asyncio.sleep(0.002)
    await until(lambda: len(heard) >= len(sent), "every message between the others")
    assert sent == heard
    await until(lambda: orphan.server not in ("", cluster.addresses[lost]), "it is connected to another")
    await all_hear(participants, "seen.after")
    for participant in participants:
        await participant.close()


@asynchronous
async def test_c13_publishing_goes_on_while_no_server_is_there(cluster: Cluster) -> None:
    """C13: all servers gone and two back: the outbox takes what is published, and what arrives later is in order and not repeated."""
    await cluster.open()
    one, other, third = spread(cluster, "one", "other", "third")
    await all_hear([one, other, third], "seen.before")
    heard: list[bytes] = []
    await other.subscribe("seen.count", lambda _subject, frame: heard.append(frame))
    for number in range(3):
        cluster.end(number, signal.SIGKILL)
    await until(lambda: one.server == other.server == "", "both have noticed")
    sent = [b"%d" % number for number in range(100)]
    for frame in sent:
        await one.publish("seen.count", frame)
    for number in (1, 2):
        cluster.start(number)
    await until(lambda: one.server and other.server, "both are connected again")
    await all_hear([one, other], "seen.after")
    assert [frame for frame in sent if frame in heard] == heard
    for participant in (one, other, third):
        await participant.close()


@asynchronous
async def test_c12_a_frozen_server_is_left(cluster: Cluster) -> None:
    """C12: a server that holds its connections and answers nothing is given up, and its clients go on through another."""
    await cluster.open()
    participants = spread(cluster, "one", "other")
    await all_hear(participants, "seen.before")
    cluster.processes[0].send_signal(signal.SIGSTOP)
    try:
        await until(lambda: participants[0].server not in ("", cluster.addresses[0]), "it is connected to another")
        await all_hear(participants, "seen.after")
    finally:
        cluster.processes[0].send_signal(signal.SIGCONT)
    for participant in participants:
        await participant.close()


@asynchronous
async def test_a_late_answer_costs_no_link(home: Path) -> None:
    """A server that answers after it was given up for a moment is heard again over the same connection."""
    with running_cluster(home) as cluster:
        await cluster.open()
        cluster.enrol("one")
        heard: list[bytes] = []
        link = await Link.open(cluster.login("one"), cluster.addresses[0], "one", lambda _pattern, _subject, frame: heard.append(frame))
        await link.listen("seen.x")
        await link.settle()
        stopped = cluster.processes[0]
        stopped.send_signal(signal.SIGSTOP)
        await until(lambda: " T " in Path(f"/proc/{stopped.pid}/stat").read_text(), "it is stopped")
        with pytest.raises(FlushTimeoutError):
            await link.client.flush(0.1)  # type: ignore[arg-type]
        stopped.send_signal(signal.SIGCONT)
        await link.settle()
        await link.publish("seen.x", b"after")
        await until(lambda: heard == [b"after"], "the message after")
        assert not link.lost.is_set()
        await link.close()


@pytest.mark.parametrize("behind_s", [0, 3600])
@asynchronous
async def test_n32_a_server_that_was_away_learns_of_a_revocation(cluster: Cluster, behind_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """N32: revoked while one server was down, and by a decider whose clock may have fallen back: it refuses the old token too."""
    await cluster.open()
    cluster.enrol("evil", issued_s=now_s() - 10)
    assert not await refused_at(cluster.login("evil"), cluster.addresses[2])
    cluster.end(2, signal.SIGKILL)
    monkeypatch.setattr(accounts, "clock", lambda: clock()._replace(wall_us=clock().wall_us - behind_s * 1_000_000))
    async with cluster.decider() as decider:
        told = await decider.revoke(CHANNEL, {cluster.users["evil"].text: now_s() - 5}, cluster.names)
    assert told == {"s0", "s1"}
    cluster.start(2)
    for address in reversed(cluster.addresses):
        await until_async(lambda address=address: refused_at(cluster.login("evil"), address), "it is refused everywhere")
    cluster.enrol("good")
    assert not await refused_at(cluster.login("good"), cluster.addresses[2])


@asynchronous
async def test_a_server_that_was_not_told_of_an_account_asks_the_others(cluster: Cluster) -> None:
    """Told to one server alone, an account is known to all."""
    async with cluster.decider() as decider:

        async def told() -> bool:
            with contextlib.suppress(Unreachable):
                return bool(await decider.revoke(CHANNEL, {}, frozenset({"s0"})))
            return False

        await until_async(told, "one server is told")
    participants = spread(cluster, "one", "other", "third")
    await all_hear(participants, "seen.all")
    for participant in participants:
        await participant.close()


@pytest.mark.parametrize("who", ["nobody", "stranger", "member"])
@asynchronous
async def test_a_strangers_server_does_not_join(cluster: Cluster, who: str) -> None:
    """The servers' own port speaks with nobody but who has a certificate of the cloud's authority."""
    await cluster.open()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=cluster.certificate)
    if who != "nobody":
        signer = cluster.certificates if who == "member" else CertificateAuthority(random_bytes(32), CLOUD)
        leaf = signer.leaf(random_bytes(32), ["127.0.0.1"], now_s=now_s(), lifetime_s=3600)
        (cluster.folder / "own.pem").write_bytes(leaf.certificate + leaf.key)
        context.load_cert_chain(cluster.folder / "own.pem")
    said = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.servers[0].cluster_port, ssl=context)
        writer.write(b'CONNECT {"verbose":false,"name":"evil"}\r\nPING\r\n')
        said = await asyncio.wait_for(reader.read(4096), 10)
        writer.close()
    assert said[:5] == (b"INFO " if who == "member" else b"")
    participants = spread(cluster, "one", "other", "third")
    await all_hear(participants, "seen.all")
    for participant in participants:
        await participant.close()
