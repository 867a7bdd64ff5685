"""Strangers, revoked peers, garbage and floods at a real hub: refused, cut, survived, and the enrolled go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from bus.hub.serving import Hub
from bus.hub.settings import AllowedKeys, HubRefused, check_libzmq, read_config, read_secret
from bus.hub.trial import try_strangers
from bus.over_zmq import ZmqTransport, context, curve_text
from bus.transport import TransportFull
from enjin.errors import Unreachable
from enjin.host import monotonic_s, random_bytes, write_atomic
from keys.keyring import KeyPair
from tests.bus.hubs import RunningHub, configure, end, running_hub, start, wait_ready
from tests.bus.waiting import asynchronous, until, until_async


@pytest.fixture
def hub(home: Path) -> Iterator[RunningHub]:
    with running_hub(home) as running:
        yield running


@contextlib.contextmanager
def raw_socket(hub: RunningHub, kind: int, who: str) -> Iterator[tuple[zmq.Socket, zmq.Socket]]:
    """A socket of a stranger's making, and its monitor."""
    opened = context().socket(kind)
    opened.linger = 0
    pair = KeyPair(random_bytes(32))
    if who == "plain":
        opened.plain_username, opened.plain_password = b"root", b"root"
    elif who in ("unknown", "wrong server"):
        server = hub.public if who == "unknown" else curve_text(KeyPair(random_bytes(32)).public)
        opened.curve_publickey, opened.curve_secretkey = curve_text(pair.public).encode(), curve_text(pair.secret).encode()
        opened.curve_serverkey = server.encode()
    if kind == zmq.DEALER:
        opened.routing_id = b"one"
    opened.handshake_ivl = 500
    monitor = opened.get_monitor_socket()
    if kind == zmq.SUB:
        opened.subscribe(b"")
    opened.connect(f"ipc://{hub.endpoint}" + (".pub" if kind == zmq.SUB else ""))
    try:
        yield opened, monitor
    finally:
        opened.disable_monitor()
        opened.close(0)


def events(monitor: zmq.Socket) -> set[int]:
    found = set()
    while monitor.poll(0):
        found.add(int.from_bytes(monitor.recv_multipart()[0][:2], "little"))
    return found


async def echo(one: ZmqTransport, other: ZmqTransport, word: str = "seen.probe") -> None:
    """Return when what *one* publishes reaches *other*."""
    heard: list[bytes] = []
    await other.subscribe(word, lambda _subject, frame: heard.append(frame))

    async def arrived() -> bool:
        await one.publish(word, b"probe")
        return bool(heard)

    await until_async(arrived, "the enrolled are heard")


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.SUB, zmq.DEALER], ids=["PUSH", "SUB", "DEALER"])
@pytest.mark.parametrize("who", ["null", "plain", "unknown", "wrong server"])
@asynchronous
async def test_n76_strangers_do_not_get_in(hub: RunningHub, who: str, kind: int) -> None:
    """NULL, PLAIN, an unknown key, a wrong server key: no handshake succeeds, nothing is heard, nothing is passed on."""
    hub.allow("one", "other")
    one, other = hub.connect("one"), hub.connect("other")
    heard: list[str] = []
    await other.subscribe("", lambda subject, _frame: heard.append(subject))
    with raw_socket(hub, kind, who) as (stranger, monitor):
        seen: set[int] = set()
        ended = {
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_HANDSHAKE_FAILED_AUTH,
            zmq.EVENT_DISCONNECTED,
        }
        if kind != zmq.SUB:
            with contextlib.suppress(zmq.Again):
                stranger.send_multipart([b"seen.evil", b"evil"], zmq.NOBLOCK)

        def refused() -> bool:
            seen.update(events(monitor))
            return bool(seen & ended)

        await until(refused, "the refusal")
        await one.publish("seen.good", b"good")
        await until(lambda: heard, "the enrolled one's message")
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen
        assert heard == ["seen.good"]
        if kind == zmq.SUB:
            assert stranger.poll(50) == 0
    await one.close()
    await other.close()


