"""The root's succession as ring 0 decides it, and as it comes to ring 1."""

from __future__ import annotations

import msgspec

from bus.messages import Role
from compartments.rows import Grant, Node, RootSuccessor
from enjin.canonical import from_text, to_text
from keys.ceremony import hold_ceremony, hold_succession
from keys.frame import join, open_frame
from keys.shares import open_root
from keys.signing import Signer
from ring0 import charters
from ring0.foundation import no_passphrase
from ring0.keys import EnrollKey
from ring0.nodes import PlaceNode
from ring0.roots import RotateRoot, ShowRoot
from tests.ring0.book import HOUR, KEYS, RING0, START, Book, founded
from tests.ring0.test_cloud import refused
from tests.ring0.wishes import NEXT_KEYS, ROOT, ROOT_KEYS, TABLE, rooted, succeeding

THIRD_KEYS = [Signer.from_seed(bytes([number]) * 32) for number in range(3)]


def granted(book: Book) -> str:
    """Return the hash of ring 0's grant."""
    return next(row.id for row in book.world.all(Grant) if row.subject == RING0)


def test_a_successor_is_taken_once() -> None:
    """It stands in the world, a repeat changes nothing, and the next one follows; replay makes the same of it."""
    book = rooted()
    second = succeeding(book)
    assert book.ask(second) == {"version": 2}
    assert book.facts(second) == []
    third = succeeding(book, from_text(second.frame), NEXT_KEYS, THIRD_KEYS)
    assert book.ask(third) == {"version": 3}
    assert [row.frame for row in book.world.all(RootSuccessor)] == [second.frame, third.frame]
    told = book.answer(ShowRoot())
    assert told["successors"] == [second.frame, third.frame]
    assert [open_frame(from_text(text)).digest for text in told["granted"]] == [granted(book)]
    assert book.world.digest() == book.replayed().digest()


def test_n24_what_may_not_follow_is_refused() -> None:
    """N24, at the decision: N+2 directly, t-1 of the old or of the new, only old, only new keys; and the world stays as it is."""
    book = rooted()
    second = succeeding(book)
    digest = book.world.digest()
    refused(book, succeeding(book, from_text(second.frame), NEXT_KEYS, THIRD_KEYS), "E-ROT-003")
    pairs = ([ROOT_KEYS[0]], NEXT_KEYS), (ROOT_KEYS, [NEXT_KEYS[0]]), (NEXT_KEYS, NEXT_KEYS)
    for old, new in pairs:
        frame = open_frame(from_text(second.frame))
        keys = {signer.key_id for signer in (*old[:2], *new[:2])}
        signed = [one for one in frame.signatures if one.key_id in keys]
        refused(book, msgspec.structs.replace(second, frame=to_text(join(frame.type, frame.payload, signed))), "E-ROT-001")
    assert book.world.digest() == digest
    book.ask(second)


def test_n25_no_way_back_and_no_second_way() -> None:
    """N25: after the second comes neither the first, nor another second, nor - after the third - the second again."""
    book = rooted()
    second, other = succeeding(book), succeeding(book, new=THIRD_KEYS)
    book.ask(second)
    refused(book, RotateRoot(first=second.first, frame=second.first), "E-ROT-002")
    refused(book, other, "E-ROT-004")
    book.ask(succeeding(book, from_text(second.frame), NEXT_KEYS, THIRD_KEYS))
    refused(book, second, "E-ROT-002")


def test_another_clouds_root_is_refused() -> None:
    """Neither its first statement nor a successor of it, however well signed."""
    book, other = rooted(), founded()
    refused(other, succeeding(book), "E-ROT-005")
    shares = hold_ceremony(START - HOUR, START + HOUR)
    opened = open_root(shares, no_passphrase, START)
    successor = hold_succession(opened, [granted(book)], START, START + HOUR)[0].root
    refused(book, RotateRoot(first=shares[0].root, frame=successor), "E-ROT-005")
    refused(book, RotateRoot(first=to_text(ROOT), frame=successor), "E-ROT-003")
    refused(book, RotateRoot(first="", frame=successor), "E-FRM-001")


def test_ring_0_is_never_left_without_a_root() -> None:
    """A successor that does not confirm ring 0's grant would end the cloud: it is refused."""
    book = rooted()
    empty = founded()
    wish = succeeding(empty)  # confirms nothing: no grant there is the root's own
    refused(book, wish, "E-ROT-006")


def test_only_operators_rotate() -> None:
    """The statement is signed by the root, and still not everybody may put it in force."""
    assert TABLE.rule(RotateRoot.KIND).allow is Role.OPERATOR
    assert TABLE.rule(RotateRoot.KIND).urgent


def test_the_next_charter_brings_it_to_ring_1() -> None:
    """It is due at once, and holds every statement after the first."""
    book = rooted()
    book.ask(PlaceNode(label="ring1", strategy="jail"))
    node = next(row for row in book.world.all(Node) if row.ring == 1)
    book.ask(EnrollKey(frame=KEYS.grant(node.id, "ring1", ring=1, role=3, cloud=open_frame(ROOT).digest)), Role.SUPERVISOR)
    assert charters.draft(book.world, node).roots == ()
    wish = succeeding(book)
    book.ask(wish)
    assert charters.draft(book.world, node).roots == (wish.frame,)


def test_new_shares_come_with_the_statement_that_names_them() -> None:
    """Two old shares make three new ones; any two of these open the new statement, which a further succession can follow."""
    old = open_root(hold_ceremony(START - HOUR, START + HOUR), no_passphrase, START)
    new = hold_succession(old, ["ab" * 32], START, START + 2 * HOUR)
    opened = open_root(new[1:], no_passphrase, START)
    assert (opened.statement.version, opened.statement.confirms) == (2, ("ab" * 32,))
    assert opened.statement.previous == open_frame(old.frame).digest
    assert not {share.public for share in new} & set(old.statement.keys)
