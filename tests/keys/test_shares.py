"""Root shares as files: any two of one ceremony open the root, and nothing else does."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import msgspec
import pytest

from enjin.canonical import canonical, from_text, to_text
from enjin.errors import EnjinError
from keys import shares
from keys.ceremony import hold_ceremony
from keys.frame import open_frame
from keys.root import read_root
from keys.shares import BadShare, Share, open_root, open_share, read_share, shares_in, write_shares, write_together

NOW, YEAR = 10**15, 31_536_000_000_000
WORDS = (b"correct horse", b"battery staple", b"incorrect mule")
MEMORY = 8 << 20  # a test need not pay what a thief must
THREE = hold_ceremony(NOW, NOW + YEAR)
CLOSED = hold_ceremony(NOW, NOW + YEAR, WORDS, MEMORY)


def knows(*words: bytes) -> shares.Ask:
    """Return what answers with the passphrase of each share."""
    return lambda share: words[share.number - 1]


def nobody(share: Share) -> bytes:
    raise AssertionError(f"share {share.number} is not closed")


def code(error: pytest.ExceptionInfo[EnjinError]) -> str:
    return type(error.value).code


@pytest.mark.parametrize("pair", list(itertools.permutations(range(3), 2)))
def test_any_two_shares_open_the_root(pair: tuple[int, int]) -> None:
    """Each pair, in both orders: the same statement, and two different keys of it."""
    root = open_root([THREE[number] for number in pair], nobody, NOW)
    assert root.statement == read_root(open_frame(root.frame))
    assert {signer.public.hex() for signer in root.signers} == {THREE[number].public for number in pair}
    assert set(root.statement.keys) == {share.public for share in THREE}


@pytest.mark.parametrize("given", [[], [0], [1, 1], [2, 2, 2]])
def test_n06_one_share_given_twice_is_one(given: list[int]) -> None:
    """N6: the threshold counts different keys; two copies of one share are one share."""
    with pytest.raises(EnjinError) as caught:
        open_root([THREE[number] for number in given], nobody, NOW)
    assert code(caught) == "E-SHA-003"


def test_shares_of_two_ceremonies_do_not_add_up() -> None:
    """One share of each of two roots opens neither, and a key that the statement does not name counts for nothing."""
    other = hold_ceremony(NOW, NOW + YEAR)
    stranger = msgspec.structs.replace(other[1], root=THREE[0].root)
    for pair in ([THREE[0], other[1]], [THREE[0], stranger]):
        with pytest.raises(EnjinError) as caught:
            open_root(pair, nobody, NOW)
        assert code(caught) == "E-SHA-003"


@pytest.mark.parametrize("now", [NOW - 1, NOW + YEAR])
def test_a_root_out_of_its_time_founds_nothing(now: int) -> None:
    """Before its time, and from its expiry on."""
    with pytest.raises(EnjinError) as caught:
        open_root(THREE, nobody, now)
    assert code(caught) == "E-SHA-005"
    assert open_root(THREE, nobody, NOW + YEAR - 1).signers


def test_a_passphrase_opens_its_own_share() -> None:
    """Each opens with its own passphrase; with another's, a changed one or an empty one it does not, and its file holds no seed."""
    for share, word in zip(CLOSED, WORDS, strict=True):
        assert open_share(share, lambda _share, word=word: word).public.hex() == share.public
        assert not share.seed
        for wrong in (*({*WORDS} - {word}), word + b" ", b""):
            with pytest.raises(EnjinError) as caught:
                open_share(share, lambda _share, wrong=wrong: wrong)
            assert code(caught) == "E-SHA-002"
    assert len(open_root(CLOSED[1:], knows(*WORDS), NOW).signers) == 2
    with pytest.raises(shares.WrongPassphrase):
        hold_ceremony(NOW, NOW + YEAR, (b"short", *WORDS[1:]), MEMORY)


def test_what_stands_beside_a_closed_seed_is_bound_to_it() -> None:
    """Another number, another root, another key: the box does not open."""
    first, second = CLOSED[:2]
    changed = [{"number": 2}, {"root": ("B" if second.root[0] == "A" else "A") + second.root[1:]}, {"public": second.public}]
    for fields in changed:
        with pytest.raises(shares.WrongPassphrase):
            open_share(msgspec.structs.replace(first, **fields), lambda _share: WORDS[0])


