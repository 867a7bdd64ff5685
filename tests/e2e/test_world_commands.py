"""The commands of world, trust and audit against a real cloud: over the bus, through the HTTP APIs, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import sqlite3
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus.directory import read_directory
from bus.journal.schema import ENTRIES
from bus.messages import Query, Table
from bus.over_door import MEDIA, PATH, DoorTransport
from bus.session import Session
from compartments.history import GetHead
from enjin import config as configuration
from enjin.errors import Unreachable
from enjin.host import clock, request_id
from ring0.commands import audit
from ring0.compartments import CreateCompartment
from tests.cloud import ENJIN, ROOT, wait_for
from tests.e2e.clouds import Raised

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
SILENCE_S = 2.0
HELLO = ROOT / "examples/hello"


def name(prefix: str) -> str:
    """Return a name that no other test of the shared cloud uses."""
    return f"{prefix}-{secrets.token_hex(3)}"


def http(cloud: Raised, ring: int, path: str, token: str = "", body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Ask a ring's API; a body makes it a POST. Returns status and JSON."""
    request = urllib.request.Request(f"http://127.0.0.1:{cloud.port_base + ring}{path}", headers=headers or {})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def refused(cloud: Raised, *words: str, code: str, status: int = 1) -> None:
    """Check that a command ends with one line that names *code*."""
    done = cloud.run(*words, check=False)
    assert (status, "") == (done.returncode, done.stdout), done.stderr
    assert done.stderr.count("\n") == 1
    assert f"[{code}]" in done.stderr


@pytest.fixture
def token(cloud: Raised) -> Iterator[str]:
    """An operator's token for ring 0's API."""
    label = name("op")
    made = cloud.json("token", "create", label, "--ring", "0", "--role", "operator", "--compartment", "cloud", "--reason", "a test")
    yield made["token"]
    cloud.run("token", "revoke", label, "--ring", "0")


def test_compartments_and_the_graph_at_a_time(cloud: Raised) -> None:
    """What is made is listed and drawn; before it was made, the graph does not have it."""
    head = cloud.json("audit", "log", "--ring", "0", "--limit", "1")[0]["number"]
    label = name("tenant")
    made = cloud.json("compartment", "create", label, "--summary", "a customer", "--reason", "signed today")
    assert (f"cloud/{label}", "environment") == (made["path"], made["kind"])
    assert label in {row["name"] for row in cloud.json("compartment", "list")}
    assert label not in {row["name"] for row in cloud.json("compartment", "list", "--at", str(head))}
    assert cloud.json("compartment", "show", label)["summary"] == "a customer"
    now, then = cloud.json("graph"), cloud.json("graph", "--at", str(head))
    assert label in {point["label"] for point in now["nodes"]}
    assert label not in {point["label"] for point in then["nodes"]}
    assert label in cloud.run("graph").stdout
    assert cloud.run("graph", "--dot").stdout.startswith("digraph")
    entry = cloud.json("audit", "log", "--action", "compartment.create", "--limit", "1")[0]
    assert (entry["name"], entry["what"], entry["why"], entry["ring"]) == ("operator", "compartment.create", "signed today", 0)


def test_tiers_networks_and_addresses(cloud: Raised) -> None:
    """A tier is played and no longer played; an address is given, listed, and free again; a full network says so."""
    tier, network = name("tier"), name("net")
    cloud.run("tier", "create", tier, "--single", "--reason", "a test")
    cloud.run("tier", "assign", tier, "ring1")
    assert [row["label"] for row in cloud.json("tier", "show", tier)["nodes"]] == ["ring1"]
    cloud.run("tier", "unassign", tier, "ring1")
    assert {row["name"]: row["members"] for row in cloud.json("tier", "list")}[tier] == 0
    third = secrets.randbelow(256)
    cloud.run("network", "create", network, "--ipv4", f"10.97.{third}.0/30")
    made = cloud.json("address", "assign", network, "ring1")
    assert made["ipv4"] == f"10.97.{third}.2"
    assert [row["ipv4"] for row in cloud.json("address", "list", "--network", network)] == [made["ipv4"]]
    refused(cloud, "address", "assign", network, "ring1", code="E-ADR-002")
    cloud.run("address", "release", made["ipv4"])
    assert cloud.json("address", "list", "--network", network) == []
    assert {row["name"]: row["used"] for row in cloud.json("network", "list")}[network] == 0


