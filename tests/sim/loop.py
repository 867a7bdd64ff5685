"""An event loop whose clock only moves when nothing is left to do, and in which every callback belongs to one process's life."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import selectors
from collections.abc import Callable, Mapping
from typing import Any


class Crashed(BaseException):
    """The process ends here. No Exception, so that nothing on the way mistakes it for a fault that can be handled."""


class Stuck(AssertionError):
    """Nothing is left to do and nothing will ever happen."""


class Life:
    """One process from its start to its end; whoever is killed gets a new one."""

    def __init__(self, name: str) -> None:
        self.name, self.alive = name, True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = contextvars.copy_context()
        self.context.run(LIFE.set, self)


LIFE: contextvars.ContextVar[Life] = contextvars.ContextVar("life")


class _Silence(selectors.BaseSelector):
    """Nothing ever becomes readable; waiting moves the loop's clock."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, -1, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("every process waits for something that nobody will do")
        if self.loop is not None:
            self.loop.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Virtual seconds since the loop was made; threads run to their end within one callback.

    Args:
        disk_s: Returns how long the next call of a thread takes, in virtual seconds: what threads do here is wait for disks.
    """

    def __init__(self, disk_s: Callable[[], float]) -> None:
        self.now_s = 0.0
        self.current: Life | None = None
        self._disk_s = disk_s
        silence = _Silence()
        super().__init__(silence)
        silence.loop = self
        self.set_task_factory(_task)

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        context = contextvars.copy_context() if context is None else context
        return super().call_soon(self._as, context.get(LIFE), callback, args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        context = contextvars.copy_context() if context is None else context
        return super().call_at(when, self._as, context.get(LIFE), callback, args, context=context)

    def _as(self, life: Life | None, callback: Any, args: tuple[Any, ...]) -> None:
        before, self.current = self.current, life
        try:
            callback(*args)
        finally:
            self.current = before

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        life = self.current

        def run() -> None:
            if future.done():
                return
            if life is not None and not life.alive:
                future.cancel()
                return
            try:
                own = isinstance(executor, concurrent.futures.Executor)
                result = executor.submit(func, *args).result() if own else func(*args)
            except BaseException as error:
                if not future.done():  # the crash that it raised has ended everybody who waits
                    future.set_exception(_passable(error))
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self._disk_s(), run)
        return future


def _passable(error: BaseException) -> BaseException:
    return RuntimeError("StopIteration") if isinstance(error, StopIteration) else error


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, context: contextvars.Context | None = None) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, context=context)
    life = (contextvars.copy_context() if context is None else context).get(LIFE)
    if life is not None:
        life.tasks.add(task)
        task.add_done_callback(life.tasks.discard)
        task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Whoever was killed is asked for no reason."""
    if not task.cancelled() and isinstance(task.exception(), Crashed):
        return
