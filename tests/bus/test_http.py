"""The HTTP door: the same table, the same stages, bounded in everything, and a description that matches."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bus.http import blobs, listener
from bus.http.listener import PortTaken, listen
from bus.messages import Role
from enjin.canonical import to_text
from enjin.host import monotonic_s
from enjin.names import Digest
from keys.frame import Signature, join, open_frame
from tests.bus.doors import AUTHORISED, Said, Served, served
from tests.bus.parties import NODE, PATH, Burn, Paint, reply_in
from tests.bus.waiting import asynchronous, until

MEDIA = "application/vnd.enjin.envelope"


def told(said: Said, status: int, code: str) -> bool:
    """Check a problem body in full."""
    assert said.headers["content-type"] == "application/problem+json"
    problem = said.json
    assert (status, code, status) == (said.status, problem["code"], problem["status"])
    assert f"urn:enjin:error:{code}" == problem["type"]
    assert problem["title"]
    assert problem["detail"]
    return True


@asynchronous
async def test_a_tokens_command_is_sealed_decided_and_answered(home: Path) -> None:
    """The entry says who asked, by which token, through which door, and why; nothing skipped the stages."""
    async with served(home) as at:
        said = await at.ask("POST", "/v1/app/paint", {"app": "hello"}, AUTHORISED | {"Enjin-Reason": "Größe".encode().decode("latin-1")})
        assert said.status == 200
        assert (said.json["number"], said.json["repeated"], said.json["result"]) == (1, False, {"facts": 1})
        assert said.json["request"] == said.headers["idempotency-key"]
        wish, moment = at.cloud.journal.entries[0]
        assert Paint(app="hello") == wish
        asker = moment.asker
        assert (asker.id, asker.token, asker.door, asker.role, asker.reason) == ("alice", "t-1", "http", Role.TENANT, "Größe")
        assert dict(at.cloud.dispatcher.counters) == {"passed": 1, "handled": 1}


@asynchronous
async def test_one_idempotency_key_takes_effect_once(home: Path) -> None:
    """The same key and body give the stored answer, concurrently too; another body is a conflict; no UUIDv7 is malformed."""
    async with served(home) as at:
        key = AUTHORISED | {"Idempotency-Key": at.cloud.rid()}
        answers = await asyncio.gather(*(at.ask("POST", "/v1/app/paint", {"app": "hello"}, key) for _ in range(5)))
        assert [said.status for said in answers] == [200] * 5
        assert sorted(said.json["repeated"] for said in answers) == [False] + [True] * 4
        told(await at.ask("POST", "/v1/app/paint", {"app": "hello", "colour": "blue"}, key), 409, "E-ENJ-005")
        told(await at.ask("POST", "/v1/app/paint", {"app": "hello"}, AUTHORISED | {"Idempotency-Key": "1"}), 400, "E-API-007")
        assert at.cloud.journal.head == 1


@asynchronous
async def test_a_query_takes_its_parameters(home: Path) -> None:
    """Numbers are numbers, a list is a parameter repeated, and what does not fit is refused."""
    async with served(home) as at:
        said = await at.ask("GET", "/v1/app/colours?app=hello&limit=3&tags=a&tags=b")
        assert said.json == {"asker": "alice", "app": "hello", "limit": 3, "tags": ["a", "b"]}
        for bad in ("limit=x", "zzz=1", "limit=1&limit=2", "limit=1.5"):
            told(await at.ask("GET", f"/v1/app/colours?{bad}"), 400, "E-API-007")


@asynchronous
async def test_what_is_refused_says_so_with_its_status(home: Path) -> None:
    """Permission, unknown things, wrong paths, methods, media and bodies: each its code, and nothing is decided."""
    async with served(home) as at:
        told(await at.ask("POST", "/v1/app/paint", {"app": "other"}), 403, "E-BUS-013")
        told(await at.ask("POST", "/v1/node/burn", {"node": "n-1"}), 403, "E-BUS-013")
        told(await at.ask("POST", "/v1/app/paint", {"app": "xyz"}), 404, "E-ENJ-003")
        told(await at.ask("POST", "/v1/app/unknown", {}), 404, "E-API-002")
        told(await at.ask("POST", "/v1/app/paint/", {"app": "a"}), 404, "E-API-002")
        told(await at.ask("GET", "/v1/app/paint"), 405, "E-API-003")
        told(await at.ask("POST", "/v1/app/paint", b'{"app":"a"}', AUTHORISED | {"Content-Type": "text/plain"}), 415, "E-API-005")
        for body in (b"{", b"[]", b'{"app":1}', b'{"app":"a","z":1}', b"", b'{"app":"a","layers":[0.5]}', b"[" * 50_000, b"\xff\xfe"):
            told(await at.ask("POST", "/v1/app/paint", body, AUTHORISED | {"Content-Type": "application/json"}), 400, "E-API-007")
        big = b'{"app":"' + b"a" * 70_000 + b'"}'
        told(await at.ask("POST", "/v1/app/paint", big, AUTHORISED | {"Content-Type": "application/json"}), 413, "E-API-004")
        told(await at.ask("POST", "/v1/app/paint", {"app": "a"}, AUTHORISED | {"Enjin-Reason": "x" * 501}), 400, "E-API-007")
        assert at.cloud.journal.head == 0
        assert (await at.ask("POST", "/v1/app/paint", {"app": "hello"})).status == 200


@asynchronous
async def test_nobody_without_a_token_gets_anything(home: Path) -> None:
    """No token, a bad one, one of another form; too many attempts from one address are slowed."""
    async with served(home) as at:
        for value in ("", "Bearer", "Bearer x", "Basic YTpi", "Bearer enjin_t-1_wrongwrongwrong", "Bearer enjin_t-1_" + "x" * 300):
            for method, path in (("POST", "/v1/app/paint"), ("GET", "/v1/app/colours"), ("GET", "/v1/follow")):
                said = await at.ask(method, path, None, {"Authorization": value})
                told(said, 401, "E-API-001")
                assert said.headers["www-authenticate"].startswith("Bearer")
        while (said := await at.ask("GET", "/v1/app/colours", None, {})).status == 401:
            pass
        told(said, 429, "E-API-008")
        assert "retry-after" in said.headers
        assert dict(at.cloud.dispatcher.counters) == {}
        assert (await at.ask("GET", "/v1/app/colours")).status == 200


@asynchronous
async def test_a_revoked_token_is_refused_by_the_next_request(home: Path) -> None:
    """Also when the door still believed it: the account is looked up behind the stages again."""
    async with served(home) as at:
        assert (await at.ask("GET", "/v1/app/colours")).status == 200
        asker = at.cloud.tokens.pop("t-1")
        told(await at.ask("GET", "/v1/app/colours"), 401, "E-API-001")
        at.door._authenticate = lambda _token: asker
        told(await at.ask("GET", "/v1/app/colours"), 403, "E-BUS-013")


@asynchronous
async def test_n72_other_hosts_are_not_served(home: Path) -> None:
    """A page whose name was bent to this address gets nothing; loopback names and the configured one are served."""
    async with served(home) as at:
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:7081", "cloud.example", "cloud.example:1"):
            assert (await at.ask("GET", "/healthz", None, {"Host": host})).status == 200, host
        for host in (
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:x",
            "",
            "a@localhost",
            "localhost,evil",
        ):
            told(await at.ask("GET", "/healthz", None, {"Host": host}), 421, "E-API-006")
        twice = await at.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        none = await at.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert twice.startswith(b"HTTP/1.1 421")
        assert none.startswith(b"HTTP/1.1 421")


@asynchronous
async def test_a_signed_envelope_is_answered_by_one(home: Path) -> None:
    """The operator's own frame goes through as it is; the answer is signed and names it."""
    async with served(home) as at:
        speaker = at.cloud.speaker_of(at.cloud.operator)
        frame = speaker.seal("command.app.paint", Paint(app="other"), audience=NODE)
        said = await at.ask("POST", "/v1/envelope", frame, {"Content-Type": MEDIA})
        assert (said.status, said.headers["content-type"]) == (200, MEDIA)
        assert reply_in(said.body).ok
        assert open_frame(frame).digest == json.loads(open_frame(said.body).payload)["re"]
        assert (at.cloud.journal.entries[0][1].asker.id, at.cloud.journal.entries[0][1].asker.door) == ("operator", "http")
        again = await at.ask("POST", "/v1/envelope", frame, {"Content-Type": MEDIA})
        assert reply_in(again.body).repeated
        refused = speaker.seal("command.node.burn", Burn(node="n"), audience=NODE, ttl_ms=60_001)
        assert reply_in((await at.ask("POST", "/v1/envelope", refused, {"Content-Type": MEDIA})).body).code == "E-BUS-014"
        assert at.cloud.journal.head == 1


