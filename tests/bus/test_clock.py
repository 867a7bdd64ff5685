"""Cloud time is learnt by nonce from the ring above, counts on whatever the wall clock says, and never runs back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bus.clock
from bus.clock import CloudClock, Mark, TimeRefused
from enjin.host import Clock

SECOND, HOUR = 1_000_000, 3_600_000_000
TRUE = 1_800_000_000 * SECOND


class Machine:
    """A machine's two clocks, which a test moves; ``boot`` names its boot."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.wall_us, self.boot_us, self.boot = TRUE, 50 * SECOND, "boot 1"
        patch.setattr(bus.clock, "clock", lambda: Clock(self.wall_us, self.boot_us))
        patch.setattr(bus.clock, "boot_id", lambda: self.boot)

    def passes(self, us: int) -> None:
        """Let time pass."""
        self.wall_us += us
        self.boot_us += us

    def reboots(self, wall_us: int) -> None:
        """Start again, with another wall clock."""
        self.wall_us, self.boot_us, self.boot = wall_us, SECOND, self.boot + "x"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with pytest.MonkeyPatch.context() as patch:
        yield Machine(patch)


@pytest.mark.parametrize("skew", [-HOUR, 0, HOUR])
def test_n10_a_wall_clock_an_hour_off_is_corrected_by_what_was_told(machine: Machine, skew: int) -> None:
    """Either way, to within half of the round trip; after that a jump of the wall clock changes nothing."""
    machine.wall_us += skew
    clock = CloudClock()
    asked = machine.boot_us
    machine.passes(20_000)
    assert clock.learn(TRUE + 10_000, asked) == pytest.approx(-skew, abs=1)
    assert clock.now() == TRUE + 20_000
    machine.wall_us += 2 * HOUR
    machine.passes(SECOND)
    assert clock.now() == TRUE + 20_000 + SECOND


def test_n11_time_does_not_go_back_once_learnt(machine: Machine) -> None:
    """A little less makes it stand still until that has passed; much less is refused."""
    clock = CloudClock()
    clock.learn(TRUE, machine.boot_us)
    assert clock.learn(TRUE - SECOND, machine.boot_us) == 0
    machine.passes(SECOND // 2)
    assert clock.now() == TRUE
    machine.passes(SECOND)
    assert clock.now() == TRUE + SECOND // 2
    with pytest.raises(TimeRefused):
        clock.learn(TRUE - HOUR, machine.boot_us)
    assert clock.now() == TRUE + SECOND // 2


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_who_has_nobody_above_keeps_its_time_across_a_restart(machine: Machine, tmp_path: Path, jump: int) -> None:
    """Within one boot a wall clock that has jumped meanwhile is not followed by the daemon's next start either."""
    CloudClock(tmp_path / "clock").keep()
    machine.wall_us += jump
    machine.passes(SECOND)
    clock = CloudClock(tmp_path / "clock")
    assert (clock.now(), clock.learnt) == (TRUE + SECOND, False)
    assert clock.skew_us() == jump


def test_an_answer_that_took_too_long_is_not_believed(machine: Machine) -> None:
    """Half of a long round trip is a large error."""
    clock, asked = CloudClock(), machine.boot_us
    machine.passes(3 * SECOND)
    with pytest.raises(TimeRefused):
        clock.learn(TRUE + HOUR, asked)
    assert clock.now() == TRUE + 3 * SECOND


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_n11_a_restart_goes_on_from_what_was_learnt(machine: Machine, tmp_path: Path, skew: int) -> None:
    """In the same boot the wall clock is not even looked at."""
    clock = CloudClock(tmp_path / "clock")
    clock.learn(TRUE, machine.boot_us)
    clock.keep()
    machine.passes(30 * SECOND)
    machine.wall_us += skew
    again = CloudClock(tmp_path / "clock")
    assert (again.now(), again.learnt) == (TRUE + 30 * SECOND, True)


def test_n11_a_reboot_with_an_earlier_wall_clock_does_not_go_back(machine: Machine, tmp_path: Path) -> None:
    """The watermark holds; the ring above may move it forward, and not behind it."""
    clock = CloudClock(tmp_path / "clock")
    clock.learn(TRUE, machine.boot_us)
    clock.keep()
    machine.reboots(TRUE - HOUR)
    again = CloudClock(tmp_path / "clock")
    assert (again.now() > TRUE, again.learnt) == (True, False)
    with pytest.raises(TimeRefused):
        again.learn(TRUE - HOUR, machine.boot_us)
    again.learn(TRUE + 5 * SECOND, machine.boot_us)
    assert again.now() == TRUE + 5 * SECOND


def test_what_the_ring_above_said_at_the_start_counts_in_this_boot_alone(machine: Machine, tmp_path: Path) -> None:
    """A node that is started gets the time with its identity; of another boot, or damaged, it says nothing."""
    told = Mark(cloud_us=TRUE, boot_us=machine.boot_us, boot="boot 1", learnt=True)
    machine.wall_us += HOUR
    assert CloudClock(None, told).now() == TRUE
    machine.reboots(TRUE + HOUR)
    assert CloudClock(None, told).now() == TRUE + HOUR
    (tmp_path / "clock").write_text("{")
    assert CloudClock(tmp_path / "clock").now() == TRUE + HOUR


def test_the_watermark_is_kept_every_ten_seconds(machine: Machine, tmp_path: Path) -> None:
    """Not with every look; what a source of time keeps is no offset, but a floor."""
    clock, path = CloudClock(tmp_path / "clock"), tmp_path / "clock"
    clock.keep()
    first = json.loads(path.read_text())
    assert (first["cloud_us"], first["learnt"]) == (TRUE, False)
    machine.passes(9 * SECOND)
    clock.keep()
    assert json.loads(path.read_text()) == first
    machine.passes(SECOND)
    clock.keep()
    assert json.loads(path.read_text())["cloud_us"] == TRUE + 10 * SECOND


def test_what_a_wrong_wall_clock_made_us_keep_is_corrected(machine: Machine, tmp_path: Path) -> None:
    """An hour ahead at the first start, and nobody to ask: kept as a guess, it does not stand against what is learnt later."""
    machine.wall_us += HOUR
    CloudClock(tmp_path / "clock").keep()
    again = CloudClock(tmp_path / "clock")
    again.learn(TRUE, machine.boot_us)
    assert again.now() == TRUE


@given(st.lists(st.tuples(st.sampled_from(["pass", "jump", "learn", "restart", "reboot"]), st.integers(-HOUR, HOUR)), max_size=12))
def test_no_order_of_events_makes_time_run_back(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    """Within one start never; across starts not behind what was kept, once something was learnt."""
    path = tmp_path_factory.mktemp("clock") / "clock"
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch)
        clock = CloudClock(path)
        clock.learn(TRUE, machine.boot_us)
        reached = clock.now()
        for what, amount in steps:
            if what == "pass":
                machine.passes(abs(amount))
            elif what == "jump":
                machine.wall_us += amount
            elif what == "learn":
                try:
                    clock.learn(reached + amount, machine.boot_us)
                except TimeRefused:
                    assert amount < 0
            else:
                clock._kept_us = -HOUR
                clock.keep()
                if what == "reboot":
                    machine.reboots(TRUE + amount)
                clock = CloudClock(path)
            assert clock.now() >= reached
            reached = clock.now() if clock.learnt else reached  # what the wall clock says after a reboot is a guess
