"""The restart automaton: its table is total, its delays are bounded, and it never starts what is not wanted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.automaton import DELAY_MAX_S, HEALTHY_S, TABLE, Action, Automaton, Event, State, delay_s, step

events = st.lists(st.tuples(st.sampled_from(list(Event)), st.floats(0, 60)), max_size=60)


def test_every_cell_is_filled() -> None:
    """Each state has a cell for each event, and each state is reached."""
    assert set(TABLE) == set(State)
    assert all(set(row) == set(Event) for row in TABLE.values())
    assert {cell.state for row in TABLE.values() for cell in row.values()} == set(State)


@given(events)
def test_no_decision_shows_the_tables_own_word(history: list[tuple[Event, float]]) -> None:
    """AGAIN never comes out; WAIT always has a delay within bounds; other actions have none."""
    automaton, now = Automaton(), 0.0
    for event, passed in history:
        now += passed
        automaton, action, delay = step(automaton, event, now)
        assert action is not Action.AGAIN
        assert (0 < delay <= DELAY_MAX_S) == (action is Action.WAIT)
        assert automaton.failures >= 0


@given(events)
def test_nothing_starts_unwanted(history: list[tuple[Event, float]]) -> None:
    """START comes only between a wish to start and the next wish to stop or giving up."""
    automaton, wanted, now = Automaton(), False, 0.0
    for event, passed in history:
        now += passed
        before = automaton.state
        automaton, action, _ = step(automaton, event, now)
        wanted = event is Event.START_WANTED or (wanted and event not in (Event.STOP_WANTED, Event.GIVEN_UP))
        if event is Event.STARTED and before is State.PENDING:
            wanted = True  # found running, so it was wanted before
        if action is Action.START:
            assert wanted
            assert automaton.state is State.STARTING


@given(events)
def test_no_second_process(history: list[tuple[Event, float]]) -> None:
    """With a world that starts and ends processes as told, START never comes while one runs."""
    automaton, running, now = Automaton(), False, 0.0
    for event, passed in history:
        now += passed
        if (event in (Event.EXITED, Event.READY) and not running) or (event is Event.STARTED and running):
            continue  # cannot happen
        running = running and event is not Event.EXITED
        running = running or event is Event.STARTED
        automaton, action, _ = step(automaton, event, now)
        if action is Action.START:
            assert not running
            running = True


@given(events)
def test_a_wish_to_start_ends_in_a_process(history: list[tuple[Event, float]]) -> None:
    """From wherever: a wish to start, and every exit and timer after it, lead to a starting process."""
    automaton, now = Automaton(), 0.0
    for event, passed in history:
        now += passed
        automaton, _, _ = step(automaton, event, now)
    automaton, _, _ = step(automaton, Event.START_WANTED, now)
    for event in (Event.EXITED, Event.TIMER):
        if automaton.state not in (State.STARTING, State.RUNNING):
            automaton, _, _ = step(automaton, event, now)
    assert automaton.state in (State.STARTING, State.RUNNING)


def test_delays_are_none_then_doubling_then_thirty_seconds() -> None:
    """0, 100 ms, 200 ms, ..., 30 s, and no more."""
    assert [delay_s(count) for count in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delay_s(10) == DELAY_MAX_S
    assert delay_s(10**9) == DELAY_MAX_S


@pytest.mark.parametrize(("healthy_s", "failures"), [(HEALTHY_S, 1), (HEALTHY_S - 0.1, 4)])
def test_health_forgives_failures(healthy_s: float, failures: int) -> None:
    """Ready for 10 s resets the delay; a moment less does not."""
    automaton = Automaton(State.STARTING, failures=3)
    automaton, _, _ = step(automaton, Event.READY, 100.0)
    automaton, _, _ = step(automaton, Event.READY, 100.0 + healthy_s - 1)
    automaton, _, _ = step(automaton, Event.EXITED, 100.0 + healthy_s)
    assert automaton.failures == failures


def test_repeated_wish_does_not_shorten_the_delay() -> None:
    """A wish that is said again while a process backs off changes nothing."""
    automaton = Automaton(State.BACKING_OFF, failures=5)
    assert step(automaton, Event.START_WANTED, 1.0) == (automaton, Action.NOTHING, 0.0)
