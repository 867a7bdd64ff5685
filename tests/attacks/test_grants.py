"""Attacks with a stolen key for grants: what it signs counts for nothing until a journal shows it."""

from __future__ import annotations

import os

import msgspec
import pytest

from bus.stages import StrangeKey
from compartments.history import GetHead
from enjin.canonical import from_text, to_text
from enjin.host import random_bytes
from keys.frame import open_frame
from keys.grants import PublicKeys, read_grant, sign_grant
from keys.keyring import Keyring
from ring0.keys import EnrollKey, ListKeys, RevokeKey
from tests.attacks.test_commands import check_refused, harmless, reply_of
from tests.attacks.voices import Party, Voices
from tests.cloud import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_n19_a_grant_that_no_journal_shows_is_believed_by_nobody(voices: Voices) -> None:
    """Whoever holds ring 0's key for grants makes itself an operator: refused in both rings as a stranger. Its valid twin is the very
    same grant once ring 0's journal holds it, where everybody sees it, and where it can be revoked."""
    directory = voices.directory
    stolen = Keyring.load(voices.cloud.home / "ring0" / "keys", directory.cloud).issuer
    assert stolen is not None
    own = read_grant(open_frame(from_text(voices.session.key.grant)))
    ghost = Keyring(directory.cloud, random_bytes(32))
    frame = sign_grant(msgspec.structs.replace(own, keys=PublicKeys(message=ghost.message.public.hex())), stolen)
    party = Party(ghost, own.subject, open_frame(frame).digest)
    for ring in (0, 1):
        check_refused(voices, ring, StrangeKey, lambda ring=ring: voices.post(ring, voices.frame(ring, harmless(voices, ring), party)))  # type: ignore[misc]

    asked = voices.frame(0, EnrollKey(frame=to_text(frame)), voices.thief_of_ring0())
    assert reply_of(voices.post(0, asked)).ok
    key = str(ghost.message.key_id)
    assert key in {line["key"] for line in voices.query(0, ListKeys())}
    assert reply_of(voices.post(0, voices.frame(0, harmless(voices, 0), party))).ok
    wait_for(lambda: voices.post(1, voices.frame(1, GetHead(), party)).status == 200, 30, "ring 1 knows the key")
    voices.command(0, RevokeKey(key=key, reason="nobody knows whose it is"))
    wait_for(lambda: voices.post(1, voices.frame(1, GetHead(), party)).status == 401, 30, "ring 1 has heard of the revocation")
