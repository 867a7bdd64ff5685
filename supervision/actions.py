"""What the loop of ``reconcile`` works on: actions, the lanes they form, its pace, and what failed.

Owns these values. Pure; imports the ground only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from enjin.errors import InvariantError

LANES_MAX: Final = 16_384


class Action(NamedTuple):
    """One idempotent thing to do.

    Args:
        target: What it acts on: the lane.
        generation: Fences the step; a lane of a higher generation replaces one under way.
        step: What to do, with every address, id and path in it; compared by value.
        after: Targets whose lanes must be empty before this one starts.
    """

    target: str
    generation: int
    step: Any
    after: tuple[str, ...] = ()


class Pace(NamedTuple):
    """How fast the loop goes, in seconds."""

    tick_s: float = 1.0
    gap_s: float = 0.005
    concurrency: int = 8
    observe_s: float = 10.0
    apply_s: float = 60.0
    backoff_s_min: float = 0.1
    backoff_s_max: float = 10.0


class Trouble(NamedTuple):
    """A lane that failed: how often in a row, why, and when it is tried again, by the loop's clock.

    ``held_until`` is later than ``retry_at`` where the same lane cannot do better: it waits for another plan.
    """

    lane: tuple[Action, ...]
    failures: int
    error: BaseException
    retry_at: float
    held_until: float

    def bars(self, lane: tuple[Action, ...], now: float) -> bool:
        """Return whether *lane* has to wait still."""
        return now < (self.held_until if lane == self.lane else self.retry_at)


def lanes_of(actions: Sequence[Action]) -> dict[str, tuple[Action, ...]]:
    """Return *actions* by target, each target's in the order of the plan."""
    grouped: dict[str, list[Action]] = {}
    for action in actions:
        grouped.setdefault(action.target, []).append(action)
    if len(grouped) > LANES_MAX:
        raise InvariantError(f"a plan has {len(grouped)} targets")
    return {target: tuple(lane) for target, lane in grouped.items()}


def generation_of(lane: tuple[Action, ...]) -> int:
    """Return the highest generation in *lane*; 0 for an empty one."""
    return max((action.generation for action in lane), default=0)
