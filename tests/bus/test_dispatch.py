"""Every stage between bytes and handler refuses what it is there to refuse, with its own code and counter, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import msgspec
import pytest
import structlog

from bus import dispatch, opening
from bus.envelope import MESSAGE, Behalf, Statement
from bus.messages import Asker, Reply, Role
from bus.stages import STAGES
from enjin import host
from enjin.canonical import canonical
from enjin.host import Clock as Clock0
from keys.frame import GRANT, Signature, join, open_frame, seal
from keys.signing import Signer
from tests.bus.parties import CHANNEL, DOMAIN, HOUR, NODE, PATH, Burn, Clock, Cloud, Colours, Paint, Saw, seed
from tests.bus.waiting import asynchronous

SUBJECT = "command.app.paint"


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def statement(cloud: Cloud, /, **changes: object) -> Statement:
    """Return a good statement of the operator's, with *changes*."""
    fields: dict[str, object] = {
        "cloud": str(cloud.trust.cloud), "channel": CHANNEL, "kind": SUBJECT, "iss": "operator", "aud": NODE, "time": cloud.clock(),
        "ttl_ms": 30_000, "grant": cloud.operator.grant, "rid": cloud.rid(), "body": msgspec.Raw(canonical(Paint(app="hello"))),
    }  # fmt: skip
    return Statement(**(fields | changes))  # type: ignore[arg-type]


def sealed(cloud: Cloud, /, **changes: object) -> bytes:
    """Return the frame of ``statement``, signed with the operator's key."""
    return seal(MESSAGE, canonical(statement(cloud, **changes)), cloud.operator.keyring.message)


def daemon_sealed(cloud: Cloud, /, **changes: object) -> bytes:
    """Return a frame of the ring 1 daemon's own, with boot and sequence."""
    own = {"iss": NODE, "grant": cloud.daemon.grant, "boot": "a" * 32, "seq": 7}
    return seal(MESSAGE, canonical(statement(cloud, **(own | changes))), cloud.daemon.keyring.message)


def handle(cloud: Cloud, frame: bytes, subject: str = SUBJECT, channel: str = CHANNEL, door: str = "bus") -> Reply | None:
    """Take *frame* through the stages."""
    answered = asyncio.run(cloud.dispatcher.handle(frame, channel=channel, subject=subject, door=door))
    return answered.reply if answered else None


def raw(cloud: Cloud, payload: bytes) -> bytes:
    """Return a frame whose payload is *payload*, well signed."""
    return seal(MESSAGE, payload, cloud.operator.keyring.message)


def altered(cloud: Cloud, change: Callable[[bytes], bytes]) -> bytes:
    """Return a frame with a changed payload, well signed."""
    return raw(cloud, change(canonical(statement(cloud))))


def other_signature(cloud: Cloud) -> bytes:
    """Return the operator's frame with the tenant's signature under the operator's key id."""
    frame = open_frame(sealed(cloud))
    signature = cloud.tenant.keyring.message.sign(frame.type, frame.payload)
    return join(frame.type, frame.payload, [Signature(frame.key_id, signature)])


def shifted_s(frame: bytes) -> bytes:
    """Return *frame* with S + L in its signature: the same curve equation, a second spelling."""
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(frame[-32:], "little") + order
    return frame[:-32] + s.to_bytes(32, "little")


def expired(cloud: Cloud) -> bytes:
    cloud.clock.time += 25 * HOUR
    return sealed(cloud)


def revoked(cloud: Cloud) -> bytes:
    cloud.trust.revoke(str(cloud.operator.keyring.message.key_id))
    return sealed(cloud)


def ancestor_revoked(cloud: Cloud) -> bytes:
    cloud.trust.revoke(cloud.ring0.grant)
    return sealed(cloud)


def by_tenant(cloud: Cloud, /, **changes: object) -> bytes:
    own = {"iss": "tenant", "grant": cloud.tenant.grant}
    return seal(MESSAGE, canonical(statement(cloud, **(own | changes))), cloud.tenant.keyring.message)


