"""Seeds on disk, subkeys by purpose, sealed secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.keyring import BadKeyFile, KeyPair, Keyring, Purpose, create_seed, load_seed, subkey
from keys.sealing import Unsealable, open_value, seal_value

CLOUD = "ab" * 32
PAIR = KeyPair(bytes(range(32)))


def test_seed_is_made_once_and_private(tmp_path: Path) -> None:
    """A seed file is 0600, made once, and the same keys come from it again."""
    first = Keyring.create(tmp_path, CLOUD, issuer=True)
    second = Keyring.load(tmp_path, CLOUD)
    assert first.message.public == second.message.public
    assert os.stat(tmp_path / "node.seed").st_mode & 0o777 == 0o600
    assert first.issuer is not None
    assert len({first.message.public, first.journal.public, first.curve.public, first.issuer.public}) == 4


def test_bad_seed_files_are_refused(tmp_path: Path) -> None:
    """Missing, open to others, or of the wrong size: refused with one code."""
    with pytest.raises(BadKeyFile):
        load_seed(tmp_path / "none")
    create_seed(tmp_path / "seed")
    os.chmod(tmp_path / "seed", 0o644)
    with pytest.raises(BadKeyFile):
        load_seed(tmp_path / "seed")
    (tmp_path / "short").write_bytes(b"x" * 31)
    os.chmod(tmp_path / "short", 0o600)
    with pytest.raises(BadKeyFile):
        load_seed(tmp_path / "short")


def test_subkeys_differ_by_cloud_purpose_and_generation() -> None:
    """No two purposes, clouds or generations share a subkey."""
    seed = bytes(32)
    keys = {subkey(seed, cloud, purpose, generation) for cloud in ("a", "b") for purpose in Purpose for generation in (1, 2)}
    assert 2 * len(Purpose) * 2 == len(keys)


@given(st.text(max_size=200), st.text(max_size=40))
def test_sealed_values_open_only_in_their_place(value: str, place: str) -> None:
    """A sealed value opens with its key at its place, and nowhere else."""
    try:
        value.encode(), place.encode()
    except UnicodeEncodeError:
        return
    text = seal_value(PAIR.public, place, value)
    assert value == open_value(PAIR, place, text)
    with pytest.raises(Unsealable):
        open_value(PAIR, place + "x", text)
    with pytest.raises(Unsealable):
        open_value(KeyPair(bytes(32)[:31] + b"\1"), place, text)
