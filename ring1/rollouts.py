"""Rolling an app over to a release: new instances first, then the route, then the old ones drain.

Owns the facts that every roll-out consists of, whoever wished for it: push, rollback, settings, restart and scale build on
these. Yields facts and decides no permission. Imports compartments and ring 1's allocation.

INV-ROL-1: at most one roll-out per app; a newer one ends it, and its instances, which served nobody, go at once.
INV-ROL-2: an instance that served drains; only an instance that never took the route goes without it.
INV-ROL-3: what serves goes on serving until ``go_live``: a roll-out that fails changes nothing but its own rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from bus.messages import Fact, Moment
from compartments.charter import Quotas
from compartments.facts.apps import AgentBegun, TasksForgotten
from compartments.facts.instances import InstanceBegun, InstancesChanged
from compartments.facts.networks import AddressAssigned
from compartments.facts.nodes import NodePlaced, TaskEnded, TaskStarted
from compartments.facts.releases import ReleaseLive, ReleasesPruned, ReleaseSuperseded, RolloutBegun, RolloutEnded
from compartments.rows import Network, Task
from compartments.rows_apps import Agent, App, Cause, Instance, InstanceWanted, Release, Rollout, Settings
from compartments.world import World
from enjin.errors import Conflict, Forbidden
from ring1.allocation import NETWORK, NO_UID, Room, agent_uid
from ring1.charter import in_force

WEB: Final = "web"
RELEASES_KEPT: Final = 10
TASKS_KEPT: Final = 20
UNFINISHED: Final = frozenset({"building", "built", "starting"})


class RollingOut(Conflict):
    """Another release of the app is being rolled out."""

    code = "E-REL-002"
    remedy = "wait until it is live or has failed: `enjin app show APP`"


class OverQuota(Forbidden):
    """The domain has as much as the ring above allows."""

    code = "E-APP-005"
    remedy = "destroy or scale down apps, or ask for a larger quota"


class Next(NamedTuple):
    """What is to serve: a release with its processes, and the version of settings it runs with."""

    release: int
    processes: Mapping[str, str]
    settings: int
    cause: Cause
    request: str


def desired(scale: Mapping[str, int], processes: Iterable[str]) -> dict[str, int]:
    """Return how many instances of each of *processes* are wanted: as scaled, else one of ``web`` and none of the others."""
    return {process: scale.get(process, 1 if process == WEB else 0) for process in sorted(processes)}


def running(world: World, app: str, generation: int) -> list[Instance]:
    """Return the instances of *app* that are wanted running at *generation*, by process and index."""
    found = [one for one in world.find(Instance, app=app) if one.generation == generation and one.wanted == "running"]
    return sorted(found, key=lambda one: (one.process, one.index))


def gate(instances: Iterable[Instance]) -> list[Instance]:
    """Return those of *instances* that must be ready before a release goes live: those of ``web``, else all."""
    instances = list(instances)
    return [one for one in instances if one.process == WEB] or instances


def room_for(world: World, at: Moment) -> Room:
    """Return what is free in *world* now."""
    charter = in_force(world)
    return Room(world, at.time, own_uids=charter is not None and charter.uid_count > 0)


def begin(world: World, app: App, new: Next, room: Room, at: Moment) -> Iterator[Fact]:
    """Roll *app* over to *new*; where nothing is wanted of any process it is live at once.

    Raises:
        OutOfRoom: There is no free uid, port or address.
        OverQuota: The domain would have more than it may.
    """
    yield from supersede(world, app, at)
    generation = app.last_generation + 1
    yield RolloutBegun(
        app=app.name,
        release=new.release,
        generation=generation,
        settings=new.settings,
        cause=new.cause,
        request=new.request,
        time=at.time,
        ready_ms=app.health.ready_ms,
    )
    wanted = [(process, index) for process, count in desired(app.scale, new.processes).items() for index in range(1, count + 1)]
    check_quota(world, app, len(wanted))
    yield from add_instances(world, app, new.release, generation, wanted, room, at)
    if not wanted:
        yield from go_live(world, app, new.release, generation, new.settings, new.request, at)


def check_quota(world: World, app: App, count: int) -> None:
    """Check that *app* may have *count* instances beside those of all other apps; what is about to go does not count.

    Raises:
        OverQuota: Their limits add up to more than the charter allows.
    """
    charter = in_force(world)
    quotas = charter.quotas if charter is not None else Quotas()
    newest: dict[str, int] = {}
    others = [one for one in world.all(Instance) if one.wanted == "running" and one.app != app.name]
    for one in others:
        newest[one.app] = max(one.generation, newest.get(one.app, 0))
    limits = [one.limits for one in others if one.generation == newest[one.app]] + [app.limits] * count
    memory, processes = sum(one.memory_bytes for one in limits), sum(one.processes for one in limits)
    if memory > quotas.memory_bytes or processes > quotas.processes:
        raise OverQuota(
            f"{count} instances of {app.name} would bring the domain to {memory >> 20} MiB and {processes} processes;"
            f" it may have {quotas.memory_bytes >> 20} MiB and {quotas.processes}"
        )


def add_instances(
    world: World, app: App, release: int, generation: int, wanted: Iterable[tuple[str, int]], room: Room, at: Moment
) -> Iterator[Fact]:
    """Make instances of *release*, each a (process, index), at *generation*; and the compartment's agent where there is none."""
    charter = in_force(world)
    supervisor = charter.decider if charter is not None else ""
    wanted = list(wanted)
    if wanted and world.get(Agent, app.compartment) is None:
        own = charter is not None and charter.uid_count > 0
        yield AgentBegun(compartment=app.compartment, uid=agent_uid(world, at.time) if own else NO_UID, time=at.time)
    for ordinal, (process, index) in enumerate(wanted, 1):
        node, uid, port, pair = at.id(ordinal + 1000 * (generation - app.generation), "i"), room.uid(), room.port(), room.addresses()
        yield NodePlaced(
            node=node,
            ring=2,
            label=f"{app.name}.{process}.{index}",
            compartment=app.compartment,
            strategy=app.strategy,
            supervisor=supervisor,
            generation=generation,
            uid=uid,
            uid_range=0 if uid == NO_UID else 1,
            time=at.time,
        )
        yield AddressAssigned(
            network=pair.network, offset=pair.offset, node=node, name="eth0", ipv4=pair.ipv4, ipv6=pair.ipv6, time=at.time
        )
        yield InstanceBegun(
            node=node,
            app=app.name,
            compartment=app.compartment,
            release=release,
            process=process,
            index=index,
            generation=generation,
            strategy=app.strategy,
            memory_bytes=app.limits.memory_bytes,
            processes=app.limits.processes,
            cpu_millicores=app.limits.cpu_millicores,
            files=app.limits.files,
            uid=uid,
            port=port,
            network=pair.network,
            offset=pair.offset,
            ipv4=pair.ipv4,
            ipv6=pair.ipv6,
            time=at.time,
        )


