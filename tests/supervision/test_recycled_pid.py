"""A pid is never enough: whoever has taken it over is neither believed nor signalled, whenever that happened."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from enjin.host import clock
from supervision import records
from supervision.records import Identity
from tests.supervision.pids import recycle
from tests.supervision.rig import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to choose the next pid")


def sleeper() -> subprocess.Popen[bytes]:
    """Return a process that has nothing to do."""
    return subprocess.Popen(["/usr/bin/sleep", "1000"])


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def identified(process: subprocess.Popen[bytes]) -> Identity:
    """Return the identity of *process* once it is older than a tick: /proc counts start times in hundredths of a second.

    Two processes with one pid could be taken for each other only where all pids were used up within the tick in which one began.
    """
    found = records.identify(process.pid, None)
    assert found is not None
    wait_until(lambda: clock().boot_us * os.sysconf("SC_CLK_TCK") // 1_000_000 > found.started)
    return found


def test_the_process_itself_is_signalled() -> None:
    """The valid twin: while it lives, it is held, verified and reached."""
    ours = sleeper()
    identity = identified(ours)
    descriptor = records.hold(identity, None)
    assert descriptor is not None
    os.close(descriptor)
    assert (records.verify(identity, None), records.send(identity, None, signal.SIGTERM)) == ("ours", True)
    assert ours.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("use", [lambda one: records.send(one, None, signal.SIGKILL), records.kill], ids=["send", "kill"])
def test_n43_who_has_the_pid_now_is_not_who_was_checked(use: Callable[[Identity], object]) -> None:
    """N43: it ends after the check, another gets its pid, and only then it is used: by its start time the other is somebody else."""
    ours = sleeper()
    identity = identified(ours)
    end(ours)
    stranger = recycle(identity.pid)
    try:
        assert records.verify(identity, None) == "gone"
        assert records.hold(identity, None) is None
        use(identity)
        assert stranger.poll() is None
        assert identified(stranger) != identity
    finally:
        end(stranger)


def test_n43_what_is_held_stays_the_one_that_was_checked() -> None:
    """N43: it ends and its pid is taken after it was held: what we hold is it, gone, and never the one that came after."""
    ours = sleeper()
    identity = identified(ours)
    descriptor = records.hold(identity, None)
    assert descriptor is not None
    end(ours)
    stranger = recycle(identity.pid)
    try:
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        os.close(descriptor)
        end(stranger)


def test_n43_a_pid_that_changes_hands_while_it_is_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """N43, the narrowest moment: the descriptor that was opened is the stranger's, and the look after opening finds that out."""
    ours = sleeper()
    identity = identified(ours)
    opened, strangers = os.pidfd_open, list[subprocess.Popen[bytes]]()

    def late(pid: int) -> int:
        end(ours)
        strangers.append(recycle(pid))
        return opened(pid)

    monkeypatch.setattr(os, "pidfd_open", late)
    before = set(Path("/proc/self/fd").iterdir())
    try:
        assert records.hold(identity, None) is None
        assert strangers[0].poll() is None
        assert set(Path("/proc/self/fd").iterdir()) - before == set()
    finally:
        for one in strangers:
            end(one)
