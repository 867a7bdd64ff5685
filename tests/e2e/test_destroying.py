"""A compartment is destroyed in a real cloud: only an empty one, with another operator's approval, and its secrets with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compartments.destroying import DestroyCompartment, ShowHoldings
from enjin.host import clock, request_id
from keys.keyring import KeyPair
from tests.cloud import ENJIN, ROOT
from tests.e2e.clouds import BACK_S, Raised, wait_for
from tests.e2e.test_shredding import CANARY, opens, sealed_values
from tests.e2e.test_world_commands import http
from tests.places import free_port_base, temporary_home

pytestmark = [pytest.mark.timeout(240)]
HELLO = ROOT / "examples/hello"


def run_as(cloud: Raised, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run `enjin` as somebody else."""
    return subprocess.run([ENJIN, *words], env=cloud.environment | environment, capture_output=True, text=True, check=False)


def ends_with(done: subprocess.CompletedProcess[str], code: str, status: int = 1) -> bool:
    """Whether a command ended with *status* and one line that names *code*."""
    return (done.returncode, done.stderr.count("\n")) == (status, 1) and f"[{code}]" in done.stderr


def key_file(cloud: Raised, compartment: str) -> Path:
    """Return where the sealing key of *compartment* (an id) lies while there is one."""
    return next(cloud.home.glob("nodes/n-*")) / "state/ring1/secrets" / f"{compartment}.key"


def listed(cloud: Raised, *words: str) -> dict[str, str]:
    """Return the compartments by name: their ids."""
    return {row["name"]: row["id"] for row in cloud.json("compartment", "list", *words)}


@pytest.mark.root
def test_n06_with_two_operators_an_empty_compartment_is_destroyed(fresh_cloud: Raised, tmp_path: Path) -> None:
    """Held by an app it says so; emptied it waits for the other operator; then it, its key and its agent are gone, and its name is free."""
    cloud = fresh_cloud
    shop = cloud.json("compartment", "create", "shop", "--reason", "a new customer")["id"]
    wait_for(lambda: key_file(cloud, shop).exists(), BACK_S, "a sealing key")
    cloud.push(HELLO, "hello", "--compartment", "shop")
    cloud.run("config", "set", f"TOKEN={CANARY}", "--app", "hello")
    secret = key_file(cloud, shop).read_bytes()
    destroy = ("compartment", "destroy", "shop", "--yes", "--reason", "the customer left")
    held = cloud.run(*destroy, check=False)
    assert ends_with(held, "E-CMP-007"), held.stderr
    assert "app hello" in held.stderr
    assert cloud.json("compartment", "destroy", "shop", "--dry-run")["holds"] == ["app hello"]
    cloud.tell(0, DestroyCompartment(compartment="shop", confirm=shop))  # past the command line, which asks both rings first
    wait_for(lambda: cloud.ask(0, ShowHoldings(compartment=shop))["state"] == "open", BACK_S, "shop is kept")
    assert "app hello" in cloud.ask(0, ShowHoldings(compartment=shop))["why"]
    assert cloud.ask(1, ShowHoldings(compartment=shop))["state"] == "open"
    backup = cloud.copy_journal(1, tmp_path / "backup")
    [(_, value)] = [pair for pair in sealed_values(backup) if pair[0] == "TOKEN"]
    assert opens(KeyPair(secret), "shop/hello/TOKEN", value)
    cloud.run("app", "destroy", "hello", "--yes")

    made = cloud.json("key", "create", "bob", "--reason", "a second operator")
    bob = {"ENJIN_KEYS": str(Path(made["file"]).parent)}
    wait_for(lambda: run_as(cloud, bob, "app", "list").returncode == 0, BACK_S, "ring 1 knows bob's key")
    unanswered = cloud.run("compartment", "destroy", "shop", "--reason", "no answer", check=False)
    assert unanswered.returncode != 0
    waits = cloud.run(*destroy, check=False)
    assert (waits.returncode, waits.stderr.rstrip()[-11:]) == (3, "[E-APR-009]")
    [row] = cloud.json("approvals")
    assert (row["ring"], row["what"], row["why"], row["wish"]) == (
        0, "compartment.destroy", "the customer left", {"compartment": "shop", "confirm": shop}
    )  # fmt: skip
    assert "shop" in listed(cloud)
    assert key_file(cloud, shop).exists()
    before = cloud.json("audit", "log", "--ring", "0", "--limit", "1")[0]["number"]
    assert run_as(cloud, bob, "approve", row["id"], "--reason", "agreed by telephone").returncode == 0

    wait_for(lambda: "shop" not in listed(cloud), BACK_S, "the end of shop")
    assert not key_file(cloud, shop).exists()
    holders = [path for path in cloud.home.rglob("*") if path.is_file() and not path.is_symlink() and _holds(path, secret)]
    assert holders == []
    wait_for(lambda: not cloud.find("ring2.daemon", f"agent-{shop}"), BACK_S, "the end of its agent")
    assert listed(cloud, "--at", str(before))["shop"] == shop
    assert "shop" in {point["label"] for point in cloud.json("graph", "--at", str(before))["nodes"]}
    assert "shop" not in {point["label"] for point in cloud.json("graph")["nodes"]}
    told = {entry["what"]: entry for entry in cloud.json("audit", "log", "--ring", "0", "--limit", "20")}
    assert (told["compartment.destroy"]["name"], told["compartment.destroy"]["why"]) == ("operator", "the customer left")
    assert (told["trust.approve"]["name"], told["trust.approve"]["why"]) == ("bob", "agreed by telephone")
    assert "the customer left" in told["compartment.forget"]["why"]
    assert cloud.json("audit", "verify")["ok"]
    assert ends_with(cloud.run(*destroy, check=False), "E-CMP-001")

    again = cloud.json("compartment", "create", "shop", "--reason", "another customer")["id"]
    assert again != shop
    wait_for(lambda: key_file(cloud, again).exists(), BACK_S, "a sealing key of its own")
    assert not opens(KeyPair(key_file(cloud, again).read_bytes()), "shop/hello/TOKEN", value)
    assert cloud.push(HELLO, "hello", "--compartment", "shop")["url"]
    assert cloud.json("config", "get", "--app", "hello")["values"] == []
    through_the_door(cloud, bob)


