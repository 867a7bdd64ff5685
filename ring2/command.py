"""How an instance's process is started: its command line, environment and the service that init gets. Pure.

May import: supervision.instances.
"""

from __future__ import annotations

import re
from typing import Any, Final

from supervision.instances import RunInstance

SERVICE: Final = "process"
DEFAULTS: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
_ASSIGNMENTS: Final = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*=[\w./:@%+,-]*\s+)*")
_COMPOUND: Final = re.compile(r"[;&|(){}`\n!]")
_KEYWORDS: Final = frozenset({
    "exec", "eval", "cd", "if", "for", "while", "until", "case", "export", "set", "unset", "trap", ".", ":", "[", "test", "ulimit", "umask",
})  # fmt: skip


def shell_line(line: str) -> str:
    """Return what ``/bin/sh -c`` gets for the Procfile line *line*.

    A plain command replaces the shell, so that signals reach it; a compound one (``a && b``, ``cd x; y``) stays as it is.
    """
    line = line.strip()
    start = match.end() if (match := _ASSIGNMENTS.match(line)) else 0
    command = line[start:]
    first = command.split(maxsplit=1)[0] if command else ""
    if not command or _COMPOUND.search(command.replace("2>&1", "")) or first in _KEYWORDS or "=" in first:
        return line
    return f"{line[:start]}exec {command}"


def service(wish: RunInstance) -> dict[str, Any]:
    """Return the service of *wish* for its init. The environment in it is secret."""
    port = {"PORT": str(wish.port)} if wish.port else {}
    return {
        "name": SERVICE, "generation": wish.generation, "argv": ["/bin/sh", "-c", shell_line(wish.line)],
        "env": {**DEFAULTS, **wish.environment, **port}, "cwd": wish.cwd,
        "restart": "never", "log": True, "leftovers": "kill", "no_new_privs": True,
    }  # fmt: skip
