"""What ring 1 and a ring 2 agent say to each other about an instance: both rings import it from here.

Owns the shapes and their limits. An environment's values are secrets: they stand in the command alone, are never
logged, and never come back. May import: bus.messages, enjin.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bus.messages import Command, Observation, Query

Instance = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,8}-[0-9a-f]{16}$")]
Generation = Annotated[int, msgspec.Meta(ge=1)]
State = Literal["pending", "starting", "ready", "unhealthy", "exited", "failed", "stopped"]
TEXT_MAX_CHARACTERS = 2000


class Health(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a process shows that it is ready: TCP on its port, then HTTP below 500 on *path*; "": TCP is enough; None: it has no port."""

    path: Annotated[str, msgspec.Meta(max_length=1024)] | None = "/"
    timeout_s: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 30
    interval_ms: Annotated[int, msgspec.Meta(ge=10, le=60_000)] = 50


class RunInstance(Command, kind="instance.run", kw_only=True):
    """Run an instance's process and keep it running; the same generation again changes nothing and is answered with its state.

    ``control`` is the path, below the agent's home, of the socket of the instance's init. ``environment`` is secret.
    """

    instance: Instance
    generation: Generation
    control: str
    address: str
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    line: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str = "/app"
    health: Health = Health()
    kind: Literal["web", "worker"] = "web"


class StopInstance(Command, kind="instance.stop", kw_only=True):
    """End an instance's process; answered when it has ended."""

    instance: Instance
    generation: Generation
    grace_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 10_000


class OfferGrants(Command, kind="instance.trust", kw_only=True):
    """Give the agent newer grants, parents first, as base64url frames; they are believed only where they chain to the root.

    Root statements that succeed the one it knows come first.
    """

    grants: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)]
    revoked: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    roots: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()


class ReadLog(Query, kind="instance.logs", kw_only=True):
    """The lines that an instance wrote after line number *after*, as many as an answer holds."""

    instance: Instance
    after: Annotated[int, msgspec.Meta(ge=0)] = 0


class Status(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to run and stop."""

    instance: str
    generation: int
    state: State
    pid: int = 0
    status: int = 0
    text: str = ""


class Lines(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Log lines: (number, cloud time in microseconds, text). Numbers belong to *source*, one life of the instance's init.

    ``lost``: how many before the first are no longer held; ``dropped``: how many were over the rate limit so far.
    """

    source: int
    lines: tuple[tuple[int, int, str], ...] = ()
    lost: int = 0
    dropped: int = 0
    last: int = 0


class AgentBegan(Observation, kind="instance.agent", kw_only=True):
    """An agent has started and knows of nothing: tell it what is wanted."""

    compartment: str


class _About(Observation, kw_only=True):
    instance: str
    generation: int


class Started(_About, kind="instance.started", kw_only=True):
    """The process runs and is not ready yet."""

    pid: int


class Ready(_About, kind="instance.ready", kw_only=True):
    """The process answers; after *took_ms* since it was started."""

    took_ms: int = 0


class Unhealthy(_About, kind="instance.unhealthy", kw_only=True):
    """The process runs and does not answer."""

    text: str


class Exited(_About, kind="instance.exited", kw_only=True):
    """The process ended: *status* is its exit status, negative for a signal; *text* is the end of what it wrote.

    ``again_ms``: in how long it is started again; -1: it is not.
    """

    status: int
    text: str = ""
    again_ms: int = 0


class Failed(_About, kind="instance.failed", kw_only=True):
    """The process cannot be run; it is not tried again in this generation."""

    text: str


class Logged(_About, kind="instance.log", kw_only=True):
    """What the process wrote."""

    log: Lines