def by_stranger(cloud: Cloud) -> bytes:
    return seal(MESSAGE, canonical(statement(cloud)), Signer.from_seed(seed("stranger")))


BAD: dict[str, tuple[str, Callable[[Cloud], bytes]]] = {
    "one byte too many": ("size", lambda c: sealed(c) + b"\0" * 70_000),
    "empty": ("frame", lambda c: b""),
    "garbage": ("frame", lambda c: b"\xff" * 400),
    "trailing byte": ("frame", lambda c: sealed(c) + b"\0"),
    "cut short": ("frame", lambda c: sealed(c)[:-1]),
    "unknown payload type": ("frame", lambda c: seal("application/json", canonical(statement(c)), c.operator.keyring.message)),
    "two signatures": ("frame", lambda c: seal(MESSAGE, canonical(statement(c)), c.operator.keyring.message, c.tenant.keyring.message)),
    "a grant as a message": ("kind", lambda c: seal(GRANT, canonical(statement(c)), c.operator.keyring.message)),
    "a stranger's key": ("key", by_stranger),
    "another's signature": ("signature", other_signature),
    "type swapped under the signature": ("kind", lambda c: type_swapped(c)),
    "S plus the group's order": ("signature", lambda c: shifted_s(sealed(c))),
    "spaces": ("canonical", lambda c: altered(c, lambda p: p.replace(b'":', b'": '))),
    "other key order": ("canonical", lambda c: altered(c, lambda p: b'{"ttl_ms":30000,' + p[1:].replace(b',"ttl_ms":30000', b""))),
    "escaped letters": ("canonical", lambda c: altered(c, lambda p: p.replace(b"operator", b"oper\\u0061tor"))),
    "duplicate key": ("canonical", lambda c: altered(c, lambda p: p[:-1] + b',"ttl_ms":1}')),
    "unknown field": ("canonical", lambda c: altered(c, lambda p: p[:-1] + b',"zzz":1}')),
    "not a number": ("canonical", lambda c: altered(c, lambda p: p.replace(b'"ttl_ms":30000', b'"ttl_ms":NaN'))),
    "a float": ("canonical", lambda c: altered(c, lambda p: p.replace(b'"ttl_ms":30000', b'"ttl_ms":30000.0'))),
    "lone surrogate": ("canonical", lambda c: altered(c, lambda p: p.replace(b"operator", b"\\ud800"))),
    "deep nesting": ("canonical", lambda c: altered(c, lambda p: p.replace(b'{"app":"hello"}', b"[" * 20_000 + b"]" * 20_000))),
    "not JSON": ("canonical", lambda c: raw(c, b"\x80\x81")),
    "version 2": ("canonical", lambda c: altered(c, lambda p: p[:-1] + b',"v":2}')),
    "no request id": ("canonical", lambda c: sealed(c, rid="1")),
    "bad boot id": ("canonical", lambda c: sealed(c, boot="x", seq=1)),
    "sequence without boot": ("canonical", lambda c: sealed(c, seq=3)),
    "endless reason": ("canonical", lambda c: sealed(c, reason="x" * 501)),
    "a body of another shape": ("canonical", lambda c: sealed(c, body=msgspec.Raw(b'{"app":1}'))),
    "a body with one field more": ("canonical", lambda c: sealed(c, body=msgspec.Raw(b'{"app":"hello","z":1}'))),
    "a body with spaces": ("canonical", lambda c: sealed(c, body=msgspec.Raw(b'{"app": "hello"}'))),
    "another cloud": ("cloud", lambda c: sealed(c, cloud="0" * 64)),
    "another channel": ("channel", lambda c: sealed(c, channel="ring0")),
    "another receiver": ("audience", lambda c: sealed(c, aud="n-0000000000000002")),
    "no receiver": ("audience", lambda c: sealed(c, aud="")),
    "another subject": ("subject", lambda c: sealed(c, kind="command.node.burn")),
    "expired grant": ("grant", expired),
    "revoked key": ("grant", revoked),
    "revoked ancestor": ("grant", ancestor_revoked),
    "unknown grant": ("grant", lambda c: sealed(c, grant="0" * 64)),
    "another's grant": ("grant", lambda c: sealed(c, grant=c.tenant.grant)),
    "another's name": ("grant", lambda c: sealed(c, iss=NODE)),
    "a tenant in another compartment": ("permission", lambda c: by_tenant(c, body=msgspec.Raw(canonical(Paint(app="other"))))),
    "speaking for an account": ("permission", lambda c: sealed(c, behalf=Behalf(account="alice", token="t-1", door="http"))),
    "three seconds in the future": ("freshness", lambda c: sealed(c, time=c.clock.time + 3_000_000)),
    "older than its life": ("freshness", lambda c: sealed(c, time=c.clock.time - 33_000_000)),
    "a life over the cap": ("freshness", lambda c: sealed(c, ttl_ms=60_001)),
    "no life": ("freshness", lambda c: sealed(c, ttl_ms=0)),
    "negative life": ("freshness", lambda c: sealed(c, ttl_ms=-1)),
    "negative time": ("freshness", lambda c: sealed(c, time=-1)),
    "from before this start": ("freshness", lambda c: daemon_sealed(c, time=c.clock.time - 10_000_000)),
    "sequence 2^63": ("sequence", lambda c: daemon_sealed(c, seq=(1 << 63) - 1)),
    "sequence 0": ("sequence", lambda c: daemon_sealed(c, seq=0)),
}  # fmt: skip


