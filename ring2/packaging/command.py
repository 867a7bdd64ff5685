"""Run one tool of a build: its output shown as it comes, its end kept, its time bounded.

Owns the child and everything the child starts (a session of its own), until it is gone.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, NamedTuple

from enjin.errors import StepFailed

TAIL_LINES: Final = 40
LINE_BYTES_MAX: Final = 2_000
SHOWN_BYTES_MAX: Final = 4 << 20


class CommandTimedOut(StepFailed):
    """A tool of the build took too long."""

    code = "E-PKG-032"
    retry = False
    http_status = 422
    remedy = "see the output above for where it hung"


class Finished(NamedTuple):
    """How a tool ended: its exit status (negative: a signal) and its last lines."""

    status: int
    tail: list[str]


def run(argv: list[str], *, cwd: Path, environment: dict[str, str], deadline_s: float) -> Finished:
    """Run *argv* to its end, showing its output on our own standard output.

    Raises:
        CommandTimedOut: It did not end in time; it and its children were killed.
    """
    child = subprocess.Popen(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    reader = threading.Thread(target=_show, args=(child, tail), daemon=True)
    reader.start()
    try:
        status = child.wait(deadline_s)
    except subprocess.TimeoutExpired as error:
        raise CommandTimedOut(f"{Path(argv[0]).name} took longer than {deadline_s:.0f} s", tail=list(tail)) from error
    finally:
        # Whatever the tool left behind in its session would hold the pipe and the jail open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        reader.join(5)
    return Finished(status, list(tail))


def _show(child: subprocess.Popen[bytes], tail: collections.deque[str]) -> None:
    shown = 0
    stream = child.stdout
    if stream is None:
        return
    while line := stream.readline(LINE_BYTES_MAX):
        text = line.decode("utf-8", "replace").rstrip()
        tail.append(text)
        if shown < SHOWN_BYTES_MAX:
            shown += len(line)
            print(f"       {text}", file=sys.stdout, flush=True)
