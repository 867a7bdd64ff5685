"""The event loop: readiness, timers, signals. Nothing raised in a callback ends it.

May import: the standard library's C modules.
"""

import _signal  # type: ignore[import-not-found]
import os
import select
import sys
import time


class Loop:
    """One epoll, a few timers, and the signals that matter."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callbacks: dict[int, object] = {}
        self._timers: dict[str, tuple[float, object]] = {}
        self.signals: set[int] = set()
        wake, wake_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, lambda *_: None)
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        self.on(wake, lambda _: self.signals.update(os.read(wake, 4096)))

    def on(self, fd: int, callback: object, mask: int = select.EPOLLIN) -> None:
        """Call *callback* with the events of *fd*."""
        self._poll.register(fd, mask)
        self._callbacks[fd] = callback

    def want(self, fd: int, mask: int) -> None:
        """Change what is waited for on *fd*."""
        self._poll.modify(fd, mask)

    def off(self, fd: int) -> None:
        """Forget *fd*, before it is closed."""
        del self._callbacks[fd]
        self._poll.unregister(fd)

    def later(self, name: str, seconds: float, function: object) -> None:
        """Call *function* after *seconds*, in place of an earlier timer of this *name*."""
        self._timers[name] = (time.monotonic() + seconds, function)

    def once(self) -> None:
        """Wait for something to happen and handle all that has happened."""
        first = min((at for at, _ in self._timers.values()), default=None)
        ready = self._poll.poll(None if first is None else max(0.0, first - time.monotonic() + 0.001), 64)
        now = time.monotonic()
        for name in [name for name, timer in self._timers.items() if timer[0] <= now]:
            self._guard(self._timers.pop(name)[1])
        for fd, mask in ready:
            self._guard(self._callbacks.get(fd), mask)  # looked up now: an earlier one may have closed it

    def _guard(self, function: object, *arguments: int) -> None:
        try:
            if callable(function):
                function(*arguments)
        except BlockingIOError:
            return  # readiness that was gone again
        except Exception as error:  # the end of PID 1 is the end of the jail
            sys.stderr.write(f"init: {type(error).__name__}: {error}\n")
