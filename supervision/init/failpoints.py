"""What ``enjin.failpoints`` is for everybody else: named points where a test ends init, which imports nothing of ours.

Owns reading the same two variables, of which init obeys ``NAME:kill9:NTH`` and ``count`` for its own names.
May import: the standard library's C modules.
"""

import _signal  # type: ignore[import-not-found]
import os

NAME, _, ACTION = os.environ.get("ENJIN_FAILPOINT", "").partition(":")
LOG = os.environ.get("ENJIN_FAILPOINT_LOG", "")
_passed = 0


def failpoint(name: str) -> None:
    """Pass the point *name*: nothing happens unless a test has asked for it."""
    if NAME and NAME in ("*", name):
        _reached(name)


def _reached(name: str) -> None:
    global _passed
    _passed += 1
    counting = ACTION == "count"
    if not counting and ACTION != f"kill9:{_passed}":
        return
    if LOG:
        try:
            descriptor = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if counting else os.O_EXCL), 0o666)
        except FileExistsError:
            return
        os.write(descriptor, (f"{name} {os.getpid()}" if counting else name).encode() + b"\n")
        os.close(descriptor)
    if not counting:
        os.kill(os.getpid(), _signal.SIGKILL)
