"""The files of /etc that a jail gets: made for it, not the host's.

Owns their text and the short list of the host's own that are shown read-only. May import: supervision.steps.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from supervision.steps import NodeSpec

HOST_FILES: Final = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/localtime",
    "/etc/protocols",
    "/etc/services",
    "/etc/mime.types",
    "/etc/python3",
    "/etc/python3.11",
    "/etc/python3.12",
    "/etc/python3.13",
)
LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
RESOLVER: Final = {"ring1": "10.0.2.3", "app": "", "build": "10.0.3.3"}


def generated(spec: NodeSpec) -> dict[str, str]:
    """Return path -> text of the files made for the node."""
    uid = 0 if spec.purpose == "ring1" else spec.uid
    hostname = spec.hostname or spec.node
    users = ["root:x:0:0:root:/root:/bin/sh", "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin"]
    groups = ["root:x:0:", "tty:x:5:", "nogroup:x:65534:"]
    named = {"enjin": 100, "hub": 101, "router": 102} if spec.purpose == "ring1" else {"app": uid}
    for name, number in named.items():
        users.append(f"{name}:x:{number}:{number}:{name}:{'/home/app' if name == 'app' else '/'}:/bin/sh")
        groups.append(f"{name}:x:{number}:")
    resolver = RESOLVER[spec.purpose] if spec.outgoing else ""
    return {
        "/etc/passwd": "\n".join((*users, "")),
        "/etc/group": "\n".join((*groups, "")),
        "/etc/hostname": f"{hostname}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
        "/etc/resolv.conf": f"nameserver {resolver}\noptions timeout:3 attempts:2\n" if resolver else _resolver(spec),
    }


def _resolver(spec: NodeSpec) -> str:
    """Return what a node without a way out of its own reads: a build of strategy process is on the host's network, and asks as it does."""
    if spec.strategy == "process" and spec.purpose == "build":
        with contextlib.suppress(OSError, UnicodeDecodeError), open("/etc/resolv.conf", encoding="utf-8") as file:
            return file.read(65_536)
    return "# no way out\n"


def shown() -> list[str]:
    """Return those of the host's files that are there to be shown."""
    return [path for path in HOST_FILES if os.path.exists(path)]


def links() -> dict[str, str]:
    """Return the links in / of a merged /usr, as this host has them; real directories are not among them."""
    return {f"/{name}": os.readlink(f"/{name}") for name in LINKS if os.path.islink(f"/{name}")}


def plain_directories() -> list[str]:
    """Return those of the same names that are real directories here (a host without a merged /usr)."""
    return [f"/{name}" for name in LINKS if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")]
