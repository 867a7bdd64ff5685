"""The loop: lanes, backoff, cancellation, bounds; each with fakes that behave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from enjin.errors import InvariantError, Refused, StepFailed
from supervision.reconcile import Action, NotConverged, Pace, Reconciler, lanes_of

FAST = Pace(tick_s=0.02, gap_s=0.001, concurrency=4, observe_s=1, apply_s=1, backoff_s_min=0.01, backoff_s_max=0.05)


class House:
    """Targets that are to have numbers; applying an action sets one, and can be made to fail, hang or be slow."""

    def __init__(self, pace: Pace = FAST, after: dict[str, tuple[str, ...]] | None = None) -> None:
        self.wanted: dict[str, int] = {}
        self.actual: dict[str, int] = {}
        self.generation: dict[str, int] = {}
        self.failing: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.refused: set[str] = set()
        self.applied: list[tuple[str, int]] = []
        self.started: list[tuple[str, int]] = []
        self.cancelled: list[str] = []
        self.at_once = self.most_at_once = 0
        self.blind = 0
        self.after = after or {}
        self.loop = Reconciler(observe=self.observe, plan=self.plan, check=self.check, apply=self.apply, pace=pace)

    async def observe(self) -> dict[str, int]:
        if self.blind:
            self.blind -= 1
            raise StepFailed("cannot see")
        return dict(self.actual)

    def plan(self, seen: dict[str, int]) -> list[Action]:
        return [
            Action(name, self.generation.get(name, 1), number, self.after.get(name, ()))
            for name, wanted in self.wanted.items()
            for number in range(seen.get(name, 0) + 1, wanted + 1)
        ]

    def check(self, action: Action) -> None:
        if action.target in self.refused:
            raise Refused(f"{action.target} is not ours")

    async def apply(self, action: Action) -> None:
        self.started.append((action.target, action.step))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if action.target in self.gates:
                await self.gates[action.target].wait()
            if action.target in self.failing:
                raise self.failing[action.target]
            await asyncio.sleep(0)
            self.actual[action.target] = action.step
            self.applied.append((action.target, action.step))
        except asyncio.CancelledError:
            self.cancelled.append(action.target)
            raise
        finally:
            self.at_once -= 1


async def until(what: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until *what* is true."""
    async with asyncio.timeout(seconds):
        while True:
            if what():
                return
            await asyncio.sleep(0.001)


def run(main: Callable[[House], object], house: Callable[[], House] = House) -> None:
    """Run *main* against a house whose loop is running."""

    async def body() -> None:
        home = house()
        task = asyncio.create_task(home.loop.run())
        try:
            await main(home)  # type: ignore[misc]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())


def test_lanes_keep_the_order_of_the_plan() -> None:
    """Actions of one target stay in order, whatever stands between them."""
    actions = [Action("a", 1, 1), Action("b", 1, 1), Action("a", 1, 2)]
    assert {"a": (actions[0], actions[2]), "b": (actions[1],)} == lanes_of(actions)


def test_converges_and_then_does_nothing() -> None:
    """Everything wanted is applied once, in order; a second time nothing is left to do."""

    async def body() -> None:
        house = House()
        house.wanted = {"a": 3, "b": 1}
        await house.loop.converge(5)
        assert house.wanted == house.actual
        assert [step for target, step in house.applied if target == "a"] == [1, 2, 3]
        applied = list(house.applied)
        assert await house.loop.converge(5) == 1
        assert applied == house.applied

    asyncio.run(body())


def test_a_poke_is_acted_upon_before_the_tick() -> None:
    """A change that is told of does not wait for the next tick."""

    async def main(house: House) -> None:
        await until(lambda: house.loop.rounds >= 1)
        house.wanted = {"a": 1}
        house.loop.poke()
        await until(lambda: house.actual == {"a": 1}, 2.0)

    run(main, lambda: House(FAST._replace(tick_s=60.0)))


