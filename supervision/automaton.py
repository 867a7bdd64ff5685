"""When a process is started, ended, and started again: states x events, a total table. Pure.

Owns the table and the delays. Whoever uses it feeds events with a time and carries out the action that comes back; it
reads no clock, starts nothing, and keeps nothing but its own four fields.

INV-AUT-1: every state has a cell for every event, "nothing" included.
INV-AUT-2: the first restart comes at once; later ones wait 100 ms, doubling to 30 s, until the process was ready for 10 s.
INV-AUT-3: nothing is started while it is not wanted, and nothing is started twice.

May import: nothing of ours.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

DELAY_FIRST_S: Final = 0.1
DELAY_MAX_S: Final = 30.0
HEALTHY_S: Final = 10.0


class State(enum.StrEnum):
    """What is the matter with a process."""

    PENDING = "pending"
    """Nothing was asked yet."""
    STARTING = "starting"
    """It is being started, or runs and is not ready."""
    RUNNING = "running"
    """It is ready."""
    BACKING_OFF = "backing_off"
    """It ended, and waits for its next start."""
    RESTARTING = "restarting"
    """It is being ended and will be started again."""
    STOPPING = "stopping"
    """It is being ended for good."""
    GIVING_UP = "giving_up"
    """It is being ended because it was given up."""
    STOPPED = "stopped"
    """It ended as was wanted."""
    FAILED = "failed"
    """It was given up; only a new wish starts it."""


class Event(enum.StrEnum):
    """What happens."""

    START_WANTED = "start_wanted"
    STOP_WANTED = "stop_wanted"
    STARTED = "started"
    """The process runs."""
    READY = "ready"
    """It answers."""
    EXITED = "exited"
    """It ended, or could not be started."""
    TIMER = "timer"
    """The delay is over."""
    HEALTH_FAILED = "health_failed"
    """It did not become ready in time, or answers no more."""
    GIVEN_UP = "given_up"
    """Whoever watches has seen enough."""


class Action(enum.StrEnum):
    """What is to be done."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"
    WAIT = "wait"
    """Feed TIMER after ``delay_s``."""
    AGAIN = "again"
    """Only in the table: START or WAIT, as the delays say."""


class Cell(NamedTuple):
    """Where an event leads, and what is done."""

    state: State
    action: Action = Action.NOTHING


def _row(stay: State, **cells: Cell) -> dict[Event, Cell]:
    """Return a full row: an event that is not named changes nothing."""
    named = {Event(name): cell for name, cell in cells.items()}
    return {event: named.get(event, Cell(stay)) for event in Event}


S, A = State, Action
TABLE: Final[dict[State, dict[Event, Cell]]] = {
    S.PENDING: _row(
        S.PENDING,
        start_wanted=Cell(S.STARTING, A.START),
        stop_wanted=Cell(S.STOPPED),
        started=Cell(S.STARTING),  # found running: taken over
        given_up=Cell(S.FAILED),
    ),
    S.STARTING: _row(
        S.STARTING,
        stop_wanted=Cell(S.STOPPING, A.STOP),
        ready=Cell(S.RUNNING),
        exited=Cell(S.BACKING_OFF, A.AGAIN),
        health_failed=Cell(S.RESTARTING, A.STOP),
        given_up=Cell(S.GIVING_UP, A.STOP),
    ),
    S.RUNNING: _row(
        S.RUNNING,
        stop_wanted=Cell(S.STOPPING, A.STOP),
        exited=Cell(S.BACKING_OFF, A.AGAIN),
        health_failed=Cell(S.RESTARTING, A.STOP),
        given_up=Cell(S.GIVING_UP, A.STOP),
    ),
    S.BACKING_OFF: _row(
        S.BACKING_OFF,
        stop_wanted=Cell(S.STOPPED),
        started=Cell(S.STARTING),
        timer=Cell(S.STARTING, A.START),
        given_up=Cell(S.FAILED),
    ),
    S.RESTARTING: _row(
        S.RESTARTING,
        stop_wanted=Cell(S.STOPPING),
        exited=Cell(S.BACKING_OFF, A.AGAIN),
        given_up=Cell(S.GIVING_UP),
    ),
    S.STOPPING: _row(
        S.STOPPING,
        start_wanted=Cell(S.RESTARTING),
        exited=Cell(S.STOPPED),
    ),
    S.GIVING_UP: _row(
        S.GIVING_UP,
        start_wanted=Cell(S.RESTARTING),
        stop_wanted=Cell(S.STOPPING),
        exited=Cell(S.FAILED),
    ),
    S.STOPPED: _row(
        S.STOPPED,
        start_wanted=Cell(S.STARTING, A.START),
        started=Cell(S.STOPPING, A.STOP),  # found running although it must not
    ),
    S.FAILED: _row(
        S.FAILED,
        start_wanted=Cell(S.STARTING, A.START),
        started=Cell(S.GIVING_UP, A.STOP),
        stop_wanted=Cell(S.STOPPED),
    ),
}


class Automaton(NamedTuple):
    """One process: its state, how often it ended since it was last healthy, and since when it is ready (None: it is not)."""

    state: State = State.PENDING
    failures: int = 0
    ready_since: float | None = None


class Decision(NamedTuple):
    """What follows from an event. ``delay_s`` belongs to WAIT."""

    automaton: Automaton
    action: Action
    delay_s: float = 0.0


def delay_s(failures: int) -> float:
    """Return how long to wait for the next start after *failures* earlier ends in a row, 0 or more."""
    if failures < 1:
        return 0.0
    return min(DELAY_MAX_S, DELAY_FIRST_S * 2 ** min(failures - 1, 30))


def step(automaton: Automaton, event: Event, now: float) -> Decision:
    """Return what *event* at *now* (seconds of a clock that never runs back) makes of *automaton*."""
    state, action = TABLE[automaton.state][event]
    failures, ready_since = automaton.failures, automaton.ready_since
    if event is Event.START_WANTED and action is Action.START:
        failures = 0
    if event is Event.READY and state is State.RUNNING and ready_since is None:
        ready_since = now
    if event is Event.EXITED:
        if ready_since is not None and now - ready_since >= HEALTHY_S:
            failures = 0
        ready_since = None
    if action is not Action.AGAIN:
        return Decision(Automaton(state, failures, ready_since), action)
    wait = delay_s(failures)
    if wait > 0:
        return Decision(Automaton(state, failures + 1), Action.WAIT, wait)
    return Decision(Automaton(State.STARTING, failures + 1), Action.START)
