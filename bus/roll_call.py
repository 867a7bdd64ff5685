"""What every daemon answers, whatever its ring, alone or in a group: that it is there, and what it is.

Owns these harmless questions and their answers. Nothing in them is secret and nothing is changed by asking.
"""

from __future__ import annotations

import os
import platform
from typing import Any, Final

from bus.messages import Asker, Query, Question, Role
from enjin import __version__
from enjin.host import monotonic_s, read_bounded

STATM_MAX: Final = 256


class Ping(Query, kind="daemon.ping"):
    """Say that you are there."""


class Facts(Query, kind="daemon.facts"):
    """Say what you are: version, interpreter, kernel, process, memory, and for how long you have run."""


KINDS: Final[dict[str, type[Query]]] = {shape.KIND: shape for shape in (Ping, Facts)}


def questions(node: str, ring: int) -> tuple[Question, ...]:
    """Return the rows of the closed table of *node*'s daemon, which starts now."""
    began_s = monotonic_s()

    def ping(_query: Ping, _world: Any, _asker: Asker) -> dict[str, Any]:
        return {"node": node, "ring": ring}

    def facts(_query: Facts, _world: Any, _asker: Asker) -> dict[str, Any]:
        pages = int(read_bounded("/proc/self/statm", STATM_MAX).split()[1])
        return {
            "node": node,
            "ring": ring,
            "version": __version__,
            "python": platform.python_version(),
            "kernel": os.uname().release,
            "pid": os.getpid(),
            "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "up_s": int(monotonic_s() - began_s),
        }

    return (Question(Ping, ping, allow=Role.OPERATOR, group=True), Question(Facts, facts, allow=Role.OPERATOR, group=True))