def test_the_tick_notices_what_nobody_told() -> None:
    """A change without a poke is seen at the next tick."""

    async def main(house: House) -> None:
        await until(lambda: house.loop.rounds >= 1)
        house.wanted = {"a": 1}
        await until(lambda: house.actual == {"a": 1})

    run(main)


def test_a_failing_target_delays_only_itself() -> None:
    """INV-REC-3: another target converges while one fails, and the failing one is tried with growing pauses."""

    async def main(house: House) -> None:
        house.failing = {"bad": StepFailed("the world says no")}
        house.wanted = {"bad": 1, "good": 2}
        await until(lambda: house.actual == {"good": 2})
        await until(lambda: house.loop.trouble()["bad"].failures >= 3)
        assert str(house.loop.trouble()["bad"].error) == "the world says no"
        house.failing = {}
        await until(lambda: house.actual.get("bad") == 1)
        await until(lambda: not house.loop.trouble())

    run(main)


def test_retries_are_paced() -> None:
    """A target that always fails is not tried more often than its backoff allows."""

    async def body() -> None:
        house = House(FAST._replace(backoff_s_min=0.02, backoff_s_max=0.08))
        house.failing, house.wanted = {"bad": StepFailed("no")}, {"bad": 1}
        with pytest.raises(NotConverged) as caught:
            await house.loop.converge(0.5)
        assert "no" in str(caught.value)
        assert 4 <= len(house.started) <= 12

    asyncio.run(body())


def test_no_more_at_once_than_allowed() -> None:
    """INV-REC-1: however much is planned, at most ``concurrency`` actions are under way, one per target."""

    async def main(house: House) -> None:
        gate = asyncio.Event()
        house.gates = {f"t{number}": gate for number in range(20)}
        house.wanted = {f"t{number}": 2 for number in range(20)}
        house.loop.poke()
        await until(lambda: len(house.started) == 4)
        rounds = house.loop.rounds
        await until(lambda: house.loop.rounds > rounds + 2)
        assert len(house.started) == 4
        gate.set()
        await until(lambda: house.actual == house.wanted)
        assert house.most_at_once == 4

    run(main)


def test_slow_targets_do_not_starve_others_that_fail_less() -> None:
    """Targets that have not failed come before those that have."""

    async def main(house: House) -> None:
        house.failing = {f"bad{number}": StepFailed("no") for number in range(8)}
        house.wanted = {f"bad{number}": 1 for number in range(8)}
        await until(lambda: len(house.loop.trouble()) == 8)
        house.wanted |= {"good": 1}
        await until(lambda: house.actual == {"good": 1})

    run(main)


def test_a_newer_generation_cancels_the_older() -> None:
    """INV-REC-2: what is under way for a target is cancelled when the target is planned otherwise, before the new one starts."""

    async def main(house: House) -> None:
        house.gates = {"a": asyncio.Event()}
        house.wanted = {"a": 1}
        await until(lambda: house.started == [("a", 1)])
        house.wanted, house.generation = {"a": 2}, {"a": 2}
        del house.gates["a"]
        house.loop.poke()
        await until(lambda: house.actual == {"a": 2})
        assert house.cancelled == ["a"]
        assert house.started == [("a", 1), ("a", 1), ("a", 2)]

    run(main, lambda: House(FAST._replace(apply_s=60.0)))


def test_the_same_plan_again_leaves_what_is_under_way() -> None:
    """A round that plans what is under way, or what is left of it, starts nothing twice."""

    async def main(house: House) -> None:
        gate = house.gates.setdefault("a", asyncio.Event())
        house.wanted = {"a": 2}
        await until(lambda: house.loop.rounds >= 5)
        assert house.started == [("a", 1)]
        gate.set()
        await until(lambda: house.actual == {"a": 2})
        assert house.cancelled == []
        assert house.started == [("a", 1), ("a", 2)]

    run(main)


