"""One instance: its process kept as wanted, inside a jail whose init holds it.

Owns the connection to that init, the timers of the automaton and the watch over health. Whatever must outlive the agent
lives in init: after a restart the agent finds the process there and takes it over.

INV-AGT-1: a restart of the agent restarts no process, and nothing is started twice at one generation.
INV-AGT-2: values of the environment stand in no log, answer or observation of ours.

May import: enjin, bus.messages, supervision, ring2.{command,health,lines}.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from bus.messages import Observation
from enjin import log
from enjin.errors import EnjinError, Refused
from enjin.failpoints import failpoint
from enjin.host import monotonic_s
from ring2.command import SERVICE, service
from ring2.health import watch
from ring2.lines import Tap, last_words
from supervision.automaton import Action, Automaton, Event, State, step
from supervision.init_link import InitGone, InitLink
from supervision.instances import Exited, Failed, Lines, Logged, Ready, RunInstance, Started, Status, Unhealthy

RECONNECT_S, RECONNECT_S_MAX = 0.02, 1.0
ORPHANED_S: Final = 2.0
KILLED: Final = -9
NOT_STARTED: Final = 127
_log = log.get("agent")

Report = Callable[[Observation], Awaitable[bool]]
Word = Literal["pending", "starting", "ready", "unhealthy", "exited", "failed", "stopped"]
WORDS: Final[dict[State, Word]] = {
    State.PENDING: "pending", State.STARTING: "starting", State.RUNNING: "ready", State.RESTARTING: "unhealthy",
    State.BACKING_OFF: "exited", State.GIVING_UP: "failed", State.FAILED: "failed", State.STOPPING: "stopped", State.STOPPED: "stopped",
}  # fmt: skip


ALIVE: Final = frozenset({State.STARTING, State.RUNNING, State.RESTARTING, State.STOPPING, State.GIVING_UP})


class Happening(NamedTuple):
    """An event, with what is to be said of it."""

    event: Event
    text: str = ""
    status: int = 0


class Instance:
    """One wanted instance at one generation.

    Args:
        wish: What ring 1 asked for.
        home: Directory below which ``wish.control`` lies.
        report: Sends an observation to ring 1; false when it could not.
        offset_us: Returns cloud time minus boot time.
    """

    def __init__(self, wish: RunInstance, home: Path, report: Report, offset_us: Callable[[], int]) -> None:
        self.wish = wish
        self.about: dict[str, Any] = {"instance": wish.instance, "generation": wish.generation}
        self._control, self._report = home / wish.control, report
        self._automaton = Automaton()
        self._happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tap = Tap(offset_us)
        self._link: InitLink | None = None
        self._connected = asyncio.Event()
        self._pid = self._ended_pid = self._init_us = self._exits = self._status = 0
        self._grace_ms = 10_000
        self._text = ""
        self._started = 0.0
        self._answers = True

    def status(self) -> Status:
        """Return how the instance is."""
        word = WORDS[self._automaton.state]
        if word == "ready" and not self._answers:
            word = "unhealthy"
        return Status(**self.about, state=word, pid=self._pid, status=self._status, text=self._text)

    def stop(self, grace_ms: int) -> None:
        """Wish the process to end; ``run`` returns when it has."""
        self._grace_ms = grace_ms
        self._feed(Event.STOP_WANTED)

    async def read_log(self, after: int) -> Lines:
        """Return the lines after number *after*. Raises: InitGone, InitUnknown."""
        if self._link is None:
            raise InitGone("the instance's init is not connected")
        return await self._tap.read(self._link, after)

    async def run(self) -> None:
        """Keep the process as wanted until it has ended for good. Cancelled, leave it as it is."""
        self._later("connection", 0, self._stay_connected)
        try:
            while self._automaton.state is not State.STOPPED:
                await self._obey(await self._happenings.get())
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _obey(self, happening: Happening) -> None:
        before = self._automaton.state
        self._automaton, action, delay_s = step(self._automaton, happening.event, monotonic_s())
        if action is Action.START:
            self._later("start", 0, self._start)
        elif action is Action.STOP:
            self._cancel("start")
            self._later("end", 0, self._end)
        elif action is Action.WAIT:
            self._later("again", delay_s, self._again)
        await self._tell(happening, before, delay_s)

    async def _tell(self, happening: Happening, before: State, delay_s: float) -> None:
        event, text, status = happening
        state = self._automaton.state
        if event is Event.STARTED and state is State.STARTING:
            self._started, self._answers, self._status, self._text = monotonic_s(), True, 0, ""
            self._later("health", 0, self._watch_health)
            await self._report(Started(pid=self._pid, **self.about))
        elif event is Event.READY and state is State.RUNNING and (before is State.STARTING or not self._answers):
            self._answers, self._text = True, ""
            await self._report(Ready(took_ms=int((monotonic_s() - self._started) * 1000) if before is State.STARTING else 0, **self.about))
        elif event is Event.HEALTH_FAILED and before is not state:
            self._text = text
            await self._report(Unhealthy(text=text, **self.about))
        elif event is Event.EXITED and before in ALIVE:
            self._cancel("health")
            self._status, self._text = status, text
            again_ms = int(delay_s * 1000) if state in (State.STARTING, State.BACKING_OFF) else -1
            await self._report(Exited(status=status, text=text, again_ms=again_ms, **self.about))
        elif event is Event.GIVEN_UP:
            self._text = text
            await self._report(Failed(text=text, **self.about))

    # -- init ---------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        wait_s = RECONNECT_S
        while True:
            try:
                async with await InitLink.connect(self._control) as link:
                    wait_s = RECONNECT_S
                    await self._attend(link)
            except (EnjinError, OSError) as error:
                _log.debug("init.unreachable", instance=self.wish.instance, error=error)
            finally:
                self._link = None
                self._connected.clear()
            if self._pid and self._answers:
                await self._doubt("its init does not answer")
            await asyncio.sleep(wait_s)
            wait_s = min(RECONNECT_S_MAX, wait_s * 2)

    async def _attend(self, link: InitLink) -> None:
        listing = await link.watch()
        self._meet(listing["started_us"])
        self._tap.attach(listing["started_us"])
        await self._take_over(link, listing)
        self._link = link
        self._connected.set()
        if self._pid:
            self._later("lines", 0, self._ship)
        async for event in link.events():
            if event["event"] == "lost":
                await self._take_over(link, await link.list())
            elif event["name"] == SERVICE and event["event"] == "started":
                self._began(event["pid"])
            elif event["name"] == SERVICE:
                self._ended_pid = event["pid"]
                words = await last_words(link) if event["pid"] == self._pid else ""
                if event["pid"] == self._pid:
                    self._ended(words, event["status"])

    def _meet(self, started_us: int) -> None:
        """Begin anew with another init: its jail is another one, where the same pids belong to other processes."""
        if self._init_us not in (0, started_us):
            if self._pid:
                self._ended("", KILLED)
            self._ended_pid = 0
        self._init_us = started_us

    async def _take_over(self, link: InitLink, listing: dict[str, Any]) -> None:
        """Compare what init has with what we believe, and say the difference as events."""
        view = next((one for one in listing["services"] if one["name"] == SERVICE), None)
        if view is not None and view["generation"] != self.wish.generation:
            if view["pid"]:
                await link.stop(SERVICE, self._grace_ms)
            view = None
        if view is not None and view["pid"]:
            if self._pid == view["pid"] and self._automaton.state is State.RUNNING:
                self._feed(Event.READY)
            self._cancel("start")
            self._began(view["pid"])
        elif self._pid:  # it ended, perhaps with its whole jail, while we were not connected
            self._ended("", KILLED if view is None or view["status"] is None else view["status"])
        elif self._automaton.state is State.PENDING:
            self._feed(Event.START_WANTED)

    async def _ship(self) -> None:
        async def send(lines: Lines) -> bool:
            return await self._report(Logged(log=lines, **self.about))

        with contextlib.suppress(InitGone):
            if self._link is not None:
                await self._tap.ship(self._link, send)

    # -- the process --------------------------------------------------------------------------------

    async def _start(self) -> None:
        while True:
            await self._connected.wait()
            if (link := self._link) is None:
                continue
            try:
                failpoint("instance.spawn")
                view = await link.spawn(service(self.wish))
                if not view["pid"]:
                    view = await link.start(SERVICE)
            except InitGone:
                self._connected.clear()
                continue
            except EnjinError as error:
                _log.warning("instance.not_started", instance=self.wish.instance, error=error)
                if isinstance(error, Refused):  # the same again would be refused again
                    self._feed(Event.GIVEN_UP, error.message)
                else:
                    self._feed(Event.EXITED, error.message, NOT_STARTED)
                return
            self._began(view["pid"])
            return

    async def _end(self) -> None:
        """End the process; without an init there is none to end."""
        before, status = self._exits, KILLED
        with contextlib.suppress(EnjinError, TimeoutError):
            async with asyncio.timeout(ORPHANED_S):
                await self._connected.wait()
            if self._link is not None:
                status = (await self._link.stop(SERVICE, self._grace_ms))["status"]
        if self._exits == before:
            self._ended("", status or 0)

    def _began(self, pid: int) -> None:
        """Take note of a start: answers and events cross, so the same may come twice, or after its end."""
        if pid and pid not in (self._pid, self._ended_pid):
            self._pid = pid
            self._feed(Event.STARTED)
            self._later("lines", 0, self._ship)

    def _ended(self, words: str, status: int) -> None:
        self._ended_pid, self._pid = self._pid or self._ended_pid, 0
        self._exits += 1
        self._feed(Event.EXITED, words, status)

    async def _again(self) -> None:
        self._feed(Event.TIMER)

    async def _watch_health(self) -> None:
        wish = self.wish
        if wish.kind == "worker" or wish.health.path is None or not wish.port:
            self._feed(Event.READY)
        else:
            self._feed(Event.HEALTH_FAILED, await watch(wish.address, wish.port, wish.health, self._trust, self._doubt))

    async def _trust(self) -> None:
        self._feed(Event.READY)

    async def _doubt(self, why: str) -> None:
        """Say that the process does not answer, though it is not ended for it."""
        self._answers, self._text = False, why
        await self._report(Unhealthy(text=why, **self.about))

    # -- events and timers --------------------------------------------------------------------------

    def _feed(self, event: Event, text: str = "", status: int = 0) -> None:
        self._happenings.put_nowait(Happening(event, text, status))

    def _later(self, name: str, seconds: float, then: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await then()

        self._cancel(name)
        self._tasks[name] = asyncio.create_task(wait())

    def _cancel(self, name: str) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
