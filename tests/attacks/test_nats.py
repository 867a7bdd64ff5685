"""Strangers, revoked users, foreign accounts and rogue servers on the NATS bus: refused, cut, told nothing, and the enrolled go on."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bus.over_nats import participant
from bus.over_nats.accounts import Accounts
from bus.over_nats.link import Link, Login
from bus.over_nats.participant import NatsTransport, NotHeard
from bus.over_nats.program import ServerRefused, check_version, find_server
from bus.over_nats.server import configuration
from bus.transport import TransportFull
from enjin.errors import Unreachable
from enjin.host import random_bytes
from keys.certificates import CertificateAuthority
from keys.frame import MESSAGE
from keys.nats_claims import EVERYBODY, Subjects, user_token
from keys.nats_keys import IssuingKey, Kind, NatsAuthority, UserKey
from keys.signing import BadSignature, Signer, pae, verify, verify_raw
from tests.bus.nats_servers import CHANNEL, CLOUD, EVERYTHING, Cluster, now_s, running_cluster
from tests.bus.waiting import asynchronous, until, until_async


@pytest.fixture
def cluster(home: Path) -> Iterator[Cluster]:
    """One server."""
    with running_cluster(home) as running:
        yield running


async def echo(one: NatsTransport, other: NatsTransport, word: str = "seen.probe") -> None:
    """Return when what *one* publishes reaches *other*."""
    heard: list[bytes] = []
    await other.subscribe(word, lambda _subject, frame: heard.append(frame))

    async def arrived() -> bool:
        await one.publish(word, b"probe")
        return bool(heard)

    await until_async(arrived, "the enrolled are heard")


async def let_in(login: Login) -> str:
    """Try to log in with *login*; return why not, or nothing."""
    heard: list[bytes] = []
    try:
        link = await Link.open(login, login.servers[0], "somebody", lambda _pattern, _subject, frame: heard.append(frame))
    except Unreachable as error:
        return error.message
    try:
        await link.settle()
    except Unreachable as error:
        return error.message
    finally:
        await link.close()
    return ""


def own_account(cluster: Cluster, key: UserKey) -> str:
    return user_token(IssuingKey(Kind.ACCOUNT, random_bytes(32)), key.public, "evil", EVERYTHING, issued_s=now_s())


def own_cloud(cluster: Cluster, key: UserKey) -> str:
    return user_token(NatsAuthority(random_bytes(32)).account(CHANNEL), key.public, "evil", EVERYTHING, issued_s=now_s())


def from_operator(cluster: Cluster, key: UserKey) -> str:
    return user_token(cluster.authority.operator, key.public, "evil", EVERYTHING, issued_s=now_s())


def of_another(cluster: Cluster, key: UserKey) -> str:
    return cluster.tokens["one"]


def expired(cluster: Cluster, key: UserKey) -> str:
    account = cluster.authority.account(CHANNEL)
    return user_token(account, key.public, "evil", EVERYTHING, issued_s=now_s() - 10, expires_s=now_s() - 5)


def widened(cluster: Cluster, key: UserKey) -> str:
    """A token of ours with other claims under the old signature."""
    token = user_token(cluster.authority.account(CHANNEL), key.public, "evil", Subjects(), issued_s=now_s())
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["nats"]["pub"] = claims["nats"]["sub"] = {}
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.{signature}"


STRANGERS: tuple[Callable[[Cluster, UserKey], str], ...] = (own_account, own_cloud, from_operator, of_another, expired, widened)


@pytest.mark.parametrize("make", [*STRANGERS, lambda _cluster, _key: ""], ids=[*(make.__name__ for make in STRANGERS), "none"])
@asynchronous
async def test_strangers_do_not_log_in(cluster: Cluster, make: Callable[[Cluster, UserKey], str]) -> None:
    """A token of nobody, of oneself, of another key, out of time, changed or missing: no login; the enrolled go on."""
    await cluster.open()
    one, other = cluster.connect("one"), cluster.connect("other")
    await echo(one, other)
    evil = UserKey(random_bytes(32))
    token = make(cluster, evil)
    assert "does not let us in" in await let_in(Login(cluster.addresses, cluster.certificate, evil, lambda: token))
    assert await let_in(cluster.login("one")) == ""
    await echo(one, other, "seen.after")
    await one.close()
    await other.close()


@asynchronous
async def test_a_server_of_another_authority_is_not_spoken_to(cluster: Cluster) -> None:
    """A client that pins its cloud's certificate authority hands neither token nor signature to anybody else's server."""
    await cluster.open()
    cluster.enrol("one")
    foreign = CertificateAuthority(random_bytes(32), CLOUD).certificate.decode()
    assert "CERTIFICATE_VERIFY_FAILED" in await let_in(cluster.login("one")._replace(authority=foreign))


@asynchronous
async def test_without_tls_a_server_says_nothing(cluster: Cluster) -> None:
    """Whoever does not begin with TLS learns neither version nor name nor nonce, and is shown the door."""
    await cluster.open()
    for hello in (b"", b'CONNECT {"verbose":false}\r\nPING\r\n', b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096):
        reader, writer = await asyncio.open_connection(cluster.servers[0].host, cluster.servers[0].port)
        writer.write(hello)
        with contextlib.suppress(ConnectionError):
            said = await asyncio.wait_for(reader.read(4096), 10)
            assert b"INFO" not in said and b"PONG" not in said
        writer.close()
    assert cluster.processes[0].poll() is None


@asynchronous
async def test_an_account_hears_nothing_of_another(cluster: Cluster) -> None:
    """A channel is an account: what is published in one does not reach the other, whatever a user subscribes to."""
    await cluster.open("ring0", "ring1.n-0")
    cluster.enrol("inner", channel="ring1.n-0")
    one, other, inner = cluster.connect("one"), cluster.connect("other"), cluster.connect("inner")
    overheard: list[str] = []
    heard: list[str] = []
    await inner.subscribe("", lambda subject, _frame: overheard.append(subject))
    await other.subscribe("", lambda subject, _frame: heard.append(subject))
    await one.publish("seen.secret", b"")
    await inner.publish("seen.evil", b"")
    await until(lambda: "seen.secret" in heard and "seen.evil" in overheard, "each hears its own")
    await echo(one, other, "seen.end")
    assert "seen.evil" not in heard
    assert overheard == ["seen.evil"]
    for transport in (one, other, inner):
        await transport.close()


@asynchronous
async def test_beyond_its_subjects_a_user_is_not_heard(cluster: Cluster) -> None:
    """What its token does not name goes nowhere and is counted; what it names arrives."""
    await cluster.open()
    cluster.enrol("narrow", Subjects(("seen.instance.>",), ("reply.>",)))
    narrow, other = cluster.connect("narrow"), cluster.connect("other")
    heard: list[str] = []
    await other.subscribe("", lambda subject, _frame: heard.append(subject))
    for subject in ("command.key.revoke", "seen.instance", "seen.beacon", "seen.instance.ready"):
        await narrow.publish(subject, b"")
    await until(lambda: heard, "what it may say")
    await until(lambda: narrow.counters["refused"] == 3, "what it may not say is counted")
    assert heard == ["seen.instance.ready"]
    with pytest.raises(NotHeard):
        await narrow.subscribe("command", lambda _subject, _frame: None)
    await narrow.close()
    await other.close()


@asynchronous
async def test_a_user_reaches_no_system_subject(cluster: Cluster) -> None:
    """Even a user that may publish and hear everything in its account cannot ask a server for anything, nor push accounts."""
    await cluster.open()
    cluster.enrol("evil")
    answers: list[bytes] = []
    link = await Link.open(cluster.login("evil"), cluster.addresses[0], "evil", lambda _p, _s, data: answers.append(data))
    await link.listen("answer.>")
    await link.settle()
    account = cluster.authority.account(CHANNEL).text
    for subject in ("$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.DELETE", "$SYS.REQ.CLAIMS.LIST",
                    f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP", "$JS.API.INFO", "$JS.API.STREAM.CREATE.X"):  # fmt: skip
        await link.publish(subject, b"{}", "answer.evil")
    await link.publish("answer.mine", b"mine")
    await until(lambda: b"mine" in answers, "its own word")
    await link.settle()
    assert [answer for answer in answers if answer not in (b"", b"mine")] == []
    await link.close()


@pytest.mark.parametrize("how", ["key", "everybody"])
@asynchronous
async def test_n32_a_revoked_user_is_cut_and_its_old_token_refused(cluster: Cluster, how: str) -> None:
    """N32: revoked by key or with everybody: the live session ends, the old token is refused, a new one is let in; others go on."""
    await cluster.open()
    for name in ("one", "other", "evil"):
        cluster.enrol(name, issued_s=now_s() - 10)
    evil, other = cluster.connect("evil"), cluster.connect("other")
    await echo(evil, other, "seen.before")
    session = await Link.open(cluster.login("evil"), cluster.addresses[0], "evil", lambda _pattern, _subject, _frame: None)
    assert await let_in(cluster.login("evil")) == ""
    moment = now_s() - 5
    if how == "everybody":
        for name in ("one", "other"):
            cluster.enrol(name)
    await cluster.revoke({cluster.users["evil"].text if how == "key" else EVERYBODY: moment})
    await until(session.lost.is_set, "the live session is cut")
    assert "does not let us in" in await let_in(cluster.login("evil"))
    heard: list[bytes] = []
    one = cluster.connect("one")
    await other.subscribe("seen.after", lambda _subject, frame: heard.append(frame))
    for number in range(20):
        await evil.publish("seen.after", b"evil")
        await one.publish("seen.after", b"good %d" % number)
    await until(lambda: b"good 19" in heard, "the enrolled go on")
    assert b"evil" not in heard
    cluster.end(0)
    cluster.start(0)  # what it was told is on its disk
    await until_async(lambda: is_let_in(cluster, "one"), "the server is back")
    assert "does not let us in" in await let_in(cluster.login("evil"))
    cluster.enrol("evil")
    await echo(evil, other, "seen.again")
    for transport in (one, other, evil):
        await transport.close()
    await session.close()


async def is_let_in(cluster: Cluster, name: str) -> bool:
    return await let_in(cluster.login(name)) == ""


@asynchronous
async def test_only_the_decider_speaks_for_the_accounts(cluster: Cluster) -> None:
    """The system account lets in its own user alone: a channel's user and another authority's decider are refused."""
    await cluster.open()
    for authority in (NatsAuthority(random_bytes(32)),):
        accounts = Accounts(cluster.addresses, cluster.certificate, authority)
        with pytest.raises(Unreachable):
            await accounts.revoke(CHANNEL, {}, cluster.names)
        await accounts.close()
    key = UserKey(random_bytes(32))
    token = user_token(cluster.authority.account(CHANNEL), key.public, "evil", EVERYTHING, issued_s=now_s())
    assert await let_in(Login(cluster.addresses, cluster.certificate, key, lambda: token)) == ""


@contextlib.asynccontextmanager
async def rogue_server(folder: Path, cluster: Cluster, nonce: str):
    """A server with the cloud's own certificate that hands out *nonce*; gives its address and what clients said to it."""
    said: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "N", "version": "2.15.1", "proto": 1, "auth_required": True, "tls_required": True, "nonce": nonce,
                "max_payload": 1 << 20, "headers": True}  # fmt: skip
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                said.append(line)
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own = cluster.servers[0].directory
    context.load_cert_chain(own / "server.pem", own / "server.key")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", said
    finally:
        server.close()


