"""The hub's sockets, and what becomes of each message, subscription and newcomer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import zmq
from zmq.utils import z85

from bus.heartbeats import FAST_MAX, MISSED_MAX, beat_s, silence_s
from bus.hub.settings import KEYS_MAX, PUBLISH_SUFFIX, AllowedKeys, HubConfig, HubRefused, check_libzmq, count_keys, read_secret
from bus.rate import Buckets
from enjin.failpoints import failpoint
from enjin.host import clock, monotonic_s

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
ZAP_DOMAIN: Final = b"enjin"
MESSAGE_MAX_BYTES: Final = (1 << 20) + 256
TOPIC_MAX_BYTES: Final = 128
CONFIRM: Final = b"\xff"  # sorts after every prefix, so a reconnecting client's prefixes are in force before it
HANDSHAKE_MS: Final = 3000
HIGH_WATER: Final = 20_000
BACKLOG: Final = 256
BATCH: Final = 256
IO_THREADS_MAX: Final = 16
EARLY_MAX: Final = 1024
PER_KEY_PER_SECOND: Final = 20_000
_SUBJECT: Final = re.compile(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def io_threads(keys: int) -> int:
    """Return how many of libzmq's own threads serve *keys* participants: each looks through all its timers to end one of them."""
    return min(IO_THREADS_MAX, 1 + keys // FAST_MAX)


def say(event: str, **fields: Any) -> None:
    """Write one log line to standard error: JSON, like every other log, without the weight of structlog."""
    line = json.dumps({"event": event, "component": "hub", "time_us": clock().wall_us, **fields}, sort_keys=True)
    print(line, file=sys.stderr, flush=True)


def listen(path: str, mode: int) -> socket.socket:
    """Return a socket that listens at *path*, in place of one whose owner is dead. Raises: HubRefused."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if os.path.lexists(path):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise HubRefused(f"another hub serves {path}")
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HubRefused(f"cannot listen at {path}: {error.strerror}") from error
    except HubRefused:
        listener.close()
        raise
    return listener


class Hub:
    """The sockets of one hub. Nobody is allowed before ``admit`` was called."""

    def __init__(self, config: HubConfig) -> None:
        check_libzmq()
        self._secret = read_secret(config.secret)
        self.public: bytes = zmq.curve_public(self._secret)
        self.trial_keys = [zmq.curve_keypair() for _ in range(2)]  # before a context lives: libzmq aborted on that
        self.allowed = AllowedKeys(config.keys)
        self.counters = dict.fromkeys(("passed", "dropped", "slowed", "refused", "enrolled", "revoked", "confirmed"), 0)
        self._keys = config.keys
        self._admitting = False
        self._early: list[tuple[list[bytes], bytes]] = []
        self._rate = Buckets(PER_KEY_PER_SECOND, 2 * PER_KEY_PER_SECOND, KEYS_MAX)
        self.endpoints = (config.endpoint, config.endpoint + PUBLISH_SUFFIX)
        given = (config.pull_fd, config.publish_fd)
        self._listeners = [
            socket.socket(fileno=fd) if fd >= 0 else listen(path, config.mode) for path, fd in zip(self.endpoints, given, strict=True)
        ]
        self.context: zmq.Context[Any] = zmq.Context(io_threads=io_threads(count_keys(config.keys)))
        self._zap = self.context.socket(zmq.ROUTER)
        self._zap.linger = 0
        self._zap.bind(ZAP_ENDPOINT)
        self._poller = zmq.Poller()
        self._poller.register(self._zap, zmq.POLLIN)
        self._pull = self._serve(zmq.PULL)
        self._publish = self._serve(zmq.XPUB)

    def _serve(self, kind: int) -> Any:
        which = 0 if kind == zmq.PULL else 1
        served = self.context.socket(kind)
        served.linger = 0
        served.curve_server = True
        served.curve_secretkey, served.curve_publickey = self._secret, self.public
        served.zap_domain = ZAP_DOMAIN
        served.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        served.maxmsgsize = MESSAGE_MAX_BYTES
        served.handshake_ivl = HANDSHAKE_MS
        self._beat_s = beat_s(count_keys(self._keys))  # of the connections that it will take; set anew when it is bound anew
        beat_ms = 1000 * self._beat_s
        served.heartbeat_ivl = beat_ms
        served.heartbeat_timeout, served.heartbeat_ttl = 1000 * silence_s(self._beat_s), MISSED_MAX * beat_ms
        served.sndhwm = served.rcvhwm = HIGH_WATER
        if kind == zmq.XPUB:
            served.setsockopt(zmq.XPUB_MANUAL, 1)
        # A duplicate of our own listener: closing this socket then neither unlinks the path nor drops the backlog.
        served.setsockopt(zmq.USE_FD, os.dup(self._listeners[which].fileno()))
        served.bind(f"ipc://{self.endpoints[which]}")
        self._poller.register(served, zmq.POLLIN)
        return served

    def admit(self) -> None:
        """Allow the keys of the key file from now on."""
        self._admitting = True
        self.allowed.refresh(monotonic_s(), force=True)
        early, self._early = self._early, []
        for frames, key in early:
            self._answer(frames, key)

    def step(self, timeout_ms: int) -> None:
        """Wait for at most *timeout_ms* and handle what is there: newcomers, then subscriptions, then messages."""
        self._look_at_keys(force=False)
        ready = dict(self._poller.poll(timeout_ms))
        if self._zap in ready:
            self._drain(self._zap, self._authenticate)
        if self._publish in ready:
            self._drain(self._publish, self._enrol)
        if self._pull in ready:
            self._look_at_keys(force=False)
            self._drain(self._pull, self._pass_on)

    def _look_at_keys(self, *, force: bool) -> None:
        if self._admitting and (gone := self.allowed.refresh(monotonic_s(), force=force)):
            self._cut(gone)

    def _drain(self, source: Any, handle: Callable[[list[Any]], None]) -> None:
        for _ in range(BATCH):
            try:
                parts = source.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            handle(parts)

    def _authenticate(self, parts: list[Any]) -> None:
        """Take one ZAP request. Whoever comes before ``admit`` waits for it, but for the trial's own keys. Source: ZeroMQ RFC 27."""
        frames = [part.bytes for part in parts]
        well_formed = len(frames) == 9 and frames[4] == ZAP_DOMAIN and frames[7] == b"CURVE" and len(frames[8]) == 32
        key = z85.encode(frames[8]) if well_formed else b""
        if not self._admitting and well_formed and all(key != pair[0] for pair in self.trial_keys) and len(self._early) < EARLY_MAX:
            self._early.append((frames, key))
        else:
            self._answer(frames, key)

    def _answer(self, frames: list[bytes], key: bytes) -> None:
        if self._admitting:
            # No cut here: a socket must not be replaced while its own request is being answered; the next step does it.
            self.allowed.peek()
        allowed = key in self.allowed
        self.counters["enrolled" if allowed else "refused"] += 1
        # 300, not 400: told 400, libzmq's client never connects again, and a key may be allowed a moment later. The
        # trial's stranger is told 400, which it hears at once; after 300 it would wait until its handshake times out.
        refusal = b"400" if key == self.trial_keys[1][0] else b"300"
        status = [b"200", b"", key, b""] if allowed else [refusal, b"", b"", b""]
        failpoint("hub.zap.send")
        self._zap.send_multipart([*frames[:2], b"1.0", frames[3] if len(frames) > 3 else b"", *status])

    def _enrol(self, parts: list[Any]) -> None:
        """Take or drop one subscription; confirm it when it asks for that."""
        data = parts[0].bytes
        if len(parts) != 1 or not data or data[0] not in (0, 1):
            self.counters["dropped"] += 1
            return
        topic = data[1:]
        if data[0] == 0:
            self._publish.setsockopt(zmq.UNSUBSCRIBE, topic)
        elif len(topic) > TOPIC_MAX_BYTES or _user(parts[0]) not in self.allowed:
            self.counters["dropped"] += 1
        else:
            self._publish.setsockopt(zmq.SUBSCRIBE, topic)
            if topic.startswith(CONFIRM):
                self.counters["confirmed"] += 1
                self._send([topic, b"%d" % self._beat_s])

    def _pass_on(self, parts: list[Any]) -> None:
        """Pass one pushed message on, if it has the form and its sender is still allowed."""
        user = _user(parts[0])
        subject = parts[0].bytes
        if len(parts) != 2 or user not in self.allowed or len(subject) > TOPIC_MAX_BYTES or not _SUBJECT.fullmatch(subject):
            self.counters["dropped"] += 1
        elif not self._rate.take(user.decode(), clock().boot_us):
            self.counters["slowed"] += 1
        else:
            self.counters["passed"] += 1
            self._send([subject, parts[1]])

    def _send(self, parts: list[Any]) -> None:
        try:
            failpoint("hub.pass.send")
            self._publish.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:
            self.counters["dropped"] += 1

    def _cut(self, gone: frozenset[bytes]) -> None:
        """End what the keys in *gone* still receive: bind the XPUB socket anew; the others connect again by themselves."""
        self.counters["revoked"] += len(gone)
        say("hub.cut", keys=len(gone), problem=self.allowed.problem)
        self._poller.unregister(self._publish)
        self._publish.close(0)
        self._publish = self._serve(zmq.XPUB)

    def close(self) -> None:
        """Close every socket and unlink what this hub listened at."""
        self._poller = zmq.Poller()
        for served in (self._pull, self._publish, self._zap):
            served.close(0)
        for listener, path in zip(self._listeners, self.endpoints, strict=True):
            listener.close()
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.context.destroy(0)


def _user(part: Any) -> bytes:
    """Return the key (z85) that ZAP accepted for the connection of *part*; empty when there is none."""
    try:
        return bytes(part.get("User-Id").encode())
    except (zmq.ZMQError, AttributeError):
        return b""
