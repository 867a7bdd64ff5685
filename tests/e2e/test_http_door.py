"""Another user of the machine with a copy of the operator's key: no socket is theirs, so signed envelopes go through the HTTP door."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clouds import Raised
from tests.e2e.other_user import User, UsersCloud, other_user
from tests.places import temporary_home

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users"),
    pytest.mark.usefixtures("apps_end"),
]


class Guest(UsersCloud):
    """The same cloud as its other user drives it: with copies of the key and of the public directory, and no socket."""

    def __init__(self, folder: Path, user: User, owners: Raised) -> None:
        super().__init__(folder, owners.port_base, user)
        (self.home / "run").mkdir(parents=True)
        shutil.copy(owners.home / "run/cloud.json", self.home / "run/cloud.json")
        self.keys = folder / "keys"
        shutil.copytree(owners.keys, self.keys)
        for path in (self.keys, *self.keys.iterdir()):
            os.chown(path, user.uid, user.uid)
        self.environment |= {"ENJIN_KEYS": str(self.keys)}


@pytest.fixture(scope="module")
def guest(cloud: Raised) -> Iterator[Guest]:
    """Somebody else on the machine."""
    with other_user() as user, temporary_home() as folder:
        yield Guest(folder, user, cloud)


def entry_of(cloud: Raised, ring: int, why: str) -> dict[str, Any]:
    """Return the journal's one entry with the reason *why*."""
    [entry] = [entry for entry in cloud.json("audit", "log", "--ring", str(ring)) if entry["why"] == why]
    return dict(entry)


def test_both_rings_answer(cloud: Raised, guest: Guest) -> None:
    """Questions to ring 0 and to ring 1 get the answers that the owner gets."""
    assert [node["id"] for node in guest.json("status")["nodes"]] == [node["id"] for node in cloud.json("status")["nodes"]]


def test_a_push_through_the_door(cloud: Raised, guest: Guest) -> None:
    """Commands are carried out, an operation is followed to its end, and the app answers."""
    pushed = guest.push(guest.user.checkout / "examples/hello", "guests-hello")
    assert pushed["release"] == 1
    assert cloud.answers("guests-hello")


def test_the_audit_names_the_key_and_the_door(cloud: Raised, guest: Guest) -> None:
    """The journals say that the operator did it, why, and by which door; the owner's own commands came over the bus."""
    for one, why in ((guest, "through the door"), (cloud, "over the bus")):
        one.run("compartment", "create", why.replace(" ", "-"), "--reason", why)
    through, over = (entry_of(cloud, 0, why) for why in ("through the door", "over the bus"))
    assert through["who"] == over["who"]
    assert (through["door"], over["door"]) == ("http", "bus")


def test_without_the_key_nothing(guest: Guest) -> None:
    """The directory of the cloud is public, and worth nothing without a key."""
    for path in guest.keys.iterdir():
        path.rename(path.with_suffix(".away"))
    try:
        done = guest.run("status", check=False)
        assert done.returncode != 0
        assert "E-KEY-102" in done.stderr
    finally:
        for path in guest.keys.iterdir():
            path.rename(path.with_suffix(".key"))
