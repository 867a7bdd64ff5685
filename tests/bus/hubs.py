"""Real hubs for tests: a process over ipc sockets, with keys that the test makes, ended with the test."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bus.over_zmq import ZmqTransport, allow_keys, curve_text
from enjin.host import random_bytes, write_atomic
from keys.keyring import KeyPair

READY_S = 15
ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class RunningHub:
    """A hub that serves: where, under which key, and whom it allows."""

    folder: Path
    process: subprocess.Popen[bytes]
    public: str
    allowed: dict[str, KeyPair]

    @property
    def endpoint(self) -> str:
        return str(self.folder / "bus.sock")

    def allow(self, *names: str) -> None:
        """Rewrite the key file so that only *names* may connect, making keys for new ones."""
        for name in names:
            self.allowed.setdefault(name, KeyPair(random_bytes(32)))
        allow_keys(self.folder / "keys.json", [self.allowed[name].public.hex() for name in names])

    def connect(self, name: str) -> ZmqTransport:
        """Return a participant with the key of *name*, allowed or not."""
        pair = self.allowed.setdefault(name, KeyPair(random_bytes(32)))
        return ZmqTransport.connect(
            self.endpoint, server_key=self.public, public_key=curve_text(pair.public), secret_key=curve_text(pair.secret)
        )


def configure(folder: Path, **changes: object) -> Path:
    """Write a hub's secret, an empty key file and its configuration below *folder*; return the configuration's path."""
    if not (folder / "hub.key").exists():
        write_atomic(folder / "hub.key", random_bytes(32), 0o600)
    if not (folder / "keys.json").exists():
        allow_keys(folder / "keys.json", [])
    fields = {"endpoint": str(folder / "bus.sock"), "keys": str(folder / "keys.json"), "secret": str(folder / "hub.key")} | changes
    write_atomic(folder / "hub.json", json.dumps(fields).encode(), 0o644)
    return folder / "hub.json"


def start(config: Path) -> subprocess.Popen[bytes]:
    """Start a hub process."""
    return subprocess.Popen(
        [sys.executable, "-m", "bus.hub", "--config", str(config)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_ready(process: subprocess.Popen[bytes]) -> str:
    """Return the hub's public key from its readiness line."""
    assert process.stdout is not None and process.stderr is not None
    ready, _, _ = select.select([process.stdout], [], [], READY_S)
    line = process.stdout.readline() if ready else b""
    if not line.startswith(b"ready "):
        process.kill()
        raise AssertionError(f"the hub did not start: {process.stderr.read().decode()}")
    return line.split()[1].decode()


def end(process: subprocess.Popen[bytes]) -> str:
    """End a hub process and return its log."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        _, log = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        _, log = process.communicate()
    return log.decode()


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[RunningHub]:
    """Run a hub in *folder*."""
    process = start(configure(folder))
    try:
        yield RunningHub(folder, process, wait_ready(process), {})
    finally:
        end(process)
