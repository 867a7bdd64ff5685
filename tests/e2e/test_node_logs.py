"""`enjin node logs` in a real cloud: what the services of every ring write, also after their daemon was killed; and no secret in it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cloud import ENJIN
from tests.e2e.clouds import BACK_S, Raised, Started, wait_for
from tests.e2e.test_world_commands import http, name, refused, token

__all__ = ["token"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
CANARY = "canary-4b1e-node-logs"


def lines(cloud: Raised, *words: str) -> list[dict[str, Any]]:
    """Return what `enjin node logs WORDS --json` prints."""
    return [json.loads(line) for line in cloud.run("node", "logs", *words, "--json").stdout.splitlines()]


def by_service(found: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the texts by service."""
    told: dict[str, list[str]] = {}
    for line in found:
        told.setdefault(line["service"], []).append(line["text"])
    return told


def test_ring_0_tells_its_own_and_where_the_rest_is(cloud: Raised) -> None:
    """Its daemon and its hub; what hands and init write is root's, and said to be; with --local root reads hands too, without a daemon."""
    told = by_service(lines(cloud, "ring0", "-n", "5"))
    assert {"daemon", "hub"} <= set(told) and "hands" not in told
    assert all(len(texts) <= 5 and set(texts) <= set(cloud.written(0).splitlines()) for texts in told.values())
    notes = cloud.run("node", "logs", "ring0", "-n", "1").stderr
    assert "note: hands: " in notes and "note: init: " in notes and "--local" in notes
    refused(cloud, "node", "logs", "ring0", "--service", "hands", code="E-CLI-024")
    here = by_service(lines(cloud, "ring0", "--local", "-n", "3"))
    assert {"daemon", "hub"} <= set(here)
    assert set(here["daemon"]) <= set(cloud.written(0).splitlines())
    quiet = cloud.run("node", "logs", "ring0", "--local", "--service", "hands")
    assert quiet.stdout or "hands has written nothing" in quiet.stderr


def test_ring_1_tells_all_of_its_services(hello: Raised) -> None:
    """Daemon, hands, hub, router and agents, by time; so many of each, of one alone, since a moment, and those that match."""
    found = lines(hello, "ring1", "-n", "20")
    told = by_service(found)
    assert {"daemon", "hub"} <= set(told) <= set(hello.services(1))
    assert any(service.startswith("agent-") for service in told)
    assert [line["time"] for line in found] == sorted(line["time"] for line in found)
    assert max(len(texts) for texts in told.values()) <= 20
    assert set(by_service(lines(hello, "ring1", "--service", "daemon"))) == {"daemon"}
    entry = hello.json("compartment", "create", name("logged"))
    assert entry["id"]
    moment = found[-1]["time"]
    assert all(line["time"] >= moment for line in lines(hello, "ring1", "--since", moment))
    assert all("daemon.started" in line["text"] for line in lines(hello, "ring1", "--grep", "daemon.started", "-n", "5000"))
    node = hello.nodes()["ring1"]["id"]
    for words in ((node, "--local"), ("ring1",)):
        assert set(by_service(lines(hello, *words, "--service", "daemon"))) == {"daemon"}
        quiet = hello.run("node", "logs", *words, "--service", "hands")
        assert quiet.stdout or "hands has written nothing" in quiet.stderr


def test_an_agent_has_its_own(hello: Raised) -> None:
    """By label and by id; an app's instance is told by `enjin logs`, and what is not there is not."""
    told = lines(hello, "agent.default", "-n", "50")
    assert {line["service"] for line in told} == {"agent"} and {line["node"] for line in told} == {"agent.default"}
    assert {2} == {json.loads(line["text"])["ring"] for line in told if line["text"].startswith("{")}
    instance = next(row for row in hello.json("node", "list") if row["ring"] == 2)
    refused(hello, "node", "logs", instance["id"], code="E-CLI-023")
    refused(hello, "node", "logs", "nothing", code="E-NOD-001")
    refused(hello, "node", "logs", "ring1", "--service", "nothing", code="E-NOD-201")
    refused(hello, "node", "logs", "ring1", "--since", "5", code="E-MOM-001")
    refused(hello, "node", "logs", "nothing", "--local", code="E-CLI-025")