@asynchronous
async def test_an_unverified_envelope_hears_nothing_about_why(home: Path) -> None:
    """Garbage, a flipped bit, a revoked key, another channel: one and the same words, and no signature of ours."""
    async with served(home) as at:
        speaker = at.cloud.speaker_of(at.cloud.operator)
        frame = speaker.seal("command.app.paint", Paint(app="hello"), audience=NODE)
        flipped = bytes([*frame[:-1], frame[-1] ^ 1])
        opened = open_frame(frame)
        stranger = join(opened.type, opened.payload, [Signature(at.cloud.tenant.keyring.message.key_id, opened.signature)])
        elsewhere = at.cloud.speaker_of(at.cloud.operator, channel="ring0").seal("command.app.paint", Paint(app="hello"), audience=NODE)
        at.cloud.trust.revoke(str(at.cloud.operator.keyring.message.key_id))
        bodies = set()
        for bad in (b"", b"garbage", flipped, stranger, elsewhere, frame):
            said = await at.ask("POST", "/v1/envelope", bad, {"Content-Type": MEDIA})
            told(said, 401, "E-API-012")
            bodies.add(said.body)
        assert len(bodies) == 1
        told(await at.ask("POST", "/v1/envelope", frame, {"Content-Type": "application/json"}), 415, "E-API-005")
        assert at.cloud.journal.head == 0
        assert dict(at.cloud.dispatcher.counters) == {"frame": 2, "signature": 2, "channel": 1, "grant": 1}


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@asynchronous
async def test_a_blob_is_stored_under_its_digest(home: Path) -> None:
    """Whole, read-only, once; the second upload is told that it was known."""
    async with served(home) as at:
        data = bytes(range(256)) * 5000
        path = f"/v1/blobs/{digest_of(data)}"
        first, again = await at.ask("PUT", path, data), await at.ask("PUT", path, data)
        assert (first.status, again.status) == (201, 200)
        assert {"digest": digest_of(data), "size": len(data)} == first.json
        stored = at.blobs / digest_of(data)
        assert data == stored.read_bytes()
        assert stored.stat().st_mode & 0o777 == 0o444
        chunked = await at.ask("PUT", f"/v1/blobs/{digest_of(b'abc')}", iter([b"a", b"bc"]), AUTHORISED | {"Transfer-Encoding": "chunked"})
        assert chunked.status == 201
        assert {"accounts", digest_of(data), digest_of(b"abc")} == {entry.name for entry in at.blobs.iterdir()}


