"""Watching a live channel: what passes is verified and decoded, and what is refused is shown with its stage and reason."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.attacks.voices import Voices
from tests.cloud import ENJIN, ROOT
from tests.e2e.clouds import Raised

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


def watch(cloud: Raised, act: Callable[[], Any], wanted: Callable[[dict[str, Any]], bool], *words: str) -> dict[str, Any]:
    """Watch ring 0's channel, do *act* once it is being watched, and return the first line that is *wanted*."""
    with subprocess.Popen(
        [ENJIN, "bus", "tail", "--json", *words], env=cloud.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        try:
            assert watching.stdout is not None
            acted = False
            for text in watching.stdout:
                line = json.loads(text)
                if not acted:  # the beacon of each second: it hears
                    acted = True
                    act()
                if wanted(line):
                    return dict(line)
        finally:
            watching.kill()
    raise AssertionError("the watcher ended")


def test_a_command_and_its_answer_pass_by(cloud: Raised) -> None:
    """Who asked whom for what, why, and what was answered; the wish's own body is the journal's matter and is not shown."""

    def act() -> None:
        cloud.run("tier", "create", "watched", "--reason", "to be seen", check=False)

    seen = watch(cloud, act, lambda line: line["subject"] == "command.tier.create")
    assert (seen["verified"], seen["reason"], seen["for"]) == (True, "to be seen", cloud.nodes()["ring0"]["id"])
    answer = watch(cloud, act, lambda line: line.get("code") == "E-LKP-002")
    assert (answer["verified"], answer["ok"]) == (True, False)


def test_kinds_narrow_it(cloud: Raised) -> None:
    """Only what begins so; and a count ends it."""
    done = cloud.run("bus", "tail", "--kind", "seen.beacon", "--count", "2", "--json")
    assert [json.loads(line)["subject"] for line in done.stdout.splitlines()] == ["seen.beacon", "seen.beacon"]
    assert "seen.trust.beacon" in cloud.run("bus", "tail", "--kind", "seen.trust", "--count", "1", "--ring", "1").stdout


def test_a_refusal_is_shown_with_its_reason(cloud: Raised) -> None:
    """A frame for another receiver is refused at its stage, and whoever watches hears of it, once and signed by the daemon."""
    from ring0.tiers import CreateTier

    with Voices(cloud) as voices:

        def act() -> None:
            voices.publish(0, "command.tier.create", voices.frame(0, CreateTier(name="never"), aud="n-00000000000000ff"))

        seen = watch(cloud, act, lambda line: "refused" in line, "--kind", "seen")
    assert (seen["refused"]["stage"], seen["refused"]["code"]) == ("audience", "E-BUS-010")
    assert seen["from"] == cloud.nodes()["ring0"]["id"]


def test_the_live_bus_is_measured(cloud: Raised) -> None:
    """Both rings answer 400 questions, and the figures make sense."""
    for ring in ("0", "1"):
        told = cloud.json("bus", "bench", "--ring", ring)
        assert 0 < told["min_ms"] <= told["median_ms"] <= told["p95_ms"]
        assert told["answers_per_s"] > 0
