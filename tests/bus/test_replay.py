"""The window takes every number once, however the numbers come; a boot that was left never speaks again; memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.rate import Buckets
from bus.replay import SLACK_US, TTL_CAPS_MS, TTL_MAX_MS, WINDOW, ReplayGuard, check_fresh
from bus.stages import BootFenced, NotFresh, Replayed, StageRefused, WindowFull

NOW = 10**15
BOOTS = ("a" * 32, "b" * 32, "c" * 32)


def taken(guard: ReplayGuard, boot: str, seq: int, time: int = NOW, issuer: str = "n-1", channel: str = "x") -> bool:
    """Return whether the guard took it."""
    try:
        guard.reserve(issuer, channel, boot, seq, time, time)
    except StageRefused:
        return False
    return True


@given(st.lists(st.integers(1, 5000), max_size=300))
@settings(deadline=None)
def test_a_number_is_taken_once_and_only_within_the_window(numbers: list[int]) -> None:
    """Against a model with a set: taken exactly when new and less than 1,024 below the highest."""
    guard, seen, highest = ReplayGuard(0), set[int](), 0
    for number in numbers:
        expected = number not in seen and number > highest - WINDOW
        assert expected == taken(guard, BOOTS[0], number)
        if expected:
            seen.add(number)
            highest = max(highest, number)


@given(st.lists(st.tuples(st.sampled_from(BOOTS), st.integers(1, 6), st.integers(0, 6)), max_size=60))
@settings(deadline=None)
def test_whatever_comes_nothing_is_taken_twice_and_no_left_boot_speaks(messages: list[tuple[str, int, int]]) -> None:
    """Any order of boots, numbers and times."""
    guard, seen, left, current = ReplayGuard(0), set[tuple[str, int]](), set[str](), ""
    latest = -1
    for boot, number, at in messages:
        if not taken(guard, boot, number, NOW + at):
            continue
        assert (boot, number) not in seen
        assert boot not in left
        if current and boot != current:
            assert at > latest
            left.add(current)
        seen.add((boot, number))
        latest = max(latest, at) if boot == current else at
        current = boot


def test_issuers_and_channels_do_not_share_a_window() -> None:
    """The same number from another issuer or on another channel is another number."""
    guard = ReplayGuard(0)
    assert taken(guard, BOOTS[0], 1)
    assert taken(guard, BOOTS[0], 1, issuer="n-2")
    assert taken(guard, BOOTS[0], 1, channel="y")
    assert not taken(guard, BOOTS[0], 1)


def test_n39_two_live_boots_of_one_identity_fence_the_first() -> None:
    """A clone that speaks later takes over once; the first never comes back, however late it speaks."""
    guard = ReplayGuard(0)
    guard.reserve("n", "x", BOOTS[0], 1, NOW, NOW)
    guard.reserve("n", "x", BOOTS[1], 1, NOW + 1, NOW)
    for late in range(2, 200):
        with pytest.raises(BootFenced):
            guard.reserve("n", "x", BOOTS[0], late, NOW + late, NOW)


def test_what_was_signed_before_the_start_is_refused() -> None:
    """A receiver that starts anew has forgotten what it saw, so it takes nothing from before."""
    guard = ReplayGuard(NOW)
    with pytest.raises(NotFresh):
        guard.reserve("n", "x", BOOTS[0], 1, NOW - 1, NOW)
    with pytest.raises(NotFresh):
        guard.reserve_digest("d", NOW - 1, NOW)
    guard.reserve("n", "x", BOOTS[0], 1, NOW, NOW)


@pytest.mark.parametrize("seq", [0, -1, 1 << 53, (1 << 63) - 1, 1 << 200])
def test_n08_numbers_out_of_range_are_refused(seq: int) -> None:
    """A jump to 2^63 would end the window for good."""
    with pytest.raises(Replayed):
        ReplayGuard(0).reserve("n", "x", BOOTS[0], seq, NOW, NOW)


def test_memory_is_bounded_and_nothing_fresh_is_forgotten() -> None:
    """A full guard refuses newcomers until its oldest could no longer be repeated."""
    guard = ReplayGuard(0, issuers_max=3, digests_max=3)
    for number in range(3):
        guard.reserve(f"n-{number}", "x", BOOTS[0], 1, NOW, NOW)
        guard.reserve_digest(f"d-{number}", NOW, NOW)
    with pytest.raises(WindowFull):
        guard.reserve("n-3", "x", BOOTS[0], 1, NOW, NOW)
    with pytest.raises(WindowFull):
        guard.reserve_digest("d-3", NOW, NOW)
    later = NOW + TTL_MAX_MS * 1000 + 2 * SLACK_US + 1
    guard.reserve("n-3", "x", BOOTS[0], 1, later, later)
    guard.reserve_digest("d-3", later, later)
    assert len(guard) <= 6
    with pytest.raises(Replayed):
        guard.reserve_digest("d-3", later, later)


@pytest.mark.parametrize("word", [*TTL_CAPS_MS, "revocation"])
def test_n09_each_class_has_its_cap(word: str) -> None:
    """One millisecond over the cap is refused; so are no life and a negative one."""
    cap = TTL_CAPS_MS.get(word, TTL_MAX_MS)
    check_fresh(f"{word}.x", NOW, cap, NOW)
    for ttl in (cap + 1, 0, -1, -(10**20)):
        with pytest.raises(NotFresh):
            check_fresh(f"{word}.x", NOW, ttl, NOW)


@given(st.integers(-(10**9), 10**9), st.integers(1, 60_000))
def test_n09_the_window_of_time_is_exact(age: int, ttl: int) -> None:
    """now - ttl - 2 s <= time <= now + 2 s, and nothing else."""
    fresh = -SLACK_US <= age <= ttl * 1000 + SLACK_US
    try:
        check_fresh("command.x", NOW - age, ttl, NOW)
    except NotFresh:
        assert not fresh
    else:
        assert fresh


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2_000_000)), max_size=80))
def test_a_bucket_gives_no_more_than_its_share(takes: list[tuple[str, int]]) -> None:
    """Over any stretch, one key takes at most burst + rate x time; another key's takes do not count."""
    buckets, now, start, allowed = Buckets(3, 5), 0, 0, {"a": 0, "b": 0, "c": 0}
    for key, step in takes:
        now += step
        allowed[key] += buckets.take(key, now)
        assert allowed[key] <= 5 + 3 * (now - start) / 1e6 + 1e-6


def test_buckets_are_bounded_in_number() -> None:
    """The one used longest ago goes first."""
    buckets = Buckets(1, 1, capacity=10)
    for number in range(1000):
        buckets.take(str(number), 0)
    assert len(buckets) == 10