@asynchronous
async def test_n31_a_revoked_peer_is_cut_in_both_directions(hub: RunningHub) -> None:
    """Its live session hears nothing more and what it publishes goes nowhere; the others go on; given back, so does it."""
    hub.allow("one", "other", "evil")
    one, other, evil = hub.connect("one"), hub.connect("other"), hub.connect("evil")
    overheard: list[bytes] = []
    heard: list[bytes] = []
    await evil.subscribe("seen", lambda _subject, frame: overheard.append(frame))
    await other.subscribe("seen", lambda _subject, frame: heard.append(frame))
    await one.publish("seen.x", b"before")
    await evil.publish("seen.x", b"evil before")
    await until(lambda: len(overheard) >= 2 and len(heard) >= 2, "everybody hears everybody")
    hub.allow("one", "other")
    cut_at = monotonic_s()
    marker = 0

    async def evil_is_silent() -> bool:
        """One and evil each publish; when one's arrives after evil's would have, and it did not, evil is cut."""
        nonlocal marker
        marker += 1
        heard.clear()
        await evil.publish("seen.x", b"evil")
        await one.publish("seen.x", b"good %d" % marker)
        with contextlib.suppress(AssertionError):
            await until(lambda: any(frame.startswith(b"good") for frame in heard), "one", 0.2)
        return heard[:1] == [b"good %d" % marker] and b"evil" not in heard

    await until_async(evil_is_silent, "the cut")
    assert monotonic_s() - cut_at < 2
    overheard.clear()
    for number in range(20):
        await one.publish("seen.x", b"later %d" % number)
    await until(lambda: b"later 19" in heard, "the last message")
    assert overheard == []
    with pytest.raises(AssertionError):
        await until(lambda: overheard, "nothing", 0.3)
    hub.allow("one", "other", "evil")
    await echo(one, evil)
    for transport in (one, other, evil):
        await transport.close()


@pytest.mark.parametrize(
    "content", [None, b"", b'{"keys": 1}', b'{"keys": ["short"]}', b"[" * 100_000], ids=["missing", "empty", "number", "short", "deep"]
)
@asynchronous
async def test_n17_a_bad_key_file_allows_nobody(hub: RunningHub, content: bytes | None) -> None:
    """Missing or damaged: everybody is cut, nobody new gets in, the hub lives; mended, everybody is back."""
    hub.allow("one", "other")
    one, other = hub.connect("one"), hub.connect("other")
    await echo(one, other)
    path = hub.folder / "keys.json"
    if content is None:
        path.unlink()
    else:
        write_atomic(path, content, 0o644)

    async def silent() -> bool:
        newcomer = hub.connect("other")
        try:
            await asyncio.wait_for(newcomer.subscribe("seen", lambda _s, _f: None), 0.3)
        except TimeoutError:
            return True
        finally:
            await newcomer.close()
        return False

    await until_async(silent, "nobody gets in")
    assert hub.process.poll() is None
    hub.allow("one", "other")
    await echo(one, other, "seen.again")
    await one.close()
    await other.close()


