"""What the hub is told, read strictly: configuration, its own secret, and the keys that are allowed now."""

from __future__ import annotations

import json
import os
import resource
from typing import Final, NamedTuple

import zmq
from zmq.utils import z85

from enjin.errors import ConfigError

PUBLISH_SUFFIX: Final = ".pub"
LIBZMQ_FLOOR: Final = (4, 3, 4)
PATH_MAX_BYTES: Final = 107
KEYS_MAX: Final = 16_384
KEYS_FILE_MAX_BYTES: Final = KEYS_MAX * 48
LOOK_AT_KEYS_S: Final = 0.1
CONFIG_MAX_BYTES: Final = 65_536


class HubRefused(ConfigError):
    """The hub cannot serve safely, so it does not serve."""

    code = "E-BUS-110"


class HubConfig(NamedTuple):
    """What the hub is told: socket path, its secret, the allowed keys, and where to say that it serves."""

    endpoint: str
    keys: str
    secret: str
    mode: int = 0o666
    ready_fd: int = 1
    pull_fd: int = -1
    publish_fd: int = -1


def read_config(source: str) -> HubConfig:
    """Return the configuration in JSON file *source*: a descriptor's number or a path. Raises: HubRefused."""
    try:
        with open(int(source) if source.isdecimal() else source, "rb") as file:
            fields = json.loads(file.read(CONFIG_MAX_BYTES))
        config = HubConfig(**fields)
    except (OSError, ValueError, TypeError) as error:
        raise HubRefused(f"the hub's configuration is not usable: {error}") from error
    for path in (config.endpoint, config.endpoint + PUBLISH_SUFFIX):
        if not path.startswith("/") or len(path.encode()) > PATH_MAX_BYTES:
            raise HubRefused(f"socket path {path} is not absolute or longer than 107 bytes")
    return config


def read_secret(path: str) -> bytes:
    """Return the hub's CURVE secret (z85) from *path*: 40 characters of z85, or 32 bytes. Raises: HubRefused."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(64)
    except OSError as error:
        raise HubRefused(f"cannot read the hub's secret {path}: {error.strerror}") from error
    if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise HubRefused(f"the hub's secret {path} is open to other users", hint=f"chmod 600 {path}")
    if len(data) == 32:
        return z85.encode(data)
    if len(data.strip()) != 40:
        raise HubRefused(f"the hub's secret {path} is neither 32 bytes nor 40 characters of z85")
    return data.strip()


def check_libzmq(version: tuple[int, ...] | None = None, curve: bool | None = None) -> None:
    """Check that libzmq is not older than 4.3.4 and has CURVE. Raises: HubRefused."""
    version = tuple(zmq.zmq_version_info()) if version is None else version
    if version < LIBZMQ_FLOOR:
        raise HubRefused(f"libzmq {'.'.join(map(str, version))} is older than 4.3.4", hint="install pyzmq 27 or later")
    if not (zmq.has("curve") if curve is None else curve):
        raise HubRefused("this libzmq was built without CURVE")


class AllowedKeys:
    """The client keys (z85) of a JSON file ``{"keys": [...]}``, read again when the file changed; nobody when it is bad."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._looked = -1.0
        self.keys: frozenset[bytes] = frozenset()
        self._known: frozenset[bytes] = frozenset()
        self.extra: frozenset[bytes] = frozenset()
        self.problem = ""

    def refresh(self, now_s: float, *, force: bool = False) -> frozenset[bytes]:
        """Read the file when it changed; return the keys that were allowed at the last call and are no longer.

        Looks at most each 0.1 s unless *force*.
        """
        if force or now_s - self._looked >= LOOK_AT_KEYS_S:
            self._looked = now_s
            self.peek()
        gone, self._known = self._known - self.keys, self.keys
        return gone

    def peek(self) -> None:
        """Read the file when it changed."""
        try:
            status = os.stat(self._path)
            mark = (status.st_mtime_ns, status.st_ino, status.st_size)
            if mark == self._seen:
                return
            self.keys = self._read()
            self._seen, self.problem = mark, ""
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.keys = frozenset()
            self._seen, self.problem = None, f"{type(error).__name__}: {error}"

    def _read(self) -> frozenset[bytes]:
        with open(self._path, "rb") as file:
            data = file.read(KEYS_FILE_MAX_BYTES + 1)
        names = json.loads(data)["keys"]
        if len(data) > KEYS_FILE_MAX_BYTES or not isinstance(names, list) or len(names) > KEYS_MAX:
            raise ValueError("the key file is too large or holds no list")
        keys = frozenset(name.encode("ascii") if isinstance(name, str) else b"" for name in names)
        if any(len(key) != 40 for key in keys):
            raise ValueError("a key is not 40 characters of z85")
        return keys

    def __contains__(self, key: object) -> bool:
        return key in self.keys or key in self.extra


def count_keys(path: str) -> int:
    """Return how many keys the file at *path* allows now; 0 when it is bad."""
    allowed = AllowedKeys(path)
    allowed.peek()
    return len(allowed.keys)


def raise_descriptors() -> int:
    """Let this process open as many descriptors as its hard limit allows, and return how many: two for each participant."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