def type_swapped(cloud: Cloud) -> bytes:
    """Return the operator's frame with another known payload type around the same payload and signature."""
    frame = open_frame(sealed(cloud))
    return join(GRANT, frame.payload, frame.signatures)


UNVERIFIED = {"size", "frame", "kind", "key", "signature", "cloud", "channel", "audience", "subject", "grant"}


@pytest.mark.parametrize("name", BAD)
def test_each_stage_refuses_with_its_own_code(cloud: Cloud, name: str) -> None:
    """The stage's counter rises by one, it is logged with its code, nothing is decided, and the valid twin passes after it."""
    stage, make = BAD[name]
    before = cloud.state()
    frame = make(cloud)
    with structlog.testing.capture_logs() as logs:
        reply = handle(cloud, frame)
    code = next(error.code for error in STAGES if error.stage == stage)
    assert {stage: 1} == dict(cloud.dispatcher.counters)
    assert [(stage, code)] == [(line["stage"], line["code"]) for line in logs if line["event"] == "message.refused"]
    assert before == cloud.state()
    if stage in UNVERIFIED or name in BEFORE_BODY:
        assert reply is None
    elif reply is not None:
        assert (False, code) == (reply.ok, reply.code)
    if name not in ENDS_TRUST:
        assert handle(cloud, sealed(cloud)) is not None
        assert before[0] + 1 == cloud.journal.head


ENDS_TRUST = {"expired grant", "revoked key", "revoked ancestor"}
BEFORE_BODY = {name for name, (stage, _) in BAD.items() if stage == "canonical" and not name.startswith("a body")}


def test_n01_every_bit_counts(cloud: Cloud) -> None:
    """One bit flipped at any byte of the frame: never accepted, never an answer."""
    frame = sealed(cloud)
    for at in range(len(frame)):
        changed = bytearray(frame)
        changed[at] ^= 1 << at % 8
        assert handle(cloud, bytes(changed)) is None, f"byte {at}"
    assert cloud.state() == (0, 0)
    assert len(frame) == sum(cloud.dispatcher.counters.values())
    reply = handle(cloud, frame)
    assert reply is not None
    assert reply.ok


