"""`enjin join` in a real cloud: somebody gets a key with a token, and whoever stands between, behind or beside gets nothing."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enjin.canonical import from_text
from keys.ceremony import hold_ceremony
from keys.frame import join, open_frame, seal
from keys.joining import parse_token
from keys.signing import Signer
from tests.cloud import ENJIN
from tests.e2e.clouds import Raised

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def active(cloud: Raised) -> set[str]:
    """Return the keys that are believed."""
    return {line["key"] for line in cloud.json("key", "list") if line["state"] == "active"}


@pytest.fixture(autouse=True)
def _leave_no_key(cloud: Raised) -> Iterator[None]:
    """Leave the shared cloud with the keys it had."""
    before = active(cloud)
    yield
    for key in active(cloud) - before:
        cloud.run("key", "revoke", key, "--reason", "the test is over")


def invite(cloud: Raised, name: str, *words: str) -> str:
    """Return a new join token for account *name*."""
    return str(cloud.json("join", "token", "create", name, *words, "--reason", "a new colleague")["token"])


def start(cloud: Raised, keys: Path, token: str, *words: str) -> subprocess.Popen[str]:
    """Begin `enjin join` as somebody whose keys lie in *keys*."""
    line = [str(ENJIN), "join", token, *words, "--json"]
    environment = cloud.environment | {"ENJIN_KEYS": str(keys)}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def use(cloud: Raised, keys: Path, token: str, *words: str) -> tuple[int, str, str]:
    """Run `enjin join` and return its status, what it printed and what it said."""
    process = start(cloud, keys, token, *words)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def speak(cloud: Raised, keys: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `enjin` with the key in *keys*."""
    environment = cloud.environment | {"ENJIN_KEYS": str(keys)}
    return subprocess.run([ENJIN, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)


def denied(done: tuple[int, str, str], code: str) -> None:
    assert (done[0], code in done[2]) == (1, True), done


def test_somebody_joins_with_a_token(cloud: Raised, tmp_path: Path) -> None:
    """The key is made where it is used, and does what the token says and no more; a second use is told apart from a first.

    Of one compartment: whoever operates the cloud would have to approve what other tests do alone, even when revoked (INV-OPR-1).
    """
    token = invite(cloud, "walter", "--role", "operator", "--compartment", "default", "--from", "127.0.0.0/8", "--allow", "app")
    status, out, err = use(cloud, tmp_path, token)
    assert status == 0, err
    made = json.loads(out)
    assert Path(made["file"]).parent == tmp_path
    assert speak(cloud, tmp_path, "app", "list").returncode == 0
    for words in (("compartment", "list"), ("token", "list")):
        assert "E-BUS-013" in speak(cloud, tmp_path, *words).stderr
    line = next(one for one in cloud.json("key", "list") if one["key"] == made["key"])
    assert (line["name"], line["role"], line["state"]) == ("walter", "operator", "active")
    listed = next(one for one in cloud.json("join", "token", "list") if one["key"] == made["key"])
    assert (listed["state"], listed["allowed"]) == ("used", ["app"])
    assert parse_token(token).secret.hex() not in json.dumps(cloud.json("audit", "log", "--limit", "1000"))
    denied(use(cloud, tmp_path / "again", token.replace(token[-32:], "0" * 32)), "E-JOI-005")
    assert speak(cloud, tmp_path, "app", "list").returncode == 0
    status, _out, err = use(cloud, tmp_path, token)
    assert (status, "E-JOI-009" in err) == (2, True)


def test_n40_two_who_use_one_token_lose_both_keys(cloud: Raised, tmp_path: Path) -> None:
    """N40: raced by two, one gets a key and the other is told; then both are refused everywhere, and status says so."""
    token = invite(cloud, "xenia")
    racing = [start(cloud, tmp_path / name, token) for name in ("first", "second")]
    ended = sorted((process.wait(60), *process.communicate()) for process in racing)
    assert [status for status, _out, _err in ended] == [0, 1]
    assert "E-JOI-007" in ended[1][2]
    made = json.loads(ended[0][1])
    assert "E-TRU-003" in speak(cloud, Path(made["file"]).parent, "compartment", "list").stderr
    listed = next(one for one in cloud.json("join", "token", "list") if one["key"] == made["key"])
    assert listed["state"] == "used twice"
    states = {one["key"]: one["state"] for one in cloud.json("key", "list")}
    assert states[made["key"]] == "revoked"
    assert any(listed["id"] in line for line in cloud.json("status")["warnings"])
    denied(use(cloud, tmp_path / "third", token), "E-JOI-006")


def test_n40_another_role_machine_or_network_is_refused(cloud: Raised, tmp_path: Path) -> None:
    """N40: the token says what it is for, and stays good for it; revoked, it is good for nothing."""
    token = invite(cloud, "yves", "--role", "tenant")
    denied(use(cloud, tmp_path, token, "--role", "operator"), "E-JOI-002")
    assert use(cloud, tmp_path, token, "--role", "tenant")[0] == 0
    for number, words in enumerate((("--machine", "another-machine"), ("--from", "203.0.113.0/24"))):
        denied(use(cloud, tmp_path / str(number), invite(cloud, f"zoe-{number}", *words)), "E-JOI-002")
    machine = speak(cloud, tmp_path, "join", "machine").stdout.strip()
    assert use(cloud, tmp_path / "here", invite(cloud, "zoe-2", *(("--machine", machine) if machine else ())))[0] == 0
    token = invite(cloud, "zoe-3")
    cloud.run("join", "token", "revoke", parse_token(token).id, "--reason", "sent to the wrong person")
    denied(use(cloud, tmp_path / "late", token), "E-JOI-006")


class Between(http.server.BaseHTTPRequestHandler):
    """Somebody between: passes questions on, keeps what it sees, and answers as it likes."""

    protocol_version = "HTTP/1.0"
    port = 0
    requests: list[bytes] = []
    answer: Any = None

    def do_GET(self) -> None:
        self._send(*self._pass_on("GET", b""))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests.append(body)
        self._send(*type(self).answer(self, body))

    def _pass_on(self, method: str, body: bytes) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", type(self).port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, "/v1/join", body, {"Content-Type": "application/vnd.enjin.envelope"})
            told = connection.getresponse()
            return told.status, told.read(), told.getheader("Content-Type", "")

    def _send(self, status: int, body: bytes, media: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def between(cloud: Raised, answer: Any) -> Iterator[tuple[str, type[Between]]]:
    """Stand between whoever joins and *cloud*; yield the address and what was seen."""
    kind = type("One", (Between,), {"port": cloud.port_base, "requests": [], "answer": staticmethod(answer)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_n41_whoever_answers_instead_is_found_out(cloud: Raised, tmp_path: Path) -> None:
    """N41: with a root of its own, a signature of its own, or the true answer to somebody else; and it learns no secret by it."""
    media = "application/vnd.enjin.envelope"
    stranger = Signer.from_seed(b"s" * 32)
    foreign = from_text(hold_ceremony(1, 1 << 60)[0].root)

    def resign(handler: Between, body: bytes) -> tuple[int, bytes, str]:
        _status, true, _media = handler._pass_on("POST", body)
        frame = open_frame(true)
        return 200, seal(frame.type, frame.payload, stranger), media

    def other(_handler: Between, _body: bytes) -> tuple[int, bytes, str]:
        return 200, foreign, media

    def borrowed(handler: Between, body: bytes) -> tuple[int, bytes, str]:
        _status, true, _media = handler._pass_on("POST", body)
        frame = open_frame(true)
        changed = frame.payload.replace(open_frame(body).digest.encode(), b"0" * 64)
        return 200, join(frame.type, changed, frame.signatures), media

    for number, (answer, code) in enumerate(((resign, "E-SIG-001"), (other, "E-JOI-003"), (borrowed, "E-JOI-003"))):
        token = invite(cloud, f"quinn-{number}")
        with between(cloud, answer) as (address, seen):
            denied(use(cloud, tmp_path / str(number), token, "--api", address), code)
        assert len(seen.requests) == 1
        secret = parse_token(token).secret
        assert secret not in seen.requests[0]
        assert secret.hex().encode() not in seen.requests[0]
        assert not list((tmp_path / str(number)).glob("*.key"))


def test_n41_whoever_only_passes_on_gains_nothing(cloud: Raised, tmp_path: Path) -> None:
    """The valid twin: through somebody between it works, because nothing there needs to be trusted; replayed, it is the same answer."""
    token = invite(cloud, "rosa")
    with between(cloud, lambda handler, body: handler._pass_on("POST", body)) as (address, seen):
        status, out, err = use(cloud, tmp_path, token, "--api", address)
        assert status == 0, err
    connection = http.client.HTTPConnection("127.0.0.1", cloud.port_base, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/join", seen.requests[0], {"Content-Type": "application/vnd.enjin.envelope"})
        assert connection.getresponse().status == 200
    made = json.loads(out)
    assert speak(cloud, tmp_path, "app", "list").returncode == 0
    line = next(one for one in cloud.json("key", "list") if one["key"] == made["key"])
    assert (line["subject"], line["state"]) == (made["account"], "active")