@asynchronous
async def test_bad_uploads_leave_nothing(home: Path) -> None:
    """A wrong digest, too large, over the quota, no digest at all, no token, an end before the end."""
    async with served(home, blob_max=1000, quota=1500) as at:
        told(await at.ask("PUT", f"/v1/blobs/{'0' * 64}", b"abc"), 422, "E-API-009")
        told(await at.ask("PUT", f"/v1/blobs/{digest_of(b'x' * 1001)}", b"x" * 1001), 413, "E-API-004")
        chunks = AUTHORISED | {"Transfer-Encoding": "chunked"}
        told(await at.ask("PUT", f"/v1/blobs/{digest_of(b'x' * 1200)}", iter([b"x" * 600] * 2), chunks), 413, "E-API-004")
        assert (await at.ask("PUT", f"/v1/blobs/{digest_of(b'x' * 900)}", b"x" * 900)).status == 201
        told(await at.ask("PUT", f"/v1/blobs/{digest_of(b'y' * 900)}", b"y" * 900), 413, "E-API-010")
        told(await at.ask("PUT", f"/v1/blobs/{digest_of(b'y' * 800)}", iter([b"y" * 400] * 2), chunks), 413, "E-API-010")
        assert (await at.ask("PUT", f"/v1/blobs/{digest_of(b'x' * 900)}", b"x" * 900)).status == 200
        told(await at.ask("PUT", f"/v1/blobs/{digest_of(b'abc')}", b"abc", {}), 401, "E-API-001")
        for name in ("abc", "A" * 64, "..", "%2e%2e%2fx", "0" * 63 + "g", "0" * 65):
            assert (await at.ask("PUT", f"/v1/blobs/{name}", b"")).status in (400, 404), name
        await at.raw(
            f"PUT /v1/blobs/{digest_of(b'abcdef')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n"
            f"Authorization: {AUTHORISED['Authorization']}\r\n\r\nabc".encode(),
            wait_s=0.2,
        )
        await until(lambda: {"accounts", digest_of(b"x" * 900)} == {entry.name for entry in at.blobs.iterdir()}, "nothing left over")


