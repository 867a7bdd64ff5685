"""How hands is told where it works: the shape of its configuration, and its reading.

May import: enjin, supervision.steps.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from enjin.errors import ConfigError
from enjin.host import read_bounded
from supervision.steps import HOST_ROOT

LIMIT: Final = 1 << 20


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How hands is told where it works.

    Args:
        tag: First six hex digits of the cloud's id.
        home: ENJIN_HOME, as hands sees it.
        runtime: The runtime copy, with bin/python.
        roots: Named directories that steps may name, beside nodes, releases and blobs below home.
        privileged: Hands is root of its user namespace.
        uids: Ranges of uids for nodes; a ring 1 jail's 65,536 lie within one of them.
        host_paths: What the root `host` may name, read-only.
        init: Path of the control socket of hands' own init, where listeners are taken; "" when they come with the steps.
        program: init's path below the runtime; "" looks for it.
        closed: Addresses that no node's way out may reach: those of the host.
        own_network: Hands' network namespace is the cloud's own, so that a fabric and rules may be made in it; by default only inside a
            user namespace, as in a ring 1 jail.
    """

    tag: str
    home: str
    runtime: str
    roots: dict[str, str] = {}
    privileged: bool = True
    uids: tuple[tuple[int, int], ...] = ()
    host_paths: tuple[str, ...] = ()
    init: str = ""
    program: str = ""
    closed: tuple[str, ...] = ()
    own_network: bool | None = None

    def __post_init__(self) -> None:
        if len(self.tag) != 6 or not set(self.tag) <= set("0123456789abcdef"):
            raise ConfigError(f"tag {self.tag!r} is not six hex digits")
        for path in (self.home, self.runtime, *self.roots.values(), *self.host_paths):
            if not path.startswith("/"):
                raise ConfigError(f"{path!r} is not an absolute path")
        if HOST_ROOT in self.roots:
            raise ConfigError(f"the root {HOST_ROOT!r} cannot be given")


def read_config(where: str) -> Config:
    """Return the configuration at a path, or on a descriptor given by its number.

    Raises:
        ConfigError: It does not parse.
    """
    try:
        data = os.pread(int(where), LIMIT, 0) if where.isdigit() else read_bounded(where, LIMIT)
        return msgspec.json.decode(data, type=Config)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"hands' configuration {where} cannot be read: {error}") from error