def test_nodes_of_every_ring_are_listed_and_shown(hello: Raised) -> None:
    """One list for all rings; a node is found by label, id or the beginning of its id; an instance is nobody's to stop."""
    rows = hello.json("node", "list")
    assert {row["ring"] for row in rows} == {0, 1, 2}
    instance = next(row for row in rows if row["ring"] == 2)
    for words in (instance["id"], instance["id"][:14], instance["label"]):
        assert hello.json("node", "show", words)["id"] == instance["id"]
    assert hello.json("node", "show", "ring1")["supervises"] == []
    refused(hello, "node", "stop", instance["id"], code="E-CLI-008")


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        ("node show nothing", "E-NOD-001", 1),
        ("node stop nothing", "E-NOD-001", 1),
        ("node stop ring0", "E-NOD-002", 1),
        ("compartment show nothing", "E-CMP-001", 1),
        ("compartment create Not_A_Name", "E-NAM-001", 1),
        ("compartment create one --parent nothing", "E-CMP-001", 1),
        ("graph --at yesterday", "E-MOM-001", 1),
        ("graph --at 999999999", "E-JNL-017", 1),
        ("address assign nothing ring1", "E-ADR-001", 1),
        ("key revoke 00000000 --reason x", "E-KEY-001", 1),
        ("token revoke nothing", "E-ACC-002", 1),
        ("audit log --since 3", "E-CLI-012", 1),
        ("compartment create", "E-CLI-001", 2),
        ("graph --json --dot", "E-CLI-001", 2),
    ],
)
def test_what_is_refused(cloud: Raised, words: str, code: str, status: int) -> None:
    """One line, a stable code, the right exit status."""
    refused(cloud, *words.split(), code=code, status=status)


def with_key(cloud: Raised, directory: str) -> dict[str, str]:
    """Return the environment of somebody whose key lies in *directory*."""
    return cloud.environment | {"ENJIN_KEYS": directory}


@contextlib.contextmanager
def using(cloud: Raised, directory: str) -> Iterator[None]:
    """Run the cloud's commands with the key in *directory*."""
    before = cloud.environment
    cloud.environment = with_key(cloud, directory)
    try:
        yield
    finally:
        cloud.environment = before


async def try_in_vain(cloud: Raised, directory: str, ring: int, query: Query, door: bool) -> None:
    """Ask with a revoked key, as a client that does not look into the directory: nobody answers."""
    config = configuration.load({}, with_key(cloud, directory))
    known = msgspec.structs.replace(read_directory(config.path), revoked=())
    async with await Session.open(config, known) as session:
        if door:
            reach = known.reach(ring)
            session._transport = lambda _reach, channel: DoorTransport(reach.api, channel)  # type: ignore[method-assign]
        with pytest.raises((Unreachable, TimeoutError)):
            await asyncio.wait_for(session.query(ring, query), SILENCE_S)


async def posted(cloud: Raised, directory: str, ring: int) -> tuple[int, str]:
    """Post a command of the key in *directory* to a ring's API; returns the status and the problem's code ("" when it is answered)."""
    config = configuration.load({}, with_key(cloud, directory))
    known = msgspec.structs.replace(read_directory(config.path), revoked=())
    async with await Session.open(config, known) as session:
        speaker = session.caller(ring).speaker
        frame = speaker.seal("query.journal.head", GetHead(), audience=known.reach(ring).decider)
        request = urllib.request.Request(known.reach(ring).api + PATH, data=frame, headers={"Content-Type": MEDIA})

    def post() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["code"]

    return await asyncio.to_thread(post)