@asynchronous
async def test_n78_a_rogue_server_gets_no_signature_over_a_message(cluster: Cluster, home: Path) -> None:
    """N78: a server that is broken into sends the PAE text of a wish as its nonce: it gets no token and no signature."""
    cluster.enrol("one")
    wish = pae(MESSAGE, b'{"body":{},"kind":"command.key.revoke"}').decode()
    async with rogue_server(home, cluster, wish) as (address, said):
        assert "no nonce" in await let_in(cluster.login("one", address))
        assert said == []


@asynchronous
async def test_n78_what_a_rogue_server_gets_is_of_no_use(cluster: Cluster, home: Path) -> None:
    """N78: the answer to a real nonce is a signature of the login key over that nonce, and verifies as nothing else."""
    cluster.enrol("one")
    message = Signer.from_seed(random_bytes(32))
    async with rogue_server(home, cluster, "AAAAAAAAAAAAAAA") as (address, said):
        attempt = asyncio.create_task(let_in(cluster.login("one", address)))
        await until(lambda: said, "the login")
        told = json.loads(said[0].removeprefix(b"CONNECT "))
        await attempt
    signature = base64.b64decode(told["sig"])
    verify_raw(cluster.users["one"].public, b"AAAAAAAAAAAAAAA", signature)
    for public in (cluster.users["one"].public, message.public):
        with pytest.raises(BadSignature):
            verify(public, MESSAGE, b"AAAAAAAAAAAAAAA", signature)