def end_instances(instances: Iterable[Instance], wanted: InstanceWanted, at: Moment) -> Iterator[Fact]:
    """Let *instances* drain, or go without it."""
    nodes = tuple(one.id for one in instances)
    if nodes:
        yield InstancesChanged(nodes=nodes, wanted=wanted, time=at.time)


def supersede(world: World, app: App, at: Moment) -> Iterator[Fact]:
    """End the roll-out that is under way, if one is, in favour of a newer wish."""
    rollout = world.get(Rollout, app.name)
    if rollout is None:
        return
    yield from end_instances(running(world, app.name, rollout.generation), "gone", at)
    yield RolloutEnded(app=app.name, generation=rollout.generation)
    release = world.get(Release, app.name, rollout.release)
    if release is not None and release.state in UNFINISHED:
        yield ReleaseSuperseded(app=app.name, number=rollout.release)
    yield from end_task(world, rollout.request, "failed", at, stage="superseded", reason="a newer wish took its place")


def go_live(world: World, app: App, release: int, generation: int, settings: int, request: str, at: Moment) -> Iterator[Fact]:
    """Let *release* serve at *generation*: what served before drains, and what nothing can go back to is forgotten."""
    yield ReleaseLive(app=app.name, number=release, generation=generation, time=at.time)
    old = [one for one in world.find(Instance, app=app.name) if one.generation <= app.generation and one.wanted == "running"]
    yield from end_instances(old, "draining", at)
    yield from prune(world, app, release, settings)
    yield from end_task(world, request, "done", at, stage="live")


def prune(world: World, app: App, live: int, settings: int) -> Iterator[Fact]:
    """Forget all but the newest releases, and versions of settings that none of those refers to."""
    releases = sorted(world.find(Release, app=app.name), key=lambda one: one.number)
    finished = [one.number for one in releases if one.state not in UNFINISHED and one.number not in (live, app.live)]
    dropped = set(finished[: max(0, len(finished) - (RELEASES_KEPT - 1))])
    needed = {one.settings for one in releases if one.number not in dropped} | {settings, app.settings}
    versions = tuple(one.version for one in world.find(Settings, app=app.name) if one.version not in needed)
    if dropped or versions:
        yield ReleasesPruned(app=app.name, numbers=tuple(sorted(dropped)), settings=versions)


def start_task(world: World, app: App, kind: str, at: Moment) -> Iterator[Fact]:
    """Note that a wish takes time, under its request; the app's oldest ended ones are forgotten."""
    yield TaskStarted(id=at.request, sort=kind, subject=app.name, compartment=app.compartment, asker=at.asker.id, time=at.time)
    ended = sorted((task for task in world.find(Task, subject=app.name) if task.state != "running"), key=lambda task: (task.ended, task.id))
    if old := tuple(task.id for task in ended[: max(0, len(ended) - TASKS_KEPT + 1)]):
        yield TasksForgotten(ids=old)


def end_task(world: World, request: str, state: str, at: Moment, *, stage: str = "", reason: str = "") -> Iterator[Fact]:
    """Note that the wish of *request* is done or has failed, unless that is known."""
    task = world.get(Task, request)
    if request == at.request or (task is not None and task.state == "running"):
        yield TaskEnded(id=request, state="done" if state == "done" else "failed", stage=stage, reason=reason, time=at.time)


def networks(world: World) -> list[Network]:
    """Return the networks that instances are in."""
    return world.find(Network, name=NETWORK)


def setting_keys(world: World, app: str, version: int) -> tuple[str, ...]:
    """Return the keys of an app's settings at *version*."""
    row = world.get(Settings, app, version)
    return tuple(row.values) if row is not None else ()