def test_a_second_operator_comes_and_goes(cloud: Raised) -> None:
    """A new key works in both rings; once it is revoked its very next message is refused in both, on the bus and at the doors."""
    label = name("alice")
    made = cloud.json("key", "create", label, "--reason", "a second operator")
    directory = str(Path(made["file"]).parent)
    assert (label, "operator", "active") == (made["name"], made["role"], made["state"])
    assert Path(made["file"]).stat().st_mode & 0o777 == 0o600
    refused(cloud, "key", "create", label, code="E-CLI-010")
    with using(cloud, directory):
        place = name("hers")
        cloud.run("compartment", "create", place, "--reason", "hers")
        assert isinstance(cloud.json("app", "list"), list)
    entry = cloud.json("audit", "log", "--who", label, "--limit", "1")[0]
    assert (label, "compartment.create", "hers") == (entry["name"], entry["what"], entry["why"])
    assert [asyncio.run(posted(cloud, directory, ring)) for ring in (0, 1)] == [(200, "")] * 2

    said = cloud.json("key", "revoke", made["key"][:12], "--reason", "her laptop was stolen")
    assert (made["key"], True) == (said["key"], said["ring1"])
    answers = [asyncio.run(posted(cloud, directory, ring)) for ring in (0, 1)]
    assert all(status in (401, 403) and code for status, code in answers), answers
    heads = [cloud.head(ring).number for ring in (0, 1)]
    for ring in (0, 1):
        for door in (False, True):
            asyncio.run(try_in_vain(cloud, directory, ring, GetHead(), door))
    with using(cloud, directory):
        refused(cloud, "compartment", "list", code="E-TRU-003")
    assert heads == [cloud.head(ring).number for ring in (0, 1)]
    line = next(row for row in cloud.json("key", "list") if row["key"] == made["key"])
    assert (line["state"], line["reason"]) == ("revoked", "her laptop was stolen")
    refused(cloud, "key", "revoke", made["key"], "--reason", "again", code="E-KEY-004")
    cloud.run("compartment", "list")


def test_a_key_is_rotated_and_no_command_is_refused(cloud: Raised) -> None:
    """Ring 1's key, its agents' and one's own: the new ones work in both rings, the old ones are refused, and commands that were given
    to both rings all the while all passed."""
    label = name("carol")
    made = cloud.json("key", "create", label, "--reason", "to be rotated")
    directory = str(Path(made["file"]).parent)
    shutil.copytree(directory, cloud.folder / "old")
    stop, statuses = threading.Event(), []

    def command_on() -> None:
        while not stop.is_set():
            for words in (("compartment", "create", name("rot")), ("token", "create", name("rot"), "--ring", "1")):
                done = subprocess.run([ENJIN, *words], env=with_key(cloud, directory), capture_output=True, text=True, check=False)
                statuses.append((done.returncode, done.stderr))

    with using(cloud, directory):
        commanding = threading.Thread(target=command_on)
        commanding.start()
        try:
            rotated = cloud.json("key", "rotate", "--all", "--overlap", "3", "--reason", "once a month")
        finally:
            stop.set()
            commanding.join()
        assert (rotated["old"], rotated["name"]) == (made["key"], label)
        cloud.run("compartment", "create", name("after"), "--reason", "with the new key")
        assert isinstance(cloud.json("app", "list"), list)
    assert [status for status in statuses if status[0] != 0] == []
    with using(cloud, str(cloud.folder / "old")):
        refused(cloud, "compartment", "list", code="E-TRU-003")
    states = {row["key"]: row["state"] for row in cloud.json("key", "list") if row["name"] == label}
    assert states == {made["key"]: "revoked", rotated["key"]: "active"}
    (node,) = rotated["nodes"]
    states = {row["key"]: row["state"] for row in cloud.json("key", "list") if row["ring"] == 1}
    assert states == {node["old"]: "revoked", node["key"]: "active"}
    cloud.run("key", "revoke", rotated["key"], "--reason", "the end of the test")