@pytest.mark.parametrize("said", ["nats-server: v2.9.10", "nats-server: v2.13.99", "nats-server: v2.14.0-RC.1", "nats-server: v1.99.0"])
def test_n79_a_server_below_the_floor_is_refused_by_name(said: str) -> None:
    """N79: older than 2.14.0, or a candidate of it: the refusal names the program, its version and the floor."""
    with pytest.raises(ServerRefused) as refused:
        check_version("/usr/sbin/nats-server", said)
    assert "/usr/sbin/nats-server" in refused.value.message
    assert said.removeprefix("nats-server: v") in refused.value.message
    assert ("E-BUS-121", "2.14.0") == (refused.value.code, refused.value.message.rpartition(" ")[2])


@pytest.mark.parametrize("said", ["nats-server: v2.14.0", "nats-server: v2.14.1-RC.1", "nats-server: v2.15.1\n", "nats-server: v3.0.0"])
def test_n79_a_server_at_the_floor_serves(said: str) -> None:
    """N79: the valid twin."""
    assert check_version("nats-server", said) >= (2, 14, 0)


def test_n79_what_is_found_is_asked_for_its_version(home: Path) -> None:
    """N79: the program beside the interpreter, else on PATH, is run and refused when it is old, mute, broken or absent."""
    assert find_server().name == "nats-server"
    for script in ("echo 'nats-server: v2.9.10'", "echo hello", "exit 1"):
        program = home / "nats-server"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(ServerRefused):
            find_server(str(home / "python"))
        with pytest.raises(ServerRefused):
            find_server("/nowhere/python", path=str(home))
    program.write_bytes(b"\x7fELF")
    with pytest.raises(ServerRefused):
        find_server(str(home / "python"))
    with pytest.raises(ServerRefused):
        find_server("/nowhere/python", path="/nowhere")