@pytest.mark.parametrize("fields", [{"memory": 1 << 40}, {"operations": 1 << 30}, {"memory": 1}, {"operations": 0}, {"salt": "AAAA"}])
def test_a_lock_cannot_ask_for_all_our_memory(fields: dict[str, object]) -> None:
    """A file from a stranger's stick is bounded before anything is stretched."""
    lock = msgspec.structs.replace(CLOSED[0].lock, **fields)
    with pytest.raises(BadShare):
        open_share(msgspec.structs.replace(CLOSED[0], lock=lock), knows(*WORDS))


def test_a_share_with_anothers_seed_is_refused() -> None:
    """The seed has to make the key that stands beside it, which the others take for this share's."""
    with pytest.raises(BadShare):
        open_share(msgspec.structs.replace(THREE[0], seed=THREE[1].seed), nobody)


def test_shares_go_to_three_places_and_come_back(tmp_path: Path) -> None:
    """Three directories, one file each, 0600; nothing is ever written over one, and a refusal writes none of them."""
    places = [tmp_path / name for name in "abc"]
    paths = write_shares(places, THREE)
    assert [path.parent for path in paths] == places
    assert [read_share(path) for path in paths] == THREE
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    fresh = [tmp_path / "d", tmp_path / "e", tmp_path / "c"]
    with pytest.raises(EnjinError) as caught:
        write_shares(fresh, CLOSED)
    assert code(caught) == "E-SHA-004"
    assert shares_in(tmp_path / "d") == [] == shares_in(tmp_path / "e")
    assert read_share(paths[2]) == THREE[2]


def test_a_disk_that_fails_keeps_no_part_of_a_ceremony(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write fails, no share stays behind; the next attempt writes all."""
    write, done = shares.write_atomic, 0
    for cut in range(3):
        left = [cut]

        def failing(path: Path, data: bytes, mode: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise shares.FileFailed("the disk is full")
            write(path, data, mode)

        monkeypatch.setattr(shares, "write_atomic", failing)
        with pytest.raises(shares.FileFailed):
            write_shares([tmp_path], THREE)
        assert shares_in(tmp_path) == []
        done += 1
    monkeypatch.setattr(shares, "write_atomic", write)
    assert (done, len(write_shares([tmp_path], THREE))) == (3, 3)


def test_a_place_without_modes_takes_closed_shares_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stick that shows every file to everybody, as vfat does: a share in clear does not stay there, a closed one does."""
    write = shares.write_atomic
    monkeypatch.setattr(shares, "write_atomic", lambda path, data, _mode: write(path, data, 0o755))
    with pytest.raises(BadShare):
        write_shares([tmp_path], THREE)
    assert shares_in(tmp_path) == []
    assert [read_share(path) for path in write_shares([tmp_path], CLOSED)] == CLOSED


def test_all_shares_appear_at_once(tmp_path: Path) -> None:
    """Into a missing or empty directory, over what a crash left beside it; into one that holds something, not at all."""
    (tmp_path / ".root.new").mkdir()
    (tmp_path / ".root.new" / "share-1.key").write_bytes(b"half")
    (tmp_path / "root").mkdir()
    assert [read_share(path) for path in write_together(tmp_path / "root", THREE)] == THREE
    assert os.listdir(tmp_path) == ["root"]
    with pytest.raises(shares.ShareThere):
        write_together(tmp_path / "root", CLOSED)
    assert [read_share(path) for path in shares_in(tmp_path / "root")] == THREE
    assert os.listdir(tmp_path) == ["root"]


def test_a_file_that_is_no_share_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, empty, cut anywhere, a byte more, too long, with both or neither seed, of another version, a bad root."""
    path, good = tmp_path / "share-1.key", canonical(THREE[0])
    bad = [good[:cut] for cut in range(0, len(good), 37)]
    bad += [good + b" ", b"x" * 70_000, good.replace(b'"v":1', b'"v":2'), good.replace(to_text(from_text(THREE[0].seed)).encode(), b"")]
    bad += [canonical(msgspec.structs.replace(THREE[0], lock=CLOSED[0].lock)), canonical(msgspec.structs.replace(THREE[0], root="AAAA"))]
    for missing in (path, tmp_path):
        with pytest.raises(BadShare):
            read_share(missing)
    for data in bad:
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(BadShare):
            read_share(path)
    path.write_bytes(good)
    assert read_share(path) == THREE[0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_share_in_clear_is_its_owners_alone(tmp_path: Path, mode: int) -> None:
    """Open to others it is refused; one that a passphrase closes may lie on a stick without modes."""
    for share in (THREE[0], CLOSED[0]):
        (path,) = write_shares([tmp_path], [share])
        path.chmod(mode)
        if share.lock is None:
            with pytest.raises(BadShare):
                read_share(path)
        else:
            assert read_share(path) == share
        path.unlink()