@pytest.fixture
def following(hello: Raised, tmp_path: Path) -> Iterator[Path]:
    """The file that `enjin node logs ring1 -f` writes to, while it runs."""
    path = tmp_path / "followed"
    with path.open("wb") as output:
        child = subprocess.Popen(
            [ENJIN, "node", "logs", "ring1", "-f", "-n", "1", "--service", "daemon"], env=hello.environment, stdout=output, stderr=output
        )
        try:
            yield path
        finally:
            child.terminate()  # an interrupt is ignored where whoever started the run ignored it
            child.wait(20)


def test_following_goes_on_over_a_death(hello: Raised, following: Path) -> None:
    """The daemon is killed and started again by its init: whoever follows sees the new one begin."""
    wait_for(lambda: following.read_text(), BACK_S, "a first line")
    before = following.read_text().count("daemon.started")
    killed = hello.service(1, "daemon")
    hello.wait_back(lambda: _killed(hello, killed), killed)
    wait_for(lambda: following.read_text().count("daemon.started") > before, BACK_S, "the start of the next daemon")
    wait_for(lambda: hello.settled("hello"), BACK_S, "ring 1 is back")


def _killed(cloud: Raised, victim: Any) -> Any:
    """Kill *victim* if it lives still, and return the daemon that runs now."""
    now = cloud.service(1, "daemon")
    if now == victim:
        os.kill(victim.pid, signal.SIGKILL)
    return now


@contextlib.contextmanager
def frozen(victim: Started) -> Iterator[None]:
    """Keep a process from running meanwhile."""
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(victim.pid, signal.SIGCONT)


def test_a_daemon_that_hangs_is_read_too(hello: Raised) -> None:
    """Ring 1's by ring 0; ring 0's own by --local, which the refusal names, and ring 1's by ring 1 itself while ring 0 hangs."""
    with frozen(hello.service(1, "daemon")):
        assert set(by_service(lines(hello, "ring1", "--service", "daemon", "-n", "3"))) == {"daemon"}
    wait_for(lambda: hello.settled("hello"), BACK_S, "ring 1 answers again")
    with frozen(hello.service(0, "daemon")):
        silent = hello.run("node", "logs", "ring0", check=False)
        assert (silent.returncode, "node logs ring0 --local" in silent.stderr) == (1, True), silent.stderr
        assert set(by_service(lines(hello, "ring0", "--local", "--service", "daemon", "-n", "3"))) == {"daemon"}
        assert set(by_service(lines(hello, "ring1", "--service", "daemon", "-n", "3"))) == {"daemon"}
    wait_for(lambda: hello.settled("hello"), BACK_S, "ring 0 answers again")


def test_no_secret_stands_in_it(hello: Raised) -> None:
    """Neither a setting's value nor a token, in what any ring's services wrote."""
    hello.run("config", "set", f"TOKEN={CANARY}", "--app", "hello")
    made = hello.json("token", "create", name("quiet"), "--reason", "a test")["token"]
    told = "".join(hello.run("node", "logs", node, "-n", "5000").stdout for node in ("ring0", "ring1", "agent.default"))
    told += hello.run("node", "logs", "ring0", "--local", "-n", "5000").stdout
    assert "message.handled" in told
    assert CANARY not in told
    assert made not in told and made.rpartition("_")[2] not in told
    hello.run("config", "unset", "TOKEN", "--app", "hello")


def test_through_the_http_api_for_operators_alone(hello: Raised, token: str) -> None:
    """The same question at the door of each ring; a tenant's token is refused."""
    status, told = http(hello, 0, "/v1/node/logs?node=ring1&lines=2&service=daemon", token)
    assert (status, [part["service"] for part in told["services"]], told["label"]) == (200, ["daemon"], "ring1")
    assert len(told["services"][0]["lines"]) <= 2
    tenants = hello.json("token", "create", name("tenant"), "--ring", "1", "--role", "tenant")["token"]
    operators = hello.json("token", "create", name("op"), "--ring", "1", "--role", "operator")["token"]
    for bearer, expected in ((tenants, 403), (operators, 200)):
        assert http(hello, 1, "/v1/node/logs?node=agent.default", bearer)[0] == expected
    node = hello.nodes()["ring1"]["id"]
    for words in ("ring1", node):
        assert http(hello, 1, f"/v1/node/logs?node={words}", operators)[0] == 403  # who operates one compartment reads its agent alone
    bound = hello.json("token", "create", name("bound"), "--ring", "0", "--role", "operator", "--compartment", "default")["token"]
    for words in ("ring1", "ring0", node, node[:12]):
        assert http(hello, 0, f"/v1/node/logs?node={words}", bound)[0] == 403
