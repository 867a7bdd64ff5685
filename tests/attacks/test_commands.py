"""Forged, misdirected, stale, repeated and unauthorised commands at both rings of a real cloud, on both buses and through the HTTP door.

Every family has its valid twin (the same wish, properly signed, passes and moves the journal) and is refused at its own stage: the
daemon's counter of that stage goes up by exactly one, its log names the stage's code, and journal head and projection digest stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from bus import over_zmq
from bus.envelope import Behalf, seal_statement
from bus.messages import Command, Reply
from bus.over_zmq import ZmqTransport, curve_text
from bus.stages import (
    NoGrant,
    NotAllowed,
    NotFresh,
    NotStrict,
    Replayed,
    StageRefused,
    StrangeKey,
    WrongAudience,
    WrongChannel,
    WrongCloud,
    WrongKind,
    WrongSignature,
    WrongSubject,
)
from compartments.history import GetHead
from enjin.errors import EnjinError, Unreachable
from enjin.host import random_bytes
from keys.frame import GRANT, MESSAGE, join, open_frame, seal
from keys.keyring import KeyPair
from ring0.compartments import CreateCompartment
from ring0.keys import RevokeKey
from ring0.nodes import StopNode
from ring0.tiers import CreateTier
from ring1.accounts import CreateToken
from ring1.apps import Destroy, ListApps
from ring1.processes import Restart
from tests import cloud as clouds
from tests.attacks.voices import Party, Told, Voices
from tests.cloud import wait_for

SECOND_US = 1_000_000
NOT_ACCEPTED = "E-API-"


@pytest.fixture(scope="module")
def over_nats() -> Iterator[Voices]:
    """Everybody who could speak in a second cloud, whose rings speak over NATS."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with clouds.cloud("--ring1", "jail", "--bus", "nats") as made:
        made.push(clouds.ROOT / "examples" / "hello", "hello")
        with Voices(made) as everybody:
            yield everybody


@pytest.fixture(params=["zmq", "nats"])
def over(request: pytest.FixtureRequest) -> Voices:
    """Everybody, on each bus; the families on the memory transport are in `tests/bus`."""
    found: Voices = request.getfixturevalue("voices" if request.param == "zmq" else "over_nats")
    return found


@pytest.fixture(params=["zmq", "nats", "http"])
def way(request: pytest.FixtureRequest) -> tuple[Voices, str]:
    """Everybody, and by which way they come: each bus, and the HTTP door."""
    return request.getfixturevalue("over_nats" if request.param == "nats" else "voices"), request.param


def harmless(voices: Voices, ring: int) -> Command:
    """Return a wish that only the journal notices, another one at every call."""
    if ring == 0:
        return CreateTier(name=str(voices.fresh("tier")))
    return CreateToken(name=voices.fresh("attack"), secret_hash=random_bytes(32).hex())