def test_the_last_operators_key_stays(cloud: Raised) -> None:
    """Nobody can lock themselves out by accident."""
    own = next(row for row in cloud.json("key", "list") if row["name"] == "operator")
    others = [row for row in cloud.json("key", "list") if row["ring"] == 0 and row["state"] == "active" and row["role"] == "operator"]
    assert [own["key"]] == [row["key"] for row in others]
    refused(cloud, "key", "revoke", own["key"], "--reason", "x", code="E-KEY-003")


def test_a_tenants_token_reaches_its_own_apps_alone(cloud: Raised) -> None:
    """Two tenants, an app each: a token sees and changes its own, and what is the other's is not there for it."""
    tenants = [name("one"), name("two")]
    tokens, apps = [], []
    for tenant in tenants:
        cloud.run("compartment", "create", tenant, "--reason", "a tenant")
        wait_for(lambda tenant=tenant: tenant in _compartments(cloud), 30, f"{tenant} in ring 1")
        apps.append(name("app"))
        cloud.push(HELLO, apps[-1], "--compartment", tenant)
        tokens.append(cloud.json("token", "create", name("ci"), "--compartment", tenant, "--reason", "for CI")["token"])
    for mine, other in ((0, 1), (1, 0)):
        status, rows = http(cloud, 1, "/v1/app/list", tokens[mine])
        assert (200, [apps[mine]]) == (status, [row["name"] for row in rows])
        assert http(cloud, 1, f"/v1/app/show?app={apps[mine]}", tokens[mine])[0] == 200
        assert http(cloud, 1, f"/v1/app/show?app={apps[other]}", tokens[mine])[0] in (403, 404)
        assert http(cloud, 1, "/v1/app/destroy", tokens[mine], {"app": apps[other]})[0] in (403, 404)
        assert http(cloud, 1, "/v1/audit/log", tokens[mine])[0] == 403
        assert http(cloud, 0, "/v1/compartment/list", tokens[mine])[0] == 401
    assert http(cloud, 1, "/v1/app/restart", tokens[0], {"app": apps[0]}, {"Enjin-Reason": "from CI"})[0] == 200
    for app in apps:
        cloud.run("app", "destroy", app, "--yes", "--reason", "the test is over")
    listed = {row["id"]: row for row in cloud.json("token", "list")}
    for text in tokens:
        identity = text.split("_")[1]
        assert text.split("_")[2] not in json.dumps(listed)
        cloud.run("token", "revoke", identity)
        assert http(cloud, 1, "/v1/app/list", text)[0] == 401


def _compartments(cloud: Raised) -> list[str]:
    """Return the compartments that ring 1's charter names."""

    class ShowCharter(Query, kind="charter.show"):
        """What ring 1 follows."""

    async def ask() -> list[str]:
        async with await Session.open(cloud.config) as session:
            return list((await session.query(1, ShowCharter()))["compartments"])

    return asyncio.run(ask())


def test_the_same_commands_through_the_http_api(cloud: Raised, token: str) -> None:
    """A command by HTTP is decided, journaled with its door and token, idempotent, and refused like any other."""
    label, rid = name("web"), str(request_id(clock().wall_us))
    headers = {"Idempotency-Key": rid, "Enjin-Reason": "by HTTP"}
    status, done = http(cloud, 0, "/v1/compartment/create", token, {"name": label}, headers)
    assert (200, label, False) == (status, done["result"]["name"], done["repeated"])
    status, again = http(cloud, 0, "/v1/compartment/create", token, {"name": label}, headers)
    assert (200, True, done["number"]) == (status, again["repeated"], again["number"])
    assert http(cloud, 0, "/v1/compartment/create", token, {"name": label + "x"}, headers)[0] == 409
    status, problem = http(cloud, 0, "/v1/compartment/create", token, {"name": label})
    assert (status, problem["code"]) == (409, "E-LKP-002")
    status, problem = http(cloud, 0, "/v1/compartment/create", token, {"name": "No"})
    assert (status, problem["code"]) == (400, "E-NAM-001")
    assert http(cloud, 0, "/v1/compartment/create", "", {"name": label})[0] == 401
    assert label in {row["name"] for row in http(cloud, 0, "/v1/compartment/list", token)[1]}
    assert http(cloud, 0, "/v1/graph/show", token)[1]["nodes"]
    entry = next(line for line in cloud.json("audit", "log", "--ring", "0") if line["request"] == rid)
    assert (entry["door"], entry["why"], entry["name"], bool(entry["token"])) == ("http", "by HTTP", "operator", True)