@pytest.mark.parametrize("subject", ["reply.0123456789abcdef", "entry", "beacon", "commands.app.paint", "revocation"])
def test_kinds_that_are_not_taken_here(cloud: Cloud, subject: str) -> None:
    """A dispatcher takes commands, queries and observations; a reply or an entry is refused before its key is looked up."""
    assert handle(cloud, sealed(cloud, kind=subject), subject) is None
    assert dict(cloud.dispatcher.counters) == {"kind": 1}
    assert handle(cloud, sealed(cloud, kind=subject), "") is None
    assert dict(cloud.dispatcher.counters) == {"kind": 2}


@pytest.mark.parametrize("kind", ["app.__class__", "app.unknown", "dispatcher.handle", "x" * 64])
def test_a_name_that_is_not_in_the_table_reaches_nothing(cloud: Cloud, kind: str) -> None:
    """There is one closed table; a verified asker is told so."""
    reply = handle(cloud, sealed(cloud, kind=f"command.{kind.replace('__', '-')}"), f"command.{kind.replace('__', '-')}")
    assert reply is not None
    assert (reply.ok, reply.code) == (False, "E-BUS-004")
    assert cloud.state() == (0, 0)


def test_another_channel_than_the_frames(cloud: Cloud) -> None:
    """What is signed for this channel but arrives on another is refused."""
    assert handle(cloud, sealed(cloud), channel="ring0") is None
    assert dict(cloud.dispatcher.counters) == {"channel": 1}


def test_a_grant_must_name_the_channel(cloud: Cloud) -> None:
    """A good key whose grant does not name this channel, or a family of it, does not speak here."""
    cloud.daemon = cloud._enrol("elsewhere", 1, 0, f"{PATH}/default", (), cloud.daemon, role=1)
    reply = handle(
        cloud, seal(MESSAGE, canonical(statement(cloud, iss="elsewhere", grant=cloud.daemon.grant)), cloud.daemon.keyring.message)
    )
    assert reply is None
    assert dict(cloud.dispatcher.counters) == {"grant": 1}


def test_a_commands_answer_is_signed_and_bound(cloud: Cloud) -> None:
    """The answer names the request's hash, is for the asker alone, and is signed by the daemon."""
    frame = sealed(cloud)
    answered = asyncio.run(cloud.dispatcher.handle(frame, channel=CHANNEL, subject=SUBJECT))
    assert answered is not None
    answer = msgspec.json.decode(open_frame(answered.frame).payload)
    assert open_frame(frame).digest == answer["re"]
    assert ("operator", NODE, answered.subject) == (answer["aud"], answer["iss"], answer["kind"])
    assert cloud.daemon.keyring.message.key_id == open_frame(answered.frame).key_id
    assert "reply." + answer["rid"].replace("-", "")[:16] == answered.subject


def test_the_same_request_again_gives_the_stored_answer(cloud: Cloud) -> None:
    """A person's exact frame, or the same request sealed anew, takes effect once; another body is a conflict."""
    rid = cloud.rid()
    first = handle(cloud, frame := sealed(cloud, rid=rid))
    again = handle(cloud, frame)
    anew = handle(cloud, sealed(cloud, rid=rid))
    assert first is not None
    assert (first.ok, first.repeated) == (True, False)
    for reply in (again, anew):
        assert reply is not None
        assert (True, True, first.number, first.result) == (reply.ok, reply.repeated, reply.number, reply.result)
    conflict = handle(cloud, sealed(cloud, rid=rid, body=msgspec.Raw(canonical(Paint(app="hello", colour="blue")))))
    assert conflict is not None
    assert (conflict.ok, conflict.code) == (False, "E-ENJ-005")
    assert cloud.journal.head == 1


