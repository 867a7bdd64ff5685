"""All keys of the root are replaced while the cloud runs: attacks are refused and counted, and nothing that is valid ever is."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.session import Session
from compartments.history import GetCounters
from enjin.canonical import from_text, to_text
from enjin.errors import EnjinError
from keys.ceremony import hold_succession
from keys.frame import join, open_frame
from keys.operator import load_roots
from keys.shares import OpenedRoot, open_root, read_share, shares_in
from keys.succession import make_successor
from ring0.commands.tokens import CreateRing1Token
from ring0.compartments import CreateCompartment
from ring0.foundation import DAY_US, no_passphrase, read_foundation
from ring0.nodes import ListNodes
from ring0.roots import RotateRoot
from tests.cloud import ROOT
from tests.e2e.clouds import BACK_S, Raised, raised, wait_for
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
TURNS_MIN, COMMAND_EACH = 30, 10


class Commanding:
    """Valid commands and questions to both rings, one after the other, on a session that was open before anything changed."""

    def __init__(self, cloud: Raised) -> None:
        self.done, self.failures = 0, list[str]()
        self._cloud, self._ending = cloud, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._go_on()))

    def __enter__(self) -> Commanding:
        self._thread.start()
        self.wait_more()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def wait_more(self) -> None:
        goal = self.done + TURNS_MIN
        wait_for(lambda: self.done >= goal or self.failures, BACK_S, "more turns")

    async def _go_on(self) -> None:
        async with await Session.open(self._cloud.config) as session:
            for number in itertools.count():
                if self._ending.is_set():
                    return
                try:
                    if number % COMMAND_EACH == 0:  # journals that other tests read should not fill up with this
                        turn = number // COMMAND_EACH
                        secret = hashlib.sha256(b"%d" % turn).hexdigest()
                        await session.command(0, CreateCompartment(name=f"turn-{turn}", kind="rack"), reason="while the root changes")
                        wish = CreateRing1Token(name=f"turn-{turn}", secret_hash=secret, compartment="default", role="tenant", life_s=60)
                        await session.command(1, wish, reason="while the root changes")
                    for ring in (0, 1):
                        await session.query(ring, ListNodes())
                    self.done += 1
                except EnjinError as error:
                    self.failures.append(f"{number}: {error}")
                    return


@pytest.fixture(scope="module")
def cloud() -> Iterator[Raised]:
    """A cloud of this module's own: in a shared one others may have made operators, who would have to approve."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with temporary_home() as folder, raised(folder, free_port_base()) as made:
        yield made


@pytest.fixture(scope="module")
def hello(cloud: Raised) -> Raised:
    """The same with hello live in it."""
    cloud.push(ROOT / "examples/hello", "hello")
    return cloud


@pytest.fixture(scope="module")
def original(cloud: Raised) -> OpenedRoot:
    """The root as `enjin up` made it, two of its keys in hand."""
    founded = read_foundation(cloud.home)
    assert founded is not None
    return open_root([read_share(path) for path in shares_in(cloud.home / "root")], no_passphrase, founded.founded)


def granted(cloud: Raised) -> list[str]:
    return [line["grant"] for line in cloud.json("root", "show")["granted"]]


def handler(cloud: Raised) -> int:
    """Return how many wishes ring 0 has refused in deciding."""
    counters: dict[str, int] = cloud.ask(0, GetCounters())
    return counters.get("handler", 0)


def refused(cloud: Raised, original: OpenedRoot, frame: bytes) -> str:
    """Return the code with which ring 0 refuses *frame*, and check that it was counted and changed nothing."""
    before, head = handler(cloud), cloud.json("root", "show")["version"]
    with pytest.raises(EnjinError) as caught:
        cloud.tell(0, RotateRoot(first=to_text(original.frame), frame=to_text(frame)))
    assert (handler(cloud), cloud.json("root", "show")["version"]) == (before + 1, head)
    return str(caught.value.details.get("code", type(caught.value).code))


def successor(original: OpenedRoot, confirms: list[str]) -> bytes:
    """Return the statement after the first one, by the right keys and three new ones."""
    statement = original.statement
    return from_text(hold_succession(original, confirms, statement.issued, statement.expiry + DAY_US)[0].root)


def test_n24_live(hello: Raised, original: OpenedRoot) -> None:
    """N24: N+2 directly, t-1, only old keys, only new keys; an operator sends them, and ring 0 refuses and counts each."""
    confirms = granted(hello)
    two = successor(original, confirms)
    frame = open_frame(two)
    old, new = frame.signatures[:2], frame.signatures[2:]
    for signatures in ((*old[:1], *new), (*old, *new[:1]), old, new, (old[0], old[0], *new)):
        assert refused(hello, original, join(frame.type, frame.payload, signatures)) == "E-ROT-001"
    three = make_successor(frame, original.signers, original.signers, issued=1, expiry=1 << 60, confirms=confirms)
    assert refused(hello, original, three) == "E-ROT-003"
    assert refused(hello, original, successor(original, [])) == "E-ROT-006"


def test_n24_n25_the_root_is_replaced_and_no_valid_command_refused(hello: Raised, original: OpenedRoot, tmp_path: Path) -> None:
    """Two old shares and two new ones sign; every ring follows while commands go on; the old root and another successor are refused."""
    other = successor(original, granted(hello))
    old = [word for path in shares_in(hello.home / "root")[1:] for word in ("--share", str(path))]
    with Commanding(hello) as load:
        made = hello.json("root", "rotate", *old, "--to", str(tmp_path / "new"), "--reason", "a holder has left")
        load.wait_more()
    assert load.failures == []
    assert (made["version"], made["ring1"], len(shares_in(tmp_path / "new"))) == (2, True, 3)
    shown = hello.json("root", "show")
    assert (shown["version"], shown["granted"]) == (2, [{"grant": granted(hello)[0], "subject": hello.nodes()["ring0"]["id"]}])
    assert shown["statements"][1]["keys"] == [read_share(path).public for path in shares_in(tmp_path / "new")]
    assert load_roots(hello.config.keys, shown["cloud"]) == [from_text(made["root"])]
    # N25: neither back nor aside.
    assert refused(hello, original, original.frame) == "E-ROT-002"
    assert refused(hello, original, other) == "E-ROT-004"
    with pytest.raises(AssertionError, match="E-SHA-007"):
        hello.run("root", "rotate", *old, "--to", str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_it_stays_so(hello: Raised) -> None:
    """Daemons of both rings that are killed come back with it; all three rings answer, and a journal is still verified with the first."""
    version = hello.json("root", "show")["version"]
    for ring in (0, 1):
        killed = hello.service(ring, "daemon")
        os.kill(killed.pid, signal.SIGKILL)
        hello.wait_back(lambda ring=ring: hello.service(ring, "daemon"), killed)
    wait_for(lambda: hello.settled("hello"), BACK_S, "both rings")

    def answering() -> bool:
        done = hello.run("ask", "ping", "--json", check=False)
        return sorted(one["label"] for one in json.loads(done.stdout or '{"answers": []}')["answers"] if one["ok"]) == [
            "agent.default", "ring0", "ring1",
        ]  # fmt: skip

    wait_for(answering, BACK_S, "all three rings")
    assert hello.json("root", "show")["version"] == version
    assert hello.json("audit", "verify")["ok"]
