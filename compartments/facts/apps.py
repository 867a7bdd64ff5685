"""Facts about apps as a whole: that they exist, how large they are, their settings and their compartment's agent.

Owns how these rows change. Decides nothing: every number, id and uid stands in the fact. ``FACTS`` sums up this file,
``releases`` and ``instances``.

INV-FAP-1: ``apply`` reads and writes rows and nothing else; the same facts in the same order give the same rows.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from bus.messages import Fact
from compartments.facts import instances, releases
from compartments.rows import Counter, Task
from compartments.rows_apps import Agent, App, AppStrategy, Health, Limits, Release, Rollout, Route, SealingKey, Settings
from compartments.world import World

AGENT_COUNTER: Final = "apps/agent-uid"


class AppCreated(Fact, kind="app.created", kw_only=True):
    """An app began to exist, for the first time or after it had been destroyed, and host names lead to it."""

    app: str
    compartment: str
    strategy: AppStrategy
    memory_bytes: int
    processes: int
    cpu_millicores: int
    files: int
    health_path: str
    ready_ms: int
    drain_ms: int
    hosts: tuple[str, ...] = ()
    time: int

    def apply(self, world: World) -> None:
        """Put the app and its routes; numbers go on where an earlier app of that name stopped."""
        before = world.get(App, self.app)
        world.put(
            App(
                name=self.app,
                compartment=self.compartment,
                strategy=self.strategy,
                limits=Limits(
                    memory_bytes=self.memory_bytes, processes=self.processes, cpu_millicores=self.cpu_millicores, files=self.files
                ),
                health=Health(path=self.health_path, ready_ms=self.ready_ms, drain_ms=self.drain_ms),
                last_release=before.last_release if before else 0,
                last_generation=before.last_generation if before else 0,
                last_settings=before.last_settings if before else 0,
                created=self.time,
            )
        )
        for host in self.hosts:
            world.put(Route(host=host, app=self.app, created=self.time))


class AppStrategyChanged(Fact, kind="app.strategy-changed", kw_only=True):
    """Instances that an app gets from now on are kept apart another way."""

    app: str
    strategy: AppStrategy

    def apply(self, world: World) -> None:
        """Change the app."""
        world.put(replace(world.need(App, self.app), strategy=self.strategy))


class AppScaled(Fact, kind="app.scaled", kw_only=True):
    """How many instances of which processes an app wants."""

    app: str
    scale: dict[str, int]

    def apply(self, world: World) -> None:
        """Change the app."""
        world.put(replace(world.need(App, self.app), scale=self.scale))


class AppDestroyed(Fact, kind="app.destroyed", kw_only=True):
    """An app and everything it had is gone, but for its instances, which end one by one, and its numbers."""

    app: str
    time: int

    def apply(self, world: World) -> None:
        """Keep the name with its numbers; delete releases, settings, routes, roll-out."""
        app = world.need(App, self.app)
        world.put(replace(app, live=0, generation=0, settings=0, scale={}, destroyed=self.time))
        for release in world.find(Release, app=self.app):
            world.delete(Release, self.app, release.number)
        for settings in world.find(Settings, app=self.app):
            world.delete(Settings, self.app, settings.version)
        for route in world.find(Route, app=self.app):
            world.delete(Route, route.host)
        world.delete(Rollout, self.app)


class SettingsChanged(Fact, kind="settings.changed", kw_only=True):
    """An app has a new version of its settings: that of *base*, with some keys set and some removed."""

    app: str
    version: int
    base: int
    changed: dict[str, str] = msgspec.field(default_factory=dict)
    removed: tuple[str, ...] = ()
    time: int

    def apply(self, world: World) -> None:
        """Put the version and make it the app's."""
        before = world.get(Settings, self.app, self.base)
        values = {key: value for key, value in (before.values if before else {}).items() if key not in self.removed}
        values = dict(sorted((values | self.changed).items()))
        world.put(Settings(app=self.app, version=self.version, values=values, created=self.time))
        world.put(replace(world.need(App, self.app), settings=self.version, last_settings=self.version))


class SettingsRestored(Fact, kind="settings.restored", kw_only=True):
    """An app's settings are an older version's again."""

    app: str
    version: int

    def apply(self, world: World) -> None:
        """Change the app."""
        world.put(replace(world.need(App, self.app), settings=self.version))


class AgentBegun(Fact, kind="agent.begun", kw_only=True):
    """A compartment has a ring 2 agent, with a uid of its own."""

    compartment: str
    uid: int
    time: int

    def apply(self, world: World) -> None:
        """Put the agent and take its uid."""
        world.put(Agent(compartment=self.compartment, uid=self.uid, created=self.time))
        world.put(Counter(name=AGENT_COUNTER, value=self.uid))


class SealingKeyEnrolled(Fact, kind="sealing-key.enrolled", kw_only=True):
    """Settings of a compartment are sealed to this key."""

    compartment: str
    public: str
    time: int

    def apply(self, world: World) -> None:
        """Put the key."""
        world.put(SealingKey(compartment=self.compartment, public=self.public, created=self.time))


class TasksForgotten(Fact, kind="tasks.forgotten", kw_only=True):
    """Tasks that ended long ago are asked for no more."""

    ids: tuple[str, ...]

    def apply(self, world: World) -> None:
        """Delete the rows."""
        for task in self.ids:
            world.delete(Task, task)


FACTS: Final = (
    *releases.FACTS, *instances.FACTS, AppCreated, AppStrategyChanged, AppScaled, AppDestroyed, SettingsChanged, SettingsRestored,
    AgentBegun, SealingKeyEnrolled, TasksForgotten,
)  # fmt: skip
