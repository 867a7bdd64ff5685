"""Genesis on disk: made once, whole or anew, for nobody else to read."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from enjin.canonical import from_text
from enjin.config import Config, load
from enjin.errors import ConfigError
from enjin.host import FileFailed
from keys.frame import open_frame
from keys.keyring import Keyring
from keys.operator import load_operator_key
from keys.root import cloud_id
from keys.trust import TrustSet
from ring0 import foundation
from ring0.foundation import FILE, Foundation, Trust, found, read_foundation


@pytest.fixture
def config(home: Path, port_base: int) -> Config:
    """The configuration of a cloud that is not there yet."""
    return load({})


def make(config: Config) -> Foundation:
    """Found an unprivileged cloud."""
    return found(config, privileged=False, ring1="process", first_uid=os.geteuid(), checkout="/somewhere")


def believed(config: Config) -> TrustSet:
    """Return what ring 0 would believe."""
    told = msgspec.json.decode((config.path / "ring0/trust.json").read_bytes(), type=Trust)
    trust = TrustSet(from_text(told.root))
    for text in told.grants:
        trust.add(from_text(text))
    return trust


def test_what_is_founded_can_be_read(config: Config) -> None:
    """The file says what was returned; root, ring 0's keys and the operator's key belong to one cloud."""
    assert read_foundation(config.path) is None
    made = make(config)
    assert read_foundation(config.path) == made
    assert str(cloud_id(open_frame(from_text(made.root)))) == made.cloud
    held = load_operator_key(config.keys, made.cloud)
    assert (held.root, held.home, held.account) == (made.root, config.home, made.operator)
    keyring = Keyring.load(config.path / "ring0/keys", made.cloud)
    trust = believed(config)
    for subject, keys in ((made.node, keyring), (made.operator, held.keyring())):
        grant = trust.grant(trust.grant_of(subject) or "")
        assert grant.keys.message == keys.message.public.hex()


def test_only_its_owner_reads_the_secrets(config: Config) -> None:
    """Shares, seeds and the operator's key are 0600 in directories that nobody else lists."""
    made = make(config)
    secrets = [*config.path.glob("root/share-*.key"), *config.path.glob("ring0/keys/*.seed"), Path(config.keys) / f"{made.cloud}.key"]
    assert len(secrets) >= 6
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    assert {path.parent.stat().st_mode & 0o077 for path in secrets} == {0}


def test_genesis_cut_off_anywhere_is_made_anew(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of genesis' own files cannot be written, there is no cloud, and the next attempt makes a whole one."""
    writers = {"write_atomic": foundation.write_atomic, "save_operator_key": foundation.save_operator_key}
    cuts = 0
    while True:
        left = [cuts]

        def failing(name: str, left: list[int] = left) -> object:
            def write(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise FileFailed("the disk is full")
                return writers[name](*arguments, **options)  # type: ignore[operator]

            return write

        for name in writers:
            monkeypatch.setattr(foundation, name, failing(name))
        try:
            made = make(config)
            break
        except FileFailed:
            assert read_foundation(config.path) is None
        cuts += 1
    assert cuts == 3
    assert read_foundation(config.path) == made
    assert believed(config).grant_of(made.node)


def test_a_damaged_file_is_named(config: Config) -> None:
    """A foundation that does not parse is a mistake to show, never a reason to found another cloud over it."""
    make(config)
    (config.path / FILE).write_text("{")
    with pytest.raises(ConfigError, match=r"foundation\.json"):
        read_foundation(config.path)


def test_two_clouds_share_nothing(config: Config, tmp_path: Path) -> None:
    """Founded twice in two places: other ids, other tags, other keys."""
    first = make(config)
    second = make(msgspec.structs.replace(config, home=str(tmp_path / "h"), keys=str(tmp_path / "keys")))
    assert not {first.cloud, first.node, first.operator, first.root} & {second.cloud, second.node, second.operator, second.root}