@asynchronous
async def test_a_slow_upload_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that stops sending holds no place for ever."""
    monkeypatch.setattr(blobs, "CHUNK_DEADLINE_S", 0.1)
    async with served(home) as at:
        head = f"PUT /v1/blobs/{'0' * 64} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\n"
        head += f"Authorization: {AUTHORISED['Authorization']}\r\n\r\nabc"
        found = await at.raw(head.encode(), limit=1)
        assert found.startswith(b"HTTP/1.1 400")


@asynchronous
async def test_a_blob_by_a_signed_envelope(home: Path) -> None:
    """The envelope in Authorization is for this digest alone, and once."""
    async with served(home) as at:
        data = b"signed"
        speaker = at.cloud.speaker_of(at.cloud.tenant)

        def authorisation(digest: str) -> dict[str, str]:
            frame = speaker.seal("command.blob.put", blobs.PutBlob(digest=Digest(digest)), audience=NODE)
            return {"Authorization": f"Enjin {to_text(frame)}"}

        path = f"/v1/blobs/{digest_of(data)}"
        told(await at.ask("PUT", path, data, authorisation("0" * 64)), 400, "E-API-007")
        good = authorisation(digest_of(data))
        assert (await at.ask("PUT", path, data, good)).status == 201
        told(await at.ask("PUT", path, data, good), 409, "E-BUS-015")
        paint = to_text(speaker.seal("command.app.paint", Paint(app="a"), audience=NODE))
        for text in ("!", "AAAA", paint):
            assert (await at.ask("PUT", path, data, {"Authorization": f"Enjin {text}"})).status in (400, 401), text
        assert at.cloud.journal.head == 0


def parse_events(text: bytes) -> list[tuple[str, str, Any]]:
    """Return (id, event, data) of server-sent events."""
    found = []
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line[1:])
        if "event" in fields:
            found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


async def follow(at: Served, query: str = "", headers: dict[str, str] | None = None) -> tuple[asyncio.StreamWriter, bytearray]:
    """Open a stream; return it and what has come so far, which grows."""
    lines = [
        f"GET /v1/follow{query} HTTP/1.1",
        "Host: localhost",
        *(f"{key}: {value}" for key, value in (AUTHORISED | (headers or {})).items()),
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    found = bytearray()

    async def collect() -> None:
        while more := await reader.read(65_536):
            found.extend(more)
        found.extend(b"<closed>")

    at.collecting = asyncio.ensure_future(collect())  # type: ignore[attr-defined]
    await until(lambda: b": following" in found, "the stream")
    return writer, found


def events_in(found: bytearray) -> list[tuple[str, str, Any]]:
    body = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", bytes(found).partition(b"\r\n\r\n")[2])
    return parse_events(re.sub(rb"^[0-9a-f]+\r\n", b"", body))


@asynchronous
async def test_followers_get_what_lies_within_their_compartment(home: Path) -> None:
    """In order, by prefix in whole words, nothing of another tenant; a reader that comes back goes on where it was."""
    async with served(home) as at:
        writer, found = await follow(at, "?prefix=seen.app")
        at.door.feed.tell("seen.app.live", f"{PATH}/default", b'{"n":1}')
        at.door.feed.tell("seen.app.live", f"{PATH}/other", b'{"n":2}')
        at.door.feed.tell("seen.apple", f"{PATH}/default", b'{"n":3}')
        at.door.feed.tell("seen.app.live", PATH, b'{"n":4}')
        at.door.feed.tell("seen.app.live", f"{PATH}/default/team", b'{"n":5}')
        await until(lambda: b'{"n":5}' in found, "the last event")
        assert events_in(found) == [("1", "seen.app.live", {"n": 1}), ("5", "seen.app.live", {"n": 5})]
        writer.close()
        at.door.feed.tell("seen.app.live", f"{PATH}/default", b'{"n":6}')
        writer, found = await follow(at, "?prefix=seen.app", {"Last-Event-ID": "1"})
        await until(lambda: b'{"n":6}' in found, "what was missed")
        assert [data["n"] for _, _, data in events_in(found)] == [5, 6]
        writer.close()
        told(await at.ask("GET", "/v1/follow?prefix=a..b"), 400, "E-API-007")


@asynchronous
async def test_n23_a_revoked_token_ends_its_stream(home: Path) -> None:
    """A live session is cut, not only the next one."""
    async with served(home) as at:
        writer, found = await follow(at)
        del at.cloud.tokens["t-1"]
        at.door.feed.tell("seen.app.live", f"{PATH}/default", b'{"n":1}')
        started = monotonic_s()
        await until(lambda: b"event: end" in found, "the end")
        assert monotonic_s() - started < 2
        assert b'{"n":1}' not in found
        writer.close()


@asynchronous
async def test_streams_end_with_the_door_and_are_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more follower than there is room for is refused; closing the door ends the streams at once."""
    monkeypatch.setattr("bus.http.feed.FOLLOWERS_MAX", 1)
    async with served(home) as at:
        writer, found = await follow(at)
        await until(lambda: at.door.feed._readers, "the reader")
        told(await at.ask("GET", "/v1/follow"), 429, "E-API-011")
        started = monotonic_s()
        await at.listener.close()
        await until(lambda: found.endswith(b"<closed>"), "the end")
        assert monotonic_s() - started < 3
        writer.close()


