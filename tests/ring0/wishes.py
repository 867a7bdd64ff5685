"""One possible wish at least for every command of ring 0, each with a world in which it is granted and a moment.

`tests/test_pure_decisions.py` runs them all; a command without a sample fails there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from bus.messages import Command, Moment, Role, Table, canonical, parse
from compartments import graph, standing
from compartments.destroying import DestroyCompartment
from compartments.rows import Node
from compartments.rows_joining import JoinToken as Token
from compartments.world import World
from enjin.canonical import to_text
from keys.frame import CHARTER, open_frame, seal
from keys.grants import Capability, PublicKeys
from keys.joining import JoinRequest, JoinToken, secret_hash, sign_request
from keys.keyring import Keyring
from keys.requests import prove, publics
from keys.root import cloud_id, make_root
from keys.signing import Signer
from keys.succession import make_successor
from ring0 import charters, roots
from ring0.accounts import CloseAccount, CreateAccount, CreateToken, RevokeToken
from ring0.addresses import AssignAddress, CreateNetwork, DelegateBlock, ReleaseAddress
from ring0.approvals import RequireApprovals
from ring0.buses import MoveBus
from ring0.charters import IssueCharter
from ring0.compartments import ContainCompartment, CreateCompartment, PartCompartment
from ring0.destroying import CondemnCompartment, ForgetCompartment, KeepCompartment
from ring0.enrolling import RequestKey
from ring0.inviting import Invite, Uninvite
from ring0.joining import Join, subject_of
from ring0.keys import EnrollKey, ReplaceKey, RevokeKey
from ring0.nodes import PlaceNode, RemoveNode, ReportNode, RestartNode, StartNode, StopNode
from ring0.roots import RotateRoot
from ring0.services import SERVICES
from ring0.tiers import AssignTier, CreateTier, PromoteNode, UnassignTier
from tests.ring0.book import CLOUD, HOUR, KEYS, OPERATOR, RING0, START, Book, founded, genesis

TABLE = Table.of(*SERVICES)
SECRET = hashlib.sha256(b"a secret").hexdigest()


def running(**fields: Any) -> Book:
    """Return a cloud with one running ring 1 node, `ring1`."""
    book = founded(**fields)
    placed = book.ask(PlaceNode(label="ring1", strategy="jail"))
    book.ask(ReportNode(node=placed["id"], generation=1, state="running", isolation={"pid": "pid:[4026]"}), Role.SUPERVISOR)
    return book


def chartered() -> tuple[Book, IssueCharter]:
    """Return a cloud whose ring 1 node has a grant, and the wish for its first charter."""
    book = running()
    node = next(row for row in book.world.all(Node) if row.ring == 1)
    book.ask(EnrollKey(frame=KEYS.grant(node.id, "ring1", ring=1, role=3)), Role.SUPERVISOR)
    return book, issue(book, node.id)


def issue(book: Book, node: str) -> IssueCharter:
    """Return the wish for *node*'s next charter, as the daemon would send it."""
    said = charters.draft(book.world, book.world.need(Node, node))
    return IssueCharter(domain=node, version=said.version, frame=to_text(seal(CHARTER, canonical(said), KEYS.issuer)))


def asking(name: str, *, word: str = "", **fields: Any) -> RequestKey:
    """Return the wish for a grant for *name*'s new key, which follows from *word* (the name when empty)."""
    ring = Keyring(CLOUD, hashlib.sha256((word or name).encode()).digest())
    asked = {**publics(ring), "proof": prove(ring, name)}
    return RequestKey(**({"name": name} | asked | fields))


ROOT_KEYS, NEXT_KEYS = (
    [Signer.from_seed(hashlib.sha256(f"{word} {number}".encode()).digest()) for number in range(3)] for word in ("root", "next root")
)
ROOT = make_root(ROOT_KEYS, START - HOUR, START + 8_760 * HOUR)


def rooted() -> Book:
    """Return a cloud whose id is that of a real root statement, `ROOT`, which granted ring 0 its key."""
    cloud = cloud_id(open_frame(ROOT))
    grants = (
        KEYS.grant(RING0, "ring0", role=3, depth=3, cloud=cloud, parent=""),
        KEYS.grant(OPERATOR, "operator", cloud=cloud),
    )
    return founded(cloud=cloud, grants=grants)


def succeeding(book: Book, frame: bytes = ROOT, old: list[Signer] = ROOT_KEYS, new: list[Signer] = NEXT_KEYS) -> RotateRoot:
    """Return the wish for the statement after *frame*, which confirms all that the root has granted in *book*."""
    confirms = [row.id for row in roots.granted(book.world)]
    made = make_successor(open_frame(frame), old, new, issued=START, expiry=START + 17_520 * HOUR, confirms=confirms)
    return RotateRoot(first=to_text(ROOT), frame=to_text(made))


def ending(name: str = "leaving") -> tuple[Book, tuple[DestroyCompartment, CondemnCompartment, ForgetCompartment]]:
    """Return a cloud with a ring 1 node and an empty compartment *name*, and the wishes that destroy it, in their order."""
    book = running()
    book.ask(DelegateBlock(network="fabric", ipv4="10.80.128.0/19"))
    made = book.ask(CreateCompartment(name=name))["id"]
    nodes = tuple(node.id for node in book.world.find(Node, ring=1))
    return book, (
        DestroyCompartment(compartment=name, confirm=made),
        CondemnCompartment(compartment=made, nodes=nodes),
        ForgetCompartment(compartment=made, nodes=nodes),
    )


SECRET_KEY = hashlib.sha256(b"a join token").digest()[:16]