@asynchronous
async def test_garbage_does_not_end_the_hub(hub: RunningHub) -> None:
    """Bytes that are no ZMTP, half a greeting, a huge frame header, and bad messages of an enrolled peer."""
    hub.allow("one", "other", "rude")
    one, other = hub.connect("one"), hub.connect("other")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15) + b"\x00" + bytes(31)
    for path in (hub.endpoint, hub.endpoint + ".pub"):
        for data in (
            b"",
            b"\x00",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 4096,
            greeting[:20],
            greeting,
            greeting + b"\x02" + b"\xff" * 8 + b"x" * 100,
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, contextlib.suppress(OSError):
                client.connect(path)
                client.sendall(data)
    rude = context().socket(zmq.PUSH)
    rude.linger = 0
    pair = hub.allowed["rude"]
    rude.curve_publickey, rude.curve_secretkey, rude.curve_serverkey = (
        curve_text(pair.public).encode(), curve_text(pair.secret).encode(), hub.public.encode(),
    )  # fmt: skip
    rude.connect(f"ipc://{hub.endpoint}")
    heard: list[str] = []
    await other.subscribe("", lambda subject, _frame: heard.append(subject))
    for parts in (
        [b""],
        [b"a"],
        [b"a", b"b", b"c"],
        [b"A", b""],
        [b"a..b", b""],
        [b"x" * 129, b""],
        [b"\xff", b""],
        [b"a\n", b""],
        [b"", b""],
    ):
        rude.send_multipart(parts)
    rude.send_multipart([b"seen.polite", b""])
    await until(lambda: heard, "the valid twin")
    assert heard == ["seen.polite"]
    rude.send_multipart([b"seen.huge", bytes((1 << 20) + 4096)])  # over the limit: this connection is closed
    await echo(one, other)
    rude.close(0)
    assert hub.process.poll() is None
    await one.close()
    await other.close()


@asynchronous
async def test_n77_a_storm_of_strangers_does_not_starve_the_enrolled(hub: RunningHub) -> None:
    """Two hundred unknown keys knock and knock again; a message of the enrolled still arrives at once."""
    hub.allow("one", "other")
    one, other = hub.connect("one"), hub.connect("other")
    await echo(one, other)
    storm = []
    for _ in range(100):
        for kind in (zmq.PUSH, zmq.SUB):
            stranger = context().socket(kind)
            pair = KeyPair(random_bytes(32))
            stranger.linger, stranger.reconnect_ivl = 0, 10
            stranger.curve_publickey, stranger.curve_secretkey = curve_text(pair.public).encode(), curve_text(pair.secret).encode()
            stranger.curve_serverkey = hub.public.encode()
            stranger.connect(f"ipc://{hub.endpoint}" + (".pub" if kind == zmq.SUB else ""))
            storm.append(stranger)
    heard: dict[bytes, float] = {}
    await other.subscribe("seen.storm", lambda _subject, frame: heard.setdefault(frame, monotonic_s()))
    times = []
    for number in range(50):
        sent = monotonic_s()
        await one.publish("seen.storm", b"%d" % number)
        await until(lambda number=number: b"%d" % number in heard, "a message in the storm")
        times.append(heard[b"%d" % number] - sent)
    newcomer = hub.connect("one")
    await newcomer.subscribe("seen", lambda _s, _f: None)
    for stranger in storm:
        stranger.close(0)
    assert sorted(times)[25] < 0.5
    for transport in (one, other, newcomer):
        await transport.close()


class SlowHub:
    """A hub in a thread, whose check of newcomers can be held up."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, read_config(str(configure(folder)))
        self.holding, self.ended, self.serving = threading.Event(), threading.Event(), threading.Event()
        self.held: list[list[object]] = []
        self.thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        hub = Hub(self.config)
        check = hub._authenticate
        hub._authenticate = lambda parts: self.held.append(parts) if self.holding.is_set() else check(parts)  # type: ignore[method-assign]
        try_strangers(hub)
        hub.admit()
        self.public, self.counters = hub.public.decode(), hub.counters
        self.serving.set()
        while not self.ended.is_set():
            hub.step(10)
            while self.held and not self.holding.is_set():
                check(self.held.pop(0))
        hub.close()


@pytest.fixture
def slow(home: Path) -> Iterator[SlowHub]:
    """A hub whose check of newcomers can be held up."""
    made = SlowHub(home)
    made.thread.start()
    try:
        assert made.serving.wait(30)
        yield made
    finally:
        made.ended.set()
        made.thread.join(30)


@asynchronous
async def test_n77_a_check_that_says_nothing_lets_nobody_in(slow: SlowHub) -> None:
    """While it hangs, a known key waits like an unknown one and who is in goes on; when it speaks, the known one alone gets in."""
    hub = RunningHub(slow.folder, None, slow.public, {})  # type: ignore[arg-type]
    hub.allow("one", "other", "late")
    one, other = hub.connect("one"), hub.connect("other")
    await echo(one, other)
    slow.holding.set()
    late, stranger = hub.connect("late"), hub.connect("stranger")
    heard: list[bytes] = []
    waiting = [
        asyncio.ensure_future(newcomer.subscribe("seen", lambda _subject, frame: heard.append(frame))) for newcomer in (late, stranger)
    ]
    await stranger.publish("seen.lie", b"a lie")
    await until(lambda: len(slow.held) >= 4, "both ask to be let in, on both sockets")
    await echo(one, other, "seen.meanwhile")
    assert (heard, [task.done() for task in waiting]) == ([], [False, False])
    slow.holding.clear()
    await waiting[0]
    await until(lambda: slow.counters["refused"], "the stranger's refusal")
    await echo(one, late, "seen.after")
    assert (b"a lie" in heard, waiting[1].done()) == (False, False)
    waiting[1].cancel()
    for transport in (one, other, late, stranger):
        await transport.close()


@asynchronous
async def test_a_killed_hub_comes_back_and_everybody_with_it(hub: RunningHub) -> None:
    """kill -9 and a new one on the same paths: publishers and subscribers go on by themselves."""
    hub.allow("one", "other")
    one, other = hub.connect("one"), hub.connect("other")
    heard: list[bytes] = []
    await other.subscribe("seen", lambda _subject, frame: heard.append(frame))
    await one.publish("seen.x", b"before")
    await until(lambda: heard, "the message before")
    hub.process.kill()
    hub.process.communicate()
    await one.publish("seen.x", b"while it was away")
    process = start(configure(hub.folder))
    hub.process = process
    try:
        assert hub.public == await asyncio.to_thread(wait_ready, process)

        async def arrived() -> bool:
            await one.publish("seen.x", b"after")
            return b"after" in heard

        await until_async(arrived, "a message after")
        await one.close()
        await other.close()
    finally:
        end(process)


@asynchronous
async def test_an_outbox_is_bounded_while_there_is_no_hub(home: Path) -> None:
    """Publishing into nothing is refused at a bound, subscribing says that nobody answers, and closing does not hang."""
    pair = KeyPair(random_bytes(32))
    alone = ZmqTransport.connect(
        str(home / "none.sock"), server_key=curve_text(pair.public), public_key=curve_text(pair.public), secret_key=curve_text(pair.secret)
    )
    with pytest.raises(TransportFull):
        for _ in range(200_000):
            await alone.publish("seen.x", b"")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unreachable):
        from bus import over_zmq

        patch.setattr(over_zmq, "SUBSCRIBE_DEADLINE_S", 0.3)
        patch.setattr(over_zmq, "CONFIRM_AGAIN_S", 0.1)
        await alone.subscribe("seen", lambda _s, _f: None)
    await asyncio.wait_for(alone.close(), 10)


def test_n79_a_hub_below_the_floor_refuses_to_serve() -> None:
    """libzmq older than 4.3.4, or without CURVE."""
    for version in ((4, 3, 3), (4, 2, 5), (3, 9, 9)):
        with pytest.raises(HubRefused):
            check_libzmq(version)
    with pytest.raises(HubRefused):
        check_libzmq((4, 3, 5), curve=False)
    check_libzmq((4, 3, 4), curve=True)


def test_n77_a_hub_without_its_check_refuses_to_serve(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial sees a hub that lets anybody in, and one that lets nobody in; a good one passes."""
    config = read_config(str(configure(home)))

    def trial() -> None:
        hub = Hub(config)
        try:
            try_strangers(hub)
        finally:
            hub.close()

    run_alone(trial)
    monkeypatch.setattr(AllowedKeys, "__contains__", lambda _self, _key: True)
    with pytest.raises(HubRefused):
        run_alone(trial)
    monkeypatch.setattr(AllowedKeys, "__contains__", lambda _self, _key: False)
    monkeypatch.setattr("bus.hub.trial.DEADLINE_S", 0.5)
    with pytest.raises(HubRefused):
        run_alone(trial)


def run_alone(run: object) -> None:
    """Run in a thread of its own: a hub's sockets are one thread's."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            run()  # type: ignore[operator]
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join(30)
    if failed:
        raise failed[0]


@pytest.mark.parametrize(
    "spoil", ["open secret", "short secret", "no secret", "long path", "relative path", "no JSON", "unknown field", "busy"]
)
def test_a_hub_that_cannot_be_safe_says_why_in_one_line(home: Path, spoil: str) -> None:
    """Exit status 78, one line with a code, nothing served."""
    config = configure(home)
    busy = None
    if spoil == "open secret":
        (home / "hub.key").chmod(0o640)
    elif spoil == "short secret":
        write_atomic(home / "hub.key", b"short", 0o600)
    elif spoil == "no secret":
        (home / "hub.key").unlink()
    elif spoil == "no JSON":
        write_atomic(config, b"{", 0o644)
    elif spoil == "busy":
        busy = start(config)
        wait_ready(busy)
    else:
        changes = {"long path": {"endpoint": "/" + "x" * 104}, "relative path": {"endpoint": "bus.sock"}, "unknown field": {"x": 1}}
        configure(home, **changes[spoil])
    process = start(config)
    out, log = process.communicate(timeout=15)
    if busy is not None:
        assert busy.poll() is None
        end(busy)
    assert (process.returncode, out) == (78, b"")
    line = json.loads(log.decode().splitlines()[-1])
    assert (line["event"], line["code"]) == ("hub.refused", "E-BUS-110")


def test_secrets_and_paths(home: Path) -> None:
    """A secret is 32 bytes or z85; a hub that ends leaves no socket behind."""
    write_atomic(home / "raw", bytes(range(32)), 0o600)
    write_atomic(home / "text", curve_text(bytes(range(32))).encode() + b"\n", 0o600)
    assert read_secret(str(home / "raw")) == read_secret(str(home / "text"))
    process = start(configure(home))
    wait_ready(process)
    assert (home / "bus.sock").exists()
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert not list(home.glob("bus.sock*"))
