"""The inside of an app's or a build's jail: bubblewrap's command line, started as the node's own uid.

Owns the list of what such a jail sees. It works on the host and inside a ring 1 jail alike. May import: this package,
supervision.{steps,workshop}.

INV-APP-1: no path of the host is in it but /usr, the few files of /etc, the runtime, and what the specification mounts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from supervision.jail import files
from supervision.steps import NodeSpec
from supervision.workshop import APP_HOME, INSIDE_RUNTIME

BWRAP: Final = "/usr/bin/bwrap"
TEMPORARY_BYTES: Final = 256 << 20


def arguments(
    spec: NodeSpec,
    *,
    runtime: str,
    home: str,
    mounts: list[tuple[str, str, bool]],
    put: Callable[[bytes], int],
    filters: tuple[bytes, ...],
    information: int,
    share_network: bool,
    program: list[str],
) -> list[str]:
    """Return the command line.

    Args:
        mounts: (source, target, writable), checked.
        put: Puts bytes into an inheritable memory file and returns its descriptor.
        information: Descriptor on which bubblewrap says the pid of the jail's first process.
        share_network: The caller has arranged the network namespace; else bubblewrap makes one with loopback only.
    """
    line = [BWRAP, *(f"--unshare-{name}" for name in ("user", "ipc", "pid", "uts", "cgroup-try")), "--as-pid-1", "--new-session"]
    if not share_network:
        line.append("--unshare-net")
    line += ["--hostname", spec.hostname or spec.node, "--clearenv", "--ro-bind", "/usr", "/usr"]
    for path, link in files.links().items():
        line += ["--symlink", link, path]
    for path in files.plain_directories():
        line += ["--ro-bind", path, path]
    line += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/tmp", "/var/tmp", "/run", "/dev/shm"):
        line += ["--perms", "1777", "--size", str(TEMPORARY_BYTES), "--tmpfs", path]
    for path, text in files.generated(spec).items():
        line += ["--perms", "0444", "--file", str(put(text.encode())), path]
    for path in files.shown():
        line += ["--ro-bind", os.path.realpath(path), path]
    line += ["--ro-bind", runtime, INSIDE_RUNTIME]
    if home:
        line += ["--bind", home, APP_HOME]
    for source, target, writable in mounts:
        line += ["--bind" if writable else "--ro-bind", source, target]
    line += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]
    for key, value in {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": APP_HOME}.items():
        line += ["--setenv", key, value]
    for program_bytes in filters:
        line += ["--add-seccomp-fd", str(put(program_bytes))]
    return [*line, "--info-fd", str(information), "--", *program]