def through_the_door(cloud: Raised, bob: dict[str, str]) -> None:
    """Check that a token asks for it at ring 0's API under one idempotency key, and the other operator's key approves it."""
    made = cloud.json("compartment", "create", "brief")["id"]
    token = cloud.json("token", "create", "ci", "--ring", "0", "--role", "operator", "--compartment", "cloud")["token"]
    headers = {"Idempotency-Key": str(request_id(clock().wall_us))}
    wish = {"compartment": "brief", "confirm": made}
    answers = [http(cloud, 0, "/v1/compartment/destroy", token, wish, headers) for _ in range(2)]
    assert [(status, told["repeated"]) for status, told in answers] == [(200, False), (200, True)]
    asked = answers[0][1]["result"]["approval"]
    assert (answers[1][1]["result"]["approval"], asked["what"], asked["needed"]) == (asked, "compartment.destroy", 1)
    assert http(cloud, 0, "/v1/compartment/destroy", token, wish | {"compartment": made}, headers)[0] == 409
    assert run_as(cloud, bob, "approve", asked["id"]).returncode == 0

    def gone() -> bool:
        status, told = http(cloud, 0, f"/v1/compartment/holds?compartment={made}", token)
        return (status, told["state"], told["name"]) == (200, "destroyed", "brief")

    wait_for(gone, BACK_S, "the end of brief")


def _holds(path: Path, secret: bytes) -> bool:
    try:
        return secret in path.read_bytes()
    except OSError:
        return False


# -- killed between the steps ------------------------------------------------------------------------------

POINTS = ("compartment.condemn", "compartment.ended", "compartment.forget")


@pytest.fixture
def bare() -> Iterator[Raised]:
    """A cloud without isolation, all of whose processes see one log of what was killed; raised by the test."""
    with temporary_home() as folder:
        made = Raised(folder, free_port_base(), ("--ring1", "process"))
        try:
            yield made
        finally:
            made.environment = {key: value for key, value in made.environment.items() if not key.startswith("ENJIN_FAILPOINT")}
            made.down()


def refuses_a_push(cloud: Raised) -> bool:
    """Whether a push into shop is refused because it ends, or has ended; while a daemon starts it is refused for that. None succeeds."""
    pushed = cloud.run("push", str(HELLO), "--app", "late", "--compartment", "shop", check=False)
    assert pushed.returncode != 0
    return any(f"[{code}]" in pushed.stderr for code in ("E-CMP-008", "E-CMP-001"))


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_the_steps_it_goes_on_by_itself(bare: Raised, point: str) -> None:
    """Whichever daemon dies between two steps: nothing is pushed meanwhile, nothing is done twice, and it is gone without repair."""
    log = bare.folder / "fault"
    bare.environment |= {"ENJIN_FAILPOINT": f"{point}:kill9:1", "ENJIN_FAILPOINT_LOG": str(log)}
    bare.up()
    shop = bare.json("compartment", "create", "shop")["id"]
    wait_for(lambda: key_file(bare, shop).exists(), BACK_S, "a sealing key")
    rid = str(request_id(clock().wall_us))
    wish = DestroyCompartment(compartment="shop", confirm=shop)
    first: Any = bare.tell(0, wish, reason="the customer left", rid=rid)
    assert first == {"id": shop, "name": "shop", "state": "closing"}
    wait_for(log.exists, BACK_S, f"a death at {point}")
    assert log.read_text() == f"{point}\n"
    wait_for(lambda: refuses_a_push(bare), BACK_S, "an answer to a push")
    wait_for(lambda: "shop" not in listed(bare), BACK_S, "the end of shop")
    assert not key_file(bare, shop).exists()
    assert bare.tell(0, wish, reason="the customer left", rid=rid) == first  # the same request has its old answer
    kinds = [entry["what"] for entry in bare.json("audit", "log", "--limit", "100")]
    for kind in ("compartment.destroy", "compartment.condemn", "compartment.forget", "compartment.ended"):
        assert kinds.count(kind) == 1, (kind, kinds)
    assert json.loads(bare.run("audit", "verify", "--json").stdout)["ok"]
    assert bare.json("compartment", "create", "shop")["id"] != shop
    assert bare.push(HELLO, "hello", "--compartment", "shop")["url"]
    bare.run("app", "destroy", "hello", "--yes")
    assert bare.json("compartment", "destroy", "shop", "--yes", "--reason", "once more")["state"] == "destroyed"
    bare.run("compartment", "create", "elsewhere", "--kind", "site")  # ring 1 never hears of a place where no app can be
    assert bare.json("compartment", "destroy", "elsewhere", "--yes")["state"] == "destroyed"
