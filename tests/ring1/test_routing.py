"""The router against a real HAProxy and real backends."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring1.haproxy import BadRoute, BadRouterSettings, Server, Settings, Slot, check_host, render
from ring1.haproxy_control import Control, RouterSilent, parse_map, parse_servers
from ring1.routing import DrainFailed, NoFreeSlot, Route, Router, Seen, changes, hosts_of, place
from ring2.packaging.serve.wsgi import Server as WebServer

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
DEADLINE_S = 10.0


class Backend:
    """A real HTTP server in a thread, which says its name and what it was asked."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.hold = threading.Event()
        self.hold.set()
        self.entered = threading.Semaphore(0)
        self.seen: list[dict[str, Any]] = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.web = WebServer(self._answer, self.listener, threads=8)
        self.thread = threading.Thread(target=self.web.serve, daemon=True)
        self.thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.seen.append({**environ, "body": environ["wsgi.input"].read()})
        self.entered.release()
        self.hold.wait(DEADLINE_S)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [self.name.encode()]

    @property
    def server(self) -> Server:
        return Server(self.name, "127.0.0.1", self.port)

    def stop(self) -> None:
        self.hold.set()
        self.web.stop()
        self.thread.join(DEADLINE_S)


class Running:
    """An HAProxy of this test's own, on a listener that the test holds."""

    def __init__(self, directory: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.settings = Settings(binds=(f"fd@{self.listener.fileno()}",), directory=directory, connections=200, control_mode="600")
        self.router = Router(self.settings)
        self.process: subprocess.Popen[bytes] | None = None
        self.backends: list[Backend] = []

    def start(self) -> None:
        number = self.listener.fileno()
        argv = [HAPROXY, *self.settings.argv[1:]]
        nobody = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(argv, pass_fds=(number,), stdout=quiet, stderr=quiet, **nobody)
        asyncio.run(self.router.ready(DEADLINE_S))

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(DEADLINE_S)
            self.process = None

    def backend(self, name: str, port: int = 0) -> Backend:
        self.backends.append(Backend(name, port))
        return self.backends[-1]

    def apply(self, *routes: Route) -> Any:
        return asyncio.run(self.router.apply(routes))

    def get(self, host: str = "one.localhost", raw: bytes = b"", method: str = "GET", body: bytes = b"") -> tuple[int, dict[str, str], str]:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        request = raw or f"{method} / HTTP/1.1\r\nHost: {host}\r\n{length}Connection: close\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as sock:
            data = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(request)
            with contextlib.suppress(ConnectionResetError):
                while not complete(data) and (piece := sock.recv(65_536)):
                    data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return int(lines[0].split()[1]) if lines[0] else 0, fields, rest.decode("latin-1")


def complete(data: bytes) -> bool:
    """Whether *data* is a whole answer: the router keeps connections open."""
    head, end, rest = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: ([0-9]+)", head)
    return bool(end) and length is not None and len(rest) >= int(length[1])


@pytest.fixture
def running() -> Iterator[Running]:
    if not os.path.exists(HAPROXY):
        pytest.skip("haproxy is not installed")
    directory = tempfile.mkdtemp(prefix="enj-route-", dir="/tmp")
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
    one = Running(directory)
    try:
        one.router.write()
        one.start()
        yield one
    finally:
        one.stop()
        for backend in one.backends:
            backend.stop()
        one.listener.close()
        shutil.rmtree(directory, ignore_errors=True)


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "the condition did not become true"
        time.sleep(0.01)


def route(app: str, *backends: Backend) -> Route:
    return Route(app, hosts_of(app), tuple(backend.server for backend in backends))


def state(running: Running) -> tuple[dict[str, int], list[tuple[Any, ...]]]:
    """Map and servers as HAProxy says, without times and counts of checks."""
    seen = asyncio.run(running.router.observe())
    raw = asyncio.run(Control(running.settings.control_path).ask(["show servers state"]))
    rows = [line.split() for line in raw.splitlines() if "b_slot" in line]
    keep = (0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 18)  # identity, address, states, weights, forced ids, port
    assert len(rows) == len(seen.servers)
    return seen.hosts, sorted(tuple(row[number] for number in keep) for row in rows)


def test_push_is_served_without_a_reload(running: Running) -> None:
    """A route is there as soon as it is applied, and the HAProxy process stays the same."""
    first = running.process.pid if running.process else 0
    one, two = running.backend("i-one"), running.backend("i-two")
    running.apply(route("one", one), route("two", two))
    assert (running.get("one.localhost")[2], running.get("two.localhost")[2]) == ("i-one", "i-two")
    assert running.process is not None
    assert (running.process.pid, running.process.poll()) == (first, None)


def retries(running: Running) -> int:
    """How often HAProxy has tried again to reach a server of the first slot."""
    answer = asyncio.run(Control(running.settings.control_path).ask(["show stat b_slot1 4 -1"]))
    return sum(int(row["wretr"]) for row in csv.DictReader(io.StringIO(answer.removeprefix("# "))) if row["svname"])


@pytest.mark.parametrize("host", ["one.localhost", "one.localhost:8080", "ONE.LocalHost", "one.localhost.", "One.localhost.:80"])
def test_n72_host_is_matched_without_port_case_and_dot(running: Running, host: str) -> None:
    """NAME.localhost is the same name with a port, in capitals and with a trailing dot."""
    running.apply(route("one", running.backend("i-one")))
    assert running.get(host)[::2] == (200, "i-one")


def test_unknown_host_is_404_with_one_line(running: Running) -> None:
    """A name that no app has gets 404 and one clear line, also while other apps run."""
    running.apply(route("one", running.backend("i-one")))
    status, _, text = running.get("other.localhost")
    assert (status, text) == (404, "enjin: no app is called other.localhost\n")


def test_no_live_instance_is_503_with_retry_after(running: Running) -> None:
    """An app without a live instance gets 503 that says when to come back."""
    running.apply(route("one"))
    status, fields, text = running.get()
    assert (status, fields["retry-after"], text.count("\n")) == (503, "1", 1)


def test_connections_to_an_app_are_kept(running: Running) -> None:
    """Requests on one client connection reach a server added at run time over one connection, before and after a restart."""
    one = running.backend("i-one")
    running.apply(route("one", one))
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", running.port), timeout=DEADLINE_S) as sock:
            for _ in range(20):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: one.localhost\r\n\r\n")
                data = b""
                while not complete(data):
                    data += sock.recv(65_536)
        assert len({request["REMOTE_PORT"] for request in one.seen[-20:]}) == 1
        running.stop()
        running.start()


def test_same_routes_again_change_nothing(running: Running) -> None:
    """Applying what is there already issues no command."""
    one = route("one", running.backend("i-one"))
    running.apply(one)
    seen = asyncio.run(running.router.observe())
    assert changes(place([one], seen), seen, running.settings.map_path) == []


def test_fresh_start_reproduces_the_state(running: Running) -> None:
    """After pushes, a new release and a removal, killing HAProxy and starting it gives the same map and servers."""
    old, new, two, gone = (running.backend(f"i-{name}") for name in ("old", "new", "two", "gone"))
    running.apply(route("gone", gone), route("one", old))
    running.apply(route("one", old), route("two", two), route("empty"))
    running.apply(route("one", new, old), route("two", two), route("empty"))
    running.apply(route("one", new), route("two", two), route("empty"))
    for name in ("i-old", "i-gone"):
        assert asyncio.run(running.router.drained(name)) is True
    before = state(running)
    assert [row[3] for row in before[1]] == ["i-new", "i-two"]
    running.stop()
    running.start()
    assert state(running) == before
    assert running.get("one.localhost")[2] == "i-new"


def test_drain_waits_for_the_request_in_progress(running: Running) -> None:
    """The old instance finishes its request, new requests go to the new one, and only then is the old one removed."""
    old, new = running.backend("i-old"), running.backend("i-new")
    running.apply(route("one", old))
    old.hold.clear()
    answers: list[Any] = []
    slow = threading.Thread(target=lambda: answers.append(running.get()))
    slow.start()
    assert old.entered.acquire(timeout=DEADLINE_S)
    assert running.apply(route("one", new)).draining == ("i-old",)
    assert [running.get()[2] for _ in range(5)] == ["i-new"] * 5

    async def release_while_draining() -> bool:
        waiting = asyncio.create_task(running.router.drained("i-old"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        old.hold.set()
        return await waiting

    assert asyncio.run(release_while_draining()) is True
    slow.join(DEADLINE_S)
    assert answers[0][2] == "i-old"
    assert [one.server.name for one in asyncio.run(running.router.observe()).servers] == ["i-new"]


def test_drain_deadline_cuts_off(running: Running) -> None:
    """A request that does not end holds the drain only until the deadline."""
    old = running.backend("i-old")
    running.apply(route("one", old))
    old.hold.clear()
    slow = threading.Thread(target=running.get)
    slow.start()
    assert old.entered.acquire(timeout=DEADLINE_S)
    running.apply(route("one"))
    assert asyncio.run(running.router.drained("i-old", deadline_s=0.2)) is False
    slow.join(DEADLINE_S)
    assert asyncio.run(running.router.observe()).servers == ()


def test_live_instance_cannot_be_drained_away(running: Running) -> None:
    """Only what apply has put aside is removed; a name that is not there counts as drained."""
    running.apply(route("one", running.backend("i-one")))
    with pytest.raises(DrainFailed):
        asyncio.run(running.router.drained("i-one"))
    assert asyncio.run(running.router.drained("i-never")) is True


def test_switch_under_load_loses_nothing(running: Running) -> None:
    """Ten releases in a row under a load of requests: not one fails."""
    stop, statuses = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            statuses.append(running.get()[0])

    current = running.backend("i-0")
    running.apply(route("one", current))
    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for number in range(1, 11):
            following = running.backend(f"i-{number}")
            running.apply(route("one", following))
            assert asyncio.run(running.router.drained(current.name)) is True
            current.stop()
            current = following
    finally:
        stop.set()
        for client in clients:
            client.join(DEADLINE_S)
    assert len(statuses) > 50
    assert set(statuses) == {200}


def test_restarting_instance_is_waited_for(running: Running) -> None:
    """A request that meets a dead app waits for its return instead of failing, a POST too: it was never sent."""
    first = running.backend("i-one")
    running.apply(route("one", first))
    assert running.get()[0] == 200
    first.stop()
    answers: list[Any] = []
    ask = lambda method: answers.append(running.get(method=method, body=b"x"))  # noqa: E731
    clients = [threading.Thread(target=ask, args=(method,)) for method in ("GET", "POST")]
    for client in clients:
        client.start()
    wait_for(lambda: retries(running) >= 4)
    assert answers == []
    running.backend("i-one", first.port)
    for client in clients:
        client.join(DEADLINE_S)
    assert [answer[::2] for answer in answers] == [(200, "i-one")] * 2


def test_router_killed_requests_wait_in_the_listener(running: Running) -> None:
    """The listener is not HAProxy's: a request sent while none runs is answered by the next one."""
    running.apply(route("one", running.backend("i-one")))
    running.stop()
    answers: list[Any] = []
    client = threading.Thread(target=lambda: answers.append(running.get()))
    client.start()
    running.start()
    client.join(DEADLINE_S)
    assert answers[0][::2] == (200, "i-one")


def test_n68_forwarding_headers_are_ours(running: Running) -> None:
    """What a client says about itself is replaced: X-Forwarded-*, Forwarded, aliases with underscores, Connection tricks."""
    one = running.backend("i-one")
    running.apply(route("one", one))
    lies = (
        b"GET / HTTP/1.1\r\nHost: one.localhost:8080\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Prefix: /evil\r\n"
        b"X_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nProxy: evil\r\nX-Fine: kept\r\n"
        b"Connection: close, X-Forwarded-Host, X-Forwarded-For\r\n\r\n"
    )
    assert running.get(raw=lies)[0] == 200
    seen = {name: value for name, value in one.seen[-1].items() if name.startswith("HTTP_")}
    assert [lie for lie in ("6.6.6.6", "evil") if lie in str(seen)] == []
    assert seen["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
    assert seen["HTTP_X_FORWARDED_HOST"] == "one.localhost:8080"
    assert (seen["HTTP_X_FORWARDED_PROTO"], seen["HTTP_X_FINE"]) == ("http", "kept")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: one.localhost\r\nHost: two.localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost, two.localhost\r\n\r\n",
        b"GET http://two.localhost/ HTTP/1.1\r\nHost: one.localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost/../x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost;del map\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: one.localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: one.localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX-A : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX-A: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.localhost\r\n" + b"X-A: b\r\n" * 2_000 + b"\r\n",
        b"CONNECT one.localhost:80 HTTP/1.1\r\nHost: one.localhost:80\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: one.localhost\r\n\r\n",
        b"GET / HTTP/3.7\r\nHost: one.localhost\r\n\r\n",
    ],
)
def test_n67_ambiguous_request_does_not_reach_an_app(running: Running, request_bytes: bytes) -> None:
    """A request that two readers could understand in two ways is refused, and its valid twin passes."""
    one = running.backend("i-one")
    running.apply(route("one", one), route("two", running.backend("i-two")))
    assert 400 <= running.get(raw=request_bytes)[0] < 500
    assert all(backend.seen == [] for backend in running.backends)
    assert running.get()[0] == 200


def test_n67_both_lengths_are_one_request(running: Running) -> None:
    """Content-Length beside chunked: refused, or cleaned so that the app sees one body and no second request."""
    one = running.backend("i-one")
    running.apply(route("one", one))
    first = b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    running.get(raw=first + b"GET /evil HTTP/1.1\r\nHost: one.localhost\r\n\r\n")
    assert [request for request in one.seen if request["PATH_INFO"] == "/evil"] == []
    assert all("CONTENT_LENGTH" not in request for request in one.seen)


def test_slow_head_is_cut_off(running: Running) -> None:
    """A head that never ends is given up after the time for a head, not held for ever."""
    path = Path(running.settings.config_path)
    config = path.read_text("ascii")
    assert "timeout http-request 10s" in config
    slow = config.replace("timeout http-request 10s", "timeout http-request 200ms")
    running.stop()
    path.write_text(slow, "ascii")
    running.start()
    assert running.get(raw=b"GET / HTTP/1.1\r\nHost: one.local")[0] == 408


INJECTIONS = ["a;b", "a b", "a\nb", "a$(x)", "a`x`", "../a", "-a", "a\\b", "ä", "a" * 300, "", "a..b", ".a", "a.", "A", "a\0", "a\u2028b"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_n60_host_and_server_names_cannot_inject(text: str) -> None:
    """No word that HAProxy could read as more than one word reaches its configuration, map or socket."""
    with pytest.raises(BadRoute):
        render(SETTINGS, [Slot(1, (text,))])
    with pytest.raises(BadRoute):
        render(SETTINGS, [Slot(1, (), (Server(text, "127.0.0.1", 80, 1),))])
    with pytest.raises(BadRoute):
        place([Route("app", (text,))], Seen({}))
    with pytest.raises(BadRoute):
        render(SETTINGS, [Slot(1, (), (Server("i-a", f"127.0.0.1{text} check" if text else "", 80, 1),))])


@pytest.mark.parametrize("directory", ["relative", "/a b", "/a\nb", "/a;b", "/" + "a" * 100, "/a%b", ""])
def test_bad_settings_are_refused(directory: str) -> None:
    """A directory whose socket path is too long or not plain is the operator's error."""
    with pytest.raises(BadRouterSettings):
        render(msgspec.structs.replace(SETTINGS, directory=directory), [])


@pytest.mark.parametrize("bind", ["", "fd@", "fd@x", "fd@5 ssl", ":80", "127.0.0.1:0", "127.0.0.1:99999", "host:80", "127.0.0.1:80\n"])
def test_bad_binds_are_refused(bind: str) -> None:
    """A listener is a passed descriptor or an address with a port, nothing else."""
    with pytest.raises(BadRouterSettings):
        render(msgspec.structs.replace(SETTINGS, binds=(bind,)), [])


SETTINGS = Settings(binds=("127.0.0.1:8080", "fd@5", "[::1]:8080"), directory="/run/enjin/router")


def test_rendered_configuration_is_valid(tmp_path: Any) -> None:
    """HAProxy itself accepts what render writes, IPv6 included, and warns of nothing."""
    here = msgspec.structs.replace(SETTINGS, binds=("127.0.0.1:8080",), directory=str(tmp_path), connections=100)
    if len(here.control_path) > 96:
        pytest.skip("the temporary directory's path is too long for a socket")
    files = render(here, [Slot(3, ("a.localhost",), (Server("i-a", "10.0.0.1", 80, 1), Server("i-b", "fd00::1", 80, 2)))])
    (tmp_path / "haproxy.cfg").write_text(files.config)
    (tmp_path / "hosts.map").write_text(files.hosts)
    done = subprocess.run([HAPROXY, "-c", "-V", "-f", here.config_path], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.returncode, "WARNING" in done.stderr + done.stdout) == (0, False), done.stderr


def test_65th_app_is_refused_and_nothing_changes(running: Running) -> None:
    """A router with all slots taken refuses the next app by name, and the others are served on."""
    routes = [Route(f"app-{number:02}", hosts_of(f"app-{number:02}")) for number in range(64)]
    running.apply(*routes)
    before = state(running)
    with pytest.raises(NoFreeSlot):
        running.apply(*routes, Route("zz", hosts_of("zz")))
    assert state(running) == before


def test_silent_router_is_said() -> None:
    """No HAProxy behind the socket is one clear error."""
    with pytest.raises(RouterSilent):
        asyncio.run(Router(SETTINGS).observe())


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(NAMES, unique=True, max_size=12), min_size=1, max_size=6))
def test_routes_keep_their_slots(rounds: list[list[str]]) -> None:
    """Whatever comes and goes: one slot per app, never shared, and an app that stays never moves."""
    hosts: dict[str, int] = {}
    for apps in rounds:
        slots = place([Route(app, hosts_of(app)) for app in apps], Seen(hosts))
        now = {name: slot.number for slot in slots for name in slot.hosts}
        assert len({slot.number for slot in slots}) == len(apps)
        stayed = now.keys() & hosts.keys()
        assert {name: now[name] for name in stayed} == {name: hosts[name] for name in stayed}
        hosts = now


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    """What check_host lets through is one lower-case word."""
    try:
        passed = check_host(text)
    except BadRoute:
        return
    assert passed == text
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")


def test_parsers_ignore_what_they_do_not_know() -> None:
    """Lines of another shape are not routes."""
    assert parse_map("garbage\n0x12 a.localhost b_slot4\n0x13 x y z\n") == {"a.localhost": 4}
    assert parse_servers("1\n# be_id be_name\n\n") == []
