"""Processes of apps: how many instances run, and running them anew.

Owns ``app.scale`` and ``app.restart``. Pure decisions; what a roll-out consists of is ``rollouts``.

INV-PRC-1: scaling never touches an instance that stays; the lowest free indexes are added, the highest leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bus.messages import Command, Fact, Moment, Role, Rule
from compartments.facts.apps import AppScaled
from compartments.rows_apps import App, Release, Rollout
from compartments.world import World
from enjin.errors import Invalid, NotFound, Refused
from enjin.names import Name, shorten
from ring1 import rollouts
from ring1.allocation import Room
from ring1.tenancy import find_app, suggestion, where_app

INSTANCES_MAX: Final = 50


class BadScale(Invalid):
    """A number of instances is impossible."""

    code = "E-APP-007"


class UnknownProcess(NotFound):
    """The app's release has no such process."""

    code = "E-APP-008"
    remedy = "a process is a line `name: command` of the app's Procfile"


class NothingLive(Refused):
    """The app has no live release."""

    code = "E-APP-009"
    remedy = "push first: `enjin push DIR`"


class Restart(Command, kind="app.restart"):
    """Replace an app's instances by new ones of the same release, new ones first."""

    app: Name


class Scale(Command, kind="app.scale"):
    """Set how many instances of which processes an app has."""

    app: Name
    processes: dict[str, int]


def restart(wish: Restart, world: World, at: Moment) -> Iterator[Fact]:
    """Roll the live release over to itself. Raises: UnknownApp, NothingLive, RollingOut, OutOfRoom."""
    app = find_app(world, wish.app, at.asker)
    release = live_release(world, app)
    refuse_during_rollout(world, app)
    yield from rollouts.start_task(world, app, Restart.KIND, at)
    new = rollouts.Next(release.number, release.processes, release.settings, "restart", at.request)
    yield from rollouts.begin(world, app, new, rollouts.room_for(world, at), at)


def live_release(world: World, app: App) -> Release:
    """Return what serves. Raises: NothingLive."""
    if not app.live:
        raise NothingLive(f"app {app.name} has no live release")
    return world.need(Release, app.name, app.live)


def refuse_during_rollout(world: World, app: App) -> None:
    """Raises: RollingOut: A roll-out of *app* is under way."""
    rollout = world.get(Rollout, app.name)
    if rollout is not None:
        raise rollouts.RollingOut(f"release {rollout.release} of {app.name} is being rolled out ({rollout.cause})")


def scale(wish: Scale, world: World, at: Moment) -> Iterator[Fact]:
    """Add or drain instances of the live release, and of the one that is being rolled out.

    Raises:
        UnknownApp, NothingLive, UnknownProcess, BadScale, OverQuota, OutOfRoom.
    """
    app = find_app(world, wish.app, at.asker)
    rollout = world.get(Rollout, app.name)
    serving = [(rollout.release, rollout.generation)] if rollout is not None else []
    if app.live:
        serving.append((app.live, app.generation))
    if not serving:
        raise NothingLive(f"app {app.name} has no live release")
    known = {process for number, _ in serving for process in world.need(Release, app.name, number).processes}
    for process, count in wish.processes.items():
        if process not in known:
            raise UnknownProcess(f"app {app.name} has no process {shorten(process)!r}", hint=suggestion(process, known))
        if not 0 <= count <= INSTANCES_MAX:
            raise BadScale(f"{process}={count}: a process has 0 to {INSTANCES_MAX} instances")
    if not wish.processes:
        raise BadScale("no process is named", hint="such as `enjin ps scale web=2`")
    target = dict(sorted((app.scale | wish.processes).items()))
    yield from rollouts.start_task(world, app, Scale.KIND, at)
    if target != app.scale:
        yield AppScaled(app=app.name, scale=target)
    room = rollouts.room_for(world, at)
    if any(count > app.scale.get(process, process == rollouts.WEB) for process, count in wish.processes.items()):
        newest = world.need(Release, app.name, serving[0][0])
        rollouts.check_quota(world, app, sum(rollouts.desired(target, newest.processes).values()))
    for number, generation in serving:
        yield from _fit(world, app, world.need(Release, app.name, number), generation, target, room, at)
    yield from rollouts.end_task(world, at.request, "done", at, stage="scaled")


def _fit(world: World, app: App, release: Release, generation: int, target: dict[str, int], room: Room, at: Moment) -> Iterator[Fact]:
    """Bring the instances of *generation* to the number wanted: the lowest free indexes are added, the highest leave."""
    there = rollouts.running(world, app.name, generation)
    missing, leaving = [], []
    for process, count in rollouts.desired(target, release.processes).items():
        have = {one.index: one for one in there if one.process == process}
        missing += [(process, index) for index in range(1, count + 1) if index not in have]
        leaving += [one for index, one in sorted(have.items()) if index > count]
    yield from rollouts.add_instances(world, app, release.number, generation, missing, room, at)
    yield from rollouts.end_instances(leaving, "draining" if generation == app.generation else "gone", at)


def _asked(wish: Restart | Scale, _world: World, at: Moment) -> object:
    return {"app": wish.app, "operation": at.request}


TABLE: Final = (
    Rule(Restart, restart, allow=Role.TENANT, compartment=where_app, result=_asked),
    Rule(Scale, scale, allow=Role.TENANT, compartment=where_app, result=_asked),
)