def test_the_description_lists_exactly_the_table(cloud: Raised) -> None:
    """Every command and query of the closed table stands in /openapi.json under its path, and nothing else of that form."""
    from bus.http.openapi import path_of
    from ring0.services import SERVICES as RING0
    from ring1.services import SERVICES as RING1

    both = {"journal.head", "journal.fetch", "journal.snapshot", "audit.verify", "audit.log", "audit.head", "daemon.counters"}
    both |= {"audit.export", "audit.diff", "daemon.ping", "daemon.facts", "trust.approvals"}  # what every domain adds
    both |= {"compartment.holds", "node.logs"}
    beside = {0: both | {"journal.copies"}, 1: both | {"daemon.list", "node.list", "log.read", "trust.standing"}}
    fixed = {"/healthz", "/openapi.json", "/v1/envelope", "/v1/follow", "/v1/blobs/{digest}", "/v1/join"}
    for ring, services in ((0, RING0), (1, RING1)):
        table = Table.of(*services)
        kinds = {("post", rule.command.KIND) for rule in table.rules()} | {("get", one.query.KIND) for one in table.questions()}
        kinds |= {("get", kind) for kind in beside[ring]} | {("post", "trust.approve"), ("post", "trust.refuse")}
        status, told = http(cloud, ring, "/openapi.json")
        assert (status, told["openapi"]) == (200, "3.1.0")
        listed = {(method, path) for path, methods in told["paths"].items() if path not in fixed for method in methods}
        assert {(method, path_of(kind)) for method, kind in kinds} == listed


def test_the_journals_verify_and_a_changed_byte_shows(fresh_cloud: Raised) -> None:
    """Both rings hold; after an entry was edited on disk, it is named and the exit status is 1. A stopped node's journal counts too."""
    cloud = fresh_cloud
    cloud.run("compartment", "create", "somewhere", "--reason", "a test")
    said = cloud.json("audit", "verify")
    assert (
        said["ok"], said["first_bad"], [one["ring"] for one in said["rings"]], [one["by"] for one in said["rings"]]
    ) == (True, None, [0, 1], ["file", "file"])  # fmt: skip
    assert said["entries"] == sum(one["entries"] for one in said["rings"])
    stopped = cloud.json("node", "stop", "ring1", "--reason", "a test")
    assert (stopped["state"], stopped["wanted"]) == ("stopped", "stopped")
    assert cloud.run("node", "list", check=False).returncode == 3
    assert len(cloud.json("audit", "verify")["rings"]) == 2
    assert cloud.json("node", "start", "ring1")["state"] == "running"
    before = cloud.json("node", "show", "ring1")["generation"]
    assert cloud.json("node", "restart", "ring1", "--reason", "again")["observed"] == before + 1
    assert cloud.json("app", "list") == []

    with contextlib.closing(sqlite3.connect(cloud.home / "ring0/journal.db", timeout=20)) as database, database:
        number = database.execute(f"SELECT max(number) FROM {ENTRIES.name} WHERE kind = 'compartment.create'").fetchone()[0]
        data = database.execute(f"SELECT data FROM {ENTRIES.name} WHERE number = ?", (number,)).fetchone()[0]
        database.execute(f"UPDATE {ENTRIES.name} SET data = ? WHERE number = ?", (data.replace(b"somewhere", b"elsewhere"), number))
    done = cloud.run("audit", "verify", "--json", check=False)
    said = json.loads(done.stdout)
    assert (1, False, number) == (done.returncode, said["ok"], said["first_bad"])
    assert [one["ok"] for one in said["rings"]] == [False, True]


