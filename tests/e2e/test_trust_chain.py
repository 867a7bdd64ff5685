"""Why something is believed: every chain ends in the root, in words and for programs; and a journal is verified with the root alone."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from bus.journal.schema import ENTRIES
from keys.root import make_root
from keys.signing import Signer
from tests.cloud import ENJIN
from tests.e2e.clouds import Raised

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def subjects(cloud: Raised, *words: str) -> list[list[str]]:
    """Return who stands in each chain, the leaf first, the root last."""
    chains = cloud.json("trust", "show", *words)["chains"]
    assert all(link["state"] == "in force" for chain in chains for link in chain["links"])
    return [[link["subject"] for link in chain["links"]] + [chain["links"][-1]["issuer"]] for chain in chains]


def test_every_chain_ends_in_the_root(hello: Raised) -> None:
    """Of our own key, of nodes of each ring, of an app, of a key id, of an entry and of a request."""
    nodes = hello.nodes()
    ring0, ring1 = nodes["ring0"]["id"], nodes["ring1"]["id"]
    account = hello.json("trust", "show")["chains"][0]["links"][0]["subject"]
    assert subjects(hello) == [[account, ring0, "root"]]
    assert subjects(hello, "ring0") == [[ring0, "root"]]
    assert subjects(hello, "ring1") == subjects(hello, "hello") == subjects(hello, "hello.web.1") == [[ring1, ring0, "root"]]
    own = hello.json("trust", "show")["chains"][0]["links"][0]["keys"]["message"]
    assert subjects(hello, own[:12]) == [[account, ring0, "root"]]
    pushed = next(iter(hello.json("audit", "log", "--ring", "1", "--action", "app.push")))
    expected = [[account, ring0, "root"], [ring1, ring0, "root"]]
    assert subjects(hello, f"1/{pushed['number']}") == subjects(hello, pushed["request"]) == expected


def test_it_is_told_in_words(hello: Raised) -> None:
    """A person reads who vouches for whom, why, and until when."""
    told = hello.run("trust", "show", "ring1").stdout
    assert told.startswith("node ring1 of ring 1\n")
    assert "issuing key" in told
    assert "the root's keys" in told
    assert told.rstrip().splitlines()[-1].strip().startswith("the root: statement ")


def test_nothing_such(hello: Raised) -> None:
    """A name that nobody has is said to be none, with its code."""
    for word in ("nobody-here", "0/999999", "01890000-0000-7000-8000-000000000000"):
        done = hello.run("trust", "show", word, check=False)
        assert (done.returncode, done.stderr.rstrip()[-11:]) == (1, "[E-CLI-015]"), word


def verify_alone(path: Path, root: Path) -> tuple[int, dict[str, object]]:
    """Verify a file as somebody who has neither cloud nor key."""
    words = [ENJIN, "audit", "verify", "--file", str(path), "--root", str(root), "--json"]
    environment = {"PATH": "/usr/bin:/bin", "ENJIN_HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


@pytest.mark.parametrize("ring", [0, 1])
def test_a_journal_is_verified_with_the_root_alone(hello: Raised, tmp_path: Path, ring: int) -> None:
    """Copied away, with the root statement and nothing else: it holds; a changed byte is named; another root believes nothing of it."""
    root = tmp_path / "root.frame"
    hello.run("trust", "root", "--out", str(root))
    path = hello.copy_journal(ring, tmp_path / "copy")
    status, said = verify_alone(path, root)
    assert (status, said["ok"]) == (0, True), said
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert said["entries"] == database.execute(f"SELECT max(number) FROM {ENTRIES.name}").fetchone()[0]
    damaged = tmp_path / "damaged.db"
    shutil.copy(path, damaged)
    with contextlib.closing(sqlite3.connect(damaged)) as database, database:
        database.execute(f"UPDATE {ENTRIES.name} SET data = replace(data, '\"epoch\":1', '\"epoch\":2') WHERE number = 3")
    status, said = verify_alone(damaged, root)
    assert (status, said["ok"], said["first_bad"]) == (1, False, 3)
    other = tmp_path / "other.frame"
    shares = [Signer.from_seed(bytes([number]) * 32) for number in range(3)]
    other.write_bytes(make_root(shares, 1, 1 << 60))
    status, said = verify_alone(path, other)
    assert status == 1
    assert "[E-OFF-001]" in str(said["error"])