def test_n07_a_daemons_exact_replay_is_refused_in_silence(cloud: Cloud) -> None:
    """A repeated sequence number is refused, and gets no second answer that would race with the first one's."""
    frame = daemon_sealed(cloud)
    assert handle(cloud, frame) is not None
    assert handle(cloud, frame) is None
    assert handle(cloud, daemon_sealed(cloud, seq=7)) is None
    assert cloud.dispatcher.counters["sequence"] == 2
    assert cloud.journal.head == 1
    assert handle(cloud, daemon_sealed(cloud, seq=8)) is not None


def test_n08_an_old_boot_after_a_new_one_is_refused(cloud: Cloud) -> None:
    """A daemon's earlier start is fenced as soon as a later one has spoken."""
    assert handle(cloud, daemon_sealed(cloud, boot="a" * 32)) is not None
    late = daemon_sealed(cloud, boot="c" * 32)
    assert handle(cloud, daemon_sealed(cloud, boot="b" * 32)) is not None
    for frame in (daemon_sealed(cloud, boot="a" * 32, seq=9), late):
        reply = handle(cloud, frame)
        assert reply is not None
        assert (reply.ok, reply.code) == (False, "E-BUS-016")
    assert cloud.dispatcher.counters["boot"] == 2
    assert handle(cloud, daemon_sealed(cloud, boot="b" * 32, seq=8)) is not None


def test_n07_after_a_restart_nothing_old_is_taken(cloud: Cloud) -> None:
    """A receiver that starts anew refuses what was signed before its start, however fresh it still is."""
    frame = daemon_sealed(cloud)
    cloud.dispatcher = cloud.make_dispatcher()
    reply = handle(cloud, frame)
    assert reply is not None
    assert reply.code == "E-BUS-014"
    assert cloud.journal.head == 0


def test_a_persons_query_is_taken_once(cloud: Cloud) -> None:
    """A query has no idempotency row; its digest is its guard."""
    frame = sealed(cloud, kind="query.app.colours", body=msgspec.Raw(canonical(Colours())))
    first = handle(cloud, frame, "query.app.colours")
    assert first is not None
    assert json.loads(bytes(first.result)) == {"asker": "operator", "app": "", "limit": 10, "tags": []}
    assert handle(cloud, frame, "query.app.colours") is None
    assert cloud.dispatcher.counters["sequence"] == 1
    again = handle(cloud, frame, "query.app.colours", door="http")
    assert again is not None
    assert again.code == "E-BUS-015"


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_n10_a_wall_clock_an_hour_off_changes_nothing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, skew_s: int) -> None:
    """Freshness and expiry follow cloud time alone."""
    real = host.clock
    monkeypatch.setattr(host, "clock", lambda: real()._replace(wall_us=real().wall_us + skew_s * 1_000_000))
    assert handle(cloud, sealed(cloud)) is not None
    assert handle(cloud, expired(cloud)) is None
    assert cloud.dispatcher.counters["grant"] == 1


def test_the_role_is_checked_beside_the_grant(cloud: Cloud) -> None:
    """A tenant whose grant covers ``node`` still may not do what takes an operator; the operator may."""
    body = msgspec.Raw(canonical(Burn(node="n-1")))
    reply = handle(cloud, by_tenant(cloud, kind="command.node.burn", body=body), "command.node.burn")
    assert reply is not None
    assert (reply.ok, reply.code) == (False, "E-BUS-013")
    assert cloud.journal.head == 0
    twin = handle(cloud, sealed(cloud, kind="command.node.burn", body=body), "command.node.burn")
    assert twin is not None
    assert twin.code != "E-BUS-013"


def test_what_a_row_refuses_to_locate_has_its_own_code(cloud: Cloud) -> None:
    """There is no such app: the asker hears that, not that it lacks a permission."""
    reply = handle(cloud, sealed(cloud, body=msgspec.Raw(canonical(Paint(app="xyz")))))
    assert reply is not None
    assert (reply.ok, reply.code) == (False, "E-ENJ-003")
    assert cloud.journal.head == 0


