"""Proportional set sizes of an idle cloud with one app, beside a bare interpreter that has imported the same libraries."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bench.figures import Peer, Row, rows
from tests.cloud import Cloud, Process

SETTLE_S = 5.0
LIBRARIES = "import asyncio, zmq, nacl.signing, msgspec, structlog"
# Figure -> words of the command line that tell the process. A process's child with the same command line (hands' worker) is a part of it.
WHO = {
    "ring0_pss_mb": ("ring0.daemon",),
    "ring1_pss_mb": ("ring1.daemon",),
    "hands_pss_mb": ("supervision.hands",),
    "agent_pss_mb": ("ring2.daemon",),
    "init_pss_mb": ("supervision/init/",),
}


def pss_mb(pid: int) -> float:
    """Return the proportional set size of process *pid* in MB.

    Source: proc(5), /proc/PID/smaps_rollup.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"process {pid} has no Pss")


def _bare(code: str, *options: str) -> float:
    text = f"{code}\nprint('ready', flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, *options, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is not None:
                process.stdout.readline()
            return pss_mb(process.pid)
        finally:
            if process.stdin is not None:
                process.stdin.close()


def _largest(found: list[Process], figure: str) -> float:
    if not found:
        raise LookupError(f"{figure}: no process {' '.join(WHO[figure])}")
    pids = {process.pid: process for process in found}
    whole: dict[int, float] = {}
    for process in found:
        above = pids.get(process.parent)
        root = above.pid if above and above.argv == process.argv else process.pid
        whole[root] = whole.get(root, 0) + pss_mb(process.pid)
    return max(whole.values())


def measure(cloud: Cloud) -> list[Row]:
    """Return the five sizes; where there are several such processes, the largest counts."""
    time.sleep(SETTLE_S)  # idle is what is measured, and there is nothing to wait for
    daemon = Peer("the libraries alone", _bare(LIBRARIES))
    plain = Peer("python3 -I -S", _bare("", "-I", "-S"))
    found = []
    for figure, words in WHO.items():
        found += rows(figure, _largest(cloud.find(*words), figure), [plain if figure == "init_pss_mb" else daemon])
    return found
