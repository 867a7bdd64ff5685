"""A compartment's secrets are shredded in a real cloud: gone from it, and from a copy that was made before."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from compartments.approvals import Approve
from enjin.canonical import canonical, from_text
from keys.frame import open_frame
from keys.keyring import KeyPair
from keys.operator import load_operator_key
from keys.sealing import Unsealable, open_value
from tests.attacks.voices import Party, Voices
from tests.cloud import ENJIN, ROOT
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


def test_n06_with_two_operators_the_other_one_agrees(fresh_cloud: Raised) -> None:
    """What waits is listed; neither the asker nor a token approves it; the other operator's key does, through HTTP and over the bus."""
    cloud = fresh_cloud
    wait_for(lambda: cloud.json("compartment", "secrets", "default")["state"] == "in use", BACK_S, "a sealing key")
    [key_file] = cloud.home.glob("nodes/*/state/ring1/secrets/*.key")
    assert cloud.json("approvals", "--require", "3", "--reason", "we grow") == {"approvals": 3}  # where there are so many
    made = cloud.json("key", "create", "bob", "--reason", "a second operator")
    bob = {"ENJIN_KEYS": str(Path(made["file"]).parent)}
    wait_for(lambda: _run(cloud, bob, "app", "list").returncode == 0, BACK_S, "ring 1 knows bob's key")
    shred = ("compartment", "shred", "default", "--yes", "--reason", "the customer left")
    waits = cloud.run(*shred, check=False)
    assert (waits.returncode, waits.stderr.rstrip()[-11:]) == (3, "[E-APR-009]")
    [row] = cloud.json("approvals")
    assert (row["what"], row["who"], row["why"], row["needed"]) == ("compartment.shred", "operator", "the customer left", 1)
    assert row["wish"] == {"compartment": "default", "confirm": "default"}
    assert cloud.run("approve", row["id"], check=False).stderr.rstrip().endswith("[E-APR-003]")

    agree = Approve(request=row["id"], digest=row["digest"])
    token = json.loads(_run(cloud, bob, "token", "create", "ci", "--role", "operator", "--json").stdout)["token"]
    with Voices(cloud) as voices:
        bearer = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        told = voices.http(1, "POST", "/v1/trust/approve", canonical(agree), bearer)
        assert (told.status, told.problem["code"]) == (403, "E-APR-005")
        assert key_file.exists()
        key = load_operator_key(bob["ENJIN_KEYS"], voices.directory.cloud)
        party = Party(key.keyring(), key.account, open_frame(from_text(key.grant)).digest)
        assert voices.post(1, voices.frame(1, agree, party)).status == 200
    wait_for(lambda: not key_file.exists(), BACK_S, "the key is destroyed")
    wait_for(lambda: cloud.json("compartment", "secrets", "default")["state"] == "shredded", BACK_S, "known to be destroyed")
    assert cloud.json("approvals") == []
    again = _run(cloud, bob, "approve", row["id"])
    assert (again.returncode, again.stderr.rstrip()[-11:]) == (1, "[E-APR-002]")
    assert cloud.json("audit", "verify")["ok"]

    waits = _run(cloud, bob, "approvals", "--require", "1")
    assert (waits.returncode, waits.stderr.rstrip()[-11:]) == (3, "[E-APR-009]")
    [row] = cloud.json("approvals")
    assert (row["ring"], row["what"], row["wish"]) == (0, "trust.require", {"approvals": 1})
    assert _run(cloud, bob, "approve", row["id"], "--refuse").returncode == 0  # ring 0 waits too, and who asked can withdraw
    assert cloud.json("approvals") == []

    cloud.run("compartment", "new-key", "default", "--reason", "a new customer")
    waits = _run(cloud, bob, *shred)
    assert waits.returncode == 3
    [row] = cloud.json("approvals")
    assert (row["who"], cloud.json("approve", row["id"], "--reason", "agreed")["state"]) == ("bob", "carried")


def _run(cloud: Raised, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run `enjin` as somebody else."""
    return subprocess.run([ENJIN, *words], env=cloud.environment | environment, capture_output=True, text=True, check=False)


def _holds(path: Path, secret: bytes) -> bool:
    try:
        return secret in path.read_bytes()
    except OSError:
        return False