def flip(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def retyped(frame: bytes) -> bytes:
    """The same payload and signature under another payload type."""
    parts = open_frame(frame)
    return join(GRANT, parts.payload, parts.signatures)


def signed_as_grant(voices: Voices, ring: int) -> bytes:
    """A payload that was signed as a grant, presented as a message."""
    payload = open_frame(voices.frame(ring, harmless(voices, ring))).payload
    parts = open_frame(seal(GRANT, payload, voices.operator.keyring.message))
    return join(MESSAGE, parts.payload, parts.signatures)


def respelled(voices: Voices, ring: int) -> bytes:
    """The same message with a space more, properly signed."""
    payload = open_frame(voices.frame(ring, harmless(voices, ring))).payload
    return seal(MESSAGE, payload.replace(b'"aud":', b'"aud": ', 1), voices.operator.keyring.message)


def shifted(seconds: int) -> Callable[[Voices, int], bytes]:
    def make(voices: Voices, ring: int) -> bytes:
        statement = voices.statement(ring, harmless(voices, ring))
        moved = msgspec.structs.replace(statement, time=statement.time + seconds * SECOND_US)
        return seal_statement(moved, voices.operator.keyring.message)

    return make


def with_fields(**changes: Any) -> Callable[[Voices, int], bytes]:
    return lambda voices, ring: voices.frame(ring, harmless(voices, ring), **changes)


def other_channel(voices: Voices, ring: int) -> bytes:
    return voices.frame(ring, harmless(voices, ring), channel=voices.channel(1 - ring))


def stolen(owner: str) -> Callable[[Voices, int], bytes]:
    def make(voices: Voices, ring: int) -> bytes:
        party: Party = getattr(voices, owner)()
        return voices.frame(ring, harmless(voices, ring), party)

    return make


def spoken_for(voices: Voices, ring: int) -> bytes:
    """The operator's key, claiming to be a door that speaks for somebody."""
    return voices.frame(ring, harmless(voices, ring), behalf=Behalf(account=voices.operator.subject, token="t-1", door="http"))


Make = Callable[[Voices, int], bytes]
CASES: dict[str, tuple[type[StageRefused], Make]] = {
    "signature": (WrongSignature, lambda voices, ring: flip(voices.frame(ring, harmless(voices, ring)), -1)),
    "payload": (WrongSignature, lambda voices, ring: flip(voices.frame(ring, harmless(voices, ring)), 100)),
    "payload type": (WrongKind, lambda voices, ring: retyped(voices.frame(ring, harmless(voices, ring)))),
    "signed as a grant": (WrongSignature, signed_as_grant),
    "another spelling": (NotStrict, respelled),
    "unknown signer": (StrangeKey, stolen("stranger")),
    "another cloud": (WrongCloud, with_fields(cloud="ab" * 32)),
    "another channel": (WrongChannel, other_channel),
    "another audience": (WrongAudience, with_fields(aud="n-00000000000000ff")),
    "another's grant": (NoGrant, lambda v, r: v.frame(r, harmless(v, r), v.operator._replace(grant=v.thief_of_ring0().grant))),
    "another's name": (NoGrant, lambda voices, ring: voices.frame(ring, harmless(voices, ring), iss=voices.ring0)),
    "for an account": (NotAllowed, spoken_for),
    "past": (NotFresh, shifted(-600)),
    "future": (NotFresh, shifted(60)),
    "too long a life": (NotFresh, with_fields(ttl_ms=3_600_000)),
}
HEARD = {"for an account", "past", "future", "too long a life"}  # the signer was verified, so it hears why


def check_refused(voices: Voices, ring: int, error: type[StageRefused], send: Callable[[], Told | None]) -> Told | None:
    """Check that what *send* does is refused at *error*'s stage and changes nothing; return the HTTP answer."""
    before, counted = voices.settled(ring), voices.counters(ring)
    logged = max((number for number, _ in voices.log(ring)), default=0)
    told = send()
    after = voices.wait_counter(ring, error.stage, counted.get(error.stage, 0))
    assert counted.get(error.stage, 0) + 1 == after[error.stage]
    refused = {stage for stage in after if after[stage] != counted.get(stage, 0)} - {"passed", "handled", "handler", "records"}
    assert {error.stage} == refused, "another stage counted too"
    lines = [line for _, line in voices.log(ring, logged) if "message.refused" in line]
    assert any(error.code in line and f'"{error.stage}"' in line for line in lines), (error.code, lines)
    assert before == voices.state(ring)
    return told


@pytest.mark.parametrize("ring", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_n01_a_wrong_command_is_refused_at_its_stage(way: tuple[Voices, str], case: str, ring: int) -> None:
    """N1 N2 N3 N9: signature, payload, type, spelling, signer, cloud, channel, audience, grant, age: each refused by its own stage."""
    error, make = CASES[case]
    voices, door = way
    frame = make(voices, ring)

    def send() -> Told | None:
        if door == "http":
            return voices.post(ring, frame)
        return voices.publish(ring, f"command.{harmless(voices, ring).KIND}", frame)

    told = check_refused(voices, ring, error, send)
    if told is not None:
        if case in HEARD:
            assert error.code in told.body.decode("latin-1")
        else:
            assert told.status in (400, 401)
            assert told.problem["code"].startswith(NOT_ACCEPTED)
            assert error.code not in told.body.decode()  # whoever was not verified hears nothing


@pytest.mark.parametrize("ring", [0, 1])
def test_the_valid_twin_passes(way: tuple[Voices, str], ring: int) -> None:
    """The same wish, properly signed, passes by each way and moves the journal by one."""
    voices, door = way
    before, counted = voices.settled(ring), voices.counters(ring)
    frame = voices.frame(ring, harmless(voices, ring))
    if door == "http":
        assert voices.post(ring, frame).status == 200
    else:
        voices.publish(ring, f"command.{harmless(voices, ring).KIND}", frame)
    wait_for(lambda: voices.state(ring).number > before.number, 30)
    assert voices.state(ring).number == before.number + 1
    after = voices.counters(ring)
    assert {stage: count for stage, count in after.items() if stage not in ("passed", "handled", "records")} == {
        stage: count for stage, count in counted.items() if stage not in ("passed", "handled", "records")
    }


@pytest.mark.parametrize("ring", [0, 1])
def test_n02_another_subject_than_signed(over: Voices, ring: int) -> None:
    """N2: a command published under another command's subject is refused at the receiver."""
    frame = over.frame(ring, harmless(over, ring))
    check_refused(over, ring, WrongSubject, lambda: over.publish(ring, "command.node.stop", frame))


@pytest.mark.parametrize("ring", [0, 1])
def test_n07_a_replayed_command_takes_effect_once(over: Voices, ring: int) -> None:
    """N7 N13: the same frame again gives the stored reply and changes nothing; under its id, another body is a conflict."""
    wish = harmless(over, ring)
    statement = over.statement(ring, wish)
    frame = seal_statement(statement, over.operator.keyring.message)
    first = reply_of(over.post(ring, frame))
    assert first.ok
    before = over.settled(ring)
    again = reply_of(over.post(ring, frame))
    assert again.ok
    assert again.repeated
    assert first.result == again.result
    over.publish(ring, statement.kind, frame)
    other = msgspec.structs.replace(statement, body=over.statement(ring, harmless(over, ring)).body)
    conflict = reply_of(over.post(ring, seal_statement(other, over.operator.keyring.message)))
    assert not conflict.ok
    assert before == over.state(ring)


@pytest.mark.parametrize("ring", [0, 1])
def test_n07_a_recorded_question_on_the_bus_is_refused(over: Voices, ring: int) -> None:
    """N7: whoever recorded a question and says it again on the bus is refused in silence; the first was answered."""
    frame = over.frame(ring, GetHead())
    over.publish(ring, f"query.{GetHead.KIND}", frame)
    check_refused(over, ring, Replayed, lambda: over.publish(ring, f"query.{GetHead.KIND}", frame))


@pytest.mark.parametrize("ring", [0, 1])
def test_n07_a_replayed_question_is_refused(voices: Voices, ring: int) -> None:
    """N7: a recorded question gets no second answer."""
    frame = voices.frame(ring, GetHead())
    assert reply_of(voices.post(ring, frame)).ok
    told = check_refused(voices, ring, Replayed, lambda: voices.post(ring, frame))
    assert told is not None
    assert Replayed.code == reply_of(told).code


@pytest.mark.parametrize("ring", [0, 1])
def test_n07_a_replayed_frame_through_the_other_rings_door(voices: Voices, ring: int) -> None:
    """N7: an envelope for one ring, posted at the other's door, is refused there, and passes at its own."""
    frame = voices.frame(ring, harmless(voices, ring))
    told = check_refused(voices, 1 - ring, WrongChannel, lambda: voices.post(1 - ring, frame))
    assert told is not None
    assert told.status == 401
    assert reply_of(voices.post(ring, frame)).ok


def test_n14_ring1_cannot_command_ring0(voices: Voices) -> None:
    """N14 N21: the key of a ring 1 daemon, with its own true grant, commands nothing in ring 0; in its own ring it does."""
    thief = voices.thief_of_ring1()
    for wish in (harmless(voices, 0), StopNode(node=voices.ring1), CreateCompartment(name=str(voices.fresh("evil")))):  # type: ignore[arg-type]
        frame = voices.frame(0, wish, thief)
        check_refused(voices, 0, NoGrant, lambda frame=frame: voices.post(0, frame))  # type: ignore[misc]
    assert reply_of(voices.post(1, voices.frame(1, GetHead(), thief))).ok


def test_n14_nobody_commands_upwards_on_the_bus(over: Voices) -> None:
    """N14 N21: true keys of ring 1 and of an agent, put on a bus above their place by somebody who may speak there, command nothing."""
    child, agent = over.thief_of_ring1(), over.thief_of_agent()
    upwards: tuple[tuple[Party, int, type[StageRefused]], ...] = ((child, 0, NoGrant), (agent, 1, NotAllowed), (agent, 0, StrangeKey))
    for thief, ring, error in upwards:
        wish = harmless(over, ring)
        frame = over.frame(ring, wish, thief)
        check_refused(over, ring, error, lambda frame=frame, ring=ring, wish=wish: over.publish(ring, f"command.{wish.KIND}", frame))  # type: ignore[misc]


def test_n14_an_agent_cannot_command_ring1(voices: Voices) -> None:
    """N14: the key of a ring 2 agent, with its own true grant, may speak of instances and command nothing."""
    thief = voices.thief_of_agent()
    for wish in (harmless(voices, 1), Restart(app="hello"), Destroy(app="hello")):  # type: ignore[arg-type]
        frame = voices.frame(1, wish, thief)
        told = check_refused(voices, 1, NotAllowed, lambda frame=frame: voices.post(1, frame))  # type: ignore[misc]
        assert told is not None
        assert NotAllowed.code == reply_of(told).code
    frame = voices.frame(0, harmless(voices, 0), thief)
    check_refused(voices, 0, StrangeKey, lambda: voices.post(0, frame))


def test_n23_a_revoked_key_bites_at_once_in_both_rings(over: Voices) -> None:
    """N22 N23: an operator's second key works; revoked, its very next message is refused in ring 0, and in ring 1 once that heard."""
    second = over.second_operator()
    assert reply_of(over.post(0, over.frame(0, harmless(over, 0), second))).ok
    wait_for(lambda: over.post(1, over.frame(1, GetHead(), second)).status == 200, 30, "ring 1 knows the second key")
    assert reply_of(over.post(1, over.frame(1, harmless(over, 1), second))).ok
    over.command(0, RevokeKey(key=str(second.keyring.message.key_id), reason="lost"))
    frame = over.frame(0, harmless(over, 0), second)
    told = check_refused(over, 0, NoGrant, lambda: over.post(0, frame))
    assert told is not None
    assert told.status == 401
    wait_for(lambda: over.post(1, over.frame(1, GetHead(), second)).status == 401, 30, "ring 1 has heard of the revocation")
    later = over.frame(1, harmless(over, 1), second)
    check_refused(over, 1, NoGrant, lambda: over.post(1, later))
    assert reply_of(over.post(0, over.frame(0, harmless(over, 0)))).ok  # the first key goes on
    for ring in (0, 1):
        wish = harmless(over, ring)
        late = over.frame(ring, wish, second)
        check_refused(over, ring, NoGrant, lambda ring=ring, wish=wish, late=late: over.publish(ring, f"command.{wish.KIND}", late))  # type: ignore[misc]


def test_n66_a_tenants_token_cannot_ask_for_more(voices: Voices, tenants: None) -> None:
    """N66: a tenant's token is refused operator's commands and questions, and everything about another tenant's app."""
    red = voices.token("red")
    bearer = {"Authorization": f"Bearer {red}", "Content-Type": "application/json"}
    app = {"app": "hello"}
    asks: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", "/v1/daemon/counters", None),
        ("GET", "/v1/audit/verify", None),
        ("GET", "/v1/charter/show", None),
        ("POST", "/v1/charter/receive", {"frame": "x"}),
        ("POST", "/v1/trust/revoke", {"frame": "ab" * 32}),
        ("POST", "/v1/compartment/end", {"compartment": "red", "name": "red", "stage": "condemned"}),
        ("POST", "/v1/compartment/ended", {"compartment": "red"}),
        ("GET", "/v1/compartment/holds?compartment=default", None),
        ("GET", "/v1/node/logs?node=agent.default", None),
        ("GET", "/v1/node/logs?node=ring1", None),
        ("POST", "/v1/release/live", {**app, "release": 1, "generation": 1}),
        ("POST", "/v1/app/destroy", app),
        ("POST", "/v1/app/restart", app),
        ("POST", "/v1/app/scale", {**app, "processes": {"web": 3}}),
        ("POST", "/v1/release/rollback", app),
        ("POST", "/v1/config/unset", {**app, "keys": ["A"]}),
        ("GET", "/v1/app/show?app=hello", None),
        ("GET", "/v1/config/list?app=hello", None),
        ("GET", "/v1/release/list?app=hello", None),
        ("GET", "/v1/log/read?app=hello", None),
        ("GET", "/v1/app/list?compartment=default", None),
        ("POST", "/v1/token/create", {"name": "wide", "secret_hash": "ab" * 32, "compartment": "default"}),
        ("POST", "/v1/token/create", {"name": "high", "secret_hash": "ab" * 32, "compartment": "red", "role": "operator"}),
    ]
    before = voices.settled(1)
    for method, path, body in asks:
        told = voices.http(1, method, path, msgspec.json.encode(body) if body is not None else None, bearer)
        assert told.status in (400, 403, 404), (path, told)
        assert b"hello from" not in told.body
        assert before == voices.state(1), path
    forbidden = {"Authorization": f"Bearer {red}"}
    refused = check_refused(voices, 1, NotAllowed, lambda: voices.http(1, "GET", "/v1/daemon/counters", None, forbidden))
    assert refused is not None
    assert (403, NotAllowed.code) == (refused.status, refused.problem["code"])
    mine = voices.http(1, "GET", "/v1/app/list?compartment=red", None, forbidden)
    assert (mine.status, msgspec.json.decode(mine.body)) == (200, [])


@pytest.fixture(scope="module")
def tenants(voices: Voices) -> None:
    """The compartment `red`, known in ring 1."""
    voices.command(0, CreateCompartment(name="red", kind="environment"))  # type: ignore[arg-type]

    def known() -> bool:
        try:
            return voices.query(1, ListApps(compartment="red")) == []
        except EnjinError:
            return False

    wait_for(known, 30, "ring 1 knows the compartment")


@pytest.mark.parametrize("ring", [0, 1])
def test_n76_an_unknown_curve_key_cannot_connect(voices: Voices, ring: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """N76: with the right server key and an unknown client key nothing is heard and nothing said arrives; an enrolled key's does."""
    reach = voices.directory.reach(ring)
    pair = KeyPair(random_bytes(32))
    monkeypatch.setattr(over_zmq, "SUBSCRIBE_DEADLINE_S", 1.0)
    monkeypatch.setattr(over_zmq, "CONFIRM_AGAIN_S", 0.2)
    before, counted = voices.settled(ring), voices.counters(ring)

    async def knock() -> None:
        stranger = ZmqTransport.connect(
            str(voices.cloud.home / reach.hub),
            server_key=curve_text(bytes.fromhex(reach.hub_key)),
            public_key=curve_text(pair.public),
            secret_key=curve_text(pair.secret),
        )
        await stranger.publish(f"command.{harmless(voices, ring).KIND}", frame)
        with pytest.raises(Unreachable):
            await stranger.subscribe("seen", lambda _subject, _frame: None)
        await stranger.close()

    frame = voices.frame(ring, harmless(voices, ring))
    voices.run(knock)
    assert before == voices.state(ring)
    refused = {stage: count for stage, count in voices.counters(ring).items() if stage not in ("passed", "handled", "records")}
    assert {stage: count for stage, count in counted.items() if stage not in ("passed", "handled", "records")} == refused
    voices.publish(ring, f"command.{harmless(voices, ring).KIND}", frame)
    wait_for(lambda: voices.state(ring).number == before.number + 1, 30, "the very same frame on an enrolled connection")


def reply_of(told: Told) -> Reply:
    """Return the Reply in the signed answer of a door."""

    class _Body(msgspec.Struct):
        body: Reply

    assert told.status == 200, told
    return msgspec.json.decode(open_frame(told.body, 1 << 20).payload, type=_Body).body