@asynchronous
async def test_a_lagging_reader_loses_the_oldest_and_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is bounded; it hears how many it lost."""
    monkeypatch.setattr("bus.http.feed.WAITING_MAX", 3)
    async with served(home) as at:
        writer, found = await follow(at)
        await until(lambda: at.door.feed._readers, "the reader")
        for number in range(10):
            at.door.feed.tell("seen.x", f"{PATH}/default", b'{"n":%d}' % number)
        await until(lambda: b'{"n":9}' in found, "the newest")
        assert events_in(found)[:2] == [("", "lost", 7), ("8", "seen.x", {"n": 7})]
        writer.close()


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        return ([value["$ref"]] if "$ref" in value else []) + [name for part in value.values() for name in references(part)]
    return [name for part in value for name in references(part)] if isinstance(value, list) else []


@asynchronous
async def test_the_description_matches_the_routes(home: Path) -> None:
    """Every operation that is described exists and every route that exists is described; every reference leads somewhere."""
    async with served(home) as at:
        said = await at.ask("GET", "/openapi.json", None, {})
        described = said.json
        assert described["openapi"] == "3.1.0"
        for name in references(described):
            found = described
            for part in name.removeprefix("#/").split("/"):
                found = found[part]
        operations = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
        inner = at.door.application._inner  # type: ignore[attr-defined]
        routes = {(method, route.path) for route in inner.routes for method in route.methods - {"HEAD"}}
        assert operations == routes
        identities = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
        assert len(set(identities)) == len(identities)
        for path, methods in described["paths"].items():
            assert set(re.findall(r"{(\w+)}", path)) == {
                parameter["name"]
                for operation in methods.values()
                for parameter in operation.get("parameters", ())
                if parameter["in"] == "path"
            }
            for operation in methods.values():
                assert operation["responses"]
                assert operation["summary"].endswith(".")
        for method, path in sorted(operations):
            answer = await at.ask(method, path.replace("{digest}", digest_of(b"")), b"" if method == "PUT" else None, {})
            assert answer.status not in (404, 405), (method, path)


@asynchronous
async def test_the_description_tells_each_shape(home: Path) -> None:
    """A command's schema is its Struct's, a query's parameters are its fields."""
    async with served(home) as at:
        described = (await at.ask("GET", "/openapi.json", None, {})).json
        body = described["paths"]["/v1/app/paint"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = described["components"]["schemas"][body.rpartition("/")[2]]
        assert (schema["required"], schema["additionalProperties"]) == (["app"], False)
        parameters = {parameter["name"]: parameter for parameter in described["paths"]["/v1/app/colours"]["get"]["parameters"]}
        assert {"at", "app", "limit", "tags"} == set(parameters)
        assert parameters["limit"]["schema"]["type"] == "integer"
        assert parameters["tags"]["explode"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: localhost\n\n\x00",
        b"POST /v1/app/paint HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/app/paint HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /v1/app/paint HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
    ],
)
@asynchronous
async def test_malformed_requests_are_refused_by_the_parser(home: Path, data: bytes) -> None:
    """One request stays one request: what can be read in two ways is not read at all."""
    async with served(home) as at:
        found = await at.raw(data, wait_s=1, limit=1)
        assert not found.startswith(b"HTTP/1.1 200")
        assert found.count(b"HTTP/1.1") <= 1
        assert at.cloud.journal.head == 0
        assert (await at.ask("GET", "/healthz")).status == 200