def test_our_own_door_speaks_for_an_account_and_only_for_what_it_may(cloud: Cloud) -> None:
    """The account counts, never the door: the daemon's own grant does not widen what a token may do."""
    own = Behalf(account="alice", token="t-1", door="http")
    good = handle(cloud, daemon_sealed(cloud, behalf=own))
    assert good is not None
    assert good.ok
    asker = cloud.journal.entries[0][1].asker
    assert (asker.id, asker.token, asker.door, asker.role) == ("alice", "t-1", "http", Role.TENANT)
    body = msgspec.Raw(canonical(Paint(app="other")))
    elsewhere = handle(cloud, daemon_sealed(cloud, seq=8, behalf=own, body=body))
    unknown = handle(cloud, daemon_sealed(cloud, seq=9, behalf=Behalf(account="alice", token="t-2", door="http")))
    stolen = handle(cloud, daemon_sealed(cloud, seq=10, behalf=Behalf(account="bob", token="t-1", door="http")))
    cloud.tokens["t-1"] = Asker(id="alice", role=Role.TENANT, token="t-1")
    nowhere = handle(cloud, daemon_sealed(cloud, seq=11, behalf=own))
    for reply in (elsewhere, unknown, stolen, nowhere):
        assert reply is not None
        assert (reply.ok, reply.code) == (False, "E-BUS-013")
    assert cloud.journal.head == 1


def test_an_observation_reaches_its_handler_once_and_gets_no_answer(cloud: Cloud) -> None:
    """The agent's frame is handed over with what was verified about it."""
    speaker = cloud.speaker_of(cloud.agent, daemon=True)
    frame = speaker.seal("seen.instance.seen", Saw(instance="i-1"), audience=DOMAIN)
    for _ in range(2):
        assert handle(cloud, frame, "seen.instance.seen") is None
    assert [seen.kind for seen in cloud.observed] == ["instance.seen"]
    assert cloud.agent.subject == cloud.observed[0].opened.authority.grant.subject
    assert dict(cloud.dispatcher.counters) == {"passed": 1, "records": 1, "handled": 1, "sequence": 1}


def test_a_flood_of_garbage_costs_its_connection_alone(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is malformed costs the same as what is not; another connection is not slowed by it."""
    monkeypatch.setattr(opening, "host_clock", lambda: Clock0(0, 0))
    monkeypatch.setattr(dispatch, "host_clock", lambda: Clock0(0, 0))

    async def flood() -> None:
        for _ in range(opening.CONNECTION_BURST):
            assert await cloud.dispatcher.handle(b"garbage", channel=CHANNEL, connection="pipe:1") is None

    with structlog.testing.capture_logs() as logs:
        asyncio.run(flood())
        good = asyncio.run(cloud.dispatcher.handle(sealed(cloud), channel=CHANNEL, subject=SUBJECT, connection="pipe:1"))
    assert good is None
    assert dict(cloud.dispatcher.counters) == {"frame": opening.CONNECTION_BURST, "rate": 1}
    assert len(logs) == dispatch.LOGGED_BURST + 1
    assert handle(cloud, sealed(cloud)) is not None


@asynchronous
async def test_a_handlers_defect_is_told_without_its_text() -> None:
    """A handler that raises something unforeseen answers with a code and no detail of ours."""
    cloud = Cloud()

    async def broken(*_: object) -> Reply:
        raise RuntimeError("secret path /var/lib/enjin")

    cloud.dispatcher.handlers = cloud.dispatcher.handlers._replace(decide=broken)
    answered = await cloud.dispatcher.handle(sealed(cloud), channel=CHANNEL, subject=SUBJECT)
    assert answered is not None
    assert (answered.reply.ok, answered.reply.code) == (False, "E-ENJ-009")
    assert "secret" not in answered.reply.message
    assert cloud.dispatcher.counters["defect"] == 1


def test_clock_is_cloud_time() -> None:
    """The test's clock moves only when looked at."""
    clock = Clock()
    assert clock() + 1 == clock()
