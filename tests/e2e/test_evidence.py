"""A journal handed to other tools, compared between two moments, and put back from its witness after it was damaged."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sqlite3
from typing import Any

import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from bus.journal.schema import ENTRIES
from tests.cloud import ROOT
from tests.e2e.clouds import BACK_S, Raised, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
PREFIX = "application/vnd.enjin."


def pae(envelope: dict[str, Any]) -> bytes:
    """Return what a DSSE signature covers, written anew after the specification."""
    kind, body = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def check_dsse(envelope: dict[str, Any], publics: list[str]) -> bool:
    """Verify as any DSSE tool would: the signature by one of *publics*, whose key id is only a hint."""
    for signature in envelope["signatures"]:
        for public in publics:
            with contextlib.suppress(BadSignatureError):
                VerifyKey(bytes.fromhex(public)).verify(pae(envelope), base64.b64decode(signature["sig"]))
                return True
    return False


def payload(frame: bytes) -> bytes:
    """Return the payload of a frame, by docs/wire.md alone."""
    end = 6 + int.from_bytes(frame[4:6], "big")
    return frame[end + 4 : end + 4 + int.from_bytes(frame[end : end + 4], "big")]


def keys_of(cloud: Raised, which: str) -> list[str]:
    """Return every public key of one purpose that the cloud's directory names."""
    directory = json.loads((cloud.home / "run/cloud.json").read_text())
    frames = [base64.urlsafe_b64decode(text + "==") for text in directory["grants"]]
    grants = [json.loads(payload(frame)) for frame in frames]
    return [grant["keys"][which] for grant in grants if grant["keys"].get(which)]


@pytest.mark.parametrize("ring", [0, 1])
def test_an_export_verifies_without_us(cloud: Raised, ring: int) -> None:
    """Plain Ed25519 and SHA-256 find every cause and commit signed, and every entry in the chain; a changed commit is not."""
    cloud.run("compartment", "create", f"exported-{ring}", "--reason", "to be exported")
    before = cloud.head(ring).number
    lines = [json.loads(line) for line in cloud.run("audit", "export", "--ring", str(ring)).stdout.splitlines()]
    kinds = [line["payloadType"].removeprefix(PREFIX).removesuffix(".v1+json") for line in lines]
    assert kinds.count("entry") == kinds.count("msg") >= before
    messages, journals = keys_of(cloud, "message"), keys_of(cloud, "journal")
    previous, last = "", ""
    for kind, line in zip(kinds, lines, strict=True):
        body = json.loads(base64.b64decode(line["payload"]))
        if kind == "msg":
            assert check_dsse(line, messages)
        elif kind == "entry":
            assert previous in ("", body["previous"])
            previous = last = hashlib.sha256(pae(line)).hexdigest()
        else:
            assert check_dsse(line, journals)
            assert body["hash"] == last
    assert kinds[-1] == "commit"
    forged = lines[-1] | {"payload": base64.b64encode(base64.b64decode(lines[-1]["payload"]).replace(b'"epoch":1', b'"epoch":2')).decode()}
    assert not check_dsse(forged, journals)


def test_a_part_is_exported(cloud: Raised) -> None:
    """From an entry up to the commit that covers another; nothing beyond the head."""
    lines = [json.loads(line) for line in cloud.run("audit", "export", "--from", "2", "--to", "3").stdout.splitlines()]
    numbers = [json.loads(base64.b64decode(line["payload"]))["number"] for line in lines if "entry" in line["payloadType"]]
    assert numbers[0] == 2
    assert 3 in numbers
    assert cloud.run("audit", "export", "--from", "1000000").stdout == ""


def test_a_difference_names_what_changed(cloud: Raised) -> None:
    """Rows that came, by table, key and field, between two entries and up to now; the same moment twice shows nothing."""
    before = cloud.head(0).number
    cloud.run("compartment", "create", "differs", "--reason", "to be seen")
    told = cloud.json("audit", "diff", str(before))
    [added] = [change for change in told["changes"] if change["table"] == "compartment"]
    assert (added["op"], added["fields"]["name"]) == ("added", [None, "differs"])
    assert "differs" in cloud.run("audit", "diff", str(before), str(before + 1)).stdout
    assert cloud.json("audit", "diff", str(before), str(before))["changes"] == []
    reversed_ = cloud.json("audit", "diff", str(before + 1), str(before))["changes"]
    assert [change["op"] for change in reversed_ if change["table"] == "compartment"] == ["removed"]


def test_n33_a_damaged_journal_is_put_back_from_its_witness(fresh_cloud: Raised) -> None:
    """N33: an entry in the middle is changed and one is cut out; repair puts both back, cuts nothing, and the apps come back.

    Its valid twins: a running ring is not repaired, and a whole journal stays as it is.
    """
    cloud = fresh_cloud
    cloud.push(ROOT / "examples/hello", "hello")
    path, head = cloud.journal(1), cloud.head(1)
    copy = next((cloud.home / "ring0/children").glob("n-*")) / "followed.db"
    wait_for(lambda: _last(copy) == head.number, BACK_S, "ring 0's copy of the journal")
    refused = cloud.run("audit", "repair", check=False)
    assert (refused.returncode, refused.stderr.rstrip().endswith("[E-CLI-014]")) == (1, True)
    cloud.run("node", "stop", "ring1", "--reason", "its disk is bad")
    whole = cloud.json("audit", "repair")
    assert (whole["replaced"], whole["restored"], whole["head"]) == ([], [], _last(path))
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {ENTRIES.name} SET data = replace(data, 'app.push', 'app.pull') WHERE kind = 'app.push'")
        database.execute(f"DELETE FROM {ENTRIES.name} WHERE number = 2")
    assert cloud.run("audit", "verify", "--ring", "1", check=False).returncode == 1
    done = cloud.json("audit", "repair")
    assert (done["replaced"], done["restored"], done["head"]) == ([3], [2], whole["head"])
    assert cloud.json("audit", "verify", "--ring", "1")["ok"]
    cloud.run("node", "start", "ring1", "--reason", "it is whole again")
    wait_for(lambda: cloud.settled("hello"), BACK_S, "hello after the repair")


def test_ring_0_has_no_witness_here(cloud: Raised) -> None:
    """On one machine nobody holds a copy of ring 0's journal, and repair says so."""
    done = cloud.run("audit", "repair", "--ring", "0", check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("[E-CLI-013]")


def _last(path: Any) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return int(database.execute(f"SELECT max(number) FROM {ENTRIES.name}").fetchone()[0] or 0)  # None: nothing was copied yet