def test_a_server_listens_to_nobody_else(cluster: Cluster) -> None:
    """No monitoring, websocket, MQTT, leaf or gateway listener, no JetStream, no user without a token; its key is its own."""
    told = configuration(cluster.servers[0], cluster.authority, CLOUD)
    for word in ("http", "https", "http_port", "monitor_port", "websocket", "mqtt", "leafnodes", "gateway", "jetstream", "cluster",
                 "no_auth_user", "authorization", "accounts", "trusted_keys", "profile", "prof_port"):  # fmt: skip
        assert word not in told
    assert json.loads(cluster.servers[0].config.read_bytes()) == told
    for name in ("server.key", "nats-server.json"):
        assert (cluster.servers[0].directory / name).stat().st_mode & 0o077 == 0


@asynchronous
async def test_an_outbox_is_bounded_while_there_is_no_server(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing into nothing is refused at a bound, subscribing says that nobody answers, and closing does not hang."""
    cluster.enrol("alone")
    cluster.end(0)
    alone = cluster.connect("alone")
    with pytest.raises(TransportFull):
        for _ in range(200_000):
            await alone.publish("seen.x", b"")
    monkeypatch.setattr(participant, "SUBSCRIBE_DEADLINE_S", 0.3)
    with pytest.raises(Unreachable):
        await alone.subscribe("seen", lambda _subject, _frame: None)
    await asyncio.wait_for(alone.close(), 10)
