"""Apps: pushed, destroyed, listed.

Owns the commands and queries about an app as a whole. A push makes a release that is to be built; what happens then is
``releases``, how many instances run ``processes``. Pure decisions.

INV-APP-1: a name belongs to the compartment that pushed it first, until the app is destroyed.
INV-APP-2: numbers of releases and generations only rise, also over the life of several apps of one name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bus.messages import Asker, Command, Fact, Moment, Query, Question, Role, Rule
from compartments.facts.apps import AppCreated, AppDestroyed, AppStrategyChanged
from compartments.facts.nodes import NodePlaced, NodeRemoved
from compartments.facts.releases import BuildEnded, BuildWanted, ReleaseBegun, ReleaseSuperseded
from compartments.rows import Endpoint
from compartments.rows_apps import App, AppStrategy, Build, Health, Instance, Limits, Release, Rollout, Route
from compartments.world import World
from enjin.errors import Invalid, Refused
from enjin.names import Digest, Name, shorten
from ring1 import rollouts
from ring1.allocation import NO_UID, UID_REST_US, Room
from ring1.charter import ROUTER, NoCharter, in_force
from ring1.tenancy import find_app, find_compartment, open_compartment, visible_apps, where_app, where_compartment

RESERVED: Final = frozenset({"api", "console", "enjin", "localhost", "router", "status"})
DOMAIN: Final = "localhost"
REVISION_MAX: Final = 200
LIMITS: Final = Limits(memory_bytes=512 << 20, processes=256, cpu_millicores=500, files=1024)
HEALTH: Final = Health(path="/", ready_ms=30_000, drain_ms=10_000)


class NameTaken(Refused):
    """An app of this name belongs to another compartment."""

    code = "E-APP-004"
    http_status = 409
    remedy = "choose another name: `enjin push --app NAME`"


class ReservedName(Invalid):
    """This name is enjin's own."""

    code = "E-APP-006"
    remedy = "choose another name: `enjin push --app NAME`"


class NoSuchStrategy(Refused):
    """Apps cannot be kept apart that way here."""

    code = "E-APP-010"
    remedy = "leave the strategy out; `enjin status` shows what works here"


class Push(Command, kind="app.push", kw_only=True):
    """Build a new release of an app from a source tree, and make it live."""

    app: Name
    compartment: str = "default"
    source: Digest
    strategy: str = ""
    revision: str = ""


class Destroy(Command, kind="app.destroy"):
    """End an app and forget its releases and settings; there is no undo."""

    app: Name


class ListApps(Query, kind="app.list"):
    """The apps that the asker may see."""

    compartment: str = ""


class ShowApp(Query, kind="app.show", kw_only=True):
    """One app: its release, instances, scale and routes."""

    app: str


def push(wish: Push, world: World, at: Moment) -> Iterator[Fact]:
    """Give a release its number and a build its node, and create the app where it is new.

    Raises:
        ReservedName, NameTaken, NoSuchCompartment, BeingDestroyed, NoSuchStrategy, OverQuota, OutOfRoom.
    """
    compartment = open_compartment(world, wish.compartment, at.asker)
    if wish.app in RESERVED:
        raise ReservedName(f"the name {wish.app} is reserved")
    app = world.get(App, wish.app)
    if app is not None and not app.destroyed and app.compartment != compartment.id:
        raise NameTaken(f"the name {wish.app} belongs to another compartment")
    strategy = _strategy(wish.strategy, app, world)
    if app is None or app.destroyed:
        yield from _create(wish.app, compartment.id, strategy, world, at)
        last_release = app.last_release if app is not None else 0
        app = App(name=wish.app, compartment=compartment.id, strategy=strategy, limits=LIMITS, health=HEALTH, last_release=last_release)
    elif strategy != app.strategy:
        yield AppStrategyChanged(app=app.name, strategy=strategy)
    yield from rollouts.start_task(world, app, Push.KIND, at)
    yield from end_builds(world, app, at, superseded=True)
    number = app.last_release + 1
    yield ReleaseBegun(
        app=app.name,
        number=number,
        cause="push",
        source=wish.source,
        revision=wish.revision[:REVISION_MAX],
        time=at.time,
        by=at.asker.id,
        request=at.request,
    )
    yield from _want_build(app, number, strategy, wish.source, rollouts.room_for(world, at), world, at)


def _strategy(asked: str, app: App | None, world: World) -> AppStrategy:
    charter = in_force(world)
    if charter is None:
        raise NoCharter("this domain has no charter yet")
    possible: tuple[AppStrategy, ...] = ("jail", "user") if charter.uid_count > 0 else ("process",)
    if not asked:
        return app.strategy if app is not None and not app.destroyed and app.strategy in possible else possible[0]
    for strategy in possible:
        if strategy == asked:
            return strategy
    raise NoSuchStrategy(f"apps cannot run by strategy {shorten(asked)!r} here, only by {' or '.join(possible)}")


def _create(name: str, compartment: str, strategy: AppStrategy, world: World, at: Moment) -> Iterator[Fact]:
    charter = in_force(world)
    count = sum(1 for app in world.all(App) if not app.destroyed)
    allowed = charter.quotas.apps if charter is not None else 0
    if count >= allowed:
        raise rollouts.OverQuota(f"this domain has {count} apps and may have {allowed}")
    yield AppCreated(
        app=name,
        compartment=compartment,
        strategy=strategy,
        memory_bytes=LIMITS.memory_bytes,
        processes=LIMITS.processes,
        cpu_millicores=LIMITS.cpu_millicores,
        files=LIMITS.files,
        health_path=HEALTH.path,
        ready_ms=HEALTH.ready_ms,
        drain_ms=HEALTH.drain_ms,
        hosts=(f"{name}.{DOMAIN}",),
        time=at.time,
    )