def test_who_may_not_read_the_files_asks_the_daemons(cloud: Raised, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without access to a journal's file each ring's own daemon checks it; the verdict has the same form."""
    monkeypatch.setattr(audit, "journal_file", lambda home, _ring, _domain: home / "no" / "such" / "file")

    async def verify() -> list[dict[str, Any]]:
        async with await Session.open(cloud.config) as session:
            return await audit.verify_all(session, None)

    here = {one["ring"]: set(one) for one in cloud.json("audit", "verify")["rings"]}
    rings = asyncio.run(verify())
    assert [(one["ring"], one["ok"], one["first_bad"], one["by"]) for one in rings] == [
        (0, True, None, "daemon"),
        (1, True, None, "daemon"),
    ]
    assert {one["ring"]: set(one) for one in rings} == here


def test_the_logs_of_both_rings_are_one(hello: Raised) -> None:
    """In the order of time, with names; filters narrow it; a time and an entry's number both work; nothing else counts as a time."""
    lines = hello.json("audit", "log", "--limit", "1000")
    assert {line["ring"] for line in lines} == {0, 1}
    assert [line["time_us"] for line in lines] == sorted(line["time_us"] for line in lines)
    pushes = hello.json("audit", "log", "--action", "app.push", "--who", "operator")
    assert pushes
    assert {(line["what"], line["name"], line["ring"]) for line in pushes} == {("app.push", "operator", 1)}
    third = [line["number"] for line in hello.json("audit", "log", "--ring", "0", "--since", "3", "--until", "5")]
    assert third == [3, 4, 5]
    assert hello.json("audit", "log", "--until", "2020-01-01T00:00:00Z") == []
    assert len(hello.json("audit", "log", "--since", "1d", "--limit", "3")) == 3
    refused(hello, "audit", "log", "--since", "soon", code="E-MOM-001")
    assert "app.push" in hello.run("audit", "log", "--action", "app.push").stdout


def test_apps_are_listed_as_they_were(hello: Raised) -> None:
    """Before the first entry of ring 1 there was no app."""
    assert "hello" in {row["name"] for row in hello.json("app", "list")}
    assert hello.json("app", "list", "--at", "1") == []
    assert hello.json("ps", "--at", "1") == []


def test_a_tenants_own_key_operates_nothing(cloud: Raised) -> None:
    """A key with the role tenant sees its compartment; what needs an operator is refused."""
    tenant, label = name("ten"), name("bob")
    cloud.run("compartment", "create", tenant)
    made = cloud.json("key", "create", label, "--role", "tenant", "--compartment", tenant)
    with using(cloud, str(Path(made["file"]).parent)):
        assert [row["name"] for row in cloud.json("compartment", "list")] == [tenant]
        refused(cloud, "compartment", "create", name("more"), code="E-BUS-013")
        refused(cloud, "key", "list", code="E-BUS-013")
    cloud.run("key", "revoke", made["key"], "--reason", "the test is over")


def test_a_command_that_nobody_answers_is_repeated_under_one_id(cloud: Raised) -> None:
    """The same request id, asked twice, takes effect once."""
    label, rid = name("once"), str(request_id(clock().wall_us))

    async def twice() -> list[Any]:
        async with await Session.open(cloud.config) as session:
            wish = CreateCompartment(name=label)
            return [await session.command(0, wish, rid=rid) for _ in range(2)]

    first, second = asyncio.run(twice())
    assert first == second
    assert sum(line["request"] == rid for line in cloud.json("audit", "log", "--ring", "0", "--limit", "1000")) == 1
