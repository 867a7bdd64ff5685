"""`enjin ask` in a real cloud: every ring's daemons answer one signed question, and who does not is named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.clouds import BACK_S, Raised, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def answering(hello: Raised) -> Raised:
    """The shared cloud with everybody there: ring 0, ring 1 and hello's agent."""
    wait_for(lambda: labels(hello) == ["agent.default", "ring0", "ring1"], BACK_S, "all three daemons")
    return hello


def labels(cloud: Raised, *words: str) -> list[str]:
    """Return who answers a ping, by label."""
    done = cloud.run("ask", "ping", "--json", *words, check=False)
    return sorted(one["label"] for one in json.loads(done.stdout)["answers"] if one["ok"]) if done.stdout else []


def test_all_three_rings_answer(answering: Raised) -> None:
    """Facts of each, its own, with a line for people and a document for programs."""
    told = answering.json("ask", "daemon.facts")
    assert (told["schema"], told["group"], told["targeted"], told["ok"], told["failed"], told["silent"]) == (1, "group/all", 3, 3, 0, [])
    assert {one["label"]: one["result"]["ring"] for one in told["answers"]} == {"ring0": 0, "ring1": 1, "agent.default": 2}
    assert len({one["result"]["node"] for one in told["answers"]}) == 3
    assert 0 < told["min_ms"] <= told["avg_ms"] <= told["p95_ms"]
    people = answering.run("ask", "daemon.ping")
    assert "3 targeted, 3 ok, 0 failed, 0 silent" in people.stderr
    assert "agent.default" in people.stdout


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("ring2", ["agent.default"]),
        ("default", ["agent.default"]),
        ("infrastructure", ["ring1"]),
        ("meta", ["ring0"]),
        ("ring1", ["ring1"]),
        ("rack", ["ring0", "ring1"]),
        ("cloud", ["agent.default", "ring0", "ring1"]),
    ],
)
def test_a_group_answers_and_nobody_else(answering: Raised, where: str, expected: list[str]) -> None:
    """By ring, compartment and tier."""
    assert labels(answering, "--where", where) == expected


def test_one_node_is_asked_by_its_id(answering: Raised) -> None:
    """An agent too, which ring 0 does not know."""
    agent = next(one["node"] for one in answering.json("ask", "ping")["answers"] if one["label"] == "agent.default")
    assert labels(answering, "--where", agent) == ["agent.default"]


@pytest.fixture
def stopped(answering: Raised) -> Iterator[str]:
    """The agent, stopped as by a debugger: it is there, and says nothing."""
    name = next(one for one in answering.services(1) if one.startswith("agent-"))
    pid = answering.service(1, name).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield "agent.default"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_silent_one_is_named(answering: Raised, stopped: str) -> None:
    """Exit status 3 and its name; with nobody left to answer, exit status 1."""
    done = answering.run("ask", "ping", "--timeout", "1.5", check=False)
    assert done.returncode == 3
    assert "3 targeted, 2 ok, 0 failed, 1 silent" in done.stderr
    assert f"silent: {stopped} (a-" in done.stderr
    assert answering.run("ask", "ping", "--where", "ring2", "--timeout", "0.5", check=False).returncode == 1


def test_unknown_words_say_what_there_is(answering: Raised) -> None:
    """A group that is none, and a kind that is not asked of many."""
    nowhere = answering.run("ask", "ping", "--where", "nowhere", check=False)
    assert (nowhere.returncode, "E-GRP-002" in nowhere.stderr) == (1, True)
    kind = answering.run("ask", "tier.list", check=False)
    assert (kind.returncode, "daemon.ping" in kind.stderr) == (2, True)
