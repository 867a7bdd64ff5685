"""A person's key on disk: the seed, the root it pins, and the grant that says what it may do.

One file per cloud and account in the user's configuration directory, 0600. With it alone, and the cloud's public
directory, a client can sign commands and check every answer down to the root.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from enjin.canonical import from_text, to_text
from enjin.errors import ConfigError, Invalid
from enjin.host import read_bounded, write_atomic
from keys.keyring import BadKeyFile, Keyring

KEY_FILE_MAX = 65_536
ROOTS_FILE_MAX = 1 << 20


class NoKey(ConfigError):
    """There is no operator's key for this cloud here."""

    code = "E-KEY-102"
    remedy = "copy the key file from where the cloud was founded, or set ENJIN_KEYS to its directory"


class OperatorKey(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a key file; frames and seed are base64url text."""

    cloud: str
    account: str
    seed: str
    root: str
    grant: str
    home: str

    def keyring(self) -> Keyring:
        """Return the keys made from the seed."""
        return Keyring(self.cloud, from_text(self.seed))


def load_roots(directory: str, cloud: str) -> list[bytes]:
    """Return the frames of the root statements after the first that we have seen, in order; none where we have seen none.

    Raises:
        BadKeyFile: The file is damaged.
    """
    path = Path(directory) / f"{cloud}.roots"
    try:
        return [from_text(text) for text in msgspec.json.decode(read_bounded(path, ROOTS_FILE_MAX), type=list[str])]
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError, Invalid) as error:
        raise BadKeyFile(f"the root statements at {path} cannot be read", hint="remove the file: the cloud tells them again") from error


def save_roots(directory: str, cloud: str, frames: Sequence[bytes]) -> None:
    """Remember the root statements after the first, so that nobody can lead us back to an earlier one. Raises: FileFailed."""
    write_atomic(Path(directory) / f"{cloud}.roots", msgspec.json.encode([to_text(frame) for frame in frames]), 0o600)


def key_path(directory: str, cloud: str) -> Path:
    """Return where the key for *cloud* lies."""
    return Path(directory) / f"{cloud}.key"


def save_operator_key(directory: str, key: OperatorKey) -> Path:
    """Write *key* (0600) and return its path."""
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    path = key_path(directory, key.cloud)
    write_atomic(path, msgspec.json.encode(key), 0o600)
    return path


def load_operator_key(directory: str, cloud: str) -> OperatorKey:
    """Return the key for *cloud*.

    Raises:
        NoKey: There is none in *directory*.
        BadKeyFile: It is damaged, or open to other users.
    """
    path = key_path(directory, cloud)
    try:
        status = os.stat(path)
        data = read_bounded(path, KEY_FILE_MAX)
    except OSError as error:
        raise NoKey(f"no operator's key at {path} ({error.strerror})") from error
    if status.st_mode & 0o077:
        raise BadKeyFile(f"key file {path} is open to other users (mode {status.st_mode & 0o777:04o})")
    try:
        return msgspec.json.decode(data, type=OperatorKey)
    except msgspec.DecodeError as error:
        raise BadKeyFile(f"key file {path} is damaged") from error
