"""The cloud's directory: what a client needs to know to reach and believe a cloud, in one public file.

Ring 0's daemon keeps ``HOME/run/cloud.json`` current; a client reads it. Nothing in it is secret, and nothing in it is
believed before the chain of grants has been checked against the root that the client pinned beside its own key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from enjin.canonical import Malformed
from enjin.errors import NotFound
from enjin.host import read_bounded, write_atomic

FILE: Final = "run/cloud.json"
FILE_MAX: Final = 1 << 20


class NoCloud(NotFound):
    """There is no cloud here."""

    code = "E-DIR-001"
    remedy = "`enjin up` raises one; set ENJIN_HOME if it lives elsewhere"


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How one domain is reached: the subject that decides it, the hub's socket below the home, and the HTTP door.

    Over NATS there is no hub key but a ``certificate`` (PEM of the authority) and ``tokens``: user key -> token. Nothing
    of that is secret: a token is of use to the holder of its key alone.
    """

    domain: str
    ring: int
    decider: str
    hub: str
    hub_key: str
    api: str
    certificate: str = ""
    tokens: dict[str, str] = {}


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """A cloud as its clients see it; frames are base64url text, parents before children; ``roots`` those after the first."""

    cloud: str
    root: str
    grants: tuple[str, ...]
    domains: tuple[Reach, ...]
    endpoints: dict[str, str] = {}
    revoked: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()

    def reach(self, ring: int) -> Reach:
        """Return the first domain of *ring*. Raises: NoCloud."""
        for one in self.domains:
            if one.ring == ring:
                return one
        raise NoCloud(f"this cloud has no ring {ring} yet", hint="`enjin status` shows what runs; `enjin up` mends it")


def read_directory(home: Path) -> Directory:
    """Return the directory of the cloud at *home*.

    Raises:
        NoCloud: There is none, or it cannot be read.
        Malformed: The file is damaged.
    """
    try:
        data = read_bounded(home / FILE, FILE_MAX)
    except OSError as error:
        raise NoCloud(f"no cloud at {home} ({error.strerror})") from error
    try:
        return msgspec.json.decode(data, type=Directory)
    except msgspec.DecodeError as error:
        raise Malformed(f"{home / FILE} is damaged: {error}") from error


def write_directory(home: Path, directory: Directory) -> None:
    """Replace the directory of the cloud at *home*; readable by everybody."""
    write_atomic(home / FILE, msgspec.json.encode(directory), 0o644)
