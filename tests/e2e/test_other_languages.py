"""A client in another language, written after `docs/wire.md` alone: enjin takes what it signs, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cloud import ROOT
from tests.e2e.clouds import Raised

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
CLIENT = ROOT / "examples/clients/client.mjs"
NODE = shutil.which("node")
LINES_MAX = 100


def ask(cloud: Raised, client: Path, *words: str) -> tuple[int, Any]:
    """Run the client in Node; return its exit status and the answer's body, or what it complains of."""
    if NODE is None:
        pytest.skip("Node is not installed")
    command = [NODE, str(client), str(cloud.home), str(cloud.keys), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_the_client_is_short() -> None:
    """A stranger needs an afternoon and a hundred lines, BLAKE2b included."""
    assert len(CLIENT.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


def test_a_command_signed_in_node_is_accepted(cloud: Raised) -> None:
    """Decided, journaled with signer, door and reason, and refused in its own words the second time; queries in both rings answer."""
    wish = ("command.compartment.create", '{"name":"from-node"}', "signed in Node")
    assert ask(cloud, CLIENT, "0", *wish)[1]["result"]["path"] == "cloud/from-node"
    [entry] = [one for one in cloud.json("audit", "log", "--ring", "0") if one["why"] == "signed in Node"]
    [key] = cloud.keys.glob("*.key")
    assert (entry["who"], entry["door"]) == (json.loads(key.read_text())["account"], "http")
    status, refused = ask(cloud, CLIENT, "0", *wish)
    assert (status, refused["ok"], refused["code"]) == (1, False, "E-LKP-002")
    assert ask(cloud, CLIENT, "1", "query.app.list", "{}")[0] == 0
    assert cloud.verify(0)["ok"]


def test_what_it_signs_wrongly_is_refused(cloud: Raised, tmp_path: Path) -> None:
    """The same client with one rule of the document broken: another spelling, another personalisation, a stale time; nothing is decided."""
    breaks = {
        "spaces": ("canonical(statement))", "JSON.stringify(JSON.parse(canonical(statement)), null, 1))"),
        "another key id": ("Buffer.from(keyId(raw), 'hex'), sign", "blake2b(raw, 'other').subarray(0), sign"),
        "stale": ("time: now * 1000", "time: now * 1000 - 120e6"),
    }
    before = cloud.head(0)
    for name, (right, wrong) in breaks.items():
        text = CLIENT.read_text(encoding="utf-8")
        assert right in text, name
        broken = tmp_path / f"{name.replace(' ', '-')}.mjs"
        broken.write_text(text.replace(right, wrong), encoding="utf-8")
        status, said = ask(cloud, broken, "0", "command.compartment.create", '{"name":"never"}')
        assert status == 1, name
        assert "E-BUS-014" in json.dumps(said) or "was not accepted" in said, (name, said)
    assert cloud.head(0) == before
