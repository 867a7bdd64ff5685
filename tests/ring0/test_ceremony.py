"""`enjin genesis`, and a cloud that is founded with what it made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from enjin.canonical import from_text
from enjin.config import Config, load
from enjin.errors import ConfigError, EnjinError
from keys.ceremony import hold_ceremony
from keys.frame import open_frame
from keys.root import check_threshold, read_root
from keys.shares import open_root, read_share, shares_in
from keys.signing import Signer
from ring0.commands.cloud import shares_left
from ring0.commands.genesis import asking, genesis
from ring0.foundation import Foundation, found, no_passphrase
from ring0.raising import raise_cloud
from tests.ring0.test_foundation import believed


@pytest.fixture
def config(home: Path, port_base: int) -> Config:
    """The configuration of a cloud that is not there yet."""
    return load({})


def hold(*words: str) -> dict[str, Any]:
    """Run `enjin genesis` and return what it prints."""
    done = CliRunner().invoke(genesis, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def make(config: Config, *shares: Path, **options: Any) -> Foundation:
    """Found an unprivileged cloud with *shares*."""
    return found(config, privileged=False, ring1="process", first_uid=os.geteuid(), checkout="/somewhere", shares=shares, **options)


def passphrase_file(folder: Path, line: str, mode: int = 0o600) -> Path:
    path = folder / f"passphrase-{len(line)}-{mode:o}"
    path.write_text(line + "\n")
    path.chmod(mode)
    return path


def test_a_cloud_is_founded_with_any_two_shares(config: Config, tmp_path: Path) -> None:
    """On three sticks; two of them make the cloud whose id the ceremony said, and none of them is left on the machine."""
    told = hold(*(word for name in "abc" for word in ("--to", str(tmp_path / name))))
    first, _second, third = (Path(path) for path in told["shares"])
    made = make(config, third, first)
    assert made.cloud == told["cloud"]
    assert believed(config).grant_of(made.node)
    assert shares_in(config.path / "root") == []
    assert shares_left(config.path) == []


def test_shares_in_the_state_directory_are_found(config: Config) -> None:
    """Without --to they lie where a new cloud looks, which warns of each until it is gone; two that are left are enough."""
    told = hold()
    paths = [Path(path) for path in told["shares"]]
    assert paths == shares_in(config.path / "root")
    paths[0].unlink()
    assert make(config).cloud == told["cloud"]
    assert [path for path in paths[1:] if any(str(path) in line for line in shares_left(config.path))] == paths[1:]
    with pytest.raises(ConfigError, match="has its root"):
        hold()


def test_one_share_founds_no_cloud(config: Config, tmp_path: Path) -> None:
    """Neither one in hand, nor one that was left behind; and nothing is made in place of those that are elsewhere."""
    paths = [Path(path) for path in hold()["shares"]]
    for path in paths[1:]:
        path.rename(tmp_path / path.name)
    for given in ((), (paths[0],), (paths[0], paths[0])):
        with pytest.raises(EnjinError) as caught:
            make(config, *given)
        assert type(caught.value).code == "E-SHA-003"
    assert shares_in(config.path / "root") == paths[:1]
    assert make(config, paths[0], tmp_path / paths[1].name).cloud


def test_a_cloud_has_one_root(config: Config, tmp_path: Path) -> None:
    """Shares given to a cloud that was founded before are refused, not ignored."""
    make(config)
    told = hold("--to", str(tmp_path))
    with pytest.raises(ConfigError, match="founded before"):
        raise_cloud(config, print, [Path(path) for path in told["shares"]])


def test_a_new_cloud_holds_its_own_ceremony(config: Config) -> None:
    """Without shares three are made; what they sign is what the cloud believes: its root, ring 0's grant and the charter."""
    made = make(config)
    shares = [read_share(path) for path in shares_in(config.path / "root")]
    assert [share.root for share in shares] == [made.root] * 3
    assert len(shares_left(config.path)) == 3
    assert make(config).cloud == made.cloud  # cut off before it was acknowledged, and made anew: the shares serve again


def test_closed_shares_need_their_passphrases(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files: one for all, or one each and in turn; without, and no terminal, or with a wrong one: refused and nothing founded."""
    monkeypatch.setattr(hold_ceremony, "__defaults__", ((), 8 << 20))  # a test need not pay what a thief must
    word, other = passphrase_file(tmp_path, "correct horse"), passphrase_file(tmp_path, "battery staple")
    told = hold("--passphrase-file", str(word))
    paths = [Path(path) for path in told["shares"]]
    assert all(not read_share(path).seed for path in paths)
    for ask in (no_passphrase, asking(()), asking((other,)), asking((word, other))):
        with pytest.raises(EnjinError) as caught:
            make(config, *paths, ask=ask)
        assert type(caught.value).code == "E-SHA-002"
    assert make(config, *paths, ask=asking((word,))).cloud == told["cloud"]
    mixed = hold("--to", str(tmp_path / "m"), *(item for path in (word, other, word) for item in ("--passphrase-file", str(path))))
    shares = [read_share(Path(path)) for path in mixed["shares"]]
    assert len(open_root(shares[1:], asking((other, word)), issued(shares[0].root)).signers) == 2


def issued(text: str) -> int:
    return read_root(open_frame(from_text(text))).issued


@pytest.mark.parametrize(("line", "mode"), [("correct horse", 0o644), ("", 0o600), ("two\nlines", 0o600)])
def test_a_passphrase_file_that_cannot_be_meant(tmp_path: Path, line: str, mode: int) -> None:
    """Open to others, empty, or of several lines: refused by name."""
    with pytest.raises(EnjinError) as caught:
        hold("--to", str(tmp_path / "x"), "--passphrase-file", str(passphrase_file(tmp_path, line, mode)))
    assert type(caught.value).code == "E-SHA-006"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("words", [("--to", "a", "--to", "b"), ("--to", "a", "--to", "a", "--to", "b"), ("--passphrase-file", "a") * 2])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    """Two places, one place twice, two passphrases: refused before anything is made."""
    with pytest.raises(click.UsageError):
        genesis.main(list(words), standalone_mode=False)


def test_what_a_ceremony_says(tmp_path: Path) -> None:
    """People get the three paths on standard output; the file holds the statement, signed by two of its keys."""
    done = CliRunner().invoke(genesis, ["--to", str(tmp_path / "new")], catch_exceptions=False)
    assert done.stdout.split() == [str(path) for path in shares_in(tmp_path / "new")]
    share = read_share(shares_in(tmp_path / "new")[0])
    frame = open_frame(from_text(share.root))
    check_threshold(frame, read_root(frame))
    assert share.seed
    assert Signer.from_seed(from_text(share.seed)).public.hex() == share.public
