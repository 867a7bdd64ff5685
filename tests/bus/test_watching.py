"""A bystander believes what a receiver would believe, whoever it is for, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from bus.batches import SUBJECT as BATCH
from bus.batches import pack
from bus.watching import Watcher, told
from tests.bus.parties import CHANNEL, DOMAIN, NODE, Cloud, Paint, Saw

SUBJECT = f"command.{Paint.KIND}"


@pytest.fixture
def cloud() -> Cloud:
    """Everybody's keys."""
    return Cloud()


@pytest.fixture
def watcher(cloud: Cloud) -> Watcher:
    """Somebody who watches ring 1's channel."""
    return Watcher(cloud.trust, CHANNEL, cloud.clock)


def wish(cloud: Cloud, audience: str = NODE) -> bytes:
    """Return the operator's sealed wish."""
    return cloud.speaker_of(cloud.operator).seal(SUBJECT, Paint(app="web"), audience=audience, reason="because")


@pytest.mark.parametrize("audience", [NODE, DOMAIN, "n-somebody-else"])
def test_what_is_for_others_is_verified_too(cloud: Cloud, watcher: Watcher, audience: str) -> None:
    """Who, whom, why and how large; a watcher is nobody's audience and looks at everybody's."""
    frame = wish(cloud, audience)
    line = told(watcher.look(SUBJECT, frame))
    expected = {"verified": True, "from": "operator", "for": audience, "reason": "because", "bytes": len(frame)}
    assert {key: line[key] for key in expected} == expected


def test_the_same_message_is_shown_as_often_as_it_passes(cloud: Cloud, watcher: Watcher) -> None:
    """A replay is news to whoever watches."""
    frame = cloud.speaker_of(cloud.agent, daemon=True).seal(f"seen.{Saw.KIND}", Saw(instance="i"), audience=DOMAIN)
    assert [told(watcher.look(f"seen.{Saw.KIND}", frame))["verified"] for _ in range(3)] == [True] * 3


def test_what_does_not_verify_says_why(cloud: Cloud, watcher: Watcher) -> None:
    """A flipped bit, another subject, another channel, a revoked key: shown with its stage, and nothing of its content is."""
    frame = wish(cloud)
    flipped = frame[:-1] + bytes([frame[-1] ^ 1])
    elsewhere = cloud.speaker_of(cloud.operator, channel="ring0").seal(SUBJECT, Paint(app="web"), audience="n-x")
    for data, subject, stage in ((flipped, SUBJECT, "signature"), (frame, "command.other", "subject"), (elsewhere, SUBJECT, "channel")):
        line = told(watcher.look(subject, data))
        assert set(line) == {"subject", "bytes", "verified", "why"}
        assert (line["verified"], line["why"].partition(":")[0]) == (False, stage)
    cloud.trust.revoke(str(cloud.operator.keyring.message.key_id))
    assert told(watcher.look(SUBJECT, frame))["why"].startswith("grant: ")


def test_a_foreign_subject_behind_a_foreign_audience_is_seen(cloud: Cloud, watcher: Watcher) -> None:
    """The checks behind the one that is not a watcher's are made all the same."""
    assert told(watcher.look("command.other", wish(cloud, "n-somebody-else")))["why"].startswith("subject: ")


def test_a_batch_is_counted_by_kind(cloud: Cloud, watcher: Watcher) -> None:
    """How many records of which kind; one that does not hold together says why."""
    agent = cloud.speaker_of(cloud.agent, daemon=True)
    good = agent.seal(BATCH, next(pack([Saw(instance="i"), Saw(instance="j")])), audience=DOMAIN)
    assert told(watcher.look(BATCH, good))["records"] == {"instance.seen": 2}
    bad = told(watcher.look(BATCH, agent.seal(BATCH, msgspec.Raw(b'{"runs":[]}'), audience=DOMAIN)))
    assert bad["records"] is None
    assert bad["why"]
