"""The trial at start: strangers knock at the very sockets that will serve, and every one of them must be refused.

Beside them knocks one key that is allowed for the trial alone: without it a hub that refuses everybody would pass.

Source: ZeroMQ RFC 27 (ZAP); an authenticator that is never asked lets everybody in.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import zmq

from bus.hub.serving import Hub
from bus.hub.settings import HubRefused
from enjin.failpoints import failpoint
from enjin.host import monotonic_s, random_bytes

DEADLINE_S: Final = 5.0
STRANGERS: Final = ("null", "plain", "unknown key")
_FAILED: Final = frozenset({zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH})


class _Knock(NamedTuple):
    who: str
    socket: Any
    monitor: Any


def try_strangers(hub: Hub) -> None:
    """Knock at *hub* as NULL, as PLAIN and with an unknown key, and once with a good one.

    Raises:
        HubRefused: A stranger got in or was not turned away in time, or the good key did not get through.
    """
    (good, good_secret), (bad, bad_secret) = hub.trial_keys
    subject = b"trial." + random_bytes(8).hex().encode()
    hub.allowed.extra = frozenset({good})
    knocks = []
    try:
        for kind in (zmq.PUSH, zmq.SUB):
            knocks += [_knock(hub, kind, who, (bad, bad_secret), subject) for who in STRANGERS]
            knocks.append(_knock(hub, kind, "good key", (good, good_secret), subject))
        _watch(hub, knocks, subject)
    finally:
        hub.allowed.extra = frozenset()
        for knock in knocks:
            knock.socket.disable_monitor()
            knock.monitor.close(0)
            knock.socket.close(0)
    hub.counters.update(dict.fromkeys(hub.counters, 0))


def _knock(hub: Hub, kind: int, who: str, pair: tuple[bytes, bytes], subject: bytes) -> _Knock:
    client = hub.context.socket(kind)
    client.linger = 0
    client.reconnect_ivl = 1000
    if who == "plain":
        client.plain_username, client.plain_password = b"enjin", b"enjin"
    elif who != "null":
        client.curve_publickey, client.curve_secretkey = pair
        client.curve_serverkey = hub.public
    monitor = client.get_monitor_socket()
    if kind == zmq.SUB:
        client.subscribe(subject)
    client.connect(f"ipc://{hub.endpoints[0 if kind == zmq.PUSH else 1]}")
    return _Knock(who, client, monitor)


def _watch(hub: Hub, knocks: list[_Knock], subject: bytes) -> None:
    outside = {knock for knock in knocks if knock.who in STRANGERS}
    speaker, listener = (knock.socket for knock in knocks if knock.who == "good key")
    heard = False
    deadline = monotonic_s() + DEADLINE_S
    while outside or not heard:
        if monotonic_s() > deadline:
            missing = sorted({knock.who for knock in outside}) or ["the good key was not heard"]
            raise HubRefused(f"the hub's own trial did not end: {', '.join(missing)}")
        hub.step(5)
        if not heard:
            # Repeated, because the listener's subscription may arrive later than this.
            failpoint("hub.trial.send")
            speaker.send_multipart([subject, b"good key"], zmq.NOBLOCK)
        for knock in list(outside):
            while knock.monitor.poll(0):
                (event,) = struct.unpack_from("=H", knock.monitor.recv_multipart()[0])  # pyzmq's own parser pulls asyncio in
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    raise HubRefused(f"the hub let a stranger in: {knock.who}")
                if event in _FAILED:
                    outside.discard(knock)
        while listener.poll(0):
            heard = listener.recv_multipart()[1] == b"good key"