def _want_build(app: App, number: int, strategy: AppStrategy, source: str, room: Room, world: World, at: Moment) -> Iterator[Fact]:
    node, uid = at.id(0, "b"), room.uid()
    charter = in_force(world)
    yield NodePlaced(
        node=node,
        ring=2,
        label=f"{app.name}.build.{number}",
        compartment=app.compartment,
        strategy=strategy,
        supervisor=charter.decider if charter is not None else "",
        generation=1,
        uid=uid,
        uid_range=0 if uid == NO_UID else 1,
        time=at.time,
    )
    yield BuildWanted(
        node=node, app=app.name, compartment=app.compartment, release=number, uid=uid, strategy=strategy, source=source, time=at.time
    )


def end_builds(world: World, app: App, at: Moment, *, superseded: bool) -> Iterator[Fact]:
    """End the builds of *app* that are under way; *superseded*: because a newer push came."""
    for build in world.find(Build, app=app.name):
        yield from end_build(build, at)
        release = world.need(Release, app.name, build.release)
        if superseded:
            yield ReleaseSuperseded(app=app.name, number=build.release)
        stage = "superseded" if superseded else "destroyed"
        reason = "a newer push took its place" if superseded else "the app was destroyed"
        yield from rollouts.end_task(world, release.request, "failed", at, stage=stage, reason=reason)


def end_build(build: Build, at: Moment) -> Iterator[Fact]:
    """A build's node is wanted no longer."""
    yield BuildEnded(node=build.id, uid=build.uid, uid_free=at.time + UID_REST_US)
    yield NodeRemoved(node=build.id)


def destroy(wish: Destroy, world: World, at: Moment) -> Iterator[Fact]:
    """End builds, roll-out and instances, and forget the rest. Raises: UnknownApp."""
    app = find_app(world, wish.app, at.asker)
    yield from rollouts.start_task(world, app, Destroy.KIND, at)
    yield from end_builds(world, app, at, superseded=False)
    rollout = world.get(Rollout, app.name)
    if rollout is not None:
        yield from rollouts.end_task(world, rollout.request, "failed", at, stage="destroyed", reason="the app was destroyed")
    instances = [one for one in world.find(Instance, app=app.name) if one.wanted != "gone"]
    yield from rollouts.end_instances(instances, "gone", at)
    yield AppDestroyed(app=app.name, time=at.time)
    yield from rollouts.end_task(world, at.request, "done", at, stage="destroyed")


def url_of(world: World, app: str) -> str:
    """Return where *app* is reached; "" when it has no route, or nobody has said yet where the router listens."""
    router, route = world.get(Endpoint, ROUTER), world.first(Route, app=app)
    return f"http://{route.host}:{router.port}/" if router is not None and route is not None else ""


def state_of(world: World, app: App) -> str:
    """Return one word for *app*: live, starting, building, degraded, failed or new."""
    if world.get(Rollout, app.name) is not None and not app.live:
        return "starting"
    if app.live:
        web = rollouts.gate(rollouts.running(world, app.name, app.generation))
        return "live" if all(one.state == "ready" for one in web) else "degraded"
    if world.find(Build, app=app.name):
        return "building"
    return "failed" if app.last_release else "new"


def summary(world: World, app: App) -> dict[str, object]:
    """Return the row of *app* in a listing."""
    compartment = find_compartment(world, app.compartment, Asker(id="", role=Role.SUPERVISOR)).name
    instances = [one for one in world.find(Instance, app=app.name) if one.wanted == "running"]
    return {
        "name": app.name,
        "compartment": compartment,
        "url": url_of(world, app.name),
        "release": app.live,
        "state": state_of(world, app),
        "strategy": app.strategy,
        "instances": len(instances),
        "ready": sum(one.state == "ready" for one in instances),
        "created": app.created,
    }


def list_apps(query: ListApps, world: World, asker: Asker) -> object:
    """Return a row per app, those of one compartment where it is named. Raises: NoSuchCompartment."""
    within = find_compartment(world, query.compartment, asker).id if query.compartment else ""
    return [summary(world, app) for app in visible_apps(world, asker) if within in ("", app.compartment)]


def show_app(query: ShowApp, world: World, asker: Asker) -> object:
    """Return one app in full. Raises: UnknownApp."""
    app = find_app(world, query.app, asker)
    rollout = world.get(Rollout, app.name)
    release = world.get(Release, app.name, app.live) if app.live else None
    processes = release.processes if release is not None else {}
    return summary(world, app) | {
        "routes": [route.host for route in world.find(Route, app=app.name)],
        "processes": dict(processes),
        "scale": rollouts.desired(app.scale, processes),
        "limits": app.limits,
        "health": app.health,
        "settings": app.settings,
        "rollout": {"release": rollout.release, "cause": rollout.cause, "since": rollout.since} if rollout is not None else None,
        "building": [build.release for build in world.find(Build, app=app.name)],
    }


def _pushed(wish: Push, world: World, at: Moment) -> object:
    app = world.need(App, wish.app)
    return {"app": wish.app, "release": app.last_release, "operation": at.request, "url": url_of(world, wish.app), "strategy": app.strategy}


def _asked(wish: Destroy, _world: World, at: Moment) -> object:
    return {"app": wish.app, "operation": at.request}


TABLE: Final = (
    Rule(Push, push, allow=Role.TENANT, compartment=where_compartment, result=_pushed),
    Rule(Destroy, destroy, allow=Role.TENANT, compartment=where_app, result=_asked, urgent=True),
    Question(ListApps, list_apps, allow=Role.TENANT, compartment=where_compartment),
    Question(ShowApp, show_app, allow=Role.TENANT, compartment=where_app),
)
