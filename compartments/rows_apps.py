"""The rows of ring 1's apps: what tenants pushed, what runs of it, and what may not be given out again yet.

Owns the shapes, their keys and indexes. How rows come to be is ``facts.apps``; who may ask for it is ring 1's matter.
Imports ``row`` only.

An app serves one release at one *generation*: the number of the roll-out that put its instances there. A push, a
rollback, a change of settings and a restart are roll-outs alike: instances of a new generation are made, become ready,
take the route, and those of older generations drain. At most one roll-out per app is under way.

INV-APR-1: a release number, a generation and an instance id of an app are never used again, also after it was destroyed.
INV-APR-2: at most one release of an app is ``live``; ``App.live`` names it (0: none).
INV-APR-3: no two instances that are not gone share a uid, a port or an address; a freed uid waits in ``UsedUid``.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import msgspec

from compartments.row import Row

SealingKeyState = Literal["in use", "condemned", "shredded"]
AppStrategy = Literal["jail", "user", "process"]
Cause = Literal["push", "rollback", "settings", "restart"]
ReleaseState = Literal["building", "built", "starting", "live", "superseded", "failed"]
InstanceWanted = Literal["running", "draining", "gone"]
InstanceState = Literal["pending", "starting", "ready", "unhealthy", "exited", "failed"]


class Limits(Row):
    """What one instance may use at most."""

    KEY: ClassVar[tuple[str, ...]] = ()

    memory_bytes: int
    processes: int
    cpu_millicores: int
    files: int


class Health(Row):
    """How an instance of ``web`` shows that it is ready: TCP on its port, then HTTP below 500 on *path* (""; TCP is enough)."""

    KEY: ClassVar[tuple[str, ...]] = ()

    path: str
    ready_ms: int
    drain_ms: int


class App(Row):
    """An app of a tenant. The row stays when the app is destroyed, so that its numbers are never used again.

    ``live`` is the release that serves and ``generation`` the roll-out that it serves at; ``settings`` is the version now.
    """

    KEY = ("name",)
    INDEX = ("compartment",)

    name: str
    compartment: str
    strategy: AppStrategy
    limits: Limits
    health: Health
    scale: dict[str, int] = msgspec.field(default_factory=dict)
    live: int = 0
    generation: int = 0
    settings: int = 0
    last_release: int = 0
    last_generation: int = 0
    last_settings: int = 0
    created: int = 0
    destroyed: int = 0


class Release(Row):
    """One immutable version of an app: a tree under its digest and the settings it runs with.

    ``origin`` is the release whose tree this one uses (0: its own build); ``lived`` is when it last went live (0: never).
    """

    KEY = ("app", "number")
    INDEX = ("app", "state", "tree")

    app: str
    number: int
    cause: Cause = "push"
    state: ReleaseState = "building"
    source: str = ""
    revision: str = ""
    origin: int = 0
    tree: str = ""
    language: str = ""
    processes: dict[str, str] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: int = 0
    stage: str = ""
    code: str = ""
    why: str = ""
    lived: int = 0
    created: int = 0
    by: str = ""
    request: str = ""


class Build(Row):
    """A node that builds one release and is gone afterwards."""

    KEY = ("id",)
    INDEX = ("app",)

    id: str
    app: str
    compartment: str
    release: int
    uid: int
    strategy: AppStrategy
    source: str
    since: int = 0


class Instance(Row):
    """One process of a release, in a node of its own.

    ``exits`` counts how often the process ended by itself, ``ready`` is when it was ready first (0: never yet).
    """

    INDEX = ("app", "compartment", "wanted")

    id: str
    app: str
    compartment: str
    release: int
    process: str
    index: int
    generation: int
    strategy: AppStrategy
    limits: Limits
    uid: int
    port: int
    ipv4: str
    ipv6: str = ""
    network: str = ""
    offset: int = 0
    wanted: InstanceWanted = "running"
    state: InstanceState = "pending"
    status: int = 0
    why: str = ""
    exits: int = 0
    ready: int = 0
    since: int = 0
    created: int = 0


class Rollout(Row):
    """A roll-out under way: *release* is to serve at *generation*. ``ready_ms`` is its patience."""

    KEY = ("app",)

    app: str
    release: int
    generation: int
    cause: Cause
    request: str
    since: int
    ready_ms: int


class Settings(Row):
    """The settings of an app at a version: key -> sealed value, as base64url text."""

    KEY = ("app", "version")
    INDEX = ("app",)

    app: str
    version: int
    values: dict[str, str] = msgspec.field(default_factory=dict)
    created: int = 0


class Route(Row):
    """A host name whose requests go to an app."""

    KEY = ("host",)
    INDEX = ("app",)

    host: str
    app: str
    created: int = 0


class Agent(Row):
    """The ring 2 agent of a compartment: the uid it runs under, which the compartment's apps can neither see nor signal."""

    KEY = ("compartment",)
    INDEX = ("uid",)

    compartment: str
    uid: int
    created: int = 0


class SealingKey(Row):
    """The public key to which a compartment's settings are sealed; its private half is in no journal and no backup."""

    KEY = ("compartment",)

    compartment: str
    public: str
    created: int = 0
    state: SealingKeyState = "in use"
    condemned: int = 0
    shredded: int = 0


class UsedUid(Row):
    """A uid that may not be given out again before *until*."""

    KEY = ("uid",)

    uid: int
    until: int


ROWS: Final = (App, Release, Build, Instance, Rollout, Settings, Route, Agent, SealingKey, UsedUid)
