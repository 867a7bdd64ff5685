"""Blocks of host uids: never shared, passed over where somebody else has them, given back, whoever asks at the same time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ring0 import uids

SPAN = uids.BLOCK * uids.BLOCKS
TURNS = 20


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the test's own, on a machine where nobody has subordinate uids."""
    monkeypatch.setattr(uids, "FILE", tmp_path / "uids.json")
    monkeypatch.setattr(uids, "_subordinate", list)
    return tmp_path / "uids.json"


def test_the_same_owner_keeps_its_blocks() -> None:
    """Asked again, it is the same number; another owner gets the next."""
    assert [uids.reserve("/a"), uids.reserve("/b"), uids.reserve("/a")] == [uids.FIRST, uids.FIRST + SPAN, uids.FIRST]


def test_given_back_is_given_again(file: Path) -> None:
    """What is released is free; the file goes with the last owner, and releasing twice is no matter."""
    uids.reserve("/a")
    uids.reserve("/b")
    uids.release("/a")
    assert uids.reserve("/c") == uids.FIRST
    for owner in ("/b", "/c", "/c"):
        uids.release(owner)
    assert [file.exists(), file.with_suffix(".lock").exists()] == [False, False]


def test_subordinate_uids_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that touches a range of /etc/subuid is not ours."""
    monkeypatch.setattr(uids, "_subordinate", lambda: [(uids.FIRST + SPAN - 1, uids.FIRST + SPAN + 1)])
    assert uids.reserve("/a") == uids.FIRST + SPAN + uids.BLOCK


def test_the_blocks_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every block is taken it is refused, and nothing is written."""
    monkeypatch.setattr(uids, "LAST", uids.FIRST + SPAN - 1)
    uids.reserve("/a")
    with pytest.raises(uids.NoUids):
        uids.reserve("/b")
    assert uids.reserve("/a") == uids.FIRST


def _again_and_again(owner: str, path: Path) -> list[int]:
    uids.FILE = path  # type: ignore[misc]
    found = []
    for _ in range(TURNS):
        found.append(uids.reserve(owner))
        uids.release(owner)
    return [*found, uids.reserve(owner)]


def test_clouds_that_ask_at_once_never_share(file: Path) -> None:
    """Processes that reserve and release at the same time, also while the file comes and goes, end with blocks of their own."""
    owners = [f"/{number}" for number in range(4)]
    with multiprocessing.get_context("fork").Pool(len(owners)) as pool:
        last = [found[-1] for found in pool.starmap(_again_and_again, [(owner, file) for owner in owners])]
    assert len(set(last)) == len(owners)
    assert {(first - uids.FIRST) % uids.BLOCK for first in last} == {0}
    assert min(abs(one - other) for one in last for other in last if one != other) >= SPAN