def test_what_is_not_planned_any_more_may_end() -> None:
    """A target that left the plan while its action was under way is not cancelled: what was seen may be older than the action."""

    async def main(house: House) -> None:
        gate = house.gates.setdefault("a", asyncio.Event())
        house.wanted = {"a": 1}
        await until(lambda: house.started == [("a", 1)])
        house.wanted = {}
        rounds = house.loop.rounds
        await until(lambda: house.loop.rounds > rounds + 2)
        gate.set()
        await until(lambda: house.actual == {"a": 1})
        assert house.cancelled == []

    run(main)


def test_after_waits_for_the_other_lane() -> None:
    """A lane that names another starts only when that one is done, and not while it fails."""

    async def main(house: House) -> None:
        house.failing = {"fabric": StepFailed("no bridge")}
        house.wanted = {"node": 1, "fabric": 1}
        await until(lambda: house.loop.trouble().get("fabric") is not None)
        rounds = house.loop.rounds
        await until(lambda: house.loop.rounds > rounds + 3)
        assert ("node", 1) not in house.started
        house.failing = {}
        await until(lambda: house.actual == {"node": 1, "fabric": 1})
        assert house.applied == [("fabric", 1), ("node", 1)]

    run(main, lambda: House(after={"node": ("fabric",)}))


def test_a_refused_action_is_never_applied() -> None:
    """INV-REC-4: what check refuses is not applied, nor what stands behind it, and the refusal is counted."""

    async def main(house: House) -> None:
        house.refused = {"foreign"}
        house.wanted = {"foreign": 2, "own": 1}
        await until(lambda: house.actual == {"own": 1} and house.loop.refusals >= 1)
        assert house.started == [("own", 1)]

    run(main)


def test_a_refusal_is_held_but_another_plan_is_tried() -> None:
    """Where trying again cannot help the same lane waits long; another one is tried soon."""

    async def main(house: House) -> None:
        house.failing = {"a": Refused("never")}
        house.wanted = {"a": 1}
        await until(lambda: house.started == [("a", 1)])
        rounds = house.loop.rounds
        await until(lambda: house.loop.rounds > rounds + 3)
        assert house.started == [("a", 1)]
        house.failing, house.wanted = {}, {"a": 2}
        await until(lambda: house.actual == {"a": 2})

    run(main, lambda: House(FAST._replace(backoff_s_max=60.0)))


def test_a_step_that_hangs_is_given_up() -> None:
    """An action that does not end in time fails with its own code and is tried again."""

    async def main(house: House) -> None:
        house.gates = {"a": asyncio.Event()}
        house.wanted = {"a": 1}
        await until(lambda: "a" in house.loop.trouble())
        assert house.loop.trouble()["a"].error.code == "E-REC-002"  # type: ignore[attr-defined]
        house.gates = {}
        await until(lambda: house.actual == {"a": 1})

    run(main, lambda: House(FAST._replace(apply_s=0.03)))


def test_a_round_that_sees_nothing_changes_nothing() -> None:
    """When observing fails the round is skipped and the next one goes on."""

    async def main(house: House) -> None:
        house.blind, house.wanted = 3, {"a": 1}
        await until(lambda: house.actual == {"a": 1})
        assert house.loop.rounds >= 4

    run(main)


def test_a_defect_ends_the_loop() -> None:
    """An invariant that does not hold, or a plain bug in a step, ends the loop instead of being retried for ever."""
    for failure in (InvariantError("broken"), KeyError("bug")):

        async def body(error: BaseException = failure) -> None:
            house = House()
            house.failing, house.wanted = {"a": error}, {"a": 1}
            with pytest.raises(InvariantError):
                async with asyncio.timeout(5):
                    await house.loop.run()
            assert house.started == [("a", 1)]

        asyncio.run(body())


def test_ending_the_loop_cancels_what_is_under_way() -> None:
    """Nothing goes on after the loop has been cancelled."""

    async def body() -> None:
        house = House()
        house.gates, house.wanted = {"a": asyncio.Event()}, {"a": 1}
        task = asyncio.create_task(house.loop.run())
        await until(lambda: house.started == [("a", 1)])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert house.cancelled == ["a"]
        assert house.actual == {}

    asyncio.run(body())
