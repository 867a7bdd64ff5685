"""Named points where a test ends this process, or counts how often it passes: before each fsync, send, spawn and rename.

Owns reading ``ENJIN_FAILPOINT`` (once, when it is imported) and what happens at a point. Unset, a point is one call that
returns. It knows no other point's name; ``tests/failpoints`` finds them all in the code and checks that no site lacks one.

``ENJIN_FAILPOINT``:
    NAME:kill9:NTH    end the process with SIGKILL when NAME is passed for the NTH time (1 is the first).
    NAME:count        write a line with the name and the process's id at each pass; ``*`` stands for every name.
``ENJIN_FAILPOINT_LOG``: the file that each pass (``count``) or the end (``kill9``) is written to. With it a process is
ended only where the file does not exist yet: of all daemons that inherit the variables, and of all their restarts, one.

INV-FPT-1: what cannot be read ends the process with status 2; a test never runs without the fault that it asked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final

VARIABLE: Final = "ENJIN_FAILPOINT"
LOG: Final = "ENJIN_FAILPOINT_LOG"
CODE: Final = "E-FPT-001"
VARIABLES: Final = (VARIABLE, LOG)

Reached = Callable[[str], None]


class BadFailpoint(ValueError):
    """``ENJIN_FAILPOINT`` says nothing that can be done."""


def parse(text: str, path: str = "") -> Reached:
    """Return what to call with each point's name.

    Args:
        text: The variable's value, as above.
        path: File to write to; empty: ``count`` writes to standard error and ``kill9`` nowhere.

    Raises:
        BadFailpoint: *text* has another form.
    """
    name, _, rest = text.partition(":")
    action, _, number = rest.partition(":")
    if name and rest == "count":
        return lambda reached: _note(path, f"{reached} {os.getpid()}", os.O_APPEND) if name in ("*", reached) else None
    if not name or action != "kill9" or not number.isdecimal() or int(number) < 1:
        raise BadFailpoint(f"{VARIABLE} is {text!r}, not NAME:kill9:NTH or NAME:count")
    left = int(number)

    def count_down(reached: str) -> None:
        nonlocal left
        if reached != name:
            return
        left -= 1
        if left == 0:
            if path:
                try:
                    _note(path, reached, os.O_EXCL)
                except FileExistsError:
                    return
            os.kill(os.getpid(), signal.SIGKILL)

    return count_down


def _note(path: str, text: str, flag: int) -> None:
    line = text.encode() + b"\n"
    if not path:
        with contextlib.suppress(OSError):
            os.write(2, line)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o666)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def inherited() -> dict[str, str]:
    """Return the variables that a process we start needs to have the same fault; empty outside such tests."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _armed() -> Reached | None:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        return parse(text, os.environ.get(LOG, ""))
    except BadFailpoint as error:
        sys.stderr.write(f"enjin: {CODE}: {error}\n")
        raise SystemExit(2) from None


_reached: Reached | None = _armed()


def failpoint(name: str) -> None:
    """Pass the point *name*: nothing happens unless a test has asked for it."""
    if _reached is not None:
        _reached(name)


@contextlib.contextmanager
def armed(reached: Reached) -> Iterator[None]:
    """Call *reached* with each point's name while the block runs: the simulator's way in."""
    global _reached
    before, _reached = _reached, reached
    try:
        yield
    finally:
        _reached = before
