"""A compartment's secrets are shredded in a real cloud: gone from it, and from a copy that was made before."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keys.keyring import KeyPair
from keys.sealing import Unsealable, open_value
from tests.cloud import ROOT
from tests.e2e.clouds import BACK_S, Raised, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
CANARY = "canary-7d1f-shred-me"


def sealed_values(journal: Path) -> list[tuple[str, str]]:
    """Return every (key, sealed value) that a journal's facts hold."""
    with closing(sqlite3.connect(journal)) as database:
        entries = [json.loads(row[0]) for row in database.execute("SELECT data FROM journal_entries")]
    facts = [fact for entry in entries for fact in entry["facts"] if fact["kind"] == "settings.changed"]
    return [pair for fact in facts for pair in fact["changed"].items()]


def opens(pair: KeyPair, place: str, text: str) -> bool:
    """Tell whether *pair* opens a value."""
    try:
        return open_value(pair, place, text) == CANARY
    except Unsealable:
        return False


def test_what_is_shredded_is_gone_from_backups_too(fresh_cloud: Raised, tmp_path: Path) -> None:
    """Before: the key opens the journal's copy. After: no file left anywhere is that key; chain and apps stand; a new key works."""
    cloud = fresh_cloud
    cloud.push(ROOT / "examples/hello", "hello")
    cloud.run("config", "set", f"TOKEN={CANARY}", "--app", "hello")
    [key_file] = cloud.home.glob("nodes/*/state/ring1/secrets/*.key")
    secret = key_file.read_bytes()
    backup = cloud.copy_journal(1, tmp_path / "backup")
    [(name, value)] = sealed_values(backup)
    assert (name, opens(KeyPair(secret), "default/hello/TOKEN", value)) == ("TOKEN", True)

    refused = cloud.run("compartment", "shred", "default", "--reason", "no answer", check=False)
    assert refused.returncode != 0
    assert key_file.exists()
    told = cloud.json("compartment", "shred", "default", "--yes", "--reason", "the customer left")
    assert (told["state"], told["apps"]) == ("shredded", ["hello"])

    assert not key_file.exists()
    holders = [path for path in cloud.home.rglob("*") if path.is_file() and not path.is_symlink() and _holds(path, secret)]
    assert holders == []
    assert cloud.answers("hello")  # what runs goes on
    assert cloud.json("audit", "verify")["ok"]
    done = cloud.run("config", "set", "TOKEN=again", "--app", "hello", check=False)
    assert done.stderr.rstrip().endswith("[E-CFG-006]")
    cloud.run("compartment", "new-key", "default", "--reason", "a new customer")
    [other] = cloud.home.glob("nodes/*/state/ring1/secrets/*.key")
    assert not opens(KeyPair(other.read_bytes()), "default/hello/TOKEN", value)
    cloud.run("config", "set", "TOKEN=again", "--app", "hello")
    wait_for(lambda: cloud.settled("hello"), BACK_S, "hello with its new setting")


def _holds(path: Path, secret: bytes) -> bool:
    try:
        return secret in path.read_bytes()
    except OSError:
        return False