@asynchronous
async def test_headers_are_bounded_in_bytes_and_seconds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless headers and headers that never end are cut; the door goes on."""
    async with served(home) as at:
        monkeypatch.setattr(listener, "HEADERS_DEADLINE_S", 0.1)
        started = monotonic_s()
        assert await at.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ") == b""
        assert monotonic_s() - started < 5
        monkeypatch.setattr(listener, "HEADERS_DEADLINE_S", 10)
        endless = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
            b"X-%d: %b\r\n" % (number, b"y" * 1000) for number in range(200)
        )
        assert not (await at.raw(endless)).startswith(b"HTTP/1.1 200")
        assert (await at.ask("GET", "/healthz")).status == 200


@asynchronous
async def test_connections_are_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound a connection is closed at once; below it everything goes on."""
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 3)
    async with served(home) as at:
        held = [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(3)]
        assert await at.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        for _, writer in held:
            writer.close()

        async def served_again() -> bool:
            return (await at.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")

        for _ in range(100):
            if await served_again():
                break
        assert await served_again()


@asynchronous
async def test_a_request_under_way_ends_well_when_the_door_closes(home: Path) -> None:
    """Closing takes no more connections and lets what is decided be answered."""
    async with served(home) as at:
        gate = asyncio.Event()
        decide = at.cloud.journal.decide

        async def slow(*arguments: Any) -> Any:
            await gate.wait()
            return await decide(*arguments)

        at.cloud.dispatcher.handlers = at.cloud.dispatcher.handlers._replace(decide=slow)
        asking = asyncio.ensure_future(at.ask("POST", "/v1/app/paint", {"app": "hello"}))
        await until(lambda: at.cloud.dispatcher.counters["passed"], "the request")
        closing = asyncio.ensure_future(at.listener.close())
        await asyncio.sleep(0.05)
        gate.set()
        assert (await asking).status == 200
        await asyncio.wait_for(closing, 10)


@asynchronous
async def test_a_defect_says_nothing_of_ours(home: Path) -> None:
    """A handler that fails unforeseen is told as a code, without its text."""
    async with served(home) as at:

        def broken(*_: Any) -> Any:
            raise RuntimeError("/var/lib/enjin/secret")

        at.cloud.dispatcher.handlers = at.cloud.dispatcher.handlers._replace(answer=broken)
        said = await at.ask("GET", "/v1/app/colours")
        told(said, 500, "E-ENJ-009")
        assert b"secret" not in said.body
        at.door._authenticate = broken
        said = await at.ask("GET", "/v1/app/colours")
        told(said, 500, "E-ENJ-009")
        assert b"secret" not in said.body


@asynchronous
async def test_a_taken_port_is_said(home: Path) -> None:
    """One line with a code."""
    async with served(home) as at:
        with pytest.raises(PortTaken):
            listen("127.0.0.1", at.port)