def inviting(name: str = "carol", secret: bytes = SECRET_KEY, **fields: Any) -> Invite:
    """Return the wish for a join token."""
    return Invite(**({"name": name, "allowed": ("app", "log"), "secret_hash": secret_hash(secret)} | fields))  # type: ignore[arg-type]


def joining(book: Book, token: str, *, secret: bytes = SECRET_KEY, word: str = "carol's", source: str = "10.1.2.3", **fields: Any) -> Join:
    """Return the wish by which the daemon uses *token* for the key that follows from *word*; *fields* change the request."""
    ring = Keyring(CLOUD, hashlib.sha256(word.encode()).digest())
    held = JoinToken(CLOUD[:16], "0" * 16, token, secret)
    asked = JoinRequest(
        **(
            {
                "cloud": held.cloud,
                "parent": held.parent,
                "token": token,
                "secret": held.signer.public.hex(),
                "ring": 0,
                "keys": PublicKeys(message=ring.message.public.hex(), curve=ring.curve.public.hex(), nats=ring.nats.public.hex()),
            }
            | fields
        )
    )
    return Join(request=to_text(sign_request(asked, held, ring.message)), grant=bought(book, token, asked.keys), source=source)


def bought(book: Book, token: str, halves: PublicKeys, **fields: Any) -> str:
    """Return the grant that the daemon would propose for *token*, unless *fields* say otherwise."""
    row = book.world.get(Token, token)
    if row is None:
        return ""
    path = graph.path_text(book.world, row.compartment)
    said = {
        "role": int(standing.level(book.world, row.role)),
        "keys": halves,
        "compartment": path,
        "allowed": tuple(Capability(verb, path) for verb in row.allowed.split()),
    }
    subject = fields.pop("subject", subject_of(book.world, row))
    return KEYS.grant(subject, "", **(said | fields))


def examples() -> Iterator[tuple[World, Command, Moment]]:
    """Yield (world, wish, moment) for every command."""
    empty = Book()
    yield _example(empty, genesis(), Role.SUPERVISOR)
    cloud = rooted()
    yield _example(cloud, succeeding(cloud), Role.OPERATOR)
    book, charter = chartered()
    yield _example(book, charter, Role.SUPERVISOR)
    book.ask(CreateTier(name="queen", single=True))
    book.ask(CreateTier(name="pawn", above="queen"))
    book.ask(AssignTier(tier="pawn", node="ring1", group="db"))
    book.ask(CreateCompartment(name="feed", kind="power"))
    book.ask(ContainCompartment(compartment="feed", child="rack"))
    book.ask(CreateAccount(name="someone", role="tenant"))
    book.ask(CreateToken(account="someone", name="laptop", secret_hash=SECRET))
    book.ask(AssignAddress(network="fabric", node="ring1", address="10.80.9.9"))
    book.ask(DelegateBlock(network="fabric", ipv4="10.80.128.0/19"))
    book.ask(DelegateBlock(network="fabric", ipv4="10.80.160.0/19"))
    book.ask(PlaceNode(label="spare", strategy="process"))
    book.ask(StopNode(node="spare"))
    invited = book.ask(inviting())
    for wish in (
        CreateCompartment(name="tenant-a"),
        ContainCompartment(compartment="feed", child="ring1"),
        PartCompartment(compartment="feed", child="rack"),
        MoveBus(bus="nats"),
        CreateTier(name="mail", summary="sends mail"),
        AssignTier(tier="web", node="ring1"),
        UnassignTier(tier="pawn", node="ring1"),
        PromoteNode(node="ring1", tier="pawn"),
        CreateNetwork(name="lab", ipv4="10.99.0.0/24"),
        DelegateBlock(network="fabric", ipv4="10.80.192.0/18"),
        AssignAddress(network="fabric", node="ring1"),
        ReleaseAddress(address="10.80.9.9"),
        StartNode(node="spare"),
        StopNode(node="ring1"),
        RestartNode(node="ring1"),
        RemoveNode(node="ring1"),
        PlaceNode(label="third", strategy="process", address="10.80.7.7"),
        ReportNode(node="ring1", generation=1, state="failed", reason="ended with status 1"),
        EnrollKey(frame=KEYS.grant(OPERATOR, "second key")),
        RevokeKey(key=KEYS.key("ring1"), reason="lost"),
        ReplaceKey(key=KEYS.key("ring1")),
        asking("second-person"),
        CreateAccount(name="another", role="operator", compartment="cloud"),
        CloseAccount(account="someone"),
        CreateToken(account="someone", name="phone", secret_hash="0" * 64),
        RevokeToken(token="laptop"),
        RequireApprovals(approvals=3),
        inviting("dave", b"d" * 16),
        Uninvite(token=invited["id"]),
        joining(book, invited["id"]),
    ):
        yield _example(book, wish, Role.SUPERVISOR)
    yield from _destroying()


def _destroying() -> Iterator[tuple[World, Command, Moment]]:
    for wishes in (1, 2, 3):
        book, (close, condemn, forget) = ending()
        for wish in (close, condemn, forget)[: wishes - 1]:
            book.ask(wish, Role.SUPERVISOR)
        yield _example(book, (close, condemn, forget)[wishes - 1], Role.SUPERVISOR)
        if wishes == 2:
            yield _example(book, KeepCompartment(compartment=close.confirm, why="it holds app hello"), Role.SUPERVISOR)


def _example(book: Book, wish: Command, role: Role) -> tuple[World, Command, Moment]:
    return book.world, parse(canonical(wish), type(wish)), book.moment(role)
