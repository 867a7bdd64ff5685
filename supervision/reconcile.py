"""The loop that makes it so: observe, plan, check, apply; used by the daemons of every ring and by `enjin up`.

Owns the pace: which action runs now, which waits, which is given up because the world has moved on. Does not know what
an action does, what is wanted, or who asked: the daemon passes four functions. Imports the ground only.

A lane is everything planned for one target. Lanes run at once, up to a bound; the actions of one lane run in order, and
the first that fails ends its lane for this round. Nothing is remembered between rounds except what is under way and
what failed: a plan is made anew from what is seen, so an action may be repeated at any point.

INV-REC-1: at most one action per target is under way, and at most ``Pace.concurrency`` in all.
INV-REC-2: an action whose target is planned otherwise now is cancelled before the new one starts.
INV-REC-3: a target that fails delays only itself and those that name it in ``after``.
INV-REC-4: an action that ``check`` refuses is never applied, nor is anything planned behind it in its lane.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from enjin import log
from enjin.errors import EnjinError, InvariantError, Refused, StepFailed
from supervision.actions import Action, Pace, Trouble, generation_of, lanes_of

Seen = TypeVar("Seen")

__all__ = ["Action", "NotConverged", "Pace", "Reconciler", "StepTimedOut", "Trouble", "lanes_of"]


class NotConverged(StepFailed):
    """What is wanted could not be reached in time."""

    code = "E-REC-001"
    remedy = "`enjin status` names what is missing; the log has each attempt"


class StepTimedOut(StepFailed):
    """A step did not end in time."""

    code = "E-REC-002"


class _Running:
    """A lane under way and what is left of it."""

    def __init__(self, lane: tuple[Action, ...]) -> None:
        self.left = lane
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False


class Reconciler(Generic[Seen]):
    """Compare, plan and apply for ever, at its own pace.

    Args:
        observe: Returns what is there now. A failure skips the round.
        plan: Pure: what was observed -> actions, first things first.
        check: Raises ``Refused`` for an action that names anything that is not ours, or passes a limit.
        apply: Carries one action out; idempotent; may be cancelled at any await.
        name: Bound to every log line.
    """

    def __init__(
        self,
        *,
        observe: Callable[[], Awaitable[Seen]],
        plan: Callable[[Seen], Sequence[Action]],
        check: Callable[[Action], None],
        apply: Callable[[Action], Awaitable[None]],
        name: str = "reconcile",
        pace: Pace = Pace(),
    ) -> None:
        self._observe, self._plan, self._check, self._apply = observe, plan, check, apply
        self._pace = pace
        self._log = log.get(name)
        self._wake = asyncio.Event()
        self._running: dict[str, _Running] = {}
        self._trouble: dict[str, Trouble] = {}
        self._defect: BaseException | None = None
        self._pending = 0
        self._blind = 0
        self.rounds = 0
        self.refusals = 0

    def poke(self) -> None:
        """Say that something changed: the next round starts at once. Cheap, and safe to call often."""
        self._wake.set()

    def trouble(self) -> dict[str, Trouble]:
        """Return the targets whose last attempt failed."""
        return dict(self._trouble)

    async def run(self) -> None:
        """Go round until cancelled; whatever is under way is cancelled with it.

        Raises:
            InvariantError: A defect in plan, check or apply: the daemon ends and is started anew.
        """
        try:
            while True:
                await self._round()
                await self._rest()
        finally:
            await self._stop()

    async def converge(self, timeout_s: float) -> int:
        """Go round until nothing is left to do, and return the number of rounds.

        Raises:
            NotConverged: Something is still to do after *timeout_s*; the first cause is chained.
        """
        loop = asyncio.get_running_loop()
        deadline, first = loop.time() + timeout_s, self.rounds
        try:
            while True:
                seen = await self._round()
                if seen and not self._pending and not self._running:
                    return self.rounds - first
                if loop.time() >= deadline:
                    raise self._stuck()
                await self._rest(deadline)
        finally:
            await self._stop()

    def _stuck(self) -> NotConverged:
        causes = {target: f"{trouble.error}" for target, trouble in sorted(self._trouble.items())[:20]}
        text = "; ".join(f"{target}: {cause}" for target, cause in list(causes.items())[:3]) or ", ".join(sorted(self._running)[:5])
        count = max(self._pending, len(self._running))
        error = NotConverged(f"{count} targets are not as wanted: {text or 'nothing could be observed'}", causes=causes)
        if self._trouble:
            error.__cause__ = min(self._trouble.items())[1].error
        return error

    async def _rest(self, deadline: float | None = None) -> None:
        """Wait for a poke, the tick, or the moment at which a failed lane may be tried again."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        retries = [trouble.retry_at for trouble in self._trouble.values() if trouble.retry_at > now]
        until = min([now + self._pace.tick_s, *retries])
        if deadline is not None:
            until = min(until, deadline)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(self._pace.gap_s, until - now)):
                await self._wake.wait()
        if self._wake.is_set():
            await asyncio.sleep(self._pace.gap_s)

    async def _round(self) -> bool:
        """Observe, plan and start what can start. Returns whether anything could be observed."""
        self._wake.clear()
        self.rounds += 1
        if self._defect is not None:
            raise self._defect
        try:
            async with asyncio.timeout(self._pace.observe_s):
                seen = await self._observe()
        except (StepFailed, OSError, TimeoutError) as error:
            self._blind += 1
            self._log.warning("reconcile.blind", error=error, rounds=self._blind)
            return False
        self._blind = 0
        lanes = lanes_of(self._plan(seen))
        self._pending = len(lanes)
        self._forget(lanes)
        self._replace(lanes)
        self._start(lanes)
        return True

    def _forget(self, lanes: dict[str, tuple[Action, ...]]) -> None:
        """Drop what is known of targets that need nothing any more, or need something else now."""
        for target, trouble in list(self._trouble.items()):
            lane = lanes.get(target)
            over = target not in self._running if lane is None else generation_of(lane) > generation_of(trouble.lane)
            if over:
                del self._trouble[target]

    def _replace(self, lanes: dict[str, tuple[Action, ...]]) -> None:
        """Cancel what is under way for targets that are planned otherwise now; a target absent from the plan is left to end."""
        for target, running in self._running.items():
            lane = lanes.get(target)
            if lane is None or running.cancelled or lane == running.left[-len(lane) :]:
                continue
            running.cancelled = True
            if running.task is not None:
                running.task.cancel()
            self._log.info("step.cancelled", target=target, generation=generation_of(running.left))

    def _start(self, lanes: dict[str, tuple[Action, ...]]) -> None:
        now = asyncio.get_running_loop().time()
        ready = [target for target in lanes if target not in self._running]
        ready.sort(key=lambda target: self._trouble[target].failures if target in self._trouble else 0)
        for target in ready:
            if len(self._running) >= self._pace.concurrency:
                return
            lane, trouble = lanes[target], self._trouble.get(target)
            if trouble is not None and trouble.bars(lane, now):
                continue
            if any(other in lanes or other in self._running for other in lane[0].after):
                continue
            if self._allowed(target, lane):
                running = self._running[target] = _Running(lane)
                running.task = asyncio.create_task(self._carry_out(target, lane, running), name=f"reconcile {target}")

    def _allowed(self, target: str, lane: tuple[Action, ...]) -> bool:
        try:
            for action in lane:
                self._check(action)
        except EnjinError as error:
            if isinstance(error, InvariantError):
                raise
            self.refusals += 1
            self._failed(target, lane, error, hold=True)
            return False
        return True

    async def _carry_out(self, target: str, lane: tuple[Action, ...], running: _Running) -> None:
        action = lane[0]
        try:
            for action in lane:
                try:
                    async with asyncio.timeout(self._pace.apply_s):
                        await self._apply(action)
                except TimeoutError as error:
                    raise StepTimedOut(f"{type(action.step).__name__} of {target} did not end in {self._pace.apply_s:g} s") from error
                running.left = running.left[1:]
            self._trouble.pop(target, None)
        except InvariantError as error:
            self._defect = error
        except (EnjinError, OSError) as error:
            self._failed(target, lane, error, hold=isinstance(error, Refused))
        except asyncio.CancelledError:
            if not running.cancelled:
                raise
        except Exception as error:
            self._defect = InvariantError(f"{type(action.step).__name__} of {target}: {error!r}")
            self._defect.__cause__ = error
        finally:
            if self._running.get(target) is running:
                del self._running[target]
            self._wake.set()

    def _failed(self, target: str, lane: tuple[Action, ...], error: BaseException, *, hold: bool) -> None:
        """Note a failure; the target waits twice as long each time, and the same lane longest where trying again cannot help."""
        before, now = self._trouble.get(target), asyncio.get_running_loop().time()
        failures = before.failures + 1 if before is not None else 1
        delay = min(self._pace.backoff_s_max, self._pace.backoff_s_min * 2 ** min(failures - 1, 30))
        held = now + (self._pace.backoff_s_max if hold else delay)
        self._trouble[target] = Trouble(lane, failures, error, now + delay, held)
        self._log.warning("step.failed", target=target, generation=generation_of(lane), error=error, failures=failures, retry_s=delay)

    async def _stop(self) -> None:
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for running in self._running.values():
            running.cancelled = True
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
